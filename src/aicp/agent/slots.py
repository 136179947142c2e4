"""The agent's slots: a call takes one or is refused at once; nothing ever waits inside an agent."""

RETRY_AFTER_MS_MIN = 50
RETRY_AFTER_MS_MAX = 60_000
NEWEST_WEIGHT = 0.2


class Slots:
    """A fixed number of places for executions, and an estimate of when the next one will be free.

    Args:
        limit: How many executions may run at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken_at: dict[int, float] = {}
        self._last = 0
        self._mean_s: float | None = None

    @property
    def full(self) -> bool:
        """True when the next call would be refused."""
        return len(self._taken_at) >= self._limit

    def take(self, now: float) -> int:
        """Take a slot at monotonic second `now`: its number (positive), or 0 when all are taken."""
        if self.full:
            return 0
        self._last += 1
        self._taken_at[self._last] = now
        return self._last

    def give_back(self, slot: int, now: float) -> None:
        """Free a slot and learn how long it was held; giving it back twice does nothing."""
        taken_at = self._taken_at.pop(slot, None)
        if taken_at is None:
            return
        held_s = now - taken_at
        mean_s = held_s if self._mean_s is None else self._mean_s
        self._mean_s = mean_s + NEWEST_WEIGHT * (held_s - mean_s)

    def retry_after_ms(self, now: float) -> int:
        """When a slot will probably be free, 50 to 60,000 milliseconds from `now`."""
        return round(min(max(self._wait_s(now) * 1000, RETRY_AFTER_MS_MIN), RETRY_AFTER_MS_MAX))

    def _wait_s(self, now: float) -> float:
        if not self._taken_at:
            return 0.0
        # Slots are kept in the order they were taken, so the first is the oldest.
        oldest_s = now - next(iter(self._taken_at.values()))
        if self._mean_s is None:
            return oldest_s  # nothing is known but this: what has lasted so long may last as long again
        overdue = oldest_s >= self._mean_s
        return self._mean_s / self._limit if overdue else self._mean_s - oldest_s
