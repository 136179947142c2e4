"""Lists of tasks by status on PostgreSQL: one page answers among 100,000, by an index, and leaves out none."""

import asyncpg
import pytest

from aicp.model.event import ChainCancelled, ChainEnded
from aicp.model.task import TaskStatus
from aicp.ports import ChainQuery
from aicp.storage.list_shapes import ListShape
from aicp.storage.postgres_reading import LIST_BY_SHAPE
from aicp.storage.task_ends import ENDS
from tests.integration.postgres_kit import claim_all, opened, run, shared_server
from tests.postgres_server import ask
from tests.unit.sqlite_kit import AT, chain_ended, submitted, task_ended
from tests.unit.test_task_ends import CHAINS, OLDEST, check_one_page_answers, check_superset, fill


@pytest.fixture
def url() -> str:
    return shared_server().fresh_url()


def test_no_chain_with_such_tasks_is_left_out_over_a_claim(url: str) -> None:
    async def main() -> None:
        async with opened(url) as journal:
            told = await fill(journal, 3)
            await check_superset(journal, told)
        async with opened(url) as journal:
            records = await claim_all(journal, sum(TaskStatus.PENDING in each for each in told.values()))
            await check_superset(journal, told)
            for record in records:
                chain_id = record.submitted.chain_id
                end = ChainEnded(chain_id, TaskStatus.CANCELLED, AT)
                await journal.append([ChainCancelled(chain_id, AT), end], record.epoch)
                told[chain_id] = (told[chain_id] - {TaskStatus.PENDING}) | {TaskStatus.CANCELLED}
            await check_superset(journal, told)

    run(main())


def test_chain_that_an_older_replica_claimed_is_read_whatever_is_asked_for(url: str) -> None:
    async def main() -> None:
        async with opened(url) as journal:
            for name in ("known", "claimed", "submitted"):
                await journal.submit(submitted(name))
            # What code of revision 0008 does: it changes the epoch, or makes the row, and knows no bits.
            await ask(url, "UPDATE chains SET epoch = 2, epoch_min = 2 WHERE chain_id = 'claimed'")
            await ask(url, "UPDATE chains SET task_ends = NULL WHERE chain_id = 'submitted'")
            await journal.append([task_ended("claimed", "t0", status=TaskStatus.FAILED)], 2)
            for status in ENDS:
                found = await journal.list_chains(ChainQuery(with_tasks=status))
                assert [each.chain_id for each in found] == ["submitted", "claimed"]

    run(main())


def test_page_of_a_status_that_is_rare_among_100_000_tasks_answers_at_once(url: str) -> None:
    async def main() -> None:
        async with opened(url) as journal:
            await journal.submit(submitted("oldest", tasks=1), None, OLDEST)
            await journal.submit(submitted("model", tasks=1), None, [task_ended("model", "t0"), chain_ended("model")])
            columns = await ask(url, _COLUMNS)
            values = columns.replace("chain_id", "'c' || i", 1)
            await ask(
                url,
                f"INSERT INTO chains ({columns}) SELECT {values} FROM chains, generate_series(1, {CHAINS}) i "
                "WHERE chain_id = 'model'",
            )
            await check_one_page_answers(journal)
            connection = await asyncpg.connect(url)
            await connection.execute("ANALYZE chains; SET plan_cache_mode = force_generic_plan")
            for status in ENDS[1:]:
                for has_tenant in (False, True):
                    sql = LIST_BY_SHAPE[ListShape(has_tenant, ends=status)]
                    rows = await connection.fetch(f"EXPLAIN {sql}", "default" if has_tenant else None, None, None, 50)
                    plan = "\n".join(row[0] for row in rows)
                    assert f"chains_with_{status.value.lower()}" in plan
                    assert "Sort" not in plan
            await connection.close()

    run(main())


_COLUMNS = """
    SELECT string_agg(column_name, ', ') FROM information_schema.columns
    WHERE table_schema = current_schema() AND table_name = 'chains' AND column_name <> 'number'
"""
