"""How much one key may ask for: requests a second, and requests at once; and how often anybody may try to get in."""

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


class Bucket:
    """So many a second: it holds what one second gives, at least one, and is full at first.

    Args:
        rate_per_s: More than 0.
        monotonic: Seconds.
    """

    __slots__ = ("_at", "_burst", "_monotonic", "_rate_per_s", "_room")

    def __init__(self, rate_per_s: float, monotonic: Callable[[], float]) -> None:
        self._rate_per_s = rate_per_s
        self._burst = max(1.0, rate_per_s)
        self._monotonic = monotonic
        self._at = monotonic()
        self._room = self._burst

    @property
    def is_full(self) -> bool:
        """True when it is as a new one."""
        self._fill()
        return self._room >= self._burst

    def take(self) -> float:
        """Take one and return 0; when there is none, the seconds until there is."""
        self._fill()
        if self._room < 1.0:
            return (1.0 - self._room) / self._rate_per_s
        self._room -= 1.0
        return 0.0

    def _fill(self) -> None:
        now = self._monotonic()
        self._room = min(self._burst, self._room + (now - self._at) * self._rate_per_s)
        self._at = now


class Usage:
    """What a key uses of its limits on this server. For one event loop.

    Args:
        limits: How much it may use.
        monotonic: Seconds.
    """

    __slots__ = ("_bucket", "_limits", "_under_way")

    def __init__(self, limits: KeyLimits, monotonic: Callable[[], float]) -> None:
        self._limits = limits
        self._bucket = None if limits.rate_per_s is None else Bucket(limits.rate_per_s, monotonic)
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
        if self._bucket is not None and (wait_s := self._bucket.take()):
            told = f"This key may send {self._limits.rate_per_s:g} requests a second: send fewer."
            raise TooManyRequests(told, wait_s)
        self._under_way += 1

    def leave(self) -> None:
        """A request ended."""
        self._under_way -= 1


class Tries:
    """How often somebody may try something: so many times a second each, and so many in all. For one event loop.

    It remembers whoever tried within the last second, as many as may in all.

    Args:
        each_per_s: Of one.
        all_per_s: Of all together.
        monotonic: Seconds.
    """

    def __init__(self, each_per_s: float, all_per_s: float, monotonic: Callable[[], float]) -> None:
        self._each_per_s = each_per_s
        self._monotonic = monotonic
        self._all = Bucket(all_per_s, monotonic)
        self._by_who: dict[str, Bucket] = {}

    def enter(self, who: str) -> None:
        """Somebody tries.

        Raises:
            TooManyRequests: It is one too many.
        """
        self._by_who = {each: bucket for each, bucket in self._by_who.items() if not bucket.is_full}
        bucket = self._by_who.get(who) or Bucket(self._each_per_s, self._monotonic)
        if wait_s := bucket.take() or self._all.take():
            raise TooManyRequests("This is tried too often: try again later.", wait_s)
        self._by_who[who] = bucket
