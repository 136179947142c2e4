"""The way to a PostgreSQL server: connections that are made when they are needed, and what is behind them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import asyncpg
import msgspec

from aicp.errors import SettingsError, StorageError
from aicp.forks import HomeProcess, closed_in_child
from aicp.storage.postgres_address import PostgresAddress, require_files
from aicp.storage.postgres_faults import VERSION_MIN, Trouble, opening_error, storage_error, too_old_error

RETRY_FIRST_S = 0.05
RETRY_MAX_S = 0.5
CACHED_STATEMENTS = 100
PAUSED_S_MAX = 5
"""How long a transaction of a paused process may keep rows locked, seconds; then the server ends it."""

_SETTINGS = """
    SELECT set_config('synchronous_commit', 'on', {local})
    WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write');
    SELECT set_config('jit', 'off', {local}), set_config('enable_seqscan', 'off', {local}),
        set_config('plan_cache_mode', 'force_generic_plan', {local}),
        set_config('idle_in_transaction_session_timeout', '{paused_s}s', {local})
"""
"""Every statement finds its rows by an index whatever its values are: a plan for each call costs a third of a step."""

_OF_SESSION = _SETTINGS.format(local="false", paused_s=PAUSED_S_MAX)
_OF_TRANSACTION = _SETTINGS.format(local="true", paused_s=PAUSED_S_MAX)
_BEGIN, _BEGIN_SNAPSHOT = "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_LOOK = """
    SELECT pg_backend_pid() AS pid, current_setting('server_version') AS version,
        current_setting('server_version_num')::int / 10000 AS major,
        current_setting('server_encoding') AS encoding, current_setting('fsync') AS fsync
"""

Connection = asyncpg.Connection
Rows = Sequence[asyncpg.Record]


class Look(msgspec.Struct, frozen=True):
    """What a server said of itself.

    Attributes:
        version: Of PostgreSQL.
        is_pooled: True when something between hands each transaction to any session: no session keeps anything.
        syncs: False when it acknowledges what is not on disk.
    """

    version: str
    is_pooled: bool
    syncs: bool


class PostgresServer:
    """Makes connections. After one could not be made, the next tries wait a little: 50 ms, growing to half a second.

    Args:
        address: Where it is.

    Attributes:
        place: For people.
        is_pooled: Whether to expect nothing of a session; known once `look` was called.
    """

    def __init__(self, address: PostgresAddress) -> None:
        self.place = address.place
        self.is_pooled = False
        self._address = address
        self._wait_s = 0.0
        self._try_again_at = 0.0
        self._refusal: BaseException = StorageError(f"The database {self.place} was not asked yet.")
        self._home = HomeProcess(f"The connection to {self.place}")

    async def connect(self) -> Connection:
        """A fresh connection. Within a wait it fails at once, with the error of the last try.

        Raises:
            SettingsError: The URL, the user, its password or its rights are wrong.
            StorageError: The server cannot be reached, or has no room.
            ForkedProcess: This process was forked from the one that it belongs to.
        """
        self._home.require()
        if asyncio.get_running_loop().time() < self._try_again_at:
            raise opening_error(self._refusal, self.place)
        require_files(self._address)
        try:
            connection = await self._connect()
        except Trouble as error:
            self._failed(error)
            raise opening_error(error, self.place) from error
        except ValueError as error:
            # What the driver cannot read in a URL or a `PG*` variable; it may repeat a password.
            told = f"The database {self.place} cannot be used: its URL, or a PG* variable, has a value that is none."
            raise SettingsError(told) from error
        self._wait_s = 0.0
        return connection

    async def look(self) -> tuple[Connection, Look]:
        """A connection, and what is at its other end.

        Raises:
            SettingsError: It cannot be used: see `connect`; or it is too old, or its encoding is not UTF-8.
            StorageError: The server cannot be reached.
        """
        # Of a pooler nothing is known yet, and what is expected of one does no harm to a server.
        self.is_pooled = True
        connection = await self.connect()
        try:
            (found,) = await self.fetch(connection, _LOOK, timeout_s=self._address.connect_timeout_s)
            self._refuse_unusable(found)
        except BaseException as error:
            connection.terminate()
            if isinstance(error, Trouble):
                raise opening_error(error, self.place) from error
            raise
        # A pooler makes up the number by which its clients could cancel.
        self.is_pooled = found["pid"] != connection.get_server_pid()
        return connection, Look(found["version"], self.is_pooled, found["fsync"] == "on")

    async def fetch(self, connection: Connection, sql: str, *args: Any, timeout_s: float) -> Rows:
        """The rows of one statement, in a transaction of its own, which is on disk when this returns.

        On a session of one's own that is one round trip.

        Raises:
            TimeoutError: No answer came in time; the connection is to be dropped.
            Trouble: The server refused, or the connection was lost.
        """
        self._home.require()
        async with asyncio.timeout(timeout_s):
            if not self.is_pooled:
                rows: Rows = await connection.fetch(sql, *args)
                return rows
            async with self._together(connection, _BEGIN):
                rows = await connection.fetch(sql, *args)
                return rows  # noqa: RET504 - its name is what tells its type

    @contextlib.asynccontextmanager
    async def transaction(
        self, connection: Connection, timeout_s: float, *, snapshot: bool = False
    ) -> AsyncIterator[None]:
        """Several statements that are done together or not at all; when it ends well they are on disk.

        Args:
            connection: To be used for nothing else meanwhile.
            timeout_s: For all of it, seconds.
            snapshot: True when they only read, and all is to be as of one moment.

        Raises:
            TimeoutError: It took too long; the connection is to be dropped.
            Trouble: The server refused, or the connection was lost.
        """
        self._home.require()
        async with asyncio.timeout(timeout_s), self._together(connection, _BEGIN_SNAPSHOT if snapshot else _BEGIN):
            yield

    def _refuse_unusable(self, found: asyncpg.Record) -> None:
        if found["major"] < VERSION_MIN:
            raise too_old_error(found["version"], self.place)
        if found["encoding"] != "UTF8":
            told = f"has the encoding {found['encoding']}, and not UTF8: make another with `createdb --encoding=UTF8`"
            raise SettingsError(f"The database {self.place} {told}.")

    def _failed(self, error: BaseException) -> None:
        self._wait_s = min(self._wait_s * 2, RETRY_MAX_S) or RETRY_FIRST_S
        self._try_again_at = asyncio.get_running_loop().time() + self._wait_s
        self._refusal = error

    async def _connect(self) -> Connection:
        timeout_s = self._address.connect_timeout_s
        async with asyncio.timeout(timeout_s):
            connection = await asyncpg.connect(
                self._address.url, timeout=timeout_s, statement_cache_size=0 if self.is_pooled else CACHED_STATEMENTS,
                max_cached_statement_lifetime=0,
            )  # fmt: skip
            closed_in_child(connection, _descriptors)
            try:
                if not self.is_pooled:
                    await connection.execute(_OF_SESSION)
            except BaseException:
                connection.terminate()
                raise
        return connection

    @contextlib.asynccontextmanager
    async def _together(self, connection: Connection, begin: str) -> AsyncIterator[None]:
        """A transaction with its settings. One that is given up is not ended: its connection is to be dropped."""
        await connection.execute(f"{begin}; {_OF_TRANSACTION}" if self.is_pooled else begin)
        try:
            yield
        except asyncpg.PostgresError:
            with contextlib.suppress(*Trouble):
                await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")


class Link:
    """One connection that is held: made at its first use, and again at the first use after it was lost.

    For one user at a time.

    Args:
        server: Makes it.
        prepare: Done with each fresh connection before anything else.
    """

    def __init__(self, server: PostgresServer, prepare: Callable[[Connection], Awaitable[None]] | None = None) -> None:
        self._server = server
        self._prepare = prepare
        self._connection: Connection | None = None

    @property
    def is_up(self) -> bool:
        """True when there is a connection, as far as one knows without asking."""
        return self._connection is not None and not self._connection.is_closed()

    async def connection(self) -> Connection:
        """The connection, made when there is none.

        Raises:
            AicpError: It cannot be made or prepared.
        """
        if self._connection is not None and not self._connection.is_closed():
            return self._connection
        self.drop()
        fresh = await self._server.connect()
        try:
            if self._prepare is not None:
                await self._prepare(fresh)
        except BaseException as error:
            fresh.terminate()
            if isinstance(error, Trouble):
                raise storage_error(error, self._server.place) from error
            raise
        self._connection = fresh
        return fresh

    def drop(self) -> None:
        """Cut the connection, when there is one: nothing is known of its state."""
        dropped, self._connection = self._connection, None
        if dropped is not None:
            dropped.terminate()

    async def close(self, timeout_s: float) -> None:
        """Say goodbye to the server, within some seconds."""
        closing, self._connection = self._connection, None
        if closing is not None:
            await close_connection(closing, timeout_s)


def _descriptors(connection: Connection) -> tuple[int, ...]:
    """The socket: while a child has it open, the server keeps the session and its locks."""
    # The driver gives no other way to its socket.
    transport: asyncio.BaseTransport = getattr(connection, "_transport")  # noqa: B009 - its stubs leave it out
    return (transport.get_extra_info("socket").fileno(),)


async def close_connection(connection: Connection, timeout_s: float) -> None:
    """Say goodbye, or cut the connection when that takes too long or fails."""
    try:
        async with asyncio.timeout(timeout_s):
            await connection.close()
    except Trouble:
        connection.terminate()
    except BaseException:
        connection.terminate()
        raise
