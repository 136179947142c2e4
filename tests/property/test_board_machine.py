"""Whatever is done to a board: each circuit does what one that was always there would do.

Circuits that were not made yet, orders to groups and permits given before either are what this is about.
"""

import math
from collections import Counter
from itertools import product
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aicp.resilience.board import CircuitBoard
from aicp.resilience.circuit_breaker import BreakerPolicy, Transition
from aicp.testing import ManualClock
from tests.property.conftest import Marathon
from tests.property.plain_circuit import (
    CLOSED,
    DISABLED,
    FORCED_OPEN,
    HALF_OPEN,
    OPEN,
    Draws,
    PlainCircuit,
    Ticket,
)

GROUPS = ("eyes-1", "eyes-2")
NAMES = ("label", "describe")
WORST_FIRST = (FORCED_OPEN, OPEN, HALF_OPEN, DISABLED, CLOSED)
REMEMBERED_PERMITS = 40
MUST_HAPPEN = ("made", "absent refused", "late", "lost", "forced", "cooled")

SOME_GROUP = st.sampled_from(GROUPS)
SOME_NAME = st.sampled_from(NAMES)
SOME_NAMES = st.sampled_from([NAMES, NAMES[:1], NAMES[1:]])

Place = tuple[str, str]


class CircuitBoardMachine(RuleBasedStateMachine):
    """A board beside four plain circuits that were there from the beginning."""

    steps = 0
    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.permits: list[tuple[Place, int, Ticket]] = []

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    @initialize(threshold=st.sampled_from([1, 2, 5]), gated=st.booleans())
    def begin(self, threshold: int, *, gated: bool) -> None:
        self.policy = BreakerPolicy(failure_threshold=threshold, success_threshold=2, doubt_threshold=3)
        self.gated = gated
        self.draws = Draws()
        self.told: list[Place] = []
        self.board = CircuitBoard(
            self.policy,
            clock=self.clock.monotonic,
            uniform=self.draws.uniform,
            gated=gated,
            listener=self.listen,
        )
        self.model = {place: self.new_circuit() for place in product(GROUPS, NAMES)}
        # Invariants are looked at before the first step too.
        CircuitBoardMachine.steps -= 1

    def new_circuit(self) -> PlainCircuit:
        return PlainCircuit(self.policy, Draws(), gated=self.gated)

    def listen(self, group: str, transition: Transition) -> None:
        self.told.append((group, transition.name))

    def of(self, group: str) -> list[PlainCircuit]:
        return [self.model[group, name] for name in NAMES]

    @rule(group=SOME_GROUP, name=SOME_NAME, lease_s=st.sampled_from([None, None, 5.0]))
    def acquire(self, group: str, name: str, lease_s: float | None) -> None:
        permit = self.board.try_acquire(group, name, lease_s)
        ticket = self.model[group, name].acquire(self.now, lease_s or self.policy.probe_lease_s)
        assert (permit > 0) is (ticket is not None)
        if ticket is not None:
            self.permits = [*self.permits[-REMEMBERED_PERMITS:], ((group, name), permit, ticket)]
        elif name not in self.board.get_metrics(group):
            CircuitBoardMachine.seen["absent refused"] += 1

    @rule(which=st.integers(0, REMEMBERED_PERMITS), failed=st.booleans())
    def settle(self, which: int, *, failed: bool) -> None:
        """Of whatever age, settled before or not."""
        if self.permits:
            (group, name), permit, ticket = self.permits[-1 - which % len(self.permits)]
            record = self.board.record_failure if failed else self.board.record_success
            record(group, name, permit)
            self.model[group, name].settle(ticket, self.now, failed=failed, slow=False)

    @rule(which=st.integers(0, 5))
    def release(self, which: int) -> None:
        if self.permits:
            (group, name), permit, ticket = self.permits[-1 - which % len(self.permits)]
            self.board.release(group, name, permit)
            self.model[group, name].release(ticket, self.now)

    @rule(which=st.integers(0, 9), again=st.booleans())
    def doubt(self, which: int, *, again: bool) -> None:
        if self.permits:
            (group, name), permit, ticket = self.permits[-1 - which % len(self.permits)]
            self.board.record_doubt(group, name, permit, again=again)
            self.model[group, name].doubt(ticket, self.now, again=again)

    @rule(which=st.integers(0, 9))
    def retract_a_doubt(self, which: int) -> None:
        if self.permits:
            (group, name), permit, ticket = self.permits[-1 - which % len(self.permits)]
            self.board.retract_doubt(group, name, permit)
            self.model[group, name].retract(ticket)

    @rule(which=st.integers(0, 9))
    def trip(self, which: int) -> None:
        if self.permits:
            (group, name), permit, ticket = self.permits[-1 - which % len(self.permits)]
            self.board.trip(group, name, permit)
            self.model[group, name].trip(ticket, self.now)

    @rule(group=SOME_GROUP, name=SOME_NAME)
    def fail_as_often_as_it_takes(self, group: str, name: str) -> None:
        for _ in range(self.policy.failure_threshold):
            self.acquire(group, name, None)
            self.settle(0, failed=True)

    @rule(group=SOME_GROUP, names=SOME_NAMES)
    def see_evidence_without_a_permit(self, group: str, names: tuple[str, ...]) -> None:
        self.board.record_evidence(group, names)
        for name in names:
            self.model[group, name].evidence(self.now)

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0, 10.0, 61.0, 3_600.0]))
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(group=SOME_GROUP, name=SOME_NAME)
    def come_back_when_told(self, group: str, name: str) -> None:
        wait_s = self.board.ready_in_s(group, name)
        if wait_s < math.inf:
            # What is added to a sum of floats may come out one bit short.
            self.clock.advance(wait_s + 1e-9)
        self.acquire(group, name, None)

    @rule(group=SOME_GROUP, seconds=st.sampled_from([0.0, 1.0, 20.0, 300.0]))
    def cool_down(self, group: str, seconds: float) -> None:
        self.board.cool_down(group, seconds)
        for circuit in self.of(group):
            circuit.cool_down(self.now, seconds)

    @rule(group=SOME_GROUP, order=st.sampled_from(["force_open", "disable", "reset", "reset", "new_instance"]))
    def order(self, group: str, order: str) -> None:
        for circuit in (self.board, *self.of(group)):
            getattr(circuit, order)(*([group] if circuit is self.board else []))

    @rule(group=SOME_GROUP)
    def remove_and_register_again(self, group: str) -> None:
        """Leases of a removed agent are not settled on the board any more."""
        self.board.remove(group)
        for name in NAMES:
            self.tally(self.model[group, name])
            self.model[group, name] = self.new_circuit()
        self.permits = [given for given in self.permits if given[0][0] != group]

    @rule(group=SOME_GROUP, names=SOME_NAMES)
    def admit_the_probe(self, group: str, names: tuple[str, ...]) -> None:
        self.board.admit_probe(group, names)
        for name in names:
            self.model[group, name].admit_probe()

    @rule(group=SOME_GROUP, names=SOME_NAMES)
    def probe_failed(self, group: str, names: tuple[str, ...]) -> None:
        self.board.probe_failed(group, names)
        for name in names:
            self.model[group, name].probe_failed(self.now)

    @rule(name=SOME_NAME)
    def cap_waits(self, name: str) -> None:
        self.board.cap_waits(GROUPS, name, 5.0)
        for group in GROUPS:
            self.model[group, name].cap_wait(5.0)

    @invariant()
    def every_circuit_is_as_if_it_had_always_been_there(self) -> None:
        CircuitBoardMachine.steps += 1
        for (group, name), circuit in self.model.items():
            assert str(self.board.get_state(group, name)) == circuit.state
            assert self.board.ready_in_s(group, name) == circuit.retry_after_s(self.now)
            assert self.board.needs_probe(group, name) is (self.gated and circuit.state == OPEN)

    @invariant()
    def a_group_is_as_bad_as_its_worst_circuit(self) -> None:
        for group in GROUPS:
            worst = min((circuit.state for circuit in self.of(group)), key=WORST_FIRST.index)
            assert str(self.board.get_state(group)) == worst

    @invariant()
    def circuits_are_kept_for_those_that_failed_only(self) -> None:
        made = {(group, name) for group in GROUPS for name in self.board.get_metrics(group)}
        assert len(self.board) == len(made)
        for place, circuit in self.model.items():
            if circuit.failures or circuit.state in {OPEN, HALF_OPEN}:
                assert place in made

    def teardown(self) -> None:
        CircuitBoardMachine.seen["made"] += len(self.board)
        for circuit in self.model.values():
            self.tally(circuit)

    def tally(self, circuit: PlainCircuit) -> None:
        forced = sum(new == FORCED_OPEN for _, new in circuit.told)
        cooled = circuit.cool_until > -math.inf
        CircuitBoardMachine.seen.update(
            {"late": circuit.late, "lost": circuit.lost, "forced": forced, "cooled": cooled}
        )


def steps_taken() -> int:
    return CircuitBoardMachine.steps


def test_board_does_what_its_circuits_would_do_whatever_happens(run_machine: Marathon) -> None:
    run_machine.run(CircuitBoardMachine, steps_taken)
    print(f"{steps_taken()} steps", CircuitBoardMachine.seen.most_common())  # noqa: T201 - read when it took a while
    assert all(CircuitBoardMachine.seen[what] for what in MUST_HAPPEN), "the steps went nowhere"
