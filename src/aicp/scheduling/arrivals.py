"""How many tasks came lately, by priority."""

from collections import deque

from aicp.model.task import Priority

WINDOW_S = 30.0
SPAN_S = 5.0


class Arrivals:
    """Tasks that came to a pool in the last 30 s, counted in spans of 5 s."""

    def __init__(self) -> None:
        self._now = dict.fromkeys(Priority, 0)
        self._ended: deque[dict[Priority, int]] = deque(maxlen=int(WINDOW_S / SPAN_S))
        self._ends_at = 0.0

    def note(self, priority: Priority, now: float) -> None:
        """One came."""
        if now >= self._ends_at:
            self._roll(now)
        self._now[priority] += 1

    def per_s(self, priority: Priority, now: float) -> float:
        """How many came in a second, on average; of less than 5 s, as if they had come in 5."""
        if now >= self._ends_at:
            self._roll(now)
        count = self._now[priority] + sum(ended[priority] for ended in self._ended)
        current_s = SPAN_S - (self._ends_at - now)
        return count / max(SPAN_S, current_s + SPAN_S * len(self._ended))

    def _roll(self, now: float) -> None:
        if now - self._ends_at >= WINDOW_S:
            self._ended.clear()
            self._now = dict.fromkeys(Priority, 0)
            self._ends_at = now + SPAN_S
        while now >= self._ends_at:
            self._ended.append(self._now)
            self._now = dict.fromkeys(Priority, 0)
            self._ends_at += SPAN_S
