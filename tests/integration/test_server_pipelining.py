"""Requests that are sent ahead of their answers: one at a time, a few in a turn, and everybody else in between."""

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from aicp.model.pipelining import BEGINS_IN_A_TURN, HELD_BYTES_MAX, Turns
from aicp.testing import LoopHoldMeter
from tests.integration.server_kit import BOUND_S, Api, asking, run
from tests.integration.test_server_connections import connected, port_of

LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def with_server(test: Any) -> None:
    async def main() -> None:
        async with asking() as api:
            await test(api)

    run(main)


async def answers_to(api: Api, *pieces: bytes) -> bytes:
    async with connected(api) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(0)
        return await reader.read()


def post(api: Api, body: bytes, *fields: str) -> bytes:
    head = [
        "POST /api/tasks HTTP/1.1",
        "Host: localhost",
        f"Authorization: Bearer {api.key}",
        "Content-Type: application/json",
    ]
    return "\r\n".join([*head, *fields]).encode() + b"\r\n\r\n" + body


def with_length(api: Api, body: bytes) -> bytes:
    return post(api, body, f"Content-Length: {len(body)}")


def in_chunks(api: Api, body: bytes, size: int) -> bytes:
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return post(api, framed + b"0\r\n\r\n", "Transfer-Encoding: chunked")


SUBMIT = b'{"capability": "text.echo", "params": {"text": "\\r\\n\\r\\n"}}'


@pytest.mark.parametrize("size", [1, 7, 63, 1_000_000])
def test_mixed_requests_are_each_answered_in_turn_however_they_are_cut(size: int) -> None:
    async def test(api: Api) -> None:
        sent = LIVEZ + with_length(api, SUBMIT) + LIVEZ + in_chunks(api, SUBMIT, 9) + LIVEZ * 3 + LAST
        answered = await answers_to(api, *(sent[at : at + size] for at in range(0, len(sent), size)))
        found = [line for line in answered.split(b"\r\n") if line.startswith(b"HTTP/1.1 ") or b"HTTP/1.1 " in line]
        statuses = b"".join(found).split(b"HTTP/1.1 ")[1:]
        assert [status[:3] for status in statuses] == [b"200", b"202", b"200", b"202", *[b"200"] * 4]

    with_server(test)


def test_request_behind_a_body_that_is_refused_is_answered() -> None:
    async def test(api: Api) -> None:
        too_long = with_length(api, b" " * (1024 * 1024 + 1))
        answered = await answers_to(api, too_long, LIVEZ, LAST)
        assert answered.startswith(b"HTTP/1.1 413")
        assert answered.count(b"HTTP/1.1 200") == 2

    with_server(test)


def test_client_that_sends_far_ahead_is_closed_after_its_answer() -> None:
    async def test(api: Api) -> None:
        ahead = LIVEZ * (4 * HELD_BYTES_MAX // len(LIVEZ))
        answered = await answers_to(api, ahead, ahead)
        assert 1 <= answered.count(b"HTTP/1.1 200") < 2 * len(ahead) // len(LIVEZ)

    with_server(test)


def test_clients_that_pipeline_do_not_hold_the_loop() -> None:
    """300 clients with 200 requests each, without a key: 60,000 requests that wait for one another."""

    async def test(api: Api) -> None:
        with ExitStack() as stack:
            streams = [await asyncio.open_connection("127.0.0.1", port_of(api.url)) for _ in range(300)]
            for _, writer in streams:
                stack.callback(writer.transport.abort)
            async with LoopHoldMeter(least_ms=5) as meter:
                for number, (_, writer) in enumerate(streams):
                    writer.write(LIVEZ * 200)
                    if number % 8 == 0:
                        await asyncio.sleep(0)  # the clients are on the same loop and must not hold it either
                for _ in range(3):
                    async with asyncio.timeout(BOUND_S):
                        assert b" 200 " in await answers_to(api, LAST)
            meter.check(25)

    with_server(test)


class _Connection:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.turn: int | None = None
        self.now: Callable[[], int] = lambda: 0

    def go_on(self) -> None:
        self.turn = self.now()


def test_a_turn_takes_so_many_and_those_who_wait_longest_first() -> None:
    async def main() -> None:
        loop, turns, turn = asyncio.get_running_loop(), Turns(), 0
        assert [turns.take(loop) for _ in range(BEGINS_IN_A_TURN + 1)] == [True] * BEGINS_IN_A_TURN + [False]
        waiting = [_Connection(loop) for _ in range(3 * BEGINS_IN_A_TURN)]
        for connection in waiting:
            connection.now = lambda: turn
            turns.queue(connection)
        while any(connection.turn is None for connection in waiting):
            assert not turns.take(loop)
            turn += 1
            await asyncio.sleep(0)
        assert [connection.turn for connection in waiting] == [1 + n // BEGINS_IN_A_TURN for n in range(len(waiting))]
        await asyncio.sleep(0)
        assert turns.take(loop)

    asyncio.run(main())
