"""Group commit: few transactions, in order, and a slow disk holds nobody up but those who wait for it."""

import asyncio
import threading
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from aicp.errors import StorageError
from aicp.model.document_desk import DocumentDesk
from aicp.model.event import Fact
from aicp.ports import ChainQuery
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_book import Book
from aicp.storage.sqlite_writer import ANSWERS_A_TURN, WAITING_BYTES_MAX, closed_error
from aicp.testing import run as run_virtual
from aicp.testing import running_loop
from tests.unit.sqlite_kit import (
    BOUND_S,
    Disk,
    chain_ended,
    database,
    opened,
    refused,
    run,
    submitted,
    task_ended,
    tasks_of,
)

MB = 1024 * 1024


class GatedDisk(Disk):
    """A disk whose commits wait, in the writer's thread, for leave to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = threading.Semaphore(0)
        self.leave = threading.Semaphore(0)
        self.is_gated = False
        self.before_commit = self._wait

    def _wait(self) -> None:
        if self.is_gated:
            self.begun.release()
            assert self.leave.acquire(timeout=BOUND_S)

    async def commit_begins(self) -> None:
        assert await asyncio.to_thread(self.begun.acquire, timeout=BOUND_S)

    def open_gate(self) -> None:
        self.is_gated = False
        self.leave.release()


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_writes_of_one_turn_of_the_loop_share_a_transaction(tmp_path: Path) -> None:
    async def main() -> None:
        disk = Disk()
        async with opened(tmp_path / "a.db", disk) as journal:
            before = disk.commits
            await asyncio.gather(*(journal.submit(submitted(f"c{n}")) for n in range(300)))
            assert disk.commits - before == 1

    run(main())


def test_what_comes_while_the_disk_is_busy_shares_the_next_transaction(tmp_path: Path) -> None:
    async def main() -> None:
        disk = GatedDisk()
        async with opened(tmp_path / "a.db", disk) as journal:
            before, disk.is_gated = disk.commits, True
            first = asyncio.create_task(journal.submit(submitted("first")))
            await disk.commit_begins()
            later = [asyncio.create_task(journal.submit(submitted(f"c{n}"))) for n in range(100)]
            await turns()
            assert not first.done()
            disk.open_gate()
            await asyncio.gather(first, *later)
            assert disk.commits - before == 2

    run(main())


def test_those_who_are_answered_together_write_together_again(tmp_path: Path) -> None:
    async def main() -> None:
        disk, steps = Disk(), 5
        async with opened(tmp_path / "a.db", disk) as journal:
            names = [f"c{n}" for n in range(300)]
            await asyncio.gather(*(journal.submit(submitted(name)) for name in names))

            async def follow(name: str) -> None:
                for number in range(steps):
                    await journal.append([task_ended(name, f"t{number}")])

            before = disk.commits
            await asyncio.gather(*(follow(name) for name in names))
            assert disk.commits - before == steps

    run(main())


def test_no_turn_of_the_loop_wakes_more_than_a_few(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as journal:
            woken = 0

            async def submit(number: int) -> None:
                nonlocal woken
                await journal.submit(submitted(f"c{number}"))
                woken += 1

            async with asyncio.TaskGroup() as group:
                for number in range(300):
                    group.create_task(submit(number))
                seen = [0]
                while woken < 300:
                    await asyncio.sleep(0)
                    seen.append(woken)
            assert max(later - earlier for earlier, later in pairwise(seen)) <= 2 * ANSWERS_A_TURN

    run(main())


def value_of(sql: str, book: Book) -> object:
    value: object = book.execute(sql).fetchone()[0]
    return value


def test_commits_wait_for_the_disk_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as journal:
            asked = [("PRAGMA synchronous", 2), ("PRAGMA journal_mode", "wal"), ("PRAGMA fullfsync", 1)]
            for pragma, wanted in asked:
                assert await journal._database.write(partial(value_of, pragma)) == wanted, pragma

    run(main())


def test_nothing_is_acknowledged_before_it_is_on_disk(tmp_path: Path) -> None:
    async def main() -> None:
        disk = GatedDisk()
        async with opened(tmp_path / "a.db", disk) as journal:
            await journal.submit(submitted("c1"))
            disk.is_gated = True
            append = asyncio.create_task(journal.append([task_ended("c1", "t0")]))
            await disk.commit_begins()
            await turns()
            assert not append.done()
            record = await journal.read("c1")
            assert record is not None
            assert record.facts == ()
            disk.open_gate()
            await append

    run(main())


def test_loop_goes_on_while_a_commit_takes_its_time(tmp_path: Path) -> None:
    async def main() -> None:
        disk = GatedDisk()
        async with opened(tmp_path / "a.db", disk) as journal:
            loop_thread, committing = threading.get_ident(), set[int]()

            def before_commit() -> None:
                committing.add(threading.get_ident())
                disk._wait()

            disk.is_gated = True
            disk.before_commit = before_commit
            append = asyncio.create_task(journal.submit(submitted("c1")))
            # The commit waits for the loop, which could never open the gate if the commit held it up.
            await disk.commit_begins()
            await turns(1_000)
            disk.open_gate()
            await append
            assert loop_thread not in committing

    run(main())


def test_readers_do_not_wait_for_a_commit(tmp_path: Path) -> None:
    async def main() -> None:
        disk = GatedDisk()
        async with opened(tmp_path / "a.db", disk) as journal:
            await journal.submit(submitted("c1"))
            disk.is_gated = True
            second = asyncio.create_task(journal.submit(submitted("c2")))
            await disk.commit_begins()
            assert await journal.read("c1") is not None
            assert [summary.chain_id for summary in await journal.list_chains(ChainQuery())] == ["c1"]
            disk.open_gate()
            await second

    run(main())


def test_facts_are_recorded_in_the_order_of_the_calls(tmp_path: Path) -> None:
    async def main() -> None:
        names = [f"t{n}" for n in range(500)]
        async with opened(tmp_path / "a.db") as journal:
            await journal.submit(submitted("c1"))
            async with asyncio.TaskGroup() as group:
                for number, name in enumerate(names):
                    group.create_task(journal.append([task_ended("c1", name)]))
                    if number % 7 == 0:
                        await asyncio.sleep(0)
            record = await journal.read("c1")
            assert record is not None
            assert tasks_of(record.facts) == names

    run(main())


def test_cancelled_append_is_recorded_all_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        disk = GatedDisk()
        async with opened(tmp_path / "a.db", disk) as journal:
            await journal.submit(submitted("c1"))
            disk.is_gated = True
            under_way = asyncio.create_task(journal.append([task_ended("c1", "t0")]))
            await disk.commit_begins()
            in_line = asyncio.create_task(journal.append([task_ended("c1", "t1")]))
            await turns()
            under_way.cancel()
            in_line.cancel()
            await asyncio.wait([under_way, in_line])
            assert under_way.cancelled()
            assert in_line.cancelled()
            disk.open_gate()
            await journal.append([chain_ended("c1")])
            record = await journal.read("c1")
            assert record is not None
            assert tasks_of(record.facts) == ["t0", "t1"]

    run(main())


def test_close_writes_what_was_handed_over_and_refuses_the_rest(tmp_path: Path) -> None:
    async def main() -> None:
        disk = GatedDisk()
        journal = SqliteJournal(database(tmp_path / "a.db", disk))
        await journal.open()
        disk.is_gated = True
        first = asyncio.create_task(journal.submit(submitted("c1")))
        await disk.commit_begins()
        second = asyncio.create_task(journal.submit(submitted("c2")))
        await turns()
        closing = asyncio.create_task(journal.close())
        await turns()
        sentence = await refused(journal.submit(submitted("c3")), StorageError)
        assert sentence == f"The database {tmp_path / 'a.db'} is closed: nothing can be recorded or read."
        await refused(journal.read("c1"), StorageError)
        disk.open_gate()
        await asyncio.gather(first, second, closing)
        async with opened(tmp_path / "a.db") as again:
            assert [record.submitted.chain_id for record in await again.claim(10)] == ["c1", "c2"]

    run(main())


def test_close_that_takes_too_long_says_so_and_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        disk, path = GatedDisk(), tmp_path / "a.db"
        stuck = database(path, disk)
        stuck._close_wait_s = 0.05
        journal = SqliteJournal(stuck)
        await journal.open()
        disk.is_gated = True
        submit = asyncio.create_task(journal.submit(submitted("c1")))
        await disk.commit_begins()
        assert "could not be closed within 0.05 s" in await refused(journal.close(), StorageError)
        assert "is in use by process" in await refused(database(path).open(), Exception)
        disk.open_gate()
        assert await submit == "c1"
        stuck._close_wait_s = BOUND_S
        await journal.close()
        async with opened(path) as again:
            assert await again.read("c1") is not None

    run(main())


def test_close_may_come_twice_and_the_journal_may_be_opened_again(tmp_path: Path) -> None:
    async def main() -> None:
        journal = SqliteJournal(database(tmp_path / "a.db"))
        await journal.close()
        for number in range(3):
            await journal.open()
            await journal.open()
            await journal.submit(submitted(f"c{number}"))
            await journal.close()
            await journal.close()
        async with opened(tmp_path / "a.db") as again:
            assert len(await again.claim(10)) == 3

    run(main())


def test_waiting_writes_are_bounded_by_their_bytes(tmp_path: Path) -> None:
    async def main() -> None:
        disk = GatedDisk()
        async with opened(tmp_path / "a.db", disk) as journal:
            await journal.submit(submitted("c1"))
            disk.is_gated = True
            result = "x" * (8 * MB)
            facts: list[list[Fact]] = [[task_ended("c1", f"t{n}", result)] for n in range(12)]
            appends = [asyncio.create_task(journal.append(each)) for each in facts]
            await disk.commit_begins()
            session = journal._database._session
            assert session is not None
            while not session.writer._room._waiting:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.01)  # the facts are encoded in threads
            assert session.writer._room._taken <= WAITING_BYTES_MAX
            before = disk.commits
            disk.open_gate()
            await asyncio.gather(*appends)
            assert disk.commits - before >= 10, "a transaction holds 8 MiB or one write"
            record = await journal.read("c1")
            assert record is not None
            assert tasks_of(record.facts) == [f"t{n}" for n in range(12)]

    run(main())


def test_who_waits_for_room_at_the_close_is_refused_and_nothing_of_it_recorded(tmp_path: Path) -> None:
    async def main() -> None:
        disk = GatedDisk()
        documents = DocumentDesk()
        journal = SqliteJournal(database(tmp_path / "a.db", disk), documents)
        await journal.open()
        await journal.submit(submitted("c1"))
        disk.is_gated = True
        result = "x" * (16 * MB)
        appends = [asyncio.create_task(journal.append([task_ended("c1", f"t{n}", result)])) for n in range(6)]
        await disk.commit_begins()
        session = journal._database._session
        assert session is not None
        room = session.writer._room
        fit = (WAITING_BYTES_MAX - 1) // len(result)
        while len(room._waiting) < 6 - fit:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.01)  # the facts are encoded in threads
        assert room._taken <= WAITING_BYTES_MAX
        closing = asyncio.create_task(journal.close())
        await turns()
        assert not closing.done()
        disk.open_gate()
        answers = await asyncio.gather(*appends, closing, return_exceptions=True)
        refusals = [isinstance(answer, StorageError) for answer in answers[:6]]
        assert refusals == [n >= fit for n in range(6)], "a chain's writes are taken in their order"
        assert {str(answer) for answer in answers[fit:6]} == {str(closed_error(tmp_path / "a.db"))}
        assert answers[6] is None
        async with opened(tmp_path / "a.db") as again:
            record = await again.read("c1")
            assert record is not None
            assert tasks_of(record.facts) == [f"t{n}" for n in range(fit)]

    run(main())


def test_fault_of_one_write_is_its_own_and_not_its_neighbours(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as journal:
            await journal.submit(submitted("c1"))
            again, *others = await asyncio.gather(
                journal.submit(submitted("c1")), *(journal.submit(submitted(f"new{n}")) for n in range(10)),
                return_exceptions=True,
            )  # fmt: skip
            assert isinstance(again, Exception)
            assert "contradicts what is already recorded" in str(again)
            assert others == [f"new{n}" for n in range(10)]

    run(main())


def test_defect_in_one_write_leaves_the_writer_alive(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as journal:
            broken = journal._database.write(lambda _: 1 // 0)
            sentence, *_ = await asyncio.gather(refused(broken, StorageError), journal.submit(submitted("c1")))
            assert "ZeroDivisionError" in sentence
            assert await journal.read("c1") is not None
        assert "by a defect" in caplog.text

    run(main())


def test_journal_runs_on_virtual_time_and_its_threads_cost_none(tmp_path: Path) -> None:
    async def main() -> float:
        before = running_loop().time()
        async with opened(tmp_path / "a.db") as journal:
            await journal.submit(submitted("c1"))
            await journal.append([task_ended("c1", "t0"), chain_ended("c1")])
            assert await journal.read("c1") is not None
        return running_loop().time() - before

    assert run_virtual(main()) == 0.0


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 64, 65, 200])
def test_any_number_of_facts_in_one_call_is_recorded_whole_and_in_order(tmp_path: Path, count: int) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as journal:
            await journal.submit(submitted("c1"))
            await journal.append([task_ended("c1", f"t{n}", n) for n in range(count)])
            record = await journal.read("c1")
            assert record is not None
            assert tasks_of(record.facts) == [f"t{n}" for n in range(count)]

    run(main())
