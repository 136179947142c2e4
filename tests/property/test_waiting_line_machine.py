"""Whatever happens to a line: who is next is who the plain reading of the rules says.

The plain line looks at everybody each time. Tenants, choosy tasks, agents of one tenant, those who are passed over
because they had better wait, and those whose fate is decided but who have not left yet are what this is about.
"""

import asyncio
import itertools
import math
from collections import Counter
from typing import Any, ClassVar, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from aicp.model.agent import Capability
from aicp.model.task import Priority, Task
from aicp.scheduling.fleet import Member, Pool, Seat
from aicp.scheduling.lease import Lease
from aicp.scheduling.roster import suits
from aicp.scheduling.waiting_line import OWN_LEAD_MAX, Waiter, WaitingLine
from tests.property.conftest import Marathon
from tests.unit.flow_kit import ECHO, agent

SLACK_S = {Priority.HIGH: 0.0, Priority.NORMAL: 1.0, Priority.LOW: 3.0}
TENANTS = ("acme", "bolt", "coil")
MUST_HAPPEN = ("nobody", "held", "own", "passed over", "caught up", "left")

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
    {"agents": ("nobody",)},
    {"exclude_agents": ("plain",)},
    {"tried": frozenset({"gpu", "both"})},
]


class Turn(NamedTuple):
    """How much a tenant was served at one priority."""

    priority: Priority
    tenant: str


class PlainLine:
    """The rules, said plainly."""

    def __init__(self) -> None:
        self.waiting: list[Waiter] = []
        self.leaving: list[Waiter] = []
        self.served: Counter[Turn] = Counter()
        self.shared: Counter[Turn] = Counter()
        self.places: Counter[Turn] = Counter()
        self.clocks = dict.fromkeys(Priority, 0)
        self.caught_up = 0
        self.numbers = itertools.count()

    def join(self, waiter: Waiter) -> None:
        turn = turn_of(waiter)
        if all(turn_of(each) != turn for each in (*self.waiting, *self.leaving)):
            # Who was away has no turns to catch up on, and who had one turn more than the others keeps that.
            self.caught_up += self.clocks[turn.priority] > self.shared[turn]
            self.served[turn] = max(self.shared[turn], self.clocks[turn.priority])
            self.places[turn] = next(self.numbers)
        self.waiting.append(waiter)

    def next_for(self, seat: Seat, *, choosy: bool) -> tuple[float, Waiter] | None:
        """Who is next for an agent, and how urgent that is."""
        tenant = seat.pool.tenant
        rivals = [each for each in self.waiting if tenant in {None, each.tenant} and self.fits(each, seat, choosy)]
        lanes = [[each for each in rivals if each.task.priority is priority] for priority in Priority]
        return min((self.next_of(lane) for lane in lanes if lane), key=lambda found: found[0], default=None)

    def next_of(self, fitting: list[Waiter]) -> tuple[float, Waiter]:
        """Of one priority: of the tenant that was served least, by deadline."""
        turn = min(map(turn_of, fitting), key=lambda each: (self.served[each], self.places[each]))
        # Whoever takes anybody counts for all of its priority, who is choosy for those of its tenant.
        counted = [each for each in fitting if each.selector is None or turn_of(each) == turn]
        first = min((each for each in fitting if turn_of(each) == turn), key=lambda each: each.turn)
        return min(map(urgency, counted)), first

    def fits(self, waiter: Waiter, seat: Seat, choosy: bool) -> bool:  # noqa: FBT001 - as the rule says it
        if waiter.selector is None:
            return not choosy
        return seat.agent_id not in waiter.tried and suits(seat, waiter.task)

    def serve(self, waiter: Waiter, seat: Seat) -> None:
        turn = turn_of(waiter)
        if seat.pool.tenant is None:
            self.clocks[turn.priority] = max(self.clocks[turn.priority], self.served[turn])
            self.count(turn)
            self.shared[turn] = self.served[turn]
        elif self.served[turn] < self.clocks[turn.priority] + OWN_LEAD_MAX:
            self.count(turn)
        self.decide(waiter)

    def count(self, turn: Turn) -> None:
        self.served[turn] += 1
        self.places[turn] = next(self.numbers)

    def decide(self, waiter: Waiter) -> None:
        self.waiting.remove(waiter)
        self.leaving.append(waiter)


def urgency(waiter: Waiter) -> float:
    return waiter.since + SLACK_S[waiter.task.priority]


def turn_of(waiter: Waiter) -> Turn:
    return Turn(waiter.task.priority, waiter.tenant)


class WaitingLineMachine(RuleBasedStateMachine):
    """A line beside the plain one."""

    steps = 0
    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.line, self.model, self.now = WaitingLine(), PlainLine(), 0.0
        self.seats = {name: seat_of(name) for name in AGENTS}
        # Invariants are looked at before the first step too.
        WaitingLineMachine.steps -= 1

    @rule(
        priority=st.sampled_from(Priority),
        tenant=st.sampled_from(TENANTS),
        wish=st.sampled_from(WISHES),
        waited_s=st.sampled_from([0.0, 0.0, 0.5, 2.0, 10.0]),
        patience_s=st.sampled_from([math.inf, math.inf, 5.0, 50.0]),
        count=st.integers(1, 6),
    )
    def join(
        self, priority: Priority, tenant: str, wish: dict[str, Any], waited_s: float, patience_s: float, count: int
    ) -> None:
        """So many of a tenant, one of them in a hurry to know that nobody is left."""
        options = {key: value for key, value in wish.items() if key != "tried"}
        task, tried = Task(ECHO, priority=priority, **options), wish.get("tried", frozenset())
        since, deadline = self.now - waited_s, self.now + patience_s

        async def make() -> list[Waiter]:
            return [Waiter(task, since, deadline, tried, gives_up=not each, tenant=tenant) for each in range(count)]

        for waiter in self.loop.run_until_complete(make()):
            self.line.join(waiter)
            self.model.join(waiter)

    @rule(seconds=st.sampled_from([0.25, 1.0, 3.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.now += seconds

    @rule(name=st.sampled_from(sorted(AGENTS)), slots=st.integers(1, 2), is_held=st.booleans())
    def serve(self, name: str, slots: int, *, is_held: bool) -> None:
        """An agent has free slots; whoever takes anybody may be held from it for a faster one."""
        for _ in range(slots):
            self.serve_one(self.seats[name], choosy=is_held)

    def serve_one(self, seat: Seat, *, choosy: bool) -> None:
        found = self.line.first(lambda each: self.model.fits(each, seat, choosy=False), seat.pool.tenant, choosy=choosy)
        assert found == self.model.next_for(seat, choosy=choosy)
        if found is None:
            WaitingLineMachine.seen["nobody"] += 1
            return
        _, waiter = found
        self.note(waiter, seat, choosy=choosy)
        self.line.serve(waiter, lease_of(seat))
        self.model.serve(waiter, seat)

    def note(self, waiter: Waiter, seat: Seat, *, choosy: bool) -> None:
        first = min(self.model.waiting, key=urgency)
        WaitingLineMachine.seen.update(
            {"held": choosy, "own": seat.pool.tenant is not None, "passed over": first is not waiter}
        )

    @rule(which=st.integers(0, 30))
    def give_up(self, which: int) -> None:
        if self.model.waiting:
            waiter = self.model.waiting[which % len(self.model.waiting)]
            waiter.seat_future.cancel()
            self.model.decide(waiter)

    @rule(count=st.integers(1, 10))
    def leave(self, count: int) -> None:
        """Whose fate is decided leaves when its own turn on the loop comes."""
        for waiter in self.model.leaving[:count]:
            self.model.leaving.remove(waiter)
            self.line.leave(waiter)
            WaitingLineMachine.seen["left"] += 1

    @invariant()
    def both_see_the_same_people(self) -> None:
        WaitingLineMachine.steps += 1
        waiting, leaving = self.model.waiting, self.model.leaving
        assert len(self.line) == len(waiting) + len(leaving)
        assert set(self.line) == set(waiting)
        assert set(self.line.impatient) == {each for each in (*waiting, *leaving) if each.is_impatient}
        everybody = Counter(each.task.priority for each in (*waiting, *leaving))
        assert self.line.by_priority() == {priority: everybody[priority] for priority in Priority}
        assert self.line.oldest_wait_s(self.now) == max((self.now - each.since for each in waiting), default=0.0)

    @invariant()
    def a_newcomer_is_told_of_no_more_than_there_are(self) -> None:
        for priority in Priority:
            for tenant in TENANTS:
                alone = self.line.ahead_of(priority, tenant, self.now, alone=True)
                assert 0 <= alone <= self.line.waiting(tenant)
                assert 0 <= self.line.ahead_of(priority, tenant, self.now) <= len(self.line)

    def teardown(self) -> None:
        WaitingLineMachine.seen["caught up"] += self.model.caught_up
        self.loop.close()


def seat_of(name: str) -> Seat:
    profile = AGENTS[name]
    return Seat(Member(profile), Capability(ECHO), Pool(ECHO, None if profile.shared else profile.tenant))


def lease_of(seat: Seat) -> Lease:
    return Lease(seat, 0, 1, 60.0, 0.0, math.inf)


def steps_taken() -> int:
    return WaitingLineMachine.steps


def test_line_serves_whom_the_plain_reading_of_the_rules_says(run_machine: Marathon) -> None:
    run_machine.run(WaitingLineMachine, steps_taken)
    print(f"{steps_taken()} steps", WaitingLineMachine.seen.most_common())  # noqa: T201 - read when it took a while
    assert all(WaitingLineMachine.seen[what] for what in MUST_HAPPEN), "the steps went nowhere"
