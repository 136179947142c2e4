"""Refuses to work on a damaged SQLite file: what its log lacks, and what SQLite itself finds wrong with its pages."""

import sqlite3
from pathlib import Path

from aicp.errors import StorageError
from aicp.storage.sqlite_wal import find_log_damage, log_of

CHECKED_AT_START_BYTES = 64 << 20
PROBLEMS_MAX = 100
_TOLD_MAX = 200
_OF_PAGES = "*** in database main ***"

_ADVICE = (
    "Nothing was changed. Keep the file with its -wal and -shm, and restore a backup with `aicp db restore`, or go on "
    "without what cannot be read with `aicp db salvage`."
)


def refuse_damaged_log(path: Path, boot_before: str) -> None:
    """Look at the write-ahead log before SQLite does; cheap when there is none, some 150 MiB a second otherwise.

    Args:
        path: The main file.
        boot_before: The boot in which the database was opened last; empty when unknown.

    Raises:
        StorageError: It lacks commits that were acknowledged.
        OSError: It cannot be read.
    """
    if (told := log_problem(path, boot_before)) is not None:
        raise StorageError(f"The database {path} is damaged: {told}. {_ADVICE}")


def log_problem(path: Path, boot_before: str) -> str | None:
    """What `refuse_damaged_log` refuses a database for, without a full stop; None when its log is whole.

    Raises:
        OSError: It cannot be read.
    """
    damage = find_log_damage(path, boot_before=boot_before)
    return None if damage is None else f"its write-ahead log {log_of(path)} is not whole: {damage.told}"


def refuse_damaged_file(connection: sqlite3.Connection, path: Path) -> bool:
    """Have SQLite check every page and every index of a file of at most 64 MiB, which takes about 0.2 s.

    Returns:
        True when it was checked; False when the file is larger.

    Raises:
        StorageError: Something is wrong with it.
        sqlite3.Error: It cannot be read.
    """
    (pages,), (page_size,) = (connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    if pages * page_size > CHECKED_AT_START_BYTES:
        return False
    if problems := integrity_problems(connection, 1):
        raise StorageError(f"The database {path} is damaged: {problems[0][:_TOLD_MAX]}. {_ADVICE}")
    return True


def integrity_problems(connection: sqlite3.Connection, what: int | str = PROBLEMS_MAX) -> list[str]:
    """What SQLite finds wrong with the pages and indices of a file, each in one line; empty when it is sound.

    Args:
        connection: To the file.
        what: At most so many problems of the whole file, or those of one table.

    Raises:
        sqlite3.Error: It cannot be read.
    """
    rows = connection.execute(f"PRAGMA integrity_check({what})").fetchall()
    lines = [" ".join(str(problem).removeprefix(_OF_PAGES).split()) for (problem,) in rows if problem != "ok"]
    return [line for line in lines if line]
