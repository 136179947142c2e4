"""Crowds: tasks that wait, agents, tasks and fleets of an unusual shape. What a decision costs beside each; loop holds.

A decision is as in `benchmarks.micro.decision`, which runs this. Its cost is the CPU time of the thread for a round of
decisions, the turns of the loop that they cause included, so that a busy machine does not show; it is compared with a
plain decision of the same round. The wake of those for which no agent is left, the health, the status and an
explanation are not decisions: of these the longest hold of the event loop is measured.

Aims: a decision at most 3 times the plain one, a hold at most 5 ms.
"""

import asyncio
import gc
import itertools
import random
import statistics
from collections.abc import Awaitable, Callable, Iterator
from time import thread_time_ns
from typing import NamedTuple

from aicp.model.agent import AgentProfile, Capability
from aicp.model.outcome import Outcome
from aicp.model.task import Task
from aicp.resilience.board import CircuitBoard
from aicp.routing.health import agents_health, written_health
from aicp.scheduling.lease import Lease
from aicp.scheduling.slices import in_slices
from aicp.scheduling.task_scheduler import TaskScheduler
from aicp.testing import LoopHoldMeter
from benchmarks.measure import at_most, ratio

SEED = 1
NAME = "text.echo"
ROUNDS = 9
CALLS = 500
SLOTS = 4
RATIO_MAX = 3.0
HOLD_MS_MAX = 5.0
PLAIN = "plain, 10 agents"

Decide = Callable[[int], Awaitable[None]]


class Sizes(NamedTuple):
    """How large the crowds are."""

    waiting: int = 5_000
    direct: int = 10_000
    in_line: int = 90_000
    names: int = 1_000
    agents: int = 100_000
    label_sets: int = 70


QUICK = Sizes(waiting=200, direct=300, in_line=1_000, names=100, agents=500, label_sets=10)


class Stage:
    """A scheduler with agents, and tasks that wait."""

    def __init__(self, *profiles: AgentProfile) -> None:
        self.board = CircuitBoard(gated=True)
        self.scheduler = TaskScheduler(self.board, rng=random.Random(SEED))
        self.waiting: list[asyncio.Task[object]] = []
        for profile in profiles:
            self.scheduler.add_agent(profile)

    async def crowd(self, tasks: Iterator[Task], *, wait: bool = True) -> None:
        for task in tasks:
            self.waiting.append(asyncio.create_task(self.scheduler.schedule_task(task, wait=wait)))
        await asyncio.sleep(0.05)

    def decider(self, *tasks: Task) -> Decide:
        async def decide(number: int) -> None:
            lease = await self.scheduler.schedule_task(tasks[number % len(tasks)])
            assert isinstance(lease, Lease), lease
            self.scheduler.complete_task(lease, Outcome.SUCCESS, 0.1)

        return decide

    async def close(self) -> None:
        for each in self.waiting:
            each.cancel()
        await asyncio.gather(*self.waiting, return_exceptions=True)
        self.scheduler.close()


def profile(number: int, *names: str, slots: int = SLOTS, labels: dict[str, str] | None = None) -> AgentProfile:
    offered = tuple(Capability(name) for name in names or (NAME,))
    return AgentProfile(f"agent-{number}", offered, slots, labels=labels or {})


def ten() -> list[AgentProfile]:
    return [profile(number) for number in range(10)]


async def labels_of_none(sizes: Sizes) -> tuple[Stage, Decide]:
    stage = Stage(*ten())
    await stage.crowd(Task(NAME, labels={"n": str(number)}) for number in range(sizes.waiting))
    return stage, stage.decider(Task(NAME))


async def absent_agents(sizes: Sizes) -> tuple[Stage, Decide]:
    stage = Stage(*ten())
    await stage.crowd(Task(NAME, agents=(f"gone-{number}",)) for number in range(sizes.waiting))
    return stage, stage.decider(Task(NAME))


async def absent_excluded(sizes: Sizes) -> tuple[Stage, Decide]:
    """All ten agents are excluded by each of the waiting, in another way."""
    stage = Stage(*ten())
    names = tuple(each.agent_id for each in ten())
    await stage.crowd(Task(NAME, exclude_agents=(*names, f"gone-{number}")) for number in range(sizes.waiting))
    return stage, stage.decider(Task(NAME))


async def many_names(sizes: Sizes) -> tuple[Stage, Decide]:
    stage = Stage(*[profile(number) for number in range(sizes.names)])
    return stage, stage.decider(Task(NAME, agents=tuple(f"agent-{number}" for number in range(sizes.names))))


async def many_excluded(sizes: Sizes) -> tuple[Stage, Decide]:
    stage = Stage(*[profile(number) for number in range(sizes.names + 10)])
    return stage, stage.decider(Task(NAME, exclude_agents=tuple(f"gone-{number}" for number in range(sizes.names))))


async def label_sets(sizes: Sizes) -> tuple[Stage, Decide]:
    kinds = sizes.label_sets
    stage = Stage(*[profile(each, labels={"n": str(each % kinds), "z": str(each % 2)}) for each in range(sizes.agents)])
    return stage, stage.decider(*[Task(NAME, labels={"n": str(each), "z": str(each % 2)}) for each in range(kinds)])


def capabilities(count: int) -> Callable[[Sizes], Awaitable[tuple[Stage, Decide]]]:
    async def make(_sizes: Sizes) -> tuple[Stage, Decide]:
        names = [f"capability-{number}" for number in range(count)]
        stage = Stage(profile(0, *names, slots=1))
        return stage, stage.decider(*map(Task, names))

    return make


async def direct_calls(sizes: Sizes) -> tuple[Stage, Decide]:
    """All agents are busy for those that wait; one circuit is open; decisions are about another capability."""
    stage = Stage(*[profile(number, slots=1) for number in range(2)], profile(2, "other", slots=SLOTS))
    busy = await stage.scheduler.schedule_task(Task(NAME, agents=("agent-0",)))
    assert isinstance(busy, Lease)
    stage.board.record_evidence("agent-1", [f"{NAME}@1"] * 5)
    stage.scheduler.refresh("agent-1")
    await stage.crowd((Task(NAME) for _ in range(sizes.direct)), wait=False)
    decide = stage.decider(Task("other"))

    async def decide_at_an_event(number: int) -> None:
        stage.scheduler.refresh("agent-1")
        await decide(number)

    return stage, decide_at_an_event


async def plain(_sizes: Sizes) -> tuple[Stage, Decide]:
    stage = Stage(*ten())
    return stage, stage.decider(Task(NAME))


CROWDS: dict[str, Callable[[Sizes], Awaitable[tuple[Stage, Decide]]]] = {
    PLAIN: plain,
    "5,000 wait for labels that no agent carries": labels_of_none,
    "5,000 wait for named agents that are absent": absent_agents,
    "5,000 wait that exclude every agent": absent_excluded,
    "a task that names 1,000 agents": many_names,
    "a task that excludes 1,000 agents": many_excluded,
    "70 sets of two labels in turn, 100,000 agents": label_sets,
    "64 capabilities at one slot": capabilities(64),
    "1,000 capabilities at one slot": capabilities(1_000),
    "10,000 direct calls wait, a circuit event at each": direct_calls,
}


async def one_round(decide: Decide, numbers: Iterator[int]) -> float:
    """Microseconds of CPU time for a decision."""
    began = thread_time_ns()
    for number in itertools.islice(numbers, CALLS):
        await decide(number)
    await asyncio.sleep(0)
    return (thread_time_ns() - began) / CALLS / 1e3


async def decisions(sizes: Sizes) -> list[list[object]]:
    """Rows of aims: each crowd in turn, after one round that does not count."""
    made = {name: await make(sizes) for name, make in CROWDS.items()}
    numbers, rounds_us = itertools.count(), {name: list[float]() for name in made}
    gc.collect()
    gc.freeze()
    for _ in range(ROUNDS + 1):
        for name, (_, decide) in made.items():
            rounds_us[name].append(await one_round(decide, numbers))
    gc.unfreeze()
    for stage, _ in made.values():
        await stage.close()
    plain_us = rounds_us[PLAIN][1:]
    return [
        [*at_most(name, RATIO_MAX, round(ratio(times_us[1:], plain_us), 2)), statistics.median(times_us[1:])]
        for name, times_us in rounds_us.items()
    ]


async def held(sizes: Sizes) -> list[list[object]]:
    """Rows of aims: the longest hold while the fleet is looked at, and while ten thousand are woken."""
    names = [f"capability-{number % 200}" for number in range(sizes.agents)]
    stage = Stage(*[profile(number, name) for number, name in enumerate(names)])
    scheduler, rows = stage.scheduler, []

    async def measure(what: str, work: Awaitable[object]) -> None:
        gc.collect()
        async with LoopHoldMeter() as meter:
            await asyncio.sleep(0.01)
            await work
            await asyncio.sleep(0.01)
        rows.append(at_most(what, HOLD_MS_MAX, round(meter.longest.held_ms, 2)))

    async def share() -> None:
        scheduler.share_slots(2)
        while scheduler.member(f"agent-{sizes.agents - 1}").slots != SLOTS // 2:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0)

    agents = agents_health(scheduler, stage.board)
    await measure("health of 100,000 agents", in_slices(written_health(agents, scheduler.capabilities_out())))
    await measure("status of 100,000 agents", scheduler.read_status())
    await measure("share_slots of 100,000 agents", share())
    wanted = Task("capability-0", agents=("gone",))
    await stage.crowd(Task("capability-0", agents=(f"gone-{number}",)) for number in range(sizes.in_line))
    stage.waiting.append(asyncio.create_task(scheduler.schedule_task(wanted)))
    await asyncio.sleep(0)
    await measure("explanation of one of 90,000 that wait", scheduler.read_explanation(wanted))
    await stage.close()
    rows.append(await woken(sizes))
    return rows


async def woken(sizes: Sizes) -> list[object]:
    stage = Stage(profile(0, slots=1))
    assert isinstance(await stage.scheduler.schedule_task(Task(NAME)), Lease)
    await stage.crowd((Task(NAME) for _ in range(sizes.direct)), wait=False)
    woken = asyncio.gather(*stage.waiting)
    gc.collect()
    async with LoopHoldMeter() as meter:
        stage.scheduler.drain_agent("agent-0")
        await woken
    await stage.close()
    return at_most("10,000 direct calls are woken", HOLD_MS_MAX, round(meter.longest.held_ms, 2))
