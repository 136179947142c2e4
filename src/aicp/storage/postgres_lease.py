"""This process among those that share a database: its number, its lease, and the lock that tells of its death.

A replica is a row. It lives until somebody writes `died_at` into that row, and then it is dead for good: whatever it
still sends is refused, and a process that goes on takes a new number. A peer may write it once the lease has run out
by the database's clock, or once the session that held the replica's advisory lock has ended while the server lived on.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import msgspec

from aicp.errors import AicpError, StorageError
from aicp.model.level import LEVEL
from aicp.ports import NEVER, Replica
from aicp.storage.postgres_faults import Trouble, is_lost, storage_error
from aicp.storage.postgres_link import Link
from aicp.storage.postgres_server import Connection, Patience, PostgresServer
from aicp.storage.sqlite_schema import REVISIONS

LEASE_S = 3.0
CLOCK_STEP = timedelta(seconds=0.5)
"""A renewal that finds the database's clock further from where it should be declares no peer dead."""
RENEW_EVERY_S = 1.0
RENEW_TIMEOUT_S = 1.5
TRY_AGAIN_S = 0.1
LEAVE_WAIT_S = 2.0

LOCK_CLASS = "hashtext('aicp.replica.' || current_schema())"
"""The first half of the key of a replica's advisory lock; its number is the second."""

CHANNEL = "'aicp.' || current_schema()"
CLAIM, CANCEL, MEMBERS, NOTICE = "claim", "cancel", "members", "notice"
"""What a notification may be about: chains to claim, a request to cancel, a replica that came or went, a notice."""

SERVER_LIFE = "(SELECT born || ' ' || extract(epoch FROM pg_postmaster_start_time()) FROM server_life)"
"""Changes when the server lost its locks: at a restart, and, the table being unlogged, at a crash or a failover."""

JUDGE_LIVES = """EXISTS (
    SELECT 1 FROM replicas AS judge WHERE judge.number = $1 AND died_at IS NULL AND alive_until > clock_timestamp()
)"""
"""True while replica $1 is alive by the database's clock: a verdict that a network delivers late is none."""

LEASE_END_MAX = "interval '1 minute'"
"""No lease ends later than this from now, whatever version of AICP took it, unless the clock was set back since."""

_JOIN = """
    INSERT INTO replicas (name, revision, joined_at, alive_until, session, level)
    VALUES ($1, $2, clock_timestamp(), clock_timestamp() + $3, 0, $4) RETURNING number
"""
BORN = "INSERT INTO server_life VALUES (true, md5(random()::text || clock_timestamp()::text)) ON CONFLICT DO NOTHING"
"""To be said to a server before its life is asked for."""

_LOCK = f"SELECT pg_advisory_lock({LOCK_CLASS}, ({{}}::bigint % 2147483647)::int)"
_LOCKED = f"UPDATE replicas SET server_life = {SERVER_LIFE} WHERE number = $1 AND died_at IS NULL"  # noqa: S608 - constants
_RENEW = f"""
    WITH renewed AS (
        UPDATE replicas SET alive_until = clock_timestamp() + $2 WHERE number = $1 AND died_at IS NULL
        RETURNING number
    ), expired AS (
        UPDATE replicas SET died_at = clock_timestamp() WHERE number IN (
            SELECT number FROM replicas
            WHERE $3 AND number <> $1 AND died_at IS NULL AND {JUDGE_LIVES} AND clock_timestamp() BETWEEN $4 AND $5
                AND (alive_until <= clock_timestamp() OR alive_until > clock_timestamp() + {LEASE_END_MAX})
            FOR UPDATE SKIP LOCKED
        )
        RETURNING number
    )
    SELECT EXISTS (SELECT 1 FROM renewed) AS is_alive, clock_timestamp() AS now, pg_backend_pid() AS pid,
        {SERVER_LIFE} AS life,
        (SELECT count(pg_notify({CHANNEL}, '{CLAIM}')) FROM expired) AS expired,
        ARRAY(
            SELECT row(number, name, level) FROM replicas
            WHERE died_at IS NULL AND (number = $1 OR alive_until > clock_timestamp()) ORDER BY number
        ) AS alive
"""  # noqa: S608 - constants
_LEAVE = f"""
    WITH gone AS (
        UPDATE replicas SET died_at = clock_timestamp() WHERE number = $1 AND died_at IS NULL RETURNING number
    )
    SELECT pg_notify({CHANNEL}, '{CLAIM}') FROM gone
"""  # noqa: S608 - constants
_TELL_MEMBERS = f"SELECT pg_notify({CHANNEL}, '{MEMBERS}')"

_POOLED = (
    "the database %s is behind a pooler, where no session is one's own: a replica that died is noticed when its lease "
    "of %g s ends, and news is asked for every second"
)
_log = logging.getLogger(__name__)


class Standing(msgspec.Struct, frozen=True):
    """This process among its peers.

    Attributes:
        number: Of this replica; 0 while it has none.
        alive: All that are alive, oldest first, this one included.
    """

    number: int = 0
    alive: tuple[Replica, ...] = ()


class Lease:
    """Keeps this process alive in the eyes of its peers, from `join` to `leave`. For one event loop.

    `is_sure`, `may_judge`, `keeps_sessions` and `standing` may be read by any thread.

    While it cannot reach the database it is not sure to be alive; when it comes back before anybody declared it dead,
    it goes on as if nothing had been. Declared dead, it says so once and joins again under a new number.

    Args:
        server: Has the database.
        name: For people.
        level: Of this replica.
        on_change: Called when this replica has another number, peers came or went, or something is left to claim.
        on_lost: Called when this replica was declared dead.
        on_news: Called when there may be something to claim or to cancel.
        on_notice: Called when a replica told the others something.
        may_renew: False while the lease is to run out, since the process does not work.
        lease_s: How long it counts as alive after each sign of life, seconds.
        renew_every_s: How often it gives one, seconds.
    """

    def __init__(
        self,
        server: PostgresServer,
        name: str,
        *,
        level: int = LEVEL,
        on_change: Callable[[Standing], None],
        on_lost: Callable[[], None],
        on_news: Callable[[], None],
        on_notice: Callable[[], None],
        may_renew: Callable[[], bool] = lambda: True,
        lease_s: float = LEASE_S,
        renew_every_s: float = RENEW_EVERY_S,
    ) -> None:
        self._server = server
        self._name = name
        self._level = level
        self._on_change = on_change
        self._on_lost = on_lost
        self._on_news = on_news
        self._on_notice = on_notice
        self._may_renew = may_renew
        self._lease_s = lease_s
        self._renew_every_s = renew_every_s
        self._link = Link(server, self._prepare, Patience(RENEW_TIMEOUT_S))
        self._number = 0
        self._standing = Standing()
        self._life: str | None = None
        self._sure_until = 0.0
        self._in_touch_since: float | None = None
        self._clock_read: tuple[datetime, float] | None = None
        self._was_away = False
        self._pid = 0
        self._keeps_sessions = not server.is_pooled
        self._wake = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    @property
    def standing(self) -> Standing:
        """As of the last renewal; without a number and peers while this replica is not alive."""
        return self._standing

    @property
    def keeps_sessions(self) -> bool:
        """False behind a transaction pooler: there are no locks and no notifications then."""
        return self._keeps_sessions

    @property
    def is_sure(self) -> bool:
        """True while nobody can have declared this replica dead because its lease ran out."""
        sure_until = self._sure_until
        return bool(self._number) and time.monotonic() < sure_until

    @property
    def may_judge(self) -> bool:
        """True unless this replica was out of touch itself, now or less than a lease ago: others may just come back."""
        since = self._in_touch_since
        if since is None:
            return False
        return not self._was_away or time.monotonic() - since >= self._lease_s

    async def join(self) -> None:
        """Become alive.

        Raises:
            AicpError: The database cannot be reached or used.
        """
        self._keeps_sessions = not self._server.is_pooled
        if not self._keeps_sessions:
            _log.warning(_POOLED, self._server.place, self._lease_s)
        try:
            await self._renew()
        except Trouble as error:
            raise storage_error(error, self._server.place) from error
        self._keeping = asyncio.create_task(self._keep(), name="lease of this replica")

    async def leave(self) -> None:
        """Be alive no more, and tell: peers may claim what this one owned. Bounded; a lost connection tells it too."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
            self._keeping = None
        number, self._number, self._sure_until, self._standing = self._number, 0, 0.0, Standing()
        try:
            if number:
                await self._server.fetch(await self._link.connection(), _LEAVE, number, timeout_s=LEAVE_WAIT_S)
        except (AicpError, *Trouble) as error:
            _log.warning("peers learn of the end of replica %d by its lease: %s", number, error)
        finally:
            await self._link.close(LEAVE_WAIT_S)

    def look_soon(self) -> None:
        """Renew, and look who is alive, now."""
        self._wake.set()

    def doubt_server(self) -> None:
        """Renew now, on another connection: the one there is may lead to a server that is the wrong one by now."""
        self._link.doubt()
        self._wake.set()

    async def _keep(self) -> None:
        is_well = True
        while True:
            await self._pause(self._renew_every_s if is_well else TRY_AGAIN_S)
            if not self._may_renew():
                if is_well:
                    _log.warning(
                        "the lease of replica %d is not renewed: the event loop has not turned for long", self._number
                    )
                is_well = False
                continue
            was_well, is_well = is_well, await self._tried_to_renew(is_well)
            if is_well and not was_well:
                _log.info("the database %s answers again", self._server.place)

    async def _pause(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()

    async def _tried_to_renew(self, was_well: bool) -> bool:  # noqa: FBT001 - how it went before
        try:
            await self._renew()
        except (AicpError, *Trouble) as error:
            if is_lost(error) or isinstance(error, AicpError):
                self._link.drop()
            self._lose_touch()
            if was_well:
                _log.warning("the lease cannot be renewed, trying on: %s", storage_error(error, self._server.place))
            return False
        except Exception:  # noqa: BLE001 - supervised: whatever it is, it is logged and the loop goes on
            self._link.drop()
            _log.exception("the lease cannot be renewed")
            return False
        return True

    async def _renew(self) -> None:
        now = time.monotonic
        if self._in_touch_since is not None and now() > self._sure_until:
            # This process was paused. Others may have been held up as well: nobody is declared dead for a while.
            self._lose_touch()
        connection = await self._link.connection()
        if not self._number:
            await self._take_number(connection)
        sent_at = now()
        may_declare = self._in_touch_since is not None and sent_at - self._in_touch_since >= self._lease_s
        lease = timedelta(seconds=self._lease_s)
        earliest, latest = self._expected_clock(sent_at)
        (found,) = await self._server.fetch(
            connection, _RENEW, self._number, lease, may_declare, earliest, latest, timeout_s=RENEW_TIMEOUT_S
        )
        self._clock_read = found["now"], sent_at
        if not found["is_alive"]:
            self._lost()
            return
        self._sure_until = sent_at + self._lease_s
        if self._in_touch_since is None or not earliest <= found["now"] <= latest:
            # The database's clock was set, or this took long: each peer gets a lease to give a sign of life by it.
            self._in_touch_since = sent_at
        self._look_at(found)

    def _expected_clock(self, now: float) -> tuple[datetime, datetime]:
        """Between which moments the database's clock is now, unless it was set since it was read last."""
        if self._clock_read is None:
            return NEVER, NEVER
        read, read_at = self._clock_read
        return read - CLOCK_STEP, read + timedelta(seconds=now - read_at) + CLOCK_STEP

    def _lose_touch(self) -> None:
        self._in_touch_since, self._was_away = None, True

    async def _take_number(self, connection: Connection) -> None:
        lease = timedelta(seconds=self._lease_s)
        (row,) = await self._server.fetch(
            connection, _JOIN, self._name, REVISIONS[-1], lease, self._level, timeout_s=RENEW_TIMEOUT_S
        )
        await self._lock(connection, row["number"])
        self._number = row["number"]
        if self._keeps_sessions:
            await self._server.fetch(connection, _TELL_MEMBERS, timeout_s=RENEW_TIMEOUT_S)

    async def _prepare(self, connection: Connection) -> None:
        """A fresh connection takes the lock that the one before it held."""
        self._pid = 0
        if not self._keeps_sessions:
            return
        connection.add_termination_listener(self._on_cut)
        async with asyncio.timeout(RENEW_TIMEOUT_S):
            if self._number:
                await self._lock(connection, self._number)
            channel = await connection.fetchval(f"SELECT {CHANNEL}")
            await connection.add_listener(channel, self._on_notify)

    async def _lock(self, connection: Connection, number: int) -> None:
        if not self._keeps_sessions:
            return
        async with asyncio.timeout(RENEW_TIMEOUT_S):
            # Above all the lock, in one round trip: a peer may be about to take this replica for dead.
            await connection.execute(_LOCK.format(number))
            await connection.execute(BORN)
            await connection.execute(_LOCKED, number)

    def _look_at(self, found: asyncpg.Record) -> None:
        if self._life is not None and found["life"] != self._life:
            # Restarted, or another one that took its place: connections to what it was are good for nothing.
            self._server.on_doubt()
        self._life = found["life"] or self._life
        standing = Standing(self._number, tuple(Replica(*each) for each in found["alive"]))
        if self._pid and found["pid"] != self._pid and self._keeps_sessions:
            _log.warning("the database %s does not keep sessions: from now on, leases alone count", self._server.place)
            self._keeps_sessions = False
        self._pid = found["pid"]
        if standing != self._standing or found["expired"]:
            self._standing = standing
            self._on_change(standing)

    def _lost(self) -> None:
        number, self._number, self._sure_until = self._number, 0, 0.0
        self._standing = Standing()
        self._link.drop()
        _log.warning("replica %d was declared dead by a peer: its chains have other owners, it joins again", number)
        self._on_lost()
        self._wake.set()

    def _on_cut(self, _: Any) -> None:
        self._wake.set()

    def _on_notify(self, *told: Any) -> None:
        if told[-1] == NOTICE:
            self._on_notice()
            return
        if told[-1] == MEMBERS:
            self._wake.set()
        self._on_news()


def no_number_error(place: str) -> StorageError:
    """What to raise for a use that needs a living replica."""
    return StorageError(f"This replica is not alive in {place} right now, and joins again: try again.")
