"""Policies that bind early: a task goes to an agent as soon as it arrives, and queues inside it."""

import asyncio
import itertools
from collections.abc import Callable, Sequence

from aicp.testing import running_loop
from benchmarks.flow.simulated.fleet import Agent, End
from benchmarks.flow.simulated.policy import Stage, Tries
from benchmarks.flow.simulated.workload import Job

EWMA_WEIGHT = 0.2
_SAYS_HOW_LONG = frozenset({End.DONE, End.TIMEOUT})


class Seen:
    """An agent as its callers know it.

    Attributes:
        place: In the fleet.
        agent: Itself.
        outstanding: Tasks it has.
        latency_s: Smoothed, of answers and timeouts; 0 while unmeasured.
        successes: Attempts that were done.
        attempts: Attempts that ended.
    """

    __slots__ = ("agent", "attempts", "latency_s", "outstanding", "place", "successes")

    def __init__(self, place: int, agent: Agent) -> None:
        self.place = place
        self.agent = agent
        self.outstanding = 0
        self.latency_s = 0.0
        self.successes = self.attempts = 0

    @property
    def utilization(self) -> float:
        """Tasks it has for each of its slots."""
        return self.outstanding / self.agent.model.slots

    def learn(self, end: End, elapsed_s: float) -> None:
        """An attempt ended."""
        self.attempts += 1
        self.successes += end is End.DONE
        if end in _SAYS_HOW_LONG:
            self.latency_s += (EWMA_WEIGHT if self.latency_s else 1.0) * (elapsed_s - self.latency_s)


Choose = Callable[[Sequence[Seen]], Seen]


class EarlyBinding:
    """Sends each task at once to the agent that `choose` says."""

    def __init__(self, stage: Stage, choose: Choose) -> None:
        self._seen = [Seen(place, agent) for place, agent in enumerate(stage.agents)]
        self._choose = choose
        self._timeout_s = stage.timeout_s
        self._loop = running_loop()

    async def carry(self, job: Job) -> bool:
        """Send it on until it is done, or its time is over."""
        tries = Tries()
        while (left_s := self._loop.start_s + job.deadline_at_s - self._loop.time()) > 0 and not tries.are_over:
            if len(tries.tried) == len(self._seen):
                await asyncio.sleep(min(left_s, tries.next_round_s()))
                continue
            if await self._try(job, tries, min(self._timeout_s, left_s)) is End.DONE:
                return True
        return False

    async def open(self) -> None:
        """Nothing runs beside."""

    async def close(self) -> None:
        """Nothing runs beside."""

    async def _try(self, job: Job, tries: Tries, timeout_s: float) -> End:
        among = [seen for seen in self._seen if seen.place not in tries.tried] if tries.tried else self._seen
        seen = self._choose(among)
        began_s = self._loop.time()
        seen.outstanding += 1
        end = await seen.agent.serve(job, timeout_s)
        seen.outstanding -= 1
        seen.learn(end, self._loop.time() - began_s)
        tries.note(seen.place, end)
        return end


def at_random(stage: Stage) -> EarlyBinding:
    """Anybody."""
    return EarlyBinding(stage, stage.rng.choice)


def round_robin(stage: Stage) -> EarlyBinding:
    """One after the other."""
    turns = itertools.count()
    return EarlyBinding(stage, lambda among: among[next(turns) % len(among)])


def least_outstanding(stage: Stage) -> EarlyBinding:
    """Who has the fewest tasks for each of its slots."""
    draw = stage.rng.random
    return EarlyBinding(stage, lambda among: min(among, key=lambda seen: (seen.utilization, draw())))


def two_choices(stage: Stage) -> EarlyBinding:
    """Of two at random, who would be done sooner: smoothed latency times the tasks for each slot, this one included."""

    def expected_s(seen: Seen) -> float:
        return seen.latency_s * (seen.outstanding + 1) / seen.agent.model.slots

    def choose(among: Sequence[Seen]) -> Seen:
        return min(stage.rng.sample(among, min(2, len(among))), key=expected_s)

    return EarlyBinding(stage, choose)


def by_score(stage: Stage) -> EarlyBinding:
    """The original's score, lowest wins: 2 x utilisation (percent) + 100 x (1 - success rate) + latency_ms / 10."""

    def score(seen: Seen) -> float:
        failed_share = 1 - seen.successes / seen.attempts if seen.attempts else 0.0
        return 2 * 100 * seen.utilization + 100 * failed_share + seen.latency_s * 1_000 / 10

    return EarlyBinding(stage, lambda among: min(among, key=score))
