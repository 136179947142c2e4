"""pyfailsafe."""

import functools
from itertools import repeat
from typing import Any

from failsafe import CircuitBreaker, CircuitOpen, Failsafe

from benchmarks.peers.breakers.peer import THRESHOLD, Call, LetThroughError, Peer


class Pyfailsafe(Peer[Any]):
    """`Failsafe(circuit_breaker=…).run(f)` and `allows_execution`."""

    name = "pyfailsafe"
    package = "pyfailsafe"
    modules = "failsafe"
    refusal = CircuitOpen
    note = "by decorator: Failsafe.run, it has no decorator"
    caveat = "half open it lets a share through by design, half_open_ratio, a tenth"

    async def new(self, _name: str, wait_s: float) -> Any:
        """A breaker; they have no names."""
        return CircuitBreaker(maximum_failures=THRESHOLD, reset_timeout_seconds=wait_s)

    def guard(self, breaker: Any, call: Call) -> Call:
        """By `run`."""
        return functools.partial(Failsafe(circuit_breaker=breaker).run, call)

    async def pass_by_permit(self, breaker: Any, call: Call, times: int) -> None:
        """Ask, call, settle; a failing call would be settled too."""
        for _ in repeat(None, times):
            if not breaker.allows_execution():
                raise CircuitOpen
            try:
                await call(1)
            except Exception:
                breaker.record_failure()
                raise
            breaker.record_success()

    def refuse_by_permit(self, breaker: Any, times: int) -> None:
        """Ask, get False."""
        for _ in repeat(None, times):
            if breaker.allows_execution():
                raise LetThroughError
