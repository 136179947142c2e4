"""What SQLite and the system say when something is wrong with a database, as one sentence for a person."""

import os
import sqlite3
from pathlib import Path

import msgspec

from aicp.errors import AicpError, Conflict, SettingsError, StorageError

BUSY_TIMEOUT_S = 10.0
_PRIMARY_CODE = 0xFF

_NOT_RECORDED = "what could not be written was not acknowledged"

_SENTENCES = {
    sqlite3.SQLITE_FULL: f"the disk is full: free some space; {_NOT_RECORDED}.",
    sqlite3.SQLITE_READONLY: "it is read-only: make the file and its directory writable for this user.",
    sqlite3.SQLITE_CORRUPT: "it is damaged: stop AICP and restore a backup with `aicp db restore`.",
    sqlite3.SQLITE_NOTADB: "it is no database: name another file, or restore a backup with `aicp db restore`.",
    sqlite3.SQLITE_IOERR: f"the disk failed: check it, and the system's log; {_NOT_RECORDED}.",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that the file and its directory may be read and written.",
    sqlite3.SQLITE_BUSY: f"another program has locked it for {BUSY_TIMEOUT_S:.0f} s: close that program.",
    sqlite3.SQLITE_LOCKED: "it is locked by another use of it: try again.",
    sqlite3.SQLITE_TOOBIG: "this is too large for it: at most 1 GB at a time.",
    sqlite3.SQLITE_NOMEM: "memory ran out: give the process more, or submit smaller work.",
}

_OF_SETTINGS = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY})
_OF_RIGHTS = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
_BESIDE = ("-wal", "-shm", ".lock")
_OF_DAMAGE = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


# SQLite quotes what it finds in a damaged schema, and Python cannot decode each of its error messages.
SqliteErrors = (sqlite3.Error, UnicodeDecodeError)


def primary_code(error: BaseException) -> int:
    """SQLite's primary result code; 0 when the error has none."""
    if isinstance(error, UnicodeDecodeError):
        return sqlite3.SQLITE_CORRUPT
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & _PRIMARY_CODE


def is_disk_trouble(error: BaseException) -> bool:
    """True when the database as a whole is in trouble, rather than one statement and what it was given."""
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


class FileDamaged(StorageError):
    """Pages of the database are damaged."""


def storage_error(error: Exception, path: Path) -> AicpError:
    """What to raise for an error while the database was in use."""
    if isinstance(error, sqlite3.IntegrityError):
        return Conflict(f"This contradicts what is already recorded in {path}: {error}.")
    if isinstance(error, msgspec.MsgspecError):
        told = "holds what this version of AICP cannot read: check it with `aicp db check`"
        return StorageError(f"The database {path} {told} ({error}).")
    kind = FileDamaged if primary_code(error) in _OF_DAMAGE else StorageError
    return kind(_told(error, path))


def opening_error(error: Exception, path: Path) -> AicpError:
    """What to raise for an error while the database was being opened: often it is the wrong one."""
    if primary_code(error) in _OF_RIGHTS or isinstance(error, OSError):
        closed = _closed(path)
        if closed is not None:
            return SettingsError(_told_of_rights(error, path, closed))
    if isinstance(error, OSError):
        told = error.strerror or str(error)
        return SettingsError(f"The database {path} cannot be used: {told}; choose a file in a directory of yours.")
    told = _told(error, path)
    return SettingsError(told) if primary_code(error) in _OF_SETTINGS else StorageError(told)


def _closed(path: Path) -> Path | None:
    """What of an existing database this user cannot read or write: the file, one beside it, or their directory."""
    beside = (path.with_name(path.name + suffix) for suffix in _BESIDE)
    places = (path, *beside, path.parent) if path.exists() else ()
    return next((place for place in places if place.exists() and not os.access(place, os.R_OK | os.W_OK)), None)


def _told_of_rights(error: Exception, path: Path, closed: Path) -> str:
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    what = "it" if closed == path else str(closed)
    lacks, needs = ("written", "writable") if os.access(closed, os.R_OK) else ("read", "readable and writable")
    mend = f"make the file, those beside it and their directory {needs} for this user"
    return f"The database {path} cannot be used: {what} cannot be {lacks} by this user ({why}): {mend}."


def _told(error: Exception, path: Path) -> str:
    what = _SENTENCES.get(primary_code(error), "SQLite refused.")
    detail = f" ({' '.join(str(error).split())[:200]})"
    return f"The database {path} cannot be used: {what[:-1]}{detail}."
