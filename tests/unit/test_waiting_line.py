"""The line of one capability: who is next, who has left, and that it does not grow with those who left."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from aicp.model.agent import Capability
from aicp.model.task import Priority
from aicp.scheduling.fleet import Member, Pool, Seat
from aicp.scheduling.lease import Lease
from aicp.scheduling.waiting_line import KINDS_LOOKED_AT_MAX, OWN_LEAD_MAX, Waiter, WaitingLine
from tests.unit.flow_kit import ECHO, agent, task, virtual

FOREVER = float("inf")
LEASE = Lease(Seat(Member(agent("a")), Capability(ECHO), Pool(ECHO)), 0, 1, 60.0, 0.0, FOREVER)
OWN_LEASE = Lease(Seat(Member(agent("b")), Capability(ECHO), Pool(ECHO, "rich")), 0, 1, 60.0, 0.0, FOREVER)


def waiter(
    ready_at: float = 0.0,
    priority: Priority = Priority.NORMAL,
    deadline: float = FOREVER,
    *,
    tried: frozenset[str] = frozenset(),
    gives_up: bool = False,
    tenant: str = "default",
    **options: Any,
) -> Waiter:
    return Waiter(task(priority=priority, **options), ready_at, deadline, tried, gives_up=gives_up, tenant=tenant)


def line_of(*waiters: Waiter) -> WaitingLine:
    line = WaitingLine()
    for each in waiters:
        line.join(each)
    return line


def anybody(_: Waiter) -> bool:
    return True


def nobody(_: Waiter) -> bool:
    return False


def first_of(line: WaitingLine, fits: Callable[[Waiter], bool] = anybody) -> Waiter | None:
    found = line.first(fits)
    return found[1] if found is not None else None


def serve_next(line: WaitingLine) -> Waiter:
    first = first_of(line)
    assert first is not None
    line.serve(first, LEASE)
    line.leave(first)
    return first


def give_up(line: WaitingLine, waiter: Waiter) -> None:
    waiter.seat_future.cancel()
    line.leave(waiter)


@virtual
async def test_an_empty_line_has_nobody_first() -> None:
    assert WaitingLine().first(anybody) is None
    assert len(WaitingLine()) == 0


@virtual
async def test_who_came_first_is_first() -> None:
    early, late = waiter(1.0), waiter(2.0)
    line = line_of(late, early)
    assert [serve_next(line), serve_next(line)] == [early, late]
    assert len(line) == 0


@virtual
async def test_the_earlier_deadline_goes_first_and_then_who_was_ready_first() -> None:
    one, other, hurried = waiter(5.0), waiter(6.0), waiter(7.0, deadline=9.0)
    line = line_of(other, one, hurried)
    assert [serve_next(line) for _ in range(3)] == [hurried, one, other]


@virtual
async def test_tenants_take_turns_however_many_tasks_one_of_them_has() -> None:
    greedy = [waiter(float(number), tenant="greedy") for number in range(10)]
    modest = [waiter(20.0 + number, tenant="modest") for number in range(3)]
    line = line_of(*greedy, *modest)
    served = [serve_next(line).tenant for _ in range(8)]
    assert served == ["greedy", "modest"] * 3 + ["greedy", "greedy"]


@virtual
async def test_a_tenant_that_was_away_has_no_turns_to_catch_up_on() -> None:
    line = line_of(*[waiter(float(number), tenant="steady") for number in range(10)])
    for _ in range(5):
        serve_next(line)
    for number in range(3):
        line.join(waiter(50.0 + number, tenant="late"))
    assert sorted(serve_next(line).tenant for _ in range(4)) == ["late", "late", "steady", "steady"]


@virtual
async def test_a_tenant_that_always_has_just_one_task_in_line_does_not_take_every_turn() -> None:
    line = line_of(*[waiter(float(number), tenant="steady") for number in range(10)])
    served = []
    for moment in range(6):
        line.join(waiter(50.0 + moment, tenant="nimble"))
        served.append(serve_next(line).tenant)
        while line.waiting("nimble"):
            served.append(serve_next(line).tenant)
    assert served == ["steady", "nimble"] * 6


def served_by_own(line: WaitingLine, tenant: str, times: int) -> None:
    for _ in range(times):
        own = line.first(anybody, tenant)
        assert own is not None
        line.serve(own[1], OWN_LEASE)
        line.leave(own[1])


@virtual
async def test_whom_its_own_agents_serve_leaves_the_shared_ones_to_others_until_they_had_as_many() -> None:
    rich = [waiter(float(number), tenant="rich") for number in range(20)]
    line = line_of(*rich, *[waiter(30.0 + number, tenant="poor") for number in range(6)])
    served_by_own(line, "rich", 3)
    assert [serve_next(line).tenant for _ in range(7)] == ["poor"] * 3 + ["rich", "poor"] * 2


@virtual
async def test_what_own_agents_did_for_one_tenant_puts_no_newcomer_behind_a_third() -> None:
    rich = [waiter(float(number), tenant="rich") for number in range(20)]
    line = line_of(*rich, *[waiter(30.0 + number, tenant="poor") for number in range(6)])
    served_by_own(line, "rich", 10)
    for number in range(3):
        line.join(waiter(60.0 + number, tenant="new"))
    assert [serve_next(line).tenant for _ in range(6)] == ["poor", "new"] * 3


@virtual
async def test_a_tenant_that_lost_its_own_agents_has_turns_at_the_shared_ones_soon() -> None:
    rich = [waiter(float(number), tenant="rich") for number in range(1_010)]
    line = line_of(*rich, *[waiter(2_000.0 + number, tenant="poor") for number in range(200)])
    served_by_own(line, "rich", 1_000)
    served = [serve_next(line).tenant for _ in range(OWN_LEAD_MAX + 10)]
    assert served[:OWN_LEAD_MAX] == ["poor"] * OWN_LEAD_MAX
    assert served[OWN_LEAD_MAX:] == ["rich", "poor"] * 5


@virtual
async def test_who_gave_up_cost_its_tenant_no_turn() -> None:
    gone, stays, other = waiter(1.0, tenant="a"), waiter(2.0, tenant="a"), waiter(3.0, tenant="b")
    line = line_of(gone, stays, other)
    give_up(line, gone)
    assert [serve_next(line) for _ in range(2)] == [stays, other]


@pytest.mark.parametrize(
    ("polite", "slack_s"), [(Priority.HIGH, 0.0), (Priority.NORMAL, 1.0), (Priority.LOW, 3.0)]
)  # fmt: skip
@virtual
async def test_a_priority_lets_high_ones_go_first_for_its_slack_and_no_longer(polite: Priority, slack_s: float) -> None:
    waiting = waiter(10.0, polite)
    too_late = waiter(10.0 + slack_s + 0.01, Priority.HIGH)
    assert first_of(line_of(too_late, waiting)) is waiting
    if slack_s:
        in_time = waiter(10.0 + slack_s - 0.01, Priority.HIGH)
        assert first_of(line_of(waiting, in_time)) is in_time


@virtual
async def test_one_that_nobody_suits_makes_no_others_of_its_priority_go_first() -> None:
    stuck = waiter(0.0, Priority.LOW, agents=("gone",))
    low = waiter(100.0, Priority.LOW)
    high = waiter(100.0, Priority.HIGH)
    line = line_of(stuck, low, high)
    assert first_of(line, nobody) is high
    assert first_of(line, anybody) is stuck


class NaiveLine:
    """The order, as plainly as it can be said: look at everybody each time."""

    def __init__(self) -> None:
        self.waiting: list[Waiter] = []
        self.clocks: dict[tuple[Priority, str], tuple[int, int]] = {}
        self.lane_clocks = dict.fromkeys(Priority, 0)
        self.came = 0

    def join(self, waiter: Waiter) -> None:
        priority, mine = waiter.task.priority, (waiter.task.priority, waiter.tenant)
        if not any((each.task.priority, each.tenant) == mine for each in self.waiting):
            self.came += 1
            clock, _ = self.clocks.get(mine, (0, 0))
            self.clocks[mine] = (max(clock, self.lane_clocks[priority]), self.came)
        self.waiting.append(waiter)

    def serve(self) -> Waiter:
        slack_s = {Priority.HIGH: 0.0, Priority.NORMAL: 1.0, Priority.LOW: 3.0}
        priority = min(self.waiting, key=lambda each: each.since + slack_s[each.task.priority]).task.priority
        lane = [each for each in self.waiting if each.task.priority is priority]
        tenant = min(lane, key=lambda each: self.clocks[priority, each.tenant]).tenant
        served = min((each for each in lane if each.tenant == tenant), key=lambda each: each.turn)
        clock, _ = self.clocks[priority, tenant]
        self.lane_clocks[priority] = max(self.lane_clocks[priority], clock)
        self.came += 1
        self.clocks[priority, tenant] = (clock + 1, self.came)
        self.leave(served)
        return served

    def leave(self, waiter: Waiter) -> None:
        self.waiting.remove(waiter)


@pytest.mark.parametrize("seed", range(20))
@virtual
async def test_any_mixture_is_served_as_the_plain_reading_of_the_rules_says(seed: int) -> None:
    draw = random.Random(seed)
    line, plain = WaitingLine(), NaiveLine()
    for moment in range(400):
        what = draw.random()
        if what < 0.55 or not plain.waiting:
            joined = waiter(
                float(moment) + draw.random(),
                draw.choice(list(Priority)),
                draw.choice([FOREVER, moment + draw.uniform(1, 50)]),
                tenant=draw.choice("abc"),
            )
            line.join(joined)
            plain.join(joined)
        elif what < 0.9:
            assert serve_next(line) is plain.serve()
        else:
            gone = draw.choice(plain.waiting)
            plain.leave(gone)
            give_up(line, gone)
        assert len(line) == len(plain.waiting)


@virtual
async def test_who_has_left_is_never_first() -> None:
    gone, stays = waiter(1.0), waiter(2.0)
    line = line_of(gone, stays)
    give_up(line, gone)
    assert first_of(line) is stays
    assert list(line) == [stays]
    assert len(line) == 1


@virtual
async def test_who_was_served_and_has_not_left_yet_waits_no_more() -> None:
    served = waiter(1.0)
    line = line_of(served)
    assert line.oldest_wait_s(4.0) == 3.0
    line.serve(served, LEASE)
    assert line.oldest_wait_s(4.0) == 0.0


@virtual
async def test_the_choosy_are_passed_over_by_an_agent_that_does_not_suit_them() -> None:
    tried, named = waiter(tried=frozenset({"a"})), waiter(agents=("a",))
    labelled, excluding = waiter(labels={"gpu": "yes"}), waiter(exclude_agents=("a",))
    line = line_of(tried, named, labelled, excluding)
    assert first_of(line, nobody) is None
    assert first_of(line, lambda each: each is labelled) is labelled
    patient = waiter(9.0)
    line.join(patient)
    assert first_of(line, nobody) is patient
    assert len(line) == 5


@virtual
async def test_the_choosy_who_ask_for_the_same_stand_in_one_queue() -> None:
    late, early = waiter(2.0, labels={"gpu": "yes"}), waiter(1.0, labels={"gpu": "yes"})
    line = line_of(late, early)
    assert first_of(line) is early
    give_up(line, early)
    assert first_of(line) is late
    give_up(line, late)
    assert first_of(line) is None
    assert len(line) == 0


@virtual
async def test_of_many_kinds_a_bounded_number_is_compared_and_others_the_next_time() -> None:
    choosy = [waiter(agents=(f"a{number}",)) for number in range(2 * KINDS_LOOKED_AT_MAX + 10)]
    line = line_of(*choosy)
    looks: list[list[Waiter]] = [[], [], []]
    for look in looks:

        def note(each: Waiter, look: list[Waiter] = look) -> bool:
            look.append(each)
            return True

        line.first(note)
    assert [len(look) for look in looks] == [KINDS_LOOKED_AT_MAX] * 3
    assert {each for look in looks for each in look} == set(choosy)


@pytest.mark.parametrize("number", [0, KINDS_LOOKED_AT_MAX, 3 * KINDS_LOOKED_AT_MAX - 1])
@virtual
async def test_an_agent_is_found_by_whoever_it_suits_among_however_many_kinds(number: int) -> None:
    choosy = [waiter(agents=(f"a{each}",)) for each in range(3 * KINDS_LOOKED_AT_MAX)]
    line = line_of(*choosy)
    for _ in range(5):
        assert first_of(line, lambda each: each is choosy[number]) is choosy[number]


@virtual
async def test_who_takes_anybody_is_not_overlooked_among_many_kinds_of_choosy() -> None:
    line = line_of(*[waiter(agents=(f"a{number}",)) for number in range(2 * KINDS_LOOKED_AT_MAX)])
    patient = waiter(1.0)
    line.join(patient)
    assert [first_of(line, nobody) for _ in range(5)] == [patient] * 5


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
    assert len(line._lanes[Priority.NORMAL]._by_age._heap) < 1_000


@pytest.mark.parametrize("lease", ["shared", "own"])
@virtual
async def test_the_line_does_not_grow_with_the_turns_a_tenant_had(lease: str) -> None:
    line = line_of(waiter(0.0, tenant="rich"))
    for moment in range(3_000):
        line.join(waiter(1.0 + moment, tenant="rich"))
        first = first_of(line)
        assert first is not None
        line.serve(first, OWN_LEASE if lease == "own" else LEASE)
        line.leave(first)
    assert len(line._lanes[Priority.NORMAL]._by_clock) < 1_000


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
