"""What the journal on PostgreSQL promises."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import asyncpg
import pytest

from aicp.model.task import TaskStatus
from aicp.ports import KEYS_KEPT, ChainQuery, Journal, SubmitKey
from aicp.storage.list_shapes import SHAPES, ListShape, times_from_to
from aicp.storage.postgres import PostgresJournal
from aicp.storage.postgres_reading import LIST_BY_SHAPE
from aicp.testing.journal_contract import JournalContract
from tests.integration.postgres_kit import claim_all, database, opened, run, shared_server
from tests.postgres_server import ask
from tests.unit.sqlite_kit import AT, chain_ended, submitted, task_ended, tasks_of


@pytest.fixture
def url() -> str:
    return shared_server().fresh_url()


class TestPostgresJournalKeepsTheContract(JournalContract):
    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Journal]:
        self.url = shared_server().fresh_url()
        yield self.reopened(None)

    def reopened(self, _: Journal | None) -> Journal:
        return PostgresJournal(database(self.url))


def test_one_key_used_in_two_replicas_at_once_makes_one_chain(url: str) -> None:
    async def main() -> None:
        async with opened(url) as one, opened(url) as two:
            for number in range(20):
                keys = [SubmitKey("t", f"{name}-{number}", b"body") for name in "abc"]
                told = [
                    journal.submit(submitted(f"{place}-{key.key}"), key)
                    for place, journal, some in (("one", one, keys), ("two", two, keys[::-1]))
                    for key in some
                ]
                answers = await asyncio.gather(*told)
                assert answers[:3] == answers[:2:-1]
            assert len(await one.list_chains(ChainQuery(limit=1_000))) == 60

    run(main())


def test_many_writes_of_a_moment_take_few_transactions(url: str) -> None:
    async def main() -> None:
        async with opened(url) as journal:
            begun = "SELECT session FROM replicas", "SELECT pg_current_xact_id()::text::bigint"
            await asyncio.gather(*(journal.submit(submitted(f"c{number}")) for number in range(500)))
            before = await ask(url, begun[1])
            await asyncio.gather(*(journal.append([task_ended(f"c{number}", "t0")]) for number in range(500)))
            assert await ask(url, begun[1]) - before < 20
            assert await ask(url, begun[0]) == 1

    run(main())


def test_name_with_a_nul_is_listed_without_it_and_read_with_it(url: str) -> None:
    async def main() -> None:
        async with opened(url) as journal:
            chain = submitted("c1", name="a\0b")
            assert await journal.submit(chain) == "c1"
            (listed,) = await journal.list_chains(ChainQuery())
            assert listed.name == "a\N{REPLACEMENT CHARACTER}b"
            record = await journal.read("c1")
            assert record is not None
            assert record.submitted == chain

    run(main())


def test_keys_are_kept_seven_days_and_no_longer(url: str) -> None:
    async def main() -> None:
        async with opened(url) as journal:
            key = SubmitKey("t", "k", b"body")
            await journal.submit(submitted("c1"), key)
            await journal.prune(AT + KEYS_KEPT, 10)
            assert await journal.prune_keys(AT) == 0
            assert await journal.find(key) == "c1"
            assert await journal.prune_keys(AT + timedelta(seconds=1)) == 1
            assert await journal.find(key) is None

    run(main())


def test_pruning_in_two_replicas_at_once_forgets_each_chain_once(url: str) -> None:
    async def main() -> None:
        async with opened(url) as one, opened(url) as two:
            for first in range(0, 500, 100):
                names = [f"c{number}" for number in range(first, first + 100)]
                await asyncio.gather(*(one.submit(submitted(name)) for name in names))
                await asyncio.gather(*(one.append([chain_ended(name)]) for name in names))
            later = AT + timedelta(seconds=1)
            pruned = await asyncio.gather(one.prune(later, 400), two.prune(later, 400))
            assert sum(pruned) + await one.prune(later, 1_000) == 500
            assert await ask(url, "SELECT (SELECT count(*) FROM chains) + (SELECT count(*) FROM facts)") == 0

    run(main())


def test_large_chains_are_claimed_a_few_at_a_time(url: str) -> None:
    async def main() -> None:
        async with opened(url) as leaving:
            for number in range(5):
                await leaving.submit(submitted(f"c{number}", tasks=900))
        async with opened(url) as journal:
            sizes = []
            while some := await journal.claim(100):
                sizes.append(len(some))
            assert sizes == [3, 2]

    run(main())


def test_chain_that_cannot_be_read_is_left_and_keeps_no_other_from_being_claimed(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with opened(url) as leaving:
            for name in ("c1", "c2"):
                await leaving.submit(submitted(name))
            await ask(url, "UPDATE facts SET fact = '{\"kind\": \"of the future\"}' WHERE chain_id = 'c1'")
        async with opened(url) as journal:
            (record,) = await claim_all(journal, 1)
            assert record.submitted.chain_id == "c2"
            assert "an unfinished chain is damaged, and stays on record without being run" in caplog.text

    run(main())


def is_by_one_index(shape: ListShape) -> bool:
    """Of a few, by another index than that of their order, it may be cheaper to sort those."""
    return not shape.has_name and not (shape.has_times and (shape.unfinished or shape.ends is not None))


@pytest.mark.parametrize("shape", [*filter(is_by_one_index, SHAPES)])
def test_list_walks_an_index_and_sorts_nothing(url: str, shape: ListShape) -> None:
    async def main() -> None:
        await database(url).upgrade()
        has_tenant, has_status, unfinished, ends, *_ = shape
        connection = await asyncpg.connect(url)
        await connection.execute(
            "INSERT INTO chains (chain_id, tenant, name, status, total_tasks, epoch, submitted_at, ended_at,"
            " task_ends) "
            "SELECT i, 't' || i % 50, '', 's' || i % 5, 1, 1, now() - i * interval '1 s',"
            " CASE WHEN i % 100 > 0 THEN now() END,"
            " 16 + CASE WHEN i % 1000 > 0 THEN 1 ELSE 14 END "
            "FROM generate_series(1, 20000) i; ANALYZE chains; SET plan_cache_mode = force_generic_plan"
        )
        args: list[object] = ["t1" if has_tenant else None, "s1" if has_status else None, None, 10]
        args += times_from_to(ChainQuery()) if shape.has_times else ()
        rows = await connection.fetch(f"EXPLAIN {LIST_BY_SHAPE[shape]}", *args)
        await connection.close()
        plan = "\n".join(row[0] for row in rows)
        assert "Sort" not in plan
        # With other filters beside it, theirs may be the better index.
        is_rare = ends not in {None, TaskStatus.COMPLETED} and not (has_status or unfinished)
        index = f"with_{ends.value.lower()}" if ends is not None and is_rare else ""
        index = "(of_tenant_)?by_submit" if shape.has_times else index
        assert re.search(f"Index Scan Backward using chains_{index}", plan)

    run(main())


def test_fact_recorded_while_its_chain_is_being_claimed_is_in_the_claim_or_refused(url: str) -> None:
    async def main() -> None:
        async with opened(url) as taker, opened(url, lease_s=30.0, renew_every_s=20.0) as dying:
            names = [f"c{number}" for number in range(50)]
            await asyncio.gather(*(dying.submit(submitted(name)) for name in names))
            appends = [asyncio.create_task(dying.append([task_ended(name, "t0")])) for name in names]
            await ask(url, "UPDATE replicas SET died_at = clock_timestamp() WHERE number = 2")
            records = await claim_all(taker, 50)
            recorded = await asyncio.gather(*appends, return_exceptions=True)
            for name, refusal in zip(names, recorded, strict=True):
                (record,) = [each for each in records if each.submitted.chain_id == name]
                assert tasks_of(record.facts) == ([] if refusal else ["t0"])

    run(main())
