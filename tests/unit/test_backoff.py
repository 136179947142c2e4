"""Waits grow from 1 s by half to 60 s, and are drawn within a tenth of that (section 2, rule 6)."""

import itertools
import math
import random
from typing import Any

import pytest

from aicp.resilience.backoff import Backoff


def waits(backoff: Backoff, count: int) -> list[float]:
    return list(
        itertools.accumulate(range(count - 1), lambda wait_s, _: backoff.after(wait_s), initial=backoff.after(0))
    )


def test_waits_are_1_and_a_half_times_the_one_before() -> None:
    assert waits(Backoff(), 4) == [1.0, 1.5, 2.25, 3.375]


def test_no_wait_is_longer_than_a_minute() -> None:
    grown = waits(Backoff(), 100)
    assert grown[10] < 60.0 < grown[10] * 1.5
    assert set(grown[11:]) == {60.0}


def test_a_wait_is_drawn_within_a_tenth_of_itself() -> None:
    asked: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        asked.append((low, high))
        return high

    assert Backoff().jittered(40.0, uniform) == pytest.approx(44.0)
    ((low, high),) = asked
    assert (low, high) == pytest.approx((0.9, 1.1))


def test_draws_use_the_whole_range() -> None:
    rng = random.Random(1)
    drawn = [Backoff().jittered(10.0, rng.uniform) for _ in range(1_000)]
    assert 9.0 <= min(drawn) < 9.1
    assert 10.9 < max(drawn) <= 11.0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"first_s": 0.0}, "first_s"),
        ({"first_s": -1.0}, "first_s"),
        ({"first_s": math.nan}, "first_s"),
        ({"first_s": 2.0, "max_s": 1.0}, "max_s"),
        ({"factor": 0.5}, "factor"),
        ({"jitter": 1.0}, "jitter"),
        ({"jitter": -0.1}, "jitter"),
    ],
)
def test_a_backoff_that_would_not_wait_or_not_grow_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Backoff(**options)
