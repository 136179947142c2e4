"""Damaged rows of a PostgreSQL database."""

from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from aicp.model.progress import ClockState
from aicp.storage.postgres import PostgresJournal
from aicp.storage.postgres_access import PostgresApiKeys, PostgresAuditLog
from aicp.storage.postgres_clock import PostgresClockRecord
from aicp.storage.postgres_database import PostgresDatabase
from aicp.storage.postgres_orders import PostgresOrders
from aicp.storage.postgres_registrations import PostgresRegistrations
from aicp.storage.postgres_row_checks import find_damaged_rows
from tests.integration.postgres_kit import run, shared_server
from tests.unit.row_damage_contract import DamageContract, DiskStores, populate
from tests.unit.sqlite_kit import AT

COLUMNS = """
    SELECT table_name, array_agg(column_name::text ORDER BY ordinal_position) FROM information_schema.columns
    WHERE table_schema = current_schema() GROUP BY table_name
"""


class TestPostgresDamage(DamageContract):
    def run(self, main: Coroutine[Any, Any, None]) -> None:
        run(main)

    def place(self, number: int) -> str:
        return f"${number}"

    @asynccontextmanager
    async def stores(self) -> AsyncIterator[DiskStores]:
        url, found = shared_server().fresh_url(), list[tuple[str, str]]()
        database = PostgresDatabase(url, on_damage=lambda damage: found.append((damage.table, damage.row)))
        journal = PostgresJournal(database)
        await journal.open()
        connection = await asyncpg.connect(url)
        try:
            await PostgresClockRecord(database).update(lambda _, __: ClockState(AT))
            await connection.execute("SET synchronous_commit = off")
            yield await _stores(database, journal, connection, found)
        finally:
            await connection.close()
            await journal.close()

    async def populate(self, stores: DiskStores) -> None:
        await populate(stores)
        assert isinstance(stores.journal, PostgresJournal)
        assert await stores.journal._database.replicas.ask_cancel("c3")


async def _stores(
    database: PostgresDatabase, journal: PostgresJournal, connection: Any, found: list[tuple[str, str]]
) -> DiskStores:
    async def ask(sql: str, *params: Any) -> Sequence[Any]:
        rows: Sequence[Any] = await connection.fetch(sql, *params)
        return rows

    async def check() -> Sequence[str]:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return await find_damaged_rows(connection)

    columns = {table: tuple(names) for table, names in await connection.fetch(COLUMNS)}
    registrations, orders = PostgresRegistrations(database), PostgresOrders(database)
    keys, audit = PostgresApiKeys(database), PostgresAuditLog(database)
    return DiskStores(journal, registrations, orders, keys, audit, ask, columns, check, found)
