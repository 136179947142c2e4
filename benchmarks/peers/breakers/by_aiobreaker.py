"""aiobreaker."""

from datetime import timedelta
from typing import Any, ClassVar, cast

from aiobreaker import CircuitBreaker, CircuitBreakerError

from benchmarks.peers.breakers.peer import REFUSES_BY_RAISING, THRESHOLD, Call, Case, Peer


class Aiobreaker(Peer[Any]):
    """`@breaker`."""

    name = "aiobreaker"
    package = "aiobreaker"
    modules = "aiobreaker"
    refusal = CircuitBreakerError
    lacks: ClassVar = {
        Case.PERMIT: "it has a decorator and call_async, no permit and no context manager",
        **REFUSES_BY_RAISING,
    }

    async def new(self, name: str, wait_s: float) -> Any:
        """A breaker in memory."""
        return CircuitBreaker(fail_max=THRESHOLD, timeout_duration=timedelta(seconds=wait_s), name=name)

    def guard(self, breaker: Any, call: Call) -> Call:
        """By decorator."""
        return cast("Call", breaker(call))
