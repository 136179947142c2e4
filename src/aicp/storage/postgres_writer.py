"""Group commit: what is ready when the one writing connection is free goes into one transaction.

    write() -> room -> line -> [ one batch at a time: one statement ] -> futures

A first write waits for the current turn of the loop to end, so that what is written in one turn shares a transaction,
and so does what those write who were just answered; there is no other delay.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from aicp.storage.postgres_batch import Batch, Item
from aicp.storage.postgres_held_writes import HeldWrites
from aicp.storage.postgres_recorder import BatchRecorder, Verdict
from aicp.storage.postgres_replicas import PostgresReplicas
from aicp.storage.postgres_server import PostgresServer
from aicp.storage.postgres_sessions import closed_error
from aicp.storage.room import Room

TIMEOUT_S = 5.0
LOOK_EVERY_S = 2.0
LOOK_AGAIN_S = 0.25
"""How often an idle writer makes sure that it could write, seconds: while it could, and while it could not."""
CLOSE_WAIT_S = 10.0
WAITING_BYTES_MAX = 64 * 1024 * 1024
BATCH_BYTES_MAX = 8 * 1024 * 1024
BATCH_WRITES_MAX = 1_000
ANSWERS_A_TURN = 32
WRITE_BYTES = 1_024
"""What a write counts for beside its content, so that bytes bound their number too."""

_log = logging.getLogger(__name__)


class _Write(msgspec.Struct, frozen=True, eq=False):
    item: Item
    size: int
    done: asyncio.Future[str]


class GroupWriter:
    """Writes in the order of the calls, many in one transaction. For one event loop.

    What meets a lock is tried again with backoff, each chain's writes in their order, for as long as a transaction may
    take, and all others go on.

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
        self._on_commit = on_commit
        self._recorder = BatchRecorder(server, replicas, timeout_s)
        self._held: HeldWrites[_Write] = HeldWrites(timeout_s)
        self._room = Room(WAITING_BYTES_MAX)
        self._line: deque[_Write] = deque()
        self._due = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._answering = 0
        self._is_recording = False
        self._is_closed = True
        self._writing: asyncio.Task[None] | None = None

    @property
    def is_well(self) -> bool:
        """False from a write, or a look while idle, that failed for want of the database, until one succeeds."""
        return self._recorder.is_well

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
        if self._recorder.needs_connection:
            self._due.set()
        return self._recorder.take_doubts(limit)

    def give_doubts_back(self, chain_ids: Sequence[str]) -> None:
        """What became of them could not be found out."""
        self._recorder.give_doubts_back(chain_ids)

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
            await self._recorder.close()

    async def _keep_writing(self) -> None:
        while True:
            await self._until_due()
            self._take_back_held()
            if not self._line:
                await self._recorder.look()
            while self._line:
                writes, batch = self._next_batch()
                if writes:
                    await self._commit(writes, batch)
                self._take_back_held()

    async def _until_due(self) -> None:
        """Return when there is something to write, or to try again, or it is time for a look."""
        loop = asyncio.get_running_loop()
        look_in_s = LOOK_EVERY_S if self.is_well else LOOK_AGAIN_S
        alarm = loop.call_later(self._held.next_in_s(loop.time(), look_in_s), self._due.set)
        try:
            await self._due.wait()
        finally:
            alarm.cancel()
        self._due.clear()

    def _take_back_held(self) -> None:
        """Put those whose wait is over before all others."""
        if self._held:
            self._line.extendleft(reversed(self._held.due(asyncio.get_running_loop().time())))

    def _next_batch(self) -> tuple[list[_Write], Batch]:
        writes, batch, size = list[_Write](), Batch(), 0
        may_be_held = self._held.has_cases
        while self._line and len(writes) < BATCH_WRITES_MAX:
            write, is_alone = self._line[0], False
            if may_be_held:
                chain_id = write.item.chain_id
                if self._held.takes(chain_id, write):
                    self._line.popleft()
                    continue
                is_alone = self._held.is_alone(chain_id)
            size += write.size
            if (writes and (is_alone or size > BATCH_BYTES_MAX)) or not batch.takes(write.item):
                break
            writes.append(self._line.popleft())
            if is_alone:
                break
        return writes, batch

    async def _commit(self, writes: Sequence[_Write], batch: Batch) -> None:
        """Record a batch, and answer each of it; what met a lock is held instead."""
        self._is_recording = True
        try:
            verdicts = await self._timed_verdicts_on(writes, batch)
        except asyncio.CancelledError:
            for write in writes:
                _tell(write.done, Verdict(error=closed_error(self._server.place)))
            raise
        answers = deque(zip(writes, verdicts, strict=True))
        if self._held.has_cases or self._recorder.met_lock:
            answers = self._without_locked(answers)
        self._is_recording = False
        self._answering += 1
        self._answer(answers)
        if self._recorder.is_in_doubt:
            await self._recorder.look()

    def _without_locked(self, answers: "deque[tuple[_Write, Verdict]]") -> "deque[tuple[_Write, Verdict]]":
        """Those that have their answer: the others wait, in order and by chain."""
        of_chains: dict[str, list[tuple[_Write, Verdict]]] = {}
        for write, verdict in answers:
            of_chains.setdefault(write.item.chain_id, []).append((write, verdict))
        now = asyncio.get_running_loop().time()
        answered: deque[tuple[_Write, Verdict]] = deque()
        for chain_id, of_chain in of_chains.items():
            locked = [write for write, verdict in of_chain if verdict.is_locked]
            is_alone = any(verdict.is_alone for _, verdict in of_chain)
            if locked and self._held.hold(chain_id, locked, now, is_alone=is_alone):
                answered.extend(each for each in of_chain if not each[1].is_locked)
                continue
            self._held.settle(chain_id)
            answered.extend(of_chain)
        return answered

    def _answer(self, answers: "deque[tuple[_Write, Verdict]]") -> None:
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
        elif not (self._answering or self._is_recording or self._held):
            self._is_idle.set()

    async def _timed_verdicts_on(self, writes: Sequence[_Write], batch: Batch) -> list[Verdict]:
        now = asyncio.get_running_loop().time
        begin = now()
        verdicts = await self._recorder.record([write.item for write in writes], batch)
        if self._on_commit is not None:
            self._on_commit(now() - begin, len(writes))
        return verdicts

    def _refuse_line(self) -> None:
        self._line.extend(self._held.take_all())
        while self._line:
            write = self._line.popleft()
            self._room.leave(write.size)
            _tell(write.done, Verdict(error=closed_error(self._server.place)))


def _tell(done: "asyncio.Future[str]", verdict: Verdict) -> None:
    if done.done():
        return
    if verdict.error is not None:
        done.set_exception(verdict.error)
    else:
        done.set_result(verdict.chain_id)
