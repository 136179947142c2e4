"""Runs one policy through one scenario, and sums up what became of every task."""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from aicp.testing import run, running_loop
from benchmarks.flow.simulated.early import at_random, by_score, least_outstanding, round_robin, two_choices
from benchmarks.flow.simulated.fleet import Agent, Attempt, End
from benchmarks.flow.simulated.late import FirstComeFirstServed, Oracle
from benchmarks.flow.simulated.policy import Policy, Stage
from benchmarks.flow.simulated.scenarios import Scenario
from benchmarks.flow.simulated.through_aicp import ThroughAicp
from benchmarks.flow.simulated.workload import Job, jobs_of

STEPS_MAX = 50_000_000

AICP = "AICP"
ORACLE = "oracle"
FIFO = "late FIFO"
P2C = "P2C + EWMA"
POLICIES: dict[str, Callable[[Stage], Policy]] = {
    "random": at_random,
    "round robin": round_robin,
    "least outstanding": least_outstanding,
    P2C: two_choices,
    "original score": by_score,
    FIFO: FirstComeFirstServed,
    AICP: ThroughAicp,
    ORACLE: Oracle,
}


class Record(NamedTuple):
    """What became of one task.

    Attributes:
        job: The task.
        is_done: True when it was done in time.
        latency_s: From arrival to its result; its deadline when there is none.
        attempts: What was tried, in order.
    """

    job: Job
    is_done: bool
    latency_s: float
    attempts: Sequence[Attempt]

    @property
    def wasted_s(self) -> float:
        """How long slots worked on attempts that did not give the result."""
        return sum(attempt.worked_s for attempt in self.attempts if attempt.end is not End.DONE)


def race(scenario: Scenario, policy: str) -> list[Record]:
    """The record of every task that counts, in the order of arrival."""
    records = run(_race(scenario, policy), seed=scenario.seed, steps_max=STEPS_MAX)
    return [record for record in records if record.job.arrives_s >= scenario.from_s]


async def _race(scenario: Scenario, name: str) -> list[Record]:
    jobs = jobs_of(scenario.streams, scenario.seed)
    log: list[list[Attempt]] = [[] for _ in jobs]
    agents = [Agent(model, log) for model in scenario.models]
    policy = POLICIES[name](Stage(agents, scenario.timeout_s, random.Random(f"{scenario.seed} {name}")))
    await policy.open()
    carried: list[Record] = []
    try:
        async with asyncio.TaskGroup() as under_way:
            for job in jobs:
                await _until(job.arrives_s)
                under_way.create_task(_carry(policy, job, log[job.number], carried))
    finally:
        await policy.close()
    carried.sort(key=lambda record: record.job.number)
    return carried


async def _until(at_s: float) -> None:
    loop = running_loop()
    await asyncio.sleep(max(0.0, loop.start_s + at_s - loop.time()))


async def _carry(policy: Policy, job: Job, attempts: Sequence[Attempt], carried: list[Record]) -> None:
    loop = running_loop()
    is_done = await policy.carry(job)
    elapsed_s = loop.time() - loop.start_s - job.arrives_s
    carried.append(Record(job, is_done, elapsed_s if is_done else job.deadline_s, attempts))
