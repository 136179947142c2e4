"""The way to a PostgreSQL server: connections that are made when they are needed, and what is behind them."""

import asyncio
import contextlib
import logging
import random
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Self

import asyncpg
import msgspec
from asyncpg.connect_utils import SessionAttribute

from aicp import standstill
from aicp.errors import SettingsError, StorageError
from aicp.forks import HomeProcess, closed_in_child
from aicp.storage.damage import read_text
from aicp.storage.postgres_address import PostgresAddress, require_files, urls_of
from aicp.storage.postgres_faults import (
    VERSION_MIN,
    Trouble,
    in_use_error,
    is_read_only,
    is_wrong_server,
    opening_error,
    too_old_error,
)

RETRY_FIRST_S = 0.05
RETRY_MAX_S = 0.5
CACHED_STATEMENTS = 100
PAUSED_S_MAX = 5
"""How long a transaction of a paused process may keep rows locked, seconds; then the server ends it."""
AGE_S, AGE_SPREAD = 300.0, 0.2
"""How long a connection is used, seconds, and the share by which that differs from one to the next."""
SERVER_SHARE = 0.8
"""The share of our timeout after which the server ends a statement by itself."""
LOCK_WAIT_S = 1.0
GONE_CLIENT_MS = 500

_SETTINGS = f"""
    SELECT set_config('synchronous_commit', 'on', {{local}})
    WHERE current_setting('synchronous_commit') IN ('off', 'local', 'remote_write');
    SELECT set_config('jit', 'off', {{local}}), set_config('enable_seqscan', 'off', {{local}}),
        set_config('plan_cache_mode', 'force_generic_plan', {{local}}),
        set_config('idle_in_transaction_session_timeout', '{PAUSED_S_MAX}s', {{local}})
"""
"""Every statement finds its rows by an index whatever its values are: a plan for each call costs a third of a step."""

_PATIENCE = """;
    SELECT set_config('statement_timeout', '{statement_ms}', {local}), set_config('lock_timeout', '{lock_ms}', {local})
"""
_NOTICE_GONE = f"SELECT set_config('client_connection_check_interval', '{GONE_CLIENT_MS}', {{local}})"
"""A statement whose client has gone is cancelled by the server; PostgreSQL 13 and some systems cannot do that."""

_WRITABLE = "SELECT 1 WHERE NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off'"
_READ_UP_TO_DATE = "SELECT 1 WHERE NOT pg_is_in_recovery()"
_FOUND = "SELECT 1"
"""What the server answers when either of these finds its row."""

_BEGIN, _BEGIN_SNAPSHOT = "BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
_LOOK = """
    SELECT pg_backend_pid() AS pid, current_setting('server_version') AS version,
        current_setting('server_version_num')::int / 10000 AS major,
        current_setting('server_encoding') AS encoding, current_setting('fsync') AS fsync
"""
_log = logging.getLogger(__name__)

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


class Patience(msgspec.Struct, frozen=True):
    """How long the uses of a connection may take. The server ends a statement a little before its client gives up.

    Attributes:
        timeout_s: What the client waits, seconds.
        lock_s: What a statement waits for a lock, seconds.
    """

    timeout_s: float
    lock_s: float = LOCK_WAIT_S

    def settings(self, *, local: bool) -> str:
        """The server's side of it, as SQL."""
        statement_ms = max(1, round(self.timeout_s * 1_000 * SERVER_SHARE))
        lock_ms = max(1, min(round(self.lock_s * 1_000), statement_ms // 2))
        return _PATIENCE.format(statement_ms=statement_ms, lock_ms=lock_ms, local=_sql(local))


class _Made(msgspec.Struct, frozen=True):
    patience: Patience | None
    aged_at: float


class PostgresServer:
    """Makes connections. After one could not be made, the next tries wait a little: 50 ms, growing to half a second.

    Every connection leads to a server that takes writes; of several hosts the one that does is used. When an error
    shows that it no longer does, all connections are cut, so that each user connects anew.

    Args:
        address: Where it is.

    Attributes:
        place: For people.
        is_pooled: Whether to expect nothing of a session; known once `look` was called.
        on_doubt: Called when the connections are cut since the server is the wrong one.
    """

    def __init__(self, address: PostgresAddress) -> None:
        self.place = address.place
        self.is_pooled = False
        self.on_doubt: Callable[[], None] = _nothing
        self._address = address
        self._notices_gone = False
        self._made: weakref.WeakKeyDictionary[Connection, _Made] = weakref.WeakKeyDictionary()
        self._wait_s = 0.0
        self._try_again_at = 0.0
        self._refusal: BaseException = StorageError(f"The database {self.place} was not asked yet.")
        self._home = HomeProcess(f"The connection to {self.place}")

    def twin(self) -> "PostgresServer":
        """The same server for another event loop, in another thread: connections are of one loop."""
        return PostgresServer(self._address)

    def resemble(self, other: Self) -> None:
        """Know what `look` of another one found."""
        self.is_pooled, self._notices_gone = other.is_pooled, other._notices_gone

    async def connect(self, patience: Patience | None = None) -> Connection:
        """A fresh connection, for a database in use. Within a wait it fails at once, with the error of the last try.

        Args:
            patience: How long its uses may take; None for no bound by the server.

        Raises:
            StorageError: The server cannot be reached, has no room, refuses, or takes no writes.
            ForkedProcess: This process was forked from the one that it belongs to.
        """
        self._home.require()
        try:
            return await self._waited_connect(patience)
        except (SettingsError, *Trouble) as error:
            raise in_use_error(error, self.place) from error

    async def look(self) -> tuple[Connection, Look]:
        """A connection, and what is at its other end.

        Raises:
            SettingsError: The URL, the user, its password or its rights are wrong; or the server is too old, read-only,
                or its encoding is not UTF-8.
            StorageError: The server cannot be reached, or has no room.
        """
        # Of a pooler nothing is known yet, and what is expected of one does no harm to a server.
        self.is_pooled = True
        try:
            connection = await self._waited_connect(None)
        except Trouble as error:
            raise opening_error(error, self.place) from error
        try:
            (found,) = await self.fetch(connection, _LOOK, timeout_s=self._address.connect_timeout_s)
            self._refuse_unusable(found)
            async with standstill.timeout(self._address.connect_timeout_s):
                await self._ask_for_notice(connection)
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
        async with standstill.timeout(timeout_s):
            if not self.is_pooled:
                with self.suspecting():
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
        begin = _BEGIN_SNAPSHOT if snapshot else _BEGIN
        async with standstill.timeout(timeout_s), self._together(connection, begin, snapshot=snapshot):
            yield

    @contextlib.contextmanager
    def suspecting(self) -> Iterator[None]:
        """Cut all connections when what is done meanwhile shows that this is the wrong server."""
        try:
            yield
        except asyncpg.PostgresError as error:
            if is_wrong_server(error):
                _log.warning("all connections to %s are made anew, it is not the server it was: %s", self.place, error)
                self.cut_all()
                self.on_doubt()
            raise

    def cut_all(self) -> None:
        """Cut every connection that was made here: each user of one connects anew."""
        for connection in list(self._made):
            # Not `terminate`: whoever uses it right now is to hear of it from the driver.
            _transport(connection).abort()
        self._made.clear()

    def is_cut(self, connection: Connection) -> bool:
        """True for a connection that is closed, or is about to be since it was cut."""
        return connection.is_closed() or connection not in self._made

    def is_aged(self, connection: Connection) -> bool:
        """True when a connection has been used for minutes, and is to be replaced when it is free."""
        made = self._made.get(connection)
        return made is None or asyncio.get_running_loop().time() >= made.aged_at

    def keep_on(self, connection: Connection, more_s: float) -> None:
        """Use an aged connection for some seconds more, since no other one can be had."""
        made = self._made.get(connection)
        if made is not None:
            self._made[connection] = _Made(made.patience, asyncio.get_running_loop().time() + more_s)

    def _refuse_unusable(self, found: asyncpg.Record) -> None:
        if found["major"] < VERSION_MIN:
            raise too_old_error(found["version"], self.place)
        if found["encoding"] != "UTF8":
            told = f"has the encoding {found['encoding']}, and not UTF8: make another with `createdb --encoding=UTF8`"
            raise SettingsError(f"The database {self.place} {told}.")

    async def _ask_for_notice(self, connection: Connection) -> None:
        try:
            await connection.execute(f"BEGIN; {_NOTICE_GONE.format(local='true')}; ROLLBACK")
            self._notices_gone = True
        except asyncpg.PostgresError:
            self._notices_gone = False
            await connection.execute("ROLLBACK")

    async def _waited_connect(self, patience: Patience | None) -> Connection:
        if asyncio.get_running_loop().time() < self._try_again_at:
            raise self._refusal.with_traceback(None)
        require_files(self._address)
        try:
            connection = await self._connect(patience)
        except Trouble as error:
            self._failed(error)
            raise
        except ValueError as error:
            # What the driver cannot read in a URL or a `PG*` variable; it may repeat a password.
            told = f"The database {self.place} cannot be used: its URL, or a PG* variable, has a value that is none."
            raise SettingsError(told) from error
        self._wait_s = 0.0
        aged_at = asyncio.get_running_loop().time() + AGE_S * random.uniform(1 - AGE_SPREAD, 1 + AGE_SPREAD)
        self._made[connection] = _Made(patience, aged_at)
        return connection

    def _failed(self, error: BaseException) -> None:
        self._wait_s = min(self._wait_s * 2, RETRY_MAX_S) or RETRY_FIRST_S
        self._try_again_at = asyncio.get_running_loop().time() + self._wait_s
        self._refusal = error

    async def _connect(self, patience: Patience | None) -> Connection:
        """Of several hosts, all at once, the first that takes writes: a silent one holds up nothing."""
        urls = urls_of(self._address)
        if len(urls) == 1:
            return await self._connect_to(urls[0], patience)
        tries = [asyncio.ensure_future(self._connect_to(url, patience)) for url in urls]
        taken = None
        try:
            taken = await _first_good(tries)
            return taken.result()
        finally:
            for each in tries:
                if each is not taken:
                    each.cancel()
                    each.add_done_callback(_cut)

    async def _connect_to(self, url: str, patience: Patience | None) -> Connection:
        timeout_s = self._address.connect_timeout_s
        async with standstill.timeout(timeout_s):
            connection: Connection = await asyncpg.connect(
                url, timeout=2 * timeout_s, statement_cache_size=0 if self.is_pooled else CACHED_STATEMENTS,
                max_cached_statement_lifetime=0, target_session_attrs=SessionAttribute.read_write,
            )  # fmt: skip
            closed_in_child(connection, _descriptors)
            try:
                await connection.set_type_codec(
                    "text", schema="pg_catalog", encoder=str.encode, decoder=read_text, format="binary"
                )
                settings = "" if self.is_pooled else f"{self._settings(patience, local=False)};"
                _require_found(await connection.execute(settings + _WRITABLE))
            except BaseException:
                connection.terminate()
                raise
        return connection

    def _settings(self, patience: Patience | None, *, local: bool) -> str:
        settings = _SETTINGS.format(local=_sql(local))
        if patience is not None:
            settings += patience.settings(local=local)
        return f"{settings}; {_NOTICE_GONE.format(local=_sql(local))}" if self._notices_gone else settings

    @contextlib.asynccontextmanager
    async def _together(self, connection: Connection, begin: str, *, snapshot: bool = False) -> AsyncIterator[None]:
        """A transaction with its settings. One that is given up is not ended: its connection is to be dropped."""
        with self.suspecting():
            try:
                await self._begin(connection, begin, snapshot=snapshot)
                yield
            except asyncpg.PostgresError:
                with contextlib.suppress(*Trouble):
                    await connection.execute("ROLLBACK")
                raise
            await connection.execute("COMMIT")

    async def _begin(self, connection: Connection, begin: str, *, snapshot: bool) -> None:
        if not self.is_pooled:
            await connection.execute(begin)
            return
        # Behind a pooler each transaction may have another session, and another server.
        made = self._made.get(connection)
        settings = self._settings(None if made is None else made.patience, local=True)
        look = _READ_UP_TO_DATE if snapshot else _WRITABLE
        _require_found(await connection.execute(f"{begin}; {settings}; {look}"))


def _require_found(told: str) -> None:
    if told != _FOUND:
        raise asyncpg.ReadOnlySQLTransactionError("it is a standby, or default_transaction_read_only is on")


def _sql(value: bool) -> str:  # noqa: FBT001 - a literal
    return "true" if value else "false"


def _nothing() -> None:
    """Do nothing."""


async def _first_good(tries: "Sequence[asyncio.Future[Connection]]") -> "asyncio.Future[Connection]":
    """The first connection that could be made; when none could, the error that says most is raised."""
    pending = set(tries)
    while pending:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for each in tries:
            if each in done and not each.cancelled() and each.exception() is None:
                return each
    errors = [error for each in tries if (error := each.exception()) is not None]
    raise next((error for error in errors if not is_read_only(error)), errors[0])


def _cut(made: "asyncio.Future[Connection]") -> None:
    if not made.cancelled() and made.exception() is None:
        made.result().terminate()


def _descriptors(connection: Connection) -> tuple[int, ...]:
    """The socket: while a child has it open, the server keeps the session and its locks."""
    # The driver gives no other way to its socket.
    return (_transport(connection).get_extra_info("socket").fileno(),)


def _transport(connection: Connection) -> asyncio.WriteTransport:
    transport: asyncio.WriteTransport = getattr(connection, "_transport")  # noqa: B009 - its stubs leave it out
    return transport


async def close_connection(connection: Connection, timeout_s: float) -> None:
    """Say goodbye, or cut the connection when that takes too long or fails."""
    try:
        async with standstill.timeout(timeout_s):
            await connection.close()
    except Trouble:
        connection.terminate()
    except BaseException:
        connection.terminate()
        raise
