"""AICP's own breaker, without timing and with latency and both rates."""

import time
from itertools import repeat
from typing import ClassVar

from aicp.errors import CircuitBreakerOpen
from aicp.resilience.backoff import Backoff
from aicp.resilience.circuit_breaker import BreakerPolicy, CircuitBreaker
from benchmarks.peers.breakers.peer import THRESHOLD, Call, LetThroughError, Peer


def policy(wait_s: float) -> BreakerPolicy:
    """Every wait of its own is `wait_s`: until the first probe, and for a probe that does not come back."""
    return BreakerPolicy(
        failure_threshold=THRESHOLD, probe_lease_s=wait_s, backoff=Backoff(first_s=wait_s, max_s=wait_s)
    )


def timed_policy(wait_s: float) -> BreakerPolicy:
    """The same, each call timed and the last 100 remembered for failure rate and slow-call rate."""
    return BreakerPolicy(
        failure_threshold=THRESHOLD,
        probe_lease_s=wait_s,
        backoff=Backoff(first_s=wait_s, max_s=wait_s),
        failure_rate=0.5,
        slow_call_s=60.0,
        slow_call_rate=0.5,
    )


class Aicp(Peer[CircuitBreaker]):
    """`@breaker` and `try_acquire`."""

    name = "AICP"
    package = "msgspec"
    modules = "aicp"
    refusal = CircuitBreakerOpen

    # One policy value serves any number of breakers: it is no part of their size.
    _policies: ClassVar[dict[float, BreakerPolicy]] = {}

    async def new(self, name: str, wait_s: float) -> CircuitBreaker:
        """A breaker under the shared policy of that wait."""
        return CircuitBreaker(name, self._policies.setdefault(wait_s, policy(wait_s)))

    def guard(self, breaker: CircuitBreaker, call: Call) -> Call:
        """By decorator."""
        return breaker(call)

    async def pass_by_permit(self, breaker: CircuitBreaker, call: Call, times: int) -> None:
        """Ask, call, settle; a failing call would be settled too."""
        for _ in repeat(None, times):
            permit = breaker.try_acquire()
            if not permit:
                raise CircuitBreakerOpen(breaker.name, breaker.retry_after_s)
            try:
                await call(1)
            except BaseException:
                breaker.release(permit)
                raise
            breaker.record_success(permit)

    def refuse_by_permit(self, breaker: CircuitBreaker, times: int) -> None:
        """Ask, get 0."""
        for _ in repeat(None, times):
            if breaker.try_acquire():
                raise LetThroughError


class TimedAicp(Aicp):
    """The same with latency, failure rate and slow-call rate."""

    name = "AICP, timed"
    note = "times each call, looks back on 100 for failure rate and slow-call rate"

    _policies: ClassVar[dict[float, BreakerPolicy]] = {}

    async def new(self, name: str, wait_s: float) -> CircuitBreaker:
        """A breaker under the shared timed policy of that wait."""
        return CircuitBreaker(name, self._policies.setdefault(wait_s, timed_policy(wait_s)))

    async def pass_by_permit(self, breaker: CircuitBreaker, call: Call, times: int) -> None:
        """Ask, call, settle with the time it took."""
        clock = time.monotonic
        for _ in repeat(None, times):
            permit = breaker.try_acquire()
            if not permit:
                raise CircuitBreakerOpen(breaker.name, breaker.retry_after_s)
            began = clock()
            try:
                await call(1)
            except BaseException:
                breaker.release(permit)
                raise
            breaker.record_success(permit, clock() - began)
