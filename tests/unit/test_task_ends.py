"""Lists of tasks by status: one page answers among 100,000, whatever the others are, and leaves out none."""

import asyncio
import random
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aicp.coordination.chain_status import fold
from aicp.coordination.listing import Listing, TaskQuery
from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.event import ChainCancelled, ChainEnded, ChainSubmitted, Fact, TaskEnded
from aicp.model.outcome import TaskError
from aicp.model.task import Task, TaskResult, TaskStatus
from aicp.ports import ChainQuery, ChainRecord, Journal
from aicp.storage.list_shapes import ListShape
from aicp.storage.memory import MemoryJournal
from aicp.storage.sqlite_reading import list_statement
from aicp.storage.task_ends import ENDS
from tests.unit.sqlite_kit import AT, chain_ended, opened, submitted, task_ended

CHAINS = 100_000
COMPLETED, FAILED, CANCELLED, SKIPPED = ENDS
OLDEST = (task_ended("oldest", "t0", status=FAILED), chain_ended("oldest", status=FAILED))


def recorded(number: int, draw: random.Random) -> tuple[ChainSubmitted, list[Fact]]:
    """A chain and facts of it as they may come: some of its tasks ended, then perhaps it was cancelled or ended."""
    chain_id, count = f"c{number}", draw.choice([1, 1, 2, 5])
    tasks = tuple(
        Task("test.echo", id=f"t{each}", depends_on=(f"t{each - 1}",) if each and draw.random() < 0.5 else ())
        for each in range(count)
    )
    policy = draw.choice([FailurePolicy.CONTINUE, FailurePolicy.FAIL_FAST])
    first = ChainSubmitted(chain_id, ChainSpec(tasks, failure_policy=policy), AT)
    facts: list[Fact] = []
    for each in range(draw.randint(0, count)):
        status = draw.choice([COMPLETED, COMPLETED, FAILED, CANCELLED])
        facts.append(TaskEnded(chain_id, f"t{each}", TaskResult(f"{chain_id}.t{each}", "test.echo", status)))
    if draw.random() < 0.3:
        facts.append(ChainCancelled(chain_id, AT))
    if draw.random() < 0.7:
        cancelled = any(isinstance(fact, ChainCancelled) for fact in facts)
        ends = [fact.result.status for fact in facts if isinstance(fact, TaskEnded)]
        all_well = ends == [COMPLETED] * count
        status = CANCELLED if cancelled else COMPLETED if all_well else FAILED
        facts.append(ChainEnded(chain_id, status, AT, TaskError("x", "y") if status is FAILED else None))
    return first, facts


async def fill(journal: Journal, seed: int, count: int = 300) -> dict[str, set[TaskStatus]]:
    """How the tasks of each chain read."""
    draw, told = random.Random(seed), dict[str, set[TaskStatus]]()
    for number in range(count):
        first, facts = recorded(number, draw)
        with_submit = draw.randint(0, len(facts)) if draw.random() < 0.3 else 0
        await journal.submit(first, None, facts[:with_submit])
        rest = facts[with_submit:]
        middle = draw.randint(0, len(rest))
        for some in (rest[:middle], rest[middle:]):
            await journal.append(some)
        standing = fold(ChainRecord(first, tuple(facts)))
        told[first.chain_id] = {standing.status_of(task) for task in standing.graph.tasks}
    return told


async def check_superset(journal: Journal, told: dict[str, set[TaskStatus]]) -> None:
    """Every chain with such a task is found, and none of one task without."""
    for status in ENDS:
        found = {each.chain_id: each for each in await journal.list_chains(ChainQuery(limit=1_000, with_tasks=status))}
        assert {chain_id for chain_id, statuses in told.items() if status in statuses} <= found.keys()
        wrong = [chain_id for chain_id, each in found.items() if each.total_tasks == 1 and status not in told[chain_id]]
        assert not wrong or status is CANCELLED, (status, wrong)


def test_in_memory_no_chain_with_such_tasks_is_left_out() -> None:
    async def main() -> None:
        journal = MemoryJournal()
        await check_superset(journal, await fill(journal, 1))

    asyncio.run(main())


def test_on_disk_no_chain_with_such_tasks_is_left_out_over_a_restart_and_a_claim(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def main() -> None:
        async with opened(path) as journal:
            told = await fill(journal, 2)
            await check_superset(journal, told)
        async with opened(path) as journal:
            records = {record.submitted.chain_id: record for record in await journal.claim(1_000)}
            await check_superset(journal, told)
            # What the next owner records is added to what the one before recorded.
            for chain_id, record in records.items():
                end = ChainEnded(chain_id, CANCELLED, AT)
                await journal.append([ChainCancelled(chain_id, AT), end], record.epoch)
                standing = fold(ChainRecord(record.submitted, (*record.facts, ChainCancelled(chain_id, AT), end)))
                told[chain_id] = {standing.status_of(task) for task in standing.graph.tasks}
            await check_superset(journal, told)

    asyncio.run(main())


def test_rows_of_an_older_version_are_read_whatever_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def main() -> None:
        async with opened(path) as journal:
            for name in ("none", "other-epoch", "known"):
                await journal.submit(submitted(name, tasks=1))
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE chains SET task_ends = NULL WHERE chain_id = 'none'")
            connection.execute("UPDATE chains SET epoch = epoch + 1 WHERE chain_id = 'other-epoch'")
            connection.commit()
        async with opened(path) as journal:
            found = await journal.list_chains(ChainQuery(with_tasks=FAILED))
            assert [each.chain_id for each in found] == ["other-epoch", "none"]

    asyncio.run(main())


class Counted:
    """A journal that counts what it is asked."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.asked = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._journal, name)

    async def list_chains(self, query: ChainQuery) -> Sequence[object]:
        self.asked += 1
        return await self._journal.list_chains(query)


async def check_one_page_answers(journal: Journal) -> None:
    """Among many completed ones, for each status, with a match at the very end and without one."""
    counted: Any = Counted(journal)
    listing = Listing(counted, {})
    for tenant in (None, "default", "other"):
        page = await listing.tasks(TaskQuery(tenant, FAILED))
        assert [task.task_id for task in page.tasks] == ([] if tenant == "other" else ["oldest.t0"])
        assert page.next_cursor is None
        for status in (CANCELLED, SKIPPED, TaskStatus.RUNNING, TaskStatus.PENDING):
            page = await listing.tasks(TaskQuery(tenant, status))
            assert (page.tasks, page.next_cursor) == ([], None)
    assert counted.asked <= 3 * 6


def test_page_of_a_status_that_is_rare_among_100_000_tasks_on_disk_answers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"

    async def main() -> None:
        async with opened(path) as journal:
            await journal.submit(submitted("oldest", tasks=1), None, OLDEST)
            await journal.submit(submitted("model", tasks=1), None, [task_ended("model", "t0"), chain_ended("model")])
        with closing(sqlite3.connect(path)) as connection:
            columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(chains)") if name != "number"]
            values = ", ".join("'c' || value" if name == "chain_id" else f"chains.{name}" for name in columns)
            connection.execute(
                f"WITH RECURSIVE each(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM each WHERE value < {CHAINS})"
                f" INSERT INTO chains ({', '.join(columns)}) SELECT {values} FROM each, chains WHERE chain_id = 'model'"
            )
            connection.commit()
        async with opened(path) as journal:
            await check_one_page_answers(journal)

    asyncio.run(main())


def test_page_of_a_status_that_is_rare_in_memory_answers_at_once() -> None:
    async def main() -> None:
        journal = MemoryJournal()
        await journal.submit(submitted("oldest", tasks=1), None, OLDEST)
        for number in range(9_000):  # it keeps 10,000 that have ended
            name = f"c{number}"
            await journal.submit(submitted(name, tasks=1), None, [task_ended(name, "t0"), chain_ended(name)])
        await check_one_page_answers(journal)

    asyncio.run(main())


@pytest.mark.parametrize("status", ENDS)
def test_list_of_chains_with_such_tasks_walks_their_index(tmp_path: Path, status: TaskStatus) -> None:
    path = tmp_path / "a.db"

    async def main() -> None:
        async with opened(path):
            pass

    asyncio.run(main())
    with closing(sqlite3.connect(path)) as connection:
        for has_tenant in (False, True):
            sql = list_statement(ListShape(has_tenant, ends=status))
            named = {"tenant": "t", "status": None, "before": None, "limit": 1}
            plan = " ".join(row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", named))
            assert f"chains_with_{status.value.lower()}" in plan
            assert "TEMP B-TREE" not in plan
