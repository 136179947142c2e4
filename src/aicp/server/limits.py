"""How much one key may ask for: requests a second, and requests at once."""

from collections.abc import Callable

from aicp.errors import AicpError
from aicp.model.access import KeyLimits

BUSY_RETRY_S = 1.0


class TooManyRequests(AicpError):
    """The key sends more requests than it may.

    Attributes:
        retry_after_s: Seconds after which one more has a chance.
    """

    code = "too_many_requests"
    retryable = True

    def __init__(self, message: str, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class Usage:
    """What a key uses of its limits on this server. For one event loop.

    The rate is a bucket that holds what one second gives, at least one request, and is full at first.

    Args:
        limits: How much it may use.
        monotonic: Seconds.
    """

    __slots__ = ("_at", "_limits", "_monotonic", "_room", "_under_way")

    def __init__(self, limits: KeyLimits, monotonic: Callable[[], float]) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._at = monotonic()
        self._room = self._burst
        self._under_way = 0

    def enter(self) -> None:
        """A request begins; `leave` is owed when this returns.

        Raises:
            TooManyRequests: It is one too many; nothing is owed.
        """
        concurrency = self._limits.concurrency
        if concurrency is not None and self._under_way >= concurrency:
            told = f"This key has {self._under_way} requests under way, the most it may: wait for one of them."
            raise TooManyRequests(told, BUSY_RETRY_S)
        if self._limits.rate_per_s is not None:
            self._spend(self._limits.rate_per_s)
        self._under_way += 1

    def leave(self) -> None:
        """A request ended."""
        self._under_way -= 1

    @property
    def _burst(self) -> float:
        return max(1.0, self._limits.rate_per_s or 0.0)

    def _spend(self, rate_per_s: float) -> None:
        now = self._monotonic()
        self._room = min(self._burst, self._room + (now - self._at) * rate_per_s)
        self._at = now
        if self._room < 1.0:
            told = f"This key may send {rate_per_s:g} requests a second: send fewer."
            raise TooManyRequests(told, (1.0 - self._room) / rate_per_s)
        self._room -= 1.0
