"""The processes that share a PostgreSQL database: who is alive, and what one asks of another."""

import asyncio
import os
import platform
from collections.abc import Callable, Sequence

from aicp.model.level import LEVEL
from aicp.ports import Replica
from aicp.storage.damage import DamageReports
from aicp.storage.postgres_death_watch import DeathWatch
from aicp.storage.postgres_lease import LEASE_S, RENEW_EVERY_S, Lease, Standing, no_number_error
from aicp.storage.postgres_lease_thread import Coalesced, LeaseThread
from aicp.storage.postgres_server import PostgresServer
from aicp.storage.postgres_sessions import Sessions


class PostgresReplicas:
    """This process, and its peers on one database.

    The lease is renewed by a thread of its own on a connection of its own: neither a held event loop nor a write that
    waits holds it up. What it finds arrives in the event loop in its order.

    Args:
        server: Has the database.
        sessions: For questions.
        damage: Takes damaged rows.
        name: For people; host and process when left out.
        level: Of this replica, for those that must wait until all have one.
        lease_s: How long a replica counts as alive after each sign of life, seconds.
        renew_every_s: How often it gives one, seconds.
    """

    def __init__(
        self,
        server: PostgresServer,
        sessions: Sessions,
        damage: DamageReports,
        *,
        name: str = "",
        level: int = LEVEL,
        lease_s: float = LEASE_S,
        renew_every_s: float = RENEW_EVERY_S,
    ) -> None:
        self._server = server
        self._sessions = sessions
        self._damage = damage
        self._news = asyncio.Event()
        self._posted = asyncio.Event()
        self._callbacks: list[Callable[[], None]] = []
        self._writer_is_well: Callable[[], bool] = lambda: True
        self._standing = Standing()
        self._thread = LeaseThread()
        self._lease_server = server.twin()
        self._lease = Lease(
            self._lease_server, name or f"{platform.node()}:{os.getpid()}", level=level,
            on_change=self._in_loop(self._changed), on_lost=self._in_loop(self._lost),
            on_news=Coalesced(self._thread.tell, self._news.set),
            on_notice=Coalesced(self._thread.tell, self._posted.set), may_renew=self._thread.owner_works,
            lease_s=lease_s, renew_every_s=renew_every_s,
        )  # fmt: skip
        server.on_doubt = lambda: self._thread.do(self._lease.doubt_server)
        self._lease_server.on_doubt = self._in_loop(server.cut_all)
        self._watch = DeathWatch(server, self._peer_died, lambda: self._lease.may_judge)

    @property
    def number(self) -> int:
        """Of this replica.

        Raises:
            StorageError: It has none: it was declared dead and joins again, or the journal is not open.
        """
        if not self._standing.number:
            raise no_number_error(self._server.place)
        return self._standing.number

    @property
    def living_number(self) -> int:
        """As `number`, but 0 when it has none."""
        return self._standing.number

    @property
    def alive(self) -> Sequence[Replica]:
        """Who lives, oldest first, this one included, as known a second ago."""
        return self._standing.alive

    @property
    def is_sure(self) -> bool:
        """True while nobody can have taken this one's chains for want of a sign of life."""
        return bool(self._standing.number) and self._lease.is_sure

    @property
    def can_record(self) -> bool:
        """True while the writer, the sessions and the lease could all write at their last use, seconds ago at most."""
        return self.is_sure and self._sessions.is_well and self._writer_is_well()

    def watch_writer(self, is_well: Callable[[], bool]) -> None:
        """Ask a writer, too, whether it could write."""
        self._writer_is_well = is_well

    def when_lost(self, callback: Callable[[], None]) -> None:
        """Have `callback` called whenever this one was declared dead; it joins again by itself."""
        self._callbacks.append(callback)

    async def join(self) -> None:
        """Become one of them.

        Raises:
            AicpError: The database cannot be reached or used.
        """
        self._lease_server.resemble(self._server)
        await self._thread.start()
        await self._thread.run(self._lease.join())
        self._changed(self._lease.standing)
        if self._lease.keeps_sessions:
            self._watch.start()

    async def leave(self) -> None:
        """Hand over: be alive no more, and tell the others. Bounded in time."""
        await self._watch.stop()
        if self._thread.is_up:
            try:
                await self._thread.run(self._lease.leave())
            finally:
                await self._thread.stop()
        self._standing = Standing()

    def doubt_own_life(self) -> None:
        """Something was refused as from a dead replica: find out now."""
        self._thread.do(self._lease.look_soon)

    async def until_news(self, timeout_s: float) -> None:
        """Return when there may be chains to claim or requests to cancel, after `timeout_s` at the latest."""
        await _happened(self._news, timeout_s)

    async def until_posted(self, timeout_s: float) -> None:
        """Return when a replica told the others something, came or went, after `timeout_s` at the latest."""
        await _happened(self._posted, timeout_s)

    def _in_loop(self, function: Callable[..., None]) -> Callable[..., None]:
        """The same, for the lease's thread: done in the event loop, in the order of the calls."""
        return lambda *args: self._thread.tell(function, *args)

    def _changed(self, standing: Standing) -> None:
        self._standing = standing
        self._watch.aim(standing.number, standing.alive)
        self._news.set()
        self._posted.set()

    def _peer_died(self) -> None:
        self._thread.do(self._lease.look_soon)
        self._news.set()

    def _lost(self) -> None:
        self._standing = Standing()
        self._watch.aim(0, ())
        for callback in self._callbacks:
            callback()


async def _happened(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
    event.clear()
