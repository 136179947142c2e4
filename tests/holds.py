"""How long work holds the loop, on a machine that does other things meanwhile."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from aicp.testing import LoopHoldMeter

ROUNDS_MAX = 3

T = TypeVar("T")


async def held_at_most(most_ms: float, work: Callable[[], Awaitable[T]]) -> T:
    """The result of work that holds the loop no longer than that, judged by the best of three rounds.

    What the work does by itself takes as long every time; what a busy machine adds, does not.
    """
    for number in range(ROUNDS_MAX):
        async with LoopHoldMeter() as meter:
            result = await work()
        if meter.longest.held_ms <= most_ms or number == ROUNDS_MAX - 1:
            break
    meter.check(most_ms)
    return result
