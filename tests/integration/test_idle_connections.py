"""Agents that close connections while AICP keeps them idle."""

import asyncio
import random
from collections import Counter
from contextlib import suppress

import pytest

from aicp import Node, Task, TaskStatus
from aicp.agent import Agent
from aicp.model.agent import Capability, Registration
from aicp.model.event import AttemptEnded, AttemptStarted, Event
from aicp.model.outcome import Outcome
from aicp.testing.faulty_servers import FaultyServer, answers, closes

TASKS, AT_ONCE = 320, 16
BOUND_S = 120.0


class ClosingProxy:
    """Stands before an agent and closes each connection once it was idle for a random time, at most 30 ms.

    It looks for a request until the last moment: what has arrived by then is passed on.
    """

    def __init__(self, target: int, draw: random.Random) -> None:
        self._target = target
        self._draw = draw
        self.closed = 0

    async def start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, forward = await asyncio.open_connection("127.0.0.1", self._target)
        with suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
            while request := await self._request(reader):
                forward.write(request)
                writer.write(await self._answer(behind))
        self.closed += 1
        for each in (writer, forward):
            each.close()

    async def _request(self, reader: asyncio.StreamReader) -> bytes:
        """What came in time; empty when nothing did."""
        reading = asyncio.ensure_future(reader.read(65_536))
        await asyncio.wait([reading], timeout=self._draw.uniform(0.0, 0.03))
        if not reading.done():
            reading.cancel()
            await asyncio.wait([reading])
        return b"" if reading.cancelled() else reading.result()

    async def _answer(self, behind: asyncio.StreamReader) -> bytes:
        head = await behind.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-l"))
        return head + await behind.readexactly(length)


def test_tasks_that_must_not_run_twice_do_not_fail_at_an_agent_that_closes_idle_connections() -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)  # noqa: T201
    draw = random.Random(seed)
    done: Counter[int] = Counter()
    agent = Agent("closing", max_concurrent_tasks=AT_ONCE)

    @agent.capability("work")
    async def work(params: dict[str, int]) -> int:
        done[params["n"]] += 1
        return params["n"]

    async def main() -> Counter[str]:
        async with agent.serving() as served, Node() as node:
            proxy = ClosingProxy(int(served.endpoint.rpartition(":")[2]), draw)
            server = await proxy.start()
            async with server:
                port = server.sockets[0].getsockname()[1]
                await node.add_agent(endpoint=f"http://127.0.0.1:{port}")
                ends: Counter[str] = Counter()

                async def worker(first: int) -> None:
                    for n in range(first, TASKS, AT_ONCE):
                        await asyncio.sleep(draw.uniform(0.0, 0.04))
                        chain = await node.coordinator.submit_task(Task("work", {"n": n}, idempotent=False))
                        ended = await node.coordinator.wait_result(chain.partition(".")[0])
                        ends.update(task.status for task in ended.tasks.values())

                await asyncio.gather(*(worker(first) for first in range(AT_ONCE)))
                assert proxy.closed > TASKS / 4, "connections were closed all the time"
                return ends

    async def bounded() -> Counter[str]:
        async with asyncio.timeout(BOUND_S):
            return await main()

    assert asyncio.run(bounded()) == {TaskStatus.COMPLETED: TASKS}
    assert set(done.values()) == {1}


@pytest.mark.parametrize("is_idempotent", [True, False])
def test_connection_that_dies_under_a_call_is_an_attempt_that_is_reported(is_idempotent: bool) -> None:  # noqa: FBT001
    events: list[Event] = []

    class Recording:
        def notify(self, event: Event) -> None:
            events.append(event)

    async def main() -> tuple[list[str], list[tuple[str, int]], list[str], list[Outcome]]:
        async with FaultyServer(answers(1), closes(), answers(2)) as server, Node() as node:
            node.observe(Recording())
            described = Task("work", idempotent=is_idempotent)
            offered = (Capability("work"),)
            await node.ains.register(
                Registration(server.url, "closing", capabilities=offered, max_concurrent_tasks=1, instance_id="one")
            )
            await node.router.route_task(described)
            with suppress(Exception):
                await node.router.route_task(described)
            sent = [request.headers["x-aicp-fencing-token"] for request in server.requests]
            told = [
                (type(each).__name__, each.number) for each in events if isinstance(each, AttemptStarted | AttemptEnded)
            ]
            state = [
                circuit.state for agent in node.health().agents.values() for circuit in agent.capabilities.values()
            ]
            return sent, told, state, [failure.outcome for failure in node.router.recent_failures()]

    sent, told, state, failures = asyncio.run(main())
    once = [("AttemptStarted", 1), ("AttemptEnded", 1)]
    assert told[:4] == once * 2
    assert failures == [Outcome.AGENT_FAULT]
    assert all(each == "CLOSED" for each in state)
    again = ["1.2"] if is_idempotent else []
    assert sent == ["1.1", "1.1", *again]
    assert told[4:] == ([("AttemptStarted", 2), ("AttemptEnded", 2)] if is_idempotent else [])
