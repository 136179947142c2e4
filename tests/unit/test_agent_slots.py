from aicp.agent.slots import RETRY_AFTER_MS_MAX, Slots


def test_slot_is_refused_at_the_limit_and_free_again_when_given_back() -> None:
    slots = Slots(2)
    first, second = slots.take(0.0), slots.take(0.0)
    assert (first, second) == (1, 2)
    assert slots.take(0.0) == 0
    slots.give_back(first, 1.0)
    assert slots.take(1.0) == 3


def test_slot_given_back_twice_is_freed_once() -> None:
    slots = Slots(1)
    slot = slots.take(0.0)
    slots.give_back(slot, 1.0)
    assert slots.take(1.0)
    slots.give_back(slot, 2.0)
    assert slots.full


def test_estimate_is_the_mean_less_the_age_of_the_oldest() -> None:
    slots = Slots(2)
    slots.give_back(slots.take(0.0), 2.0)
    slots.take(10.0)
    slots.take(11.0)
    assert slots.retry_after_ms(11.5) == 500


def test_estimate_for_an_overdue_slot_is_the_usual_time_between_two_ends() -> None:
    slots = Slots(4)
    slots.give_back(slots.take(0.0), 2.0)
    slots.take(10.0)
    assert slots.retry_after_ms(20.0) == 500


def test_estimate_without_any_ended_execution_is_the_age_of_the_oldest() -> None:
    slots = Slots(1)
    slots.take(10.0)
    assert slots.retry_after_ms(13.0) == 3_000


def test_estimate_stays_within_its_bounds() -> None:
    slots = Slots(1)
    assert slots.retry_after_ms(0.0) == 50
    slots.take(0.0)
    assert slots.retry_after_ms(0.0) == 50
    assert slots.retry_after_ms(1e6) == RETRY_AFTER_MS_MAX


def test_mean_follows_the_newest_executions() -> None:
    slots = Slots(1)
    for start in range(0, 100, 10):
        slots.give_back(slots.take(start), start + 1.0)
    for start in range(100, 400, 10):
        slots.give_back(slots.take(start), start + 5.0)
    slots.take(1_000.0)
    assert 4_900 <= slots.retry_after_ms(1_000.0) <= 5_000
