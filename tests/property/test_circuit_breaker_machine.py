"""Whatever is done to a circuit breaker, in whatever order: it does what section 2 of the semantics says."""

import math
from collections import Counter
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aicp.resilience.circuit_breaker import BreakerPolicy, CircuitBreaker, Transition
from aicp.testing import ManualClock
from tests.property.conftest import Marathon
from tests.property.plain_circuit import OPEN, Draws, PlainCircuit, Ticket

SLOW_CALL_S = 2.0
REMEMBERED_PERMITS = 40

MUST_HAPPEN = (
    "CLOSED -> OPEN",
    "OPEN -> HALF_OPEN",
    "HALF_OPEN -> OPEN",
    "HALF_OPEN -> CLOSED",
    "late",
    "lost",
    "longest wait",
)

POLICIES = st.builds(
    BreakerPolicy,
    failure_threshold=st.sampled_from([1, 2, 5, 5]),
    doubt_threshold=st.sampled_from([1, 3, 20]),
    success_threshold=st.sampled_from([1, 2, 3, 3]),
    half_open_max_probes=st.sampled_from([1, 1, 2, 3]),
    probe_lease_s=st.just(61.0),
    window=st.sampled_from([3, 8]),
    window_calls_min=st.sampled_from([2, 6]),
    failure_rate=st.sampled_from([None, None, 0.5]),
    slow_call_s=st.just(SLOW_CALL_S),
    slow_call_rate=st.sampled_from([None, None, 0.75]),
)
SPANS_S = st.sampled_from([0.05, 0.9, 1.0, 1.1, 4.0, 10.0, 10.0, 30.0, 61.0, 70.0, 3_600.0])
COOL_DOWNS_S = st.sampled_from([0.0, 0.5, 1.0, 5.0, 40.0, 300.0])


class CircuitBreakerMachine(RuleBasedStateMachine):
    """A breaker beside the plain circuit; both are asked the same at the same time."""

    steps = 0
    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.permits: list[tuple[int, Ticket]] = []
        self.told: list[tuple[str, str]] = []
        self.probes_seen: set[int] = set()

    @property
    def now(self) -> float:
        return self.clock.monotonic()

    @initialize(policy=POLICIES, gated=st.booleans())
    def begin(self, policy: BreakerPolicy, *, gated: bool) -> None:
        draws, model_draws = Draws(), Draws()
        self.draws, self.model_draws = draws, model_draws
        # Invariants are looked at before the first step too.
        CircuitBreakerMachine.steps -= 1
        self.model = PlainCircuit(policy, model_draws, gated=gated)
        self.breaker = CircuitBreaker(
            "c", policy, clock=self.clock.monotonic, uniform=draws.uniform, gated=gated, listener=self.listen
        )

    def listen(self, transition: Transition) -> None:
        # After the transition: what it reads from the breaker is the new state. Raised here it would only be logged.
        self.told.append((str(transition.old), str(self.breaker.state)))

    @rule()
    def acquire(self) -> None:
        self.acquire_for(None)

    @rule(lease_s=st.sampled_from([0.5, 5.0, 90.0]))
    def acquire_with_a_lease_of_its_own(self, lease_s: float) -> None:
        self.acquire_for(lease_s)

    def acquire_for(self, lease_s: float | None) -> None:
        permit = self.breaker.try_acquire(lease_s)
        ticket = self.model.acquire(self.now, lease_s or self.model.policy.probe_lease_s)
        assert (permit > 0) is (ticket is not None)
        if ticket is None:
            assert permit == 0
            return
        if ticket.is_probe:
            assert permit not in self.probes_seen, "each probe has a permit of its own"
            self.probes_seen.add(permit)
        self.permits = [*self.permits[-REMEMBERED_PERMITS:], (permit, ticket)]

    @rule(back=st.integers(0, 5), failed=st.booleans())
    def settle_a_recent_permit(self, back: int, *, failed: bool) -> None:
        self.settle(-1 - back, failed=failed)

    @rule(which=st.integers(0, REMEMBERED_PERMITS), failed=st.booleans(), elapsed_s=st.sampled_from([0.1, 2.0, 9.0]))
    def settle_any_permit(self, which: int, elapsed_s: float, *, failed: bool) -> None:
        """Of whatever age, settled before or not."""
        self.settle(which, failed=failed, elapsed_s=elapsed_s)

    def settle(self, which: int, *, failed: bool, elapsed_s: float | None = None) -> None:
        if not self.permits:
            return
        permit, ticket = self.permits[which % len(self.permits)]
        record = self.breaker.record_failure if failed else self.breaker.record_success
        record(permit, elapsed_s)
        self.model.settle(ticket, self.now, failed=failed, slow=elapsed_s is not None and elapsed_s >= SLOW_CALL_S)

    @rule(back=st.integers(0, 9))
    def release(self, back: int) -> None:
        """Cancelled, ignored, or a `finally` that releases once more."""
        if self.permits:
            permit, ticket = self.permits[(-1 - back) % len(self.permits)]
            self.breaker.release(permit)
            self.model.release(ticket, self.now)

    @rule(back=st.integers(0, 9), again=st.booleans())
    def doubt(self, back: int, *, again: bool) -> None:
        if self.permits:
            permit, ticket = self.permits[(-1 - back) % len(self.permits)]
            self.breaker.record_doubt(permit, again=again)
            self.model.doubt(ticket, self.now, again=again)

    @rule()
    def doubt_as_often_as_it_takes(self) -> None:
        for _ in range(self.model.policy.doubt_threshold):
            self.acquire_for(None)
            self.doubt(0, again=False)

    @rule(back=st.integers(0, 9))
    def retract_a_doubt(self, back: int) -> None:
        if self.permits:
            permit, ticket = self.permits[(-1 - back) % len(self.permits)]
            self.breaker.retract_doubt(permit)
            self.model.retract(ticket)

    @rule(back=st.integers(0, 9))
    def trip(self, back: int) -> None:
        if self.permits:
            permit, ticket = self.permits[(-1 - back) % len(self.permits)]
            self.breaker.trip(permit)
            self.model.trip(ticket, self.now)

    @rule(back=st.integers(0, 9))
    def see_evidence_of_an_earlier_call(self, back: int) -> None:
        if self.permits:
            permit, ticket = self.permits[(-1 - back) % len(self.permits)]
            self.breaker.record_evidence(permit)
            self.model.evidence(self.now, since=ticket)

    @rule(failed=st.booleans())
    def settle_the_refusal(self, *, failed: bool) -> None:
        before = self.breaker.metrics
        (self.breaker.record_failure if failed else self.breaker.record_success)(0)
        self.breaker.record_doubt(0)
        self.breaker.release(0)
        assert self.breaker.metrics == before

    @rule()
    def succeed_as_often_as_it_takes(self) -> None:
        for _ in range(self.model.policy.success_threshold):
            self.acquire_for(None)
            self.settle(-1, failed=False)

    @rule()
    def fail_as_often_as_it_takes(self) -> None:
        for _ in range(self.model.policy.failure_threshold):
            self.acquire_for(None)
            self.settle(-1, failed=True)

    @rule()
    def see_evidence_without_a_permit(self) -> None:
        self.breaker.record_evidence()
        self.model.evidence(self.now)

    @rule(seconds=SPANS_S)
    def let_time_pass(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule()
    def come_back_when_told(self) -> None:
        wait_s = self.breaker.retry_after_s
        if wait_s < math.inf:
            self.clock.advance(wait_s)
        while 0 < self.breaker.retry_after_s < 1e-6:
            # A sum of floats came out one bit short.
            self.clock.advance(1e-9)
        self.acquire_for(None)

    @rule()
    def come_back_through_the_gate(self) -> None:
        self.admit_the_probe()
        self.acquire_for(None)

    @rule()
    def lose_the_probe(self) -> None:
        if self.model.out:
            self.clock.advance(max(0.0, self.model.out[0].lease_end - self.now))
            self.acquire_for(None)

    @rule(seconds=st.sampled_from([-3_600.0, 86_400.0]))
    def set_the_wall_clock(self, seconds: float) -> None:
        self.clock.shift_wall(seconds)

    @rule(share=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    def draw_another_jitter_from_now_on(self, share: float) -> None:
        self.draws.share = self.model_draws.share = share

    @rule(seconds=COOL_DOWNS_S)
    def cool_down(self, seconds: float) -> None:
        self.breaker.cool_down(seconds)
        self.model.cool_down(self.now, seconds)

    @rule()
    def admit_the_probe(self) -> None:
        self.breaker.admit_probe()
        self.model.admit_probe()

    @rule(times=st.sampled_from([1, 1, 12]))
    def probe_failed(self, times: int) -> None:
        for _ in range(times):
            self.breaker.probe_failed()
            self.model.probe_failed(self.now)

    @rule()
    def cap_wait(self) -> None:
        self.breaker.cap_wait(5.0)
        self.model.cap_wait(5.0)

    @rule(command=st.sampled_from(["force_open", "disable", "reset", "reset", "new_instance", "new_instance"]))
    def command(self, command: str) -> None:
        for circuit in (self.breaker, self.model):
            getattr(circuit, command)()

    @invariant()
    def both_say_the_same(self) -> None:
        CircuitBreakerMachine.steps += 1
        breaker, model = self.breaker, self.model
        assert str(breaker.state) == model.state
        assert self.told == model.told
        assert breaker.retry_after_s == model.retry_after_s(self.now)
        assert self.draws.asked == model.waits_drawn, "jitter is drawn once per opening"
        metrics = breaker.metrics
        assert (metrics.successes, metrics.failures) == (model.successes, model.failures)
        assert (metrics.failures_in_row, metrics.backoff_s) == (model.failures_in_row, model.wait_s)
        assert metrics.doubts_in_row == model.doubts_in_row
        assert (metrics.rejected, metrics.late, metrics.lost_probes) == (model.rejected, model.late, model.lost)

    @invariant()
    def no_wait_is_longer_than_a_minute_and_its_jitter(self) -> None:
        if self.model.state == OPEN:
            assert self.breaker.metrics.backoff_s <= 60.0
            # A tenth of a minute more, and what the floats of a late clock may add.
            assert self.model.until - self.model.waiting_since <= 66.001

    @invariant()
    def no_more_probes_are_out_than_there_are_places(self) -> None:
        assert len(self.breaker._probes) == len(self.model.out) <= self.model.policy.half_open_max_probes

    def teardown(self) -> None:
        model, seen = self.model, CircuitBreakerMachine.seen
        seen.update(f"{old} -> {new}" for old, new in model.told)
        seen.update({"late": model.late, "lost": model.lost, "longest wait": model.wait_s >= 60.0})


def steps_taken() -> int:
    return CircuitBreakerMachine.steps


def test_breaker_does_what_the_semantics_say_whatever_happens(run_machine: Marathon) -> None:
    run_machine.run(CircuitBreakerMachine, steps_taken)
    print(f"{steps_taken()} steps", CircuitBreakerMachine.seen.most_common())  # noqa: T201 - read when it took a while
    assert all(CircuitBreakerMachine.seen[what] for what in MUST_HAPPEN), "the steps went nowhere"
