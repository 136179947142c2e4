"""Policies that bind late: tasks wait in one line, and go to an agent when it has a free slot."""

import asyncio
import heapq
import math
from collections.abc import Sequence

from aicp.model.task import Priority
from aicp.testing import running_loop
from benchmarks.flow.simulated.fleet import INSTANT_S, End, Model
from benchmarks.flow.simulated.policy import Stage, Tries
from benchmarks.flow.simulated.workload import Job

SLACK_S = {Priority.HIGH: 0.0, Priority.NORMAL: 1.0, Priority.LOW: 3.0}
LOOKS_MAX = 8
PLANNED_MAX = 64


class Waiting:
    """A task in line.

    Attributes:
        job: The task.
        tries: What was tried.
        place: Resolved with the place of its agent, or None when its time is over.
    """

    __slots__ = ("job", "place", "tries")

    def __init__(self, job: Job, tries: Tries) -> None:
        self.job = job
        self.tries = tries
        self.place: asyncio.Future[int | None] = running_loop().create_future()

    def give(self, place: int | None) -> None:
        """Tell it, unless it knows."""
        if not self.place.done():
            self.place.set_result(place)


class FirstComeFirstServed:
    """One line in the order of arrival; any agent with a free slot. Knows nothing of speeds, faults and priorities."""

    def __init__(self, stage: Stage) -> None:
        self._agents = stage.agents
        self._free = [agent.model.slots for agent in stage.agents]
        self._rng = stage.rng
        self._timeout_s = stage.timeout_s
        self._line: list[tuple[int, Waiting]] = []
        self._loop = running_loop()

    async def carry(self, job: Job) -> bool:
        """Wait, try, and stand in line again at the old place until it is done, or its time is over."""
        tries = Tries()
        deadline_at = self._loop.start_s + job.deadline_at_s
        while (left_s := deadline_at - self._loop.time()) > 0 and not tries.are_over:
            if len(tries.tried) == len(self._agents):
                await asyncio.sleep(min(left_s, tries.next_round_s()))
                continue
            place = await self._stand_in_line(Waiting(job, tries), deadline_at)
            if place is not None and await self._try(job, tries, place, deadline_at) is End.DONE:
                return True
        return False

    async def open(self) -> None:
        """Nothing runs beside."""

    async def close(self) -> None:
        """Nothing runs beside."""

    async def _stand_in_line(self, waiting: Waiting, deadline_at: float) -> int | None:
        heapq.heappush(self._line, (waiting.job.number, waiting))
        self._serve()
        if waiting.place.done():
            return waiting.place.result()
        timer = self._loop.call_at(deadline_at, waiting.give, None)
        try:
            return await waiting.place
        finally:
            timer.cancel()

    async def _try(self, job: Job, tries: Tries, place: int, deadline_at: float) -> End:
        timeout_s = min(self._timeout_s, deadline_at - self._loop.time())
        end = await self._agents[place].serve(job, timeout_s)
        tries.note(place, end)
        self._free[place] += 1
        self._serve()
        return end

    def _serve(self) -> None:
        free = [place for place, slots in enumerate(self._free) if slots]
        passed_over: list[tuple[int, Waiting]] = []
        while self._line and free and len(passed_over) < LOOKS_MAX:
            entry = heapq.heappop(self._line)
            waiting = entry[1]
            if waiting.place.done():
                continue
            fitting = [place for place in free if place not in waiting.tries.tried] if waiting.tries.tried else free
            if not fitting:
                passed_over.append(entry)
                continue
            place = self._rng.choice(fitting)
            self._free[place] -= 1
            if not self._free[place]:
                free.remove(place)
            waiting.give(place)
        for entry in passed_over:
            heapq.heappush(self._line, entry)


class Oracle:
    """Knows every size, speed and fault beforehand, and plans.

    The line is ordered by arrival + slack of the priority. The first task goes where it would be done earliest, now or
    by waiting for a slot; the next one likewise with what is left. Nothing is sent where it would be lost, or could not
    be done in time.
    """

    def __init__(self, stage: Stage) -> None:
        self._agents = stage.agents
        self._models = [agent.model for agent in stage.agents]
        self._free_at = [[0.0] * agent.model.slots for agent in stage.agents]
        self._line: list[tuple[float, int, Waiting]] = []
        self._loop = running_loop()
        for ends_s in sorted({fault.ends_s for agent in stage.agents for fault in agent.model.faults}):
            self._loop.call_at(self._loop.start_s + ends_s, self._plan)

    async def carry(self, job: Job) -> bool:
        """Wait for the planned slot; the plan is kept."""
        waiting = Waiting(job, Tries())
        heapq.heappush(self._line, (job.arrives_s + SLACK_S[job.priority], job.number, waiting))
        self._plan()
        place = await waiting.place
        if place is None:
            return False
        end = await self._agents[place].serve(job, job.deadline_s)
        self._plan()
        return end is End.DONE

    async def open(self) -> None:
        """Nothing runs beside."""

    async def close(self) -> None:
        """Nothing runs beside."""

    def _plan(self) -> None:
        now_s = self._loop.time() - self._loop.start_s
        planned = _Plan(self._models, self._free_at, now_s)
        later: list[tuple[float, int, Waiting]] = []
        while self._line and len(later) < PLANNED_MAX and planned.has_a_slot_now():
            entry = heapq.heappop(self._line)
            job = entry[2].job
            place, begins_s, done_s = planned.best(job.size_s)
            if done_s > job.deadline_at_s:
                entry[2].give(None)
                continue
            planned.book(place, done_s)
            if begins_s <= now_s + INSTANT_S:
                heapq.heapreplace(self._free_at[place], done_s)
                entry[2].give(place)
            else:
                later.append(entry)
        for entry in later:
            heapq.heappush(self._line, entry)


class _Plan:
    """Who would get what, from now on."""

    def __init__(self, models: Sequence[Model], free_at: list[list[float]], now_s: float) -> None:
        self._models = models
        self._slots = [list(slots) for slots in free_at]
        self._from_s = [max(now_s, slots[0]) for slots in free_at]
        self._calm_until = list(map(Model.calm_until, models, self._from_s))
        self._now_s = now_s

    def has_a_slot_now(self) -> bool:
        limit_s = self._now_s + INSTANT_S
        free = (model for from_s, model in zip(self._from_s, self._models, strict=True) if from_s <= limit_s)
        return any(not (model.faults and model.is_dead(limit_s)) for model in free)

    def best(self, size_s: float) -> tuple[int, float, float]:
        """The place, begin and end of a task of that size that would be done earliest."""
        place, best_begins_s, best_done_s = 0, math.inf, math.inf
        for number, (from_s, model) in enumerate(zip(self._from_s, self._models, strict=True)):
            begins_s, done_s = from_s, from_s + size_s / model.speed
            if done_s > self._calm_until[number]:
                begins_s, done_s = model.earliest(from_s, size_s)
            if done_s < best_done_s:
                place, best_begins_s, best_done_s = number, begins_s, done_s
        return place, best_begins_s, best_done_s

    def book(self, place: int, done_s: float) -> None:
        heapq.heapreplace(self._slots[place], done_s)
        self._from_s[place] = from_s = max(self._now_s, self._slots[place][0])
        self._calm_until[place] = self._models[place].calm_until(from_s)
