"""Behind a pooler that hands out sessions by the transaction everything works, some of it later, and that is said."""

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from aicp.ports import Journal
from aicp.storage.postgres import PostgresJournal
from aicp.testing.journal_contract import JournalContract
from tests.integration.postgres_kit import child, claim_all, database, opened, run, shared_server, until
from tests.integration.postgres_pooler import Pooler, pooler_of
from tests.unit.sqlite_kit import submitted, task_ended


def through(url: str, pooler: Pooler) -> str:
    return url.replace(f":{shared_server().port}/", f":{pooler.port}/")


class TestPostgresJournalBehindAPoolerKeepsTheContract(JournalContract):
    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Journal]:
        url = shared_server().fresh_url()
        async with pooler_of(shared_server()) as pooler:
            self.url = through(url, pooler)
            yield self.reopened(None)
            assert pooler.transactions

    def reopened(self, _: Journal | None) -> Journal:
        return PostgresJournal(database(self.url))


def test_pooler_is_noticed_and_said_and_a_dead_peer_is_found_by_its_lease(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        url = shared_server().fresh_url()
        async with pooler_of(shared_server()) as pooler, opened(through(url, pooler)) as journal:
            assert "is behind a pooler, where no session is one's own" in caplog.text
            assert not journal._database.replicas._lease.keeps_sessions
            async with child(url, lease_s=1.0, chains=3) as killed:
                await until(lambda: len(journal._database.replicas.alive) == 2)
                killed.signal(signal.SIGKILL)
                assert len(await claim_all(journal, 3)) == 3
            await journal.append([task_ended("c-0", "t0")], 2)
            await journal.submit(submitted("c1"))

    run(main())


def test_server_without_a_pooler_is_not_taken_for_one(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with opened(shared_server().fresh_url()) as journal:
            assert "pooler" not in caplog.text
            assert journal._database.replicas._lease.keeps_sessions

    run(main())
