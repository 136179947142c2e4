"""The care of a database that no node of this process has open: what `aicp db` does, to the one that is meant."""

import os
from collections.abc import Mapping
from pathlib import Path

from aicp.runtime.database_url import choose_database
from aicp.runtime.settings import data_dir
from aicp.storage.sqlite_backup import (
    BackedUp,
    Checked,
    Restored,
    Tell,
    Upgraded,
    backup_database,
    check_database,
    restore_database,
    upgrade_database,
)

__all__ = [
    "BackedUp",
    "Checked",
    "Restored",
    "Tell",
    "Upgraded",
    "backup",
    "check",
    "database_path",
    "restore",
    "upgrade",
]


def database_path(url: str | None, environ: Mapping[str, str] | None = None) -> Path:
    """The file that a URL names; without one, the file of `AICP_DATABASE_URL` or of the data directory.

    Raises:
        SettingsError: The URL is of no database that AICP can use.
    """
    env = os.environ if environ is None else environ
    return choose_database(url, env, data_dir(env)).path


def upgrade(url: str | None) -> Upgraded:
    """Bring the database at `url`, as `database_path` reads it, to the newest schema, or make it.

    Raises:
        SettingsError: It is in use, unwritable, of a newer version, or not AICP's.
        StorageError: The disk failed; it is as it was.
    """
    return upgrade_database(database_path(url))


def check(url: str | None) -> Checked:
    """Read all of the database at `url` and say what is wrong with it; it may be in use.

    Raises:
        SettingsError: There is none, or it cannot be opened.
        StorageError: The disk failed.
    """
    return check_database(database_path(url))


def backup(url: str | None, file: Path, tell: Tell | None = None) -> BackedUp:
    """Copy the database at `url` as of one moment into a new file; `tell` hears pages done and pages in all.

    Raises:
        SettingsError: There is none, or the copy would overwrite something, or cannot be written.
        StorageError: The disk failed, or the database is damaged; there is no copy.
    """
    return backup_database(database_path(url), file, tell)


def restore(url: str | None, file: Path) -> Restored:
    """Put a backup in the place of the database at `url`, whole or not at all; what was there is kept beside it.

    Raises:
        SettingsError: There is no such backup, or it is unsound, or of a newer version; or the database is in use.
        StorageError: The disk failed; the database is as it was.
    """
    return restore_database(file, database_path(url))
