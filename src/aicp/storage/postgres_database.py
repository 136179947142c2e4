"""A PostgreSQL database in use by this process: its schema, its connections, and this process among its peers."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

from aicp.errors import AicpError, StorageError
from aicp.model.level import LEVEL
from aicp.storage.damage import DamageReports, OnDamage
from aicp.storage.postgres_address import PostgresAddress, parse_postgres_url
from aicp.storage.postgres_faults import is_read_only
from aicp.storage.postgres_lease import LEASE_S, RENEW_EVERY_S
from aicp.storage.postgres_replicas import PostgresReplicas
from aicp.storage.postgres_schema import UpgradedSchema, upgrade_schema
from aicp.storage.postgres_server import Connection, Look, PostgresServer, close_connection
from aicp.storage.postgres_sessions import TIMEOUT_S, Sessions, closed_error
from aicp.storage.postgres_writer import TIMEOUT_S as WRITE_TIMEOUT_S
from aicp.storage.postgres_writer import GroupWriter

OPEN_WAIT_S = 10.0
TRY_AGAIN_S = 0.2
GOODBYE_WAIT_S = 1.0

_log = logging.getLogger(__name__)


class PostgresDatabase:
    """One database, shared with other processes that do the same.

    Journal, registrations and replicas share it. It may be opened again after it was closed. It holds at most seven
    connections: one that writes, one with this replica's lease and lock, one that watches a peer, and up to four for
    the rest. Each is replaced every 5 minutes, and all are when the server turns out to be the wrong one.

    Args:
        url: `postgresql://…` as libpq takes it, or what was read from that.
        name: Of this replica, for people; host and process when left out.
        open_wait_s: How long to wait for a server that does not answer yet, seconds.
        lease_s: How long this replica counts as alive after each sign of life, seconds.
        renew_every_s: How often it gives one, seconds.
        write_timeout_s: How long a transaction of the journal may take, seconds.
        timeout_s: How long anything else may take, seconds.
        on_commit: Told of each transaction of the journal: its seconds, and how many writes shared it.
        on_damage: Called with each row that was found damaged, once.
        level: Of this replica; chains that need a higher one are neither claimed nor read.

    Attributes:
        level: As above.
        damage: Reports damaged rows.
        place: For people: no user, no password.
        sessions: For everything but the writes of the journal.
        replicas: This process among its peers.
        writer: For submits and appends.

    Raises:
        SettingsError: The URL is none.
    """

    def __init__(
        self,
        url: str | PostgresAddress,
        *,
        name: str = "",
        open_wait_s: float = OPEN_WAIT_S,
        lease_s: float = LEASE_S,
        renew_every_s: float = RENEW_EVERY_S,
        write_timeout_s: float = WRITE_TIMEOUT_S,
        timeout_s: float = TIMEOUT_S,
        on_commit: Callable[[float, int], None] | None = None,
        on_damage: OnDamage | None = None,
        level: int = LEVEL,
    ) -> None:
        self.level = level
        self.damage = DamageReports(on_damage)
        address = parse_postgres_url(url) if isinstance(url, str) else url
        self.place = address.place
        self._open_wait_s = open_wait_s
        self._server = PostgresServer(address)
        self.sessions = Sessions(self._server, timeout_s=timeout_s)
        self.replicas = PostgresReplicas(
            self._server,
            self.sessions,
            self.damage,
            name=name,
            level=level,
            lease_s=lease_s,
            renew_every_s=renew_every_s,
        )
        self.writer = GroupWriter(self._server, self.replicas, timeout_s=write_timeout_s, on_commit=on_commit)
        self.replicas.watch_writer(lambda: self.writer.is_well)
        self._is_open = False

    async def open(self) -> None:
        """Bring it to the newest schema, and join its replicas. Opening what is open does nothing.

        Raises:
            SettingsError: It cannot be used: wrong URL, user, password, rights or version.
            StorageError: The server cannot be reached within 10 s.
        """
        if self._is_open:
            return
        await self.upgrade()
        async with contextlib.AsyncExitStack() as opening:
            self.sessions.open()
            opening.push_async_callback(self.sessions.close)
            opening.push_async_callback(self.replicas.leave)
            await self.replicas.join()
            self.writer.open()
            opening.pop_all()
        self._is_open = True

    async def upgrade(self) -> UpgradedSchema:
        """Bring it to the newest schema that the replicas alive allow, and nothing more.

        Raises:
            SettingsError: It cannot be used: wrong URL, user, password, rights or version.
            StorageError: The server cannot be reached within 10 s.
        """
        connection, look = await self._first_connection()
        try:
            if not look.syncs:
                _log.warning("the server of %s runs with fsync=off: what it acknowledges may be lost", self.place)
            return await upgrade_schema(self._server, connection)
        finally:
            await close_connection(connection, GOODBYE_WAIT_S)

    async def close(self) -> None:
        """Write what was handed over, hand its chains over to other replicas, and let go. Twice does no harm."""
        if not self._is_open:
            return
        self._is_open = False
        try:
            await self.writer.close()
        finally:
            try:
                await self.replicas.leave()
            finally:
                await self.sessions.close()

    def require_open(self) -> None:
        """Refuse a use before `open` or after `close`.

        Raises:
            StorageError: It is closed.
        """
        if not self._is_open:
            raise closed_error(self.place)

    async def _first_connection(self) -> tuple[Connection, Look]:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._open_wait_s
        while True:
            try:
                return await self._server.look()
            except AicpError as error:
                # A standby may be about to become the primary server.
                may_pass = isinstance(error, StorageError) or is_read_only(error.__cause__)
                if not may_pass or loop.time() >= give_up_at:
                    raise
            await asyncio.sleep(TRY_AGAIN_S)
