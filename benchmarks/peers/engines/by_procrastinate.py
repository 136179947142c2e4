"""Procrastinate on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from procrastinate import App, PsycopgConnector

from benchmarks.peers.engines.engine import NAP_S, Case, Engine, LacksError, Sizes
from benchmarks.peers.engines.postgres import RECORD, fresh_postgres

SLOTS = 300
CONNECTIONS_MAX = 20
# Left to itself it looks every 5 s, and one in forty jobs waits for that although it was notified of it.
POLL_S = 0.05
NO_RESULTS = "it has jobs, but keeps no results that another job could read"


class Procrastinate(Engine):
    """Jobs, each of which defers the next one of its chain; a worker in this process, woken by LISTEN/NOTIFY."""

    name = "Procrastinate"
    packages = ("procrastinate", "psycopg")
    record = f"{RECORD}: each job and its end; results are not kept"
    lacks: ClassVar = {Case.FAN_OUT: NO_RESULTS, Case.DAG: NO_RESULTS}
    sizes = Sizes(chains=100, sequential=300, steps=4, naps=10)

    def __init__(self) -> None:
        self._add_one: Any = None
        self._nap: Any = None
        self._ends: dict[int, asyncio.Future[int]] = {}
        self._count = 0

    @asynccontextmanager
    async def opened(self, _directory: Path) -> AsyncIterator[None]:
        """The worker in this process, the database in its own."""
        with fresh_postgres() as server:
            app = App(connector=PsycopgConnector(conninfo=server.url(), max_size=CONNECTIONS_MAX))
            self._add_one = app.task(name="add_one")(self._step)
            self._nap = app.task(name="nap")(self._sleep)
            async with app.open_async():
                await app.schema_manager.apply_schema_async()
                worker = asyncio.create_task(
                    app.run_worker_async(
                        concurrency=SLOTS, fetch_job_polling_interval=POLL_S, install_signal_handlers=False
                    )
                )
                try:
                    yield
                finally:
                    worker.cancel()
                    await asyncio.gather(worker, return_exceptions=True)

    async def chain(self, steps: int) -> int:
        """A first job; its last successor tells the sum."""
        name, end = self._expect()
        await self._add_one.defer_async(name=name, n=0, steps=steps)
        return await end

    async def fan_out(self, _width: int) -> int:
        """Not here."""
        raise LacksError(NO_RESULTS)

    async def naps(self, count: int) -> int:
        """Jobs side by side."""
        expected = [self._expect() for _ in range(count)]
        for name, _ in expected:
            await self._nap.defer_async(name=name)
        return sum(await asyncio.gather(*(end for _, end in expected)))

    async def _step(self, name: int, n: int, steps: int) -> None:
        if n + 1 < steps:
            await self._add_one.defer_async(name=name, n=n + 1, steps=steps)
        else:
            self._ends.pop(name).set_result(n + 1)

    async def _sleep(self, name: int) -> None:
        await asyncio.sleep(NAP_S)
        self._ends.pop(name).set_result(1)

    def _expect(self) -> tuple[int, asyncio.Future[int]]:
        self._count += 1
        end = self._ends[self._count] = asyncio.get_running_loop().create_future()
        return self._count, end


ENGINE = Procrastinate()
