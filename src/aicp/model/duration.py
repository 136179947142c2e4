"""Durations between recorded times."""

from datetime import datetime


def seconds_between(start: datetime, end: datetime) -> float:
    """Seconds from `start` to `end`, never negative: older versions recorded ends by a clock that was set back."""
    return max(0.0, (end - start).total_seconds())
