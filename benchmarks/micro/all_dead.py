"""What it costs to say "no agent available" when 10, 1,000 and 100,000 agents are dead.

Every agent offers the capability, every circuit is open, and no probe is due for an hour. The refusal is measured as a
caller has it, with `NoAgentAvailable` raised and caught; and below that, as the scheduler alone says it.

Aims: at most 20 µs, and flat: the same with 100,000 dead agents as with 10.
"""

import asyncio
import statistics
from collections.abc import Awaitable, Callable
from itertools import repeat
from time import perf_counter_ns
from typing import NamedTuple

from aicp.errors import NoAgentAvailable
from aicp.model.agent import AgentProfile, Capability
from aicp.model.task import Task
from aicp.registry.naming import wanted_key
from aicp.resilience.backoff import Backoff
from aicp.resilience.board import CircuitBoard
from aicp.resilience.circuit_breaker import BreakerPolicy, CircuitState
from aicp.routing.failover_router import FailoverRouter
from aicp.scheduling.lease import Unscheduled
from aicp.scheduling.task_scheduler import TaskScheduler
from aicp.transports.local import LocalTransport
from benchmarks.measure import quantile, ratio, report

SIZES = (10, 1_000, 100_000)
ROUNDS = 25
CALLS = 200
CAPABILITY = "image.label"
TASK = Task(CAPABILITY, {"url": "https://example.org/cat.png"})
AN_HOUR = BreakerPolicy(backoff=Backoff(first_s=3_600.0, max_s=3_600.0))

Refuse = Callable[[], Awaitable[None]]


class Fleet(NamedTuple):
    """The real parts, wired as a node wires them."""

    board: CircuitBoard
    scheduler: TaskScheduler
    router: FailoverRouter


class Refusals(NamedTuple):
    """How long refusals took.

    Attributes:
        calls_us: Each, microseconds.
        rounds_us: The median of each round.
    """

    calls_us: list[float]
    rounds_us: list[float]

    def add(self, round_us: list[float]) -> None:
        """One round more."""
        self.calls_us.extend(round_us)
        self.rounds_us.append(statistics.median(round_us))


def dead_fleet(agents: int, transport: LocalTransport) -> Fleet:
    board = CircuitBoard(AN_HOUR, gated=True)
    scheduler = TaskScheduler(board)
    board.listen(lambda agent_id, _: scheduler.refresh(agent_id))
    fleet = Fleet(board, scheduler, FailoverRouter(scheduler, transport, board))
    for number in range(agents):
        scheduler.add_agent(AgentProfile(f"agent-{number}", (Capability(CAPABILITY),)))
        kill(fleet, f"agent-{number}")
    return fleet


def kill(fleet: Fleet, agent_id: str) -> None:
    """Enough failures in a row, each with its permit."""
    key = wanted_key(CAPABILITY)
    for _ in range(AN_HOUR.failure_threshold):
        fleet.board.record_failure(agent_id, key, fleet.board.try_acquire(agent_id, key))
    assert fleet.board.get_state(agent_id, key) is CircuitState.OPEN


def by_router(fleet: Fleet) -> Refuse:
    async def refuse() -> None:
        try:
            await fleet.router.route_task(TASK, wait=False)
        except NoAgentAvailable:
            return
        raise AssertionError("a dead fleet answered")

    return refuse


def by_scheduler(fleet: Fleet) -> Refuse:
    async def refuse() -> None:
        if await fleet.scheduler.schedule_task(TASK, wait=False) is not Unscheduled.ALL_OUT:
            raise AssertionError("a dead fleet gave a lease")

    return refuse


async def one_round(refuse: Refuse, calls: int) -> list[float]:
    times_us = []
    for _ in repeat(None, calls):
        began = perf_counter_ns()
        await refuse()
        times_us.append((perf_counter_ns() - began) / 1e3)
    return times_us


async def measure(sizes: tuple[int, ...], rounds: int, calls: int) -> dict[tuple[str, int], Refusals]:
    """By path and number of agents; fleets and paths take turns, after one round that does not count."""
    transport = LocalTransport()
    fleets = {agents: dead_fleet(agents, transport) for agents in sizes}
    refusing = {("route_task", agents): by_router(fleet) for agents, fleet in fleets.items()}
    refusing |= {("schedule_task", agents): by_scheduler(fleet) for agents, fleet in fleets.items()}
    refusals = {what: Refusals([], []) for what in refusing}
    try:
        for number in range(rounds + 1):
            for what, refuse in refusing.items():
                round_us = await one_round(refuse, calls)
                if number:
                    refusals[what].add(round_us)
    finally:
        for fleet in fleets.values():
            fleet.scheduler.close()
        await transport.close()
    return refusals


def row(path: str, agents: int, refusals: dict[tuple[str, int], Refusals]) -> list[object]:
    measured, smallest = refusals[path, agents], refusals[path, min(size for _, size in refusals)]
    p50, p99 = (quantile(measured.calls_us, share) for share in (0.5, 0.99))
    return [path, agents, p50, p99, ratio(measured.rounds_us, smallest.rounds_us)]


def main() -> None:
    refusals = asyncio.run(measure(SIZES, ROUNDS, CALLS))
    columns = ["refused by", "dead agents", "p50 µs", "p99 µs", f"x {SIZES[0]} agents"]
    report("micro/all_dead", columns, [row(path, agents, refusals) for path, agents in refusals], ["msgspec"])


if __name__ == "__main__":
    main()
