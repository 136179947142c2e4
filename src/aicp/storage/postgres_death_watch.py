"""Tells within milliseconds that a replica's process died: its session ends, and so does that session's lock.

The replicas stand in a ring by their numbers, and each waits for the lock of the next one. So one held session watches
however many there are, waiting costs nothing, and when two neighbours die, the one before them finds them in turn.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from aicp.errors import AicpError
from aicp.ports import Replica
from aicp.storage.postgres_faults import Trouble
from aicp.storage.postgres_lease import CHANNEL, CLAIM, JUDGE_LIVES, LOCK_CLASS, SERVER_LIFE
from aicp.storage.postgres_link import Link
from aicp.storage.postgres_server import Connection, PostgresServer

GRACE_S = 0.05
"""A process whose connection was cut, rather than itself, is back within this time."""

LOOK_AGAIN_S = 0.1
WAIT_S_MAX = 60.0
"""How long it waits for a lock at a time, seconds; in between its connection may be replaced."""
TIMEOUT_S = 2.0
CLOSE_WAIT_S = 1.0

_KEY = LOCK_CLASS + ", ({}::bigint % 2147483647)::int"
_WAIT = f"SELECT pg_advisory_xact_lock_shared({_KEY.format('$1')})"
# The shared lock is kept until the verdict is recorded: a replica that comes back waits for it, and then reads it.
_EXAMINE = f"""
    WITH lock AS MATERIALIZED (SELECT pg_try_advisory_xact_lock_shared({_KEY.format("$2")}) AS is_free),
    declared AS (
        UPDATE replicas SET died_at = clock_timestamp()
        WHERE number = $2 AND died_at IS NULL AND server_life = {SERVER_LIFE} AND (SELECT is_free FROM lock)
            AND {JUDGE_LIVES}
        RETURNING number
    )
    SELECT (SELECT is_free FROM lock) AS is_free, (SELECT count(pg_notify({CHANNEL}, '{CLAIM}')) FROM declared) AS dead
"""  # noqa: S608 - constants

_log = logging.getLogger(__name__)


class DeathWatch:
    """Watches the next replica in the ring, for as long as it runs.

    Args:
        server: Has the database.
        on_death: Called when a replica was found dead, and is recorded as such.
        may_judge: False while a free lock proves nothing, since its holder may have been out of touch as this one was.
    """

    def __init__(
        self, server: PostgresServer, on_death: Callable[[], None], may_judge: Callable[[], bool] = lambda: True
    ) -> None:
        self._server = server
        self._on_death = on_death
        self._may_judge = may_judge
        self._link = Link(server)
        self._number = 0
        self._target: Replica | None = None
        self._retargeted = asyncio.Event()
        self._looked = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch; whom, `aim` says."""
        self._watching = asyncio.create_task(self._watch(), name="watch over the next replica")

    async def stop(self) -> None:
        """Watch no more."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None
        await self._link.close(CLOSE_WAIT_S)

    def aim(self, own_number: int, alive: Sequence[Replica]) -> None:
        """Choose whom to watch among those alive."""
        self._number = own_number
        target = next_in_ring(own_number, alive)
        if target != self._target:
            self._target = target
            self._retargeted.set()

    async def looked(self) -> None:
        """Return after the next verdict on a replica whose lock was free."""
        await self._looked.wait()

    async def _watch(self) -> None:
        while True:
            try:
                await self._watch_one()
            except (AicpError, *Trouble):
                # The lease tells of it, and renews the way to the server; until then, leases count.
                self._link.drop()
                await asyncio.sleep(LOOK_AGAIN_S)
            except Exception:  # noqa: BLE001 - supervised: whatever it is, it is logged and the loop goes on
                self._link.drop()
                _log.exception("the watch over the next replica failed, trying on")
                await asyncio.sleep(LOOK_AGAIN_S)

    async def _watch_one(self) -> None:
        self._retargeted.clear()
        target = self._target
        if target is None:
            await self._retargeted.wait()
            return
        connection = await self._link.connection()
        if await self._lock_is_free(connection, target.number):
            await asyncio.sleep(GRACE_S)
            if self._may_judge():
                await self._examine(connection, target)
            else:
                await self._pause()

    async def _lock_is_free(self, connection: Connection, number: int) -> bool:
        """Wait for the lock of a replica; False when another one is to be watched instead, and once a minute."""
        waiting = asyncio.ensure_future(connection.fetch(_WAIT, number))
        retargeting = asyncio.ensure_future(self._retargeted.wait())
        try:
            await asyncio.wait([waiting, retargeting], return_when=asyncio.FIRST_COMPLETED, timeout=WAIT_S_MAX)
            if not waiting.done():
                return False
            with self._server.suspecting():
                waiting.result()
            return True
        finally:
            for each in (waiting, retargeting):
                each.cancel()
            await asyncio.wait([waiting, retargeting])
            if not waiting.cancelled():
                with contextlib.suppress(*Trouble):
                    waiting.result()

    async def _examine(self, connection: Connection, target: Replica) -> None:
        (found,) = await self._server.fetch(connection, _EXAMINE, self._number, target.number, timeout_s=TIMEOUT_S)
        looked, self._looked = self._looked, asyncio.Event()
        looked.set()
        if found["dead"]:
            _log.warning("replica %d (%s) died", target.number, target.name)
            self._on_death()
        if found["is_free"]:
            # Dead, and soon out of the list; or its server restarted and it is not back yet: its lease decides.
            await self._pause()

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AGAIN_S):
                await self._retargeted.wait()


def next_in_ring(own_number: int, alive: Sequence[Replica]) -> Replica | None:
    """The replica with the next higher number, or the lowest; None when there is no other one."""
    others = sorted((each for each in alive if each.number != own_number), key=lambda each: each.number)
    return next((each for each in others if each.number > own_number), others[0] if others else None)
