"""Damaged rows of a SQLite file."""

import sqlite3
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from aicp.model.progress import ClockState
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_access import SqliteApiKeys, SqliteAuditLog
from aicp.storage.sqlite_clock import SqliteClockRecord
from aicp.storage.sqlite_connections import connect
from aicp.storage.sqlite_database import SqliteDatabase
from aicp.storage.sqlite_orders import SqliteOrders
from aicp.storage.sqlite_registrations import SqliteRegistrations
from aicp.storage.sqlite_row_checks import find_damaged_rows
from tests.unit.newer_rows_contract import NewerRowsContract
from tests.unit.row_damage_contract import DiskStores, RowDamageContract
from tests.unit.sqlite_kit import AT, run


class TestSqliteDamage(NewerRowsContract, RowDamageContract):
    def run(self, main: Coroutine[Any, Any, None]) -> None:
        run(main)

    def place(self, number: int) -> str:
        return "?"

    def not_utf8(self, column: str) -> str:
        return f"CAST(x'ff' || substr({column}, 2) AS TEXT)"

    @asynccontextmanager
    async def stores(self) -> AsyncIterator[DiskStores]:
        with TemporaryDirectory() as directory:
            path, found = Path(directory, "a.db"), list[tuple[str, str]]()
            database = SqliteDatabase(path, on_damage=lambda damage: found.append((damage.table, damage.row)))
            journal = SqliteJournal(database)
            await journal.open()
            await SqliteClockRecord(database).update(lambda _, __: ClockState(AT))
            try:
                with closing(connect(path)) as connection:
                    yield _stores(database, journal, connection, found)
            finally:
                await journal.close()


def _stores(
    database: SqliteDatabase, journal: SqliteJournal, connection: sqlite3.Connection, found: list[tuple[str, str]]
) -> DiskStores:
    connection.execute("PRAGMA synchronous = OFF")

    async def ask(sql: str, *params: Any) -> Sequence[Any]:
        return connection.execute(sql, params).fetchall()

    async def check() -> Sequence[str]:
        return find_damaged_rows(connection)

    tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    columns = {table: tuple(name for name in _columns(connection, table)) for (table,) in tables}
    registrations, orders = SqliteRegistrations(database), SqliteOrders(database)
    keys, audit = SqliteApiKeys(database), SqliteAuditLog(database)
    return DiskStores(journal, registrations, orders, keys, audit, ask, columns, check, found)


def _columns(connection: sqlite3.Connection, table: str) -> list[str]:
    return [name for _, name, *_ in connection.execute(f"PRAGMA table_info({table})")]
