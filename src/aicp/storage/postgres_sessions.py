"""A few connections for everything but the writes that share transactions: first come, first served."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from aicp.errors import StorageError
from aicp.storage.postgres_faults import Trouble, is_lost, storage_error
from aicp.storage.postgres_server import Connection, PostgresServer, Rows, close_connection

T = TypeVar("T")

SESSIONS_MAX = 4
TIMEOUT_S = 10.0
CLOSE_WAIT_S = 2.0


class Sessions:
    """At most four connections, made when needed and kept. For one event loop.

    Args:
        server: Makes them.
        timeout_s: How long a use may take, waiting for its turn included, seconds.
    """

    def __init__(self, server: PostgresServer, *, timeout_s: float = TIMEOUT_S) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._turns = asyncio.Semaphore(SESSIONS_MAX)
        self._idle: deque[Connection] = deque()
        self._is_closed = True

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
            return await self.execute(sql, *args)
        except StorageError as error:
            if not (had_kept and error.__cause__ is not None and is_lost(error.__cause__)):
                raise
            if isinstance(error.__cause__, TimeoutError):
                raise
        self._drop_idle()
        return await self.execute(sql, *args)

    async def execute(self, sql: str, *args: Any) -> Rows:
        """The rows of a statement, in a transaction of its own.

        Raises:
            AicpError: It could not be done; when the connection was lost, it may have been.
        """
        return await self.use(lambda connection: self._server.fetch(connection, sql, *args, timeout_s=self._timeout_s))

    async def use(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """What `work` does with a connection of its own. Cancelled, the connection is cut.

        Raises:
            AicpError: It could not be done.
        """
        try:
            async with asyncio.timeout(self._timeout_s), self._turns:
                return await self._use(work)
        except Trouble as error:
            raise storage_error(error, self._server.place) from error

    async def in_transaction(self, work: Callable[[Connection], Awaitable[T]], *, snapshot: bool = False) -> T:
        """As `use`, all of it in one transaction; with `snapshot` it only reads, all as of one moment.

        Raises:
            AicpError: It could not be done; when the connection was lost, it may have been.
        """

        async def together(connection: Connection) -> T:
            async with self._server.transaction(connection, self._timeout_s, snapshot=snapshot):
                return await work(connection)

        return await self.use(together)

    async def close(self) -> None:
        """Refuse what comes from now on, and close what is idle; what is in use is cut when it is given back."""
        self._is_closed = True
        while self._idle:
            await close_connection(self._idle.popleft(), CLOSE_WAIT_S)

    async def _use(self, work: Callable[[Connection], Awaitable[T]]) -> T:
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
            if not connection.is_closed():
                return connection
            connection.terminate()
        return await self._server.connect()

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
