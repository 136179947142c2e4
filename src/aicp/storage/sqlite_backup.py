"""What `aicp db` does with a SQLite file: bring it up to date, check it, copy it while in use, put a copy back."""

import contextlib
import itertools
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from aicp.errors import SettingsError
from aicp.storage.file_lock import FileLock
from aicp.storage.sqlite_connections import connect, connect_reader
from aicp.storage.sqlite_database import in_use_error, lock_of, make_directory, open_file, sync_directory, try_lock
from aicp.storage.sqlite_faults import SqliteErrors, opening_error, primary_code
from aicp.storage.sqlite_row_checks import find_damaged_rows
from aicp.storage.sqlite_schema import REVISIONS, Standing, recognise, refuse_unusable
from aicp.storage.sqlite_soundness import PROBLEMS_MAX, integrity_problems, log_problem, refuse_damaged_log

PAGES_AT_ONCE = 1_024
LOG_SUFFIXES = ("-wal", "-shm")
EPOCHS_LEAPT = 1_000_000
"""By how much a restore raises epochs, so that agents who obeyed later owners than the backup knows obey the next."""

Tell = Callable[[int, int], None]
"""Told how many pages of a copy are done, and of how many; called after every `PAGES_AT_ONCE`."""

_COUNTS = {
    "chains": "SELECT count(*) FROM chains",
    "unfinished chains": "SELECT count(*) FROM chains WHERE ended_at IS NULL",
    "facts": "SELECT count(*) FROM facts",
    "large results": "SELECT count(*) FROM results",
    "submit keys": "SELECT count(*) FROM submit_keys",
}
_LATER = {
    "registrations": "SELECT count(*) FROM registrations",
    "api keys": "SELECT count(*) FROM api_keys",
    "audit records": "SELECT count(*) FROM audit",
}
_MISSING_RESULTS = """
    SELECT count(*) FROM facts
    WHERE result_digest IS NOT NULL AND NOT EXISTS (SELECT 1 FROM results WHERE digest = facts.result_digest)
"""
_LEAP = "UPDATE chains SET epoch = epoch + ? WHERE ended_at IS NULL"
_OF_THE_SOURCE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


class Upgraded(msgspec.Struct, frozen=True):
    """What an upgrade did.

    Attributes:
        path: The database.
        revision_before: None when it was new.
        revision: Now.
    """

    path: Path
    revision_before: str | None
    revision: str


class Checked(msgspec.Struct, frozen=True):
    """What a check found.

    Attributes:
        path: The database.
        revision: Of its schema; None when it has none.
        newest_revision: The newest this version of AICP knows.
        size_bytes: Of the main file.
        counts: How many of each thing it holds.
        problems: What is wrong, at most 100 sentences; empty when it is sound.
    """

    path: Path
    revision: str | None
    newest_revision: str
    size_bytes: int
    counts: dict[str, int]
    problems: tuple[str, ...]

    @property
    def is_sound(self) -> bool:
        """True when nothing is wrong."""
        return not self.problems


class BackedUp(msgspec.Struct, frozen=True):
    """What a backup made.

    Attributes:
        path: The database.
        backup: The copy, whole in one file.
        revision: Of its schema.
        size_bytes: Of the copy.
    """

    path: Path
    backup: Path
    revision: str | None
    size_bytes: int


class Restored(msgspec.Struct, frozen=True):
    """What a restore did.

    Attributes:
        path: The database.
        backup: What it was made from.
        revision: Of its schema.
        kept: Where the database that was there is now; None when there was none.
    """

    path: Path
    backup: Path
    revision: str | None
    kept: Path | None


def upgrade_database(path: Path) -> Upgraded:
    """Bring a database to the newest schema, or make one; a server does the same when it starts.

    Raises:
        SettingsError: It is in use, unwritable, of a newer version, or not AICP's.
        StorageError: The disk failed; it is as it was.
    """
    make_directory(path)
    with locked(path) as lock:
        before = _revision(path) if path.exists() else None
        open_file(path, lock)[0].close()
    return Upgraded(path, before, REVISIONS[-1])


def check_database(path: Path) -> Checked:
    """Read all of a database and say what is wrong with it; it may be in use. Takes as long as reading the file.

    Raises:
        SettingsError: There is none, or it cannot be opened.
        StorageError: The disk failed.
    """
    if (problem := sqlite_log_problem(path)) is not None:
        return _unread(path, problem)
    with _reading(path) as connection:
        try:
            return _check(connection, path)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            if primary_code(error) not in _OF_THE_SOURCE:
                raise
            return _unread(path, f"it is damaged ({error})")


def backup_database(path: Path, backup: Path, tell: Tell | None = None) -> BackedUp:
    """Copy a database as of one moment into one file; it may be in use, and goes on meanwhile.

    `tell` hears how far it is; what it raises ends the copy, and nothing of it stays.

    Raises:
        SettingsError: There is none, or the copy would overwrite something, or cannot be written.
        StorageError: The disk failed; there is no copy.
    """
    if os.access(backup, os.F_OK):
        raise SettingsError(f"{backup} is there already: name a new file for the backup.")
    with _reading(path) as source:
        found = recognise(source)
        refuse_unusable(found, path)
        with _new_file(backup) as made:
            _copy(source, path, made, tell)
            made.rename(backup)
    return BackedUp(path, backup, found.revision, backup.stat().st_size)


def restore_database(backup: Path, path: Path) -> Restored:
    """Put a backup in the place of a database, whole or not at all; what was there is kept beside it.

    Raises:
        SettingsError: There is no such backup, or it is unsound, or of a newer version; or the database is in use.
        StorageError: The disk failed; the database is as it was.
    """
    checked = check_database(backup)
    if checked.problems:
        raise SettingsError(f"The backup {backup} cannot be used: {checked.problems[0]}; take another one.")
    path = path.resolve()
    make_directory(path)
    with locked(path):
        return put_in_place(backup, path)


def put_in_place(backup: Path, path: Path) -> Restored:
    """Make a database what a backup is, whole or not at all, and keep what was there; the caller holds the lock.

    Raises:
        SettingsError: The backup cannot be opened.
        StorageError: The disk failed; the database is as it was.
    """
    with _reading(backup) as source, _new_file(path) as made:
        revision = recognise(source).revision
        _copy(source, backup, made, leap=True)
        kept = _keep(path) if path.exists() else None
        made.rename(path)
    return Restored(path, backup, revision, kept)


def sqlite_log_problem(path: Path) -> str | None:
    """What a database lacks because its write-ahead log is damaged; None when its log is whole, or there is none.

    Raises:
        SettingsError: It cannot be read.
    """
    try:
        return log_problem(path, lock_of(path).note()) if path.is_file() else None
    except OSError as error:
        raise opening_error(error, path) from error


def _unread(path: Path, problem: str) -> Checked:
    return Checked(path, None, REVISIONS[-1], path.stat().st_size, {}, (problem,))


def _check(connection: sqlite3.Connection, path: Path) -> Checked:
    found = recognise(connection)
    problems = integrity_problems(connection)
    counts: dict[str, int] = {}
    if found.standing in {Standing.OLDER, Standing.CURRENT}:
        is_current = found.standing is Standing.CURRENT
        wanted = _COUNTS | _LATER if is_current else _COUNTS
        problems += find_damaged_rows(connection) if is_current else _missing_results(connection)
        counts = {name: connection.execute(sql).fetchone()[0] for name, sql in wanted.items()}
    elif found.standing is Standing.NEWER:
        problems.append(f"it is of a newer version of AICP (revision {found.revision}): upgrade AICP")
    else:
        problems.append("it holds nothing of AICP")
    size = path.stat().st_size
    return Checked(path, found.revision, REVISIONS[-1], size, counts, tuple(problems[:PROBLEMS_MAX]))


def _missing_results(connection: sqlite3.Connection) -> list[str]:
    (missing,) = connection.execute(_MISSING_RESULTS).fetchone()
    return [f"{missing} results are referred to and not there"] if missing else []


def _revision(path: Path) -> str | None:
    with _reading(path) as connection:
        return recognise(connection).revision


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise SettingsError(f"There is no database {path}; name the file of one.")
    try:
        refuse_damaged_log(path, lock_of(path).note())
        with closing(connect_reader(path)) as connection:
            yield connection
    except (*SqliteErrors, OSError) as error:
        raise opening_error(error, path) from error


@contextmanager
def locked(path: Path) -> Iterator[FileLock]:
    """Hold the lock of a database that no other process may use meanwhile.

    Raises:
        SettingsError: Another process has it.
    """
    lock = lock_of(path)
    if not try_lock(lock, path):
        raise in_use_error(lock, path)
    try:
        yield lock
    finally:
        lock.release()


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A file beside `path` to be filled and renamed; it does not stay when that fails."""
    try:
        descriptor, name = tempfile.mkstemp(".partial", f"{path.name}.", path.parent)
        os.close(descriptor)
        made = Path(name)
        try:
            yield made
            sync_directory(path.parent)
        finally:
            for suffix in ("", "-journal", *LOG_SUFFIXES):
                made.with_name(made.name + suffix).unlink(missing_ok=True)
    except (*SqliteErrors, OSError) as error:
        raise opening_error(error, path) from error


def _copy(source: sqlite3.Connection, path: Path, made: Path, tell: Tell | None = None, *, leap: bool = False) -> None:
    """As of one moment: the copy would begin again with each write of a server if it were not read in one snapshot."""
    told = tell or _tell_nobody
    source.execute("BEGIN")
    source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    try:
        with closing(connect(made)) as target:
            # Python looks for signals only while it runs Python: without a call between steps, Ctrl-C would wait.
            source.backup(target, pages=PAGES_AT_ONCE, progress=lambda _, left, pages: told(pages - left, pages))
            target.execute("PRAGMA journal_mode = DELETE")
            if leap:
                target.execute(_LEAP, (EPOCHS_LEAPT,))
    except SqliteErrors as error:
        if primary_code(error) in _OF_THE_SOURCE:
            raise opening_error(error, path) from error
        raise
    _sync_file(made)


def _tell_nobody(_: int, __: int) -> None:
    pass


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keep(path: Path) -> Path:
    """A second name for a database that is about to lose its own, and its log with it if it has one."""
    # Who closes a log last moves it into the main file. While another program reads, it stays, and goes along; so does
    # a damaged one, of which SQLite would keep only the beginning.
    if sqlite_log_problem(path) is None:
        with contextlib.suppress(*SqliteErrors), closing(connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
    kept = next(name for name in _names_to_keep(path) if not name.exists())
    os.link(path, kept)
    for suffix in LOG_SUFFIXES:
        log = path.with_name(path.name + suffix)
        if log.exists():
            log.rename(kept.with_name(kept.name + suffix))
    return kept


def _names_to_keep(path: Path) -> Iterator[Path]:
    return (path.with_name(f"{path.name}.before-restore-{number}") for number in itertools.count(1))
