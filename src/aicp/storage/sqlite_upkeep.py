"""Keeps the write-ahead log of a SQLite file small and checks the pages of a large file, beside the work.

    a second without a write -> move the log into the main file, and cut it to nothing
    a file over 64 MiB       -> after the start, check table by table, each once there was such a second

The log is cut to nothing only while no reader needs it. A foreign one that stays open lets it grow; it is cut again in
the second after that one has gone, also under load (`journal_size_limit`).
"""

import asyncio
import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from aicp.errors import AicpError
from aicp.storage.sqlite_connections import Connect
from aicp.storage.sqlite_faults import BUSY_TIMEOUT_S, SqliteErrors, storage_error
from aicp.storage.sqlite_readers import Readers
from aicp.storage.sqlite_soundness import integrity_problems
from aicp.storage.sqlite_wal import size_of_log

IDLE_S = 1.0
LARGE_LOG_BYTES = 64 << 20
CHECK_WAITS_S_MAX = 60.0
_PAUSE_EVERY_STEPS = 20_000
_PAUSE_S = 0.002
_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
_log = logging.getLogger(__name__)


class Upkeep:
    """What is done beside the work, from `begin` to `end`. For one event loop.

    Args:
        path: The main file.
        readers: Lend a connection to move the log with.
        connect: Opens a connection to check pages with.
        on_problem: Called in the event loop with a sentence for each table that is damaged.
        idle_s: How long without a write counts as idle, seconds.
    """

    def __init__(
        self, path: Path, readers: Readers, connect: Connect, on_problem: Callable[[str], None], idle_s: float = IDLE_S
    ) -> None:
        self._path = path
        self._readers = readers
        self._connect = connect
        self._on_problem = on_problem
        self._idle_s = idle_s
        self._wrote = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_large = self._has_failed = False
        self._stop = threading.Event()
        self._checking: sqlite3.Connection | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, *, check_pages: bool) -> None:
        """Begin; what an earlier process left in the log counts as written now."""
        self._wrote.set()
        self._tasks = [asyncio.create_task(self._keep_log_small(), name="sqlite log")]
        if check_pages:
            self._tasks.append(asyncio.create_task(self._check_tables(), name="sqlite page check"))

    def wrote(self) -> None:
        """Something was written, or failed to be."""
        self._wrote.set()
        self._is_idle.clear()

    async def end(self) -> None:
        """Stop, a check in the middle of a table included."""
        self._stop.set()
        if self._checking is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # it was closed just now
                self._checking.interrupt()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_log_small(self) -> None:
        while True:
            await self._wrote.wait()
            self._wrote.clear()
            await asyncio.sleep(self._idle_s)
            self._watch_size()
            if not self._wrote.is_set():
                self._is_idle.set()
                await self._empty_log()
                self._watch_size()

    async def _empty_log(self) -> None:
        """Try, and have it tried again an idle second later when that was in vain."""
        try:
            is_empty = await self._readers.read(empty_log)
        except AicpError as error:
            if not self._has_failed:
                _log.warning("cannot move the write-ahead log into the database, retrying: %s", error)
            self._has_failed, is_empty = True, False
        else:
            self._has_failed = False
        if not is_empty:
            self._wrote.set()

    def _watch_size(self) -> None:
        size = size_of_log(self._path)
        was_large, self._is_large = self._is_large, size > LARGE_LOG_BYTES
        if self._is_large and not was_large:
            _log.warning(
                "write-ahead log is large: path=%s bytes=%d; a program that reads the database keeps it from being cut",
                self._path, size,
            )  # fmt: skip
        elif was_large and not self._is_large:
            _log.info("write-ahead log is small again: path=%s bytes=%d", self._path, size)

    async def _check_tables(self) -> None:
        """Each table once the database is idle, or after a minute at the latest."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="aicp-sqlite-check")
        try:
            for table in await self._readers.read(_tables):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_WAITS_S_MAX):
                        await self._is_idle.wait()
                await self._check_table(thread, table)
            _log.info("checked the pages of %s", self._path)
        except AicpError as error:
            _log.warning("cannot check the pages of %s, check it with `aicp db check`: %s", self._path, error)
        finally:
            self._stop.set()
            await asyncio.to_thread(thread.shutdown)

    async def _check_table(self, thread: ThreadPoolExecutor, table: str) -> None:
        problem = await asyncio.get_running_loop().run_in_executor(thread, self._problem_of, table)
        if problem:
            self._on_problem(f"table {table}: {problem}")

    def _problem_of(self, table: str) -> str:
        """In the thread: the first thing wrong with a table; empty when it is sound, or the check was stopped."""
        try:
            with closing(self._connect(self._path)) as self._checking:
                connection = self._checking
                connection.set_progress_handler(self._pause, _PAUSE_EVERY_STEPS)
                problems = integrity_problems(connection, table)
        except SqliteErrors as error:
            if self._stop.is_set():
                return ""
            raise storage_error(error, self._path) from error
        return problems[0] if problems else ""

    def _pause(self) -> bool:
        """Leave the processor to the work half of the time; True ends the check."""
        return self._stop.wait(_PAUSE_S)


def empty_log(connection: sqlite3.Connection) -> bool:
    """Move the log into the main file and cut it to nothing; False while somebody reads or writes.

    Writers wait only for the cut: the pages are moved beside them first.

    Raises:
        sqlite3.Error: It failed; the log is as good as before.
    """
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        (is_busy, _, _) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000:.0f}")
    return not is_busy


def _tables(connection: sqlite3.Connection) -> list[str]:
    return [name for (name,) in connection.execute(_TABLES)]
