"""How long to wait before trying again."""

from collections.abc import Callable

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Waits that grow: 1 s, 1.5 s, 2.25 s, … up to 60 s, each drawn within 10 % of that.

    Attributes:
        first_s: The first wait, seconds.
        factor: How much longer the next one is.
        max_s: None is longer, before jitter.
        jitter: Half-width of the draw, as a share of the wait.
    """

    first_s: float = 1.0
    factor: float = 1.5
    max_s: float = 60.0
    jitter: float = 0.1

    def after(self, previous_s: float) -> float:
        """The wait after `previous_s`, without jitter; the first one after 0."""
        return min(previous_s * self.factor, self.max_s) if previous_s else self.first_s

    def jittered(self, wait_s: float, uniform: Callable[[float, float], float]) -> float:
        """The wait as it is drawn: `uniform(low, high)` gives the share."""
        return wait_s * uniform(1 - self.jitter, 1 + self.jitter)
