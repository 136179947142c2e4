"""Section 2 of the semantics, rule by rule, and what other breakers are known to get wrong."""

import asyncio
import math
import threading
import types
from collections.abc import Iterator
from typing import Any, cast

import pytest

from aicp.resilience.circuit_breaker import DEFAULT_POLICY, BreakerPolicy, CircuitBreaker, CircuitState, Transition
from aicp.testing import ManualClock

REAL_WAIT_S = 20.0


class Rig:
    """A breaker whose time stands still until told, and whose jitter is chosen."""

    def __init__(self, policy: BreakerPolicy = DEFAULT_POLICY, *, gated: bool = False) -> None:
        self.clock = ManualClock()
        self.jitter = 1.0
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
        return self.jitter

    def fail(self, times: int = 5) -> None:
        """So many calls in a row fail."""
        for _ in range(times):
            self.breaker.record_failure(self.breaker.try_acquire())

    def to_first_probe(self) -> int:
        """Make it fail where it has not yet, wait as long as it takes, and take the probe."""
        if self.breaker.state is CircuitState.CLOSED:
            self.fail()
        self.clock.advance(self.breaker.retry_after_s)
        probe = self.breaker.try_acquire()
        assert probe
        assert self.breaker.state is CircuitState.HALF_OPEN
        return probe


class Untouchable:
    """Stands for a lock that must not be taken."""

    def __enter__(self) -> None:
        raise AssertionError("the lock was taken")

    def __exit__(self, *_: object) -> None: ...


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


async def never_answer() -> None:
    """Hangs until it is cancelled or thrown away, on any event loop or none."""
    await suspended()


@types.coroutine
def suspended() -> Iterator[None]:
    yield


class Ears:
    """A callable that is asynchronous without being a coroutine function."""

    async def __call__(self) -> str:
        raise OSError("deaf")


# 9. The decorator.


def test_decorated_methods_are_bound_to_their_object() -> None:
    eyes = Eyes("a cat")
    assert eyes.look("left", twice=False) == "a cat left"
    assert asyncio.run(eyes.stare("right")) == "a cat right"
    assert Eyes.look(eyes, "up") == "a cat up"
    assert (Eyes.look.__name__, Eyes.look.__doc__) == ("look", "Look there.")


def test_a_callable_with_an_asynchronous_call_is_guarded_to_its_end() -> None:
    breaker = CircuitBreaker("ears")
    hear = breaker(Ears())

    async def main() -> None:
        for _ in range(5):
            try:
                await hear()
            except OSError:
                continue

    asyncio.run(main())
    assert breaker.state is CircuitState.OPEN


# 4. Each probe has a permit of its own, and a lease.


def test_a_verdict_after_the_end_of_the_lease_is_no_verdict_of_a_probe() -> None:
    rig = Rig(BreakerPolicy(success_threshold=1))
    hung = rig.to_first_probe()
    rig.clock.advance(61.0)
    rig.breaker.record_success(hung)
    assert rig.breaker.state is CircuitState.HALF_OPEN
    assert (rig.breaker.metrics.lost_probes, rig.breaker.metrics.successes) == (1, 0)


def test_a_probe_released_after_the_end_of_its_lease_was_lost() -> None:
    rig = Rig()
    for _ in range(2):
        hung = rig.to_first_probe()
        rig.clock.advance(61.0)
        rig.breaker.release(hung)
    assert rig.breaker.metrics.lost_probes == 2
    assert rig.breaker.state is CircuitState.OPEN


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
    assert rig.breaker.state is CircuitState.HALF_OPEN


def test_releasing_a_closed_permit_takes_no_lock() -> None:
    rig = Rig()
    permit = rig.breaker.try_acquire()
    rig.breaker._lock = cast("Any", Untouchable())
    rig.breaker.release(permit)


def test_a_guarded_call_collected_while_the_lock_is_held_settles_without_a_deadlock() -> None:
    """Garbage is collected at any moment: here while the breaker, lock in hand, reads its clock."""
    rig = Rig(BreakerPolicy(half_open_max_probes=2))
    rig.fail()
    rig.clock.advance(rig.breaker.retry_after_s)
    abandoned = rig.breaker.call(never_answer)
    abandoned.send(None)
    assert rig.breaker.state is CircuitState.HALF_OPEN

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


# 10. Operators.


def test_a_disabled_breaker_always_admits_and_learns_nothing() -> None:
    rig = Rig()
    rig.breaker.disable()
    rig.fail(times=100)
    assert rig.breaker.try_acquire()
    assert rig.breaker.state is CircuitState.DISABLED
    assert rig.breaker.metrics.failures_in_row == 0


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
    assert breaker.state is CircuitState.FORCED_OPEN
    assert [transition.new for transition in told] == [CircuitState.FORCED_OPEN]
    assert [record.message for record in caplog.records] == ["a listener of circuit 'eyes-1' failed"] * 2


# What cannot work is refused when it is written down.


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
