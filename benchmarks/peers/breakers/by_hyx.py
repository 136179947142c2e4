"""hyx."""

from itertools import repeat

from hyx.circuitbreaker import consecutive_breaker
from hyx.circuitbreaker.exceptions import BreakerFailing

from benchmarks.peers.breakers.peer import REFUSES_BY_RAISING, THRESHOLD, Call, Peer


class Hyx(Peer[consecutive_breaker]):
    """`@breaker` and `async with breaker`."""

    name = "hyx"
    package = "hyx"
    modules = "hyx"
    refusal = BreakerFailing
    lacks = REFUSES_BY_RAISING
    note = "by permit: its context manager"

    async def new(self, _name: str, wait_s: float) -> consecutive_breaker:
        """A breaker; they have no names."""
        return consecutive_breaker(failure_threshold=THRESHOLD, recovery_time_secs=wait_s)

    def guard(self, breaker: consecutive_breaker, call: Call) -> Call:
        """By decorator."""
        return breaker(call)

    async def pass_by_permit(self, breaker: consecutive_breaker, call: Call, times: int) -> None:
        """`async with`."""
        for _ in repeat(None, times):
            async with breaker:
                await call(1)
