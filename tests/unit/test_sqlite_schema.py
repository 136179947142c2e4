"""Schemas: what is new or current costs one query, what is older is brought along whole, what is newer is refused."""

import io
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory

from aicp.errors import SettingsError, StorageError
from aicp.storage.migrations.upgrade import fresh_schema, revisions, upgrade
from aicp.storage.sqlite_connections import connect
from aicp.storage.sqlite_schema import REVISIONS, Standing, make_current, recognise
from tests.unit.sqlite_kit import Disk, ask, database, opened, refused, run, submitted, task_ended

SHAPE = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY type, name"


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    with closing(connect(tmp_path / "a.db")) as connection:
        yield connection


def shape_of(connection: sqlite3.Connection) -> list[tuple[str, ...]]:
    rows = connection.execute(SHAPE).fetchall()
    return [(*row[:3], re.sub(r"\s+", " ", row[3] or "").strip()) for row in rows]


def test_every_migration_is_known_in_its_order() -> None:
    assert tuple(revisions()) == REVISIONS


def test_new_database_is_what_all_migrations_together_make(connection: sqlite3.Connection) -> None:
    make_current(connection, Path("a.db"))
    with closing(connect(Path(":memory:"))) as migrated:
        upgrade(migrated)
        assert not migrated.in_transaction
        assert shape_of(connection) == shape_of(migrated)
        assert recognise(connection) == recognise(migrated)


def test_schema_file_is_the_one_the_migrations_make() -> None:
    written = files("aicp.storage.migrations").joinpath("schema.sql").read_text(encoding="utf-8")
    assert written == fresh_schema(), "run: python -m aicp.storage.migrations"


def test_new_and_current_databases_are_opened_without_alembic(tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\nfrom pathlib import Path\n"
        "from aicp.storage.sqlite_database import SqliteDatabase\n"
        "async def main():\n"
        "    for _ in range(2):\n"
        "        database = SqliteDatabase(Path(sys.argv[1]))\n"
        "        await database.open()\n"
        "        await database.close()\n"
        "asyncio.run(main())\n"
        "print(sorted({'alembic', 'sqlalchemy', 'mako', 'aicp.storage.sqlite_database'} & sys.modules.keys()))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "a.db")], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ended.stdout, ended.stderr) == ("['aicp.storage.sqlite_database']\n", "")


def test_current_database_is_recognised_by_one_query(tmp_path: Path) -> None:
    disk = Disk()
    with closing(disk.connect(tmp_path / "a.db")) as connection:
        make_current(connection, tmp_path / "a.db")
        disk.statements.clear()
        assert make_current(connection, tmp_path / "a.db").standing is Standing.CURRENT
        assert disk.statements == ["SELECT version_num FROM alembic_version"]


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_older_database_is_brought_along_with_everything_in_it(tmp_path: Path, revision: str) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        async with opened(path) as journal:
            await journal.submit(submitted("c1"))
            await journal.append([task_ended("c1", "t0", "x" * 100_000)])
            before = await journal.read("c1")
        take_back(path, revision)
        async with opened(path) as journal:
            assert await journal.read("c1") == before
            await journal.append([task_ended("c1", "t1")])
        assert ask(path, "SELECT version_num FROM alembic_version") == REVISIONS[-1]
        with closing(connect(path)) as connection, closing(connect(Path(":memory:"))) as fresh:
            make_current(fresh, path)
            assert shape_of(connection) == shape_of(fresh)

    run(main())


def take_back(path: Path, revision: str) -> None:
    """Make a database the older one it would have been: its tables by the older steps, its rows copied into them."""
    newer = path.rename(path.with_suffix(".newer"))
    with closing(connect(path)) as older:
        upgrade(older, revision)
        older.execute("ATTACH ? AS newer", (str(newer),))
        tables = older.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name != 'alembic_version'")
        for (table,) in tables.fetchall():
            columns = ", ".join(f'"{name}"' for _, name, *_ in older.execute(f"PRAGMA main.table_info({table})"))
            older.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM newer.{table}")
        assert recognise(older).standing is Standing.OLDER


@pytest.mark.parametrize("at", ["CREATE TABLE registrations", "UPDATE alembic_version"])
def test_migration_that_fails_leaves_the_database_as_it_was(tmp_path: Path, at: str) -> None:
    async def main() -> None:
        path, disk = tmp_path / "a.db", ForbiddingDisk(at)
        with closing(connect(path)) as connection:
            upgrade(connection, "0001")
            before = shape_of(connection)
        assert "cannot be used" in await refused(database(path, disk).open(), StorageError)
        with closing(connect(path)) as connection:
            assert shape_of(connection) == before
            assert recognise(connection).revision == "0001"
        async with opened(path):
            assert ask(path, "SELECT version_num FROM alembic_version") == REVISIONS[-1]

    run(main())


class ForbiddingDisk(Disk):
    """A disk that fails one statement from inside SQLite, however it got there."""

    def __init__(self, at: str) -> None:
        super().__init__()
        self._verb, *_, self._table = at.split()

    def connect(self, path: Path) -> sqlite3.Connection:
        connection = super().connect(path)
        connection.set_authorizer(self._authorize)
        return connection

    def _authorize(self, action: int, table: str | None, *_: str | None) -> int:
        forbidden = sqlite3.SQLITE_CREATE_TABLE if self._verb == "CREATE" else sqlite3.SQLITE_UPDATE
        return sqlite3.SQLITE_DENY if (action, table) == (forbidden, self._table) else sqlite3.SQLITE_OK


def test_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        async with opened(path):
            pass
        with closing(connect(path)) as connection:
            connection.execute("UPDATE alembic_version SET version_num = '9999'")
            before = shape_of(connection)
        sentence = await refused(database(path).open(), SettingsError)
        assert f"The database {path} is of a newer version of AICP (revision 9999" in sentence
        assert "upgrade AICP, or restore a backup of this version" in sentence
        with closing(connect(path)) as connection:
            assert shape_of(connection) == before
            assert recognise(connection).revision == "9999"

    run(main())


@pytest.mark.parametrize(
    "table",
    ["songs (title TEXT)", "alembic_version (other TEXT)", "alembic_version (version_num TEXT)"],
)
def test_database_of_another_program_is_refused_and_left_alone(tmp_path: Path, table: str) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        with closing(connect(path)) as connection:
            connection.execute(f"CREATE TABLE {table}")
            before = shape_of(connection)
        sentence = await refused(database(path).open(), SettingsError)
        assert sentence == f"The database {path} belongs to another program; name another file."
        with closing(connect(path)) as connection:
            assert shape_of(connection) == before

    run(main())


def test_empty_file_becomes_a_database(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "a.db").write_bytes(b"")
        async with opened(tmp_path / "a.db") as journal:
            assert await journal.submit(submitted("c1")) == "c1"

    run(main())


def test_too_old_sqlite_is_refused(connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(SettingsError, match=r"AICP needs 3\.35 or later"):
        make_current(connection, Path("a.db"))


def test_migrations_make_postgresql_tables_too() -> None:
    """As SQL text: what PostgreSQL itself says of it is for the tests of its journal."""
    script = ScriptDirectory(str(files("aicp.storage").joinpath("migrations")))
    written = io.StringIO()
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": written})
    with Operations.context(context):
        for revision in reversed(list(script.walk_revisions())):
            revision.module.upgrade()
    sql = " ".join(written.getvalue().split())
    assert "number BIGINT GENERATED BY DEFAULT AS IDENTITY" in sql
    assert "submitted_at TIMESTAMP WITH TIME ZONE NOT NULL" in sql
    assert "result_digest BYTEA" in sql
    assert "ON chains (number) WHERE ended_at IS NULL" in sql
    assert "WITHOUT ROWID" not in sql
