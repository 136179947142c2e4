"""AICP on SQLite."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from aicp import Node, Task, TaskChain, TaskStatus
from aicp.model.chain import ChainResult, ChainSpec
from benchmarks.peers.engines.engine import NAP_S, Engine, Sizes

SLOTS = 1_000


async def add_one(params: dict[str, Any]) -> int:
    return int(params["n"]) + 1


async def one(_: dict[str, Any]) -> int:
    return 1


async def add_up(params: dict[str, Any]) -> int:
    return sum(params["parts"])


async def nap(_: dict[str, Any]) -> None:
    await asyncio.sleep(NAP_S)


@cache
def chain_of(steps: int) -> ChainSpec:
    """Each step reads what the one before returned."""
    chain = TaskChain("chain")
    last = chain.add_task("add_one", {"n": 0})
    for _ in range(steps - 1):
        last = chain.add_task("add_one", {"n": last.output})
    return chain.freeze()


@cache
def fan_of(width: int) -> ChainSpec:
    """The last task reads what all others returned."""
    chain = TaskChain("fan")
    parts = [chain.add_task("one") for _ in range(width)]
    chain.add_task("add_up", {"parts": [part.output for part in parts]}, id="sum")
    return chain.freeze()


@cache
def dag_of(layers: int, columns: int, *, reads: bool = False) -> ChainSpec:
    """Each task waits for two of the layer before; `reads` hands it what they returned."""
    chain = TaskChain("layers")
    above = [chain.add_task("one", id=f"t0-{column}") for column in range(columns)]
    for layer in range(1, layers):
        pairs = [(above[column], above[(column + 1) % columns]) for column in range(columns)]
        above = [
            chain.add_task(
                "one",
                {"parts": [left.output, right.output]} if reads else None,
                id=f"t{layer}-{column}",
                depends_on=(left, right),
            )
            for column, (left, right) in enumerate(pairs)
        ]
    return chain.freeze()


class Aicp(Engine):
    """A node with one local agent."""

    name = "AICP"
    packages: ClassVar[Sequence[str]] = ("msgspec",)
    record = "SQLite, WAL, synchronous=FULL: a result is on disk before a dependent starts"

    def __init__(self) -> None:
        self._node = Node()

    def node(self, directory: Path) -> Node:
        """The node to measure."""
        return Node(database=f"sqlite:///{directory / 'aicp.db'}")

    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[None]:
        """The node, in this process."""
        async with self.node(directory) as self._node:
            handlers = {"add_one": add_one, "one": one, "add_up": add_up, "nap": nap}
            await self._node.add_agent("worker", handlers, max_concurrent_tasks=SLOTS)
            yield

    def prepare(self, sizes: Sizes) -> None:
        """Freeze the large chains."""
        chain_of(sizes.sequential)
        fan_of(sizes.width)
        dag_of(sizes.layers, sizes.columns)

    async def chain(self, steps: int) -> int:
        """A chain."""
        spec = chain_of(steps)
        return int((await self._run(spec))[spec.tasks[-1].id or ""].result)

    async def fan_out(self, width: int) -> int:
        """A chain whose last task reads all others."""
        return int((await self._run(fan_of(width)))["sum"].result)

    async def naps(self, count: int) -> int:
        """Parallel tasks."""
        results = await self._node.coordinator.execute_parallel_tasks([Task("nap") for _ in range(count)])
        return sum(result.status is TaskStatus.COMPLETED for result in results)

    async def dag(self, layers: int, columns: int) -> int:
        """A chain."""
        ended = await self._run(dag_of(layers, columns))
        return sum(result.status is TaskStatus.COMPLETED for result in ended.tasks.values())

    async def _run(self, spec: ChainSpec) -> ChainResult:
        return await self._node.coordinator.execute_chain(spec)


ENGINE = Aicp()
