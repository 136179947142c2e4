"""How long AICP keeps the event loop while every commit takes 20 ms, and how long checking a chain takes."""

import asyncio
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import uvloop

from aicp import Node, TaskStatus
from aicp.coordination.task_coordinator import TaskCoordinator
from aicp.model.chain import ChainSpec
from aicp.model.validation import check_chain
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_connections import connect
from aicp.storage.sqlite_database import SqliteDatabase
from benchmarks.peers.engines.by_aicp import SLOTS, add_one, chain_of, dag_of

COMMIT_S = 0.02
BEAT_S = 0.001
CHAINS = 10
STEPS = 10
WINDOW_S = 0.5
WINDOWS = 12
CHECKS = 9
FULL_DAG = (100, 100)
SLOWLY = f"chains, each commit {COMMIT_S * 1e3:g} ms"


class SlowConnection(sqlite3.Connection):
    """Takes its time at every commit, outside the interpreter's lock, as a disk does."""

    def execute(self, sql: str, parameters: object = (), /) -> sqlite3.Cursor:
        """As it is, after the wait."""
        if sql.lstrip().upper().startswith("COMMIT"):
            time.sleep(COMMIT_S)
        return super().execute(sql, parameters)  # type: ignore[arg-type]  # the stub's own type has no public name


def connect_slow(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=SlowConnection)


class Absence(msgspec.Struct, frozen=True):
    """How long a task that only wants to sleep for a millisecond was kept waiting, over windows of half a second.

    Every window sees some twenty slow commits, so a loop that waits for them is late in each; what the machine does to
    the process now and then, when others want the processor, is in few.

    Attributes:
        usual_ms: The longest of a window, median over the windows.
        worst_ms: The longest of all.
    """

    usual_ms: float
    worst_ms: float


async def absence_during(work: Callable[[], Awaitable[object]]) -> Absence:
    working = asyncio.create_task(_again_and_again(work, time.perf_counter() + WINDOWS * WINDOW_S))
    longest = [0.0]
    window_ends_at = time.perf_counter() + WINDOW_S
    while not working.done():
        slept_at = time.perf_counter()
        await asyncio.sleep(BEAT_S)
        woke_at = time.perf_counter()
        longest[-1] = max(longest[-1], woke_at - slept_at - BEAT_S)
        if woke_at > window_ends_at:
            window_ends_at = woke_at + WINDOW_S
            longest.append(0.0)
    await working
    whole = longest[:-1] or longest
    return Absence(statistics.median(whole) * 1e3, max(whole) * 1e3)


async def _again_and_again(work: Callable[[], Awaitable[object]], ends_at: float) -> None:
    while time.perf_counter() < ends_at:
        await work()


async def absence_on(connect_writer: Callable[[Path], sqlite3.Connection]) -> Absence:
    """While chains run on this disk, one batch after the other."""
    with tempfile.TemporaryDirectory(prefix="bench-absence-") as scratch:
        database = SqliteDatabase(Path(scratch) / "aicp.db", connect_writer=connect_writer)
        async with Node() as node, TaskCoordinator(node.router, SqliteJournal(database)) as coordinator:
            await node.add_agent("worker", {"add_one": add_one}, max_concurrent_tasks=SLOTS)

            async def batch() -> None:
                ended = await asyncio.gather(*(coordinator.execute_chain(chain_of(STEPS)) for _ in range(CHAINS)))
                assert all(chain.status is TaskStatus.COMPLETED for chain in ended)

            await batch()
            return await absence_during(batch)


def absences() -> dict[str, Absence]:
    """By what went on meanwhile: nothing, chains on the disk as it is, chains with slow commits."""
    return {
        "nothing": uvloop.run(absence_during(_rest)),
        "chains": uvloop.run(absence_on(connect)),
        SLOWLY: uvloop.run(absence_on(connect_slow)),
    }


async def _rest() -> None:
    await asyncio.sleep(WINDOW_S)


def validation_ms(*, reads: bool) -> float:
    """Checking the DAG of 10,000; `reads` hands results from task to task."""
    spec = dag_of(*FULL_DAG, reads=reads)
    check_chain(spec)
    return statistics.median(_time_of_check(spec) for _ in range(CHECKS)) * 1e3


def _time_of_check(spec: ChainSpec) -> float:
    began = time.perf_counter()
    check_chain(spec)
    return time.perf_counter() - began
