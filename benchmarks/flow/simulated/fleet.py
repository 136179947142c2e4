"""Agents on virtual time: unequal, with a few slots and a queue each, and faults that are written down beforehand.

An agent works on as many tasks as it has slots; what comes beyond that queues inside it, first come, first served. Who
sent a task and gives up takes it back: its slot, or its place in the queue, is free at once.
"""

import asyncio
import itertools
import math
import random
from collections import OrderedDict
from enum import Enum
from typing import NamedTuple

from aicp.testing import running_loop
from benchmarks.flow.simulated.workload import Job

REFUSAL_S = 0.001
CONNECT_TIMEOUT_S = 5.0
PROBE_TIMEOUT_S = 3.0
SLOWEST, FASTEST = 1.0, 4.0
SLOTS = (2, 3, 4)
INSTANT_S = 1e-6
"""A timer may come this much early, and more."""


class End(Enum):
    """How one attempt ended."""

    DONE = "done"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    RESET = "reset"
    TIMEOUT = "timeout"
    LEFT = "left"


NOTHING_EXECUTED = frozenset({End.REFUSED, End.UNREACHABLE})


class FaultKind(Enum):
    """What can be wrong with an agent for a while.

    CRASHED: what it has is reset, new connections are refused.
    VANISHED: what it has is never answered, new connections run into their timeout.
    HANGING: it takes tasks and does not work on them; it says that it is well.
    SLOW: it works at a tenth of its speed; it says that it is well.
    """

    CRASHED = "crashed"
    VANISHED = "vanished"
    HANGING = "hanging"
    SLOW = "slow"


_RATES = {FaultKind.HANGING: 0.0, FaultKind.SLOW: 0.1}
_DEADLY = frozenset({FaultKind.CRASHED, FaultKind.VANISHED})


class Fault(NamedTuple):
    """Something is wrong from `begins_s` to `ends_s`, seconds after the start."""

    begins_s: float
    ends_s: float
    kind: FaultKind

    @property
    def is_deadly(self) -> bool:
        """True when the agent loses what it has, and takes nothing."""
        return self.kind in _DEADLY


class Model(NamedTuple):
    """One agent as it was made, and everything that will happen to it.

    Attributes:
        name: Its id.
        speed: Work done in a slot each second.
        slots: How many tasks it works on at a time.
        faults: In order, not overlapping.
    """

    name: str
    speed: float
    slots: int
    faults: tuple[Fault, ...] = ()

    @property
    def capacity(self) -> float:
        """Work done each second by all its slots."""
        return self.speed * self.slots

    def fault_at(self, at_s: float) -> Fault | None:
        """What is wrong at that time."""
        at_s += INSTANT_S
        return next((fault for fault in self.faults if fault.begins_s <= at_s < fault.ends_s), None)

    def finishes_s(self, begins_s: float, size_s: float) -> float:
        """When work begun at that time is done; infinite when it is lost before."""
        at_s, left_s = begins_s, size_s / self.speed
        for fault in self.faults:
            if fault.ends_s <= at_s + INSTANT_S:
                continue
            if at_s + left_s <= fault.begins_s:
                break
            if fault.is_deadly:
                return math.inf
            left_s -= max(0.0, fault.begins_s - at_s)
            at_s, rate = max(at_s, fault.begins_s), _RATES[fault.kind]
            if left_s <= (fault.ends_s - at_s) * rate:
                return at_s + left_s / rate
            left_s -= (fault.ends_s - at_s) * rate
            at_s = fault.ends_s
        return at_s + left_s

    def earliest(self, from_s: float, size_s: float) -> tuple[float, float]:
        """When work should begin, at that time or later, so as to be done as early as can be; and when that is."""
        choices = itertools.chain((from_s,), (fault.ends_s for fault in self.faults if fault.ends_s > from_s))
        tried = ((at_s, self.finishes_s(at_s, size_s)) for at_s in choices if not self.is_dead(at_s))
        # Beginning later is never faster: the first beginning that is not cut short is the best.
        return next((choice for choice in tried if choice[1] < math.inf), (math.inf, math.inf))

    def calm_until(self, at_s: float) -> float:
        """When the next fault begins: that time itself when there is one already, infinite when none will come."""
        coming = (max(at_s, fault.begins_s) for fault in self.faults if fault.ends_s > at_s + INSTANT_S)
        return next(coming, math.inf)

    def is_dead(self, at_s: float) -> bool:
        """True when it takes nothing at that time."""
        fault = self.fault_at(at_s)
        return fault is not None and fault.is_deadly


def make_models(count: int, seed: int) -> list[Model]:
    """Agents 1x to 4x fast in even steps, slowest first, with 2, 3 or 4 slots in a random order."""
    slots = [SLOTS[number % len(SLOTS)] for number in range(count)]
    random.Random(f"{seed} slots").shuffle(slots)
    step = (FASTEST - SLOWEST) / (count - 1)
    return [Model(f"agent-{number:02}", SLOWEST + step * number, slots[number]) for number in range(count)]


class Attempt:
    """One task sent to one agent.

    Attributes:
        job: The task.
        agent: Whom it was sent to.
        asked_s: When it was sent, seconds after the start.
        began_s: When a slot took it up; NaN when none did.
        worked_s: How long the slot worked on it.
        ended_s: When the sender knew how it ended.
        end: How.
    """

    __slots__ = ("agent", "asked_s", "began_s", "end", "ended_s", "future", "gives_up_s", "job", "timer", "worked_s")

    def __init__(self, job: Job, agent: Model, asked_s: float, gives_up_s: float) -> None:
        self.job = job
        self.agent = agent
        self.asked_s = asked_s
        self.gives_up_s = gives_up_s
        self.began_s = math.nan
        self.worked_s = 0.0
        self.ended_s = math.inf
        self.end = End.LEFT
        self.future: asyncio.Future[End] | None = None
        self.timer: asyncio.TimerHandle | None = None


class Agent:
    """A model at work.

    Args:
        model: What it is; kept under this name.
        log: Attempts by the number of their job, written here.
    """

    def __init__(self, model: Model, log: list[list[Attempt]]) -> None:
        self.model = model
        self._log = log
        self._loop = running_loop()
        self._queue: OrderedDict[Attempt, None] = OrderedDict()
        self._working: dict[Attempt, None] = {}
        for fault in model.faults:
            if fault.is_deadly:
                self._loop.call_at(self._loop.start_s + fault.begins_s, self._die, fault.kind)

    async def serve(self, job: Job, timeout_s: float) -> End:
        """Send it a task and wait for at most `timeout_s`; how it ended is also written to the log of its job."""
        now_s = self._now_s()
        attempt = Attempt(job, self.model, now_s, now_s + timeout_s)
        self._log[job.number].append(attempt)
        fault = self.model.fault_at(now_s)
        try:
            if fault is not None and fault.is_deadly:
                attempt.end = await _refuse(fault.kind, timeout_s)
            else:
                attempt.end = await self._take(attempt)
        finally:
            self._forget(attempt)
            attempt.ended_s = self._now_s()
        return attempt.end

    async def is_well(self) -> bool:
        """Ask how it is; only the dead do not say that they are well."""
        fault = self.model.fault_at(self._now_s())
        if fault is None or not fault.is_deadly:
            return True
        await _refuse(fault.kind, PROBE_TIMEOUT_S)
        return False

    def _now_s(self) -> float:
        return self._loop.time() - self._loop.start_s

    async def _take(self, attempt: Attempt) -> End:
        attempt.future = self._loop.create_future()
        if len(self._working) < self.model.slots:
            self._begin(attempt)
        else:
            self._queue[attempt] = None
            self._settle_at(attempt, attempt.gives_up_s, End.TIMEOUT)
        return await attempt.future

    def _begin(self, attempt: Attempt) -> None:
        self._working[attempt] = None
        attempt.began_s = self._now_s()
        done_s = self.model.finishes_s(attempt.began_s, attempt.job.size_s)
        if done_s <= attempt.gives_up_s:
            self._settle_at(attempt, done_s, End.DONE)
        else:
            self._settle_at(attempt, attempt.gives_up_s, End.TIMEOUT)

    def _settle_at(self, attempt: Attempt, at_s: float, end: End) -> None:
        if attempt.timer is not None:
            attempt.timer.cancel()
        attempt.timer = self._loop.call_at(self._loop.start_s + at_s, self._settle, attempt, end)

    def _settle(self, attempt: Attempt, end: End) -> None:
        self._forget(attempt)
        if attempt.future is not None and not attempt.future.done():
            attempt.future.set_result(end)

    def _forget(self, attempt: Attempt) -> None:
        """Give back the slot, or the place in the queue."""
        if attempt.timer is not None:
            attempt.timer.cancel()
        if attempt in self._working:
            self._stop(attempt)
            self._next()
        else:
            self._queue.pop(attempt, None)

    def _stop(self, attempt: Attempt) -> None:
        del self._working[attempt]
        attempt.worked_s = self._now_s() - attempt.began_s

    def _next(self) -> None:
        while self._queue and len(self._working) < self.model.slots:
            self._begin(self._queue.popitem(last=False)[0])

    def _die(self, kind: FaultKind) -> None:
        lost = [*self._working, *self._queue]
        self._queue.clear()
        for attempt in [*self._working]:
            self._stop(attempt)
        for attempt in lost:
            if kind is FaultKind.CRASHED:
                self._settle(attempt, End.RESET)
            else:
                self._settle_at(attempt, attempt.gives_up_s, End.TIMEOUT)


async def _refuse(kind: FaultKind, timeout_s: float) -> End:
    if kind is FaultKind.CRASHED:
        await asyncio.sleep(min(REFUSAL_S, timeout_s))
        return End.REFUSED
    await asyncio.sleep(min(CONNECT_TIMEOUT_S, timeout_s))
    return End.UNREACHABLE
