"""Which schema a database has, and how it gets the newest: one cheap query when there is nothing to do."""

import sqlite3
from enum import Enum, auto
from importlib.resources import files
from pathlib import Path

import msgspec

from aicp.errors import SettingsError
from aicp.storage.sqlite_faults import primary_code

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010")
"""Every revision this version of AICP knows, oldest first; a test holds them to the migrations."""

_VERSION = "SELECT version_num FROM alembic_version"
_TABLES = "SELECT count(*) FROM sqlite_schema"
_SQLITE_MIN = (3, 35)


class Standing(Enum):
    """How a database stands to this version of AICP."""

    EMPTY = auto()
    OLDER = auto()
    CURRENT = auto()
    NEWER = auto()
    FOREIGN = auto()


class Schema(msgspec.Struct, frozen=True):
    """What was found in a database.

    Attributes:
        standing: How it stands to this version of AICP.
        revision: Its revision; None when it has none.
    """

    standing: Standing
    revision: str | None = None


def recognise(connection: sqlite3.Connection) -> Schema:
    """Look, and change nothing."""
    try:
        versions = connection.execute(_VERSION).fetchall()
    except sqlite3.OperationalError as error:
        # SQLITE_ERROR: no such table, or one of another shape. Any other code is trouble that says nothing of tables.
        if primary_code(error) != sqlite3.SQLITE_ERROR:
            raise
        (tables,) = connection.execute(_TABLES).fetchone()
        return Schema(Standing.FOREIGN if tables else Standing.EMPTY)
    if len(versions) != 1:
        return Schema(Standing.FOREIGN)
    return _of_revision(versions[0][0])


def make_current(connection: sqlite3.Connection, path: Path) -> Schema:
    """Bring a database to the newest schema, all or nothing; returns what was found before.

    Raises:
        SettingsError: It is of a newer version, of another program, or this Python's SQLite is too old.
        sqlite3.Error: It could not be changed; it is as it was.
    """
    if sqlite3.sqlite_version_info < _SQLITE_MIN:
        raise SettingsError(f"This Python has SQLite {sqlite3.sqlite_version}; AICP needs 3.35 or later.")
    found = recognise(connection)
    refuse_unusable(found, path)
    if found.standing is Standing.EMPTY:
        _make_tables(connection)
    elif found.standing is Standing.OLDER:
        # Here alone, so that a start pays for Alembic only when there is work for it.
        from aicp.storage.migrations.upgrade import upgrade  # noqa: PLC0415 - see above

        upgrade(connection)
    return found


def refuse_unusable(found: Schema, path: Path) -> None:
    """Refuse what this version can neither use nor bring up to date.

    Raises:
        SettingsError: It is of a newer version, or of another program.
    """
    if found.standing is Standing.NEWER:
        raise SettingsError(
            f"The database {path} is of a newer version of AICP (revision {found.revision}, this one knows up to "
            f"{REVISIONS[-1]}): upgrade AICP, or restore a backup of this version."
        )
    if found.standing is Standing.FOREIGN:
        raise SettingsError(f"The database {path} belongs to another program; name another file.")


def _of_revision(revision: str) -> Schema:
    if revision == REVISIONS[-1]:
        return Schema(Standing.CURRENT, revision)
    return Schema(Standing.OLDER if revision in REVISIONS else Standing.NEWER, revision)


def _make_tables(connection: sqlite3.Connection) -> None:
    script = files("aicp.storage.migrations").joinpath("schema.sql").read_text(encoding="utf-8")
    try:
        connection.executescript(f"BEGIN IMMEDIATE;\n{script}COMMIT;")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
