"""The public test kit: time that tests command."""

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
