"""Prefect with the server it starts by itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ClassVar

from prefect import flow, task
from prefect.logging.configuration import setup_logging
from prefect.settings import (
    PREFECT_API_DATABASE_CONNECTION_URL,
    PREFECT_HOME,
    PREFECT_LOCAL_STORAGE_PATH,
    PREFECT_LOGGING_LEVEL,
    PREFECT_RESULTS_PERSIST_BY_DEFAULT,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    PREFECT_SERVER_ANALYTICS_ENABLED,
    PREFECT_SERVER_LOGGING_LEVEL,
    temporary_settings,
)

from benchmarks.peers.engines.engine import NAP_S, Case, Engine, Sizes

SLOW = "not asked for: ten at once take seconds, so this would take minutes"


async def add_one(n: int) -> int:
    return n + 1


async def one(_: int, *_awaited: int) -> int:
    return 1


async def add_up(parts: list[int]) -> int:
    return sum(parts)


async def nap(_: int) -> int:
    await asyncio.sleep(NAP_S)
    return 1


add_one_task = task(add_one)
one_task = task(one)
add_up_task = task(add_up)
nap_task = task(nap)


async def run_chain(steps: int) -> int:
    n = 0
    for _ in range(steps):
        n = await add_one_task(n)
    return n


async def run_fan_out(width: int) -> int:
    return int(await add_up_task(await asyncio.gather(*(one_task(number) for number in range(width)))))


async def run_naps(count: int) -> int:
    return sum(await asyncio.gather(*(nap_task(number) for number in range(count))))


def run_layers(layers: int, columns: int) -> int:
    above = [one_task.submit(column) for column in range(columns)]
    ended = list(above)
    for layer in range(1, layers):
        above = [
            one_task.submit(layer * columns + column, above[column], above[(column + 1) % columns])
            for column in range(columns)
        ]
        ended += above
    return sum(future.result() for future in ended)


chain_flow = flow(run_chain)
fan_out_flow = flow(run_fan_out)
naps_flow = flow(run_naps)
layers_flow = flow(run_layers)


class Prefect(Engine):
    """Flows and tasks as async functions; the DAG as futures.

    Each step of a flow has another input: with the same it would be answered from the results it has.
    """

    name = "Prefect"
    packages = ("prefect",)
    record = "SQLite of its server, and a file for each result; a flow that broke off is not taken up again by itself"
    lacks: ClassVar = {Case.CHAINS_30: SLOW, Case.CHAINS_300: SLOW}
    sizes = Sizes(chains=3, sequential=50, steps=1, width=50, naps=3, layers=5, columns=10)

    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[None]:
        """A home of its own; the server comes with the first flow."""
        settings = {
            PREFECT_HOME: directory,
            PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{directory / 'prefect.db'}",
            PREFECT_LOCAL_STORAGE_PATH: directory / "storage",
            PREFECT_LOGGING_LEVEL: "ERROR",
            PREFECT_RESULTS_PERSIST_BY_DEFAULT: True,
            PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True,
            PREFECT_SERVER_ANALYTICS_ENABLED: False,
            PREFECT_SERVER_LOGGING_LEVEL: "CRITICAL",
        }
        with temporary_settings(settings):
            setup_logging(incremental=False)
            yield

    async def chain(self, steps: int) -> int:
        """A flow that awaits one task after the other."""
        return int(await chain_flow(steps))

    async def fan_out(self, width: int) -> int:
        """A flow that gathers tasks."""
        return int(await fan_out_flow(width))

    async def naps(self, count: int) -> int:
        """A flow that gathers tasks."""
        return int(await naps_flow(count))

    async def dag(self, layers: int, columns: int) -> int:
        """A flow whose tasks take the futures of others."""
        return int(await asyncio.to_thread(layers_flow, layers, columns))


ENGINE = Prefect()
