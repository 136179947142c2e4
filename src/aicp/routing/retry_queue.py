"""Retries of one capability, one behind the other: each waits for a token of the budget, first come, first served."""

import asyncio
from collections.abc import Callable

from aicp.resilience.retry_budget import RetryBudget

SHORTEST_WAIT_S = 0.001


class RetryQueue:
    """A retry budget and those who wait for it. Only the first of them looks at the budget, whatever their number.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._budget = RetryBudget(clock=clock)
        self._turn = asyncio.Lock()

    def deposit(self) -> None:
        """A first attempt is made."""
        self._budget.deposit()

    async def withdraw(self) -> None:
        """Take a token for a retry; waits until there is one."""
        async with self._turn:
            while wait_s := self._budget.withdraw():  # noqa: ASYNC110 - tokens come with time; no event tells
                await asyncio.sleep(max(wait_s, SHORTEST_WAIT_S))
