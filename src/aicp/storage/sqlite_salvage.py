"""Goes on knowingly without what cannot be read of a damaged SQLite database."""

import os
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

import msgspec

from aicp.errors import SettingsError, StorageError
from aicp.storage.sqlite_backup import Checked, check_database, locked, put_in_place
from aicp.storage.sqlite_connections import connect
from aicp.storage.sqlite_faults import SqliteErrors, opening_error
from aicp.storage.sqlite_soundness import integrity_problems
from aicp.storage.sqlite_wal import LogDamage, find_log_damage, log_of


class Salvaged(msgspec.Struct, frozen=True):
    """What a salvage did.

    Attributes:
        path: The database; every commit up to the first that cannot be read is in it.
        kept: Where the damaged database is now, with its log.
        lost: What was given up, a sentence without a full stop.
        revision: Of its schema.
        counts: How many of each thing it holds.
        problems: What is still wrong with rows in it, at most 100 sentences.
    """

    path: Path
    kept: Path
    lost: str
    revision: str | None
    counts: dict[str, int]
    problems: tuple[str, ...]


def salvage_database(path: Path) -> Salvaged:
    """Put what can be read of a damaged database in its place, and keep the damaged one beside it.

    Commits in the log behind the first one that cannot be verified are given up, and indices are built anew. It is like
    a restore of a backup from before the damage: epochs rise by a million.

    Raises:
        SettingsError: There is no such database, it is in use, or it is sound.
        StorageError: What can be read is not sound either; the database is as it was.
    """
    if not path.is_file():
        raise SettingsError(f"There is no database {path}; name the file of one.")
    path = path.resolve()
    try:
        with locked(path) as lock, tempfile.TemporaryDirectory(prefix=f"{path.name}.", dir=path.parent) as directory:
            copy = Path(directory, path.name)
            lost = _copy_readable(path, copy, find_log_damage(path, boot_before=lock.note()))
            kept = put_in_place(copy, path).kept or path
    except (*SqliteErrors, OSError) as error:
        raise opening_error(error, path) from error
    return _salvaged(check_database(path), kept, lost)


def _copy_readable(path: Path, copy: Path, damage: LogDamage | None) -> str:
    """A copy with the good part of the log, and with sound indices; returns what it lacks."""
    shutil.copyfile(path, copy)
    if log_of(path).exists():
        shutil.copyfile(log_of(path), log_of(copy))
        if damage is not None:
            os.truncate(log_of(copy), damage.good_bytes)
    problems = _mend(copy)
    if damage is None and not problems:
        raise SettingsError(f"The database {path} is sound: there is nothing to salvage.")
    return damage.told if damage is not None else problems[0]


def _mend(copy: Path) -> list[str]:
    with closing(connect(copy)) as connection:
        problems = integrity_problems(connection)
        if problems:
            connection.execute("REINDEX")
            if remaining := integrity_problems(connection, 1):
                told = f"What can be read of the database is not sound either ({remaining[0]})"
                raise StorageError(f"{told}: restore a backup with `aicp db restore`.")
    return problems


def _salvaged(checked: Checked, kept: Path, lost: str) -> Salvaged:
    return Salvaged(checked.path, kept, lost, checked.revision, checked.counts, checked.problems)
