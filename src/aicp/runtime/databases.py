"""The care of a database that no node of this process has open: what `aicp db` does, to the one that is meant."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from aicp.errors import SettingsError
from aicp.runtime.database_url import DatabaseUrl, PostgresServerUrl, choose_database
from aicp.runtime.settings import data_dir
from aicp.runtime.stores import require_postgres_driver
from aicp.storage.postgres_address import parse_postgres_url
from aicp.storage.postgres_reports import BackedUpPostgres, CheckedPostgres, RestoredPostgres, UpgradedPostgres
from aicp.storage.sqlite_backup import (
    BackedUp,
    Checked,
    Restored,
    Tell,
    Upgraded,
    backup_database,
    check_database,
    restore_database,
    sqlite_log_problem,
    upgrade_database,
)
from aicp.storage.sqlite_salvage import Salvaged, salvage_database

__all__ = [
    "BackedUp",
    "BackedUpPostgres",
    "Checked",
    "CheckedPostgres",
    "Restored",
    "RestoredPostgres",
    "Salvaged",
    "Tell",
    "Upgraded",
    "UpgradedPostgres",
    "backup",
    "check",
    "database_of",
    "restore",
    "salvage",
    "sqlite_log_problem",
    "upgrade",
]


def database_of(url: str | None, environ: Mapping[str, str] | None = None) -> DatabaseUrl:
    """What a URL names; without one, what `AICP_DATABASE_URL` does, else the file in the data directory.

    Raises:
        SettingsError: The URL is of no database that AICP can use.
    """
    env = os.environ if environ is None else environ
    return choose_database(url, env, data_dir(env))


def upgrade(url: str | None) -> Upgraded | UpgradedPostgres:
    """Bring the database at `url`, as `database_of` reads it, to the newest schema, or make it.

    A file must not be in use. A server's database may be: steps that its users could not bear wait until they ended.

    Raises:
        SettingsError: It is in use, unwritable, of a newer version, or not AICP's.
        StorageError: The disk or the server failed; it is as it was.
    """
    database = database_of(url)
    if isinstance(database, PostgresServerUrl):
        return _upgrade_postgres(database)
    return upgrade_database(database.path)


def check(url: str | None) -> Checked | CheckedPostgres:
    """Read all of the database at `url` and say what is wrong with it; it may be in use.

    Raises:
        SettingsError: There is none, or it cannot be opened.
        StorageError: The disk or the server failed.
    """
    database = database_of(url)
    if isinstance(database, PostgresServerUrl):
        return _check_postgres(database)
    return check_database(database.path)


def backup(url: str | None, file: Path, tell: Tell | None = None) -> BackedUp | BackedUpPostgres:
    """Copy the database at `url` as of one moment into a new file; `tell` hears how much is done, and of how much.

    Raises:
        SettingsError: There is none, or the copy would overwrite something, or cannot be written; or PostgreSQL's own
            programs, which it takes, are not there.
        StorageError: The disk or the server failed, or the database is damaged; there is no copy.
    """
    database = database_of(url)
    if isinstance(database, PostgresServerUrl):
        return _back_up_postgres(database, file, tell)
    return backup_database(database.path, file, tell)


def restore(url: str | None, file: Path) -> Restored | RestoredPostgres:
    """Put a backup in the place of the database at `url`, whole or not at all; what was there is kept beside it.

    Raises:
        SettingsError: There is no such backup, or it is unsound, or of a newer version; or the database is in use.
        StorageError: The disk or the server failed; the database is as it was.
    """
    database = database_of(url)
    if isinstance(database, PostgresServerUrl):
        return _restore_postgres(database, file)
    return restore_database(file, database.path)


def salvage(url: str | None) -> Salvaged:
    """Put what can be read of the damaged file at `url` in its place, and keep the damaged one beside it.

    Raises:
        SettingsError: There is none, it is in use, or it is sound; or the URL names a database of PostgreSQL.
        StorageError: What can be read is not sound either; the database is as it was.
    """
    database = database_of(url)
    if isinstance(database, PostgresServerUrl):
        raise SettingsError("Only a SQLite file can be salvaged: restore a backup with `aicp db restore`.")
    return salvage_database(database.path)


def _upgrade_postgres(database: PostgresServerUrl) -> UpgradedPostgres:
    require_postgres_driver()
    from aicp.storage.postgres_database import PostgresDatabase  # noqa: PLC0415 - whoever has a file pays for no driver

    shared = PostgresDatabase(database.url)
    upgraded = asyncio.run(shared.upgrade())
    return UpgradedPostgres(shared.place, upgraded.revision_before, upgraded.revision, upgraded.waiting)


def _check_postgres(database: PostgresServerUrl) -> CheckedPostgres:
    require_postgres_driver()
    from aicp.storage.postgres_check import check_database as check_postgres  # noqa: PLC0415 - as above

    return check_postgres(parse_postgres_url(database.url))


def _back_up_postgres(database: PostgresServerUrl, file: Path, tell: Tell | None) -> BackedUpPostgres:
    require_postgres_driver()
    from aicp.storage.postgres_backup import backup_database as backup_postgres  # noqa: PLC0415 - as above

    return backup_postgres(parse_postgres_url(database.url), file, tell)


def _restore_postgres(database: PostgresServerUrl, file: Path) -> RestoredPostgres:
    require_postgres_driver()
    from aicp.storage.postgres_backup import restore_database as restore_postgres  # noqa: PLC0415 - as above

    return restore_postgres(file, parse_postgres_url(database.url))
