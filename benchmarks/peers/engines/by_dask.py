"""Dask's distributed scheduler, on this machine."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

from benchmarks.peers.engines.engine import NAP_S, Engine, Sizes


def add_one(n: int) -> int:
    return n + 1


def one(*_: int) -> int:
    return 1


def add_up(parts: list[int]) -> int:
    return sum(parts)


def nap() -> int:
    time.sleep(NAP_S)
    return 1


class Dask(Engine):
    """Futures, on two worker processes of two threads."""

    name = "Dask"
    packages = ("dask", "distributed")
    record = "nothing survives"
    sizes = Sizes(chains=100, sequential=500, naps=10, layers=20)

    def __init__(self) -> None:
        self._client: Any = None

    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[None]:
        """Scheduler and client in this process."""
        cluster = LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            asynchronous=True,
            dashboard_address=None,
            host="127.0.0.1",
            local_directory=str(directory),
        )
        async with cluster, Client(cluster, asynchronous=True) as self._client:
            yield

    async def chain(self, steps: int) -> int:
        """Each future depends on the one before."""
        last: Any = 0
        for _ in range(steps):
            last = self._submit(add_one, last)
        return int(await last)

    async def fan_out(self, width: int) -> int:
        """A future of many."""
        return int(await self._submit(add_up, [self._submit(one) for _ in range(width)]))

    async def naps(self, count: int) -> int:
        """Futures."""
        return sum(await asyncio.gather(*(self._submit(nap) for _ in range(count))))

    async def dag(self, layers: int, columns: int) -> int:
        """Each future depends on two."""
        above = [self._submit(one) for _ in range(columns)]
        ended = list(above)
        for _ in range(1, layers):
            above = [self._submit(one, above[column], above[(column + 1) % columns]) for column in range(columns)]
            ended += above
        return sum(await self._client.gather(ended))

    def _submit(self, step: Any, *awaited: Any) -> Any:
        return self._client.submit(step, *awaited, pure=False)


ENGINE = Dask()
