"""What a decision costs, and what an agent weighs, from 10 agents to 1,000,000 with 200 capabilities between them.

A decision is `schedule_task` and `complete_task`: who gets the task, slot and permit taken and given back, the latency
learned. Beside it the same question answered by a plain scan over all agents. Bytes are those the scheduler holds for
each agent: profiles, which belong to the directory, are made before tracemalloc looks. Then the same decision beside
crowds, and how long looks at a crowd hold the loop (`benchmarks.crowds`).

Aims: p50 at most 10 µs, and at 1,000,000 agents at most 3 times that at 10; at most 300 bytes an agent; beside a crowd
at most 3 times the plain decision of the same run; no hold over 5 ms.

    python -m benchmarks.micro.decision [--quick] [--million]
"""

import argparse
import asyncio
import gc
import itertools
import random
import statistics
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter_ns
from typing import NamedTuple

from aicp.model.agent import AgentProfile, Capability
from aicp.model.outcome import Outcome
from aicp.model.task import Task
from aicp.resilience.board import CircuitBoard
from aicp.scheduling.lease import Lease
from aicp.scheduling.task_scheduler import TaskScheduler
from benchmarks import crowds
from benchmarks.measure import quantile, ratio, report

SIZES = (10, 1_000, 100_000)
MILLION = 1_000_000
SIZES_WHEN_QUICK = (10, 1_000)
CAPABILITIES = 200
SLOTS = 4
ROUNDS = 15
CALLS = 2_000
SCANNED_PER_ROUND = 200_000
KNOWN_MAX = 100_000
LINES_SHOWN = 8
SEED = 1

Decide = Callable[[int], Awaitable[None]]


class Fleet(NamedTuple):
    """A scheduler, and one task for each capability that somebody offers."""

    scheduler: TaskScheduler
    tasks: Sequence[Task]


class Weight(NamedTuple):
    """What the scheduler holds for one agent.

    Attributes:
        bytes_each: In all.
        lines: The heaviest lines of code, each with its share of that in bytes.
    """

    bytes_each: float
    lines: Sequence[tuple[str, float]]


class ScannedAgent:
    """An agent as a plain scan knows it."""

    __slots__ = ("capability", "latency_s", "slots", "taken")

    def __init__(self, capability: str, latency_s: float) -> None:
        self.capability = capability
        self.latency_s = latency_s
        self.slots = SLOTS
        self.taken = 0


def name_of(number: int) -> str:
    return f"capability-{number % CAPABILITIES}"


def profiles(agents: int) -> Iterator[AgentProfile]:
    offered = [(Capability(name_of(number)),) for number in range(CAPABILITIES)]
    return (AgentProfile(f"agent-{number}", offered[number % CAPABILITIES], SLOTS) for number in range(agents))


def draw_elapsed_s(rng: random.Random) -> float:
    return rng.lognormvariate(-2, 1)


async def known_fleet(agents: int) -> Fleet:
    """A fleet whose agents have answered once, as different in speed as agents are."""
    rng = random.Random(SEED)
    scheduler = TaskScheduler(CircuitBoard(gated=True), rng=rng)
    for profile in profiles(agents):
        scheduler.add_agent(profile)
    for number in range(min(agents, KNOWN_MAX)):
        task = Task(name_of(number), agents=(f"agent-{number}",))
        scheduler.complete_task(await leased(scheduler, task), Outcome.SUCCESS, draw_elapsed_s(rng))
    return Fleet(scheduler, [Task(name_of(number)) for number in range(min(agents, CAPABILITIES))])


async def leased(scheduler: TaskScheduler, task: Task) -> Lease:
    lease = await scheduler.schedule_task(task)
    assert isinstance(lease, Lease), lease
    return lease


def by_aicp(fleet: Fleet) -> Decide:
    scheduler, tasks = fleet
    rng = random.Random(SEED)
    elapsed_s = [draw_elapsed_s(rng) for _ in range(CALLS)]

    async def decide(number: int) -> None:
        lease = await scheduler.schedule_task(tasks[number % len(tasks)])
        assert isinstance(lease, Lease)
        scheduler.complete_task(lease, Outcome.SUCCESS, elapsed_s[number % CALLS])

    return decide


def by_scan(agents: int) -> Decide:
    rng = random.Random(SEED)
    fleet = [ScannedAgent(name_of(number), draw_elapsed_s(rng)) for number in range(agents)]
    wanted = [name_of(number) for number in range(min(agents, CAPABILITIES))]

    async def decide(number: int) -> None:
        capability, best = wanted[number % len(wanted)], None
        for agent in fleet:
            is_free = agent.capability == capability and agent.taken < agent.slots
            if is_free and (best is None or agent.latency_s < best.latency_s):
                best = agent
        assert best is not None
        best.taken += 1
        best.taken -= 1

    return decide


async def one_round(decide: Decide, numbers: Iterator[int], calls: int) -> list[float]:
    times_us = []
    for number in itertools.islice(numbers, calls):
        began = perf_counter_ns()
        await decide(number)
        times_us.append((perf_counter_ns() - began) / 1e3)
    # The timers of leases have their turn.
    await asyncio.sleep(0)
    return times_us


async def measure(sizes: Sequence[int]) -> dict[tuple[str, int], list[list[float]]]:
    """Microseconds by way, size and round; sizes and ways take turns, after one round that does not count."""
    fleets = {agents: await known_fleet(agents) for agents in sizes}
    deciding = {("AICP", agents): by_aicp(fleet) for agents, fleet in fleets.items()}
    deciding |= {("plain scan", agents): by_scan(agents) for agents in sizes}
    numbers = itertools.count()
    rounds_us: dict[tuple[str, int], list[list[float]]] = {what: [] for what in deciding}
    gc.collect()
    for _ in range(ROUNDS + 1):
        for what, decide in deciding.items():
            calls = CALLS if what[0] == "AICP" else max(1, min(CALLS, SCANNED_PER_ROUND // what[1]))
            rounds_us[what].append(await one_round(decide, numbers, calls))
    for fleet in fleets.values():
        fleet.scheduler.close()
    return {what: rounds[1:] for what, rounds in rounds_us.items()}


def weigh(agents: int) -> Weight:
    """What the scheduler holds for each agent of a fleet of that size, in a process of its own."""
    return asyncio.run(_weigh(agents))


async def _weigh(agents: int) -> Weight:
    scheduler = TaskScheduler(CircuitBoard(gated=True), rng=random.Random(SEED))
    made = list(profiles(agents))
    gc.collect()
    tracemalloc.start()
    for profile in made:
        scheduler.add_agent(profile)
    gc.collect()
    snapshot = tracemalloc.take_snapshot()
    tracemalloc.stop()
    scheduler.close()
    found = snapshot.statistics("lineno")
    lines = [(f"{Path(line.traceback[0].filename).name}:{line.traceback[0].lineno}", line.size) for line in found]
    heaviest = [(where, size / agents) for where, size in lines[:LINES_SHOWN]]
    return Weight(sum(size for _, size in lines) / agents, heaviest)


def tell_times(rounds_us: dict[tuple[str, int], list[list[float]]]) -> None:
    medians = {what: [statistics.median(times) for times in rounds] for what, rounds in rounds_us.items()}
    smallest = min(size for _, size in rounds_us)
    rows = []
    for (way, agents), rounds in rounds_us.items():
        times = [time for times in rounds for time in times]
        growth = ratio(medians[way, agents], medians[way, smallest])
        rows.append([way, agents, quantile(times, 0.5), quantile(times, 0.99), growth])
    report("micro/decision", ["decided by", "agents", "p50 µs", "p99 µs", f"x {smallest} agents"], rows, ["msgspec"])


def tell_weights(weights: dict[int, Weight]) -> None:
    rows: list[list[object]] = [[agents, "all", weight.bytes_each] for agents, weight in weights.items()]
    largest = max(weights)
    rows += [[largest, where, each] for where, each in weights[largest].lines]
    report("micro/decision_bytes", ["agents", "of which", "bytes an agent"], rows, ["msgspec"])


def tell_crowds(sizes: crowds.Sizes) -> None:
    rows = asyncio.run(crowds.decisions(sizes))
    report("micro/decision_crowds", ["decision", "aim, x plain", "x plain", "", "CPU µs"], rows, ["msgspec"])
    rows = asyncio.run(crowds.held(sizes))
    report("micro/decision_holds", ["work", "aim, ms", "longest hold, ms", ""], rows, ["msgspec"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description="What a decision costs, alone and beside crowds; what an agent weighs."
    )
    parser.add_argument("--quick", action="store_true", help="up to 1,000 agents and small crowds: a smoke test")
    parser.add_argument("--million", action="store_true", help="1,000,000 agents as well: takes 3 GB and minutes")
    wanted = parser.parse_args()
    sizes = (*(SIZES_WHEN_QUICK if wanted.quick else SIZES), *((MILLION,) if wanted.million else ()))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        weights = {agents: pool.submit(weigh, agents).result() for agents in sizes[1:]}
    tell_weights(weights)
    tell_times(asyncio.run(measure(sizes)))
    tell_crowds(crowds.QUICK if wanted.quick else crowds.Sizes())


if __name__ == "__main__":
    main()
