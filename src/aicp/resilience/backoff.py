"""How long to wait before trying again."""

from collections.abc import Callable

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Waits that grow: 1 s, 1.5 s, 2.25 s, … up to 60 s, each drawn within 10 % of that.

    Attributes:
        first_s: The first wait, seconds, more than 0.
        factor: How much longer the next one is, at least 1.
        max_s: None is longer, before jitter; at least `first_s`.
        jitter: Half-width of the draw, as a share of the wait, 0 to below 1.
    """

    first_s: float = 1.0
    factor: float = 1.5
    max_s: float = 60.0
    jitter: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what would not wait, or not grow.

        Raises:
            ValueError: A number is out of its range.
        """
        if not 0 < self.first_s <= self.max_s:
            raise ValueError("first_s must be more than 0 and at most max_s")
        if not self.factor >= 1:
            raise ValueError("factor must be at least 1")
        if not 0 <= self.jitter < 1:
            raise ValueError("jitter must be at least 0 and less than 1")

    def after(self, previous_s: float) -> float:
        """The wait after `previous_s`, without jitter; the first one after 0."""
        return min(previous_s * self.factor, self.max_s) if previous_s else self.first_s

    def jittered(self, wait_s: float, uniform: Callable[[float, float], float]) -> float:
        """The wait as it is drawn: `uniform(low, high)` gives the share."""
        return wait_s * uniform(1 - self.jitter, 1 + self.jitter)
