"""Section 2 of the semantics, rule by rule; then what other breakers are known to get wrong."""

import asyncio
import functools
import inspect
import itertools
import math
import sys
import threading
import time
import tracemalloc
import types
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import msgspec
import pytest

from aicp.errors import CircuitBreakerOpen
from aicp.resilience.backoff import Backoff
from aicp.resilience.circuit_breaker import DEFAULT_POLICY, BreakerPolicy, CircuitBreaker, CircuitState, Transition
from aicp.testing import ManualClock

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
FORCED_OPEN, DISABLED = CircuitState.FORCED_OPEN, CircuitState.DISABLED

PROBE_LEASE_S = 61.0
HOUR_S = 3_600.0
REAL_WAIT_S = 20.0
# What the interpreter and other threads may allocate meanwhile, beside a million of anything kept.
INTERPRETER_BLOCKS_MAX = 100


class Rig:
    """A breaker whose time stands still until told, and whose jitter is chosen."""

    def __init__(self, policy: BreakerPolicy = DEFAULT_POLICY, *, gated: bool = False) -> None:
        self.clock = ManualClock()
        self.jitter = 1.0
        self.draws = 0
        self.told: list[Transition] = []
        self.breaker = CircuitBreaker(
            "eyes-1",
            policy,
            clock=self.clock.monotonic,
            uniform=self.draw,
            gated=gated,
            listener=self.told.append,
        )

    def draw(self, low: float, high: float) -> float:
        assert low <= self.jitter <= high
        self.draws += 1
        return self.jitter

    def fail(self, times: int = 5) -> None:
        """So many calls in a row fail."""
        for _ in range(times):
            self.breaker.record_failure(self.breaker.try_acquire())

    def succeed(self, times: int = 1) -> None:
        """So many calls in a row succeed."""
        for _ in range(times):
            self.breaker.record_success(self.breaker.try_acquire())

    def wait_out(self) -> None:
        """As long as it says."""
        self.clock.advance(self.breaker.retry_after_s)

    def to_open(self) -> None:
        """Make it fail until it opens."""
        self.fail()
        assert self.breaker.state is OPEN

    def to_first_probe(self) -> int:
        """Make it fail where it has not yet, wait as long as it takes, and take the probe."""
        if self.breaker.state is CLOSED:
            self.to_open()
        self.wait_out()
        probe = self.breaker.try_acquire()
        assert probe
        assert self.breaker.state is HALF_OPEN
        return probe

    def heal(self) -> None:
        """Three probes in a row succeed."""
        self.wait_out()
        self.succeed(times=3)
        assert self.breaker.state is CLOSED


class Untouchable:
    """Stands for a lock or a clock that must not be used."""

    def __enter__(self) -> None:
        raise AssertionError("the lock was taken")

    def __exit__(self, *_: object) -> None: ...

    def __call__(self) -> float:
        raise AssertionError("the clock was read")


class Eyes:
    """Methods as people guard them: the breaker is there before any instance."""

    guard = CircuitBreaker("eyes")

    def __init__(self, sees: str) -> None:
        self.sees = sees

    @guard
    def look(self, where: str, *, twice: bool = False) -> str:
        """Look there."""
        return f"{self.sees} {where}" * (1 + twice)

    @guard
    async def stare(self, where: str) -> str:
        """Look there for long."""
        return f"{self.sees} {where}"


class Ears:
    """A callable that is asynchronous without being a coroutine function."""

    async def __call__(self) -> str:
        raise OSError("deaf")


async def answer() -> str:
    return "a cat"


async def fail() -> str:
    raise OSError("no answer")


async def never_answer() -> str:
    """Hangs until it is cancelled or thrown away, on any event loop or none."""
    await suspended()
    return "too late"


@types.coroutine
def suspended() -> Iterator[None]:
    yield


async def call_by_method(breaker: CircuitBreaker, f: Callable[[], Awaitable[Any]]) -> Any:
    return await breaker.call(f)


async def call_by_decorator(breaker: CircuitBreaker, f: Callable[[], Awaitable[Any]]) -> Any:
    return await breaker(f)()


WAYS_TO_CALL = [call_by_method, call_by_decorator]
WaysToCall = Callable[[CircuitBreaker, Callable[[], Awaitable[Any]]], Awaitable[Any]]

PLAIN = DEFAULT_POLICY
TIMED = BreakerPolicy(slow_call_s=2.0, slow_call_rate=0.5, window=10, window_calls_min=4)
JUDGED = BreakerPolicy(is_failure=lambda ended: isinstance(ended, Exception))
POLICIES = pytest.mark.parametrize("policy", [PLAIN, TIMED, JUDGED], ids=["plain", "timed", "judged"])
CALLS = pytest.mark.parametrize("call", WAYS_TO_CALL, ids=["call", "decorator"])


# When it opens.


def test_five_failures_in_a_row_open_it() -> None:
    rig = Rig()
    rig.fail(times=4)
    assert rig.breaker.state is CLOSED
    rig.fail(times=1)
    assert rig.breaker.state is OPEN


def test_a_success_begins_the_row_anew() -> None:
    rig = Rig()
    for _ in range(10):
        rig.fail(times=4)
        rig.succeed()
    assert rig.breaker.state is CLOSED
    assert rig.breaker.metrics.failures_in_row == 0


def test_a_rate_of_failures_opens_it_without_five_in_a_row() -> None:
    rig = Rig(BreakerPolicy(failure_rate=0.5, window=20, window_calls_min=10))
    for _ in range(4):
        rig.succeed()
        rig.fail(times=1)
    rig.succeed()
    assert rig.breaker.state is CLOSED, "nine calls say nothing yet"
    rig.fail(times=1)
    assert rig.breaker.state is OPEN


def test_the_rate_looks_back_on_the_last_calls_only() -> None:
    rig = Rig(BreakerPolicy(failure_rate=0.5, window=10, window_calls_min=10))
    for _ in range(100):
        rig.fail(times=4)
        rig.succeed(times=6)
    assert rig.breaker.state is CLOSED
    rig.fail(times=4)
    assert rig.breaker.state is CLOSED
    rig.succeed(times=4)
    rig.fail(times=1)
    assert rig.breaker.state is OPEN, "of the last ten, five failed"


def test_a_window_smaller_than_the_least_number_of_calls_is_enough() -> None:
    rig = Rig(BreakerPolicy(failure_rate=1.0, failure_threshold=1_000, window=6, window_calls_min=20))
    rig.fail(times=6)
    assert rig.breaker.state is OPEN


def test_slow_calls_open_it_though_they_succeed() -> None:
    rig = Rig(BreakerPolicy(slow_call_s=2.0, slow_call_rate=0.5, window=10, window_calls_min=4))
    for elapsed_s in (0.1, 1.99, 2.0):
        rig.breaker.record_success(rig.breaker.try_acquire(), elapsed_s)
    assert rig.breaker.state is CLOSED
    rig.breaker.record_success(rig.breaker.try_acquire(), 30.0)
    assert rig.breaker.state is OPEN


def test_a_slow_failure_counts_for_both_rates() -> None:
    rig = Rig(BreakerPolicy(failure_rate=1.0, slow_call_s=2.0, slow_call_rate=0.5, window=10, window_calls_min=2))
    rig.breaker.record_success(rig.breaker.try_acquire(), 0.1)
    rig.breaker.record_failure(rig.breaker.try_acquire(), 2.0)
    assert rig.breaker.state is OPEN


def test_a_call_nobody_timed_is_not_slow() -> None:
    rig = Rig(BreakerPolicy(slow_call_s=0.001, slow_call_rate=0.01, window=10, window_calls_min=1))
    rig.succeed(times=100)
    assert rig.breaker.state is CLOSED


def test_old_calls_are_forgotten_with_the_generation() -> None:
    rig = Rig(BreakerPolicy(failure_rate=0.5, failure_threshold=1_000, window=100, window_calls_min=4))
    rig.fail(times=4)
    rig.heal()
    rig.fail(times=3)
    assert rig.breaker.state is CLOSED


# 1. Asking for a permit.


def test_a_closed_breaker_reads_no_clock_and_takes_no_lock() -> None:
    rig = Rig()
    rig.breaker._lock = cast("Any", Untouchable())
    rig.breaker._clock = Untouchable()
    permit = rig.breaker.try_acquire()
    assert permit > 0
    rig.breaker.record_success(permit)
    rig.breaker.release(permit)


def test_an_open_breaker_refuses_without_taking_the_lock() -> None:
    rig = Rig()
    rig.to_open()
    rig.breaker._lock = cast("Any", Untouchable())
    assert rig.breaker.try_acquire() == 0


def test_open_breaker_refuses_without_calling_the_agent() -> None:
    rig = Rig()
    rig.to_open()
    called: list[str] = []

    async def main() -> None:
        for call in WAYS_TO_CALL:
            with pytest.raises(CircuitBreakerOpen):
                await call(rig.breaker, cast("Any", lambda: called.append("async")))

    asyncio.run(main())
    with pytest.raises(CircuitBreakerOpen):
        rig.breaker.call_sync(called.append, "sync")
    assert called == []


# 2. Generations.


@pytest.mark.parametrize("command", ["force_open", "disable", "reset", "new_instance"])
def test_a_verdict_from_before_a_command_changes_nothing(command: str) -> None:
    rig = Rig(BreakerPolicy(failure_threshold=1))
    permit = rig.breaker.try_acquire()
    getattr(rig.breaker, command)()
    state = rig.breaker.state
    rig.breaker.record_failure(permit)
    rig.breaker.record_success(permit)
    assert rig.breaker.state is state
    metrics = rig.breaker.metrics
    assert (metrics.late, metrics.failures, metrics.successes) == (2, 0, 0)


def test_every_transition_clears_the_counters() -> None:
    rig = Rig()
    rig.fail(times=4)
    rig.breaker.reset()
    rig.fail(times=4)
    assert rig.breaker.state is CLOSED


def test_probes_of_an_older_half_open_do_not_help_to_close() -> None:
    rig = Rig()
    rig.breaker.record_success(rig.to_first_probe())
    rig.breaker.new_instance()
    rig.succeed(times=2)
    assert rig.breaker.state is HALF_OPEN
    rig.succeed()
    assert rig.breaker.state is CLOSED


# 3. From OPEN to HALF_OPEN.


def test_whoever_asks_after_the_wait_gets_the_first_probe() -> None:
    rig = Rig()
    rig.to_open()
    rig.clock.advance(0.999)
    assert rig.breaker.try_acquire() == 0
    rig.clock.advance(0.001)
    assert rig.breaker.state is OPEN
    assert rig.breaker.try_acquire() > 0
    assert rig.breaker.state is HALF_OPEN


@pytest.mark.parametrize("probes_max", [1, 2, 5])
def test_others_get_nothing_while_the_probes_are_out(probes_max: int) -> None:
    rig = Rig(BreakerPolicy(half_open_max_probes=probes_max))
    probes = [rig.to_first_probe(), *(rig.breaker.try_acquire() for _ in range(probes_max - 1))]
    assert all(probes)
    assert [rig.breaker.try_acquire() for _ in range(10)] == [0] * 10
    rig.breaker.record_success(probes[0])
    assert [bool(rig.breaker.try_acquire()) for _ in range(3)] == [True, False, False]


# 4. Each probe has a permit of its own, and a lease.


def test_each_probe_has_a_permit_of_its_own() -> None:
    rig = Rig(BreakerPolicy(half_open_max_probes=3, success_threshold=9))
    probes = [rig.to_first_probe()]
    for _ in range(8):
        rig.breaker.record_success(probes[-1])
        probes.append(rig.breaker.try_acquire())
    assert len(set(probes)) == 9
    assert all(probes)


def test_an_unsettled_probe_is_lost_at_the_end_of_its_lease_and_another_may_go() -> None:
    rig = Rig()
    rig.to_first_probe()
    rig.clock.advance(PROBE_LEASE_S - 0.001)
    assert rig.breaker.try_acquire() == 0
    rig.clock.advance(0.001)
    assert rig.breaker.try_acquire() > 0
    assert rig.breaker.metrics.lost_probes == 1


def test_a_caller_may_lease_a_probe_for_as_long_as_its_attempt_may_take() -> None:
    rig = Rig()
    rig.to_open()
    rig.wait_out()
    assert rig.breaker.try_acquire(probe_lease_s=5.0)
    rig.clock.advance(5.0)
    assert rig.breaker.try_acquire()


def test_two_probes_lost_in_a_row_open_it_with_the_next_wait() -> None:
    rig = Rig()
    rig.to_first_probe()
    rig.clock.advance(PROBE_LEASE_S)
    assert rig.breaker.try_acquire()
    rig.clock.advance(PROBE_LEASE_S)
    assert rig.breaker.try_acquire() == 0
    assert rig.breaker.state is OPEN
    assert rig.breaker.retry_after_s == pytest.approx(1.5)


def test_a_success_between_two_lost_probes_breaks_the_row() -> None:
    rig = Rig()
    rig.to_first_probe()
    for _ in range(2):
        rig.clock.advance(PROBE_LEASE_S)
        rig.succeed()
        assert rig.breaker.try_acquire()
    assert rig.breaker.state is HALF_OPEN


def test_a_verdict_after_the_end_of_the_lease_is_no_verdict_of_a_probe() -> None:
    rig = Rig(BreakerPolicy(success_threshold=1))
    hung = rig.to_first_probe()
    rig.clock.advance(PROBE_LEASE_S)
    rig.breaker.record_success(hung)
    assert rig.breaker.state is HALF_OPEN
    assert (rig.breaker.metrics.lost_probes, rig.breaker.metrics.successes) == (1, 0)


def test_a_probe_released_after_the_end_of_its_lease_was_lost() -> None:
    rig = Rig()
    for _ in range(2):
        hung = rig.to_first_probe()
        rig.clock.advance(PROBE_LEASE_S)
        rig.breaker.release(hung)
    assert rig.breaker.metrics.lost_probes == 2
    assert rig.breaker.state is OPEN


# 5. From HALF_OPEN on.


def test_three_successes_close_it() -> None:
    rig = Rig()
    rig.breaker.record_success(rig.to_first_probe())
    rig.succeed()
    assert rig.breaker.state is HALF_OPEN
    rig.succeed()
    assert rig.breaker.state is CLOSED
    assert rig.breaker.retry_after_s == 0


def test_the_first_failure_opens_it_though_two_probes_succeeded() -> None:
    rig = Rig()
    rig.breaker.record_success(rig.to_first_probe())
    rig.succeed()
    rig.fail(times=1)
    assert rig.breaker.state is OPEN


# 6. Waits.


def test_waits_are_1_1_and_a_half_and_so_on_up_to_60_seconds() -> None:
    rig = Rig()
    rig.to_open()
    waits = [rig.breaker.retry_after_s]
    for _ in range(13):
        rig.wait_out()
        rig.fail(times=1)
        waits.append(rig.breaker.retry_after_s)
    assert waits[:4] == pytest.approx([1.0, 1.5, 2.25, 3.375])
    assert waits[1:11] == pytest.approx([1.5 * wait_s for wait_s in waits[:10]])
    assert waits[11:] == pytest.approx([60.0] * 3)
    assert rig.breaker.metrics.backoff_s == 60.0


@pytest.mark.parametrize("jitter", [0.9, 1.1])
def test_jitter_is_within_a_tenth_and_does_not_grow_with_the_waits(jitter: float) -> None:
    rig = Rig()
    rig.jitter = jitter
    rig.to_open()
    for wait_s in (1.0, 1.5, 2.25):
        assert rig.breaker.retry_after_s == pytest.approx(wait_s * jitter)
        rig.wait_out()
        rig.fail(times=1)


def test_jitter_is_drawn_once_per_opening() -> None:
    rig = Rig()
    rig.to_open()
    told = {rig.breaker.retry_after_s for _ in range(100)}
    assert [rig.breaker.try_acquire() for _ in range(100)] == [0] * 100
    assert (rig.draws, len(told)) == (1, 1)
    rig.wait_out()
    rig.fail(times=1)
    assert rig.draws == 2


def test_reopening_soon_after_closing_waits_longer_than_before() -> None:
    rig = Rig()
    rig.to_open()
    rig.heal()
    rig.clock.advance(9.999)
    rig.to_open()
    assert rig.breaker.retry_after_s == pytest.approx(1.5)


def test_after_ten_stable_seconds_the_next_opening_waits_one_second_again() -> None:
    rig = Rig()
    rig.to_open()
    rig.heal()
    rig.clock.advance(10.0)
    rig.to_open()
    assert rig.breaker.retry_after_s == pytest.approx(1.0)


def test_a_new_instance_resets_the_wait_and_admits_a_probe_at_once() -> None:
    rig = Rig(gated=True)
    rig.to_open()
    for _ in range(20):
        rig.breaker.probe_failed()
    rig.breaker.cool_down(300.0)
    rig.breaker.new_instance()
    assert rig.breaker.retry_after_s == 0
    assert rig.breaker.try_acquire() > 0
    rig.breaker.record_failure(rig.breaker.last_permit)
    assert rig.breaker.retry_after_s == pytest.approx(1.0)


def test_a_new_instance_is_not_blamed_for_the_probe_of_the_old_one() -> None:
    rig = Rig()
    old_probe = rig.to_first_probe()
    rig.breaker.new_instance()
    new_probe = rig.breaker.try_acquire()
    assert new_probe, "the old process's probe does not stand in its way"
    rig.breaker.record_failure(old_probe)
    assert rig.breaker.state is HALF_OPEN
    assert rig.breaker.metrics.late == 1


def test_a_new_instance_in_closed_begins_with_no_failures() -> None:
    rig = Rig()
    rig.fail(times=4)
    rig.breaker.new_instance()
    rig.fail(times=4)
    assert rig.breaker.state is CLOSED


def test_a_new_instance_does_not_undo_what_an_operator_ordered() -> None:
    for command in ("force_open", "disable"):
        rig = Rig()
        getattr(rig.breaker, command)()
        state = rig.breaker.state
        rig.breaker.new_instance()
        assert rig.breaker.state is state


def test_a_wait_can_be_capped_counted_from_its_beginning() -> None:
    rig = Rig()
    rig.to_open()
    for _ in range(12):
        rig.wait_out()
        rig.fail(times=1)
    rig.clock.advance(2.0)
    rig.breaker.cap_wait(5.0)
    assert rig.breaker.retry_after_s == pytest.approx(3.0)
    rig.breaker.cap_wait(50.0)
    assert rig.breaker.retry_after_s == pytest.approx(3.0), "a cap never makes a wait longer"
    rig.wait_out()
    rig.fail(times=1)
    assert rig.breaker.retry_after_s == pytest.approx(60.0), "the cap was for that wait alone"


# 7. Settling.


def test_settling_a_probe_twice_does_nothing() -> None:
    rig = Rig()
    probe = rig.to_first_probe()
    rig.breaker.record_success(probe)
    after_once = rig.breaker.metrics
    rig.breaker.record_success(probe)
    rig.breaker.record_failure(probe)
    rig.breaker.release(probe)
    assert rig.breaker.metrics == after_once
    assert rig.breaker.state is HALF_OPEN


def test_a_refusal_can_be_settled_and_that_does_nothing() -> None:
    rig = Rig()
    rig.to_open()
    before = rig.breaker.metrics
    for settle in (rig.breaker.record_success, rig.breaker.record_failure, rig.breaker.release):
        settle(0)
    assert rig.breaker.metrics == before


def test_no_verdict_does_not_reset_the_row_of_failures() -> None:
    rig = Rig()
    rig.fail(times=4)
    rig.breaker.release(rig.breaker.try_acquire())
    rig.fail(times=1)
    assert rig.breaker.state is OPEN


def test_a_released_probe_gives_its_place_back_at_once() -> None:
    rig = Rig()
    rig.breaker.release(rig.to_first_probe())
    assert rig.breaker.try_acquire() > 0
    assert rig.breaker.metrics.lost_probes == 0


def test_releasing_a_closed_permit_takes_no_lock() -> None:
    rig = Rig()
    permit = rig.breaker.try_acquire()
    rig.breaker._lock = cast("Any", Untouchable())
    rig.breaker.release(permit)


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, SystemExit])
@POLICIES
@CALLS
def test_an_interrupted_probe_settles_without_a_verdict(
    call: WaysToCall, policy: BreakerPolicy, error: type[BaseException]
) -> None:
    async def interrupted() -> None:
        raise error

    rig = Rig(policy)
    rig.breaker.release(rig.to_first_probe())
    before = rig.breaker.metrics
    with pytest.raises(error):
        # By hand: an event loop would see to some of these itself.
        cast("Any", call(rig.breaker, interrupted)).send(None)
    assert rig.breaker.metrics == before
    assert rig.breaker.try_acquire() > 0, "its place is free again"


@POLICIES
def test_an_interrupted_plain_function_settles_without_a_verdict(policy: BreakerPolicy) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    rig = Rig(policy)
    rig.breaker.release(rig.to_first_probe())
    with pytest.raises(KeyboardInterrupt):
        rig.breaker.call_sync(interrupted)
    with pytest.raises(KeyboardInterrupt):
        rig.breaker(interrupted)()
    assert rig.breaker.state is HALF_OPEN
    assert rig.breaker.try_acquire() > 0


@POLICIES
@CALLS
def test_a_coroutine_thrown_away_settles_its_probe(call: WaysToCall, policy: BreakerPolicy) -> None:
    rig = Rig(policy)
    rig.breaker.release(rig.to_first_probe())
    abandoned = cast("Any", call(rig.breaker, never_answer))
    abandoned.send(None)
    assert rig.breaker.try_acquire() == 0
    abandoned.close()
    assert rig.breaker.try_acquire() > 0


@CALLS
def test_an_is_failure_that_raises_settles_the_probe_too(call: WaysToCall) -> None:
    def cannot_tell(_: object) -> bool:
        raise ZeroDivisionError

    rig = Rig(BreakerPolicy(is_failure=cannot_tell))
    rig.breaker.release(rig.to_first_probe())

    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            await call(rig.breaker, answer)
        with pytest.raises(ZeroDivisionError):
            await call(rig.breaker, fail)

    asyncio.run(main())
    assert rig.breaker.state is HALF_OPEN
    assert rig.breaker.try_acquire() > 0


def test_a_guarded_call_collected_while_the_lock_is_held_settles_without_a_deadlock() -> None:
    """Garbage is collected at any moment: here while the breaker, lock in hand, reads its clock."""
    rig = Rig(BreakerPolicy(half_open_max_probes=2))
    rig.to_open()
    rig.wait_out()
    abandoned = cast("Any", rig.breaker.call(never_answer))
    abandoned.send(None)
    assert rig.breaker.state is HALF_OPEN

    def read_while_collecting() -> float:
        rig.breaker._clock = rig.clock.monotonic
        abandoned.close()
        return rig.clock.monotonic()

    rig.breaker._clock = read_while_collecting
    asker = threading.Thread(target=rig.breaker.try_acquire, daemon=True)
    asker.start()
    asker.join(timeout=REAL_WAIT_S)
    assert not asker.is_alive(), "the breaker waits for itself"
    assert rig.breaker.try_acquire(), "the abandoned probe's place is free again"


# Evidence without a permit.


def test_evidence_without_a_permit_counts_in_closed() -> None:
    rig = Rig()
    for _ in range(5):
        rig.breaker.record_evidence()
    assert rig.breaker.state is OPEN
    assert rig.breaker.metrics.failures == 5


def test_evidence_without_a_permit_opens_half_open() -> None:
    rig = Rig()
    rig.to_first_probe()
    rig.breaker.record_evidence()
    assert rig.breaker.state is OPEN
    assert rig.breaker.retry_after_s == pytest.approx(1.5)


def test_evidence_finds_out_that_the_probes_were_lost() -> None:
    rig = Rig(BreakerPolicy(half_open_max_probes=2))
    rig.to_first_probe()
    assert rig.breaker.try_acquire()
    rig.clock.advance(PROBE_LEASE_S)
    rig.breaker.record_evidence()
    assert rig.breaker.state is OPEN
    assert (rig.breaker.metrics.lost_probes, rig.breaker.metrics.failures) == (2, 5)


def test_evidence_without_a_permit_is_ignored_in_open() -> None:
    rig = Rig()
    rig.to_open()
    before = (rig.breaker.metrics, rig.breaker.retry_after_s)
    rig.breaker.record_evidence()
    assert (rig.breaker.metrics, rig.breaker.retry_after_s) == before


# 8. Cooling down.


def test_nothing_is_admitted_before_the_promised_moment() -> None:
    rig = Rig()
    rig.breaker.cool_down(30.0)
    assert (rig.breaker.state, rig.breaker.retry_after_s) == (CLOSED, 30.0)
    rig.clock.advance(29.999)
    assert rig.breaker.try_acquire() == 0
    rig.clock.advance(0.001)
    assert rig.breaker.try_acquire() > 0


def test_cooling_is_no_failure_and_keeps_the_state_and_the_generation() -> None:
    rig = Rig()
    rig.fail(times=4)
    in_flight = rig.breaker.try_acquire()
    rig.breaker.cool_down(5.0)
    assert rig.breaker.metrics.failures_in_row == 4
    rig.breaker.record_failure(in_flight)
    assert rig.breaker.state is OPEN


def test_cooling_holds_back_probes_too() -> None:
    rig = Rig()
    rig.breaker.release(rig.to_first_probe())
    rig.breaker.cool_down(5.0)
    assert rig.breaker.try_acquire() == 0
    rig.wait_out()
    assert rig.breaker.try_acquire() > 0
    assert rig.breaker.state is HALF_OPEN


def test_an_open_breaker_waits_for_the_later_of_wait_and_promise() -> None:
    rig = Rig()
    rig.to_open()
    rig.breaker.cool_down(30.0)
    rig.clock.advance(1.0)
    assert rig.breaker.try_acquire() == 0
    assert rig.breaker.retry_after_s == pytest.approx(29.0)


def test_closing_does_not_break_the_promise() -> None:
    rig = Rig(BreakerPolicy(success_threshold=1))
    probe = rig.to_first_probe()
    rig.breaker.cool_down(30.0)
    rig.breaker.record_success(probe)
    assert rig.breaker.state is CLOSED
    assert rig.breaker.try_acquire() == 0
    rig.wait_out()
    assert rig.breaker.try_acquire() > 0


# 9. Calls, decorated functions and threads.


def test_the_refusal_says_which_circuit_and_when_to_come_back() -> None:
    rig = Rig()
    rig.to_open()
    with pytest.raises(CircuitBreakerOpen, match=r"Circuit 'eyes-1' is open; retry after 1\.00 s\.") as refused:
        asyncio.run(rig.breaker.call(answer))
    assert refused.value.name == "eyes-1"
    assert refused.value.retry_after_s == pytest.approx(1.0)


@POLICIES
@CALLS
def test_a_call_returns_what_the_function_returns_and_raises_what_it_raises(
    call: WaysToCall, policy: BreakerPolicy
) -> None:
    rig = Rig(policy)

    async def main() -> None:
        assert await call(rig.breaker, answer) == "a cat"
        with pytest.raises(OSError, match="no answer"):
            await call(rig.breaker, fail)

    asyncio.run(main())
    metrics = rig.breaker.metrics
    assert (metrics.successes, metrics.failures, metrics.failures_in_row) == (1, 1, 1)


@POLICIES
@CALLS
def test_a_call_that_succeeds_begins_the_row_anew(call: WaysToCall, policy: BreakerPolicy) -> None:
    rig = Rig(policy)
    for _ in range(3):
        rig.fail(times=2)
        assert asyncio.run(cast("Any", call(rig.breaker, answer))) == "a cat"
        assert rig.breaker.metrics.failures_in_row == 0
    assert rig.breaker.state is CLOSED


@POLICIES
@CALLS
def test_calls_open_it_and_close_it(call: WaysToCall, policy: BreakerPolicy) -> None:
    rig = Rig(policy)

    async def main() -> None:
        for _ in range(5):
            with pytest.raises(OSError, match="no answer"):
                await call(rig.breaker, fail)
        with pytest.raises(CircuitBreakerOpen):
            await call(rig.breaker, answer)
        rig.wait_out()
        for _ in range(3):
            assert await call(rig.breaker, answer) == "a cat"

    asyncio.run(main())
    assert [transition.new for transition in rig.told] == [OPEN, HALF_OPEN, CLOSED]


@POLICIES
def test_plain_functions_are_guarded_like_asynchronous_ones(policy: BreakerPolicy) -> None:
    rig = Rig(policy)
    numbers = iter([0, 0, 0, 0, 0, 1, 1, 1])

    @rig.breaker
    def divide() -> float:
        return 1 / next(numbers)

    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            divide()
    with pytest.raises(CircuitBreakerOpen):
        divide()
    rig.wait_out()
    assert [divide() for _ in range(3)] == [1.0] * 3
    assert rig.breaker.state is CLOSED


def test_arguments_go_through() -> None:
    breaker = CircuitBreaker()

    async def tell(*names: str, loud: bool) -> tuple[tuple[str, ...], bool]:
        return names, loud

    assert asyncio.run(breaker.call(tell, "a", "b", loud=True)) == (("a", "b"), True)
    assert asyncio.run(breaker(tell)("a", loud=False)) == (("a",), False)
    assert breaker.call_sync(divmod, 7, 2) == (3, 1)
    assert breaker(divmod)(7, 2) == (3, 1)


def test_decorated_functions_keep_their_name_and_their_kind() -> None:
    for policy in (PLAIN, TIMED, JUDGED):
        guarded = CircuitBreaker(policy=policy)(answer)
        assert guarded.__name__ == "answer"
        assert inspect.iscoroutinefunction(guarded)
        assert inspect.signature(guarded) == inspect.signature(answer)


def test_decorated_methods_are_bound_to_their_object() -> None:
    eyes = Eyes("a cat")
    assert eyes.look("left", twice=False) == "a cat left"
    assert asyncio.run(eyes.stare("right")) == "a cat right"
    assert Eyes.look(eyes, "up") == "a cat up"
    assert (Eyes.look.__name__, Eyes.look.__doc__) == ("look", "Look there.")


@pytest.mark.parametrize("hear", [Ears(), functools.partial(Ears.__call__, Ears())], ids=["object", "partial"])
def test_whatever_is_asynchronous_is_guarded_to_its_end(hear: Callable[[], Awaitable[str]]) -> None:
    breaker = CircuitBreaker("ears")

    async def main() -> None:
        for _ in range(5):
            with pytest.raises(OSError, match="deaf"):
                await breaker(hear)()

    asyncio.run(main())
    assert breaker.state is OPEN


@CALLS
def test_results_can_count_as_failures(call: WaysToCall) -> None:
    rig = Rig(BreakerPolicy(is_failure=lambda ended: ended == "a cat"))

    async def main() -> None:
        for _ in range(5):
            assert await call(rig.breaker, answer) == "a cat"

    asyncio.run(main())
    assert rig.breaker.state is OPEN


@CALLS
def test_exceptions_can_count_as_successes(call: WaysToCall) -> None:
    rig = Rig(BreakerPolicy(is_failure=lambda ended: isinstance(ended, TimeoutError)))
    rig.fail(times=4)
    with pytest.raises(OSError, match="no answer"):
        asyncio.run(cast("Any", call(rig.breaker, fail)))
    assert rig.breaker.state is CLOSED
    assert rig.breaker.metrics.failures_in_row == 0


def test_results_of_plain_functions_are_judged_too() -> None:
    rig = Rig(BreakerPolicy(is_failure=lambda ended: ended == "absent"))
    for _ in range(5):
        rig.breaker.call_sync(str, "absent")
    assert rig.breaker.state is OPEN


@POLICIES
@CALLS
def test_ignored_exceptions_are_no_verdict(call: WaysToCall, policy: BreakerPolicy) -> None:
    rig = Rig(msgspec.structs.replace(policy, ignored=(OSError,)))
    rig.fail(times=4)
    for _ in range(10):
        with pytest.raises(OSError, match="no answer"):
            asyncio.run(cast("Any", call(rig.breaker, fail)))
    assert rig.breaker.metrics.failures_in_row == 4
    rig.fail(times=1)
    assert rig.breaker.state is OPEN


@CALLS
def test_calls_are_timed_for_the_rate_of_slow_ones(call: WaysToCall) -> None:
    rig = Rig(TIMED)

    async def answer_slowly() -> str:
        rig.clock.advance(2.0)
        return "a cat"

    async def main() -> None:
        for f in (answer, answer, answer_slowly, answer_slowly):
            assert rig.breaker.state is CLOSED
            await call(rig.breaker, f)

    asyncio.run(main())
    assert rig.breaker.state is OPEN


def test_plain_functions_are_timed_too() -> None:
    rig = Rig(TIMED)
    for _ in range(4):
        rig.breaker.call_sync(rig.clock.advance, 5.0)
    assert rig.breaker.state is OPEN


# 10. Operators and listeners.


def test_forced_open_it_admits_nobody_until_reset() -> None:
    rig = Rig()
    rig.breaker.force_open()
    rig.clock.advance(24 * HOUR_S)
    rig.breaker.admit_probe()
    assert rig.breaker.try_acquire() == 0
    assert (rig.breaker.state, rig.breaker.retry_after_s) == (FORCED_OPEN, math.inf)
    rig.breaker.reset()
    assert rig.breaker.try_acquire() > 0


def test_a_disabled_breaker_always_admits_and_learns_nothing() -> None:
    rig = Rig()
    rig.to_open()
    rig.breaker.cool_down(300.0)
    rig.breaker.disable()
    rig.fail(times=100)
    rig.breaker.record_evidence()
    rig.breaker.cool_down(300.0)
    assert rig.breaker.try_acquire()
    assert (rig.breaker.state, rig.breaker.retry_after_s) == (DISABLED, 0.0)
    assert rig.breaker.metrics.failures_in_row == 0


def test_reset_closes_it_and_forgets_waits_and_promises() -> None:
    rig = Rig()
    rig.to_open()
    for _ in range(5):
        rig.wait_out()
        rig.fail(times=1)
    rig.breaker.cool_down(300.0)
    rig.breaker.reset()
    assert rig.breaker.try_acquire() > 0
    rig.to_open()
    assert rig.breaker.retry_after_s == pytest.approx(1.0)


def test_listeners_are_told_of_each_transition_after_it() -> None:
    rig = Rig()
    seen: list[CircuitState] = []
    rig.breaker.add_listener(lambda _: seen.append(rig.breaker.state))
    rig.to_open()
    rig.heal()
    rig.breaker.force_open()
    rig.breaker.disable()
    rig.breaker.reset()
    assert seen == [OPEN, HALF_OPEN, CLOSED, FORCED_OPEN, DISABLED, CLOSED]
    assert [transition.new for transition in rig.told] == seen
    assert [transition.old for transition in rig.told] == [CLOSED, *seen[:-1]]
    assert {transition.name for transition in rig.told} == {"eyes-1"}
    assert [transition.retry_after_s for transition in rig.told] == pytest.approx([1, 0, 0, math.inf, 0, 0])


def test_a_command_that_changes_no_state_tells_nobody() -> None:
    rig = Rig()
    rig.breaker.reset()
    rig.breaker.new_instance()
    rig.breaker.admit_probe()
    rig.breaker.probe_failed()
    assert rig.told == []


def test_a_listener_may_use_the_breaker() -> None:
    rig = Rig()
    rig.breaker.add_listener(lambda transition: rig.breaker.reset() if transition.new is OPEN else None)
    rig.fail(times=5)
    assert rig.breaker.state is CLOSED


def test_a_listener_runs_outside_the_lock() -> None:
    rig = Rig()
    others: list[bool] = []

    def let_another_thread_use_it(_: Transition) -> None:
        other = threading.Thread(target=rig.breaker.cool_down, args=(1.0,), daemon=True)
        other.start()
        other.join(timeout=REAL_WAIT_S)
        others.append(other.is_alive())

    rig.breaker.add_listener(let_another_thread_use_it)
    rig.breaker.force_open()
    assert others == [False]


def test_a_listener_that_raises_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    def read_a_cancelled_future(_: Transition) -> None:
        raise asyncio.CancelledError

    def divide(_: Transition) -> None:
        raise ZeroDivisionError

    told: list[Transition] = []
    breaker = CircuitBreaker("eyes-1", listener=divide)
    breaker.add_listener(read_a_cancelled_future)
    breaker.add_listener(told.append)
    breaker.force_open()
    assert breaker.state is FORCED_OPEN
    assert [transition.new for transition in told] == [FORCED_OPEN]
    assert [record.message for record in caplog.records] == ["a listener of circuit 'eyes-1' failed"] * 2


# 11. The gate.


def test_a_gated_breaker_refuses_past_its_wait_until_a_probe_is_admitted() -> None:
    rig = Rig(gated=True)
    rig.to_open()
    rig.clock.advance(HOUR_S)
    assert rig.breaker.try_acquire() == 0
    rig.breaker.admit_probe()
    assert rig.breaker.try_acquire() > 0
    assert rig.breaker.state is HALF_OPEN


def test_real_attempts_close_a_gated_breaker() -> None:
    rig = Rig(gated=True)
    rig.to_open()
    rig.breaker.admit_probe()
    rig.succeed(times=3)
    assert rig.breaker.state is CLOSED


def test_a_failed_probe_of_the_prober_means_the_next_wait() -> None:
    rig = Rig(gated=True)
    rig.to_open()
    waits = []
    for _ in range(3):
        rig.clock.advance(HOUR_S)
        rig.breaker.probe_failed()
        waits.append(rig.breaker.retry_after_s)
    assert waits == pytest.approx([1.5, 2.25, 3.375])
    assert rig.breaker.state is OPEN


def test_the_prober_changes_nothing_in_other_states() -> None:
    rig = Rig(gated=True)
    rig.breaker.admit_probe()
    rig.breaker.probe_failed()
    rig.breaker.cap_wait(5.0)
    assert (rig.breaker.state, rig.breaker.retry_after_s) == (CLOSED, 0.0)
    rig.to_open()
    rig.breaker.admit_probe()
    assert rig.breaker.try_acquire()
    rig.breaker.probe_failed()
    rig.breaker.admit_probe()
    assert rig.breaker.state is HALF_OPEN
    assert rig.breaker.try_acquire() == 0, "admitting again does not make room for a second probe"


# What can be seen of it.


def test_its_counters_say_what_happened() -> None:
    rig = Rig()
    rig.succeed(times=2)
    late = rig.breaker.try_acquire()
    rig.to_open()
    rig.breaker.try_acquire()
    rig.breaker.record_success(late)
    rig.to_first_probe()
    rig.clock.advance(PROBE_LEASE_S)
    rig.succeed()
    metrics = rig.breaker.metrics
    assert (metrics.successes, metrics.failures, metrics.rejected) == (3, 5, 1)
    assert (metrics.late, metrics.lost_probes, metrics.failures_in_row) == (1, 1, 0)
    assert metrics.backoff_s == 1.0


def test_while_the_probe_is_out_it_says_to_come_back_soon() -> None:
    rig = Rig()
    rig.to_open()
    rig.wait_out()
    assert rig.breaker.try_acquire(probe_lease_s=1.6)
    assert rig.breaker.retry_after_s == pytest.approx(1.0), "at most the first wait: it may settle any moment"
    rig.clock.advance(1.0)
    assert rig.breaker.retry_after_s == pytest.approx(0.6), "then its lease ends"
    rig.clock.advance(0.6)
    assert rig.breaker.retry_after_s == 0


def test_a_breaker_takes_no_more_than_a_kilobyte_and_a_half() -> None:
    breakers: list[CircuitBreaker | None] = [None] * 200
    CircuitBreaker()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for index in range(len(breakers)):
            breakers[index] = CircuitBreaker(f"eyes-{index}")
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown / len(breakers) <= 1_536


# What can never work is refused when it is written down.


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"failure_threshold": 0}, "at least 1"),
        ({"success_threshold": 0}, "at least 1"),
        ({"half_open_max_probes": 0}, "at least 1"),
        ({"window_calls_min": 0}, "at least 1"),
        ({"window": 0}, "1 to 10,000"),
        ({"window": 10_001}, "1 to 10,000"),
        ({"probe_lease_s": 0.0}, "more than 0"),
        ({"probe_lease_s": math.nan}, "more than 0"),
        ({"failure_rate": 50.0}, "at most 1"),
        ({"failure_rate": 0.0}, "more than 0"),
        ({"slow_call_s": 1.0, "slow_call_rate": math.nan}, "at most 1"),
        ({"slow_call_rate": 0.5}, "needs slow_call_s"),
    ],
)
def test_a_policy_that_could_never_work_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        BreakerPolicy(**options)


# The field's known failures, by name.


def test_known_failure_the_probe_hangs() -> None:
    """A probe that never ends takes no place for ever, and two of them are an answer."""
    rig = Rig()
    rig.to_open()
    rig.wait_out()

    async def main() -> None:
        hung = [asyncio.ensure_future(rig.breaker.call(asyncio.Event().wait))]
        await asyncio.sleep(0)
        assert rig.breaker.try_acquire() == 0
        rig.clock.advance(PROBE_LEASE_S)
        hung.append(asyncio.ensure_future(rig.breaker.call(asyncio.Event().wait)))
        await asyncio.sleep(0)
        rig.clock.advance(PROBE_LEASE_S)
        with pytest.raises(CircuitBreakerOpen):
            await rig.breaker.call(answer)
        for probe in hung:
            probe.cancel()
        await asyncio.gather(*hung, return_exceptions=True)

    asyncio.run(main())
    assert rig.breaker.state is OPEN
    rig.heal()


def test_known_failure_the_probe_is_cancelled_ten_times() -> None:
    """A caller who leaves says nothing about the agent: no verdict, no place lost, no generation ended."""
    rig = Rig()
    rig.to_open()
    rig.wait_out()

    async def main() -> None:
        for _ in range(10):
            probe = asyncio.ensure_future(rig.breaker.call(asyncio.Event().wait))
            await asyncio.sleep(0)
            probe.cancel()
            with pytest.raises(asyncio.CancelledError):
                await probe
        for _ in range(3):
            assert await rig.breaker.call(answer) == "a cat"

    asyncio.run(main())
    assert rig.breaker.state is CLOSED
    assert (rig.breaker.metrics.failures, rig.breaker.metrics.lost_probes) == (5, 0)


def test_known_failure_an_ignored_exception_as_probe() -> None:
    """It neither closes the circuit nor leaves it waiting for a verdict that never comes."""
    rig = Rig(BreakerPolicy(ignored=(OSError,), success_threshold=1))
    rig.to_open()
    rig.wait_out()

    async def main() -> None:
        for _ in range(3):
            with pytest.raises(OSError, match="no answer"):
                await rig.breaker.call(fail)
            assert rig.breaker.state is HALF_OPEN
        await rig.breaker.call(answer)

    asyncio.run(main())
    assert rig.breaker.state is CLOSED


def test_known_failure_a_late_success_while_open() -> None:
    """A call from before the opening that succeeds after it closes nothing."""
    rig = Rig()
    slow = rig.breaker.try_acquire()
    rig.to_open()
    rig.breaker.record_success(slow)
    assert rig.breaker.state is OPEN
    assert rig.breaker.retry_after_s == pytest.approx(1.0)
    assert rig.breaker.metrics.late == 1


def test_known_failure_a_late_failure_in_half_open() -> None:
    """A call from before the opening that fails during the probe opens nothing."""
    rig = Rig()
    slow = rig.breaker.try_acquire()
    rig.breaker.record_success(rig.to_first_probe())
    rig.breaker.record_failure(slow)
    assert rig.breaker.state is HALF_OPEN
    rig.succeed(times=2)
    assert rig.breaker.state is CLOSED


def test_known_failure_the_wall_clock_goes_back_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    """An opening ends when its wait is over, whatever people make of the time of day."""
    rig = Rig()
    rig.to_open()
    rig.clock.shift_wall(-HOUR_S)
    rig.clock.advance(1.0)
    assert rig.breaker.try_acquire() > 0

    monkeypatch.setattr(time, "time", Untouchable())
    monkeypatch.setattr(time, "time_ns", Untouchable())
    by_itself = CircuitBreaker(policy=BreakerPolicy(failure_threshold=1, backoff=Backoff(first_s=0.001)))
    by_itself.record_failure(by_itself.try_acquire())
    give_up_at = time.monotonic() + REAL_WAIT_S
    while not by_itself.try_acquire():
        assert time.monotonic() < give_up_at


def test_known_failure_the_lock_is_held_during_the_call() -> None:
    """While one call runs, others come and go, fail, and open the circuit."""
    rig = Rig()
    done: list[bool] = []

    def look_around_meanwhile() -> None:
        other = threading.Thread(target=rig.fail, daemon=True)
        other.start()
        other.join(timeout=REAL_WAIT_S)
        done.append(not other.is_alive())

    rig.breaker.call_sync(look_around_meanwhile)
    assert done == [True]
    assert rig.breaker.state is OPEN


def test_known_failure_memory_is_kept_per_rejection() -> None:
    """A million refusals leave not a byte behind."""
    rig = Rig()
    rig.to_open()
    refuse, permit = rig.breaker.try_acquire, 0
    for _ in range(1_000):
        permit = refuse()
    before = sys.getallocatedblocks()
    for _ in itertools.repeat(None, 1_000_000):
        permit = refuse()
    grown = sys.getallocatedblocks() - before
    assert permit == 0
    assert rig.breaker.metrics.rejected >= 1_000_000
    assert grown <= INTERPRETER_BLOCKS_MAX


def test_known_failure_memory_is_kept_per_rejection_that_raises() -> None:
    rig = Rig()
    rig.to_open()

    def refuse(times: int) -> None:
        for _ in range(times):
            try:
                rig.breaker.call_sync(time.monotonic)
            except CircuitBreakerOpen:
                continue

    refuse(1_000)
    before = sys.getallocatedblocks()
    refuse(50_000)
    assert sys.getallocatedblocks() - before <= INTERPRETER_BLOCKS_MAX


def test_known_failure_a_storm_of_429_with_retry_after() -> None:
    """A thousand answers that ask for a rest are one rest, and never an opening."""
    rig = Rig()
    in_flight = [rig.breaker.try_acquire() for _ in range(1_000)]
    for permit in in_flight:
        rig.breaker.release(permit)
        rig.breaker.cool_down(20.0)
    assert rig.breaker.state is CLOSED
    assert rig.breaker.metrics.failures == 0
    assert rig.breaker.retry_after_s == 20.0
    rig.clock.advance(20.0)
    assert rig.breaker.try_acquire() > 0


def test_known_failure_a_storm_of_429_without_retry_after() -> None:
    """Guessed rests that grow, 1 s x1.5, never open it either and end when they end."""
    rig = Rig()
    guess = Backoff()
    rest_s = 0.0
    for _ in range(20):
        rest_s = guess.after(rest_s)
        for permit in [rig.breaker.try_acquire() for _ in range(50)]:
            assert permit
            rig.breaker.release(permit)
            rig.breaker.cool_down(rest_s)
        assert rig.breaker.retry_after_s == pytest.approx(rest_s)
        # A sum of floats may come out one bit short.
        rig.clock.advance(rest_s + 1e-9)
    assert rig.breaker.try_acquire() > 0
    assert rig.told == []


def test_known_failure_a_later_shorter_retry_after() -> None:
    """The longest promise wins, whichever came last."""
    rig = Rig()
    rig.breaker.cool_down(60.0)
    rig.breaker.cool_down(1.0)
    rig.clock.advance(59.0)
    assert rig.breaker.try_acquire() == 0
    rig.breaker.cool_down(5.0)
    assert rig.breaker.retry_after_s == pytest.approx(5.0)


@CALLS
def test_known_failure_the_half_open_stampede(call: WaysToCall) -> None:
    """Of a thousand who come at the moment of half-open, one is the probe."""
    rig = Rig()
    rig.to_open()
    rig.wait_out()
    called: list[None] = []

    async def main() -> list[Any]:
        go = asyncio.Event()

        async def slow_answer() -> None:
            called.append(None)
            await go.wait()

        crowd = [asyncio.ensure_future(cast("Any", call(rig.breaker, slow_answer))) for _ in range(1_000)]
        await asyncio.sleep(0)
        go.set()
        return await asyncio.gather(*crowd, return_exceptions=True)

    ended = asyncio.run(main())
    assert len(called) == 1
    assert sum(isinstance(end, CircuitBreakerOpen) for end in ended) == 999


@pytest.mark.parametrize("probes_max", [1, 3])
def test_known_failure_32_threads_at_the_moment_of_half_open(probes_max: int) -> None:
    """Exactly half_open_max_probes get through, every time."""
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            rig = Rig(BreakerPolicy(half_open_max_probes=probes_max))
            rig.to_open()
            rig.wait_out()
            permits = in_threads(32, rig.breaker.try_acquire)
            admitted = [permit for permit in permits if permit]
            assert len(admitted) == len(set(admitted)) == probes_max
            assert rig.breaker.metrics.rejected == 32 - probes_max
            assert [transition.new for transition in rig.told] == [OPEN, HALF_OPEN]
    finally:
        sys.setswitchinterval(interval_s)


def test_threads_that_fail_together_open_it_once() -> None:
    rig = Rig(BreakerPolicy(failure_threshold=32))
    in_threads(32, lambda: rig.fail(times=1))
    assert [transition.new for transition in rig.told] == [OPEN]
    assert (rig.draws, rig.breaker.metrics.failures) == (1, 32)


def in_threads(count: int, f: Callable[[], Any]) -> list[Any]:
    """What `f` returned in so many threads that began together."""
    results: list[Any] = []
    barrier = threading.Barrier(count)

    def run() -> None:
        barrier.wait(timeout=REAL_WAIT_S)
        results.append(f())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=REAL_WAIT_S)
    assert len(results) == count
    return results
