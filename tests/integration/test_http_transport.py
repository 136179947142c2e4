"""The HTTP transport against servers that misbehave for real: a test per row of the table of outcomes, and more."""

import asyncio
import math
import resource
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent import futures
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aicp.errors import InvalidAgent
from aicp.model.agent import AgentAuth, AgentProfile, Capability
from aicp.model.endpoint import AddressPolicy
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call
from aicp.model.trace import task_traceparent
from aicp.model.wire import ANSWER_BYTES_MAX
from aicp.standstill import standstills_of
from aicp.testing.faulty_servers import (
    Behaviour,
    Exchange,
    FaultyServer,
    answers,
    chunks_forever,
    closes,
    drips,
    http,
    never_answers,
    refusing_url,
    resets,
    sends,
    status,
    unreachable_url,
)
from aicp.testing.transport_contract import CAPABILITY, Subject, TransportContract, call
from aicp.transports import http as http_module
from aicp.transports.http import HttpTransport

FRESH = msgspec.structs.replace(call(), on_fresh_connection=True)
LOOPBACK = AddressPolicy(loopback=True)
ANSWER = http(200, b'{"task_id":"chain.task","result":1}')
HEAD_WITHOUT_END = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def agent_at(url: str, *, bearer: str | None = None) -> AgentProfile:
    auth = None if bearer is None else AgentAuth(bearer)
    return AgentProfile("agent", (Capability(CAPABILITY),), endpoint=url, auth=auth)


@asynccontextmanager
async def http_transport(
    policy: AddressPolicy = LOOPBACK, *, connections_max: int = 50, connect_timeout_s: float = 5.0
) -> AsyncIterator[HttpTransport]:
    transport = HttpTransport(policy, connections_max=connections_max, connect_timeout_s=connect_timeout_s)
    try:
        yield transport
    finally:
        await transport.close()


def reply_from(*behaviours: Behaviour, asked: Call | None = None) -> Reply:
    """The reply to the last of as many calls as there are behaviours."""

    async def main() -> Reply:
        async with FaultyServer(*behaviours) as server, http_transport() as transport:
            for _ in behaviours:
                reply = await transport.invoke(agent_at(server.url), asked or call())
            return reply

    return asyncio.run(main())


def reply_at(url: str, *, policy: AddressPolicy = LOOPBACK, asked: Call | None = None, **options: Any) -> Reply:
    async def main() -> Reply:
        async with http_transport(policy, **options) as transport:
            return await transport.invoke(agent_at(url), asked or call())

    return asyncio.run(main())


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def is_fault(reply: Reply, *, told: str) -> bool:
    """True for a plain fault of the agent: evidence, and the work may have been done."""
    return (
        reply.outcome is Outcome.AGENT_FAULT
        and told in reply.reason
        and reply.evidence
        and not reply.repeatable
        and not reply.whole_agent
        and reply.timed_out is ("within" in reply.reason)
        and bool(reply.symptom) is _is_doubted(reply)
    )


def _is_doubted(reply: Reply) -> bool:
    """True when a living agent answered in time, so that the task may be at fault; garbage is none of a task's."""
    return any(part in reply.reason for part in ("answered 408", "answered 5", "larger than"))


def is_unreached(reply: Reply, *, told: str) -> bool:
    """True when the agent was surely not reached, which is evidence against all of it."""
    return (
        reply.outcome is Outcome.UNAVAILABLE
        and told in reply.reason
        and reply.evidence
        and reply.repeatable
        and reply.whole_agent
    )


def is_local_trouble(reply: Reply, *, told: str) -> bool:
    return reply.outcome is Outcome.UNAVAILABLE and told in reply.reason and not reply.evidence and reply.repeatable


async def echo(exchange: Exchange) -> None:
    if exchange.request.method == "GET":
        await exchange.send(http(200))
    else:
        await answers(exchange.request.json["params"])(exchange)


class TestHttpTransportKeepsTheContract(TransportContract):
    @asynccontextmanager
    async def subject(self) -> AsyncIterator[Subject]:
        with refusing_url() as nowhere:
            async with (
                FaultyServer(echo) as echoing,
                FaultyServer(status(500)) as failing,
                FaultyServer(never_answers()) as hanging,
                http_transport(connections_max=500) as transport,
            ):
                yield Subject(
                    transport,
                    echoing=agent_at(echoing.url),
                    failing=agent_at(failing.url),
                    hanging=agent_at(hanging.url),
                    missing=agent_at(nowhere),
                    hanging_calls=hanging.open,
                )


# What is sent.


def test_call_is_sent_as_the_wire_contract_has_it() -> None:
    asked = Call(
        "chain.task",
        "image.label@2",
        {"url": "http://ü"},
        attempt=3,
        epoch=7,
        timeout_s=2.0,
        remaining_s=90.0,
        parent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )

    async def main() -> None:
        async with FaultyServer(answers()) as server, http_transport() as transport:
            await transport.invoke(agent_at(f"{server.url}/agents/eyes/", bearer="s3cret"), asked)
        (request,) = server.requests
        assert (request.method, request.path) == ("POST", "/agents/eyes/invoke")
        assert request.json == {
            "task_id": "chain.task",
            "capability": "image.label@2",
            "params": {"url": "http://ü"},
            "attempt": 3,
        }
        expected = {
            "content-type": "application/json",
            "accept-encoding": "identity",
            "idempotency-key": "chain.task",
            "x-aicp-deadline-ms": "2000",
            "x-aicp-fencing-token": "7.3",
            "traceparent": task_traceparent("chain.task", asked.parent),
            "authorization": "Bearer s3cret",
        }
        assert {name: request.headers.get(name) for name in expected} == expected

    asyncio.run(main())


def test_agent_without_auth_is_sent_none() -> None:
    async def main() -> None:
        async with FaultyServer(answers()) as server, http_transport() as transport:
            await transport.invoke(agent_at(server.url), call())
        assert not {"authorization", "cookie"} & server.requests[0].headers.keys()


def test_task_without_a_submitters_trace_goes_with_its_chains_own() -> None:
    asked = call()

    async def main() -> None:
        async with FaultyServer(answers()) as server, http_transport() as transport:
            await transport.invoke(agent_at(server.url), asked)
        assert server.requests[0].headers["traceparent"] == task_traceparent(asked.task_id)

    asyncio.run(main())


def test_params_of_megabytes_arrive_whole() -> None:
    params = {"text": "x" * 3_000_000}

    async def main() -> None:
        async with FaultyServer(answers("got it")) as server, http_transport() as transport:
            reply = await transport.invoke(agent_at(server.url), call(params=params))
        assert reply.result == "got it"
        assert server.requests[0].json["params"] == params

    asyncio.run(main())


def test_params_that_are_no_json_are_the_callers_fault_and_nothing_is_sent() -> None:
    with refusing_url() as url:
        reply = reply_at(url, asked=call(params={"when": object()}))
    assert reply.outcome is Outcome.CALLER_FAULT
    assert "params" in reply.reason


def test_params_larger_than_the_limit_are_the_callers_fault_and_nothing_is_sent() -> None:
    with refusing_url() as url:
        reply = reply_at(url, asked=call(params={"text": "x" * (16 << 20)}))
    assert reply.outcome is Outcome.CALLER_FAULT
    assert "16 MiB" in reply.reason


def test_bearer_that_no_header_can_carry_is_misconfigured_and_not_told() -> None:
    async def main() -> Reply:
        async with http_transport() as transport:
            return await transport.invoke(agent_at("http://127.0.0.1:9", bearer="hunter2\r\nX: y"), call())

    reply = asyncio.run(main())
    assert (reply.outcome, reply.whole_agent) == (Outcome.MISCONFIGURED, True)
    assert "hunter2" not in reply.reason


def test_connection_is_kept_and_used_again() -> None:
    async def main() -> None:
        async with FaultyServer(answers()) as server, http_transport() as transport:
            for _ in range(5):
                await transport.invoke(agent_at(server.url), call())
            assert server.connections == 1
            assert len(server.requests) == 5

    asyncio.run(main())


def test_cookies_are_not_kept() -> None:
    async def main() -> None:
        cookie = {"Set-Cookie": "session=1; Path=/"}
        async with FaultyServer(answers(headers=cookie)) as server, http_transport() as transport:
            await transport.invoke(agent_at(server.url), call())
            await transport.invoke(agent_at(server.url), call())
            assert "cookie" not in server.requests[1].headers

    asyncio.run(main())


def test_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with refusing_url() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("http_proxy", proxy)
        assert reply_from(answers(1)).result == 1


# The table, row by row: SUCCESS, TASK_FAILED.


def test_result_is_success() -> None:
    assert reply_from(answers({"faces": [1, 2]})) == Reply(Outcome.SUCCESS, {"faces": [1, 2]})


def test_chunked_result_is_success() -> None:
    body = b'{"task_id":"chain.task","result":[1]}'
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    reply = reply_from(sends(http(200, headers={"Transfer-Encoding": "chunked"}) + chunks))
    assert reply == Reply(Outcome.SUCCESS, [1])


def test_result_that_ends_with_the_connection_is_success() -> None:
    reply = reply_from(closes(HEAD_WITHOUT_END + b'\r\n{"task_id":"chain.task","result":1}'))
    assert reply == Reply(Outcome.SUCCESS, 1)


def test_json_of_another_name_and_charset_is_accepted() -> None:
    assert reply_from(answers(1, headers={"Content-Type": "Application/vnd.x+JSON; charset=utf-8"})).result == 1


def test_result_as_large_as_allowed_is_success() -> None:
    result = "x" * (ANSWER_BYTES_MAX - 100)
    assert reply_from(answers(result)).result == result


def test_error_of_the_agent_is_task_failed() -> None:
    reply = reply_from(answers(error={"code": "no_face", "message": "There is no face."}))
    assert (reply.outcome, reply.reason) == (Outcome.TASK_FAILED, "There is no face.")
    assert reply.error is not None
    assert reply.error.code == "no_face"


# CALLER_FAULT, MISCONFIGURED.


@pytest.mark.parametrize("code", [400, 402, 409, 410, 413, 418, 422, 451])
def test_4xx_is_the_callers_fault_with_what_the_agent_said(code: int) -> None:
    reply = reply_from(status(code, b'{"error": {"code": "bad", "message": "params are bad"}}'))
    assert (reply.outcome, reply.reason) == (Outcome.CALLER_FAULT, f"answered {code}: params are bad")


@pytest.mark.parametrize("code", [401, 403, 407])
def test_agent_that_does_not_accept_us_is_misconfigured_as_a_whole(code: int) -> None:
    reply = reply_from(status(code))
    assert (reply.outcome, reply.whole_agent) == (Outcome.MISCONFIGURED, True)


@pytest.mark.parametrize("code", [404, 405, 406, 415, 501])
def test_capability_that_is_not_there_is_misconfigured_alone(code: int) -> None:
    reply = reply_from(status(code))
    assert (reply.outcome, reply.whole_agent) == (Outcome.MISCONFIGURED, False)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirect_is_misconfigured_and_not_followed(code: int) -> None:
    async def main() -> Reply:
        async with FaultyServer(answers("elsewhere")) as elsewhere, http_transport() as transport:
            async with FaultyServer(status(code, headers={"Location": f"{elsewhere.url}/invoke"})) as server:
                reply = await transport.invoke(agent_at(server.url), call())
            assert elsewhere.connections == 0
            return reply

    reply = asyncio.run(main())
    assert (reply.outcome, reply.whole_agent) == (Outcome.MISCONFIGURED, True)


# OVERLOADED.


@pytest.mark.parametrize("code", [425, 429])
def test_full_agent_is_overloaded_without_saying_how_long(code: int) -> None:
    reply = reply_from(status(code))
    assert (reply.outcome, reply.retry_after_s) == (Outcome.OVERLOADED, None)


def test_503_with_retry_after_is_overloaded() -> None:
    reply = reply_from(status(503, headers={"Retry-After": "2"}))
    assert (reply.outcome, reply.retry_after_s, reply.reason) == (Outcome.OVERLOADED, 2.0, "answered 503")


def test_milliseconds_of_the_body_come_before_the_header() -> None:
    reply = reply_from(status(429, b'{"retry_after_ms": 120}', {"Retry-After": "9"}))
    assert reply.retry_after_s == 0.12


def test_retry_after_may_be_a_date() -> None:
    in_a_minute = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    reply = reply_from(status(429, headers={"Retry-After": in_a_minute}))
    assert reply.retry_after_s == pytest.approx(60, abs=5)


# UNAVAILABLE.


def test_refused_connection_is_unavailable() -> None:
    with refusing_url() as url:
        assert is_unreached(reply_at(url), told="connection refused")


def test_connection_that_never_comes_is_unavailable_after_the_connect_timeout() -> None:
    with unreachable_url() as url:
        reply = reply_at(url, connect_timeout_s=0.1)
        assert is_unreached(reply, told="no connection within 0.1 s")
        assert not reply.timed_out


def test_connection_that_never_comes_is_unavailable_after_the_calls_own_timeout() -> None:
    with unreachable_url() as url:
        reply = reply_at(url, asked=call(timeout_s=0.1))
        assert is_unreached(reply, told="no connection within 0.1 s")
        assert reply.timed_out


def test_tls_with_a_server_that_has_none_is_unavailable() -> None:
    async def main() -> Reply:
        async with FaultyServer(greeting=b"220 ready\r\n", is_deaf=True) as server, http_transport() as transport:
            return await transport.invoke(agent_at(server.url.replace("http:", "https:")), call())

    assert is_unreached(asyncio.run(main()), told="TLS failed")


def test_name_that_does_not_exist_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _resolver_that_raises(socket.EAI_NONAME, "Name or service not known"))
    assert is_unreached(reply_at("http://agent.invalid"), told="there is no host 'agent.invalid'")


def test_503_without_retry_after_is_unavailable_but_not_surely_unexecuted() -> None:
    reply = reply_from(status(503))
    assert (reply.outcome, reply.whole_agent, reply.evidence) == (Outcome.UNAVAILABLE, True, True)
    assert not reply.repeatable


# AGENT_FAULT.


def test_retryable_error_is_the_agents_fault_and_repeatable() -> None:
    reply = reply_from(answers(error={"code": "gpu_lost", "message": "The GPU is gone.", "retryable": True}))
    assert (reply.outcome, reply.repeatable) == (Outcome.AGENT_FAULT, True)


@pytest.mark.parametrize("code", [201, 202, 206, 408, 500, 502, 504, 507, 599])
def test_status_that_is_the_agents_fault(code: int) -> None:
    assert is_fault(reply_from(status(code)), told=f"answered {code}")


def test_204_is_the_agents_fault() -> None:
    assert is_fault(reply_from(sends(b"HTTP/1.1 204 No Content\r\n\r\n")), told="answered 204")


def test_agent_that_never_answers_is_at_fault_when_the_time_is_over() -> None:
    assert is_fault(reply_from(never_answers(), asked=call(timeout_s=0.1)), told="no answer within 0.1 s")


def test_agent_that_never_reads_is_at_fault_when_the_time_is_over() -> None:
    async def main() -> Reply:
        async with FaultyServer(is_deaf=True) as server, http_transport() as transport:
            asked = call(params={"text": "x" * 15_000_000}, timeout_s=0.3)
            return await transport.invoke(agent_at(server.url), asked)

    assert is_fault(asyncio.run(main()), told="no answer within 0.3 s")


def test_answer_that_drips_ends_with_the_time_of_the_call() -> None:
    assert is_fault(reply_from(drips(0.01), asked=call(timeout_s=0.2)), told="answer not complete within 0.2 s")


def test_refusal_that_drips_ends_with_the_time_of_the_call() -> None:
    head = http(500, headers={"Content-Length": "100"})
    reply = reply_from(_sends_and_waits(head), asked=call(timeout_s=0.2))
    assert is_fault(reply, told="answer not complete")


@pytest.mark.parametrize("end", [closes, resets])
def test_connection_that_ends_before_the_answer(end: Callable[[], Behaviour]) -> None:
    assert is_fault(reply_from(end()), told="connection closed before the answer")


@pytest.mark.parametrize("end", [closes, resets])
@pytest.mark.parametrize(
    "sent",
    [
        http(200, headers={"Content-Length": "1000"}) + b'{"task_id"',
        http(200, headers={"Transfer-Encoding": "chunked"}) + b"ff\r\n{",
        http(200, headers={"Transfer-Encoding": "chunked"}),
    ],
)
def test_answer_that_is_cut_off_in_the_body(end: Callable[[bytes], Behaviour], sent: bytes) -> None:
    reply = reply_from(end(sent))
    assert reply.outcome is Outcome.AGENT_FAULT
    assert reply.evidence
    assert any(told in reply.reason for told in ("cut off", "closed in the answer", "closed before the answer"))


def test_answer_that_is_cut_off_in_the_head() -> None:
    assert reply_from(closes(HEAD_WITHOUT_END)).outcome is Outcome.AGENT_FAULT


@pytest.mark.parametrize("sent", [b"SSH-2.0-OpenSSH_9.6\r\n", b"\x00\xff\x00\xff" * 100, b"HTTP/9.9 what\r\n\r\n"])
def test_answer_that_is_not_http(sent: bytes) -> None:
    assert is_fault(reply_from(closes(sent)), told="")


def test_head_without_end_is_bounded() -> None:
    sent = HEAD_WITHOUT_END + b"X-Filler: " + b"x" * 1_000_000
    assert is_fault(reply_from(closes(sent)), told="not HTTP")


def test_chunks_that_are_none() -> None:
    sent = http(200, headers={"Transfer-Encoding": "chunked"}) + b"zz\r\nwhat\r\n"
    assert is_fault(reply_from(sends(sent), asked=call(timeout_s=2.0)), told="")


@pytest.mark.parametrize("body", [b"", b"hello", b'{"task_id":"chain.task","result":', b'{"a":NaN}', b"\xff\xfe"])
def test_answer_that_is_not_json(body: bytes) -> None:
    assert is_fault(reply_from(sends(http(200, body))), told="not JSON")


def test_answer_of_another_form() -> None:
    assert is_fault(reply_from(sends(http(200, b'{"result": 1}'))), told="agreed form")


def test_answer_for_another_task() -> None:
    assert is_fault(reply_from(answers(1, task_id="chain.other")), told="another task")


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/jsonp", ""])
def test_answer_of_another_content_type(kind: str) -> None:
    assert is_fault(reply_from(answers(1, headers={"Content-Type": kind})), told="not application/json")


def test_compressed_answer_is_not_unpacked() -> None:
    assert is_fault(reply_from(answers(1, headers={"Content-Encoding": "gzip"})), told="compressed")


def test_answer_that_declares_to_be_too_large_is_not_read() -> None:
    head = http(200, headers={"Content-Length": str(ANSWER_BYTES_MAX + 1)})
    assert is_fault(reply_from(_sends_and_waits(head)), told="larger than 16384 KiB")


def test_answer_that_never_ends_is_cut_at_the_limit() -> None:
    async def main() -> Reply:
        async with FaultyServer(chunks_forever()) as server, http_transport() as transport:
            reply = await transport.invoke(agent_at(server.url), call())
            await server.open.reaches(0)
            return reply

    assert is_fault(asyncio.run(main()), told="larger than 16384 KiB")


def test_refusal_that_never_ends_is_judged_by_its_status() -> None:
    endless = http(429, headers={"Transfer-Encoding": "chunked", "Retry-After": "3"}) + b"10000\r\n" + b"x" * 65_536

    async def main() -> Reply:
        behaviour = sends(endless + b"\r\n10000\r\n" + b"x" * 65_536)
        async with FaultyServer(behaviour) as server, http_transport() as transport:
            reply = await transport.invoke(agent_at(server.url), call())
            await server.open.reaches(0)
            return reply

    reply = asyncio.run(main())
    assert (reply.outcome, reply.retry_after_s) == (Outcome.OVERLOADED, 3.0)


# CANCELLED.


def test_stale_token_means_that_ownership_was_lost() -> None:
    reply = reply_from(status(409, b'{"error": {"code": "stale_token"}}'))
    assert (reply.outcome, reply.stale) == (Outcome.CANCELLED, True)


# A re-used connection that died.


@pytest.mark.parametrize("end", [closes, resets])
def test_reused_connection_that_dies_before_the_answer_is_no_evidence_and_a_fresh_one_may_be_tried(
    end: Callable[[], Behaviour],
) -> None:
    async def main() -> None:
        async with FaultyServer(answers(1), end(), answers(2)) as server, http_transport() as transport:
            await transport.invoke(agent_at(server.url), call())
            dead = await transport.invoke(agent_at(server.url), call())
            assert (dead.outcome, dead.evidence, dead.resendable) == (Outcome.AGENT_FAULT, False, True)
            reply = await transport.invoke(agent_at(server.url), FRESH)
            assert reply == Reply(Outcome.SUCCESS, 2)
            assert [request.connection for request in server.requests] == [1, 1, 2]

    asyncio.run(main())


def test_reused_connection_is_replaced_by_a_fresh_one_even_if_others_are_idle() -> None:
    async def main() -> None:
        both_there = asyncio.Event()

        async def answer_together(exchange: Exchange) -> None:
            if len(server.requests) == 2:
                both_there.set()
            await both_there.wait()
            await answers(1)(exchange)

        behaviours = (answer_together, answer_together, closes(), answers("fresh"))
        async with FaultyServer(*behaviours) as server, http_transport() as transport:
            await asyncio.gather(*(transport.invoke(agent_at(server.url), call()) for _ in range(2)))
            assert server.connections == 2
            assert (await transport.invoke(agent_at(server.url), call())).resendable
            assert (await transport.invoke(agent_at(server.url), FRESH)).result == "fresh"
            assert server.requests[-1].connection == 3

    asyncio.run(main())


def test_fresh_connection_that_dies_too_is_the_agents_fault() -> None:
    async def main() -> Reply:
        async with FaultyServer(answers(1), closes()) as server, http_transport() as transport:
            await transport.invoke(agent_at(server.url), call())
            assert (await transport.invoke(agent_at(server.url), call())).resendable
            reply = await transport.invoke(agent_at(server.url), FRESH)
            assert len(server.requests) == 3
            return reply

    assert is_fault(asyncio.run(main()), told="connection closed before the answer")


def test_work_that_must_not_be_done_twice_is_not_sent_twice_and_is_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    # As if the agent had closed the connection in the very moment.
    monkeypatch.setattr(http_module, "REUSE_WITHIN_S", math.inf)
    asked = Call("chain.task", CAPABILITY, {}, idempotent=False)

    async def main() -> Reply:
        async with FaultyServer(answers(1), closes(), answers(2)) as server, http_transport() as transport:
            await transport.invoke(agent_at(server.url), asked)
            reply = await transport.invoke(agent_at(server.url), asked)
            assert len(server.requests) == 2
            return reply

    reply = asyncio.run(main())
    assert (reply.outcome, reply.evidence, reply.repeatable) == (Outcome.AGENT_FAULT, False, False)
    assert not reply.resendable


CAREFUL = Call("chain.task", CAPABILITY, {}, idempotent=False)


def test_work_that_must_not_be_done_twice_goes_on_a_recent_connection_of_an_agent_that_keeps_them_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> list[int]:
        async with FaultyServer(answers(1)) as server, http_transport() as transport:
            # Idle for too long to be used again, and still open: from then on those that were used of late are.
            for within_s in (60.0, 60.0, 0.0, 60.0, 60.0):
                monkeypatch.setattr(http_module, "REUSE_WITHIN_S", within_s)
                assert (await transport.invoke(agent_at(server.url), CAREFUL)).outcome is Outcome.SUCCESS
            assert (await transport.invoke(agent_at(server.url), call())).outcome is Outcome.SUCCESS
            return [request.connection for request in server.requests]

    assert asyncio.run(main()) == [1, 2, 3, 3, 3, 1]


def test_work_that_must_not_be_done_twice_goes_on_no_connection_whose_end_the_loop_has_not_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.recv(65_536)
        connection.sendall(ANSWER)

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as kept:
            answer(kept)
            with listener.accept()[0] as connection:
                answer(connection)
            closed.set()
            with listener.accept()[0] as connection:
                answer(connection)

    async def main() -> Reply:
        with socket.create_server(("127.0.0.1", 0)) as listener, futures.ThreadPoolExecutor(1) as threads:
            threads.submit(serve, listener)
            agent = agent_at(f"http://127.0.0.1:{listener.getsockname()[1]}")
            async with http_transport() as transport:
                for _ in range(2):
                    monkeypatch.setattr(http_module, "REUSE_WITHIN_S", 0.0)
                    assert (await transport.invoke(agent, CAREFUL)).outcome is Outcome.SUCCESS
                monkeypatch.setattr(http_module, "REUSE_WITHIN_S", 60.0)
                assert closed.wait(10), "the loop is held until the agent has closed the connection"
                return await transport.invoke(agent, CAREFUL)

    assert asyncio.run(main()).outcome is Outcome.SUCCESS


def test_reused_connection_that_dies_in_the_answer_is_the_agents_fault_at_once() -> None:
    async def main() -> Reply:
        behaviours = (answers(1), closes(HEAD_WITHOUT_END), answers(2))
        async with FaultyServer(*behaviours) as server, http_transport() as transport:
            await transport.invoke(agent_at(server.url), call())
            reply = await transport.invoke(agent_at(server.url), call())
            assert len(server.requests) == 2
            return reply

    assert is_fault(asyncio.run(main()), told="connection closed before the answer")


def test_connections_that_the_server_closed_while_idle_cost_nothing() -> None:
    async def main() -> None:
        async with FaultyServer(closes(ANSWER)) as server, http_transport() as transport:
            for _ in range(5):
                reply = await transport.invoke(agent_at(server.url), call())
                if reply.resendable:
                    reply = await transport.invoke(agent_at(server.url), FRESH)
                assert reply.outcome is Outcome.SUCCESS
                await server.open.reaches(0)
            assert len(server.requests) == 5

    asyncio.run(main())


# Local trouble.


def _resolver_that_raises(code: int, message: str) -> Callable[..., Any]:
    def getaddrinfo(*args: Any, **options: Any) -> Any:
        raise socket.gaierror(code, message)

    return getaddrinfo


@pytest.mark.parametrize("code", [socket.EAI_AGAIN, socket.EAI_FAIL, socket.EAI_MEMORY, socket.EAI_SYSTEM])
def test_resolver_that_does_not_answer_is_our_own_trouble(monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _resolver_that_raises(code, "Temporary failure in name resolution"))
    assert is_local_trouble(reply_at("http://agent.example"), told="cannot look up 'agent.example'")


def test_waiting_for_a_free_connection_is_our_own_trouble() -> None:
    async def main() -> Reply:
        async with (
            FaultyServer(never_answers()) as server,
            http_transport(connections_max=1, connect_timeout_s=0.1) as transport,
        ):
            holding = asyncio.create_task(transport.invoke(agent_at(server.url), call()))
            await server.open.reaches(1)
            reply = await transport.invoke(agent_at(server.url), call())
            holding.cancel()
            await asyncio.wait([holding])
            return reply

    assert is_local_trouble(asyncio.run(main()), told="no free connection")


def test_agent_is_not_blamed_for_time_spent_waiting_for_a_free_connection() -> None:
    async def main() -> Reply:
        async with FaultyServer(_answers_after(0.3), never_answers()) as server, AsyncExitStack() as stack:
            transport = await stack.enter_async_context(http_transport(connections_max=1))
            first = asyncio.create_task(transport.invoke(agent_at(server.url), call()))
            await server.open.reaches(1)
            reply = await transport.invoke(agent_at(server.url), call(timeout_s=0.4))
            assert (await first).outcome is Outcome.SUCCESS
            return reply

    reply = asyncio.run(main())
    assert (reply.outcome, reply.timed_out) == (Outcome.AGENT_FAULT, True)
    assert not reply.evidence


@contextmanager
def no_more_files() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as lowest_free:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free.fileno(), limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_too_many_open_files_are_our_own_trouble() -> None:
    async def main() -> Reply:
        async with FaultyServer(answers()) as server, http_transport() as transport:
            await transport.invoke(agent_at(server.url), call())
            with no_more_files():
                return await transport.invoke(agent_at("http://127.0.0.1:9"), call())

    assert is_local_trouble(asyncio.run(main()), told="Too many open files")


# Where agents may live.


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_agent_of_a_server_that_is_not_is_never_connected(host: str) -> None:
    async def main() -> Reply:
        async with FaultyServer(answers()) as server, http_transport(AddressPolicy()) as transport:
            reply = await transport.invoke(agent_at(f"http://{host}:{server.port}"), call())
            assert server.connections == 0
            return reply

    reply = asyncio.run(main())
    assert (reply.outcome, reply.whole_agent) == (Outcome.MISCONFIGURED, True)
    assert "is this machine itself" in reply.reason


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://169.254.169.254/latest", "metadata"),
        ("http://[fd00:ec2::254]", "metadata"),
        ("http://[::ffff:169.254.169.254]", "metadata"),
        ("http://[64:ff9b::a9fe:a9fe]", "metadata"),
        ("http://169.254.1.1", "link-local"),
        ("http://10.0.0.1", "private"),
        ("http://0.0.0.0:80", "reserved"),
        ("http://[::]:80", "reserved"),
    ],
)
def test_address_that_is_not_allowed_is_never_connected(url: str, told: str) -> None:
    reply = reply_at(url)
    assert (reply.outcome, reply.whole_agent, reply.evidence) == (Outcome.MISCONFIGURED, True, True)
    assert told in reply.reason


def test_name_that_leads_to_a_forbidden_address_is_never_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", _resolver_to("169.254.169.254", "10.0.0.1"))
    reply = reply_at("http://agent.example")
    assert reply.outcome is Outcome.MISCONFIGURED
    assert "which no agent may have" in reply.reason or "allow_networks" in reply.reason


def test_name_with_one_good_address_is_connected_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> Reply:
        async with FaultyServer(answers("good")) as server, http_transport() as transport:
            monkeypatch.setattr(socket, "getaddrinfo", _resolver_to("169.254.169.254", "127.0.0.1"))
            return await transport.invoke(agent_at(f"http://agent.example:{server.port}"), call())

    assert asyncio.run(main()).result == "good"


@pytest.mark.parametrize("url", ["ftp://agent", "http://user:pw@agent", "http://0177.0.0.1", "http://agent/?x"])
def test_url_that_cannot_be_used_is_misconfigured(url: str) -> None:
    reply = reply_at(url)
    assert (reply.outcome, reply.whole_agent) == (Outcome.MISCONFIGURED, True)


def _resolver_to(*addresses: str) -> Callable[..., Any]:
    def getaddrinfo(host: str, port: int, *args: Any, **options: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return getaddrinfo


# Cancelled and closed.


def test_cancelled_call_to_an_agent_that_never_reads_holds_no_connection() -> None:
    async def main() -> None:
        async with FaultyServer(is_deaf=True) as server, http_transport() as transport:
            before = open_files()
            asked = call(params={"text": "x" * 15_000_000})
            calling = asyncio.create_task(transport.invoke(agent_at(server.url), asked))
            await server.open.reaches(1)
            await asyncio.wait([calling], timeout=0.1)
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            await asyncio.sleep(0)
            only_the_servers_end = before + 1
            assert open_files() == only_the_servers_end

    asyncio.run(main())


@pytest.mark.parametrize("behaviour", [never_answers(), drips(0.01), chunks_forever()])
def test_cancelled_call_closes_its_connection(behaviour: Behaviour) -> None:
    async def main() -> None:
        async with FaultyServer(behaviour) as server, http_transport() as transport:
            calling = asyncio.create_task(transport.invoke(agent_at(server.url), call()))
            await server.open.reaches(1)
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling
            await server.open.reaches(0)

    asyncio.run(main())


def test_storm_of_1000_cancelled_calls_takes_no_place_from_the_next_100() -> None:
    async def main() -> None:
        async with (
            FaultyServer(_answers_after(0.02)) as server,
            http_transport(connections_max=20) as transport,
        ):
            agent = agent_at(server.url)
            calls = [asyncio.create_task(transport.invoke(agent, call())) for _ in range(1000)]
            for number, calling in enumerate(calls):
                asyncio.get_running_loop().call_later(number % 97 * 0.003, calling.cancel)
            await asyncio.wait(calls)
            replies = await asyncio.gather(*(transport.invoke(agent, call()) for _ in range(100)))
            assert [reply.outcome for reply in replies] == [Outcome.SUCCESS] * 100
            assert server.open.value <= 20

    asyncio.run(main())


def test_close_ends_a_call_that_is_still_connecting() -> None:
    async def main() -> None:
        with unreachable_url() as url:
            async with http_transport() as transport:
                calling = asyncio.create_task(transport.invoke(agent_at(url), call()))
                await asyncio.wait([calling], timeout=0.05)
                await transport.close()
                assert is_local_trouble(await calling, told="shutting down")

    asyncio.run(main())


def test_close_ends_a_call_that_waits_for_a_free_connection() -> None:
    async def main() -> None:
        async with FaultyServer(never_answers()) as server, http_transport(connections_max=1) as transport:
            calls = [asyncio.create_task(transport.invoke(agent_at(server.url), call())) for _ in range(3)]
            await server.open.reaches(1)
            await transport.close()
            for reply in await asyncio.gather(*calls):
                assert is_local_trouble(reply, told="shutting down")
            await server.open.reaches(0)

    asyncio.run(main())


def test_idle_connections_to_many_agents_are_bounded() -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:
            transport = await stack.enter_async_context(http_transport(connections_max=4))
            servers = [await stack.enter_async_context(FaultyServer(answers(1))) for _ in range(12)]
            for server in servers:
                assert (await transport.invoke(agent_at(server.url), call())).result == 1
            for server in servers[4:]:
                await server.open.reaches(0)
            assert [server.open.value for server in servers[:4]] == [1, 1, 1, 1]

    asyncio.run(main())


# Probes.


def probe_of(*behaviours: Behaviour, bearer: str | None = None) -> Reply:
    async def main() -> Reply:
        async with FaultyServer(*behaviours) as server, http_transport() as transport:
            reply = await transport.probe(agent_at(server.url, bearer=bearer))
            assert (server.requests[0].method, server.requests[0].path) == ("GET", "/healthz")
            assert server.requests[0].headers.get("authorization") == (f"Bearer {bearer}" if bearer else None)
            return reply

    return asyncio.run(main())


@pytest.mark.parametrize("code", [200, 201, 299, 404, 405, 501])
def test_agent_that_answers_somehow_is_alive(code: int) -> None:
    assert probe_of(status(code, b"ok")) == Reply(Outcome.SUCCESS)


def test_agent_without_content_is_alive() -> None:
    assert probe_of(sends(b"HTTP/1.1 204 No Content\r\n\r\n"), bearer="s3cret").outcome is Outcome.SUCCESS


@pytest.mark.parametrize("code", [429, 503])
def test_full_agent_is_told_to_cool_down(code: int) -> None:
    reply = probe_of(status(code, headers={"Retry-After": "5"}))
    assert (reply.outcome, reply.retry_after_s) == (Outcome.OVERLOADED, 5.0)


@pytest.mark.parametrize("code", [301, 401, 500, 502, 503])
def test_agent_that_answers_badly_is_not_alive(code: int) -> None:
    assert probe_of(status(code)).outcome not in {Outcome.SUCCESS, Outcome.OVERLOADED}


def test_dead_agent_is_not_alive() -> None:
    async def main() -> Reply:
        with refusing_url() as url:
            async with http_transport() as transport:
                return await transport.probe(agent_at(url))

    assert is_unreached(asyncio.run(main()), told="connection refused")


def test_probe_does_not_use_a_connection_of_before() -> None:
    async def main() -> None:
        async with FaultyServer(answers(1), status(200)) as server, http_transport() as transport:
            await transport.invoke(agent_at(server.url), call())
            await transport.probe(agent_at(server.url))
            assert [request.connection for request in server.requests] == [1, 2]

    asyncio.run(main())


def test_probe_is_bounded_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "PROBE_TIMEOUT_S", 0.1)
    assert is_fault(probe_of(never_answers()), told="no answer within 0.1 s")


# Descriptions.

DESCRIPTION = b'{"agent_id": "eyes-1", "capabilities": [{"name": "image.label"}], "max_concurrent_tasks": 4, "new": 1}'


def test_agent_describes_itself() -> None:
    async def main() -> None:
        async with FaultyServer(sends(http(200, DESCRIPTION))) as server, http_transport() as transport:
            described = await transport.describe(f"{server.url}/x/", AgentAuth("s3cret"))
            assert server.requests[0].path == "/x/describe"
            assert server.requests[0].headers["authorization"] == "Bearer s3cret"
        assert (described.agent_id, described.max_concurrent_tasks) == ("eyes-1", 4)
        assert [capability.name for capability in described.capabilities] == ["image.label"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("behaviour", "told"),
    [
        (status(404), "answered 404"),
        (status(500, b'{"error": {"code": "x", "message": "no GPU"}}'), "answered 500: no GPU"),
        (sends(http(200, b'{"agent_id": "eyes-1"}')), "no description of an agent"),
        (sends(http(200, b"hello")), "no description of an agent"),
        (sends(http(200, DESCRIPTION, {"Content-Type": "text/html"})), "not application/json"),
        (chunks_forever(), "larger than 5120 KiB"),
        (closes(), "connection closed"),
    ],
)
def test_agent_that_does_not_describe_itself_cannot_be_registered(behaviour: Behaviour, told: str) -> None:
    async def main() -> None:
        async with FaultyServer(behaviour) as server, http_transport() as transport:
            with pytest.raises(InvalidAgent, match=told):
                await transport.describe(server.url)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("ftp://agent", "http:// or https://"),
        ("http://169.254.169.254", "metadata"),
        ("http://10.0.0.1", "allow_networks"),
    ],
)
def test_url_that_must_not_be_asked_cannot_be_registered(url: str, told: str) -> None:
    async def main() -> None:
        async with http_transport() as transport:
            with pytest.raises(InvalidAgent, match=told):
                await transport.describe(url)

    asyncio.run(main())


def test_agent_that_is_not_there_cannot_be_registered() -> None:
    async def main() -> None:
        with refusing_url() as url:
            async with http_transport() as transport:
                with pytest.raises(InvalidAgent, match="connection refused"):
                    await transport.describe(url)

    asyncio.run(main())


# Behaviours of these tests alone.


def _sends_and_waits(data: bytes) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.send(data)
        await exchange.client_gone()
        exchange.close()

    return behave


def _answers_after(delay_s: float) -> Callable[[Exchange], Awaitable[None]]:
    answer = answers(1)

    async def behave(exchange: Exchange) -> None:
        await asyncio.sleep(delay_s)
        await answer(exchange)

    return behave


@pytest.mark.parametrize("behaviour", [resets(HEAD_WITHOUT_END), closes(), status(408)])
@pytest.mark.parametrize(("stood_s", "times", "is_evidence"), [(2.0, 1, False), (0.3, 1, True), (0.3, 20, True)])
def test_agent_that_gives_up_is_excused_by_one_long_standstill_of_ours_and_not_by_many_short_ones(
    *, behaviour: Behaviour, stood_s: float, times: int, is_evidence: bool
) -> None:
    async def stand_still_and(exchange: Exchange) -> None:
        standstills = standstills_of(asyncio.get_running_loop())
        now = standstills.clock()
        for number in range(times):
            # As a loop that was held again and again would have recorded it.
            standstills.passed(now + number * 2, now + number * 2 + stood_s)
        await behaviour(exchange)

    reply = reply_from(stand_still_and)
    assert reply.outcome is Outcome.AGENT_FAULT
    assert reply.evidence is is_evidence
