"""Damaged rows of a PostgreSQL database."""

from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from aicp.model.notice import Order
from aicp.model.progress import ClockState
from aicp.model.task import TaskStatus
from aicp.ports import ChainQuery
from aicp.storage.postgres import PostgresJournal
from aicp.storage.postgres_access import PostgresApiKeys, PostgresAuditLog
from aicp.storage.postgres_address import parse_postgres_url
from aicp.storage.postgres_clock import PostgresClockRecord
from aicp.storage.postgres_database import PostgresDatabase
from aicp.storage.postgres_orders import PostgresOrders
from aicp.storage.postgres_registrations import PostgresRegistrations
from aicp.storage.postgres_row_checks import find_damaged_rows
from aicp.storage.postgres_server import PostgresServer
from aicp.storage.row_checksums import checksum
from tests.integration.postgres_kit import claim_all, opened, run, shared_server
from tests.postgres_server import ask
from tests.unit.newer_rows_contract import NewerRowsContract
from tests.unit.row_damage_contract import DiskStores, RowDamageContract
from tests.unit.sqlite_kit import AT, submitted, task_ended

OF_AN_OLDER_REPLICA = (
    """INSERT INTO facts (chain_id, seq, fact)
    SELECT 'c2', 2, replace(fact, '"c1"', '"c2"') FROM facts WHERE chain_id = 'c1' AND seq = 3""",
    (
        "UPDATE chains SET status = 'COMPLETED', owner = NULL, ended_at = "
        "(SELECT ended_at FROM chains WHERE chain_id = 'c1') WHERE chain_id = 'c2'"
    ),
    "UPDATE chains SET epoch = epoch + 1 WHERE chain_id = 'c2'",
    "UPDATE registrations SET profile = replace(profile, 'a.example', 'b.example'), saved_at = clock_timestamp()",
    "UPDATE agent_orders SET command = 'disable', ordered_at = clock_timestamp()",
    "UPDATE api_keys SET revoked_at = clock_timestamp() WHERE key_id = 'k1'",
)
"""What code of revision 0007 does to rows of code of 0008."""

BINARY_CAST = """
    DO $$ BEGIN
        IF NOT EXISTS (SELECT 1 FROM pg_cast WHERE (castsource, casttarget) = ('bytea'::regtype, 'text'::regtype)) THEN
            CREATE CAST (bytea AS text) WITHOUT FUNCTION;
        END IF;
    END $$
"""
NOT_UTF8 = "(('\\xff'::bytea || convert_to(substr({}, 2), 'UTF8'))::text)"

COLUMNS = """
    SELECT table_name, array_agg(column_name::text ORDER BY ordinal_position) FROM information_schema.columns
    WHERE table_schema = current_schema() GROUP BY table_name
"""


class TestPostgresDamage(NewerRowsContract, RowDamageContract):
    def run(self, main: Coroutine[Any, Any, None]) -> None:
        run(main)

    def place(self, number: int) -> str:
        return f"${number}"

    def not_utf8(self, column: str) -> str:
        return NOT_UTF8.format(column)

    @asynccontextmanager
    async def stores(self) -> AsyncIterator[DiskStores]:
        url, found = shared_server().fresh_url(), list[tuple[str, str]]()
        database = PostgresDatabase(url, on_damage=lambda damage: found.append((damage.table, damage.row)))
        journal = PostgresJournal(database)
        await journal.open()
        connection, _ = await PostgresServer(parse_postgres_url(url)).look()
        try:
            await connection.execute(BINARY_CAST)
            await PostgresClockRecord(database).update(lambda _, __: ClockState(AT))
            await connection.execute("SET synchronous_commit = off")
            yield await _stores(database, journal, connection, found)
        finally:
            await connection.close()
            await journal.close()

    async def populate(self, stores: DiskStores) -> None:
        await super().populate(stores)
        assert isinstance(stores.journal, PostgresJournal)
        earlier = "INSERT INTO cancel_requests (chain_id, at, checksum) VALUES ('c3', $1, $2)"
        await stores.ask(earlier, AT, checksum("c3"))

    def test_what_an_older_replica_writes_meanwhile_is_accepted(self) -> None:
        """Its statements name none of the new columns; the newer one goes on with its own checksums."""

        async def use(stores: DiskStores) -> None:
            for written in OF_AN_OLDER_REPLICA:
                await stores.ask(written)
            assert list(await stores.check()) == []
            assert [(chain.chain_id, chain.status) for chain in await stores.journal.list_chains(ChainQuery())] == [
                ("c3", TaskStatus.RUNNING), ("c2", TaskStatus.COMPLETED), ("c1", TaskStatus.COMPLETED),
            ]  # fmt: skip
            record = await stores.journal.read("c2")
            assert record is not None
            assert len(record.facts) == 2
            assert [agent.endpoint for agent in await stores.registrations.load()] == ["https://b.example/"] * 2
            assert [ordered.order for ordered in await stores.orders.load()] == [Order.DISABLE]
            assert stores.found == []
            await stores.journal.append([task_ended("c3", "t1", {})])
            assert await stores.journal.prune(AT + timedelta(days=1), 10) == 2
            assert list(await stores.check()) == []

        self._with_stores(use)


@pytest.mark.parametrize(("table", "column"), [("facts", "fact"), ("chains", "chain_id"), ("chains", "name")])
def test_chain_that_is_not_utf8_keeps_no_other_from_being_claimed(table: str, column: str) -> None:
    async def main() -> None:
        url = shared_server().fresh_url()
        async with opened(url) as leaving:
            for name in ("c1", "c2"):
                await leaving.submit(submitted(name))
            await ask(url, BINARY_CAST)
            await ask(url, f"UPDATE {table} SET {column} = {NOT_UTF8.format(column)} WHERE chain_id = 'c1'")
        async with opened(url) as journal:
            taken = {record.submitted.chain_id for record in await claim_all(journal, 1)}
            assert taken | {record.submitted.chain_id for record in await journal.claim(10)} >= {"c2"}

    run(main())


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
