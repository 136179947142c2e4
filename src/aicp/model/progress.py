"""How far time has really progressed, as recorded: the wall clock, and the steps that it took meanwhile."""

from datetime import datetime

import msgspec


class ClockStep(msgspec.Struct, frozen=True):
    """A change of the wall clock that no observed passing of time explains.

    Attributes:
        size_s: Seconds forward; negative for a step back.
        at_s: The progress at which it was seen, seconds.
        before: The wall clock right before it, UTC.
        was_down: True when no process was running: the time may have passed, or the clock may be wrong.
    """

    size_s: float
    at_s: float
    before: datetime
    was_down: bool = False


class ClockState(msgspec.Struct, frozen=True):
    """What is recorded of the passing of time.

    Attributes:
        wall: The wall clock at the last look, UTC.
        progress_s: Seconds that passed while some process observed them, by the monotonic clock.
        steps: Steps of the wall clock that still matter, oldest first.
    """

    wall: datetime
    progress_s: float = 0.0
    steps: tuple[ClockStep, ...] = ()
