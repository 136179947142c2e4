"""How many tasks came lately: the rate that the expected wait leaves to other priorities."""

import pytest

from aicp.model.task import Priority
from aicp.scheduling.arrivals import SPAN_S, WINDOW_S, Arrivals

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW


BEGAN_S = 1_000.0


def steady(per_s: int, span_s: int) -> Arrivals:
    arrivals = Arrivals()
    for second in range(span_s):
        for _ in range(per_s):
            arrivals.note(NORMAL, BEGAN_S + second)
    return arrivals


def test_nothing_came_yet() -> None:
    assert [Arrivals().per_s(each, 1_000.0) for each in Priority] == [0.0, 0.0, 0.0]


def test_priorities_are_counted_apart() -> None:
    arrivals = steady(4, 60)
    arrivals.note(HIGH, BEGAN_S + 59.0)
    assert arrivals.per_s(LOW, BEGAN_S + 60.0) == 0.0
    assert 0 < arrivals.per_s(HIGH, BEGAN_S + 60.0) < arrivals.per_s(NORMAL, BEGAN_S + 60.0)


@pytest.mark.parametrize("span_s", [10, 30, 60, 600])
def test_a_steady_rate_is_found(span_s: int) -> None:
    assert steady(4, span_s).per_s(NORMAL, BEGAN_S + span_s) == pytest.approx(4.0, rel=0.05)


def test_what_came_in_less_than_five_seconds_counts_as_if_it_had_come_in_five() -> None:
    arrivals = Arrivals()
    for _ in range(10):
        arrivals.note(NORMAL, 100.0)
    assert arrivals.per_s(NORMAL, 100.0) == 10 / SPAN_S


def test_what_came_more_than_half_a_minute_ago_is_forgotten() -> None:
    arrivals = steady(100, 60)
    assert arrivals.per_s(NORMAL, BEGAN_S + 75.0) == pytest.approx(50.0, rel=0.2)
    assert arrivals.per_s(NORMAL, BEGAN_S + 60.0 + WINDOW_S + SPAN_S) == 0.0


def test_a_burst_fades_within_the_window() -> None:
    arrivals = steady(1, 30)
    for _ in range(300):
        arrivals.note(NORMAL, BEGAN_S + 30.0)
    rates = [arrivals.per_s(NORMAL, BEGAN_S + 30.0 + later_s) for later_s in (0, 10, 20, 30, 40, 70)]
    assert rates[0] == pytest.approx(11.0, rel=0.15)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0.0
