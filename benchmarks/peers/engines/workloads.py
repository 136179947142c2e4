"""The cases: what is timed, and that all of it was done."""

import statistics
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter

import msgspec

from benchmarks.peers.engines.engine import Case, Engine, Sizes

STEPS_OF_SHORT = 3
NAPPERS = 3
WARM_UP = Sizes(chains=10, sequential=20, steps=2, width=20, naps=1, layers=2, columns=10)


class Finding(msgspec.Struct, frozen=True):
    """What one case came to.

    Attributes:
        seconds: It took.
        steps: In that time.
        size: What was run, in words.
    """

    seconds: float
    steps: int
    size: str


class IncompleteError(Exception):
    """An engine said that it had ended, and had not done everything."""


async def short_chains(engine: Engine, sizes: Sizes) -> Finding:
    taken = [await _timed(engine.chain(STEPS_OF_SHORT), STEPS_OF_SHORT) for _ in range(sizes.chains)]
    return Finding(statistics.median(taken), STEPS_OF_SHORT, f"{sizes.chains} times")


async def long_chain(engine: Engine, sizes: Sizes) -> Finding:
    seconds = await _timed(engine.chain(sizes.sequential), sizes.sequential)
    return Finding(seconds, sizes.sequential, f"{sizes.sequential} steps")


def many_chains(count: int) -> "Measure":
    """So many at once."""

    async def measure(engine: Engine, sizes: Sizes) -> Finding:
        seconds = await _timed(engine.chains(count, sizes.steps), [sizes.steps] * count)
        return Finding(seconds, count * sizes.steps, f"{sizes.steps} steps each")

    return measure


async def fan_out(engine: Engine, sizes: Sizes) -> Finding:
    seconds = await _timed(engine.fan_out(sizes.width), sizes.width)
    return Finding(seconds, sizes.width + 1, f"{sizes.width} + 1 steps")


async def naps(engine: Engine, sizes: Sizes) -> Finding:
    taken = [await _timed(engine.naps(NAPPERS), NAPPERS) for _ in range(sizes.naps)]
    return Finding(statistics.median(taken), NAPPERS, f"{sizes.naps} times")


async def dag(engine: Engine, sizes: Sizes) -> Finding:
    steps = sizes.layers * sizes.columns
    seconds = await _timed(engine.dag(sizes.layers, sizes.columns), steps)
    return Finding(seconds, steps, f"{sizes.layers} layers of {sizes.columns}")


async def _timed(run: Awaitable[object], expected: object) -> float:
    began = perf_counter()
    came_to = await run
    seconds = perf_counter() - began
    if came_to != expected:
        raise IncompleteError(f"it came to {came_to} instead of {expected}")
    return seconds


Measure = Callable[[Engine, Sizes], Awaitable[Finding]]

MEASURES: Mapping[Case, Measure] = {
    Case.CHAIN: short_chains,
    Case.SEQUENTIAL: long_chain,
    Case.CHAINS_10: many_chains(10),
    Case.CHAINS_30: many_chains(30),
    Case.CHAINS_300: many_chains(300),
    Case.FAN_OUT: fan_out,
    Case.NAPS: naps,
    Case.DAG: dag,
}
