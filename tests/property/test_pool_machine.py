"""Whatever happens to the agents of a pool: its rows, counts and postings say what a look at all of them would.

Agents join, leave, change their slots and speeds, go out and come back.
"""

import math
from collections import Counter
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from aicp.model.agent import Capability
from aicp.registry.leases import Liveness
from aicp.scheduling.fleet import LOOKS, NOWHERE, Labels, Member, Pool, Seat
from aicp.scheduling.latency import LAST_RESORT, bucket_of, latency_of
from aicp.scheduling.trouble import FINE, Standing
from tests.property.conftest import Marathon
from tests.unit.flow_kit import ECHO, agent

NOW = 1_000.0
AGENTS_MAX = 12
KEYS = "abcdefg"
LATENCIES_S = [0.0, 1e-5, 0.001, 0.1, 0.11, 1.0, 60.0, 1e9]
MUST_HAPPEN = ("picked", "picked besides", "none", "carried", "used", "returns")

MANY_LABELS = st.sets(st.sampled_from(KEYS), min_size=3).map(lambda keys: frozenset((key, "yes") for key in keys))
SOMEBODY = st.integers(0, AGENTS_MAX)
DRAWN = st.floats(0, 0.999)


class PoolMachine(RuleBasedStateMachine):
    """A pool beside plain lists."""

    steps = 0
    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool(ECHO)
        self.seats: list[Seat] = []
        self.gone: list[Seat] = []
        self.free: dict[Seat, int] = {}
        self.busy: Counter[int] = Counter()
        self.order: list[Seat] = []
        self.numbers = 0
        # Invariants are looked at before the first step too.
        PoolMachine.steps -= 1

    @initialize(each_labels=st.lists(MANY_LABELS, max_size=AGENTS_MAX))
    def begin_with_some(self, each_labels: list[Labels]) -> None:
        for labels in each_labels:
            self.join(labels, slots=1)
            self.put(-1, 0.1, Liveness.HEARD)

    def some(self, which: int) -> Seat:
        return self.seats[which % len(self.seats)]

    @precondition(lambda self: len(self.seats) < AGENTS_MAX)
    @rule(labels=MANY_LABELS, slots=st.integers(1, 4))
    def join(self, labels: Labels, slots: int) -> None:
        self.numbers += 1
        member = Member(agent(f"a{self.numbers}", slots=slots, labels=dict(labels)))
        seat = member.first = Seat(member, Capability(ECHO), self.pool)
        self.pool.join(seat)
        self.seats.append(seat)

    @precondition(lambda self: self.seats)
    @rule(which=SOMEBODY)
    def leave(self, which: int) -> None:
        seat = self.some(which)
        self.pool.leave(seat)
        self.seats.remove(seat)
        self.free.pop(seat, None)
        self.gone.append(seat)

    @precondition(lambda self: self.seats)
    @rule(which=SOMEBODY, latency_s=st.sampled_from(LATENCIES_S), liveness=st.sampled_from(Liveness))
    def put(self, which: int, latency_s: float, liveness: Liveness) -> None:
        """It may be used and has a slot, and this speed by now."""
        seat = self.some(which)
        self.pool.judge(seat, FINE)
        seat.latency_s, seat.measured_at, seat.samples = latency_s, NOW, 20
        seat.member.trouble_of_its_own().liveness = liveness
        self.pool.put(seat, NOW)
        bucket = LAST_RESORT if liveness is Liveness.UNHEARD else bucket_of(latency_s)
        if self.free.get(seat) != bucket:
            self.order = [*[each for each in self.order if each is not seat], seat]
        self.free[seat] = bucket

    @precondition(lambda self: self.free)
    @rule(which=SOMEBODY)
    def use(self, which: int) -> None:
        """It got a task and has another slot."""
        seat = sorted(self.free, key=lambda each: each.rank)[which % len(self.free)]
        self.pool.used(seat)
        self.order = [*[each for each in self.order if each is not seat], seat]
        PoolMachine.seen["used"] += 1

    @precondition(lambda self: self.seats)
    @rule(which=SOMEBODY)
    def take(self, which: int) -> None:
        seat = self.some(which)
        self.pool.take(seat)
        self.free.pop(seat, None)

    @precondition(lambda self: self.seats)
    @rule(which=SOMEBODY, ready_at=st.sampled_from([NOW + 1.0, NOW + 5.0, math.inf]))
    def go_out(self, which: int, ready_at: float) -> None:
        seat = self.some(which)
        self.pool.take(seat)
        self.free.pop(seat, None)
        self.pool.judge(seat, Standing("cooling down", ready_at))

    @precondition(lambda self: self.seats)
    @rule(which=SOMEBODY)
    def come_back(self, which: int) -> None:
        self.pool.judge(self.some(which), FINE)

    @precondition(lambda self: self.seats)
    @rule(which=SOMEBODY, slots=st.integers(1, 9))
    def resize(self, which: int, slots: int) -> None:
        seat = self.some(which)
        self.pool.resize(seat, slots)
        seat.member.slots = slots

    @rule(bucket=st.integers(0, LAST_RESORT))
    def begin(self, bucket: int) -> None:
        self.pool.began(bucket)
        self.busy[bucket] += 1

    @precondition(lambda self: self.busy)
    @rule(which=st.integers(0, 100))
    def end(self, which: int) -> None:
        bucket = sorted(self.busy)[which % len(self.busy)]
        self.pool.ended(bucket)
        self.busy[bucket] -= 1
        self.busy = +self.busy

    @rule(left_out=st.sets(SOMEBODY, max_size=4), drawn=DRAWN)
    def pick(self, left_out: set[int], drawn: float) -> None:
        names = {self.some(each).agent_id for each in left_out} if self.seats else set()
        if names:
            picked = self.pool.pick_fitting(lambda seat: seat.agent_id not in names, lambda: drawn)
        else:
            picked = self.pool.pick(lambda: drawn)
        fitting = [bucket for seat, bucket in self.free.items() if seat.agent_id not in names]
        if picked is None:
            assert fitting == [] or len(self.free) > LOOKS
        else:
            assert picked.agent_id not in names
            assert self.free[picked] == min(fitting) or (names and len(self.free) > LOOKS)
        PoolMachine.seen["none" if picked is None else "picked besides" if names else "picked"] += 1

    @invariant()
    def the_counts_are_those_of_everybody(self) -> None:
        PoolMachine.steps += 1
        usable = [seat for seat in self.seats if not seat.why_out]
        assert (self.pool.out, self.pool.usable) == (len(self.seats) - len(usable), len(usable))
        assert self.pool.slots == sum(seat.member.slots for seat in usable)
        assert (self.pool.free, self.pool.has_free) == (len(self.free), bool(self.free))
        assert set(self.pool.seats) == set(self.seats)
        assert all(self.pool.seats[seat.rank] is seat for seat in self.seats)

    @invariant()
    def everybody_is_where_its_speed_belongs(self) -> None:
        assert {seat: seat.bucket for seat in self.seats if seat.bucket != NOWHERE} == self.free
        assert all(seat.bucket == NOWHERE for seat in self.gone)

    @invariant()
    def the_first_return_is_that_of_the_first_who_returns(self) -> None:
        awaited = [seat.standing.ready_at for seat in self.seats if seat.why_out]
        assert self.pool.first_return() == min(awaited, default=math.inf)
        PoolMachine.seen["returns"] += self.pool.first_return() < math.inf

    @invariant()
    def the_busy_are_those_that_began_and_did_not_end(self) -> None:
        for bucket in (0, 20, LAST_RESORT):
            assert self.pool.has_faster_busy(bucket) is any(other < bucket for other in self.busy)
        if self.free:
            seat = next(iter(self.free))
            faster = {bucket: count for bucket, count in self.busy.items() if bucket < seat.bucket}
            tasks, tasks_per_s = self.pool.faster_busy(seat)
            assert tasks == sum(faster.values())
            assert math.isclose(tasks_per_s, sum(count / latency_of(bucket) for bucket, count in faster.items()))

    @invariant()
    def every_row_knows_which_was_used_longest_ago(self) -> None:
        for bucket, row in self.pool._rows.items():
            in_row, seat = [each for each in self.order if self.free.get(each) == bucket], row.oldest
            for expected in in_row:
                assert seat is expected
                seat = seat.newer
            assert seat is None
            assert [row.seats[each.place] for each in in_row] == in_row

    @invariant()
    def every_posting_is_those_that_carry_its_label(self) -> None:
        for label in {label for seat in self.seats for label in seat.member.profile.labels.items()}:
            carriers, posting = (
                [seat for seat in self.seats if label in seat.member.profile.labels.items()],
                (self.pool.carriers(label)),
            )
            assert set(posting.seats) == set(carriers)
            assert (posting.out, posting.usable) == (
                sum(bool(seat.why_out) for seat in carriers),
                sum(not seat.why_out for seat in carriers),
            )
            free = list(posting.free_seats())
            assert set(free) == self.free.keys() & set(carriers)
            assert [self.free[seat] for seat in free] == sorted(self.free[seat] for seat in free)
            assert posting.free == len(free)
            PoolMachine.seen["carried"] += bool(free)


def steps_taken() -> int:
    return PoolMachine.steps


def test_pool_says_what_a_look_at_everybody_would_whatever_happens(run_machine: Marathon) -> None:
    run_machine.run(PoolMachine, steps_taken)
    print(f"{steps_taken()} steps", PoolMachine.seen.most_common())  # noqa: T201 - read when it took a while
    assert all(PoolMachine.seen[what] for what in MUST_HAPPEN), "the steps went nowhere"
