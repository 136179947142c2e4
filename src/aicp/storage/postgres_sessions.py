"""A few connections for everything but the writes that share transactions: first come, first served."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from aicp import standstill
from aicp.errors import StorageError
from aicp.storage.postgres_faults import Trouble, is_lost, is_read_only, storage_error
from aicp.storage.postgres_server import Connection, Patience, PostgresServer, Rows, close_connection

T = TypeVar("T")

SESSIONS_MAX = 4
WRITING_MAX = 2
"""How many of them may write: a write may wait for a lock, and a read waits for none."""
TIMEOUT_S = 10.0
CLOSE_WAIT_S = 2.0


class Sessions:
    """At most four connections, made when needed and kept for some minutes. For one event loop.

    At most two of them write at a time, so that locks that others hold keep nobody from reading.

    Args:
        server: Makes them.
        timeout_s: How long a use may take, waiting for its turn included, seconds.
    """

    def __init__(self, server: PostgresServer, *, timeout_s: float = TIMEOUT_S) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._patience = Patience(timeout_s)
        self._turns = asyncio.Semaphore(SESSIONS_MAX)
        self._writing_turns = asyncio.Semaphore(WRITING_MAX)
        self._idle: deque[Connection] = deque()
        self._is_closed = True
        self._is_well = True

    @property
    def is_well(self) -> bool:
        """False after the last use failed since no server that takes writes could be reached, until one succeeds."""
        return self._is_well

    def open(self) -> None:
        """Take what comes from now on."""
        self._is_closed = False

    async def read(self, sql: str, *args: Any) -> Rows:
        """The rows of a statement that changes nothing; asked again when a kept connection turned out to be dead.

        Raises:
            StorageError: It could not be read.
        """
        had_kept = bool(self._idle)
        try:
            return await self._read(sql, *args)
        except StorageError as error:
            if not (had_kept and error.__cause__ is not None and is_lost(error.__cause__)):
                raise
            if isinstance(error.__cause__, TimeoutError):
                raise
        self._drop_idle()
        return await self._read(sql, *args)

    async def execute(self, sql: str, *args: Any) -> Rows:
        """The rows of a statement, in a transaction of its own.

        Raises:
            AicpError: It could not be done; when the connection was lost, it may have been.
        """
        return await self._write(lambda connection: self._fetch(connection, sql, *args))

    async def in_transaction(self, work: Callable[[Connection], Awaitable[T]], *, snapshot: bool = False) -> T:
        """What `work` does in one transaction; with `snapshot` it only reads, all as of one moment.

        It is done once more when the server turned out to take no writes.

        Cancelled, the connection is cut, and the server ends what it was doing.

        Raises:
            AicpError: It could not be done; when the connection was lost, it may have been.
        """

        async def together(connection: Connection) -> T:
            async with self._server.transaction(connection, self._timeout_s, snapshot=snapshot):
                return await work(connection)

        return await (self._use(together) if snapshot else self._write(together))

    async def close(self) -> None:
        """Refuse what comes from now on, and close what is idle; what is in use is cut when it is given back."""
        self._is_closed = True
        while self._idle:
            await close_connection(self._idle.popleft(), CLOSE_WAIT_S)

    async def _read(self, sql: str, *args: Any) -> Rows:
        return await self._use(lambda connection: self._fetch(connection, sql, *args))

    async def _fetch(self, connection: Connection, sql: str, *args: Any) -> Rows:
        return await self._server.fetch(connection, sql, *args, timeout_s=self._timeout_s)

    async def _write(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        return await self._use(work, self._writing_turns)

    async def _use(self, work: Callable[[Connection], Awaitable[T]], *turns: asyncio.Semaphore) -> T:
        try:
            async with standstill.timeout(self._timeout_s), contextlib.AsyncExitStack() as taken:
                for turn in (*turns, self._turns):
                    await taken.enter_async_context(turn)
                result = await self._used_again(work)
        except Trouble as error:
            self._is_well = self._is_well and not (is_lost(error) or is_read_only(error))
            raise storage_error(error, self._server.place) from error
        self._is_well = True
        return result

    async def _used_again(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        try:
            return await self._used(work)
        except asyncpg.ReadOnlySQLTransactionError:
            # Surely not done, and all connections were cut: a new one may lead to a server that takes writes.
            return await self._used(work)

    async def _used(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        if self._is_closed:
            raise closed_error(self._server.place)
        connection = await self._connection()
        try:
            result = await work(connection)
        except BaseException as error:
            # A statement that was refused leaves its connection as it was; of anything else, nothing is known.
            if isinstance(error, Exception) and not is_lost(error) and not connection.is_closed():
                self._give_back(connection)
            else:
                connection.terminate()
            raise
        self._give_back(connection)
        return result

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not (connection.is_closed() or self._server.is_aged(connection)):
                return connection
            connection.terminate()
        try:
            return await self._server.connect(self._patience)
        except StorageError:
            self._is_well = False
            raise

    def _give_back(self, connection: Connection) -> None:
        if self._is_closed or connection.is_closed() or connection.is_in_transaction():
            connection.terminate()
        else:
            self._idle.append(connection)

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().terminate()


def closed_error(place: str) -> StorageError:
    """What to raise for a use of a database that is closed."""
    return StorageError(f"The database {place} is closed: nothing can be recorded or read.")
