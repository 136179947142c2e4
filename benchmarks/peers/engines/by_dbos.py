"""DBOS on SQLite."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import ClassVar

from dbos import DBOS, DBOSConfig

from benchmarks.peers.engines.engine import NAP_S, Case, Engine, Sizes


async def add_one(n: int) -> int:
    return n + 1


async def one() -> int:
    return 1


async def add_up(parts: list[int]) -> int:
    return sum(parts)


async def nap() -> None:
    await asyncio.sleep(NAP_S)


add_one_step = DBOS.step()(add_one)
one_step = DBOS.step()(one)
add_up_step = DBOS.step()(add_up)
nap_step = DBOS.step()(nap)


async def run_chain(steps: int) -> int:
    n = 0
    for _ in range(steps):
        n = await add_one_step(n)
    return n


async def run_fan_out(width: int) -> int:
    return int(await add_up_step(await asyncio.gather(*(one_step() for _ in range(width)))))


async def run_naps(count: int) -> int:
    return len(await asyncio.gather(*(nap_step() for _ in range(count))))


async def run_layers(layers: int, columns: int) -> int:
    done = 0
    for _ in range(layers):
        done += sum(await asyncio.gather(*(one_step() for _ in range(columns))))
    return done


chain_workflow = DBOS.workflow()(run_chain)
fan_out_workflow = DBOS.workflow()(run_fan_out)
naps_workflow = DBOS.workflow()(run_naps)
layers_workflow = DBOS.workflow()(run_layers)


class Dbos(Engine):
    """Workflows and steps as async functions; what runs side by side is gathered, in an order that never changes."""

    name = "DBOS"
    packages: ClassVar[Sequence[str]] = ("dbos",)
    record = "SQLite, rollback journal, synchronous=FULL: each step's result on its own"
    notes: ClassVar = {Case.DAG: "layer by layer: its steps must start in the same order again after a crash"}
    sizes = Sizes(chains=100, sequential=300, steps=4, naps=10, layers=5)

    @contextmanager
    def database(self, directory: Path) -> Iterator[str]:
        """The URL of its database."""
        yield f"sqlite:///{directory / 'dbos.db'}"

    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[None]:
        """DBOS, in this process."""
        with self.database(directory) as url:
            config: DBOSConfig = {"name": "bench", "system_database_url": url, "log_level": "ERROR"}
            DBOS(config=config)
            DBOS.launch()
            try:
                yield
            finally:
                await asyncio.to_thread(DBOS.destroy)

    async def chain(self, steps: int) -> int:
        """A workflow that awaits one step after the other."""
        return int(await chain_workflow(steps))

    async def fan_out(self, width: int) -> int:
        """A workflow that gathers steps."""
        return int(await fan_out_workflow(width))

    async def naps(self, count: int) -> int:
        """A workflow that gathers steps."""
        return int(await naps_workflow(count))

    async def dag(self, layers: int, columns: int) -> int:
        """A workflow that gathers each layer."""
        return int(await layers_workflow(layers, columns))


ENGINE = Dbos()
