"""The public test kit: time that tests command, and a meter of how long an event loop is held."""

from aicp.testing.loop_holds import LoopHold, LoopHoldMeter
from aicp.testing.virtual_time import (
    DeadlockError,
    LeakedTasksError,
    ManualClock,
    StepLimitError,
    StuckThreadError,
    TimeLimitError,
    Trace,
    VirtualClock,
    VirtualTimeError,
    VirtualTimeLoop,
    run,
    running_loop,
)

__all__ = [
    "DeadlockError",
    "LeakedTasksError",
    "LoopHold",
    "LoopHoldMeter",
    "ManualClock",
    "StepLimitError",
    "StuckThreadError",
    "TimeLimitError",
    "Trace",
    "VirtualClock",
    "VirtualTimeError",
    "VirtualTimeLoop",
    "run",
    "running_loop",
]
