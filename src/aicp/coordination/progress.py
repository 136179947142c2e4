"""Progress: how old something recorded is by the smaller of the wall clock and the monotonic clock.

Deletions cannot be undone, and a wall clock can be wrong for a minute. So the wall clock is compared with the monotonic
clock at each look, and a difference is recorded as a *step*:

| step                          | how long a deletion leaves it out of the age of what was recorded before it         |
|-------------------------------|--------------------------------------------------------------------------------------|
| forward, while a process ran  | until as much progress has been observed since as the data is retained for, and a    |
|                               | day, as a chain keeps its own time until its end                                     |
| forward, while none ran       | for an hour, then it is worked off at 24 times the speed of time, or as above        |
| back                          | it only makes up for an earlier step forward                                         |

The recorded state survives a restart, and replicas share it.
"""

import logging
import math
from datetime import datetime, timedelta
from itertools import accumulate

from aicp.model.chain import DEFAULT_CHAIN_DEADLINE_S
from aicp.model.progress import ClockState, ClockStep
from aicp.ports import NEVER, Clock, ClockRecord

STEP_S_MIN = 1.0
"""Differences below this are drift, delays of a look, or a clock that is being slewed."""
DOWN_S_MIN = 60.0
"""A process that was gone for less is one that was restarted."""
DOWN_GRACE_S = 3_600.0
CATCH_UP_SPEED = 24.0
FIRST_DOUBT = timedelta(days=30)
STEPS_MAX = 64

_log = logging.getLogger(__name__)


def first_state(wall: datetime) -> ClockState:
    """The state of a record that has none: how long it was in use before is unknown."""
    return ClockState(wall, 0.0, (ClockStep(FIRST_DOUBT.total_seconds(), 0.0, wall - FIRST_DOUBT, was_down=True),))


def advanced(state: ClockState, wall: datetime, elapsed_s: float | None) -> ClockState:
    """The state after a look.

    Args:
        state: As it was recorded last, by this process or another one.
        wall: The wall clock now, UTC.
        elapsed_s: Monotonic seconds since this process looked last, which is not after the state was recorded; None for
            its first look, when the process that recorded it may have been gone for any time.
    """
    passed_s = (wall - state.wall).total_seconds()
    observed_s = 0.0 if elapsed_s is None else max(0.0, elapsed_s)
    progress_s = state.progress_s + min(max(0.0, passed_s), observed_s)
    steps = [step for step in state.steps if not (step.was_down and _doubt_s(step, progress_s, math.inf) == 0)]
    size_s = passed_s - observed_s
    if passed_s <= -STEP_S_MIN or size_s >= (STEP_S_MIN if elapsed_s is not None else DOWN_S_MIN):
        before = state.wall + timedelta(seconds=observed_s)
        steps.append(ClockStep(size_s, progress_s, before, was_down=elapsed_s is None and size_s > 0))
    return ClockState(wall, progress_s, _few(steps))


def cutoff(state: ClockState, kept: timedelta) -> datetime:
    """What was recorded before this moment of the wall clock is older than `kept`, by both clocks."""
    kept_s = kept.total_seconds()
    doubts_s = [_doubt_s(step, state.progress_s, kept_s) for step in reversed(state.steps)]
    try:
        return state.wall - kept - timedelta(seconds=max(0.0, *accumulate(doubts_s), 0.0))
    except OverflowError:
        return NEVER


def stepped_since(state: ClockState, at: datetime) -> timedelta:
    """How far the wall clock was stepped forward since something was recorded `at`, while a process was running."""
    steps = (step.size_s for step in state.steps if step.before >= at and not step.was_down)
    return timedelta(seconds=sum(size_s for size_s in steps if size_s > 0))


class Progress:
    """Compares the clocks, records what it finds, and answers how old is old.

    Attributes:
        steps_seen: Steps of the wall clock, forward or back, since this process began.

    Args:
        clock: The wall clock and the monotonic clock of this process.
        record: Keeps the state; None to keep it in memory.
    """

    def __init__(self, clock: Clock, record: ClockRecord | None = None) -> None:
        self._clock = clock
        self._record = record
        self.steps_seen = 0
        self._state: ClockState | None = None
        self._looked_at_s: float | None = None

    async def look(self) -> None:
        """Compare the clocks, and record the outcome.

        Raises:
            StorageError: It could not be recorded; the next look covers the time of this one.
        """
        began_s = self._clock.monotonic()
        before = self._state
        if self._record is None:
            self._state = self._look_again(before, None)
        else:
            self._state = await self._record.update(self._look_again)
        self._looked_at_s = began_s
        self._report(before, self._state)

    def cutoff(self, kept: timedelta) -> datetime:
        """What was recorded before this moment may be deleted when it is retained for `kept`; UTC.

        It is as of the last look. Before the first one nothing may be deleted.
        """
        return NEVER if self._state is None else cutoff(self._state, kept)

    def stepped_since(self, at: datetime) -> timedelta:
        """How far the wall clock is known to have been stepped forward since something was recorded `at`."""
        return timedelta() if self._state is None else stepped_since(self._state, at)

    def _look_again(self, recorded: ClockState | None, record_wall: datetime | None) -> ClockState:
        """The new state; `record_wall` is the clock of the record where that has one of its own."""
        own = self._clock.utcnow()
        wall = own if record_wall is None else min(own, record_wall)
        if recorded is None:
            return first_state(wall)
        elapsed_s = None if self._looked_at_s is None else self._clock.monotonic() - self._looked_at_s
        return advanced(recorded, wall, elapsed_s)

    def _report(self, before: ClockState | None, state: ClockState) -> None:
        if not state.steps:
            return
        step = state.steps[-1]
        if before is None:
            if step.was_down and step.at_s >= state.progress_s > 0:
                _log_down(step)
        elif step not in before.steps:
            self.steps_seen += 1
            _log.warning(
                "wall clock stepped by %+.1f s, to %s: old data is deleted by the monotonic clock until the step is as "
                "old as the data is retained for",
                step.size_s,
                state.wall.isoformat(timespec="seconds"),
            )


def _log_down(step: ClockStep) -> None:
    if step.size_s >= DOWN_GRACE_S:
        _log.warning(
            "by the wall clock no server has used this record for %.1f h: old data is deleted only after %.0f min; if "
            "that time did not pass, correct the clock before then",
            step.size_s / 3_600,
            DOWN_GRACE_S / 60,
        )


def _doubt_s(step: ClockStep, progress_s: float, kept_s: float) -> float:
    """How much of a step is not part of the age of what was recorded before it."""
    since_s = progress_s - step.at_s
    if not step.was_down:
        return step.size_s if since_s < kept_s + DEFAULT_CHAIN_DEADLINE_S else 0.0
    if since_s >= kept_s:
        return 0.0
    return max(0.0, step.size_s - CATCH_UP_SPEED * max(0.0, since_s - DOWN_GRACE_S))


def _few(steps: list[ClockStep]) -> tuple[ClockStep, ...]:
    """At most `STEPS_MAX`: of two neighbours the younger one stands for both, so nothing is deleted any earlier."""
    while len(steps) > STEPS_MAX:
        place = min(range(len(steps) - 1), key=lambda index: _delay_of_joining(steps[index], steps[index + 1]))
        steps[place : place + 2] = [_joined(steps[place], steps[place + 1])]
    return tuple(steps)


def _delay_of_joining(first: ClockStep, second: ClockStep) -> float:
    return abs(first.size_s) * (second.at_s - first.at_s)


def _joined(first: ClockStep, second: ClockStep) -> ClockStep:
    return ClockStep(
        max(first.size_s + second.size_s, second.size_s),
        second.at_s,
        max(first.before, second.before),
        was_down=first.was_down and second.was_down,
    )
