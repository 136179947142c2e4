"""Keeps retries a fraction of the traffic, so that failing over never becomes the overload."""

import math
import time
from collections.abc import Callable

# A sum of floats may come out a little short: whoever waited as long as told shall not be told to wait 0.1 ns more.
_A_TOKEN = 1 - 1e-6


class RetryBudget:
    """A bucket of tokens: each first attempt puts a share of one in, time puts some in, each retry takes one out.

    Args:
        share: Tokens per first attempt.
        per_s: Tokens per second besides.
        max_tokens: The bucket's size; also what it begins with.
        clock: Monotonic seconds.

    Source: Finagle's RetryBudget.
    """

    __slots__ = ("_at", "_clock", "_max_tokens", "_per_s", "_share", "_tokens")

    def __init__(
        self,
        share: float = 0.2,
        per_s: float = 10.0,
        max_tokens: float = 100.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._share = share
        self._per_s = per_s
        self._max_tokens = max_tokens
        self._clock = clock
        self._tokens = max_tokens
        self._at = clock()

    def deposit(self) -> None:
        """A first attempt was made."""
        self._tokens = min(self._max_tokens, self._tokens + self._share)

    def withdraw(self) -> float:
        """Take a token for a retry: 0 when there was one, else the seconds until time will have put one in."""
        now = self._clock()
        self._tokens = min(self._max_tokens, self._tokens + (now - self._at) * self._per_s)
        self._at = now
        if self._tokens >= _A_TOKEN:
            self._tokens -= 1
            return 0.0
        return (1 - self._tokens) / self._per_s if self._per_s else math.inf
