"""How much one key may ask for."""

import pytest

from aicp.model.access import NO_LIMITS, KeyLimits
from aicp.server.limits import TooManyRequests, Usage
from aicp.testing import ManualClock


def usage(limits: KeyLimits) -> tuple[Usage, ManualClock]:
    clock = ManualClock()
    return Usage(limits, clock.monotonic), clock


def taken(one: Usage, tries: int) -> int:
    """How many of some requests at once are let in; each has ended before the next."""
    done = 0
    for _ in range(tries):
        try:
            one.enter()
        except TooManyRequests:
            continue
        one.leave()
        done += 1
    return done


def test_key_without_limits_is_never_refused() -> None:
    one, _ = usage(NO_LIMITS)
    for _ in range(10_000):
        one.enter()


@pytest.mark.parametrize(("rate", "burst"), [(0.5, 1), (1.0, 1), (10.0, 10), (100.0, 100)])
def test_what_a_second_gives_may_come_at_once_and_then_it_trickles(rate: float, burst: int) -> None:
    one, clock = usage(KeyLimits(rate_per_s=rate))
    assert taken(one, 3 * burst) == burst
    for _ in range(5):
        clock.advance(1.0001 / rate)
        assert taken(one, 3) == 1


def test_pause_of_a_day_gives_no_more_than_a_second_does() -> None:
    one, clock = usage(KeyLimits(rate_per_s=10.0))
    clock.advance(86_400.0)
    assert taken(one, 100) == 10


def test_refusal_says_when_one_more_has_a_chance_and_keeps_the_word() -> None:
    one, clock = usage(KeyLimits(rate_per_s=0.25))
    assert taken(one, 1) == 1
    with pytest.raises(TooManyRequests, match=r"0\.25 requests a second") as refused:
        one.enter()
    assert 3.9 < refused.value.retry_after_s <= 4.0
    clock.advance(refused.value.retry_after_s + 1e-6)
    assert taken(one, 1) == 1


def test_requests_at_once_are_counted_until_they_end() -> None:
    one, _ = usage(KeyLimits(concurrency=2))
    one.enter()
    one.enter()
    with pytest.raises(TooManyRequests, match="2 requests under way") as refused:
        one.enter()
    assert refused.value.retry_after_s > 0
    one.leave()
    one.enter()


def test_request_that_is_refused_for_its_number_costs_nothing_of_the_rate() -> None:
    one, _ = usage(KeyLimits(rate_per_s=2.0, concurrency=1))
    one.enter()
    for _ in range(10):
        with pytest.raises(TooManyRequests, match="under way"):
            one.enter()
    one.leave()
    one.enter()
