"""Agent URLs have one spelling, and addresses one meaning."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicp.errors import InvalidAgent
from aicp.model.endpoint import (
    URL_CHARS_MAX,
    AddressClass,
    AddressPolicy,
    Endpoint,
    address_class,
    private_network,
)


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("http://agent", "http://agent"),
        ("http://agent/", "http://agent"),
        ("HTTP://Agent.Example.:80/a/b/", "http://agent.example/a/b"),
        ("https://agent:443", "https://agent"),
        ("https://agent:80", "https://agent:80"),
        ("http://127.0.0.1:9001", "http://127.0.0.1:9001"),
        ("http://127.0.0.1.:9001", "http://127.0.0.1:9001"),
        ("http://[0:0:0:0:0:0:0:1]:8080/x", "http://[::1]:8080/x"),
        ("http://[2001:DB8::1]", "http://[2001:db8::1]"),
        ("http://my_agent-1/v%20x;y=1", "http://my_agent-1/v%20x;y=1"),
        ("http://xn--bcher-kva.example", "http://xn--bcher-kva.example"),
    ],
)
def test_url_is_brought_into_one_spelling(written: str, url: str) -> None:
    endpoint = Endpoint.parse(written)
    assert endpoint.url == url
    assert Endpoint.parse(endpoint.url) == endpoint


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "printable"),
        ("agent:9001", "http:// or https://"),
        ("//agent", "http:// or https://"),
        ("http:agent", "http:// or https://"),
        ("http:///path", "http:// or https://"),
        ("ftp://agent", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("gopher://agent:70", "http:// or https://"),
        ("http://user:secret@agent", "user name or password"),
        ("http://agent@evil.example", "user name or password"),
        ("http://agent?x=1", "without '?' or '#'"),
        ("http://agent?", "without '?' or '#'"),
        ("http://agent#here", "without '?' or '#'"),
        ("http://agent/a b", "printable"),
        ("http://agent\n", "printable"),
        ("http://age\tnt", "printable"),
        ("http://agent\x00", "printable"),
        ("http://agent\\@evil.example", "printable"),
        ("http://bücher.example", "printable"),
        ("http://agent%2eexample", "name of letters"),
        ("http://a..b", "name of letters"),
        ("http://-agent", "name of letters"),
        ("http://agent-", "name of letters"),
        ("http://::1", "name of letters"),
        (f"http://{'a' * 64}", "name of letters"),
        (f"http://{'.'.join(['a' * 63] * 5)}", "name of letters"),
        ("http://0177.0.0.1", "four decimal numbers"),
        ("http://2130706433", "four decimal numbers"),
        ("http://0x7f.1", "four decimal numbers"),
        ("http://0x7f000001", "four decimal numbers"),
        ("http://127.1", "four decimal numbers"),
        ("http://127.0.0.1.0x", "four decimal numbers"),
        ("http://256.0.0.1", "four decimal numbers"),
        ("http://1.2.3.4.5", "four decimal numbers"),
        ("http://[fe80::1%25eth0]", "zone"),
        ("http://[::1", "IPv6"),
        ("http://[v1.x]", "IPv6"),
        ("http://[127.0.0.1]", "IPv6"),
        ("http://[::1]x", "port"),
        ("http://agent:", "port"),
        ("http://agent:0", "port"),
        ("http://agent:65536", "port"),
        ("http://agent:99999999999999999999", "port"),
        ("http://agent:80:80", "port"),
        ("http://agent:+80", "port"),
        ("http://agent/../admin", "'.' or '..'"),
        ("http://agent/%2E%2e/admin", "'.' or '..'"),
        ("http://agent/a/.", "'.' or '..'"),
        ("http://agent/%zz", "%XX"),
        ("http://agent/<script>", "%XX"),
        (f"http://agent/{'a' * URL_CHARS_MAX}", "longer"),
    ],
)
def test_url_that_could_be_misread_is_refused(url: str, told: str) -> None:
    with pytest.raises(InvalidAgent) as caught:
        Endpoint.parse(url, "/agents/3/endpoint")
    (fault,) = caught.value.faults
    assert fault.place == "/agents/3/endpoint"
    assert told in fault.message


@pytest.mark.parametrize("port", [22, 25, 110, 389, 587, 995, "022", "00025"])
def test_port_of_another_protocol_is_refused_on_every_host(port: int | str) -> None:
    for host in ("agent", "127.0.0.1", "[::1]", "8.8.8.8"):
        with pytest.raises(InvalidAgent, match=f"port {int(port)} belongs to another protocol"):
            Endpoint.parse(f"https://{host}:{port}/a")


@pytest.mark.parametrize("port", [1, 9, 80, 443, 1023, 1024, 5060, 6000, 8080, 9001, 65535])
def test_port_that_an_agent_may_have_chosen_is_taken(port: int) -> None:
    assert Endpoint.parse(f"http://agent:{port}").port == port


def test_refusal_does_not_repeat_a_password() -> None:
    with pytest.raises(InvalidAgent) as caught:
        Endpoint.parse("http://user:hunter2@agent")
    assert "hunter2" not in str(caught.value)


@given(st.text(max_size=60) | st.from_regex(r"https?://[ -~]{0,30}", fullmatch=True))
def test_any_text_is_refused_or_keeps_its_spelling(text: str) -> None:
    try:
        endpoint = Endpoint.parse(text)
    except InvalidAgent:
        return
    assert Endpoint.parse(endpoint.url) == endpoint
    assert not set(endpoint.host) & set("@/?#%\\ ")
    assert 1 <= endpoint.port <= 65535


def test_host_that_is_an_address_is_told_as_one() -> None:
    assert Endpoint.parse("http://10.0.0.1").address == ip_address("10.0.0.1")
    assert Endpoint.parse("http://[::1]").address == ip_address("::1")
    assert Endpoint.parse("http://ten.example").address is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", AddressClass.PUBLIC),
        ("2606:4700::1111", AddressClass.PUBLIC),
        ("127.0.0.1", AddressClass.LOOPBACK),
        ("127.255.255.254", AddressClass.LOOPBACK),
        ("::1", AddressClass.LOOPBACK),
        ("10.1.2.3", AddressClass.PRIVATE),
        ("172.31.0.1", AddressClass.PRIVATE),
        ("172.32.0.1", AddressClass.PUBLIC),
        ("192.168.0.1", AddressClass.PRIVATE),
        ("100.64.0.1", AddressClass.PRIVATE),
        ("fd12:3456::1", AddressClass.PRIVATE),
        ("fec0::1", AddressClass.PRIVATE),
        ("169.254.0.1", AddressClass.LINK_LOCAL),
        ("fe80::1", AddressClass.LINK_LOCAL),
        ("fe80::1%eth0", AddressClass.LINK_LOCAL),
        ("169.254.169.254", AddressClass.METADATA),
        ("169.254.170.2", AddressClass.METADATA),
        ("100.100.100.200", AddressClass.METADATA),
        ("168.63.129.16", AddressClass.METADATA),
        ("192.0.0.192", AddressClass.METADATA),
        ("fd00:ec2::254", AddressClass.METADATA),
        ("fd00:ec2::254%eth0", AddressClass.METADATA),
        ("224.0.0.1", AddressClass.MULTICAST),
        ("ff02::1", AddressClass.MULTICAST),
        ("0.0.0.0", AddressClass.RESERVED),
        ("0.1.2.3", AddressClass.RESERVED),
        ("::", AddressClass.RESERVED),
        ("240.0.0.1", AddressClass.RESERVED),
        ("255.255.255.255", AddressClass.RESERVED),
        ("192.0.2.1", AddressClass.RESERVED),
        ("198.18.0.1", AddressClass.RESERVED),
        ("2001:db8::1", AddressClass.RESERVED),
        ("64:ff9b:1::7f00:1", AddressClass.RESERVED),
        ("::ffff:127.0.0.1", AddressClass.LOOPBACK),
        ("::ffff:169.254.169.254", AddressClass.METADATA),
        ("::ffff:8.8.8.8", AddressClass.PUBLIC),
        ("::ffff:0:10.0.0.1", AddressClass.PRIVATE),
        ("::127.0.0.1", AddressClass.LOOPBACK),
        ("64:ff9b::127.0.0.1", AddressClass.LOOPBACK),
        ("64:ff9b::169.254.169.254", AddressClass.METADATA),
        ("64:ff9b::8.8.8.8", AddressClass.PUBLIC),
        ("2002:7f00:1::1", AddressClass.LOOPBACK),
        ("2002:a9fe:a9fe::", AddressClass.METADATA),
        ("2002:808:808::", AddressClass.PUBLIC),
        ("2001:0:808:808:0:0:80ff:fffe", AddressClass.LOOPBACK),
        ("2001:0:7f00:1:0:0:f7f7:f7f7", AddressClass.LOOPBACK),
        ("2606:4700::5efe:10.0.0.1", AddressClass.PRIVATE),
        ("2606:4700::200:5efe:127.0.0.1", AddressClass.LOOPBACK),
    ],
)
def test_address_has_the_class_of_where_it_leads(address: str, expected: AddressClass) -> None:
    assert address_class(ip_address(address)) is expected


def test_policy_that_says_nothing_allows_only_public_addresses() -> None:
    policy = AddressPolicy()
    assert policy.allows(ip_address("8.8.8.8"))
    for address in ("127.0.0.1", "10.0.0.1", "169.254.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "fd12::1"):
        assert not policy.allows(ip_address(address))


def test_loopback_agents_need_a_loopback_server() -> None:
    policy = AddressPolicy(loopback=True)
    assert policy.allows(ip_address("127.0.0.1"))
    assert policy.allows(ip_address("::ffff:127.0.0.1"))
    assert not policy.allows(ip_address("0.0.0.0"))
    assert not policy.allows(ip_address("10.0.0.1"))


def test_private_agents_need_their_network_named() -> None:
    policy = AddressPolicy(allow_networks=(ip_network("10.1.0.0/16"), ip_network("fd12::/16")))
    assert policy.allows(ip_address("10.1.2.3"))
    assert policy.allows(ip_address("64:ff9b::10.1.2.3"))
    assert policy.allows(ip_address("fd12::1"))
    assert not policy.allows(ip_address("10.2.0.1"))


def test_no_network_setting_reaches_metadata_link_local_or_loopback() -> None:
    policy = AddressPolicy(allow_networks=(ip_network("0.0.0.0/0"), ip_network("::/0")))
    for address in ("169.254.169.254", "100.100.100.200", "fd00:ec2::254", "169.254.1.1", "fe80::1", "127.0.0.1", "::"):
        assert not policy.allows(ip_address(address))


def test_teredo_address_is_allowed_only_if_both_its_ends_are() -> None:
    assert AddressPolicy().allows(ip_address("2001:0:808:808:0:0:f7f7:f7f7"))
    assert not AddressPolicy().allows(ip_address("2001:0:808:808:0:0:80ff:fffe"))


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.0.1", "fe80::1", "169.254.169.254", "224.0.0.1", "::"])
def test_refusal_names_the_address_and_what_it_is(address: str) -> None:
    sentence = AddressPolicy().refusal(ip_address(address))
    assert sentence.startswith(f"{address} is ")


@pytest.mark.parametrize(
    ("written", "network"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        (" 192.168.1.0/24 ", "192.168.1.0/24"),
        ("192.168.1.7", "192.168.1.7/32"),
        ("fd12:3456::/32", "fd12:3456::/32"),
        ("100.64.0.0/10", "100.64.0.0/10"),
        ("0.0.0.0/0", "0.0.0.0/0"),
    ],
)
def test_network_of_private_addresses_may_be_allowed(written: str, network: str) -> None:
    assert private_network(written) == ip_network(network)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("", "is no network"),
        ("ten", "is no network"),
        ("10.0.0.0/33", "is no network"),
        ("10.0.0.0/8/8", "is no network"),
        ("10.1", "is no network"),
        ("10.0.0.5/8", "write 10.0.0.0/8"),
        ("127.0.0.0/8", "holds no private address"),
        ("::1", "holds no private address"),
        ("169.254.0.0/16", "holds no private address"),
        ("8.8.8.0/24", "holds no private address"),
        ("::ffff:10.0.0.0/104", "holds no private address"),
    ],
)
def test_network_that_allows_nothing_is_refused(written: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        private_network(written)
