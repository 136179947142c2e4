"""The circuit breaker: whether something that failed may be tried again.

| state       | admits                        | leaves it when                                          |
|-------------|-------------------------------|---------------------------------------------------------|
| CLOSED      | everybody                     | 5 failures or 20 doubts in a row, or a rate -> OPEN     |
| OPEN        | nobody until the wait is over | the wait is over (gated: `admit_probe`) -> HALF_OPEN    |
| HALF_OPEN   | one probe at a time           | 3 successes -> CLOSED; a failure, 2 lost probes -> OPEN |
| FORCED_OPEN | nobody                        | an operator: `reset` -> CLOSED                          |
| DISABLED    | everybody, whatever happens   | an operator: `reset` -> CLOSED                          |

Every permit is a number from one rising counter. All permits of a CLOSED generation are the number it began with, each
probe draws its own; so a verdict is current, a probe's, or late by one comparison, and nothing is kept per call.
"""

import asyncio
import functools
import inspect
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any, ParamSpec, TypeVar, cast

import msgspec

from aicp.errors import CircuitBreakerOpen
from aicp.resilience.backoff import Backoff
from aicp.standstill import TimeLimit

P = ParamSpec("P")
T = TypeVar("T")

REFUSED = 0
LOST_IN_ROW_MAX = 2
_NOBODY = -1
_FAILED, _SLOW = 1, 2
_log = logging.getLogger(__name__)


class CircuitState(StrEnum):
    """What a breaker is doing; the table is on top of this file."""

    CLOSED = "CLOSED"
    OPEN = "OPEN"
    HALF_OPEN = "HALF_OPEN"
    FORCED_OPEN = "FORCED_OPEN"
    DISABLED = "DISABLED"


class BreakerPolicy(msgspec.Struct, frozen=True):
    """When a breaker opens and closes; one value serves any number of breakers.

    Attributes:
        failure_threshold: Failures in a row that open it.
        doubt_threshold: Doubted failures in a row (`record_doubt`) that open it.
        success_threshold: Successful probes that close it.
        half_open_max_probes: Probes in flight at a time.
        probe_lease_s: A probe unsettled for this long is lost.
        backoff: Waits while OPEN.
        stable_after_s: CLOSED for this long, the next opening begins at the first wait again.
        window: Calls that the two rates look back on, 1 to 10,000.
        window_calls_min: Calls before the rates count; they are looked at with each failure and each slow call.
        failure_rate: Share of failures, more than 0 and at most 1, that opens it; None to look at those in a row alone.
        slow_call_s: A call at least this long is slow; None to time nothing.
        slow_call_rate: Share of slow calls, more than 0 and at most 1, that opens it; None for never.
        is_failure: Asked by `call` and the decorator about each exception or result; None: every `Exception` counts,
            no result does.
        ignored: Exceptions that are no verdict at all. What is not an `Exception` (CancelledError, …) never is.
    """

    failure_threshold: int = 5
    doubt_threshold: int = 20
    success_threshold: int = 3
    half_open_max_probes: int = 1
    probe_lease_s: float = 61.0
    backoff: Backoff = Backoff()
    stable_after_s: float = 10.0
    window: int = 100
    window_calls_min: int = 20
    failure_rate: float | None = None
    slow_call_s: float | None = None
    slow_call_rate: float | None = None
    is_failure: Callable[[Any], bool] | None = None
    ignored: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        """Refuse what could never work.

        Raises:
            ValueError: A number is out of its range.
        """
        thresholds = (self.failure_threshold, self.doubt_threshold, self.success_threshold)
        if min(*thresholds, self.half_open_max_probes, self.window_calls_min) < 1:
            raise ValueError("thresholds, half_open_max_probes and window_calls_min must be at least 1")
        if not 1 <= self.window <= 10_000:
            raise ValueError("window must be 1 to 10,000 calls")
        if not self.probe_lease_s > 0:
            raise ValueError("probe_lease_s must be more than 0")
        if not all(rate is None or 0 < rate <= 1 for rate in (self.failure_rate, self.slow_call_rate)):
            raise ValueError("failure_rate and slow_call_rate are shares: more than 0, at most 1")
        if self.slow_call_rate is not None and self.slow_call_s is None:
            raise ValueError("slow_call_rate needs slow_call_s")

    @property
    def looks_back(self) -> bool:
        """True when calls are remembered for a rate."""
        return self.failure_rate is not None or self.slow_call_rate is not None


DEFAULT_POLICY = BreakerPolicy()


class Transition(msgspec.Struct, frozen=True):
    """A breaker went from one state to another.

    Attributes:
        name: Of the breaker.
        old: The state it left.
        new: The state it is in.
        retry_after_s: Seconds until it may admit again; 0 when it does, infinite when only an operator can.
    """

    name: str
    old: CircuitState
    new: CircuitState
    retry_after_s: float


class BreakerMetrics(msgspec.Struct, frozen=True):
    """Counters since the breaker was made; under threads those of success and rejection are approximate.

    Attributes:
        successes: Verdicts that counted as success.
        failures: Verdicts that counted as failure.
        failures_in_row: Failures since the last success, while CLOSED.
        doubts_in_row: Doubted failures since the last success, while CLOSED.
        rejected: Permits refused.
        late: Verdicts of an older generation, without effect.
        lost_probes: Probes nobody settled in time.
        backoff_s: The current wait without jitter; 0 when none.
    """

    successes: int
    failures: int
    failures_in_row: int
    doubts_in_row: int
    rejected: int
    late: int
    lost_probes: int
    backoff_s: float


class CircuitBreaker:
    """Refuses in nanoseconds what would fail anyway, and finds out by itself when it no longer would.

        breaker = CircuitBreaker("payments")
        answer = await breaker.call(fetch, url)        # raises CircuitBreakerOpen

        permit = breaker.try_acquire()                 # or by hand, without exceptions
        if permit:
            try: ...
            finally: breaker.record_success(permit)    # or record_failure, or release: no verdict

    Threads may share one. Only monotonic time is used. The cost of an admitted call is two attribute reads; a lock is
    taken on failures and transitions alone; nothing is kept per rejection.

    Args:
        name: Opaque; shown in errors and transitions.
        policy: When it opens and closes.
        clock: Monotonic seconds.
        uniform: `uniform(low, high)`, for jitter.
        gated: True when probes wait for `admit_probe()` instead of the end of the wait.
        listener: Told of each transition, after it and outside the lock; one that raises is logged and harms nobody.
        first_permit: Where its counter begins.

    Source: the generation counter is gobreaker's idea, the permit that must be settled resilience4j's.
    """

    __slots__ = (
        "_clock",
        "_closed_at",
        "_cool_until",
        "_current",
        "_doubts_in_row",
        "_failures_in_row",
        "_gated",
        "_generation",
        "_late",
        "_listeners",
        "_lock",
        "_lost",
        "_lost_in_row",
        "_open_door",
        "_opened_at",
        "_policy",
        "_probes",
        "_probes_succeeded",
        "_rejected",
        "_serial",
        "_slow_call_s",
        "_state",
        "_tainted",
        "_timed",
        "_total_failures",
        "_total_successes",
        "_uniform",
        "_until",
        "_wait_s",
        "_window",
        "name",
    )

    def __init__(
        self,
        name: str = "",
        policy: BreakerPolicy = DEFAULT_POLICY,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
        gated: bool = False,
        listener: Callable[[Transition], object] | None = None,
        first_permit: int = 1,
    ) -> None:
        self.name = name
        self._policy = policy
        self._clock = clock
        self._uniform = uniform
        self._gated = gated
        self._listeners: tuple[Callable[[Transition], object], ...] = (listener,) if listener else ()
        # Re-entrant: a collection of garbage in here may close a guarded coroutine, which then settles its permit.
        self._lock = threading.RLock()
        self._window: deque[int] | None = deque(maxlen=policy.window) if policy.looks_back else None
        self._timed = policy.slow_call_s is not None
        self._slow_call_s = math.inf if policy.slow_call_s is None else policy.slow_call_s
        self._state = CircuitState.CLOSED
        self._serial = self._generation = first_permit
        self._current = self._open_door = first_permit
        self._probes: dict[int, TimeLimit] = {}
        self._failures_in_row = self._doubts_in_row = self._probes_succeeded = self._lost_in_row = 0
        self._tainted = False
        self._total_successes = self._total_failures = self._rejected = self._late = self._lost = 0
        self._wait_s = self._until = self._cool_until = self._opened_at = 0.0
        self._closed_at = -math.inf

    @property
    def state(self) -> CircuitState:
        """The state; OPEN stays OPEN after its wait until somebody asks for a permit."""
        return self._state

    @property
    def retry_after_s(self) -> float:
        """Seconds until a permit may be had: 0 when now, infinite when only an operator can help.

        While all probes are out it is when the first of them would be lost, at most the first wait.
        """
        return self._retry_after_s(self._clock())

    @property
    def metrics(self) -> BreakerMetrics:
        """Its counters."""
        return BreakerMetrics(
            successes=self._total_successes,
            failures=self._total_failures,
            failures_in_row=self._failures_in_row,
            doubts_in_row=self._doubts_in_row,
            rejected=self._rejected,
            late=self._late,
            lost_probes=self._lost,
            backoff_s=self._wait_s,
        )

    @property
    def last_permit(self) -> int:
        """The highest permit it ever gave."""
        return self._serial

    @property
    def is_idle(self) -> bool:
        """True when forgetting it would change nothing: CLOSED and stable, nothing counted, not cooling."""
        now = self._clock()
        stable = not self._wait_s or now - self._closed_at >= self._policy.stable_after_s
        settled = self._state is CircuitState.CLOSED and stable and now >= self._cool_until
        return settled and not self._tainted and not self._window

    def add_listener(self, listener: Callable[[Transition], object]) -> None:
        """Tell `listener` of each transition."""
        with self._lock:
            self._listeners = (*self._listeners, listener)

    def try_acquire(self, probe_lease_s: float | None = None) -> int:
        """A permit, positive, to be settled exactly once; or 0. Never raises, never waits.

        Args:
            probe_lease_s: Should it be a probe: seconds after which it is lost; None for the policy's.
        """
        return self._open_door or self._acquire_carefully(probe_lease_s)

    def record_success(self, permit: int, elapsed_s: float | None = None) -> None:
        """Settle a permit: it went well, after `elapsed_s` seconds."""
        if permit != self._current:
            self._settle_probe(permit, self._probe_succeeded)
            return
        self._total_successes += 1
        if self._tainted:
            self._failures_in_row = self._doubts_in_row = 0
            self._tainted = False
        window = self._window
        if window is not None:
            if elapsed_s is None or elapsed_s < self._slow_call_s:
                window.append(0)
            else:
                self._remember_slow_success(window)

    def record_failure(self, permit: int, elapsed_s: float | None = None) -> None:
        """Settle a permit: it failed, after `elapsed_s` seconds."""
        if permit != self._current:
            self._settle_probe(permit, self._probe_failed)
            return
        transition = None
        with self._lock:
            if permit == self._current:
                transition = self._count_failure(elapsed_s)
            else:
                self._late += 1
        self._tell(transition)

    def record_doubt(self, permit: int, *, again: bool = False) -> None:
        """Settle a permit: the call failed, but perhaps by the caller's fault.

        In CLOSED that is not a verdict, but `doubt_threshold` of them in a row, without a success between them, open
        the circuit. In HALF_OPEN it is a failure.

        Args:
            permit: Of the call.
            again: True when the same work has already failed here: CLOSED does not count it twice.
        """
        if permit != self._current:
            self._settle_probe(permit, self._probe_failed)
            return
        transition = None
        with self._lock:
            if permit == self._current:
                transition = None if again else self._count_doubt()
            else:
                self._late += 1
        self._tell(transition)

    def retract_doubt(self, permit: int) -> None:
        """Take a doubt out of the current run: the call failed by the caller's fault."""
        with self._lock:
            if permit == self._current and self._doubts_in_row:
                self._doubts_in_row -= 1

    def trip(self, since: int) -> None:
        """Open a CLOSED circuit whatever its counters say, unless it moved after the permit `since`."""
        with self._lock:
            trips = self._state is CircuitState.CLOSED and since >= self._generation
            transition = self._open(self._clock()) if trips else None
        self._tell(transition)

    def release(self, permit: int) -> None:
        """Settle a permit without a verdict: nothing was learned. A probe's place is free again."""
        if permit in self._probes:
            with self._lock:
                transition = self._lose_probes()
                self._probes.pop(permit, None)
            self._tell(transition)

    def record_evidence(self, since: int | None = None) -> None:
        """Count a failure without settling a permit: in CLOSED like any other, in HALF_OPEN it opens, else nothing.

        Args:
            since: Permit of the call that failed. After a transition since then the failure is late and has no effect.
                None counts the failure in any case.
        """
        with self._lock:
            transition = self._lose_probes()
            if since is not None and since < self._generation:
                self._late += 1
            elif self._state is CircuitState.CLOSED:
                transition = self._count_failure(None)
            elif self._state is CircuitState.HALF_OPEN:
                self._total_failures += 1
                transition = self._open(self._clock())
        self._tell(transition)

    async def call(self, f: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Await `f(*args, **kwargs)` if the circuit admits it, and learn from how it ends.

        Raises:
            CircuitBreakerOpen: It does not; `f` was not called.
        """
        permit = self._open_door or self._acquire_carefully()
        if not permit:
            raise CircuitBreakerOpen(self.name, self.retry_after_s)
        began = self._clock() if self._timed else 0.0
        try:
            result = await f(*args, **kwargs)
        except BaseException as error:
            self._settle_exception(permit, error, began)
            raise
        if self._timed or self._policy.is_failure is not None:
            self._settle_result(permit, result, began)
        else:
            self.record_success(permit)
        return result

    def call_sync(self, f: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`call` for a plain function.

        Raises:
            CircuitBreakerOpen: The circuit does not admit it; `f` was not called.
        """
        permit = self._open_door or self._acquire_carefully()
        if not permit:
            raise CircuitBreakerOpen(self.name, self.retry_after_s)
        began = self._clock() if self._timed else 0.0
        try:
            result = f(*args, **kwargs)
        except BaseException as error:
            self._settle_exception(permit, error, began)
            raise
        self._settle_result(permit, result, began)
        return result

    def __call__(self, f: Callable[P, T]) -> Callable[P, T]:
        """Guard a function, async or not: `@breaker`."""
        return cast("Callable[P, T]", functools.wraps(f)(self._guard(f)))

    def _guard(self, f: Callable[..., Any]) -> Callable[..., Any]:
        if not _is_asynchronous(f):
            return self._guard_sync(f)
        if self._policy.is_failure is not None:
            return self._guard_judged(f)
        return self._guard_plain(f) if self._window is None else self._guard_looking_back(f, self._window)

    def _guard_sync(self, f: Callable[..., T]) -> Callable[..., T]:
        def guarded(*args: Any, **kwargs: Any) -> T:
            return self.call_sync(f, *args, **kwargs)

        return guarded

    def _guard_judged(self, f: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        async def guarded(*args: Any, **kwargs: Any) -> T:
            return await self.call(f, *args, **kwargs)

        return guarded

    def _guard_plain(self, f: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        """`call` unrolled: what an admitted, successful call costs is decided here."""

        async def guarded(*args: Any, **kwargs: Any) -> T:
            permit = self._open_door or self._acquire_carefully()
            if not permit:
                raise CircuitBreakerOpen(self.name, self.retry_after_s)
            try:
                result = await f(*args, **kwargs)
            except BaseException as error:
                self._settle_exception(permit, error, 0.0)
                raise
            if permit == self._current and not self._tainted:
                self._total_successes += 1
            else:
                self.record_success(permit)
            return result

        return guarded

    def _guard_looking_back(self, f: Callable[..., Awaitable[T]], window: deque[int]) -> Callable[..., Awaitable[T]]:
        """The same, timed and remembered for the rates."""
        clock, slow_call_s = self._clock, self._slow_call_s

        async def guarded(*args: Any, **kwargs: Any) -> T:
            permit = self._open_door or self._acquire_carefully()
            if not permit:
                raise CircuitBreakerOpen(self.name, self.retry_after_s)
            began = clock()
            try:
                result = await f(*args, **kwargs)
            except BaseException as error:
                self._settle_exception(permit, error, began)
                raise
            elapsed_s = clock() - began
            if permit == self._current and not self._tainted and elapsed_s < slow_call_s:
                self._total_successes += 1
                window.append(0)
            else:
                self.record_success(permit, elapsed_s)
            return result

        return guarded

    def cool_down(self, retry_after_s: float) -> None:
        """Admit nobody for so long, in any state but DISABLED; no failure. The longest promise wins."""
        with self._lock:
            self._cool_until = max(self._cool_until, self._clock() + retry_after_s)
            if self._state is CircuitState.CLOSED:
                self._open_door = REFUSED

    def force_open(self) -> None:
        """Admit nobody until `reset`."""
        self._command(CircuitState.FORCED_OPEN)

    def disable(self) -> None:
        """Admit everybody and learn nothing until `reset`."""
        self._command(CircuitState.DISABLED)

    def reset(self) -> None:
        """Close it and forget its failures, waits and promises."""
        with self._lock:
            self._forget_waits()
            transition = self._move(CircuitState.CLOSED)
        self._tell(transition)

    def new_instance(self) -> None:
        """Behind it is a new process: forget what the old one did; if it was out, admit a probe at once."""
        with self._lock:
            self._forget_waits()
            was_out = self._state in {CircuitState.OPEN, CircuitState.HALF_OPEN}
            by_operator = self._state in {CircuitState.FORCED_OPEN, CircuitState.DISABLED}
            transition = None if by_operator else self._move(CircuitState.HALF_OPEN if was_out else CircuitState.CLOSED)
        self._tell(transition)

    def admit_probe(self) -> None:
        """OPEN becomes HALF_OPEN: somebody found out that trying makes sense."""
        with self._lock:
            transition = self._move(CircuitState.HALF_OPEN) if self._state is CircuitState.OPEN else None
        self._tell(transition)

    def probe_failed(self) -> None:
        """OPEN stays so for the next, longer wait: somebody found out that trying makes no sense yet."""
        with self._lock:
            if self._state is CircuitState.OPEN:
                self._wait_again(self._clock())

    def cap_wait(self, wait_s_max: float) -> None:
        """While OPEN, let the current wait end at most so many seconds after it began."""
        with self._lock:
            if self._state is CircuitState.OPEN:
                self._until = min(self._until, self._opened_at + wait_s_max)

    def _acquire_carefully(self, probe_lease_s: float | None = None) -> int:
        if self._state is CircuitState.OPEN and (self._gated or self._clock() < self._until):
            self._rejected += 1
            return REFUSED
        with self._lock:
            permit, transition = self._acquire_locked(probe_lease_s or self._policy.probe_lease_s)
            if not permit:
                self._rejected += 1
        self._tell(transition)
        return permit

    def _acquire_locked(self, probe_lease_s: float) -> tuple[int, Transition | None]:
        transition = self._lose_probes()
        now = self._clock()
        if now < self._cool_until and self._state is not CircuitState.DISABLED:
            return REFUSED, transition
        if self._state is CircuitState.OPEN and not self._gated and now >= self._until:
            transition = self._move(CircuitState.HALF_OPEN)
        if self._state is CircuitState.HALF_OPEN and len(self._probes) < self._policy.half_open_max_probes:
            self._serial += 1
            self._probes[self._serial] = TimeLimit(now, now + probe_lease_s)
            return self._serial, transition
        if self._state in {CircuitState.CLOSED, CircuitState.DISABLED}:
            self._open_door = self._current
            return self._current, transition
        return REFUSED, transition

    def _lose_probes(self) -> Transition | None:
        """A probe is lost at the end of its lease, which is moved once where this process stood still in it."""
        if not self._probes:
            return None
        now = self._clock()
        for permit, lease in self._probes.copy().items():
            if lease.is_over(now) and self._probes.pop(permit, None) is not None:
                self._lost += 1
                self._lost_in_row += 1
        return self._open(now) if self._lost_in_row >= LOST_IN_ROW_MAX else None

    def _settle_probe(self, permit: int, settle: Callable[[], Transition | None]) -> None:
        if not permit:
            return
        with self._lock:
            transition = self._lose_probes()
            if self._probes.pop(permit, None) is not None:
                transition = settle()
            elif permit < self._generation:
                self._late += 1
        self._tell(transition)

    def _probe_succeeded(self) -> Transition | None:
        self._total_successes += 1
        self._lost_in_row = 0
        self._probes_succeeded += 1
        if self._probes_succeeded < self._policy.success_threshold:
            return None
        self._closed_at = self._clock()
        return self._move(CircuitState.CLOSED)

    def _probe_failed(self) -> Transition | None:
        self._total_failures += 1
        return self._open(self._clock())

    def _count_failure(self, elapsed_s: float | None) -> Transition | None:
        self._total_failures += 1
        if self._state is not CircuitState.CLOSED:
            return None
        self._failures_in_row += 1
        self._tainted = True
        if self._window is not None:
            slow = elapsed_s is not None and elapsed_s >= self._slow_call_s
            self._window.append(_FAILED | _SLOW if slow else _FAILED)
        tripped = self._failures_in_row >= self._policy.failure_threshold or self._rate_is_over()
        return self._open(self._clock()) if tripped else None

    def _count_doubt(self) -> Transition | None:
        if self._state is not CircuitState.CLOSED:
            return None
        self._doubts_in_row += 1
        self._tainted = True
        return self._open(self._clock()) if self._doubts_in_row >= self._policy.doubt_threshold else None

    def _remember_slow_success(self, window: deque[int]) -> None:
        with self._lock:
            window.append(_SLOW)
            over = self._state is CircuitState.CLOSED and self._rate_is_over()
            transition = self._open(self._clock()) if over else None
        self._tell(transition)

    def _rate_is_over(self) -> bool:
        window, policy = self._window, self._policy
        if not window or len(window) < min(policy.window_calls_min, policy.window):
            return False
        both = window.count(_FAILED | _SLOW)
        failures, slow = window.count(_FAILED) + both, window.count(_SLOW) + both
        return _reaches(failures / len(window), policy.failure_rate) or _reaches(
            slow / len(window), policy.slow_call_rate
        )

    def _open(self, now: float) -> Transition:
        was_stable = now - self._closed_at >= self._policy.stable_after_s
        if self._state is CircuitState.CLOSED and was_stable:
            self._wait_s = 0.0
        self._wait_again(now)
        return self._move(CircuitState.OPEN)

    def _wait_again(self, now: float) -> None:
        self._wait_s = self._policy.backoff.after(self._wait_s)
        self._opened_at = now
        self._until = now + self._policy.backoff.jittered(self._wait_s, self._uniform)

    def _move(self, state: CircuitState) -> Transition:
        """Every transition: a new generation, counters cleared."""
        old, self._state = self._state, state
        self._serial += 1
        self._generation = self._serial
        self._probes.clear()
        self._failures_in_row = self._doubts_in_row = self._probes_succeeded = self._lost_in_row = 0
        self._tainted = False
        if self._window is not None:
            self._window.clear()
        admits = state in {CircuitState.CLOSED, CircuitState.DISABLED}
        self._current = self._generation if admits else _NOBODY
        cooling = state is CircuitState.CLOSED and self._cool_until > self._clock()
        self._open_door = self._generation if admits and not cooling else REFUSED
        return Transition(self.name, old, state, self._retry_after_s(self._clock()))

    def _command(self, state: CircuitState) -> None:
        with self._lock:
            transition = self._move(state)
        self._tell(transition)

    def _forget_waits(self) -> None:
        self._wait_s = self._until = self._cool_until = 0.0
        self._closed_at = -math.inf

    def _retry_after_s(self, now: float) -> float:
        if self._state is CircuitState.DISABLED:
            return 0.0
        if self._state is CircuitState.FORCED_OPEN:
            return math.inf
        ready_at = self._cool_until
        if self._state is CircuitState.OPEN:
            ready_at = max(ready_at, self._until)
        elif len(self._probes) >= self._policy.half_open_max_probes:
            ready_at = max(
                ready_at, min(now + self._policy.backoff.first_s, *(lease.ends_at for lease in self._probes.values()))
            )
        return max(0.0, ready_at - now)

    def _tell(self, transition: Transition | None) -> None:
        if transition is None or transition.old is transition.new:
            return
        for listener in self._listeners:
            try:
                listener(transition)
            except (Exception, asyncio.CancelledError):  # noqa: BLE001 - a listener harms nobody
                _log.exception("a listener of circuit '%s' failed", self.name)

    def _settle_exception(self, permit: int, error: BaseException, began: float) -> None:
        """A verdict on an exception; whatever is_failure does, the permit is settled."""
        policy = self._policy
        if not isinstance(error, Exception) or isinstance(error, policy.ignored):
            self.release(permit)
            return
        self._settle(permit, error, began, counts=policy.is_failure or _always)

    def _settle_result(self, permit: int, result: object, began: float) -> None:
        self._settle(permit, result, began, counts=self._policy.is_failure or _never)

    def _settle(self, permit: int, ended: object, began: float, counts: Callable[[Any], bool]) -> None:
        elapsed_s = self._clock() - began if self._timed else None
        try:
            failed = counts(ended)
        except BaseException:
            self.release(permit)
            raise
        if failed:
            self.record_failure(permit, elapsed_s)
        else:
            self.record_success(permit, elapsed_s)


def _is_asynchronous(f: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(f) or inspect.iscoroutinefunction(type(f).__call__)


def _always(_: object) -> bool:
    return True


def _never(_: object) -> bool:
    return False


def _reaches(share: float, limit: float | None) -> bool:
    return limit is not None and share >= limit
