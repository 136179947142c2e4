"""An agent and a client whose own event loop was held take what lies in their sockets, on asyncio and on uvloop."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import uvloop

from aicp.agent import Agent
from aicp.agent import incoming as agent_incoming
from aicp.client import Client

TIMEOUT_S = 0.6
HELD_S = 1.3
BOUND_S = 60.0
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}
INVOCATION = json.dumps({"task_id": "a.b", "capability": "work", "params": {}, "attempt": 1}).encode()
HEAD = (
    "POST /invoke HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(INVOCATION)}\r\n"
)

DEADLINE = f"X-AICP-Deadline-Ms: {round(TIMEOUT_S * 1000)}\r\n"

held_on = pytest.mark.parametrize("loop", LOOPS)


def run(loop: str, test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(test())


def hold(before: Callable[[], object], during: Callable[[], object]) -> None:
    """Hold this loop until something has happened outside, and so long that every timer of `TIMEOUT_S` is overdue."""
    before()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(during).result(BOUND_S)
    time.sleep(HELD_S)


def nothing() -> None:
    """No more to do."""


def status_of(endpoint: str, sent: list[bytes], go_on: threading.Event, in_flight: threading.Event) -> int:
    """The status of the answer to a request that is sent in two pieces, the second when `go_on` is set."""
    host, _, port = endpoint.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port)), BOUND_S) as connection:
        connection.sendall(sent[0])
        in_flight.set()
        assert go_on.wait(BOUND_S)
        for piece in sent[1:]:
            connection.sendall(piece)
        go_on.clear()
        return int(connection.recv(4096).split()[1])


@pytest.mark.parametrize("deadline", ["", DEADLINE], ids=["no deadline", "deadline"])
@held_on
def test_an_agent_that_was_held_reads_the_body_that_came_meanwhile(
    loop: str, deadline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_incoming, "BODY_S_MAX", TIMEOUT_S)
    agent = Agent("eyes")

    @agent.capability("work")
    async def work(params: dict[str, Any]) -> dict[str, Any]:
        return params

    async def test() -> None:
        go_on, in_flight = threading.Event(), threading.Event()
        async with agent.serving() as served:
            sent = [(HEAD + deadline).encode() + b"\r\n", INVOCATION]
            answer = asyncio.create_task(asyncio.to_thread(status_of, served.endpoint, sent, go_on, in_flight))
            assert await asyncio.to_thread(in_flight.wait, BOUND_S)
            await asyncio.sleep(TIMEOUT_S / 4)
            hold(go_on.set, nothing)
            assert await answer == 200

    run(loop, test)


@held_on
def test_an_agent_that_was_held_gives_its_handler_the_time_that_it_did_not_have(loop: str) -> None:
    agent = Agent("eyes")

    @agent.capability("work", timeout_s=TIMEOUT_S)
    async def work(params: dict[str, Any]) -> dict[str, Any]:
        hold(nothing, nothing)
        await asyncio.sleep(0.05)
        return params

    async def test() -> None:
        go_on, in_flight = threading.Event(), threading.Event()
        go_on.set()
        async with agent.serving() as served:
            sent = [(HEAD + DEADLINE).encode() + b"\r\n", INVOCATION]
            assert await asyncio.to_thread(status_of, served.endpoint, sent, go_on, in_flight) == 200

    run(loop, test)


@held_on
def test_a_client_that_was_held_takes_the_answer_from_its_socket(loop: str) -> None:
    body = b'{"code": "task_not_found", "title": "t", "status": 404, "detail": "gone"}'
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n%b"

    async def test() -> None:
        asked, release, answered = threading.Event(), threading.Event(), threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def serve() -> None:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65_536)
                    asked.set()
                    assert release.wait(BOUND_S)
                    connection.sendall(answer % (len(body), body))
                    answered.set()
                    connection.recv(1)

            serving = asyncio.create_task(asyncio.to_thread(serve))
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            async with Client(url, api_key="k", timeout_s=TIMEOUT_S, retries_max=0) as client:
                request = asyncio.create_task(client.get_task("a.b"))
                while not asked.is_set():  # noqa: ASYNC110 - set by a thread
                    await asyncio.sleep(0.005)
                hold(release.set, lambda: answered.wait(BOUND_S))
                with pytest.raises(Exception, match="gone"):
                    await request
            await serving

    run(loop, test)
