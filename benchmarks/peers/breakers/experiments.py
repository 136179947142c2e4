"""What a breaker gets right: six experiments, each with real calls through a real breaker and bounded in time.

Right is what AICP's semantics ask of a breaker. Every library has its own defaults but for the threshold and the wait.
"""

import asyncio
import contextlib
import itertools
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, NamedTuple, Self
from unittest.mock import patch

from benchmarks.peers.breakers.peer import (
    FOR_EVER_S,
    THRESHOLD,
    B,
    Call,
    LetThroughError,
    Peer,
    fail,
    lets_through,
    opened,
)

WAIT_S = 0.25
WAIT_IS_OVER_S = 0.35
RECOVERS_WITHIN_S = 1.0
EXPERIMENT_S_MAX = 5.0
CALLERS = 100
HOUR = timedelta(hours=1)

_numbers = itertools.count()


class Finding(NamedTuple):
    """What an experiment found.

    Attributes:
        right: True when the breaker did what it should.
        seen: What it did.
    """

    right: bool
    seen: str


class Gate:
    """A call that does not come back before it is let go; counts who got in.

    Attributes:
        entered: How many calls were made.
    """

    def __init__(self) -> None:
        self.entered = 0
        self._somebody = asyncio.Event()
        self._let_go = asyncio.Event()

    @property
    def call(self) -> Call:
        """Come in, and wait. A function of its own, as not every library's decorator takes a method."""

        async def wait(number: int) -> int:
            self.entered += 1
            self._somebody.set()
            await self._let_go.wait()
            return number

        return wait

    async def wait_for_somebody(self) -> None:
        """Until a call was made."""
        async with asyncio.timeout(EXPERIMENT_S_MAX):
            await self._somebody.wait()

    def let_go(self) -> None:
        """Let every call come back, successful."""
        self._let_go.set()


async def stampede(peer: Peer[Any]) -> Finding:
    """CALLERS at the moment of half-open: one is enough to find out."""
    breaker, gate = await _half_open(peer), Gate()
    guarded = peer.guard(breaker, gate.call)
    callers = [asyncio.ensure_future(guarded(number)) for number in range(CALLERS)]
    for _ in range(CALLERS):
        await asyncio.sleep(0)
    entered = gate.entered
    gate.let_go()
    await asyncio.gather(*callers, return_exceptions=True)
    return Finding(entered == 1, f"{entered} of {CALLERS} got through")


async def hung_probe(peer: Peer[Any]) -> Finding:
    """A probe that never comes back: within the bound the breaker lets THRESHOLD calls in a row through again."""
    breaker = await _half_open(peer)
    async with _probe_under_way(peer, breaker):
        recovered = await _recovers(peer, breaker)
    return Finding(recovered, "recovers" if recovered else f"stuck for {RECOVERS_WITHIN_S:.0f} s and on")


async def cancelled_probe(peer: Peer[Any]) -> Finding:
    """A probe whose caller was cancelled: the next one may go at once."""
    breaker = await _half_open(peer)
    async with _probe_under_way(peer, breaker):
        pass
    free = await lets_through(peer, breaker)
    return Finding(free, "its place is free" if free else "the next call is refused")


async def cancellation_as_verdict(peer: Peer[Any]) -> Finding:
    """Cancelled calls are no failures, which would open it, and no success, which would forgive the failures before."""
    breaker = await peer.new(_name(), FOR_EVER_S)
    for _ in range(THRESHOLD):
        await _cancel_a_call(peer, breaker)
    if not await lets_through(peer, breaker):
        return Finding(right=False, seen="a failure")
    breaker = await peer.new(_name(), FOR_EVER_S)
    await fail(peer, breaker, THRESHOLD - 1)
    await _cancel_a_call(peer, breaker)
    await fail(peer, breaker, 1)
    forgiven = await lets_through(peer, breaker)
    return Finding(not forgiven, "a success" if forgiven else "no verdict")


async def late_success(peer: Peer[Any]) -> Finding:
    """A call begun before the breaker opened succeeds afterwards: that is old news, it stays open."""
    breaker, gate = await peer.new(_name(), FOR_EVER_S), Gate()
    late = asyncio.ensure_future(peer.guard(breaker, gate.call)(1))
    await gate.wait_for_somebody()
    await fail(peer, breaker, THRESHOLD)
    if await lets_through(peer, breaker):
        raise LetThroughError(f"{peer.name} did not open after {THRESHOLD} failures")
    gate.let_go()
    await late
    closed = await lets_through(peer, breaker)
    return Finding(not closed, "closes it" if closed else "it stays open")


async def clock_set_back(peer: Peer[Any]) -> Finding:
    """The wall clock goes an hour back while it is open: it still admits when its wait is over."""
    breaker = await opened(peer, _name(), WAIT_S)
    with wall_clock_an_hour_back(peer.modules):
        await asyncio.sleep(WAIT_IS_OVER_S)
        admits = await lets_through(peer, breaker)
    return Finding(admits, "admits in time" if admits else "stuck open")


EXPERIMENTS: dict[str, Callable[[Peer[Any]], Awaitable[Finding]]] = {
    "half-open stampede": stampede,
    "probe hangs": hung_probe,
    "probe cancelled": cancelled_probe,
    "cancellation counts as": cancellation_as_verdict,
    "late success": late_success,
    "wall clock an hour back": clock_set_back,
}


async def find_out(experiment: Callable[[Peer[Any]], Awaitable[Finding]], peer: Peer[Any]) -> Finding:
    """Make the experiment, in bounded time."""
    try:
        async with asyncio.timeout(EXPERIMENT_S_MAX):
            return await experiment(peer)
    except TimeoutError:
        return Finding(right=False, seen=f"no end after {EXPERIMENT_S_MAX:.0f} s")


@contextlib.contextmanager
def wall_clock_an_hour_back(modules: str) -> Iterator[None]:
    """Every wall clock that a package can read shows an hour less; monotonic time goes on."""
    true_time = time.time
    replaced = {id(datetime): _AnHourAgo, id(true_time): lambda: true_time() - HOUR.total_seconds()}
    with ExitStack() as patches:
        for module in [time, *_modules_of(modules)]:
            for name, value in list(vars(module).items()):
                if id(value) in replaced:
                    patches.enter_context(patch.object(module, name, replaced[id(value)]))
        patches.enter_context(patch("datetime.datetime", _AnHourAgo))
        yield


class _AnHourAgo(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) - HOUR

    @classmethod
    def utcnow(cls) -> Self:
        return cls.now(UTC).replace(tzinfo=None)


def _modules_of(package: str) -> list[Any]:
    return [module for name, module in sys.modules.items() if name.partition(".")[0] == package]


async def _half_open(peer: Peer[B]) -> B:
    """A breaker whose wait is over: the next call is its first probe."""
    breaker = await opened(peer, _name(), WAIT_S)
    await asyncio.sleep(WAIT_IS_OVER_S)
    return breaker


@contextlib.asynccontextmanager
async def _probe_under_way(peer: Peer[B], breaker: B) -> AsyncIterator[None]:
    """A probe that hangs, until it is cancelled at the end of the block."""
    gate = Gate()
    probe = asyncio.ensure_future(peer.guard(breaker, gate.call)(1))
    try:
        await gate.wait_for_somebody()
        yield
    finally:
        probe.cancel()
        await asyncio.gather(probe, return_exceptions=True)


async def _cancel_a_call(peer: Peer[B], breaker: B) -> None:
    async with _probe_under_way(peer, breaker):
        pass


async def _recovers(peer: Peer[B], breaker: B) -> bool:
    """True when THRESHOLD calls in a row get through before the bound."""
    in_row, until = 0, time.monotonic() + RECOVERS_WITHIN_S
    while in_row < THRESHOLD and time.monotonic() < until:
        in_row = in_row + 1 if await lets_through(peer, breaker) else 0
        await asyncio.sleep(WAIT_S / 20)
    return in_row == THRESHOLD


def _name() -> str:
    return f"experiment-{next(_numbers)}"
