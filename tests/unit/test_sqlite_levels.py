"""Chains of a newer version in a SQLite file."""

from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from aicp.ports import Journal
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_connections import connect
from aicp.storage.sqlite_database import SqliteDatabase
from aicp.storage.sqlite_row_checks import find_damaged_rows
from tests.unit import level_contract
from tests.unit.sqlite_kit import run

_newer_version = level_contract._newer_version


class TestSqliteLevels(level_contract.LevelContract):
    claimed_at_once = (1, 1, 1)

    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path) -> None:
        self.path = tmp_path / "a.db"

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        run(main)

    @asynccontextmanager
    async def opened(self, level: int) -> AsyncIterator[Journal]:
        journal = SqliteJournal(SqliteDatabase(self.path, level=level))
        await journal.open()
        try:
            yield journal
        finally:
            await journal.close()

    async def ask(self, sql: str) -> Sequence[Any]:
        with closing(connect(self.path)) as connection:
            return connection.execute(sql).fetchall()

    async def problems(self) -> Sequence[str]:
        with closing(connect(self.path)) as connection:
            return find_damaged_rows(connection)
