"""Group commit: what is ready when the disk is free goes into one transaction.

    write() -> room -> line -> [ one batch at a time: BEGIN … COMMIT in the writer's thread ] -> futures

The line lives in the event loop and a batch in the thread; they meet at two hand-overs a batch. A first write waits for
the current turn of the loop to end, so that what is written in one turn shares a transaction, and so does what those
write who were just answered; there is no other delay.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from aicp.errors import AicpError, StorageError
from aicp.storage.room import Room
from aicp.storage.sqlite_book import Book
from aicp.storage.sqlite_faults import SqliteErrors, is_disk_trouble, storage_error

T = TypeVar("T")

WAITING_BYTES_MAX = 64 * 1024 * 1024
BATCH_BYTES_MAX = 8 * 1024 * 1024
BATCH_WRITES_MAX = 1_000
ANSWERS_A_TURN = 32
WRITE_BYTES = 1_024
"""What a write counts for beside its content, so that bytes bound their number too."""

_log = logging.getLogger(__name__)

Work = Callable[[Book], T]
"""Runs in the writer's thread. It may refuse with an `AicpError` only before it changed anything."""


class _Write(msgspec.Struct, frozen=True, eq=False):
    work: Work[Any]
    size: int
    done: asyncio.Future[Any]


class _Verdict(msgspec.Struct, frozen=True):
    result: Any = None
    error: Exception | None = None


class GroupWriter:
    """Writes in the order of the calls, many in one transaction. For one event loop.

    Args:
        book: Of the one connection that writes.
        path: Of the database, for sentences.
        thread: Runs one thing at a time.
        on_commit: Told in the event loop of each batch that was put down or failed: its seconds, and its writes.
    """

    def __init__(
        self, book: Book, path: Path, thread: Executor, on_commit: Callable[[float, int], None] | None = None
    ) -> None:
        self._book = book
        self._path = path
        self._thread = thread
        self._on_commit = on_commit
        self._took_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._room = Room(WAITING_BYTES_MAX)
        self._line: deque[_Write] = deque()
        self._batch: list[_Write] = []
        self._is_due = False
        self._answering = 0
        self._is_closed = False
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    async def write(self, work: Work[T], size: int = 0) -> T:
        """Have `work` done in a transaction, and return its result once that is on disk.

        It waits while 64 MiB wait already. Cancelled after that, the work is done all the same.

        Args:
            work: Called in the writer's thread; once more, alone, when a batch failed for what one of it was given.
            size: Bytes it holds, about.

        Raises:
            StorageError: It could not be written, and is not; or the database is closed.
            AicpError: The work refused.
        """
        taken = await self._room.enter(size + WRITE_BYTES)
        if self._is_closed:
            self._room.leave(taken)
            raise closed_error(self._path)
        done: asyncio.Future[T] = self._loop.create_future()
        self._line.append(_Write(work, taken, done))
        self._is_idle.clear()
        if not (self._batch or self._is_due or self._answering):
            self._is_due = True
            self._loop.call_soon(self._hand_over)
        return await done

    async def close(self) -> None:
        """Refuse what comes from now on, and wait until all that was handed over is written."""
        self._is_closed = True
        await self._is_idle.wait()

    def _hand_over(self) -> None:
        self._is_due = False
        self._batch = self._next_batch()
        if not self._batch:
            self._is_idle.set()
            return
        works = [write.work for write in self._batch]
        self._loop.run_in_executor(self._thread, self._timed, works).add_done_callback(self._settle)

    def _next_batch(self) -> list[_Write]:
        batch: list[_Write] = []
        size = 0
        while self._line and len(batch) < BATCH_WRITES_MAX:
            size += self._line[0].size
            if batch and size > BATCH_BYTES_MAX:
                break
            batch.append(self._line.popleft())
        return batch

    def _settle(self, call: asyncio.Future[list[_Verdict]]) -> None:
        verdicts = _verdicts_of(call, len(self._batch), self._path)
        answers = deque(zip(self._batch, verdicts, strict=True))
        if self._on_commit is not None:
            self._on_commit(self._took_s, len(self._batch))
        self._batch = []
        self._answering += 1
        if self._line:
            self._hand_over()
        self._answer(answers)

    def _answer(self, answers: "deque[tuple[_Write, _Verdict]]") -> None:
        """Wake some of those who wait, and the others in the next turns, so that no turn of the loop takes long."""
        for _ in range(min(ANSWERS_A_TURN, len(answers))):
            write, verdict = answers.popleft()
            self._room.leave(write.size)
            _tell(write.done, verdict)
        if answers:
            self._loop.call_soon(self._answer, answers)
            return
        self._answering -= 1
        if not (self._batch or self._answering):
            # Behind those just woken: what they write next is still part of it.
            self._is_due = True
            self._loop.call_soon(self._hand_over)

    def _timed(self, works: Sequence[Work[Any]]) -> list[_Verdict]:
        began = time.perf_counter()
        try:
            return self._do(works)
        finally:
            self._took_s = time.perf_counter() - began

    def _do(self, works: Sequence[Work[Any]]) -> list[_Verdict]:
        """In the thread: all of it in one transaction, or, when the fault lies in one of them, each in its own."""
        try:
            verdicts = self._put_down(works)
        except Exception as error:  # noqa: BLE001 - each write gets its error; the thread lives on
            if len(works) > 1 and not is_disk_trouble(error):
                return [verdict for work in works for verdict in self._do([work])]
            return self._failed(works, error)
        try:
            self._book.commit()
        except Exception as error:  # noqa: BLE001 - as above; but it may be on disk, so it is not done again
            self._book.rollback()
            return self._failed(works, error)
        return verdicts

    def _put_down(self, works: Sequence[Work[Any]]) -> list[_Verdict]:
        """Everything but the commit, or nothing."""
        try:
            self._book.begin()
            verdicts = [_verdict_on(work, self._book) for work in works]
            self._book.flush()
        except BaseException:
            self._book.rollback()
            raise
        return verdicts

    def _failed(self, works: Sequence[Work[Any]], error: Exception) -> list[_Verdict]:
        return [_Verdict(error=self._told(error)) for _ in works]

    def _told(self, error: Exception) -> Exception:
        if isinstance(error, SqliteErrors):
            return storage_error(error, self._path)
        _log.error("a write to %s failed by a defect", self._path, exc_info=error)
        return StorageError(f"A write to {self._path} failed: {error!r}; nothing of it was recorded.")


def _tell(done: asyncio.Future[Any], verdict: _Verdict) -> None:
    if done.cancelled():
        return
    if verdict.error is not None:
        done.set_exception(verdict.error)
    else:
        done.set_result(verdict.result)


def closed_error(path: Path) -> StorageError:
    """What to raise for a use of a database that is closed."""
    return StorageError(f"The database {path} is closed: nothing can be recorded or read.")


def _verdict_on(work: Work[Any], book: Book) -> _Verdict:
    try:
        return _Verdict(work(book))
    except AicpError as refusal:
        return _Verdict(error=refusal)


def _verdicts_of(call: "asyncio.Future[list[_Verdict]]", count: int, path: Path) -> list[_Verdict]:
    if call.cancelled() or call.exception() is not None:
        # The thread or the connection was gone: a loop that ends without waiting for `close` does that.
        return [_Verdict(error=closed_error(path)) for _ in range(count)]
    return call.result()
