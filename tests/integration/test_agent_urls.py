"""Where agents may live: every spelling of an address that is not theirs is refused, at registration and at a call."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any

import pytest

from aicp.errors import InvalidAgent
from aicp.model.agent import AgentProfile, Capability
from aicp.model.endpoint import AddressPolicy
from aicp.model.outcome import Outcome, Reply
from aicp.testing.faulty_servers import FaultyServer, answers, http
from aicp.testing.transport_contract import CAPABILITY, call
from aicp.transports.http import HttpTransport
from aicp.transports.lookup import LOOKUP_TIMEOUT_S
from tests.integration.server_kit import BOUND_S, Answered, Api, Test, shared_server, with_api

MACHINE, PRIVATE, LINK, METADATA, MULTICAST, RESERVED = (
    "this machine itself", "a private address", "a link-local address", "metadata address", "a multicast address",
    "a reserved address",
)  # fmt: skip
NUMBERS, IPV6, NAME, PRINTABLE = "four decimal numbers", "IPv6", "name of letters", "printable ASCII"
# Each as somebody might write it who hopes that one of two programs reads it in another way.
SPELLINGS = [
    # This machine.
    ("http://127.0.0.1", MACHINE),
    ("http://127.0.0.1.", MACHINE),
    ("http://127.255.255.254:8420", MACHINE),
    ("http://localhost", MACHINE),
    ("http://LOCALHOST.", MACHINE),
    ("http://[::1]", MACHINE),
    ("http://[0000:0000:0000:0000:0000:0000:0000:0001]", MACHINE),
    ("http://[::ffff:127.0.0.1]", MACHINE),
    ("http://[::ffff:7f00:1]", MACHINE),
    ("http://[::ffff:0:127.0.0.1]", MACHINE),
    ("http://[::127.0.0.1]", MACHINE),
    ("http://[64:ff9b::127.0.0.1]", MACHINE),
    ("http://[64:ff9b::7f00:1]", MACHINE),
    ("http://[2002:7f00:1::]", MACHINE),
    ("http://[2001:0:808:808:0:0:80ff:fffe]", MACHINE),
    ("http://[2606:4700::5efe:127.0.0.1]", MACHINE),
    ("http://0177.0.0.1", NUMBERS),
    ("http://0x7f.0.0.1", NUMBERS),
    ("http://0x7f000001", NUMBERS),
    ("http://0X7F000001", NUMBERS),
    ("http://2130706433", NUMBERS),
    ("http://017700000001", NUMBERS),
    ("http://127.1", NUMBERS),
    ("http://127.0.1", NUMBERS),
    ("http://127.0.0.01", NUMBERS),
    ("http://127.0.0.0x1", NUMBERS),
    ("http://0", NUMBERS),
    ("http://127.0.0.1.0", NUMBERS),
    ("http://[127.0.0.1]", IPV6),
    ("http://[::1", IPV6),
    ("http://[::1%25lo]", "zone"),
    ("http://127%2e0%2e0%2e1", NAME),
    ("http://%31%32%37.0.0.1", NUMBERS),
    ("http://127。0。0。1", PRINTABLE),
    ("http://\N{FULLWIDTH DIGIT ONE}27.0.0.1", PRINTABLE),
    ("http://\N{CIRCLED DIGIT ONE}\N{CIRCLED DIGIT TWO}\N{CIRCLED DIGIT SEVEN}.0.0.1", PRINTABLE),
    ("http://\N{CIRCLED LATIN SMALL LETTER L}ocalhost", PRINTABLE),
    # Neighbours.
    ("http://10.0.0.1", PRIVATE),
    ("http://172.16.0.1", PRIVATE),
    ("http://172.31.255.255", PRIVATE),
    ("http://192.168.0.1", PRIVATE),
    ("http://100.64.0.1", PRIVATE),
    ("http://[fc00::1]", PRIVATE),
    ("http://[fd12:3456:789a::1]", PRIVATE),
    ("http://[fec0::1]", PRIVATE),
    ("http://[::ffff:10.0.0.1]", PRIVATE),
    ("http://[::192.168.0.1]", PRIVATE),
    ("http://[64:ff9b::10.0.0.1]", PRIVATE),
    ("http://[2002:c0a8:1::]", PRIVATE),
    ("http://10.1", NUMBERS),
    ("http://167772161", NUMBERS),
    # The wire, and what clouds tell there.
    ("http://169.254.0.1", LINK),
    ("http://[fe80::1]", LINK),
    ("http://[::ffff:169.254.0.1]", LINK),
    ("http://169.254.169.254", METADATA),
    ("http://169.254.169.254/latest/meta-data", METADATA),
    ("http://169.254.170.2", METADATA),
    ("http://169.254.170.23", METADATA),
    ("http://100.100.100.200", METADATA),
    ("http://168.63.129.16", METADATA),
    ("http://192.0.0.192", METADATA),
    ("http://[fd00:ec2::254]", METADATA),
    ("http://[fd00:ec2::23]", METADATA),
    ("http://[fd20:ce::254]", METADATA),
    ("http://[fd00:0ec2:0:0:0:0:0:0254]", METADATA),
    ("http://[::ffff:169.254.169.254]", METADATA),
    ("http://[::ffff:a9fe:a9fe]", METADATA),
    ("http://[::169.254.169.254]", METADATA),
    ("http://[64:ff9b::169.254.169.254]", METADATA),
    ("http://[2002:a9fe:a9fe::]", METADATA),
    ("http://0xa9fea9fe", NUMBERS),
    ("http://2852039166", NUMBERS),
    ("http://0251.0376.0251.0376", NUMBERS),
    ("http://169.254.43518", NUMBERS),
    # Everybody and nobody.
    ("http://0.0.0.0", RESERVED),
    ("http://[::]", RESERVED),
    ("http://[::ffff:0.0.0.0]", RESERVED),
    ("http://255.255.255.255", RESERVED),
    ("http://240.0.0.1", RESERVED),
    ("http://192.0.2.1", RESERVED),
    ("http://198.51.100.1", RESERVED),
    ("http://[2001:db8::1]", RESERVED),
    ("http://[64:ff9b:1::7f00:1]", RESERVED),
    ("http://[100::1]", RESERVED),
    ("http://224.0.0.1", MULTICAST),
    ("http://[ff02::1]", MULTICAST),
    # What is no plain URL of a host and a port.
    ("http://8.8.8.8:0", "port"),
    ("http://8.8.8.8:65536", "port"),
    ("http://8.8.8.8:", "port"),
    ("http://8.8.8.8:-80", "port"),
    ("http://8.8.8.8:0x50", "port"),
    ("http://8.8.8.8:80:80", "port"),
    ("http://8.8.8.8:22", "port 22 belongs to another protocol"),
    ("https://mail.example:25", "port 25 belongs to another protocol"),
    ("http://8.8.8.8@127.0.0.1", "user name"),
    ("http://user:secret@8.8.8.8", "user name"),
    ("http://127.0.0.1%23@8.8.8.8", "user name"),
    ("http://8.8.8.8\\@127.0.0.1", PRINTABLE),
    ("http://8.8.8.8#@127.0.0.1", "without '?' or '#'"),
    ("http://8.8.8.8?@127.0.0.1", "without '?' or '#'"),
    ("http://8.8.8.8/..;/x/../admin", "'.' or '..'"),
    ("http://8.8.8.8/%2e%2e/admin", "'.' or '..'"),
    ("http://8.8.8.8\r\nHost: evil", PRINTABLE),
    ("http://8.8.8.8\x00.example", PRINTABLE),
    ("http://127.0.0.1\t", PRINTABLE),
    (" http://8.8.8.8", PRINTABLE),
    ("http:8.8.8.8", "http:// or https://"),
    ("//8.8.8.8", "http:// or https://"),
    ("file:///etc/passwd", "http:// or https://"),
    ("gopher://8.8.8.8", "http:// or https://"),
    ("javascript://8.8.8.8", "http:// or https://"),
    ("http+unix://%2Frun%2Fdocker.sock", "http:// or https://"),
]
REBOUND = "http://agent.example"


@pytest.fixture(scope="module")
def with_server() -> Iterator[Callable[[Test], None]]:
    """A server that is not bound to loopback, as far as agents are concerned."""
    with shared_server(policy=AddressPolicy()) as run:
        yield run


async def register(api: Api, endpoint: str) -> Answered:
    """Register an agent that leaves nothing to ask of it."""
    whole = {"agent_id": "eyes-1", "instance_id": "1", "capabilities": [{"name": "x"}], "max_concurrent_tasks": 1}
    return await api.post("/ains/agents", {"endpoint": endpoint, "lease": False, **whole})


@pytest.mark.parametrize(("url", "told"), SPELLINGS)
def test_agent_cannot_be_registered_where_none_may_live(
    with_server: Callable[[Test], None], url: str, told: str
) -> None:
    async def test(api: Api) -> None:
        refused = await register(api, url)
        assert (refused.status, refused.code) == (422, "invalid_agent")
        assert told in refused.faults["/endpoint"]
        assert "secret" not in str(refused.body)
        assert (await api.get("/ains/agents/eyes-1")).status == 404

    with_server(test)


@pytest.mark.parametrize(("url", "told"), SPELLINGS)
def test_agent_that_is_known_there_nevertheless_is_never_connected(url: str, told: str) -> None:
    reply = asyncio.run(called(url, AddressPolicy()))
    assert (reply.outcome, reply.whole_agent) == (Outcome.MISCONFIGURED, True)
    assert told in reply.reason


@pytest.mark.parametrize(("url", "told"), [spelling for spelling in SPELLINGS if spelling[1] in {METADATA, LINK}])
def test_no_setting_lets_agents_live_at_metadata_or_on_the_link(url: str, told: str) -> None:
    anywhere = AddressPolicy(loopback=True, allow_networks=(ip_network("0.0.0.0/0"), ip_network("::/0")))
    assert told in asyncio.run(called(url, anywhere)).reason
    with pytest.raises(InvalidAgent, match=told):
        asyncio.run(checked(url, anywhere))


def test_refusal_names_the_address_and_the_setting_that_would_allow_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver({"agent.example": ["10.1.2.3"]}))

    async def test(api: Api) -> None:
        refused = await register(api, "http://agent.example:9001")
        told = refused.faults["/endpoint"]
        assert told == (
            "10.1.2.3 is a private address outside `allow_networks`, which AICP_ALLOW_NETWORKS or "
            "`aicp serve --allow-network` sets; 'agent.example' leads there"
        )

    with_api(test, policy=AddressPolicy(loopback=True))


def test_agent_in_a_private_network_that_is_allowed_is_registered() -> None:
    async def test(api: Api) -> None:
        assert (await register(api, "http://10.1.2.3:9001/")).status == 201
        assert (await api.get("/ains/agents/eyes-1")).body["endpoint"] == "http://10.1.2.3:9001"
        assert (await register(api, "http://10.2.0.1")).status == 422

    with_api(test, policy=AddressPolicy(allow_networks=(ip_network("10.1.0.0/16"),)))


def test_refused_change_of_address_leaves_the_agent_where_it_was() -> None:
    async def test(api: Api) -> None:
        assert (await register(api, "http://8.8.8.8:9001")).status == 201
        assert (await register(api, "http://169.254.169.254")).status == 422
        assert (await api.get("/ains/agents/eyes-1")).body["endpoint"] == "http://8.8.8.8:9001"

    with_api(test, policy=AddressPolicy())


def test_name_with_one_good_address_of_several_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver({"agent.example": ["10.1.2.3", "8.8.8.8"]}))
    asyncio.run(checked(REBOUND, AddressPolicy()))


def test_name_that_leads_nowhere_cannot_be_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver({}))
    with pytest.raises(InvalidAgent, match=r"'agent\.example' cannot be looked up: Name or service not known"):
        asyncio.run(checked(REBOUND, AddressPolicy()))


def test_resolver_that_never_answers_holds_no_registration_and_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    def never_answers(host: str, port: int, *args: Any, **options: Any) -> Any:
        if str(host).endswith(".example"):
            released.wait(BOUND_S)
        return real(host, port, *args, **options)

    async def main() -> None:
        transport = HttpTransport(AddressPolicy(loopback=True))
        async with FaultyServer(answers("good")) as server:
            checks = (transport.check(f"http://a{number}.example") for number in range(50))
            refusals = await asyncio.gather(*checks, return_exceptions=True)
            assert {str(refusal).rpartition(": ")[2] for refusal in refusals} == {"no answer within 0.05 s"}
            agent = AgentProfile("agent", (Capability(CAPABILITY),), endpoint=f"http://localhost:{server.port}")
            assert (await transport.invoke(agent, call())).result == "good"
            await transport.close()

    real = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", never_answers)
    monkeypatch.setattr("aicp.transports.lookup.LOOKUP_TIMEOUT_S", LOOKUP_TIMEOUT_S / 100)
    try:
        asyncio.run(main())
    finally:
        released.set()


def test_name_that_leads_elsewhere_the_second_time_is_never_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: public for whoever checks, this machine for whoever calls."""

    async def main() -> Reply:
        policy = AddressPolicy()
        async with FaultyServer(answers("stolen")) as server:
            url = f"http://agent.example:{server.port}"
            monkeypatch.setattr(socket, "getaddrinfo", resolver({"agent.example": ["8.8.8.8"]}))
            await checked(url, policy)
            monkeypatch.setattr(socket, "getaddrinfo", resolver({"agent.example": ["127.0.0.1"]}))
            reply = await called(url, policy)
            assert server.connections == 0
            return reply

    reply = asyncio.run(main())
    assert reply.outcome is Outcome.MISCONFIGURED
    assert MACHINE in reply.reason


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("path", ["/describe", "/healthz", "/invoke"])
def test_redirect_leads_nowhere(code: int, path: str) -> None:
    async def main() -> None:
        async with FaultyServer(answers("stolen")) as secret:
            moved = http(code, headers={"Location": f"{secret.url}{path}"})
            async with FaultyServer(lambda exchange: exchange.send(moved)) as server:
                transport = HttpTransport(AddressPolicy(loopback=True))
                try:
                    await _ask(transport, server.url, path)
                finally:
                    await transport.close()
            assert secret.connections == 0

    asyncio.run(main())


async def _ask(transport: HttpTransport, url: str, path: str) -> None:
    if path == "/describe":
        with pytest.raises(InvalidAgent, match="answered 30"):
            await transport.describe(url)
        return
    agent = AgentProfile("agent", (Capability(CAPABILITY),), endpoint=url)
    reply = await (transport.probe(agent) if path == "/healthz" else transport.invoke(agent, call()))
    assert (reply.outcome, reply.whole_agent) == (Outcome.MISCONFIGURED, True)


async def called(url: str, policy: AddressPolicy) -> Reply:
    transport = HttpTransport(policy, connect_timeout_s=1.0)
    try:
        return await transport.invoke(AgentProfile("agent", (Capability(CAPABILITY),), endpoint=url), call())
    finally:
        await transport.close()


async def checked(url: str, policy: AddressPolicy) -> None:
    transport = HttpTransport(policy)
    try:
        await transport.check(url)
    finally:
        await transport.close()


def resolver(known: dict[str, list[str]]) -> Callable[..., Any]:
    """A resolver that knows these names; literal addresses and the rest of the world as ever."""
    real = socket.getaddrinfo

    def getaddrinfo(host: str, port: int, *args: Any, **options: Any) -> Any:
        if not str(host).endswith(".example"):
            return real(host, port, *args, **options)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known[host]]

    return getaddrinfo


def test_registration_at_a_transport_that_is_closed_is_refused() -> None:
    async def main() -> None:
        transport = HttpTransport(AddressPolicy(loopback=True))
        await transport.check("http://localhost")
        await transport.close()
        with pytest.raises(InvalidAgent, match="cannot be looked up"):
            await transport.check("http://localhost")

    asyncio.run(main())
