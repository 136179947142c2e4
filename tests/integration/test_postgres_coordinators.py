"""Two coordinators on one database: either answers for any chain, and what one drops the other goes on with."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aicp.coordination.task_coordinator import TaskCoordinator
from aicp.model.task import TaskStatus
from aicp.resilience.board import CircuitBoard
from aicp.routing.failover_router import FailoverRouter
from aicp.scheduling.task_scheduler import TaskScheduler
from aicp.storage.postgres import PostgresJournal
from aicp.storage.postgres_database import PostgresDatabase
from aicp.testing.faulty_agents import ScriptedAgent, ScriptedTransport, Step, ok
from tests.integration.postgres_kit import run, shared_server
from tests.integration.server_kit import until
from tests.unit.flow_kit import task

LONG_S = 60.0


class Peer:
    """A coordinator with an agent and a database session of its own."""

    def __init__(self, url: str, first: Step) -> None:
        self.agent = ScriptedAgent("a", [first], otherwise=ok(0.1, result="done again"), max_concurrent_tasks=8)
        board = CircuitBoard()
        scheduler = TaskScheduler(board)
        scheduler.add_agent(self.agent.profile)
        self.database = PostgresDatabase(url, lease_s=1.0, renew_every_s=0.2)
        self.coordinator = TaskCoordinator(
            FailoverRouter(scheduler, ScriptedTransport(self.agent), board),
            PostgresJournal(self.database),
            replicas=self.database.replicas,
        )


@asynccontextmanager
async def peers(*steps: Step) -> AsyncIterator[list[Peer]]:
    url = shared_server().fresh_url()
    made = [Peer(url, step) for step in steps]
    for peer in made:
        await peer.coordinator.__aenter__()
    try:
        yield made
    finally:
        for peer in made:
            await peer.coordinator.__aexit__(None, None, None)


def test_either_replica_answers_for_a_chain_of_the_other() -> None:
    async def main() -> None:
        async with peers(ok(0.2, result={"seen": 1}), ok(LONG_S)) as (owner, other):
            task_id = await owner.coordinator.submit_task(task())
            chain_id = task_id.partition(".")[0]
            assert (await other.coordinator.view(chain_id)).status in {TaskStatus.PENDING, TaskStatus.RUNNING}
            ended = await other.coordinator.wait_result(chain_id)
            assert (ended.status, ended.tasks["task"].result) == (TaskStatus.COMPLETED, {"seen": 1})
            assert not other.agent.calls

    run(main())


def test_a_cancel_asked_of_another_replica_is_done_by_the_owner() -> None:
    async def main() -> None:
        async with peers(ok(LONG_S), ok(LONG_S)) as (owner, other):
            chain_id = (await owner.coordinator.submit_task(task())).partition(".")[0]
            await _until_called(owner.agent)
            await other.coordinator.cancel(chain_id)
            assert (await other.coordinator.view(chain_id)).status is TaskStatus.CANCELLED
            assert (await owner.coordinator.wait_result(chain_id)).status is TaskStatus.CANCELLED

    run(main())


def test_a_replica_that_leaves_hands_its_chains_over_and_waiters_elsewhere_see_the_end() -> None:
    async def main() -> None:
        async with peers(ok(LONG_S), ok(0.1, result="done again")) as (leaving, staying):
            chain_id = (await leaving.coordinator.submit_task(task())).partition(".")[0]
            await _until_called(leaving.agent)
            waiting = asyncio.create_task(staying.coordinator.wait_result(chain_id))
            await leaving.coordinator.__aexit__(None, None, None)
            ended = await waiting
            assert ended.tasks["task"].result == "done again"

    run(main())


def test_a_replica_declared_dead_stops_at_once_and_its_late_end_changes_nothing() -> None:
    async def main() -> None:
        # It joins again at once under another number, and then either may claim the chain.
        async with peers(ok(LONG_S), ok(0.1, result="done again")) as (dead, alive):
            chain_id = (await dead.coordinator.submit_task(task())).partition(".")[0]
            await _until_called(dead.agent)
            await _declare_dead(dead)
            ended = await alive.coordinator.wait_result(chain_id)
            assert ended.tasks["task"].result == "done again"
            await until(lambda: not dead.coordinator.unfinished)
            assert (await dead.coordinator.wait_result(chain_id)).tasks["task"].result == "done again"

    run(main())


async def _until_called(agent: ScriptedAgent) -> None:
    await until(lambda: bool(agent.calls))


async def _declare_dead(peer: Peer) -> None:
    """As another replica does with one whose lease ran out."""
    number: Any = peer.database.replicas.number
    await peer.database.sessions.execute(
        "UPDATE replicas SET died_at = clock_timestamp(), alive_until = clock_timestamp() WHERE number = $1", number
    )
    peer.database.replicas.doubt_own_life()
