"""Group commit: what is ready when the one writing connection is free goes into one transaction.

    write() -> room -> line -> [ one batch at a time: one statement ] -> futures

A first write waits for the current turn of the loop to end, so that what is written in one turn shares a transaction,
and so does what those write who were just answered; there is no other delay.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice

import msgspec

from aicp.errors import AicpError, RecordDamaged, StorageError
from aicp.storage.damage import decoded
from aicp.storage.postgres_batch import (
    KEY_USES,
    Append,
    Batch,
    Item,
    KeyUse,
    Submit,
    Verdicts,
    chain_of,
    key_use,
    storable,
    verdicts_of,
)
from aicp.storage.postgres_faults import Trouble, is_lost, storage_error
from aicp.storage.postgres_replicas import PostgresReplicas
from aicp.storage.postgres_server import Connection, Link, PostgresServer, Rows
from aicp.storage.postgres_sessions import closed_error
from aicp.storage.room import Room

TIMEOUT_S = 5.0
CLOSE_WAIT_S = 10.0
GOODBYE_WAIT_S = 1.0
WAITING_BYTES_MAX = 64 * 1024 * 1024
BATCH_BYTES_MAX = 8 * 1024 * 1024
BATCH_WRITES_MAX = 1_000
ANSWERS_A_TURN = 32
DOUBTS_MAX = 100_000
WRITE_BYTES = 1_024
"""What a write counts for beside its content, so that bytes bound their number too."""

_BEGIN_SESSION = """
    UPDATE replicas SET session = session + 1 WHERE number = $1 AND died_at IS NULL RETURNING session
"""
_log = logging.getLogger(__name__)


class _Write(msgspec.Struct, frozen=True, eq=False):
    item: Item
    size: int
    done: asyncio.Future[str]


class _Verdict(msgspec.Struct, frozen=True):
    chain_id: str = ""
    error: Exception | None = None


class GroupWriter:
    """Writes in the order of the calls, many in one transaction. For one event loop.

    Every connection it uses begins a session of this replica: what an earlier one of them had sent and what has not
    arrived by then is refused by the server for ever. So after a lost answer, and a new session, the record is final.

    Args:
        server: Has the database.
        replicas: Knows the number of this replica.
        timeout_s: How long a transaction may take, seconds.
        on_commit: Told in the event loop of each batch that was put down or failed: its seconds, and its writes.
    """

    def __init__(
        self,
        server: PostgresServer,
        replicas: PostgresReplicas,
        *,
        timeout_s: float = TIMEOUT_S,
        on_commit: Callable[[float, int], None] | None = None,
    ) -> None:
        self._server = server
        self._replicas = replicas
        self._doubted: dict[str, None] = {}
        self._final: dict[str, None] = {}
        self._timeout_s = timeout_s
        self._on_commit = on_commit
        self._link = Link(server, self._begin_session)
        self._number = 0
        self._session = 0
        self._room = Room(WAITING_BYTES_MAX)
        self._line: deque[_Write] = deque()
        self._due = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._answering = 0
        self._is_recording = False
        self._is_closed = True
        self._writing: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to write."""
        self._is_closed = False
        self._writing = asyncio.create_task(self._keep_writing(), name="writer of the journal")

    async def write(self, item: Item, size: int) -> str:
        """Record it, and return the id of its chain once that is on disk.

        It waits while 64 MiB wait already. Cancelled after that, it is recorded all the same.

        Args:
            item: A submit, whose chain's id is another one when its key was used before; or an append.
            size: Bytes it holds, about.

        Raises:
            StorageError: It is not recorded, or only the answer got lost; or the database is closed.
            AicpError: It was refused.
        """
        taken = await self._room.enter(size + WRITE_BYTES)
        if self._is_closed:
            self._room.leave(taken)
            raise closed_error(self._server.place)
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._line.append(_Write(item, taken, done))
        self._is_idle.clear()
        if not self._answering:
            self._due.set()
        return await done

    def take_doubts(self, limit: int) -> list[str]:
        """The ids of chains that may be this replica's without its knowing, since an answer got lost; at most so many.

        Those of which the server has not yet said its last word come later, once there is a new connection.
        """
        some = list(islice(self._final, max(1, limit)))
        for chain_id in some:
            del self._final[chain_id]
        if self._doubted and not self._link.is_up:
            self._due.set()
        return some

    def give_doubts_back(self, chain_ids: Sequence[str]) -> None:
        """What became of them could not be found out."""
        self._final.update(dict.fromkeys(chain_ids))

    async def close(self) -> None:
        """Refuse what comes from now on, and wait until all that was handed over is written, for 10 s."""
        self._is_closed = True
        try:
            async with asyncio.timeout(CLOSE_WAIT_S):
                await self._is_idle.wait()
        except TimeoutError:
            _log.error("the last writes to %s could not be recorded in time", self._server.place)
        finally:
            if self._writing is not None:
                self._writing.cancel()
                await asyncio.wait([self._writing])
                self._writing = None
            self._refuse_line()
            await self._link.close(GOODBYE_WAIT_S)

    async def _keep_writing(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            if not self._line and not self._is_current():
                await self._mend()
            while self._line:
                self._is_recording = True
                writes, batch = self._next_batch()
                verdicts = await self._timed_verdicts_on(writes, batch)
                self._is_recording = False
                self._answering += 1
                self._answer(deque(zip(writes, verdicts, strict=True)))

    def _next_batch(self) -> tuple[list[_Write], Batch]:
        writes, batch, size = list[_Write](), Batch(), 0
        while self._line and len(writes) < BATCH_WRITES_MAX:
            size += self._line[0].size
            if (writes and size > BATCH_BYTES_MAX) or not batch.takes(self._line[0].item):
                break
            writes.append(self._line.popleft())
        return writes, batch

    def _answer(self, answers: "deque[tuple[_Write, _Verdict]]") -> None:
        """Wake some of those who wait, and the others in the next turns, so that no turn of the loop takes long."""
        for _ in range(min(ANSWERS_A_TURN, len(answers))):
            write, verdict = answers.popleft()
            self._room.leave(write.size)
            _tell(write.done, verdict)
        loop = asyncio.get_running_loop()
        if answers:
            loop.call_soon(self._answer, answers)
            return
        self._answering -= 1
        # Behind those just woken: what they write next is still part of the next batch.
        loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._line:
            self._due.set()
        elif not (self._answering or self._is_recording):
            self._is_idle.set()

    async def _timed_verdicts_on(self, writes: Sequence[_Write], batch: Batch) -> list[_Verdict]:
        now = asyncio.get_running_loop().time
        begin = now()
        verdicts = await self._verdicts_on(writes, batch)
        if self._on_commit is not None:
            self._on_commit(now() - begin, len(writes))
        return verdicts

    async def _verdicts_on(self, writes: Sequence[_Write], batch: Batch) -> list[_Verdict]:
        """What became of each; whatever happens, each gets its answer."""
        try:
            return await self._record(writes, batch)
        except asyncio.CancelledError:
            self._doubt(batch.chain_ids)
            for write in writes:
                _tell(write.done, _Verdict(error=closed_error(self._server.place)))
            raise
        except (AicpError, *Trouble) as error:
            if len(writes) > 1 and not isinstance(error, AicpError) and not is_lost(error):
                return await self._each_alone(writes)
            return [_Verdict(error=storage_error(error, self._server.place)) for _ in writes]
        except Exception as error:  # noqa: BLE001 - each write gets its error; the writer lives on
            self._link.drop()
            self._doubt(batch.chain_ids)
            _log.exception("a write to %s failed by a defect", self._server.place)
            told = f"A write to {self._server.place} failed: {error!r}; whether it is on record is not known."
            return [_Verdict(error=StorageError(told)) for _ in writes]

    async def _each_alone(self, writes: Sequence[_Write]) -> list[_Verdict]:
        """One of them was given what the server refuses, and harms no other."""
        verdicts: list[_Verdict] = []
        for write in writes:
            batch = Batch()
            batch.takes(write.item)
            verdicts += await self._verdicts_on([write], batch)
        return verdicts

    async def _record(self, writes: Sequence[_Write], batch: Batch) -> list[_Verdict]:
        connection = await self._current_connection()
        sql, args = batch.statement(self._number, self._session)
        try:
            (row,) = await self._fetch(connection, sql, *args)
        except BaseException as error:
            if not isinstance(error, Exception) or is_lost(error) or connection.is_closed():
                self._link.drop()
                self._doubt(batch.chain_ids)
            raise
        verdicts = verdicts_of(row)
        if not verdicts.is_alive:
            self._link.drop()
            self._replicas.doubt_own_life()
        uses = await self._key_uses(connection, batch, verdicts)
        return [self._verdict(write.item, verdicts, uses) for write in writes]

    async def _key_uses(
        self, connection: Connection, batch: Batch, verdicts: Verdicts
    ) -> dict[tuple[str, str], KeyUse | RecordDamaged]:
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

    def _verdict(self, item: Item, verdicts: Verdicts, uses: dict[tuple[str, str], KeyUse | RecordDamaged]) -> _Verdict:
        if isinstance(item, Append):
            return _Verdict(item.chain_id, verdicts.on_append(item))
        if not verdicts.is_alive:
            return _Verdict(error=StorageError(f"Chain {item.chain_id} is not recorded: this replica joins again."))
        return _Verdict(item.chain_id) if verdicts.is_fresh(item) else self._earlier(item, uses)

    def _earlier(self, submit: Submit, uses: dict[tuple[str, str], KeyUse | RecordDamaged]) -> _Verdict:
        key = submit.key
        use = None if key is None else uses.get((storable(key.tenant), storable(key.key)))
        if key is None or use is None:
            return _Verdict(error=StorageError(f"Chain {submit.chain_id} is not recorded: submit it again."))
        if isinstance(use, RecordDamaged):
            return _Verdict(error=use)
        try:
            return _Verdict(chain_of(use, key))
        except AicpError as conflict:
            return _Verdict(error=conflict)

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

    async def _mend(self) -> None:
        try:
            await self._current_connection()
        except (AicpError, *Trouble) as error:
            _log.debug("the way to %s is not mended: %s", self._server.place, error)

    def _refuse_line(self) -> None:
        while self._line:
            write = self._line.popleft()
            self._room.leave(write.size)
            _tell(write.done, _Verdict(error=closed_error(self._server.place)))


def _tell(done: "asyncio.Future[str]", verdict: _Verdict) -> None:
    if done.done():
        return
    if verdict.error is not None:
        done.set_exception(verdict.error)
    else:
        done.set_result(verdict.chain_id)
