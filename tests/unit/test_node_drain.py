"""A node that drains starts nothing more, and waits for what is under way, but not for ever."""

import asyncio
from typing import Any

from aicp import Node, Task
from aicp.model.chain import ChainSpec
from aicp.model.task import TaskStatus

BOUND_S = 60.0


class Gate:
    """A handler that starts, and waits to be let go."""

    def __init__(self) -> None:
        self.started = 0
        self.has_started, self.let_go = asyncio.Event(), asyncio.Event()

    async def __call__(self, params: dict[str, Any]) -> dict[str, Any]:
        self.started += 1
        self.has_started.set()
        await self.let_go.wait()
        return params


async def status_of(node: Node, task_id: str) -> TaskStatus:
    return (await node.coordinator.view_task(task_id)).status


def test_what_is_under_way_ends_and_what_waits_in_line_does_not_start() -> None:
    async def main() -> None:
        async with Node() as node:
            gate = Gate()
            await node.add_agent("one", {"x": gate}, max_concurrent_tasks=1)
            first = await node.coordinator.submit_task(Task("x"))
            await gate.has_started.wait()
            second = await node.coordinator.submit_task(Task("x"))
            draining = asyncio.create_task(node.drain(BOUND_S))
            await asyncio.sleep(0)
            assert (node.is_ready, node.why_unready) == (False, ("the server is stopping",))
            gate.let_go.set()
            assert await draining
            assert gate.started == 1
            assert [await status_of(node, first), await status_of(node, second)] == ["COMPLETED", "RUNNING"]
            health = node.router.health().agents["one"]
            assert (health.success_count, health.failure_count, health.taken) == (1, 0, 0)

    asyncio.run(main())


def test_dependent_of_what_ended_meanwhile_does_not_start() -> None:
    async def main() -> None:
        async with Node() as node:
            gate = Gate()
            await node.add_agent("one", {"x": gate}, max_concurrent_tasks=4)
            tasks = (Task("x", id="a"), Task("x", id="b", depends_on=("a",)))
            chain_id = await node.coordinator.submit(ChainSpec(tasks))
            await gate.has_started.wait()
            draining = asyncio.create_task(node.drain(BOUND_S))
            await asyncio.sleep(0)
            gate.let_go.set()
            assert await draining
            assert gate.started == 1
            assert await status_of(node, f"{chain_id}.a") == TaskStatus.COMPLETED

    asyncio.run(main())


def test_drain_of_what_does_not_end_is_over_in_its_time() -> None:
    async def main() -> None:
        async with Node() as node:
            gate = Gate()
            await node.add_agent("one", {"x": gate})
            await node.coordinator.submit_task(Task("x"))
            await gate.has_started.wait()
            assert not await node.drain(0.05)

    asyncio.run(main())


def test_node_with_nothing_under_way_is_drained_at_once() -> None:
    async def main() -> None:
        async with Node() as node:
            assert await node.drain(BOUND_S)
            assert node.is_draining

    asyncio.run(main())
