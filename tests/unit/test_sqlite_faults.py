"""Disks that fail: at every statement in turn, full, read-only, damaged. What was acknowledged stays."""

import asyncio
import re
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from aicp.errors import AicpError, ChainNotFound, SettingsError, StorageError
from aicp.model.event import TaskEnded
from aicp.ports import ChainQuery, ChainRecord, SubmitKey
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_connections import connect_reader
from aicp.storage.sqlite_database import SqliteDatabase
from aicp.storage.sqlite_faults import opening_error, storage_error
from aicp.storage.sqlite_readers import READERS_MAX
from tests.unit.sqlite_kit import (
    AT,
    BOUND_S,
    Disk,
    ask,
    chain_ended,
    database,
    io_error,
    opened,
    refused,
    run,
    sqlite_error,
    submitted,
    task_ended,
)

PAGE_BYTES = 4_096
LARGE = "x" * 70_000
CHAINS = ("pruned", "large", "small")
LATER = AT.replace(year=2027)
PATH = Path("/data/aicp.db")


def key_of(chain: str) -> SubmitKey:
    return SubmitKey("t", chain, b"body")


class Work:
    """Uses a journal in every way, goes on after errors, and remembers what was acknowledged."""

    def __init__(self) -> None:
        self.submitted: set[str] = set()
        self.tasks: dict[str, list[str]] = {chain: [] for chain in CHAINS}
        self.may_be_pruned = False
        self.errors = 0

    async def run(self, journal: SqliteJournal) -> None:
        await asyncio.gather(*(self._submit(journal, chain) for chain in CHAINS))
        for task in ("t0", "t1"):
            await asyncio.gather(*(self._append(journal, chain, task) for chain in CHAINS))
        journal._left_up_to = len(CHAINS)  # as if an earlier process had left them
        await self._succeeds(journal.claim(10))
        await self._succeeds(journal.append([chain_ended("pruned")], epoch=2))
        await self._succeeds(journal.list_chains(ChainQuery()))
        self.may_be_pruned = True
        await self._succeeds(journal.prune(LATER, 10))

    async def _submit(self, journal: SqliteJournal, chain: str) -> None:
        if await self._succeeds(journal.submit(submitted(chain), key_of(chain))):
            self.submitted.add(chain)

    async def _append(self, journal: SqliteJournal, chain: str, task: str) -> None:
        result = LARGE if chain == "large" else task
        facts = [task_ended(chain, f"{task}-first", result), task_ended(chain, f"{task}-second", result)]
        if await self._succeeds(journal.append(facts)):
            self.tasks[chain] += [fact.task for fact in facts]

    async def _succeeds(self, doing: Awaitable[object]) -> bool:
        try:
            await doing
        except AicpError:
            self.errors += 1
            return False
        return True

    async def check(self, path: Path) -> None:
        """What was acknowledged is there, in order; what was not is there whole or not at all."""
        assert ask(path, "PRAGMA integrity_check") == "ok"
        async with opened(path) as journal:
            for chain in CHAINS:
                await self._check_chain(journal, chain)

    async def _check_chain(self, journal: SqliteJournal, chain: str) -> None:
        if chain in self.submitted:
            assert await journal.submit(submitted(f"{chain}-again"), key_of(chain)) == chain
        record = await journal.read(chain)
        if record is None:
            assert chain not in self.submitted or (chain == "pruned" and self.may_be_pruned)
            return
        ended = [fact for fact in record.facts if isinstance(fact, TaskEnded)]
        assert [fact.task for fact in ended if fact.task in self.tasks[chain]] == self.tasks[chain]
        assert [fact.task[3:] for fact in ended] == ["first", "second"] * (len(ended) // 2)
        if chain == "large":
            assert all(fact.result.result == LARGE for fact in ended)


async def statements_in_all(path: Path) -> int:
    disk, work = Disk(), Work()
    disk.syncs = False
    async with opened(path, disk) as journal:
        await work.run(journal)
    assert work.errors == 0
    return len(disk.statements)


def broken_row() -> sqlite3.Error:
    return sqlite3.IntegrityError("simulated")


@pytest.mark.parametrize(
    ("error", "after"), [(io_error, False), (io_error, True), (broken_row, False)], ids=["fails", "answer-lost", "row"]
)
def test_journal_that_fails_at_any_statement_keeps_what_it_acknowledged_and_goes_on(
    tmp_path: Path,
    error: Callable[[], Exception],
    after: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    async def main() -> None:
        count = await statements_in_all(tmp_path / "whole.db")
        assert count > 30
        for number in range(1, count + 1):
            await fail_at(number, tmp_path / f"{number}.db")

    async def fail_at(number: int, path: Path) -> None:
        disk, work = Disk(), Work()
        disk.syncs, disk.after = False, after
        disk.fail_at(number, error)
        journal = SqliteJournal(database(path, disk))
        try:
            await journal.open()
        except AicpError:
            await journal.open()
        await work.run(journal)
        assert disk.fails(0, "") is None
        if "small" in work.submitted:
            await journal.append([task_ended("small", "t2-first"), task_ended("small", "t2-second")], epoch=2)
            work.tasks["small"] += ["t2-first", "t2-second"]
        await journal.close()
        await work.check(path)

    run(main())


def test_every_statement_failing_at_once_is_an_error_each_time_and_never_a_hang(tmp_path: Path) -> None:
    async def main() -> None:
        disk = Disk()
        async with opened(tmp_path / "a.db", disk) as journal:
            disk.fails = lambda _, __: io_error()
            work = Work()
            await work.run(journal)
            assert work.submitted == set()
            disk.fails = lambda _, __: None
            assert await journal.submit(submitted("c1")) == "c1"

    run(main())


def test_read_that_fails_is_told_and_the_next_one_reads(tmp_path: Path) -> None:
    async def main() -> None:
        path, disk = tmp_path / "a.db", Disk()
        journal = SqliteJournal(SqliteDatabase(path, connect_reader=disk.connect))
        await journal.open()
        await journal.submit(submitted("c1"))
        disk.statements.clear()
        for _ in range(10):
            disk.fail_at(1)
            assert "the disk failed" in await refused(journal.read("c1"), StorageError)
            assert await journal.read("c1") is not None
        await journal.close()
        assert len(disk.statements) == 20
        assert disk.open_connections == 0

    run(main())


def test_cancelled_read_is_waited_for_by_close(tmp_path: Path) -> None:
    async def main() -> None:
        disk, reading, go_on = Disk(), threading.Event(), threading.Event()

        def slow(_: int, __: str) -> None:
            reading.set()
            assert go_on.wait(BOUND_S)

        journal = SqliteJournal(SqliteDatabase(tmp_path / "a.db", connect_reader=disk.connect))
        await journal.open()
        disk.fails = slow
        read = asyncio.create_task(journal.read("c1"))
        assert await asyncio.to_thread(reading.wait, BOUND_S)
        read.cancel()
        await asyncio.wait([read])
        closing = asyncio.create_task(journal.close())
        for _ in range(100):
            await asyncio.sleep(0)
        assert not closing.done()
        go_on.set()
        await closing
        assert disk.open_connections == 0

    run(main())


def test_failed_write_leaves_no_trace_in_what_the_writer_knows(tmp_path: Path) -> None:
    async def main() -> None:
        disk = Disk()
        async with opened(tmp_path / "a.db", disk) as journal:
            await journal.submit(submitted("c1"))
            disk.fails = lambda _, sql: io_error() if sql == "COMMIT" else None
            await refused(journal.submit(submitted("never")), StorageError)
            await refused(journal.append([task_ended("c1", "t0"), chain_ended("c1")]), StorageError)
            disk.fails = lambda _, __: None
            await refused(journal.append([task_ended("never", "t0")]), ChainNotFound)
            await journal.append([task_ended("c1", "t0"), chain_ended("c1")])
            record = await journal.read("c1")
            assert record is not None
            assert len(record.facts) == 2
        assert ask(tmp_path / "a.db", "SELECT max(seq) FROM facts") == 2
        assert ask(tmp_path / "a.db", "SELECT count(*) FROM facts") == 3

    run(main())


def test_transaction_that_could_not_even_be_undone_is_undone_before_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        disk = Disk()
        async with opened(tmp_path / "a.db", disk) as journal:
            await journal.submit(submitted("c1"))
            disk.fails = lambda _, sql: io_error() if sql in {"COMMIT", "ROLLBACK"} else None
            await refused(journal.append([task_ended("c1", "lost")]), StorageError)
            disk.fails = lambda _, __: None
            await journal.append([task_ended("c1", "kept")])
            record = await journal.read("c1")
            assert record is not None
            assert [fact.task for fact in record.facts if isinstance(fact, TaskEnded)] == ["kept"]

    run(main())


def test_failing_disk_is_tried_once_for_all_who_wait(tmp_path: Path) -> None:
    async def main() -> None:
        disk = Disk()
        async with opened(tmp_path / "a.db", disk) as journal:
            disk.fails = lambda _, sql: io_error() if "INSERT" in sql else None
            before = disk.statements.count("BEGIN IMMEDIATE")
            submits = (refused(journal.submit(submitted(f"c{n}")), StorageError) for n in range(100))
            await asyncio.gather(*submits)
            assert disk.statements.count("BEGIN IMMEDIATE") - before == 1

    run(main())


def test_disk_that_fails_while_the_schema_is_looked_up_is_not_taken_for_another_programs_file(tmp_path: Path) -> None:
    async def main() -> None:
        disk = Disk()
        async with opened(tmp_path / "a.db"):
            pass
        disk.fails = lambda _, sql: io_error() if "alembic_version" in sql else None
        assert "the disk failed" in await refused(database(tmp_path / "a.db", disk).open(), StorageError)

    run(main())


def test_reads_without_number_leave_no_more_than_a_few_connections(tmp_path: Path) -> None:
    async def main() -> None:
        made: list[Path] = []

        def counted(path: Path) -> sqlite3.Connection:
            made.append(path)
            return connect_reader(path)

        journal = SqliteJournal(SqliteDatabase(tmp_path / "a.db", connect_reader=counted))
        await journal.open()
        await journal.submit(submitted("c1"))
        reads = [asyncio.create_task(journal.read("c1")) for _ in range(200)]
        for read in reads[::3]:
            await asyncio.sleep(0)
            read.cancel()
        records = await asyncio.gather(*reads, return_exceptions=True)
        assert sum(isinstance(record, ChainRecord) for record in records) >= 130
        await journal.close()
        assert len(made) <= READERS_MAX

    run(main())


def test_full_disk_is_told_and_loses_nothing_acknowledged_and_room_makes_it_go_on(tmp_path: Path) -> None:
    async def main() -> None:
        disk, acknowledged = Disk(), list[str]()
        disk.pages_max = 60
        async with opened(tmp_path / "a.db", disk) as journal:
            await journal.submit(submitted("c1"))
            sentence = ""
            while not sentence:
                task = f"t{len(acknowledged)}"
                try:
                    await journal.append([task_ended("c1", task, "x" * 5_000)])
                    acknowledged.append(task)
                except StorageError as error:
                    sentence = str(error)
            assert "the disk is full: free some space" in sentence
            assert str(tmp_path / "a.db") in sentence
            record = await journal.read("c1")
            assert record is not None
            assert [fact.task for fact in record.facts if isinstance(fact, TaskEnded)] == acknowledged
            await journal._database.write(lambda book: book.execute("PRAGMA max_page_count = 1000").close())
            await journal.append([task_ended("c1", "after")])
        assert len(acknowledged) > 5
        assert ask(tmp_path / "a.db", "PRAGMA integrity_check") == "ok"

    run(main())


def test_database_that_becomes_read_only_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as journal:
            await journal.submit(submitted("c1"))
            await journal._database.write(lambda book: book.execute("PRAGMA query_only = ON").close())
            assert "it is read-only" in await refused(journal.append([task_ended("c1", "t0")]), StorageError)
            assert await journal.read("c1") is not None

    run(main())


UNREADABLE = "cannot be used: it is damaged: stop AICP and restore a backup with `aicp db restore` (<SQLite's words>)."
UNSOUND = (
    "is damaged: <SQLite's words>. Nothing was changed. Keep the file with its -wal and -shm, and restore a backup "
    "with `aicp db restore`, or go on without what cannot be read with `aicp db salvage`."
)
SQLITES_WORDS = re.compile(
    r"(?<=\()(?:database disk image is malformed|malformed database schema [^`]+)(?=\)\.$)"
    r"|(?<=is damaged: )(?:[^`]*Page|Tree|Main freelist|Freelist)[^`]+(?=\. Nothing was changed)"
)


def overwrite(at: int, content: bytes) -> Callable[[Path], None]:
    """Put bytes into a file; none of it becomes longer."""

    def damage(path: Path) -> None:
        with path.open("r+b") as file:
            file.seek(at)
            file.write(content or b"\xff" * (path.stat().st_size - at))

    return damage


def cut_in_half(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2 // PAGE_BYTES * PAGE_BYTES)


def misspell_a_table(path: Path) -> None:
    overwrite(path.read_bytes().index(b"CREATE TABLE"), b"CREATE TUBLE")(path)


def overwrite_root_of(table: str) -> Callable[[Path], None]:
    """Put 0xff over the first page of a table or index."""

    def damage(path: Path) -> None:
        page = int(ask(path, f"SELECT rootpage FROM sqlite_master WHERE name = '{table}'"))
        overwrite((page - 1) * PAGE_BYTES, b"\xff" * PAGE_BYTES)(path)

    return damage


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        pytest.param(overwrite(PAGE_BYTES, b""), UNREADABLE, id="all but the first page"),
        pytest.param(cut_in_half, UNREADABLE, id="half of it is gone"),
        pytest.param(misspell_a_table, UNREADABLE, id="its schema"),
        pytest.param(overwrite(32, b"\0\0\0\5\0\0\0\3"), UNSOUND, id="its list of free pages"),
        *(
            pytest.param(overwrite_root_of(name), UNSOUND, id=f"a page of {name}")
            for name in ("chains", "facts", "chains_unfinished", "alembic_version")
        ),
    ],
)
def test_damaged_file_is_told_with_what_to_do(tmp_path: Path, damage: Callable[[Path], None], sentence: str) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        async with opened(path) as journal:
            await asyncio.gather(*(journal.submit(submitted(f"c{n}", tasks=50)) for n in range(100)))
        damage(path)
        before = path.read_bytes()
        told = await refused(SqliteJournal(database(path)).open(), StorageError)
        assert SQLITES_WORDS.sub("<SQLite's words>", told) == f"The database {path} {sentence}"
        assert path.read_bytes() == before

    run(main())


def test_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        path.write_text("dear diary, " * 100)
        sentence = await refused(SqliteJournal(database(path)).open(), SettingsError)
        assert "it is no database: name another file" in sentence
        assert path.read_text() == "dear diary, " * 100

    run(main())


def test_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "file").write_text("")
        path = tmp_path / "file" / "sub" / "a.db"
        sentence = await refused(SqliteJournal(database(path)).open(), SettingsError)
        assert sentence.startswith(f"The database {path} cannot be used: Not a directory")
        assert "choose a file in a directory of yours" in sentence

    run(main())


def test_second_user_of_a_file_waits_and_is_then_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        (tmp_path / "link.db").symlink_to(path)
        async with opened(path) as journal:
            for name in ("a.db", "link.db"):
                sentence = await refused(SqliteJournal(database(tmp_path / name)).open(), SettingsError)
                assert "is in use by process" in sentence
                assert "stop that one" in sentence
            assert await journal.submit(submitted("c1")) == "c1"

    run(main())


def test_second_user_takes_over_as_soon_as_the_first_lets_go(tmp_path: Path) -> None:
    async def main() -> None:
        first = SqliteJournal(database(tmp_path / "a.db"))
        second = SqliteJournal(database(tmp_path / "a.db", lock_wait_s=30.0))
        await first.open()
        await first.submit(submitted("c1"))
        taking_over = asyncio.create_task(second.open())
        await asyncio.sleep(0)
        assert not taking_over.done()
        await first.close()
        await taking_over
        assert await second.read("c1") is not None
        await second.close()

    run(main())


def test_open_cancelled_at_any_moment_leaves_the_file_free(tmp_path: Path) -> None:
    async def main() -> None:
        for moment_ms in range(12):
            journal = SqliteJournal(database(tmp_path / "a.db"))
            opening = asyncio.create_task(journal.open())
            await asyncio.sleep(moment_ms / 1000)
            opening.cancel()
            await asyncio.wait([opening])
            await journal.close()
            next_one = SqliteJournal(database(tmp_path / "a.db", lock_wait_s=30.0))
            await next_one.open()
            await next_one.close()
        for thread in threading.enumerate():
            if thread.name.startswith("aicp-sqlite"):
                await asyncio.to_thread(thread.join, BOUND_S)
                assert not thread.is_alive()

    run(main())


@pytest.mark.parametrize(
    "code",
    [
        sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY_DBMOVED, sqlite3.SQLITE_CORRUPT_INDEX, sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_ERROR,
    ],
)  # fmt: skip
def test_every_fault_is_one_sentence_with_the_path(code: int) -> None:
    for error in (storage_error(sqlite_error(code), PATH), opening_error(sqlite_error(code), PATH)):
        sentence = str(error)
        assert sentence.startswith(f"The database {PATH} cannot be used: ")
        assert sentence.endswith("(simulated).")
        assert "\n" not in sentence


def test_wrong_file_or_place_is_a_fault_of_the_settings_and_a_failing_disk_is_not() -> None:
    assert isinstance(opening_error(sqlite_error(sqlite3.SQLITE_CANTOPEN), PATH), SettingsError)
    assert isinstance(opening_error(PermissionError(13, "Permission denied"), PATH), SettingsError)
    assert isinstance(opening_error(sqlite_error(sqlite3.SQLITE_IOERR), PATH), StorageError)
    assert isinstance(storage_error(sqlite_error(sqlite3.SQLITE_CANTOPEN), PATH), StorageError)
