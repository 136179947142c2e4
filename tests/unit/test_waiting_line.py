"""The queue of one capability: which task is next, which have left, and that it does not grow with those that left."""

import math
import random
from collections import Counter
from typing import Any

import pytest

from aicp.model.agent import Capability
from aicp.model.task import Priority
from aicp.scheduling.fleet import Member, Pool, Seat
from aicp.scheduling.heap import MOVED_A_STEP
from aicp.scheduling.lease import Lease
from aicp.scheduling.waiter import FIRST_TASKS, ChainTurn, Waiter
from aicp.scheduling.waiting_line import LOOKS, WaitingLine
from tests.unit.flow_kit import ECHO, agent, task, virtual

GPU = {"gpu": "yes"}


class Bench:
    """A queue and the seats that ask it, each pool with its own memory of what it handed over."""

    def __init__(self, *waiters: Waiter) -> None:
        self.line = WaitingLine()
        self.shared, self.own = Pool(ECHO), Pool(ECHO, "rich")
        self.a = self.seat("a")
        for each in waiters:
            self.line.join(each)

    def seat(self, agent_id: str, labels: dict[str, str] | None = None, *, own: bool = False) -> Seat:
        return Seat(Member(agent(agent_id, labels=labels)), Capability(ECHO), self.own if own else self.shared)

    def first(self, seat: Seat | None = None, at: float = 0.0, *, plain: bool = True) -> Waiter | None:
        return self.line.first(seat or self.a, at, plain=plain)

    def serve(self, seat: Seat | None = None, at: float = 0.0) -> Waiter:
        seat = seat or self.a
        first = self.first(seat, at)
        assert first is not None
        self.line.serve(first, Lease(seat, 0, 1, 60.0, 0.0, math.inf))
        if first.chain is not None:
            first.chain.handed_over += not first.is_begun
        self.line.leave(first)
        return first

    def served(self, count: int, at: float = 0.0) -> list[Waiter]:
        return [self.serve(at=at) for _ in range(count)]


def waiter(
    ready_at: float = 0.0,
    priority: Priority = Priority.NORMAL,
    *,
    tried: frozenset[str] = frozenset(),
    gives_up: bool = False,
    tenant: str = "default",
    chain: ChainTurn | None = None,
    **options: Any,
) -> Waiter:
    wanted = task(priority=priority, **options)
    return Waiter(wanted, ready_at, tried=tried, gives_up=gives_up, tenant=tenant, chain=chain)


def many(count: int, *args: Any, **options: Any) -> list[Waiter]:
    return [waiter(*args, **options) for _ in range(count)]


def give_up(line: WaitingLine, waiter: Waiter) -> None:
    waiter.seat_future.cancel()
    line.leave(waiter)


@virtual
async def test_an_empty_queue_has_no_first() -> None:
    assert Bench().first() is None
    assert len(WaitingLine()) == 0


class TestAmongEquals:
    @virtual
    async def test_the_earlier_due_goes_first_and_then_the_earlier_arrival(self) -> None:
        one, other, hurried = waiter(5.0), waiter(5.0), waiter(7.0, deadline_s=9.0)
        bench = Bench(other, one, hurried)
        assert bench.served(3) == [hurried, one, other]
        assert len(bench.line) == 0

    @virtual
    async def test_a_chain_that_began_earlier_is_finished_before_a_later_one_is_begun(self) -> None:
        later = waiter(50.0)
        begun = waiter(60.0, chain=ChainTurn(1.0, 1_000))
        assert Bench(later, begun).served(2) == [begun, later]


class TestPriorities:
    @virtual
    async def test_those_that_wait_share_hand_overs_64_to_8_to_1(self) -> None:
        bench = Bench(*(each for priority in Priority for each in many(2_000, 0.0, priority)))
        had = Counter(each.task.priority for each in bench.served(730))
        assert had == {Priority.HIGH: 640, Priority.NORMAL: 80, Priority.LOW: 10}

    @virtual
    async def test_a_high_one_is_next_however_many_low_ones_came_before(self) -> None:
        bench = Bench(*many(300, 0.0, Priority.LOW))
        bench.served(40)
        high = waiter(5.0, Priority.HIGH)
        bench.line.join(high)
        assert bench.serve() is high

    @virtual
    async def test_what_a_priority_has_had_is_remembered_while_it_is_idle(self) -> None:
        bench = Bench(*many(1, 0.0, Priority.LOW), *many(200, 0.0, Priority.HIGH))
        bench.served(3)
        low = waiter(9.0, Priority.LOW)
        bench.line.join(low)
        assert low not in bench.served(55)
        assert low in bench.served(10)

    @virtual
    async def test_a_priority_that_could_not_be_served_saves_nothing_up(self) -> None:
        bench = Bench(*many(100, 0.0, Priority.HIGH, agents=("b",)), *many(100, 0.0, Priority.NORMAL))
        bench.served(50)
        had = Counter(bench.serve(bench.seat("b")).task.priority for _ in range(90))
        assert had[Priority.NORMAL] >= 9

    @virtual
    async def test_the_order_is_kept_for_each_pool(self) -> None:
        bench = Bench(*many(99, 0.0, Priority.LOW, tenant="rich"), *many(99, 0.0, Priority.NORMAL, tenant="rich"))
        own = bench.seat("own", own=True)
        assert [bench.serve(seat).task.priority for seat in (own, own, bench.a, bench.a)] == [
            Priority.NORMAL, Priority.LOW, Priority.NORMAL, Priority.LOW,
        ]  # fmt: skip


class TestTenants:
    @virtual
    async def test_they_take_turns_however_many_tasks_one_of_them_has(self) -> None:
        bench = Bench(*many(10, tenant="greedy"), *many(3, 20.0, tenant="modest"))
        served = [each.tenant for each in bench.served(8)]
        assert served == ["greedy", "modest"] * 3 + ["greedy", "greedy"]

    @virtual
    async def test_one_that_was_away_has_no_turns_to_catch_up_on(self) -> None:
        bench = Bench(*many(10, tenant="steady"))
        bench.served(5)
        for number in range(3):
            bench.line.join(waiter(50.0 + number, tenant="late"))
        assert sorted(each.tenant for each in bench.served(4)) == ["late", "late", "steady", "steady"]

    @virtual
    async def test_what_a_tenant_has_had_at_one_priority_counts_at_no_other(self) -> None:
        bench = Bench(*many(20, tenant="greedy"), *many(1, tenant="modest"))
        bench.served(20)
        for tenant in ("greedy", "modest"):
            for each in many(4, priority=Priority.HIGH, tenant=tenant):
                bench.line.join(each)
        assert Counter(each.tenant for each in bench.served(4)) == {"greedy": 2, "modest": 2}

    @virtual
    async def test_one_that_always_has_just_one_task_waiting_does_not_take_every_turn(self) -> None:
        bench = Bench(*many(10, tenant="steady"))
        served = []
        for moment in range(6):
            bench.line.join(waiter(50.0 + moment, tenant="nimble"))
            served.append(bench.serve().tenant)
            while bench.line.waiting("nimble"):
                served.append(bench.serve().tenant)
        assert served == ["steady", "nimble"] * 6

    @virtual
    async def test_a_task_that_gave_up_cost_its_tenant_no_turn(self) -> None:
        gone, stays, other = waiter(1.0, tenant="a"), waiter(2.0, tenant="a"), waiter(3.0, tenant="b")
        bench = Bench(gone, stays, other)
        give_up(bench.line, gone)
        assert bench.served(2) == [stays, other]

    @virtual
    async def test_an_agent_of_one_tenant_serves_no_other(self) -> None:
        bench = Bench(waiter(tenant="poor"), waiter(tenant="poor", agents=("own",)))
        assert bench.first(bench.seat("own", own=True)) is None

    @virtual
    async def test_one_whose_tasks_were_all_cut_off_and_have_not_left_keeps_its_place_for_new_ones(self) -> None:
        cut, fresh = waiter(tenant="a"), waiter(tenant="a")
        bench = Bench(cut)
        cut.seat_future.cancel()
        assert bench.first() is None
        bench.line.join(fresh)
        assert bench.first() is fresh


class TestClasses:
    @virtual
    async def test_the_first_64_tasks_of_a_chain_stand_before_the_rest_eight_to_one(self) -> None:
        large = ChainTurn(0.0, 1_000)
        bench = Bench(*many(500, 0.0, chain=large), *(waiter(10.0, chain=ChainTurn(10.0, 1_000)) for _ in range(500)))
        first = [each.chain for each in bench.served(FIRST_TASKS)]
        assert first == [large] * FIRST_TASKS
        had = Counter(each.chain is large for each in bench.served(90))
        assert had == {False: 80, True: 10}

    @virtual
    async def test_the_rest_of_large_chains_is_served_without_end_where_nothing_else_waits(self) -> None:
        bench = Bench(*many(500, 0.0, chain=ChainTurn(0.0, 1_000)))
        assert len(bench.served(500)) == 500
        assert len(bench.line) == 0

    @virtual
    async def test_what_a_chain_had_before_a_restart_counts(self) -> None:
        resumed, small = waiter(0.0, chain=ChainTurn(0.0, 1_000, handed_over=FIRST_TASKS)), waiter(10.0)
        assert Bench(resumed, small).served(2) == [small, resumed]

    @virtual
    async def test_a_task_that_is_tried_again_counts_once(self) -> None:
        chain = ChainTurn(0.0, 1_000)
        again = Waiter(task(), 0.0, chain=chain, is_begun=True)
        Bench(again).serve()
        assert chain.handed_over == 0

    @virtual
    async def test_one_of_the_rest_that_waited_for_half_of_its_deadline_counts_among_the_first(self) -> None:
        large = ChainTurn(0.0, 1_000, handed_over=FIRST_TASKS)
        old = waiter(0.0, chain=large, deadline_s=100.0)
        bench = Bench(*many(50, 40.0, deadline_s=70.0), old)
        assert bench.first(at=49.0) is not old
        assert bench.first(at=50.0) is old

    @virtual
    async def test_of_thousands_that_come_of_age_at_once_none_is_forgotten(self) -> None:
        bench = Bench(*many(1_000, 0.0, chain=ChainTurn(0.0, 1_000, handed_over=FIRST_TASKS)))
        assert len(bench.served(1_000, at=1_000.0)) == 1_000


class TestFilters:
    @virtual
    async def test_an_agent_gets_no_task_that_it_does_not_suit(self) -> None:
        tried, named = waiter(tried=frozenset({"a"})), waiter(agents=("b",))
        labelled, excluding = waiter(labels=GPU), waiter(exclude_agents=("a",))
        bench = Bench(tried, named, labelled, excluding)
        assert bench.first() is None
        assert bench.first(bench.seat("c", GPU)) in {tried, labelled, excluding}
        patient = waiter(9.0)
        bench.line.join(patient)
        assert bench.first() is patient
        assert bench.first(plain=False) is None
        assert len(bench.line) == 5

    @virtual
    async def test_a_task_whose_labels_and_names_exclude_each_other_suits_no_agent(self) -> None:
        stuck = waiter(agents=("a",), labels=GPU)
        bench = Bench(stuck)
        assert bench.first() is None
        assert bench.first(bench.seat("b", GPU)) is None
        assert bench.first(bench.seat("a", GPU)) is stuck

    @virtual
    async def test_those_that_ask_for_the_same_wait_in_one_group_in_order(self) -> None:
        late, early = waiter(2.0, labels=GPU), waiter(1.0, labels=GPU)
        bench = Bench(late, early)
        gpu = bench.seat("g", GPU)
        assert bench.first(gpu) is early
        give_up(bench.line, early)
        assert bench.first(gpu) is late
        give_up(bench.line, late)
        assert bench.first(gpu) is None
        assert len(bench.line) == 0

    @virtual
    async def test_filtered_and_plain_tasks_share_one_order(self) -> None:
        first, second, third = waiter(1.0), waiter(2.0, agents=("a",)), waiter(3.0)
        assert Bench(third, second, first).served(3) == [first, second, third]

    @pytest.mark.parametrize("options", [{"agents": ("gone",)}, {"labels": {"n": "gone"}}])
    @virtual
    async def test_an_agent_looks_at_no_group_that_names_what_it_has_not(self, options: dict[str, Any]) -> None:
        bench = Bench()
        for number in range(500):
            asked = {key: _numbered(value, number) for key, value in options.items()}
            bench.line.join(waiter(**asked))
        looked_at = [groups for lane in _lanes(bench.line) for groups in lane.under(bench.a.member.profile)]
        assert looked_at == []

    @virtual
    async def test_of_many_groups_that_suit_an_agent_a_few_are_compared_and_others_the_next_time(self) -> None:
        filtered = [waiter(agents=("a", f"a{number}")) for number in range(3 * LOOKS)]
        bench = Bench(*filtered)
        assert bench.line.unseen(bench.a) == 2 * LOOKS
        assert {bench.first() for _ in range(3)} <= set(filtered)
        assert set(bench.served(3 * LOOKS)) == set(filtered)

    @virtual
    async def test_a_plain_task_is_not_overlooked_among_many_groups_that_do_not_suit(self) -> None:
        bench = Bench(*[waiter(exclude_agents=("a", f"a{number}")) for number in range(10 * LOOKS)])
        patient = waiter(1.0)
        bench.line.join(patient)
        assert [bench.first() for _ in range(5)] == [patient] * 5

    @virtual
    async def test_only_groups_that_may_ask_for_an_agent_are_told_that_it_is_gone(self) -> None:
        patient, direct, again = waiter(), waiter(gives_up=True), waiter(tried=frozenset({"b"}))
        named, other = waiter(gives_up=True, agents=("a",)), waiter(gives_up=True, agents=("b",))
        bench = Bench(patient, direct, again, named, other)
        asked = {each for group in bench.line.impatient(None, bench.a.member.profile) for each in group}
        assert asked >= {direct, again, named}
        assert other not in asked


class TestGone:
    @virtual
    async def test_one_that_left_is_never_first(self) -> None:
        gone, stays = waiter(1.0), waiter(2.0)
        bench = Bench(gone, stays)
        give_up(bench.line, gone)
        assert bench.first() is stays
        assert list(bench.line) == [stays]
        assert len(bench.line) == 1

    @virtual
    async def test_one_that_was_served_and_has_not_left_yet_waits_no_longer(self) -> None:
        served = waiter(1.0)
        bench = Bench(served)
        assert bench.line.oldest_wait_s(4.0) == 3.0
        bench.line.serve(served, Lease(bench.a, 0, 1, 60.0, 0.0, math.inf))
        assert bench.line.oldest_wait_s(4.0) == 0.0

    @pytest.mark.parametrize("chain", [None, ChainTurn(0.0, 1_000), ChainTurn(0.0, 1_000, handed_over=FIRST_TASKS)])
    @virtual
    async def test_the_queue_does_not_grow_with_those_that_left(self, chain: ChainTurn | None) -> None:
        bench = Bench(waiter(0.0, chain=chain))
        for moment in range(3_000):
            passing = waiter(1.0 + moment, chain=chain)
            bench.line.join(passing)
            give_up(bench.line, passing)
        (group,) = bench.line._groups.values()
        assert len(bench.line) == 1
        assert sum(map(len, group._entries)) + len(group._ageing) < 1_000
        assert len(group.share.ages._heap) < 1_000

    @pytest.mark.parametrize("chain", [None, ChainTurn(0.0, 1_000), ChainTurn(0.0, 1_000, handed_over=FIRST_TASKS)])
    @virtual
    async def test_nobody_who_leaves_costs_a_look_at_all_who_came(
        self, chain: ChainTurn | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looks = 0

        def is_waiting(self: Waiter) -> bool:
            nonlocal looks
            looks += 1
            return not self.seat_future.done()

        crowd = [waiter(float(moment), chain=chain) for moment in range(3_000)]
        bench = Bench(*crowd)
        monkeypatch.setattr(Waiter, "is_waiting", property(is_waiting))
        for each in crowd:
            looks = 0
            give_up(bench.line, each)
            # Four heaps: of the group its two classes and those that age, and all of the tenant.
            assert looks <= 5 * MOVED_A_STEP

    @virtual
    async def test_the_queue_does_not_grow_with_groups_that_came_and_went(self) -> None:
        bench = Bench(waiter(0.0))
        for number in range(3_000):
            passing = [waiter(tenant=f"t{number}"), waiter(agents=(f"a{number}",))]
            for each in passing:
                bench.line.join(each)
            for each in passing:
                give_up(bench.line, each)
        assert len(bench.line._groups) == 1
        assert all(len(lane._plain) < 1_000 and not lane._by_key for lane in _lanes(bench.line))

    @virtual
    async def test_forgetting_those_that_left_keeps_the_order_of_those_that_stay(self) -> None:
        draw, bench, staying = random.Random(3), Bench(), []
        for _ in range(3_000):
            joined = waiter(draw.uniform(0, 100))
            bench.line.join(joined)
            if draw.random() < 0.1:
                staying.append(joined)
            else:
                give_up(bench.line, joined)
        assert bench.served(len(staying)) == sorted(staying, key=lambda each: each.place)
        assert len(bench.line) == 0


def _numbered(value: Any, number: int) -> Any:
    return tuple(f"{each}-{number}" for each in value) if isinstance(value, tuple) else {"n": f"gone-{number}"}


def _lanes(line: WaitingLine) -> list[Any]:
    return [lane for index in line._indexes.values() for lane in index.lanes.values()]
