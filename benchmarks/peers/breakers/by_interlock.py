"""interlock-cb."""

from itertools import repeat
from typing import cast

from interlock import CircuitBreaker, CircuitOpenError, Config

from benchmarks.peers.breakers.peer import FOR_EVER_S, REFUSES_BY_RAISING, THRESHOLD, Call, Peer


def config(wait_s: float) -> Config:
    """It knows rates only: all of the last five is five in a row, and the smallest window that can say so."""
    return Config(
        failure_rate_threshold=1.0,
        minimum_number_of_calls=THRESHOLD,
        window_size=THRESHOLD,
        wait_duration_in_open=wait_s,
    )


class Interlock(Peer[CircuitBreaker]):
    """`@breaker` and `async with breaker`."""

    name = "interlock-cb"
    package = "interlock-cb"
    modules = "interlock"
    refusal = CircuitOpenError
    lacks = REFUSES_BY_RAISING
    note = "times each call and counts slow ones, always; by permit: its context manager"
    caveat = "its documentation asks for a timeout round each call, which ends a hung probe that can be cancelled"

    _for_ever = config(FOR_EVER_S)

    async def new(self, name: str, wait_s: float) -> CircuitBreaker:
        """A breaker without storage; one config serves any number of them."""
        return CircuitBreaker(name=name, config=self._for_ever if wait_s == FOR_EVER_S else config(wait_s))

    def guard(self, breaker: CircuitBreaker, call: Call) -> Call:
        """By decorator."""
        return cast("Call", breaker(call))

    async def pass_by_permit(self, breaker: CircuitBreaker, call: Call, times: int) -> None:
        """`async with`."""
        for _ in repeat(None, times):
            async with breaker:
                await call(1)
