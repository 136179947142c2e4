"""API keys and the audit log on PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aicp.storage.postgres_access import PostgresApiKeys, PostgresAuditLog
from tests.integration.postgres_kit import database, shared_server
from tests.unit.access_contract import AccessContract, AccessStores


class TestPostgresKeepsTheContract(AccessContract):
    @asynccontextmanager
    async def stores(self) -> AsyncIterator[AccessStores]:
        url = shared_server().fresh_url()
        one, two = database(url), database(url)
        await one.open()
        await two.open()
        try:
            yield AccessStores(
                PostgresApiKeys(one), PostgresAuditLog(one), lambda: (PostgresApiKeys(two), PostgresAuditLog(two))
            )
        finally:
            await two.close()
            await one.close()
