"""What the journal on SQLite promises, rule by rule."""

import asyncio
import sqlite3
import stat
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from aicp.errors import ChainNotFound, Conflict, IdempotencyConflict, OwnershipLost, RecordDamaged, StorageError
from aicp.model.event import ChainCancelled, Fact, TaskStarted
from aicp.model.task import TaskStatus
from aicp.ports import KEYS_KEPT, ChainQuery, Journal, SubmitKey
from aicp.storage import sqlite_reading
from aicp.storage.list_shapes import SHAPES, ListShape
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_reading import list_parameters, list_statement
from aicp.testing.journal_contract import JournalContract
from tests.unit.sqlite_kit import (
    AT,
    Disk,
    ask,
    chain_ended,
    database,
    disown,
    opened,
    refused,
    run,
    submitted,
    task_ended,
    tasks_of,
)

LARGE = {"picture": "x" * 100_000}
SECOND = timedelta(seconds=1)


async def ids(journal: SqliteJournal, query: ChainQuery) -> list[str]:
    return [summary.chain_id for summary in await journal.list_chains(query)]


class TestSqliteJournalKeepsTheContract(JournalContract):
    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Journal]:
        with tempfile.TemporaryDirectory() as directory:
            self.path = Path(directory) / "a.db"
            yield self.reopened(None)

    def reopened(self, _: Journal | None) -> Journal:
        return SqliteJournal(database(self.path))


class TestSubmit:
    def test_submitted_chain_is_read_as_it_was(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                chain = submitted("c1", tasks=3, name="näme", tenant="t")
                assert journal.durable
                assert await journal.submit(chain) == "c1"
                record = await journal.read("c1")
                assert record is not None
                assert (record.submitted, record.facts, record.epoch) == (chain, (), 1)
                assert await journal.read("c2") is None

        run(main())

    def test_same_key_and_body_give_the_same_chain_also_after_a_restart(self, tmp_path: Path) -> None:
        async def main() -> None:
            key = SubmitKey("t", "k", b"body")
            async with opened(tmp_path / "a.db") as journal:
                assert await journal.submit(submitted("c1"), key) == "c1"
                assert await journal.submit(submitted("c2"), key) == "c1"
            async with opened(tmp_path / "a.db") as journal:
                assert await journal.submit(submitted("c3"), key) == "c1"
                assert await ids(journal, ChainQuery()) == ["c1"]

        run(main())

    def test_same_key_with_another_body_is_refused_and_records_nothing(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                await journal.submit(submitted("c1"), SubmitKey("t", "k", b"body"))
                await refused(journal.submit(submitted("c2"), SubmitKey("t", "k", b"other")), IdempotencyConflict)
                assert await ids(journal, ChainQuery()) == ["c1"]

        run(main())

    def test_keys_of_different_tenants_are_different_keys(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                assert await journal.submit(submitted("c1"), SubmitKey("t1", "k", b"body")) == "c1"
                assert await journal.submit(submitted("c2"), SubmitKey("t2", "k", b"other")) == "c2"

        run(main())

    def test_concurrent_submits_with_one_key_make_one_chain(self, tmp_path: Path) -> None:
        async def main() -> None:
            disk = Disk()
            async with opened(tmp_path / "a.db", disk) as journal:
                key, before = SubmitKey("t", "k", b"body"), disk.commits
                same = [journal.submit(submitted(f"c{n}"), key) for n in range(100)]
                other = [journal.submit(submitted(f"d{n}"), SubmitKey("t", "k", b"other")) for n in range(10)]
                answers = await asyncio.gather(*same, *other, return_exceptions=True)
                assert answers[:100] == ["c0"] * 100
                assert all(isinstance(answer, IdempotencyConflict) for answer in answers[100:])
                assert disk.commits - before == 1
                assert await ids(journal, ChainQuery()) == ["c0"]

        run(main())

    def test_chain_id_that_is_taken_is_a_conflict(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                await journal.submit(submitted("c1", name="first"))
                await refused(journal.submit(submitted("c1", name="second")), Conflict)
                assert [each.name for each in await journal.list_chains(ChainQuery())] == ["first"]

        run(main())


class TestAppend:
    def test_facts_are_read_in_the_order_they_were_recorded(self, tmp_path: Path) -> None:
        async def main() -> None:
            facts: list[Fact] = [
                TaskStarted("c1", "t0", AT), task_ended("c1", "t0", {"a": 1}), ChainCancelled("c1", AT),
                chain_ended("c1", status=TaskStatus.CANCELLED),
            ]  # fmt: skip
            async with opened(tmp_path / "a.db") as journal:
                await journal.submit(submitted("c1"))
                await journal.append(facts[:1])
                await journal.append([])
                await journal.append(facts[1:])
                record = await journal.read("c1")
                assert record is not None
                assert list(record.facts) == facts

        run(main())

    def test_chain_that_was_never_submitted_is_not_found(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                assert "no chain 'c1'" in await refused(journal.append([task_ended("c1", "t0")]), ChainNotFound)
                await journal.submit(submitted("c1"))
                await journal.append([task_ended("c1", "t0")])

        run(main())

    def test_ended_chain_takes_no_more_facts(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                await journal.submit(submitted("c1"))
                ending = journal.append([task_ended("c1", "t0"), chain_ended("c1")])
                late = refused(journal.append([task_ended("c1", "t1")]), Conflict)
                _, sentence = await asyncio.gather(ending, late)
                assert sentence == "Chain c1 has ended; nothing more is recorded of it."
                await refused(journal.append([task_ended("c1", "t1")]), Conflict)
                record = await journal.read("c1")
                assert record is not None
                assert len(record.facts) == 2

        run(main())

    def test_ended_chains_take_no_memory_of_the_writer(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                for number in range(5):
                    await journal.submit(submitted(f"c{number}"))
                    await journal.append([task_ended(f"c{number}", "t0"), chain_ended(f"c{number}")])
                assert await journal._database.write(lambda book: len(book._heads)) == 0

        run(main())

    def test_refused_append_records_none_of_its_facts_and_harms_no_neighbour(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                await journal.submit(submitted("c1"))
                await disown(journal)
                await journal.claim(10)
                old = journal.append([task_ended("c1", "t0"), chain_ended("c1")], epoch=1)
                new = journal.append([task_ended("c1", "t1")], epoch=2)
                await asyncio.gather(refused(old, OwnershipLost), new)
                record = await journal.read("c1")
                assert record is not None
                assert tasks_of(record.facts) == ["t1"]

        run(main())


class TestClaim:
    def test_every_unfinished_chain_comes_back_oldest_first_with_a_higher_epoch(self, tmp_path: Path) -> None:
        async def main() -> None:
            names = ["z", "a", "m", "over"]
            async with opened(tmp_path / "a.db") as journal:
                for name in names:
                    await journal.submit(submitted(name))
                await journal.append([task_ended("a", "t0", {"n": 1})])
                await journal.append([task_ended("over", "t0"), chain_ended("over")])
            for epoch in (2, 3, 4):
                async with opened(tmp_path / "a.db") as journal:
                    records = await journal.claim(10)
                    assert [record.submitted.chain_id for record in records] == ["z", "a", "m"]
                    assert {record.epoch for record in records} == {epoch}
                    assert records[1].facts == (task_ended("a", "t0", {"n": 1}),)

        run(main())

    def test_owner_of_an_older_epoch_is_refused_and_the_new_one_is_not(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                await journal.submit(submitted("c1"))
                await journal.append([task_ended("c1", "t0")], 1)
                await disown(journal)
                await journal.claim(10)
                sentence = await refused(journal.append([task_ended("c1", "t1")], 1), OwnershipLost)
                assert sentence == "Chain c1 has another owner, of epoch 2; this one's is 1."
                await journal.append([task_ended("c1", "t1")], 2)
                record = await journal.read("c1")
                assert record is not None
                assert tasks_of(record.facts) == ["t0", "t1"]

        run(main())

    def test_chains_submitted_since_the_file_was_opened_are_not_claimed(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                await journal.submit(submitted("left"))
            async with opened(tmp_path / "a.db") as journal:
                _, records = await asyncio.gather(journal.submit(submitted("own")), journal.claim(10))
                assert [(record.submitted.chain_id, record.epoch) for record in records] == [("left", 2)]
                assert await journal.claim(10) == ()
                await journal.append([task_ended("own", "t0")], 1)

        run(main())

    def test_batches_are_smaller_when_chains_are_large_and_one_is_never_too_large(self, tmp_path: Path) -> None:
        async def main() -> None:
            sizes = [1_500, 400, 400, 5_000, 1, 1]
            async with opened(tmp_path / "a.db") as journal:
                for number, tasks in enumerate(sizes):
                    await journal.submit(submitted(f"c{number}", tasks=tasks))
            async with opened(tmp_path / "a.db") as journal:
                claimed: list[list[int]] = []
                while records := await journal.claim(100):
                    claimed.append([len(record.submitted.spec.tasks) for record in records])
                assert claimed == [[1_500, 400], [400], [5_000], [1, 1]]

        run(main())

    def test_with_nothing_left_a_claim_asks_the_disk_nothing(self, tmp_path: Path) -> None:
        async def main() -> None:
            disk = Disk()
            async with opened(tmp_path / "a.db", disk) as journal:
                before = len(disk.statements)
                assert await journal.claim(10) == ()
                assert len(disk.statements) == before

        run(main())

    def test_claim_that_failed_is_begun_again_and_leaves_nothing_out(self, tmp_path: Path) -> None:
        async def main() -> None:
            disk = Disk()
            async with opened(tmp_path / "a.db") as journal:
                for number in range(6):
                    await journal.submit(submitted(f"c{number}"))
            async with opened(tmp_path / "a.db", disk) as journal:
                found: list[str] = []
                for number in range(1, 30):
                    disk.fail_at(number)
                    try:
                        found += [record.submitted.chain_id for record in await journal.claim(2)]
                    except StorageError:
                        continue
                assert found == [f"c{number}" for number in range(6)]

        run(main())

    def test_chain_that_cannot_be_read_keeps_no_other_from_going_on(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                for name in ("c1", "c2", "c3"):
                    await journal.submit(submitted(name))
            connection = sqlite3.connect(tmp_path / "a.db")
            with connection:
                connection.execute(
                    "UPDATE facts SET checksum = NULL, fact = '{\"kind\":\"of tomorrow\"}' WHERE chain_id = 'c2'"
                )
            connection.close()
            async with opened(tmp_path / "a.db") as journal:
                assert [record.submitted.chain_id for record in await journal.claim(10)] == ["c1", "c3"]
                assert "cannot read" in await refused(journal.read("c2"), Exception)
            assert "an unfinished chain is damaged, and stays on record without being run" in caplog.text

        run(main())


class TestLargeResults:
    def test_large_result_is_stored_once_and_read_wherever_it_belongs(self, tmp_path: Path) -> None:
        async def main() -> None:
            path = tmp_path / "a.db"
            async with opened(path) as journal:
                for name in ("c1", "c2"):
                    await journal.submit(submitted(name))
                    await journal.append([task_ended(name, "t0", LARGE), task_ended(name, "t1", "small")])
                    await journal.append([task_ended(name, "t2", LARGE)])
                assert ask(path, "SELECT count(*) FROM results") == 1
                assert ask(path, "SELECT max(length(fact)) FROM facts") < 1_000
                for record in (await journal.read("c1"), await journal.read("c2")):
                    assert record is not None
                    name = record.submitted.chain_id
                    wanted = [
                        task_ended(name, "t0", LARGE),
                        task_ended(name, "t1", "small"),
                        task_ended(name, "t2", LARGE),
                    ]
                    assert list(record.facts) == wanted

        run(main())

    def test_result_that_is_gone_is_said_and_never_read_as_none(self, tmp_path: Path) -> None:
        async def main() -> None:
            path = tmp_path / "a.db"
            async with opened(path) as journal:
                await journal.submit(submitted("c1"))
                await journal.append([task_ended("c1", "t0", LARGE)])
                await journal._database.write(lambda book: book.execute("DELETE FROM results").close())
                assert "of table results is damaged" in await refused(journal.read("c1"), RecordDamaged)

        run(main())


class TestList:
    def test_newest_first_page_by_page(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                names = [f"c{number:02}" for number in range(25)]
                for name in names:
                    await journal.submit(submitted(name))
                pages: list[list[str]] = []
                before: str | None = None
                while page := await ids(journal, ChainQuery(limit=10, before=before)):
                    pages.append(page)
                    before = page[-1]
                assert [len(page) for page in pages] == [10, 10, 5]
                assert [name for page in pages for name in page] == names[::-1]
                assert await ids(journal, ChainQuery(before="unknown")) == []
                assert await ids(journal, ChainQuery(limit=-1)) == []

        run(main())

    def test_summary_tells_where_the_chain_stands_by_its_facts(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                await journal.submit(submitted("c1", tasks=3, name="n", tenant="t"))

                async def standing() -> tuple[TaskStatus, object]:
                    (summary,) = await journal.list_chains(ChainQuery())
                    assert (summary.chain_id, summary.name, summary.tenant, summary.total_tasks) == ("c1", "n", "t", 3)
                    assert summary.submitted_at == AT
                    return summary.status, summary.ended_at

                assert await standing() == (TaskStatus.PENDING, None)
                await journal.append([TaskStarted("c1", "t0", AT)])
                assert await standing() == (TaskStatus.PENDING, None)
                await journal.append([task_ended("c1", "t0")])
                assert await standing() == (TaskStatus.RUNNING, None)
                await journal.append([chain_ended("c1", at=AT + SECOND, status=TaskStatus.FAILED)])
                assert await standing() == (TaskStatus.FAILED, AT + SECOND)

        run(main())

    def test_tenant_and_status_narrow_the_list(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                for tenant in ("t1", "t2"):
                    for number in range(3):
                        await journal.submit(submitted(f"{tenant}-{number}", tenant=tenant))
                    await journal.append([chain_ended(f"{tenant}-1")])
                assert await ids(journal, ChainQuery("t1")) == ["t1-2", "t1-1", "t1-0"]
                assert await ids(journal, ChainQuery(status=TaskStatus.COMPLETED)) == ["t2-1", "t1-1"]
                assert await ids(journal, ChainQuery("t2", TaskStatus.PENDING)) == ["t2-2", "t2-0"]
                assert await ids(journal, ChainQuery("t2", TaskStatus.PENDING, before="t2-2")) == ["t2-0"]
                assert await ids(journal, ChainQuery("nobody")) == []

        run(main())

    @pytest.mark.parametrize("shape", SHAPES)
    def test_list_walks_an_index_and_sorts_nothing(self, tmp_path: Path, shape: ListShape) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db"):
                pass
            connection = sqlite3.connect(tmp_path / "a.db")
            params = list_parameters(ChainQuery("t", TaskStatus.FAILED, before="c"))
            plan = connection.execute(f"EXPLAIN QUERY PLAN {list_statement(shape)}", params).fetchall()
            connection.close()
            steps = [step for *_, step in plan]
            assert not [step for step in steps if "TEMP B-TREE" in step or step == "SCAN chains"]
            expected = {
                (False, False): "INTEGER PRIMARY KEY", (True, False): "chains_of_tenant ",
                (False, True): "chains_by_status", (True, True): "chains_of_tenant_by_status",
            }  # fmt: skip
            index = "chains_unfinished" if shape.unfinished else expected[shape.has_tenant, shape.has_status]
            if shape.ends is not None:
                index = f"chains_with_{shape.ends.value.lower()}"
            if shape.has_times:
                index = "chains_of_tenant_by_submit" if shape.has_tenant else "chains_by_submit"
            assert [step for step in steps if index in step]

        run(main())

    @pytest.mark.parametrize("since", [None, AT])
    @pytest.mark.parametrize("few", [0, 1, 3])
    def test_names_of_few_chains_are_found_by_their_index_and_those_of_many_by_a_look_at_the_newest(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int, since: datetime | None
    ) -> None:
        monkeypatch.setattr(sqlite_reading, "FEW_NAMED", few)

        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                for number, name in enumerate(["one", "two", "once", "", "on"]):
                    await journal.submit(submitted(f"c{number}", name=name))
                assert await ids(journal, ChainQuery(name="on", submitted_from=since)) == ["c4", "c2", "c0"]
                assert await ids(journal, ChainQuery(name="on", limit=1, before="c4", submitted_from=since)) == ["c2"]

        run(main())


class TestPrune:
    def test_chains_that_ended_before_are_forgotten_oldest_end_first_and_no_more_than_asked(
        self, tmp_path: Path
    ) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                for number in range(6):
                    await journal.submit(submitted(f"c{number}"))
                    await journal.append([task_ended(f"c{number}", "t0")])
                for number in range(5):
                    await journal.append([chain_ended(f"c{number}", at=AT + number * SECOND)])
                assert await journal.prune(AT, 10) == 0
                assert await journal.prune(AT + 4 * SECOND, 3) == 3
                assert await ids(journal, ChainQuery()) == ["c5", "c4", "c3"]
                assert await journal.prune(AT + 4 * SECOND, 10) == 1
                assert await journal.read("c3") is None
                assert await journal.read("c5") is not None
                assert ask(tmp_path / "a.db", "SELECT count(*) FROM facts") == 2 + 3

        run(main())

    def test_large_results_go_with_the_last_chain_that_refers_to_them(self, tmp_path: Path) -> None:
        async def main() -> None:
            path = tmp_path / "a.db"
            async with opened(path) as journal:
                for number in range(2):
                    await journal.submit(submitted(f"c{number}"))
                    await journal.append(
                        [task_ended(f"c{number}", "t0", LARGE), chain_ended(f"c{number}", at=AT + number * SECOND)]
                    )
                assert await journal.prune(AT + SECOND, 10) == 1
                record = await journal.read("c1")
                assert record is not None
                assert record.facts[0] == task_ended("c1", "t0", LARGE)
                assert await journal.prune(AT + 2 * SECOND, 10) == 1
                assert ask(path, "SELECT count(*) FROM results") == 0

        run(main())

    def test_submit_keys_are_kept_seven_days_even_when_their_chain_is_not(self, tmp_path: Path) -> None:
        async def main() -> None:
            journal = SqliteJournal(database(tmp_path / "a.db"))
            await journal.open()
            key = SubmitKey("t", "k", b"body")
            await journal.submit(submitted("c1"), key)
            await journal.append([chain_ended("c1")])
            assert await journal.prune(AT + KEYS_KEPT, 10) == 1
            assert await journal.prune_keys(AT) == 0
            assert await journal.read("c1") is None
            assert await journal.submit(submitted("c2"), key) == "c1"
            assert await journal.prune_keys(AT + SECOND) == 1
            assert await journal.submit(submitted("c3"), key) == "c3"
            await journal.close()

        run(main())

    def test_thousands_go_in_many_short_transactions(self, tmp_path: Path) -> None:
        async def main() -> None:
            disk = Disk()
            async with opened(tmp_path / "a.db", disk) as journal:
                names = [f"c{number}" for number in range(1_050)]
                await asyncio.gather(*(journal.submit(submitted(name), SubmitKey("t", name, b"")) for name in names))
                await asyncio.gather(*(journal.append([chain_ended(name)]) for name in names))
                before = disk.commits
                assert await journal.prune(AT + SECOND, 5_000) == 1_050
                assert 11 < disk.commits - before < 20
                assert await journal.prune(AT + SECOND, 5_000) == 0
                assert await ids(journal, ChainQuery()) == []

        run(main())

    def test_chain_of_very_many_tasks_is_forgotten_whole(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                await journal.submit(submitted("large", tasks=5_000))
                await journal.submit(submitted("small"))
                await journal.append([*(task_ended("large", f"t{n}") for n in range(5_000)), chain_ended("large")])
                await journal.append([chain_ended("small", at=AT + SECOND)])
                assert await journal.prune(AT + 2 * SECOND, 10) == 2
                assert ask(tmp_path / "a.db", "SELECT count(*) FROM facts") == 0

        run(main())


class TestFile:
    def test_file_and_its_new_directory_are_readable_by_their_owner_alone(self, tmp_path: Path) -> None:
        async def main() -> None:
            path = tmp_path / "new" / "a.db"
            async with opened(path) as journal:
                await journal.submit(submitted("c1"))
                modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
                assert {"a.db", "a.db-wal", "a.db.lock"} <= modes.keys()
                assert set(modes.values()) == {0o600}
                assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700

        run(main())

    def test_close_leaves_one_file_with_everything_in_it(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with opened(tmp_path / "a.db") as journal:
                await journal.submit(submitted("c1"))

        run(main())
        assert sorted(each.name for each in tmp_path.iterdir()) == ["a.db", "a.db.lock"]
