"""What a breaker costs: nanoseconds a call and bytes a breaker, each beside a bare await of the same round.

Nothing here waits for anything, so what is counted is the processor time of the thread: it is what a clock on the wall
shows on a quiet machine, and shows it on a busy one too.
"""

import asyncio
import contextlib
import functools
import gc
import itertools
import statistics
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import repeat
from time import thread_time_ns
from typing import Any, NamedTuple

from benchmarks.measure import alternate, ratio
from benchmarks.peers.breakers.peer import FOR_EVER_S, Call, Case, LetThroughError, Peer, opened

ROUNDS = 101
CALLS = 1_000
TASKS = 1_000
BREAKERS = 1_000

Measure = Callable[[Peer[Any], int], Awaitable[float]]
_numbers = itertools.count()


class Cost(NamedTuple):
    """What one case costs at one library.

    Attributes:
        ns: Nanoseconds a call, median of the rounds.
        times_bare: Of a bare await, median of the rounds' ratios.
    """

    ns: float
    times_bare: float


class Bare(Peer[None]):
    """No breaker at all: what the others are compared with."""

    name = "bare await"
    package = modules = ""
    refusal = LetThroughError

    async def new(self, _name: str, _wait_s: float) -> None:
        """Nothing."""

    def guard(self, _breaker: None, call: Call) -> Call:
        """The call itself."""
        return call


class Wrapper(Bare):
    """A decorator that does nothing: no breaker that is one can cost less."""

    name = "empty wrapper"
    lacks = dict.fromkeys((Case.PERMIT, Case.RAISING, Case.REFUSAL), "it does nothing")

    def guard(self, _breaker: None, call: Call) -> Call:
        """The call in a wrapper that takes any arguments."""

        @functools.wraps(call)
        async def wrapped(*args: Any, **kwargs: Any) -> int:
            return await call(*args, **kwargs)

        return wrapped


async def echo(number: int) -> int:
    """A call that costs nothing but itself."""
    return number


async def one_turn(number: int) -> int:
    """A call that lets the others run once: the least that concurrency means."""
    await asyncio.sleep(0)
    return number


async def success_by_decorator(peer: Peer[Any], calls: int) -> float:
    guarded = peer.guard(await peer.new(_name(), FOR_EVER_S), echo)
    began = thread_time_ns()
    for _ in repeat(None, calls):
        await guarded(1)
    return (thread_time_ns() - began) / calls


async def success_by_permit(peer: Peer[Any], calls: int) -> float:
    breaker = await peer.new(_name(), FOR_EVER_S)
    began = thread_time_ns()
    await peer.pass_by_permit(breaker, echo, calls)
    return (thread_time_ns() - began) / calls


async def rejection_raising(peer: Peer[Any], calls: int) -> float:
    breaker = await opened(peer, _name(), FOR_EVER_S)
    return await refused(peer, breaker, calls)


async def refused(peer: Peer[Any], breaker: Any, calls: int) -> float:
    """Nanoseconds of a refusal, caught.

    Raises:
        LetThroughError: A call was made.
    """
    guarded, refusal = peer.guard(breaker, echo), peer.refusal
    began = thread_time_ns()
    for _ in repeat(None, calls):
        try:
            await guarded(1)
        except refusal:
            continue
        raise LetThroughError(f"{peer.name} let a call through while open")
    return (thread_time_ns() - began) / calls


async def rejection_by_permit(peer: Peer[Any], calls: int) -> float:
    breaker = await opened(peer, _name(), FOR_EVER_S)
    began = thread_time_ns()
    peer.refuse_by_permit(breaker, calls)
    return (thread_time_ns() - began) / calls


async def concurrent_tasks(peer: Peer[Any], calls: int) -> float:
    """Nanoseconds a task, with TASKS of them at a time through one breaker."""
    guarded = peer.guard(await peer.new(_name(), FOR_EVER_S), one_turn)
    began = thread_time_ns()
    for _ in repeat(None, calls // TASKS):
        await asyncio.gather(*(guarded(number) for number in range(TASKS)))
    return (thread_time_ns() - began) / calls


MEASURES: dict[Case, Measure] = {
    Case.DECORATOR: success_by_decorator,
    Case.PERMIT: success_by_permit,
    Case.RAISING: rejection_raising,
    Case.REFUSAL: rejection_by_permit,
    Case.TASKS: concurrent_tasks,
}


def costs(case: Case, peers: Sequence[Peer[Any]], *, rounds: int = ROUNDS, calls: int = CALLS) -> dict[str, Cost]:
    """By library's name, those that can do the case; with the bare await of the same rounds."""
    able = [peer for peer in peers if case not in peer.lacks]
    bare = concurrent_tasks if case is Case.TASKS else success_by_decorator
    with asyncio.Runner() as runner:
        measured = {Bare.name: _measured(runner, bare, Bare(), calls)}
        measured |= {peer.name: _measured(runner, MEASURES[case], peer, calls) for peer in able}
        values = alternate(rounds, measured)
    return {name: Cost(statistics.median(theirs), ratio(theirs, values[Bare.name])) for name, theirs in values.items()}


def _measured(runner: asyncio.Runner, measure: Measure, peer: Peer[Any], calls: int) -> Callable[[], float]:
    async def one_round() -> float:
        gc.collect()  # no round pays for what the one before left behind
        return await measure(peer, calls)

    return lambda: runner.run(one_round())


def bytes_per_breaker(peer: Peer[Any], breakers: int = BREAKERS) -> float:
    """What each of so many fresh breakers keeps, its name apart."""
    names = [f"{peer.name}-{number}" for number in range(breakers)]
    with asyncio.Runner() as runner:
        runner.run(peer.many(names[:2]))
        with _traced() as kept:
            held = runner.run(peer.many(names))
    del held
    return kept[0] / breakers


def bytes_per_rejection(peer: Peer[Any], calls: int = CALLS) -> float:
    """What an open breaker keeps of each call it refused; beyond the noise of a few bytes in all it has to be 0."""
    with asyncio.Runner() as runner:
        breaker = runner.run(opened(peer, _name(), FOR_EVER_S))
        runner.run(refused(peer, breaker, 10))
        with _traced() as kept:
            runner.run(refused(peer, breaker, calls))
    return float(kept[0] // calls)


@contextlib.contextmanager
def _traced() -> Iterator[list[int]]:
    """Traces allocations; afterwards the list has the bytes that were not given back."""
    kept: list[int] = []
    gc.collect()
    tracemalloc.start()
    try:
        yield kept
        gc.collect()
        kept.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()


def _name() -> str:
    return f"breaker-{next(_numbers)}"
