"""A SQLite database in use by this process alone: its lock, its schema, its writer and its readers."""

import asyncio
import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec

from aicp import standstill
from aicp.errors import RecordDamaged, SettingsError, StorageError
from aicp.forks import HomeProcess
from aicp.model.level import LEVEL
from aicp.storage.damage import DamageReports, OnDamage
from aicp.storage.file_lock import FileLock
from aicp.storage.sqlite_book import Book
from aicp.storage.sqlite_connections import Connect, connect, connect_reader, prepare_writer
from aicp.storage.sqlite_faults import FileDamaged, SqliteErrors, opening_error
from aicp.storage.sqlite_readers import Readers
from aicp.storage.sqlite_schema import make_current
from aicp.storage.sqlite_soundness import refuse_damaged_file, refuse_damaged_log
from aicp.storage.sqlite_upkeep import IDLE_S, Upkeep
from aicp.storage.sqlite_wal import boot_id, size_of_log
from aicp.storage.sqlite_writer import GroupWriter, Work, closed_error

T = TypeVar("T")

LOCK_WAIT_S = 10.0
LOCK_ASKED_EVERY_S = 0.05
CLOSE_WAIT_S = 30.0
_log = logging.getLogger(__name__)
_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700


class _Session(msgspec.Struct, frozen=True, eq=False):
    """What is there between `open` and `close`."""

    lock: FileLock
    thread: ThreadPoolExecutor
    connection: sqlite3.Connection
    writer: GroupWriter
    readers: Readers
    upkeep: Upkeep


class SqliteDatabase:
    """One file, one process that writes to it, from one connection in a thread of its own.

    Journal and registrations share it. It may be opened again after it was closed.

    Args:
        path: The file; it and its directory are made when they are not there, readable by their owner alone.
        lock_wait_s: How long to wait for another process that has it open, seconds.
        close_wait_s: How long a close may take, seconds.
        connect_writer: Opens the connection that writes.
        connect_reader: Opens one that reads.
        on_commit: Told of each transaction: its seconds, and how many writes shared it.
        idle_s: After how long without a write the log is emptied, seconds.
        on_damage: Called with each row that was found damaged, once.
        level: Chains that need a higher one are neither claimed nor read.

    Attributes:
        level: As above.
        damage: Reports damaged rows.
    """

    def __init__(
        self,
        path: Path,
        *,
        lock_wait_s: float = LOCK_WAIT_S,
        close_wait_s: float = CLOSE_WAIT_S,
        connect_writer: Connect = connect,
        connect_reader: Connect = connect_reader,
        on_commit: Callable[[float, int], None] | None = None,
        on_damage: OnDamage | None = None,
        idle_s: float = IDLE_S,
        level: int = LEVEL,
    ) -> None:
        self.path = path
        self.level = level
        self.damage = DamageReports(on_damage)
        self._idle_s = idle_s
        self._problem = ""
        self._lock_wait_s = lock_wait_s
        self._close_wait_s = close_wait_s
        self._connect_writer = connect_writer
        self._connect_reader = connect_reader
        self._on_commit = on_commit
        self._session: _Session | None = None
        self._closing: asyncio.Task[None] | None = None
        self._home = HomeProcess(f"The database {path}")

    async def open(self) -> None:
        """Take the file for this process, and bring it to the newest schema. Opening what is open does nothing.

        Raises:
            SettingsError: It is in use by another process, unwritable, of a newer version, or not AICP's.
            StorageError: The disk failed.
        """
        self._home.require()
        if self._session is not None:
            return
        lock = await self._take_lock()
        thread = ThreadPoolExecutor(1, thread_name_prefix="aicp-sqlite-writer")
        loop = asyncio.get_running_loop()
        opening = loop.run_in_executor(thread, open_file, self.path, lock, self._connect_writer)
        try:
            connection, is_checked = await asyncio.shield(opening)
        except BaseException:
            # The thread may still be at it: what it opens is closed behind it, and only then is the lock let go.
            opening.add_done_callback(lambda call: _let_go(lock, thread, _opened(call)))
            raise
        writer = GroupWriter(Book(connection), self.path, thread, self._committed)
        readers = Readers(self.path, self._connect_reader)
        upkeep = Upkeep(self.path, readers, self._connect_reader, self._found, self._idle_s)
        self._problem = ""
        self._session = _Session(lock, thread, connection, writer, readers, upkeep)
        upkeep.begin(check_pages=not is_checked)

    async def close(self) -> None:
        """Write what was handed over, move it all into the main file, and let the file go. Twice does no harm.

        Raises:
            StorageError: It took too long; it goes on, and the lock is kept until it is through.
        """
        if self._session is not None:
            session, self._session = self._session, None
            self._closing = asyncio.create_task(_close(session), name=f"close {self.path.name}")
        if self._closing is None:
            return
        try:
            async with standstill.timeout(self._close_wait_s):
                await asyncio.shield(self._closing)
        except TimeoutError:
            told = (
                f"The database {self.path} could not be closed within {self._close_wait_s:g} s: the disk is too slow."
            )
            raise StorageError(told) from None

    async def write(self, work: Work[T], size: int = 0) -> T:
        """Have `work` done in the next transaction; see `GroupWriter.write`."""
        try:
            return await self._in_use().writer.write(work, size)
        except (RecordDamaged, FileDamaged) as error:
            self._report(error)
            raise

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` reads, beside the writer; see `Readers.read`."""
        try:
            return await self._in_use().readers.read(work)
        except (RecordDamaged, FileDamaged) as error:
            self._report(error)
            raise

    @property
    def wal_bytes(self) -> int:
        """Size of the write-ahead log."""
        return size_of_log(self.path)

    @property
    def problem(self) -> str:
        """What was found damaged in the file since it was opened, a sentence; empty while nothing was."""
        return self._problem

    def _report(self, error: RecordDamaged | FileDamaged) -> None:
        if isinstance(error, RecordDamaged):
            self.damage.report(error)
        else:
            self._found(str(error))

    def _found(self, problem: str) -> None:
        if not self._problem:
            _log.error("the database %s is damaged, keep the file and restore a backup: %s", self.path, problem)
            self._problem = problem

    def _committed(self, elapsed_s: float, writes: int) -> None:
        if self._session is not None:
            self._session.upkeep.wrote()
        if self._on_commit is not None:
            self._on_commit(elapsed_s, writes)

    def _in_use(self) -> _Session:
        self._home.require()
        if self._session is None:
            raise closed_error(self.path)
        return self._session

    async def _take_lock(self) -> FileLock:
        make_directory(self.path)
        lock = lock_of(self.path)
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._lock_wait_s
        while not try_lock(lock, self.path):
            if loop.time() >= give_up_at:
                raise in_use_error(lock, self.path)
            await asyncio.sleep(LOCK_ASKED_EVERY_S)
        return lock


def lock_of(path: Path) -> FileLock:
    """What keeps a second process from a database, however this one ends, and by whatever link it comes."""
    file = path.resolve()
    return FileLock(file.with_name(f"{file.name}.lock"))


def try_lock(lock: FileLock, path: Path) -> bool:
    """True when the database is this process's now.

    Raises:
        SettingsError: The lock cannot be made.
    """
    try:
        return lock.try_acquire()
    except OSError as error:
        raise opening_error(error, path) from error


def in_use_error(lock: FileLock, path: Path) -> SettingsError:
    """What to raise when another process has the database."""
    return SettingsError(f"The database {path} is in use by {lock.holder()}: stop that one, or name another file.")


def make_directory(path: Path) -> None:
    """The directory of a database, when it is not there.

    Raises:
        SettingsError: It cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=_DIRECTORY_MODE)
    except OSError as error:
        raise opening_error(error, path) from error


def open_file(path: Path, lock: FileLock, connect_writer: Connect = connect) -> tuple[sqlite3.Connection, bool]:
    """The connection that writes, to a database of the newest schema; the caller holds the lock.

    Returns:
        The connection, and whether all pages were checked: those of a large file are not.

    Raises:
        SettingsError: It cannot be used: unwritable, of a newer version, or not AICP's.
        StorageError: The disk failed, or the file is damaged; then it is as it was.
    """
    try:
        _make_file(path)
        refuse_damaged_log(path, lock.note())
        connection = connect_writer(path)
        try:
            prepare_writer(connection, path)
            is_checked = refuse_damaged_file(connection, path)
            make_current(connection, path)
            lock.leave_note(boot_id())
        except BaseException:
            connection.close()
            raise
    except (*SqliteErrors, OSError) as error:
        raise opening_error(error, path) from error
    return connection, is_checked


def _make_file(path: Path) -> None:
    """Before SQLite does, who would let everybody read it; and its name survives a loss of power."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE))
        sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Have the names in a directory survive a loss of power.

    Raises:
        OSError: The disk failed.
    """
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _close(session: _Session) -> None:
    try:
        await session.upkeep.end()
        await session.writer.close()
        await session.readers.close()
    finally:
        closing = asyncio.get_running_loop().run_in_executor(session.thread, _close_connection, session.connection)
        closing.add_done_callback(lambda _: _let_go(session.lock, session.thread, None))
        await asyncio.shield(closing)


def _opened(call: "asyncio.Future[tuple[sqlite3.Connection, bool]]") -> sqlite3.Connection | None:
    return None if call.cancelled() or call.exception() is not None else call.result()[0]


def _let_go(lock: FileLock, thread: ThreadPoolExecutor, connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        connection.close()
    thread.shutdown(wait=False)
    lock.release()


def _close_connection(connection: sqlite3.Connection) -> None:
    """The last to close a write-ahead log moves it into the main file; where that fails, the next to open it does."""
    with contextlib.suppress(sqlite3.Error):
        connection.close()
