"""pybreaker."""

from itertools import repeat
from typing import ClassVar

from pybreaker import CircuitBreaker, CircuitBreakerError

from benchmarks.peers.breakers.peer import REFUSES_BY_RAISING, THRESHOLD, Call, Case, Peer


class Pybreaker(Peer[CircuitBreaker]):
    """`with breaker.calling()`."""

    name = "pybreaker"
    package = "pybreaker"
    modules = "pybreaker"
    refusal = CircuitBreakerError
    lacks: ClassVar = {
        Case.DECORATOR: "its decorator knows plain functions and Tornado's, and takes a coroutine for a success",
        **REFUSES_BY_RAISING,
    }
    note = "by its context manager throughout"
    caveat = "a cancelled probe opens it again, and its caller gets CircuitBreakerError instead of the cancellation"

    async def new(self, name: str, wait_s: float) -> CircuitBreaker:
        """A breaker in memory."""
        return CircuitBreaker(fail_max=THRESHOLD, reset_timeout=wait_s, name=name)

    def guard(self, breaker: CircuitBreaker, call: Call) -> Call:
        """Its context manager in a coroutine of our own."""

        async def guarded(number: int) -> int:
            with breaker.calling():
                return await call(number)

        return guarded

    async def pass_by_permit(self, breaker: CircuitBreaker, call: Call, times: int) -> None:
        """`with`."""
        for _ in repeat(None, times):
            with breaker.calling():
                await call(1)
