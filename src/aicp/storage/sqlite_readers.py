"""Readers of a SQLite database: a few threads, each use with a connection of its own."""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from aicp.storage.sqlite_connections import Connect
from aicp.storage.sqlite_faults import SqliteErrors, storage_error
from aicp.storage.sqlite_writer import closed_error

T = TypeVar("T")

READERS_MAX = 3


class Readers:
    """Reads beside the writer: in a write-ahead log neither waits for the other. For one event loop.

    At most three reads run at once; the others wait their turn, first come, first served.

    Args:
        path: Of the database.
        connect: Opens a connection; at most three are kept.
    """

    def __init__(self, path: Path, connect: Connect) -> None:
        self._path = path
        self._connect = connect
        self._pool = ThreadPoolExecutor(READERS_MAX, thread_name_prefix="aicp-sqlite-reader")
        self._turns = asyncio.Semaphore(READERS_MAX)
        self._running: set[asyncio.Future[Any]] = set()
        self._idle: deque[sqlite3.Connection] = deque()
        self._is_closed = False

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` reads, in a thread. Cancelled, it keeps its turn until it is through.

        Raises:
            StorageError: It could not be read, or the database is closed.
        """
        await self._turns.acquire()
        if self._is_closed:
            self._turns.release()
            raise closed_error(self._path)
        call = asyncio.get_running_loop().run_in_executor(self._pool, self._read, work)
        self._running.add(call)
        call.add_done_callback(self._give_turn_back)
        return await asyncio.shield(call)

    async def close(self) -> None:
        """Refuse what comes from now on, and wait for the reads that run."""
        self._is_closed = True
        if self._running:
            await asyncio.wait(self._running)
        self._pool.shutdown(wait=False)
        while self._idle:
            self._idle.pop().close()

    def _give_turn_back(self, call: "asyncio.Future[T]") -> None:
        self._running.discard(call)
        self._turns.release()
        if not call.cancelled():
            # Looked at, so that a read nobody waits for any more may fail in silence.
            call.exception()

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return self._read_on(self._connection(), work)
        except (*SqliteErrors, msgspec.DecodeError) as error:
            raise storage_error(error, self._path) from error

    def _connection(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect(self._path)

    def _read_on(self, connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            result = work(connection)
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        return result
