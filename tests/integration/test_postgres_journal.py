"""What the journal on PostgreSQL promises."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aicp.ports import Journal
from aicp.storage.postgres import PostgresJournal
from aicp.testing import ManualClock
from aicp.testing.journal_contract import JournalContract
from tests.integration.postgres_kit import database, shared_server
from tests.unit.sqlite_kit import AT


class TestPostgresJournalKeepsTheContract(JournalContract):
    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Journal]:
        self.url = shared_server().fresh_url()
        yield self.reopened(None)

    def reopened(self, _: Journal | None) -> Journal:
        return PostgresJournal(database(self.url), clock=ManualClock(wall_start=AT))
