"""Records batches of writes on the one connection that writes to a PostgreSQL database.

What meets a lock that another session holds takes nothing along. A batch waits for no chain's row: a locked chain is
left out of it. Other locks (of a key, of a large result, of a table) end a statement after 0.25 s; the batch is halved
until those that meet the lock are alone.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import islice

import asyncpg
import msgspec

from aicp.errors import AicpError, RecordDamaged, StorageError
from aicp.storage.damage import decoded
from aicp.storage.postgres_batch import (
    KEY_USES,
    Append,
    Batch,
    Item,
    Key,
    KeyUse,
    Submit,
    Verdicts,
    chain_of,
    key_use,
    storable,
    verdicts_of,
)
from aicp.storage.postgres_faults import Trouble, is_held_up, is_lost, is_read_only, storage_error
from aicp.storage.postgres_link import Link
from aicp.storage.postgres_replicas import PostgresReplicas
from aicp.storage.postgres_server import Connection, Patience, PostgresServer, Rows

LOCK_WAIT_S = 0.25
"""How long a batch waits for a lock, seconds. It waits for no lock on a chain's row."""
APART_S_MAX = 2.0
"""How long a batch that met a lock is taken apart, seconds; what is left then is tried again later."""
GOODBYE_WAIT_S = 1.0
DOUBTS_MAX = 100_000

_BEGIN_SESSION = """
    UPDATE replicas SET session = session + 1 WHERE number = $1 AND died_at IS NULL RETURNING session
"""
_LOOK = """
    WITH me AS MATERIALIZED (
        SELECT number FROM replicas WHERE number = $1 AND session = $2 AND died_at IS NULL FOR SHARE
    ), stood AS (UPDATE chains SET owner = owner WHERE FALSE),
    appended AS (INSERT INTO facts SELECT * FROM facts WHERE FALSE),
    stored AS (INSERT INTO results SELECT * FROM results WHERE FALSE),
    keyed AS (INSERT INTO submit_keys SELECT * FROM submit_keys WHERE FALSE)
    SELECT number FROM me
"""
"""Changes nothing, and fails where a batch would: on a read-only server, on a locked table."""
KeyUses = Mapping[Key, KeyUse | RecordDamaged]
"""By tenant and key: what it was used for, or how its row is damaged."""
_log = logging.getLogger(__name__)


class Verdict(msgspec.Struct, frozen=True):
    """What became of one write.

    Attributes:
        chain_id: Of its chain, when it is recorded.
        error: Why it is not recorded; None when it is.
        is_locked: True when a lock was in its way, and it is to be tried again.
        is_alone: True when it waited for that lock, and so is to share no batch.
    """

    chain_id: str = ""
    error: Exception | None = None
    is_locked: bool = False
    is_alone: bool = False


class BatchRecorder:
    """Records one batch at a time. For one event loop.

    Every connection it uses begins a session of this replica: what an earlier one of them had sent and what has not
    arrived by then is refused by the server for good. So after a lost answer, and a new session, the record is final.

    Args:
        server: Has the database.
        replicas: Knows the number of this replica.
        timeout_s: How long a transaction may take, seconds.
    """

    def __init__(self, server: PostgresServer, replicas: PostgresReplicas, timeout_s: float) -> None:
        self._server = server
        self._replicas = replicas
        self._timeout_s = timeout_s
        self._link = Link(server, self._begin_session, Patience(timeout_s, LOCK_WAIT_S))
        self._doubted: dict[str, None] = {}
        self._final: dict[str, None] = {}
        self._is_well = True
        self._is_in_doubt = self._met_lock = False
        self._apart_until = 0.0
        self._number = 0
        self._session = 0

    @property
    def is_well(self) -> bool:
        """False from a batch, or a look, that failed for want of the database, until one succeeds."""
        return self._is_well

    @property
    def is_in_doubt(self) -> bool:
        """True when the last batch met a lock, of one write or in the way of all: a look finds out."""
        return self._is_in_doubt

    @property
    def met_lock(self) -> bool:
        """True when a lock was in the way of some of the last batch."""
        return self._met_lock

    @property
    def needs_connection(self) -> bool:
        """True when submits are in doubt until there is a new connection."""
        return bool(self._doubted) and not self._link.is_up

    async def record(self, items: Sequence[Item], batch: Batch) -> list[Verdict]:
        """What became of each; whatever happens, each gets its verdict.

        Args:
            items: In their order.
            batch: Of just these.
        """
        self._met_lock = False
        self._apart_until = asyncio.get_running_loop().time() + APART_S_MAX
        return await self._verdicts_on(items, batch)

    async def look(self) -> None:
        """Find out whether a batch could be recorded now."""
        self._is_in_doubt = False
        try:
            self._is_well = await self._could_write()
        except (AicpError, *Trouble) as error:
            self._is_well = False
            if is_lost(error):
                self._link.drop()
            _log.debug("nothing can be written to %s: %s", self._server.place, error)
        except Exception:  # noqa: BLE001 - supervised: whatever it is, it is logged and the writer goes on
            self._is_well = False
            self._link.drop()
            _log.exception("the look whether %s can be written to failed", self._server.place)

    def take_doubts(self, limit: int) -> list[str]:
        """The ids of chains that may be this replica's without its knowing, since an answer got lost; at most so many.

        Those of which the server has not yet said its last word come later, once there is a new connection.
        """
        some = list(islice(self._final, max(1, limit)))
        for chain_id in some:
            del self._final[chain_id]
        return some

    def give_doubts_back(self, chain_ids: Sequence[str]) -> None:
        """What became of them could not be found out."""
        self._final.update(dict.fromkeys(chain_ids))

    async def close(self) -> None:
        """Say goodbye to the server."""
        await self._link.close(GOODBYE_WAIT_S)

    async def _verdicts_on(self, items: Sequence[Item], batch: Batch) -> list[Verdict]:
        """What became of each; whatever happens, each gets its answer."""
        try:
            verdicts = await self._record(items, batch)
        except asyncio.CancelledError:
            self._doubt(batch.chain_ids)
            raise
        except (AicpError, *Trouble) as error:
            return await self._verdicts_after(error, items)
        except Exception as error:  # noqa: BLE001 - each write gets its error; the writer lives on
            self._link.drop()
            self._doubt(batch.chain_ids)
            _log.exception("a write to %s failed by a defect", self._server.place)
            told = f"A write to {self._server.place} failed: {error!r}; whether it is on record is not known."
            return [Verdict(error=StorageError(told)) for _ in items]
        self._is_well, self._is_in_doubt = True, False
        return verdicts

    async def _verdicts_after(self, error: Exception, items: Sequence[Item]) -> list[Verdict]:
        """What becomes of each when nothing of it was recorded: is it the database's fault, or one of them's?"""
        if is_held_up(error):
            return await self._apart(items, error)
        if isinstance(error, AicpError) or is_lost(error) or is_read_only(error):
            self._is_well = False
        elif len(items) > 1:
            # One of them was given what the server refuses, and harms no other.
            return [verdict for item in items for verdict in await self._verdicts_together([item])]
        return [Verdict(error=storage_error(error, self._server.place)) for _ in items]

    async def _apart(self, items: Sequence[Item], error: Exception) -> list[Verdict]:
        """Halve what met a lock, so that all others are recorded."""
        self._is_in_doubt = self._met_lock = True
        is_alone = len(items) == 1
        if is_alone or asyncio.get_running_loop().time() >= self._apart_until:
            told = storage_error(error, self._server.place)
            return [Verdict(error=told, is_locked=True, is_alone=is_alone) for _ in items]
        half = len(items) // 2
        return [*await self._verdicts_together(items[:half]), *await self._verdicts_together(items[half:])]

    async def _verdicts_together(self, items: Sequence[Item]) -> list[Verdict]:
        batch = Batch()
        for item in items:
            batch.takes(item)
        return await self._verdicts_on(items, batch)

    async def _record(self, items: Sequence[Item], batch: Batch) -> list[Verdict]:
        try:
            return await self._recorded(items, batch)
        except asyncpg.ReadOnlySQLTransactionError:
            # Surely not recorded, and all connections were cut: a new one may lead to a server that takes items.
            return await self._recorded(items, batch)

    async def _recorded(self, items: Sequence[Item], batch: Batch) -> list[Verdict]:
        connection = await self._current_connection()
        sql, args = batch.statement(self._number, self._session)
        try:
            (row,) = await self._fetch(connection, sql, *args)
        except BaseException as error:
            if not isinstance(error, Exception) or is_lost(error) or connection.is_closed():
                self._link.drop()
                if not is_read_only(error):
                    self._doubt(batch.chain_ids)
            raise
        verdicts = verdicts_of(row)
        if not verdicts.is_alive:
            self._link.drop()
            self._replicas.doubt_own_life()
        uses = await self._key_uses(connection, batch, verdicts)
        return [self._verdict(item, verdicts, uses) for item in items]

    async def _key_uses(self, connection: Connection, batch: Batch, verdicts: Verdicts) -> KeyUses:
        """What the keys of those submits were used for that made no chain. Seldom any."""
        keys = [each.key for each in batch.submits.values() if each.key is not None and not verdicts.is_fresh(each)]
        if not keys or not verdicts.is_alive:
            return {}
        tenants, names = [storable(key.tenant) for key in keys], [storable(key.key) for key in keys]
        try:
            rows = await self._fetch(connection, KEY_USES, tenants, names)
        except Trouble:
            self._link.drop()
            return {}
        return {(row["tenant"], row["key"]): decoded(partial(key_use, row)) for row in rows}

    def _verdict(self, item: Item, verdicts: Verdicts, uses: KeyUses) -> Verdict:
        if isinstance(item, Append):
            if item.chain_id in verdicts.locked and verdicts.is_alive:
                self._met_lock = True
                return Verdict(error=self._locked_error(item.chain_id), is_locked=True)
            return Verdict(item.chain_id, verdicts.on_append(item))
        if not verdicts.is_alive:
            return Verdict(error=StorageError(f"Chain {item.chain_id} is not recorded: this replica joins again."))
        return Verdict(item.chain_id) if verdicts.is_fresh(item) else self._earlier(item, uses)

    def _locked_error(self, chain_id: str) -> StorageError:
        return StorageError(f"Chain {chain_id} is locked by another session of {self._server.place}: try again.")

    def _earlier(self, submit: Submit, uses: KeyUses) -> Verdict:
        key = submit.key
        use = None if key is None else uses.get((storable(key.tenant), storable(key.key)))
        if key is None or use is None:
            return Verdict(error=StorageError(f"Chain {submit.chain_id} is not recorded: submit it again."))
        if isinstance(use, RecordDamaged):
            return Verdict(error=use)
        try:
            return Verdict(chain_of(use, key))
        except AicpError as conflict:
            return Verdict(error=conflict)

    async def _could_write(self) -> bool:
        connection = await self._current_connection()
        if await self._fetch(connection, _LOOK, self._number, self._session):
            return True
        self._link.drop()
        self._replicas.doubt_own_life()
        return False

    async def _fetch(self, connection: Connection, sql: str, *args: object) -> Rows:
        return await self._server.fetch(connection, sql, *args, timeout_s=self._timeout_s)

    def _is_current(self) -> bool:
        return self._link.is_up and bool(self._number) and self._number == self._replicas.living_number

    async def _current_connection(self) -> Connection:
        """The connection, with a session of this replica as it lives now."""
        if not self._is_current():
            self._link.drop()
        return await self._link.connection()

    async def _begin_session(self, connection: Connection) -> None:
        number = self._replicas.number
        rows = await self._server.fetch(connection, _BEGIN_SESSION, number, timeout_s=self._timeout_s)
        if not rows:
            self._replicas.doubt_own_life()
            raise StorageError(f"This replica was declared dead in {self._server.place}, and joins again: try again.")
        self._number, self._session = number, rows[0]["session"]
        self._final.update(self._doubted)
        self._doubted.clear()

    def _doubt(self, chain_ids: Sequence[str]) -> None:
        for chain_id in chain_ids:
            if len(self._doubted) >= DOUBTS_MAX:
                _log.error("too many submits are in doubt: chain %s, if recorded, runs after this replica", chain_id)
                return
            self._doubted[chain_id] = None
