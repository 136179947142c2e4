"""Chains of a newer version in a PostgreSQL database, whose replicas are of different versions."""

from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from aicp.ports import Journal
from aicp.storage.postgres import PostgresJournal
from aicp.storage.postgres_database import PostgresDatabase
from aicp.storage.postgres_row_checks import find_damaged_rows
from aicp.storage.row_checksums import fact_checksum, placed
from tests.integration.postgres_kit import run, shared_server, until
from tests.unit import level_contract
from tests.unit.sqlite_kit import submitted, task_ended

_newer_version = level_contract._newer_version


class TestPostgresLevels(level_contract.LevelContract):
    claimed_at_once = (2, 1)

    @pytest.fixture(autouse=True)
    def _url(self) -> None:
        self.url = shared_server().fresh_url()

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        run(main)

    @asynccontextmanager
    async def opened(self, level: int) -> AsyncIterator[Journal]:
        journal = PostgresJournal(PostgresDatabase(self.url, level=level))
        await journal.open()
        try:
            yield journal
        finally:
            await journal.close()

    async def ask(self, sql: str, *values: Any) -> Sequence[Any]:
        connection = await asyncpg.connect(self.url)
        try:
            rows: Sequence[Any] = await connection.fetch(sql, *values)
            return rows
        finally:
            await connection.close()

    async def problems(self) -> Sequence[str]:
        connection = await asyncpg.connect(self.url)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await find_damaged_rows(connection)
        finally:
            await connection.close()

    def test_every_replica_says_its_level(self) -> None:
        async def main() -> None:
            async with self.opened(3) as first, self.opened(0) as second:
                assert isinstance(first, PostgresJournal)
                assert isinstance(second, PostgresJournal)
                for replicas in (first._database.replicas, second._database.replicas):
                    await until(lambda replicas=replicas: len(replicas.alive) == 2)  # type: ignore[misc]
                    assert [replica.level for replica in replicas.alive] == [3, 0]

        self.run(main())

    def test_chain_that_cannot_be_read_is_left_to_a_replica_that_can(self) -> None:
        """Its row does not say so: the level of whoever wrote it was wrong."""

        async def main() -> None:
            async with self.opened(0) as leaving:
                for name in ("c1", "c2"):
                    await leaving.submit(submitted(name))
                await leaving.append([task_ended("c1", "t0")])
            (known,) = await self.ask("SELECT fact FROM facts WHERE chain_id = 'c1' AND seq = 1")
            await self._write("c1", known[0].replace("task_ended", "task_unheard_of"))
            async with self.opened(0) as older:
                assert [record.submitted.chain_id for record in await older.claim(10)] == ["c2"]
                owners = await self.ask("SELECT owner, epoch FROM chains ORDER BY chain_id")
                assert owners[0]["owner"] != owners[1]["owner"]
                assert [row["epoch"] for row in owners] == [1, 2]
                assert list(await older.claim(10)) == []
                await self._write("c1", known[0])
                assert list(await older.claim(10)) == [], "it looks at it each second"
                async with self.opened(0) as newer:
                    (record,) = await newer.claim(10)
                    assert (record.submitted.chain_id, record.epoch) == ("c1", 2)
                    await newer.append([task_ended("c1", "t1")], 2)

        self.run(main())

    async def _write(self, chain_id: str, fact: str) -> None:
        stored = placed(fact_checksum(chain_id, None, fact.encode()), 1)
        update = "UPDATE facts SET fact = $1, checksum = $2 WHERE chain_id = $3 AND seq = 1"
        await self.ask(update, fact, stored, chain_id)
