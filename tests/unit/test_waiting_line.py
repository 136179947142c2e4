"""The line of one capability: who is next, who has left, and that it does not grow with those who left."""

import random
from typing import Any

import pytest

from aicp.model.task import Priority
from aicp.scheduling.lease import Unscheduled
from aicp.scheduling.waiting_line import KINDS_LOOKED_AT_MAX, Waiter, WaitingLine
from tests.unit.flow_kit import task, virtual

FOREVER = float("inf")


def waiter(
    ready_at: float = 0.0,
    priority: Priority = Priority.NORMAL,
    deadline: float = FOREVER,
    *,
    tried: frozenset[str] = frozenset(),
    gives_up: bool = False,
    **options: Any,
) -> Waiter:
    return Waiter(task(priority=priority, **options), ready_at, deadline, tried, gives_up=gives_up)


def line_of(*waiters: Waiter) -> WaitingLine:
    line = WaitingLine()
    for each in waiters:
        line.join(each)
    return line


def serve_next(line: WaitingLine) -> Waiter:
    first = line.first()
    assert first is not None
    first.seat_future.set_result(Unscheduled.ALL_OUT)
    line.leave(first)
    return first


def give_up(line: WaitingLine, waiter: Waiter) -> None:
    waiter.seat_future.cancel()
    line.leave(waiter)


@virtual
async def test_an_empty_line_has_nobody_first() -> None:
    assert WaitingLine().first() is None
    assert len(WaitingLine()) == 0


@virtual
async def test_who_came_first_is_first() -> None:
    early, late = waiter(1.0), waiter(2.0)
    line = line_of(late, early)
    assert [serve_next(line), serve_next(line)] == [early, late]
    assert len(line) == 0


@virtual
async def test_at_the_same_moment_the_earlier_deadline_goes_first_and_then_arrival() -> None:
    one, other, hurried = waiter(5.0), waiter(5.0), waiter(5.0, deadline=9.0)
    line = line_of(one, other, hurried)
    assert [serve_next(line) for _ in range(3)] == [hurried, one, other]


@pytest.mark.parametrize(
    ("polite", "slack_s"), [(Priority.HIGH, 0.0), (Priority.NORMAL, 1.0), (Priority.LOW, 3.0)]
)  # fmt: skip
@virtual
async def test_a_priority_lets_high_ones_go_first_for_its_slack_and_no_longer(polite: Priority, slack_s: float) -> None:
    waiting = waiter(10.0, polite)
    too_late = waiter(10.0 + slack_s + 0.01, Priority.HIGH)
    assert line_of(too_late, waiting).first() is waiting
    if slack_s:
        in_time = waiter(10.0 + slack_s - 0.01, Priority.HIGH)
        assert line_of(waiting, in_time).first() is in_time


@virtual
async def test_any_mixture_is_served_by_ready_time_and_slack() -> None:
    slack_s = {Priority.HIGH: 0.0, Priority.NORMAL: 1.0, Priority.LOW: 3.0}
    draw = random.Random(7)
    waiters = [waiter(draw.uniform(0, 10), draw.choice(list(Priority))) for _ in range(500)]
    line = line_of(*waiters)
    served = [serve_next(line) for _ in waiters]
    assert served == sorted(waiters, key=lambda w: w.since + slack_s[w.task.priority])


@virtual
async def test_who_has_left_is_never_first() -> None:
    gone, stays = waiter(1.0), waiter(2.0)
    line = line_of(gone, stays)
    give_up(line, gone)
    assert line.first() is stays
    assert list(line) == [stays]
    assert len(line) == 1


@virtual
async def test_the_choosy_stand_apart_and_are_never_first_of_those_who_take_anybody() -> None:
    tried, named = waiter(tried=frozenset({"a"})), waiter(agents=("a",))
    labelled, excluding = waiter(labels={"gpu": "yes"}), waiter(exclude_agents=("a",))
    line = line_of(tried, named, labelled, excluding)
    assert line.first() is None
    assert list(line.choosy()) == [tried, named, labelled, excluding]
    assert len(line) == 4


@virtual
async def test_the_choosy_who_ask_for_the_same_stand_in_one_queue_by_rank() -> None:
    late, early = waiter(2.0, labels={"gpu": "yes"}), waiter(1.0, labels={"gpu": "yes"})
    line = line_of(late, early)
    assert list(line.choosy()) == [early]
    give_up(line, early)
    assert list(line.choosy()) == [late]
    give_up(line, late)
    assert line.choosy() == []
    assert len(line) == 0


@virtual
async def test_only_a_bounded_number_of_kinds_is_looked_at_and_the_others_the_next_time() -> None:
    choosy = [waiter(agents=(f"a{number}",)) for number in range(2 * KINDS_LOOKED_AT_MAX + 10)]
    line = line_of(*choosy)
    looks = [line.choosy() for _ in range(3)]
    assert [len(look) for look in looks] == [KINDS_LOOKED_AT_MAX] * 3
    assert {each for look in looks for each in look} == set(choosy)


@virtual
async def test_only_those_who_give_up_or_tried_somebody_want_to_know_that_nobody_is_left() -> None:
    patient, direct, failing_over = waiter(), waiter(gives_up=True), waiter(tried=frozenset({"a"}))
    line = line_of(patient, direct, failing_over)
    assert list(line.impatient) == [direct, failing_over]
    give_up(line, direct)
    assert list(line.impatient) == [failing_over]


@virtual
async def test_the_line_does_not_grow_with_those_who_left_behind_one_who_waits_long() -> None:
    line = line_of(waiter(0.0))
    for moment in range(10_000):
        passing = waiter(1.0 + moment)
        line.join(passing)
        give_up(line, passing)
    assert len(line) == 1
    assert len(line._anybody._heap) < 1_000


@virtual
async def test_forgetting_those_who_left_keeps_the_order_of_those_who_stay() -> None:
    draw = random.Random(3)
    line, staying = WaitingLine(), []
    for _ in range(3_000):
        joined = waiter(draw.uniform(0, 100))
        line.join(joined)
        if draw.random() < 0.1:
            staying.append(joined)
        else:
            give_up(line, joined)
    assert [serve_next(line) for _ in staying] == sorted(staying, key=lambda w: w.since)
    assert len(line) == 0
