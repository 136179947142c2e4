"""Retries are at most a fifth of the traffic, plus ten a second (section 4, rule 2)."""

import math

import pytest

from aicp.resilience.retry_budget import RetryBudget
from aicp.testing import ManualClock


def empty(clock: ManualClock, share: float = 0.2, per_s: float = 10.0) -> RetryBudget:
    budget = RetryBudget(share, per_s, max_tokens=3.0, clock=clock.monotonic)
    assert [budget.withdraw() for _ in range(3)] == [0.0, 0.0, 0.0]
    return budget


def granted(budget: RetryBudget, asked: int) -> int:
    return sum(budget.withdraw() == 0 for _ in range(asked))


def test_every_fifth_first_attempt_pays_for_a_retry() -> None:
    budget = empty(ManualClock())
    for _ in range(10):
        budget.deposit()
    assert granted(budget, asked=5) == 2


def test_time_pays_for_ten_retries_a_second() -> None:
    clock = ManualClock()
    budget = RetryBudget(clock=clock.monotonic)
    assert granted(budget, asked=200) == 100
    clock.advance(2.0)
    assert granted(budget, asked=200) == 20


def test_nothing_is_saved_beyond_the_size_of_the_bucket() -> None:
    clock = ManualClock()
    budget = empty(clock)
    for _ in range(1_000):
        budget.deposit()
    clock.advance(3_600.0)
    assert granted(budget, asked=100) == 3


def test_a_storm_of_retries_stays_a_fifth_of_the_traffic_plus_ten_a_second() -> None:
    clock = ManualClock()
    budget = RetryBudget(clock=clock.monotonic)
    granted_in_all = 0
    for _ in range(60):
        for _ in range(100):
            budget.deposit()
            granted_in_all += granted(budget, asked=3)
        clock.advance(1.0)
    assert granted_in_all <= 100 + 0.2 * 6_000 + 10 * 60
    assert granted_in_all >= 0.99 * (0.2 * 6_000 + 10 * 59)


@pytest.mark.parametrize("start_s", [0.0, 1_000.0, 1_000_000.1, 2.0**24 / 3])
def test_whoever_waits_as_long_as_told_gets_a_token(start_s: float) -> None:
    """However old the clock is: its floats grow coarse."""
    clock = ManualClock(start_s)
    budget = empty(clock)
    for _ in range(1_000):
        wait_s = budget.withdraw()
        assert 0 < wait_s < 0.101
        clock.advance(wait_s)
        assert budget.withdraw() == 0


def test_a_refusal_takes_nothing() -> None:
    clock = ManualClock()
    budget = empty(clock)
    first = budget.withdraw()
    assert [budget.withdraw() for _ in range(50)] == [first] * 50


def test_a_budget_of_traffic_alone_never_says_when() -> None:
    budget = empty(ManualClock(), per_s=0.0)
    assert budget.withdraw() == math.inf
    for _ in range(5):
        budget.deposit()
    assert budget.withdraw() == 0
