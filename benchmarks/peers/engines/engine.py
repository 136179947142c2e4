"""What every engine's adapter offers, so that each is measured by the same code in a process of its own."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, Protocol

import msgspec

NAP_S = 0.1


class Case(StrEnum):
    """What is measured."""

    CHAIN = "chain of 3, p50"
    SEQUENTIAL = "steps one after the other"
    CHAINS_10 = "10 chains at once"
    CHAINS_30 = "30 chains at once"
    CHAINS_300 = "300 chains at once"
    FAN_OUT = "fan-out and join"
    NAPS = "3 x 100 ms side by side, p50"
    DAG = "DAG, each step after 2 of the layer before"


class Sizes(msgspec.Struct, frozen=True):
    """How much of each case an engine is asked for: less of a slow one, never counted up to more than was run.

    Attributes:
        chains: Chains of 3, one after the other.
        sequential: Steps of the one long chain.
        steps: Of each of 10, 30 or 300 chains.
        width: Of the fan-out.
        naps: Times 3 naps.
        layers: Of the DAG.
        columns: Steps of each layer.
    """

    chains: int = 200
    sequential: int = 1_000
    steps: int = 10
    width: int = 1_000
    naps: int = 20
    layers: int = 100
    columns: int = 100

    def at_most(self, other: "Sizes") -> "Sizes":
        """The smaller of the two, one by one."""
        return Sizes(*map(min, msgspec.structs.astuple(self), msgspec.structs.astuple(other)))


class LacksError(Exception):
    """An engine was asked for what it does not have."""


class Engine(Protocol):
    """An engine on this machine's disk, told to be as durable as it can be; everything else as it comes.

    A step is a function that does next to nothing. Whatever runs returns what proves that it ran.

    Attributes:
        name: For the tables.
        packages: Its distributions.
        record: What survives a crash, and how it is written.
        lacks: Why it cannot do a case.
        notes: What a reader of a case's figures has to know.
        sizes: What it does in about a minute.
    """

    name: ClassVar[str]
    packages: ClassVar[Sequence[str]]
    record: ClassVar[str]
    lacks: ClassVar[Mapping[Case, str]] = {}
    notes: ClassVar[Mapping[Case, str]] = {}
    sizes: ClassVar[Sizes] = Sizes()

    def opened(self, directory: Path) -> AbstractAsyncContextManager[None]:
        """Start it on an empty directory; all it needs has ended afterwards."""

    def prepare(self, _sizes: Sizes) -> None:
        """Define what is going to run, where that can be done once for many runs; it is not measured."""
        return

    async def chain(self, steps: int) -> int:
        """Run steps one after the other, each adding 1 to what the one before returned; returns the last sum."""

    async def chains(self, count: int, steps: int) -> list[int]:
        """Run as many chains at once."""
        return await asyncio.gather(*(self.chain(steps) for _ in range(count)))

    async def fan_out(self, width: int) -> int:
        """Run `width` steps side by side, each returning 1, and one that adds up what they returned."""

    async def naps(self, count: int) -> int:
        """Run steps of `NAP_S` seconds side by side; returns how many ended."""

    async def dag(self, _layers: int, _columns: int) -> int:
        """Run layers of steps, each after the one above it and that one's right neighbour; returns how many ended."""
        raise LacksError(self.lacks[Case.DAG])
