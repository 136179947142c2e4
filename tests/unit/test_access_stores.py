"""API keys and the audit log, in memory and on SQLite."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aicp.storage.memory_access import MemoryApiKeys, MemoryAuditLog
from aicp.storage.sqlite_access import SqliteApiKeys, SqliteAuditLog
from tests.unit.access_contract import AccessContract, AccessStores
from tests.unit.sqlite_kit import database


class TestMemoryKeepsTheContract(AccessContract):
    @asynccontextmanager
    async def stores(self) -> AsyncIterator[AccessStores]:
        keys, audit = MemoryApiKeys(), MemoryAuditLog()
        yield AccessStores(keys, audit, lambda: (keys, audit))


class TestSqliteKeepsTheContract(AccessContract):
    @asynccontextmanager
    async def stores(self) -> AsyncIterator[AccessStores]:
        with tempfile.TemporaryDirectory() as directory:
            file = database(Path(directory) / "a.db")
            await file.open()
            try:
                yield AccessStores(
                    SqliteApiKeys(file), SqliteAuditLog(file), lambda: (SqliteApiKeys(file), SqliteAuditLog(file))
                )
            finally:
                await file.close()
