"""Whatever happens to a queue: the next task is the one that the plain reading of the rules says.

The plain queue looks at everything each time. Tenants, filtered tasks, agents of one tenant, large chains, tasks that
come of age, those that are passed over because they had better wait, and those whose fate is decided but that have not
left yet are what this is about.
"""

import asyncio
import math
from collections import Counter, defaultdict
from typing import Any, ClassVar, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aicp.model.agent import Capability
from aicp.model.task import Priority, Task
from aicp.scheduling.fleet import Member, Pool, Seat
from aicp.scheduling.lease import Lease
from aicp.scheduling.waiter import FIRST_TASKS, ChainTurn, Waiter, suits
from aicp.scheduling.waiting_line import WaitingLine
from tests.property.conftest import Marathon
from tests.unit.flow_kit import ECHO, agent

WEIGHTS = {Priority.HIGH: 64, Priority.NORMAL: 8, Priority.LOW: 1}
FIRST_TO_REST = 8
TENANTS = ("acme", "bolt", "coil")
DEADLINE_S = 100.0
MUST_HAPPEN = ("none", "held", "own", "passed over", "left", "rest", "crossed", "came of age")

GPU, ZONE = {"gpu": "yes"}, {"zone": "a"}
AGENTS = {
    "plain": agent("plain", shared=True),
    "gpu": agent("gpu", shared=True, labels=GPU),
    "both": agent("both", shared=True, labels={**GPU, **ZONE}),
    "own": agent("own", tenant="acme", labels=GPU),
}
WISHES: list[dict[str, Any]] = [
    {},
    {},
    {},
    {"labels": GPU},
    {"labels": {**GPU, **ZONE}},
    {"agents": ("plain", "own")},
    {"agents": ("gpu",), "labels": ZONE},
    {"agents": ("gone",)},
    {"exclude_agents": ("plain",)},
    {"tried": frozenset({"gpu", "both"})},
]


class Turn(NamedTuple):
    """A tenant at a priority."""

    priority: Priority
    tenant: str


class Passes:
    """Stride scheduling, said plainly: what each has had, in shares of its weight, and never less than the clock."""

    def __init__(self) -> None:
        self.had: Counter[Any] = Counter()
        self.clock = 0

    def of(self, key: Any) -> int:
        return max(self.had[key], self.clock)

    def charge(self, key: Any, cost: int) -> None:
        self.clock = self.of(key)
        self.had[key] = self.clock + cost


class PlainQueue:
    """The rules, said plainly."""

    def __init__(self) -> None:
        self.waiting: list[Waiter] = []
        self.leaving: list[Waiter] = []
        self.priorities: defaultdict[str | None, Passes] = defaultdict(Passes)
        self.tenants: defaultdict[tuple[str | None, Priority], Passes] = defaultdict(Passes)
        self.classes: dict[Turn, Passes] = {}

    def join(self, waiter: Waiter) -> None:
        self.waiting.append(waiter)
        self.classes.setdefault(turn_of(waiter), Passes())

    def is_rest(self, waiter: Waiter, now: float) -> bool:
        return waiter.chain is not None and waiter.chain.handed_over >= FIRST_TASKS and now < waiter.half_at

    def best(self, seat: Seat, now: float, *, plain: bool) -> list[Waiter]:
        """Any of these may be next: they differ in the tenant alone, and these have had as much."""
        pool = seat.pool.tenant
        rivals = [each for each in self.waiting if pool in {None, each.tenant} and self.fits(each, seat, plain=plain)]
        if not rivals:
            return []
        passes = self.priorities[pool]
        priority = min({each.task.priority for each in rivals}, key=lambda one: (passes.of(one), -WEIGHTS[one]))
        rivals = [each for each in rivals if each.task.priority is priority]
        turns = self.tenants[pool, priority]
        least = min(turns.of(each.tenant) for each in rivals)
        tenants = {each.tenant for each in rivals if turns.of(each.tenant) == least}
        return [self.first_of([each for each in rivals if each.tenant == tenant], now) for tenant in tenants]

    def first_of(self, rivals: list[Waiter], now: float) -> Waiter:
        """Inside a tenant: by class, due time and arrival."""
        classes = self.classes[turn_of(rivals[0])]

        def rank(waiter: Waiter) -> tuple[int, bool, float, int]:
            is_rest = self.is_rest(waiter, now)
            return classes.of(is_rest), is_rest, waiter.due, waiter.arrival

        return min(rivals, key=rank)

    def fits(self, waiter: Waiter, seat: Seat, *, plain: bool) -> bool:
        if waiter.is_plain:
            return plain
        return seat.agent_id not in waiter.tried and suits(seat, waiter.task)

    def serve(self, waiter: Waiter, seat: Seat, now: float) -> None:
        pool, priority = seat.pool.tenant, waiter.task.priority
        self.priorities[pool].charge(priority, WEIGHTS[Priority.HIGH] // WEIGHTS[priority])
        self.tenants[pool, priority].charge(waiter.tenant, 1)
        self.classes[turn_of(waiter)].charge(*((True, FIRST_TO_REST) if self.is_rest(waiter, now) else (False, 1)))
        self.decide(waiter)

    def decide(self, waiter: Waiter) -> None:
        self.waiting.remove(waiter)
        self.leaving.append(waiter)

    def leave(self, waiter: Waiter) -> None:
        self.leaving.remove(waiter)
        turn = turn_of(waiter)
        if all(turn_of(each) != turn for each in (*self.waiting, *self.leaving)):
            del self.classes[turn]


def turn_of(waiter: Waiter) -> Turn:
    return Turn(waiter.task.priority, waiter.tenant)


class WaitingLineMachine(RuleBasedStateMachine):
    """A queue beside the plain one."""

    steps = 0
    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.line, self.model, self.now = WaitingLine(), PlainQueue(), 0.0
        pools = {None: Pool(ECHO), "acme": Pool(ECHO, "acme")}
        self.seats = {
            name: Seat(Member(profile), Capability(ECHO), pools[None if profile.shared else profile.tenant])
            for name, profile in AGENTS.items()
        }
        self.chains = {name: ChainTurn(float(name), 1_000) for name in (-50, -20, 0)}
        # Invariants are looked at before the first step too.
        WaitingLineMachine.steps -= 1

    @rule(
        priority=st.sampled_from(Priority),
        tenant=st.sampled_from(TENANTS),
        wish=st.sampled_from(WISHES),
        waited_s=st.sampled_from([0.0, 0.0, 0.5, 2.0, 10.0]),
        chain=st.sampled_from([None, None, -50, -20, 0]),
        deadline_s=st.sampled_from([DEADLINE_S, DEADLINE_S / 2]),
        count=st.integers(1, 6),
    )
    def join(
        self,
        priority: Priority,
        tenant: str,
        wish: dict[str, Any],
        waited_s: float,
        chain: int | None,
        deadline_s: float,
        count: int,
    ) -> None:
        """So many of a tenant, one of them in a hurry to know that no agent is left."""
        options = {key: value for key, value in wish.items() if key != "tried"}
        task = Task(ECHO, priority=priority, deadline_s=deadline_s, **options)
        tried, since = wish.get("tried", frozenset()), self.now - waited_s
        of = self.chains[chain] if chain is not None else None

        async def make() -> list[Waiter]:
            return [
                Waiter(task, since, tried=tried, gives_up=not each, tenant=tenant, chain=of) for each in range(count)
            ]

        for waiter in self.loop.run_until_complete(make()):
            self.line.join(waiter)
            self.model.join(waiter)

    @rule(seconds=st.sampled_from([0.25, 1.0, 3.0, 20.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds

    @rule(which=st.sampled_from([-50, -20, 0]), count=st.sampled_from([1, 30, 60]))
    def hand_over_elsewhere(self, which: int, count: int) -> None:
        """A chain comes on at another capability."""
        chain = self.chains[which]
        WaitingLineMachine.seen["crossed"] += chain.handed_over < FIRST_TASKS <= chain.handed_over + count
        chain.handed_over += count

    @rule(which=st.sampled_from([-50, -20, 0]))
    def begin_a_chain(self, which: int) -> None:
        self.chains[which] = ChainTurn(self.now, 1_000)

    @rule(name=st.sampled_from(sorted(AGENTS)), slots=st.integers(1, 2), is_held=st.booleans())
    def serve(self, name: str, slots: int, *, is_held: bool) -> None:
        """An agent has free slots; plain tasks may be held from it for a faster one."""
        for _ in range(slots):
            self.serve_one(self.seats[name], plain=not is_held)

    def serve_one(self, seat: Seat, *, plain: bool) -> None:
        found, best = self.line.first(seat, self.now, plain=plain), self.model.best(seat, self.now, plain=plain)
        assert (found in best) if best else found is None
        if found is None:
            WaitingLineMachine.seen["none"] += 1
            return
        self.note(found, seat, plain=plain)
        self.model.serve(found, seat, self.now)
        self.line.serve(found, Lease(seat, 0, 1, 60.0, 0.0, math.inf))
        if found.chain is not None:
            found.chain.handed_over += 1

    def note(self, waiter: Waiter, seat: Seat, *, plain: bool) -> None:
        is_large = waiter.chain is not None and waiter.chain.handed_over >= FIRST_TASKS
        first = min(self.model.waiting, key=lambda each: each.arrival)
        WaitingLineMachine.seen.update(
            {
                "held": not plain,
                "own": seat.pool.tenant is not None,
                "passed over": first is not waiter,
                "rest": self.model.is_rest(waiter, self.now),
                "came of age": is_large and waiter.half_at <= self.now,
            }
        )

    @rule(which=st.integers(0, 30))
    def give_up(self, which: int) -> None:
        if self.model.waiting:
            waiter = self.model.waiting[which % len(self.model.waiting)]
            waiter.seat_future.cancel()
            self.model.decide(waiter)

    @rule(count=st.integers(1, 10))
    def leave(self, count: int) -> None:
        """A task whose fate is decided leaves when its own turn on the loop comes."""
        for waiter in self.model.leaving[:count]:
            self.model.leave(waiter)
            self.line.leave(waiter)
            WaitingLineMachine.seen["left"] += 1

    @invariant()
    def both_see_the_same_tasks(self) -> None:
        WaitingLineMachine.steps += 1
        waiting, leaving = self.model.waiting, self.model.leaving
        assert len(self.line) == len(waiting) + len(leaving)
        assert set(self.line) == set(waiting)
        everything = Counter(each.task.priority for each in (*waiting, *leaving))
        assert self.line.by_priority() == {priority: everything[priority] for priority in Priority}
        assert self.line.oldest_wait_s(self.now) == max((self.now - each.since for each in waiting), default=0.0)

    @invariant()
    def those_that_may_have_to_be_woken_are_found(self) -> None:
        impatient = {each for each in self.model.waiting if each.is_impatient}
        for name, seat in self.seats.items():
            groups = self.line.impatient(seat.pool.tenant, AGENTS[name])
            found = {each for group in groups for waiters in group.impatient.values() for each in waiters}
            theirs = {each for each in impatient if seat.pool.tenant in {None, each.tenant}}
            assert found >= {each for each in theirs if self.model.fits(each, seat, plain=True)}

    @invariant()
    def no_more_stand_before_a_newcomer_than_there_are(self) -> None:
        for priority in Priority:
            for tenant in TENANTS:
                before = self.line.before(priority, tenant)
                alone = self.line.ahead(priority, tenant, before, alone=True)
                assert 0 <= before <= alone <= self.line.waiting(tenant)
                assert alone <= self.line.ahead(priority, tenant, before) <= len(self.line)

    def teardown(self) -> None:
        self.loop.close()


def steps_taken() -> int:
    return WaitingLineMachine.steps


def test_queue_serves_the_task_that_the_plain_reading_of_the_rules_says(run_machine: Marathon) -> None:
    run_machine.run(WaitingLineMachine, steps_taken)
    print(f"{steps_taken()} steps", WaitingLineMachine.seen.most_common())  # noqa: T201 - read when it took a while
    assert all(WaitingLineMachine.seen[what] for what in MUST_HAPPEN), "the steps went nowhere"
