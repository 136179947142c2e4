"""Requests to an agent that are sent ahead of their answers: one at a time, a few in a turn, others in between."""

import asyncio
import re
from collections import Counter
from contextlib import ExitStack
from typing import Any

import msgspec
import pytest
from yarl import URL

from aicp.agent import Agent
from aicp.agent.server import AgentServer
from aicp.model.pipelining import BEGINS_IN_A_TURN, HELD_BYTES_MAX
from aicp.testing import LoopHoldMeter
from tests.holds import held_at_most
from tests.integration.agent_sdk_kit import Caller, Work, calling, echoing, run

HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
HELD_MS_MAX = 25.0


def with_agent(test: Any) -> None:
    async def main() -> None:
        async with calling(echoing()) as caller:
            await test(caller)

    run(main)


async def connect(caller: Caller) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = URL(caller.served.endpoint)
    return await asyncio.open_connection(address.host, address.port)


async def answers_to(caller: Caller, *pieces: bytes) -> bytes:
    reader, writer = await connect(caller)
    try:
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        return await reader.read()
    finally:
        writer.close()


def invoke(key: str, *fields: str, body: bytes) -> bytes:
    head = ["POST /invoke HTTP/1.1", "Host: localhost", "Content-Type: application/json", *fields]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def plain(key: str) -> bytes:
    call = {"task_id": key, "capability": "work", "params": {"text": "é"}, "attempt": 1}
    body = b"\r\n\r\n" + msgspec.json.encode(call) + b"\r\n\r\n"
    return invoke(key, f"Content-Length: {len(body)}", body=body)


def chunked(key: str, size: int) -> bytes:
    body = plain(key).partition(b"\r\n\r\n")[2]
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return invoke(key, "Transfer-Encoding: chunked", body=framed + b"0\r\n\r\n")


def statuses(answered: bytes) -> list[str]:
    return [found.decode() for found in re.findall(rb"HTTP/1\.[01] (\d{3})", answered)]


@pytest.mark.parametrize("size", [1, 7, 63, 1_000_000])
def test_mixed_requests_are_each_answered_in_turn_however_they_are_cut(size: int) -> None:
    async def test(caller: Caller) -> None:
        sent = HEALTHZ + plain("a") + HEALTHZ + chunked("b", 9) + b"\r\n" + HEALTHZ * 3 + plain("c") + LAST
        answered = await answers_to(caller, *(sent[at : at + size] for at in range(0, len(sent), size)))
        assert statuses(answered) == ["200"] * 9
        places = [answered.index(b'"task_id":"%b"' % key) for key in (b"a", b"b", b"c")]
        assert places == sorted(places)

    with_agent(test)


def test_request_behind_one_that_is_refused_unread_is_answered() -> None:
    async def test(caller: Caller) -> None:
        text = invoke("a", "Content-Length: 300000", body=b" " * 300_000).replace(b"application/json", b"text/plain")
        assert statuses(await answers_to(caller, text, HEALTHZ, LAST)) == ["415", "200", "200"]

    with_agent(test)


def test_what_is_no_http_behind_requests_is_answered_and_ends_the_connection() -> None:
    async def test(caller: Caller) -> None:
        assert statuses(await answers_to(caller, HEALTHZ * 2 + b"no http\r\n\r\n" + HEALTHZ)) == ["200", "200", "400"]

    with_agent(test)


def test_caller_that_sends_far_ahead_is_closed_after_its_answer() -> None:
    async def main() -> None:
        work = Work()
        async with calling(work.agent) as caller:
            reader, writer = await connect(caller)
            writer.write(plain("a"))
            await work.started.acquire()
            writer.transport.set_write_buffer_limits(0)
            writer.write(HEALTHZ * (4 * HELD_BYTES_MAX // len(HEALTHZ)))
            await writer.drain()
            for _ in range(5):  # the agent reads what was sent
                await caller.send("GET", "/healthz")
            work.let_go.set()
            assert statuses(await reader.read()) == ["200"]
            writer.close()

    run(main)


def test_caller_that_leaves_cancels_its_call_though_it_has_sent_a_little_ahead() -> None:
    async def main() -> None:
        work = Work()
        async with calling(work.agent) as caller:
            _, writer = await connect(caller)
            writer.write(plain("a"))
            await work.started.acquire()
            writer.transport.abort()
            await work.cancelled.wait()

    run(main)


def test_requests_are_begun_one_of_a_connection_and_a_few_in_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    turn, begun, running, most = 0, Counter[int](), Counter[int](), 0

    async def test(caller: Caller) -> None:
        nonlocal turn
        streams = [await connect(caller) for _ in range(40)]
        for _, writer in streams:
            writer.write(HEALTHZ * 20 + LAST)
        reading = asyncio.gather(*(reader.read() for reader, _ in streams))
        while not reading.done():
            turn += 1
            await asyncio.sleep(0)
        assert all(statuses(answered) == ["200"] * 21 for answered in await reading)
        for _, writer in streams:
            writer.close()

    answer = AgentServer._answer

    async def counted(self: AgentServer, request: Any) -> Any:
        nonlocal most
        begun[turn] += 1
        running[id(request.protocol)] += 1
        most = max(most, running[id(request.protocol)])
        try:
            return await answer(self, request)
        finally:
            running[id(request.protocol)] -= 1

    monkeypatch.setattr(AgentServer, "_answer", counted)
    with_agent(test)
    assert sum(begun.values()) == 40 * 21
    assert max(begun.values()) <= 2 * BEGINS_IN_A_TURN, "a handler may begin one turn later"
    assert most == 1


def test_callers_that_pipeline_do_not_hold_the_loop() -> None:
    """300 connections with 200 requests each."""

    async def test(caller: Caller) -> None:
        with ExitStack() as stack:
            streams = [await connect(caller) for _ in range(300)]
            for _, writer in streams:
                stack.callback(writer.transport.abort)
            async with LoopHoldMeter(least_ms=5) as meter:
                for number, (_, writer) in enumerate(streams):
                    writer.write(HEALTHZ * 200)
                    if number % 8 == 0:
                        await asyncio.sleep(0)  # the callers are on the same loop and must not hold it either
                for _ in range(3):
                    assert statuses(await answers_to(caller, LAST)) == ["200"]
            meter.check(HELD_MS_MAX)

    with_agent(test)


@pytest.mark.usefixtures("quiet_collector")
@pytest.mark.parametrize("params", [{"l": [[[1, 2, 3]]] * 39_000}, {"t": 'a"é\n' * 2_000_000}], ids=["rows", "text"])
@pytest.mark.parametrize("is_async", [True, False])
def test_large_call_and_its_answer_hold_nothing(params: Any, is_async: bool) -> None:  # noqa: FBT001 - a case
    agent = Agent("eyes-1")

    @agent.capability("work")
    async def echo(params: dict[str, Any]) -> dict[str, Any]:
        return params

    @agent.capability("plain")
    def same(params: dict[str, Any]) -> dict[str, Any]:
        return params

    async def main() -> None:
        name = "work" if is_async else "plain"
        body = msgspec.json.encode({"task_id": "a", "capability": name, "params": params, "attempt": 1})
        request = invoke("a", f"Content-Length: {len(body)}", "Connection: close", body=body)
        async with calling(agent) as caller:

            async def call() -> bytearray:
                reader, writer = await connect(caller)
                for at in range(0, len(request), 65_536):
                    writer.write(request[at : at + 65_536])
                    await writer.drain()
                answered = bytearray()
                while piece := await reader.read(65_536):
                    answered += piece
                writer.close()
                return answered

            answered = await held_at_most(HELD_MS_MAX, call)
            answer = msgspec.json.decode(answered.partition(b"\r\n\r\n")[2])
            assert answer.get("result") == params, answer.get("error")

    run(main)
