"""A storm of cancelled calls over real sockets leaves nothing taken."""

import asyncio
import random

import pytest

from aicp import Node, Outcome, Task, TaskStatus
from aicp.agent import Agent
from aicp.model.endpoint import AddressPolicy
from aicp.transports.http import HttpTransport

CALLS = 1_000
SLOTS = 16


def napping_agent(agent_id: str) -> Agent:
    agent = Agent(agent_id, max_concurrent_tasks=SLOTS)

    @agent.capability("nap")
    async def nap(params: dict[str, float]) -> dict[str, float]:
        await asyncio.sleep(params["nap_s"])
        return params

    return agent


async def storm(node: Node, draw: random.Random) -> int:
    """Calls that are cancelled anywhere between their first step and their answer; returns how many were."""
    cancelled = 0

    async def call() -> None:
        nonlocal cancelled
        task = Task("nap", {"nap_s": draw.uniform(0.0, 0.02)}, timeout_s=10.0)
        try:
            async with asyncio.timeout(draw.uniform(0.0, 0.04)):
                await node.router.route_task(task)
        except TimeoutError:
            cancelled += 1

    async with asyncio.TaskGroup() as calls:
        for _ in range(CALLS):
            calls.create_task(call())
            await asyncio.sleep(draw.choice([0.0, 0.0, 0.001]))
    return cancelled


async def weather(seed: int) -> None:
    transport = HttpTransport(AddressPolicy(loopback=True))
    async with (
        napping_agent("one").serving() as one,
        napping_agent("two").serving() as two,
        Node(seed=seed, make_remote=lambda: transport) as node,
    ):
        for served in (one, two):
            await node.add_agent(endpoint=served.endpoint)
        cancelled = await storm(node, random.Random(seed))

        assert CALLS // 10 < cancelled < CALLS, "the storm was none, or nothing but"
        assert node.scheduler.status().current_load == 0, "slots are still taken"
        assert node.scheduler.status().queue_depth == 0, "somebody still waits"
        assert transport.connections_in_use == 0, "connections are still in use"
        assert node.scheduler.expired_leases == 0
        results = await asyncio.gather(*(node.router.route_task(Task("nap", {"nap_s": 0.0})) for _ in range(100)))
        assert [result.status for result in results] == [TaskStatus.COMPLETED] * 100
        assert {attempt.outcome for result in results for attempt in result.attempts} == {Outcome.SUCCESS}


@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_cancelled_calls_leave_no_permit_slot_or_connection_taken(seed: int) -> None:
    asyncio.run(weather(seed))
