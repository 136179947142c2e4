"""purgatory."""

from collections.abc import Sequence
from itertools import repeat
from typing import Any, NamedTuple, cast

from purgatory import AsyncCircuitBreakerFactory
from purgatory.domain.model import OpenedState

from benchmarks.peers.breakers.peer import FOR_EVER_S, REFUSES_BY_RAISING, THRESHOLD, Call, Peer


class Circuit(NamedTuple):
    """A name at a factory: its breakers are had from there for each call."""

    factory: AsyncCircuitBreakerFactory
    name: str


def factory(wait_s: float) -> AsyncCircuitBreakerFactory:
    """Keeps its circuits in memory."""
    return AsyncCircuitBreakerFactory(default_threshold=THRESHOLD, default_ttl=wait_s)


class Purgatory(Peer[Circuit]):
    """`@factory(name)` and `async with await factory.get_breaker(name)`."""

    name = "purgatory"
    package = "purgatory"
    modules = "purgatory"
    refusal = OpenedState
    lacks = REFUSES_BY_RAISING
    note = "by permit: its context manager, had from the factory for each call as documented"
    caveat = "a cancelled probe opens it again"

    async def new(self, name: str, wait_s: float) -> Circuit:
        """A circuit of a factory of its own."""
        return Circuit(factory(wait_s), name)

    async def many(self, names: Sequence[str]) -> Any:
        """Circuits of one factory."""
        shared = factory(FOR_EVER_S)
        for name in names:
            await shared.get_breaker(name)
        return shared

    def guard(self, breaker: Circuit, call: Call) -> Call:
        """By decorator."""
        return cast("Call", breaker.factory(breaker.name)(call))

    async def pass_by_permit(self, breaker: Circuit, call: Call, times: int) -> None:
        """`async with`."""
        for _ in repeat(None, times):
            async with await breaker.factory.get_breaker(breaker.name):
                await call(1)
