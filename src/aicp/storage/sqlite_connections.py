"""Connections to a SQLite database: the one that writes, and those that read."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from weakref import WeakSet

from aicp.errors import StorageError
from aicp.forks import HomeProcess, kept_in_child
from aicp.storage.damage import read_text
from aicp.storage.sqlite_faults import BUSY_TIMEOUT_S

CACHED_STATEMENTS = 128
LOG_BYTES_KEPT = 16 << 20

Connect = Callable[[Path], sqlite3.Connection]
"""Opens a connection to a file."""

_PRAGMAS = (
    "PRAGMA synchronous = FULL",
    # What a commit waits for on macOS, where an ordinary fsync leaves data in the drive's cache. Nothing elsewhere.
    "PRAGMA fullfsync = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA cache_size = -16000",
    # To what a log is cut that grew, when it is begun anew; four times what it has under load.
    f"PRAGMA journal_size_limit = {LOG_BYTES_KEPT}",
)


def connect(path: Path) -> sqlite3.Connection:
    """A connection whose transactions begin and end where they are told to, to be used by one thread at a time.

    Text that is no UTF-8, as a damaged page may hold it, is read all the same: the checksum of its row tells.
    """
    _refuse_inherited(path)
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False,
        cached_statements=CACHED_STATEMENTS, factory=_Connection,
    )  # fmt: skip
    connection.text_factory = read_text
    connection.belongs_to(path)
    return connection


class _Connection(sqlite3.Connection):
    """A connection that is neither finalized in a forked child nor opened there a second time."""

    def belongs_to(self, path: Path) -> None:
        """Note the file, and the process that opened it."""
        self.path, self.home = path.resolve(), HomeProcess(f"The database {path}")
        _open.add(self)
        kept_in_child(self)

    def close(self) -> None:
        """Close it; one that is closed is no longer inherited."""
        super().close()
        _open.discard(self)


_open: WeakSet[_Connection] = WeakSet()


def _refuse_inherited(path: Path) -> None:
    """In a forked child SQLite believes that it holds the locks of its parent, and would damage the file.

    Raises:
        ForkedProcess: The parent of this process had the file open when it forked.
    """
    resolved = path.resolve()
    for connection in list(_open):
        if connection.path == resolved:
            connection.home.require()


def prepare_writer(connection: sqlite3.Connection, path: Path) -> None:
    """Set what makes a commit durable: a write-ahead log, and a wait for the disk at each commit.

    Raises:
        StorageError: The file's system cannot keep a write-ahead log.
        sqlite3.Error: The file cannot be used.
    """
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StorageError(f"The database {path} cannot keep a write-ahead log ({mode}): use a local disk.")
    for pragma in _PRAGMAS:
        connection.execute(pragma)
    _try_to_write(connection)


def _try_to_write(connection: sqlite3.Connection) -> None:
    """A read-only file opens like any other, and even begins a transaction: only a change to it is refused."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute("PRAGMA user_version = 0")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def connect_reader(path: Path) -> sqlite3.Connection:
    """A connection that refuses to write. Each statement sees a snapshot, and waits for no writer.

    Raises:
        sqlite3.Error: The file cannot be used.
    """
    connection = connect(path)
    try:
        connection.execute("PRAGMA query_only = ON")
    except BaseException:
        connection.close()
        raise
    return connection
