"""circuitbreaker."""

from itertools import repeat
from typing import Any, cast

from circuitbreaker import CircuitBreaker, CircuitBreakerError

from benchmarks.peers.breakers.peer import THRESHOLD, Call, LetThroughError, Peer


class Circuitbreaker(Peer[Any]):
    """`@CircuitBreaker(…)`."""

    name = "circuitbreaker"
    package = "circuitbreaker"
    modules = "circuitbreaker"
    refusal = CircuitBreakerError
    note = "by permit: its context manager does not refuse, so `opened` is asked by hand"
    caveat = "a cancelled probe frees its place because it closes the circuit"

    async def new(self, name: str, wait_s: float) -> Any:
        """A breaker; decorating also puts it into the library's register of all breakers."""
        return CircuitBreaker(failure_threshold=THRESHOLD, recovery_timeout=wait_s, name=name)

    def guard(self, breaker: Any, call: Call) -> Call:
        """By decorator."""
        return cast("Call", breaker(call))

    async def pass_by_permit(self, breaker: Any, call: Call, times: int) -> None:
        """`if not opened`, then the context manager, which settles."""
        for _ in repeat(None, times):
            if breaker.opened:
                raise CircuitBreakerError(breaker)
            with breaker:
                await call(1)

    def refuse_by_permit(self, breaker: Any, times: int) -> None:
        """`opened`."""
        for _ in repeat(None, times):
            if not breaker.opened:
                raise LetThroughError
