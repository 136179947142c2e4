"""A real server that is stopped, or held by its own loop, for longer than its timeouts and leases blames no agent."""

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from aicp import Outcome, Task, TaskStatus
from aicp.agent import Agent
from aicp.client import Client
from tests.chaos.server_process import ServerProcess
from tests.e2e.standstill_server import HELD_S, LEASE_S

BOUND_S = 60.0
TIMEOUT_S = 2.0
AGENTS, SLOTS = 3, 5
TASKS = AGENTS * SLOTS
LOOPS = ("asyncio", "uvloop")

assert max(TIMEOUT_S, 3 * LEASE_S) < HELD_S, "what is shown is that none of these counts against an agent"


class Rig:
    """One server, its agents, and tasks that are answered when the test says so."""

    def __init__(self, server: ServerProcess, client: Client) -> None:
        self.server = server
        self.client = client
        self.asked = 0
        self.answered = 0
        self.release = asyncio.Event()

    async def work(self, params: dict[str, Any]) -> dict[str, Any]:
        self.asked += 1
        await self.release.wait()
        self.answered += 1
        return params

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(BOUND_S):
            while not condition():  # noqa: ASYNC110 - what is waited for is counted by handlers
                await asyncio.sleep(0.005)

    async def tasks_in_flight(self) -> list[str]:
        """The ids of tasks that have been sent to agents and not been answered."""
        self.release.clear()
        asked = self.asked + TASKS
        submits = [self.client.submit_task(Task("work", {"n": n})) for n in range(TASKS)]
        task_ids = await asyncio.gather(*submits)
        await self.until(lambda: self.asked == asked)
        return task_ids

    async def answer_all(self) -> None:
        answered = self.answered + TASKS
        self.release.set()
        await self.until(lambda: self.answered == answered)

    async def check(self, task_ids: list[str]) -> None:
        """Each was answered by its first attempt, and nothing was held against any agent."""
        views = [await self.client.wait_task(task_id, timeout_s=BOUND_S) for task_id in task_ids]
        assert {view.status for view in views} == {TaskStatus.COMPLETED}
        attempts = [attempt for view in views for attempt in view.attempts]
        assert [attempt.outcome for attempt in attempts] == [Outcome.SUCCESS] * TASKS
        assert await self.client.failures() == []
        # Long enough for a lease that would end now to end.
        await asyncio.sleep(LEASE_S)
        health = await self.client.health()
        assert (health.healthy_agents, health.total_agents, health.capabilities_out) == (AGENTS, AGENTS, [])
        told = self.server.told()
        assert not re.search("OFFLINE|UNHEARD|offline|unheard| is out|opened|expired", told), told

    async def standstill_s(self) -> float:
        headers = {"Authorization": f"Bearer {self.server.key}"}
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.server.url + "/metrics", headers=headers) as got,
        ):
            found = re.search(r"^aicp_standstill_seconds_total (\S+)$", await got.text(), re.MULTILINE)
            assert found is not None
            return float(found[1])


@asynccontextmanager
async def rig_on(loop: str, directory: Path) -> AsyncIterator[Rig]:
    server = ServerProcess(directory / loop, module=("tests.e2e.standstill_server", loop))
    async with AsyncExitStack() as stack:
        stack.callback(server.kill)
        server.start()
        await asyncio.to_thread(server.wait_until_started)
        client = await stack.enter_async_context(Client(server.url, api_key=server.key))
        rig = Rig(server, client)
        for number in range(AGENTS):
            agent = Agent(f"agent-{number}", max_concurrent_tasks=SLOTS)
            agent.capability("work", timeout_s=TIMEOUT_S)(rig.work)
            served = await stack.enter_async_context(agent.serving(register=server.url, api_key=server.key))
            await served.registered(BOUND_S)
        yield rig


async def stopped(rig: Rig) -> None:
    """SIGSTOP, every answer into the sockets of the stopped server, SIGCONT."""
    task_ids = await rig.tasks_in_flight()
    rig.server.pause()
    await rig.answer_all()
    await asyncio.sleep(HELD_S)
    rig.server.go_on()
    await rig.check(task_ids)
    assert await rig.standstill_s() >= HELD_S - 1.0


async def held(rig: Rig) -> None:
    """As `stopped`, by a callback that does not return."""
    task_ids = await rig.tasks_in_flight()
    before_s = await rig.standstill_s()
    os.kill(rig.server.pid, signal.SIGUSR1)
    await rig.answer_all()
    await rig.check(task_ids)
    assert await rig.standstill_s() - before_s >= HELD_S - 1.0


def test_a_server_that_stood_still_takes_the_answers_from_its_sockets_and_blames_nobody(tmp_path: Path) -> None:
    async def on(loop: str) -> None:
        async with rig_on(loop, tmp_path) as rig:
            await stopped(rig)
            await held(rig)

    async def main() -> None:
        # Side by side: what takes time is standing still.
        async with asyncio.TaskGroup() as group:
            for loop in LOOPS:
                group.create_task(on(loop))

    asyncio.run(main())
