"""Upkeep of a SQLite file: its log is emptied when idle and bounded again after a reader, large files are checked."""

import asyncio
import logging
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from aicp.errors import StorageError
from aicp.storage import sqlite_soundness, sqlite_upkeep
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_connections import LOG_BYTES_KEPT
from aicp.storage.sqlite_database import SqliteDatabase
from aicp.storage.sqlite_wal import log_of
from tests.unit.sqlite_kit import BOUND_S, ask, refused, run, submitted, task_ended
from tests.unit.test_sqlite_damage import copy_of, lose_index_entries

IDLE_S = 0.02
LARGE = "x" * 60_000


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(BOUND_S):
        while not condition():  # noqa: ASYNC110 - another thread's work
            await asyncio.sleep(0.005)


def wal_bytes(path: Path) -> int:
    return log_of(path).stat().st_size


def test_log_is_moved_into_the_file_and_cut_to_nothing_when_idle(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        file = SqliteDatabase(path, idle_s=IDLE_S)
        journal = SqliteJournal(file)
        await journal.open()
        for number in range(3):
            await journal.submit(submitted(f"c{number}"))
            await until(lambda: file.wal_bytes == 0)
        assert (path.read_bytes()).count(b"c2") > 0
        assert (await journal.read("c2")) is not None
        await journal.close()

    run(main())


def test_what_a_killed_process_left_in_the_log_is_moved_too(tmp_path: Path) -> None:
    async def main() -> None:
        first = SqliteDatabase(tmp_path / "a.db", idle_s=60.0)
        journal = SqliteJournal(first)
        await journal.open()
        await journal.submit(submitted("c1"))
        path = copy_of(first.path, "killed")
        await journal.close()
        assert wal_bytes(path) > 0
        second = SqliteDatabase(path, idle_s=IDLE_S)
        await second.open()
        await until(lambda: second.wal_bytes == 0)
        await second.close()

    run(main())


def test_foreign_reader_holds_no_write_up_and_the_log_is_cut_once_it_has_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_upkeep, "LARGE_LOG_BYTES", 6 << 20)

    async def main() -> None:
        file = SqliteDatabase(tmp_path / "a.db", idle_s=IDLE_S)
        journal = SqliteJournal(file)
        await journal.open()
        await journal.submit(submitted("c1", tasks=200))
        with closing(sqlite3.connect(file.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM chains").fetchone()
            for number in range(150):
                await journal.append([task_ended("c1", f"t{number}", LARGE)])
            await until(lambda: "large" in caplog.text)
            assert file.wal_bytes > 6 << 20
            await journal.append([task_ended("c1", "t151")])
        await until(lambda: file.wal_bytes == 0)
        await until(lambda: "small again" in caplog.text)
        await journal.close()

    caplog.set_level(logging.INFO, logger=sqlite_upkeep.__name__)
    run(main())


def test_log_that_grew_is_cut_under_load_too(tmp_path: Path) -> None:
    async def main() -> None:
        file = SqliteDatabase(tmp_path / "a.db", idle_s=60.0)
        journal = SqliteJournal(file)
        await journal.open()
        await journal.submit(submitted("c1", tasks=2_000))
        with closing(sqlite3.connect(file.path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM chains").fetchone()
            number = 0
            while file.wal_bytes < 2 * LOG_BYTES_KEPT:
                await journal.append([task_ended("c1", f"t{number}", LARGE)])
                number += 1
        for more in range(200):
            await journal.append([task_ended("c1", f"t{number + more}", LARGE)])
        assert file.wal_bytes <= LOG_BYTES_KEPT
        await journal.close()

    run(main())


@pytest.fixture
def every_file_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_soundness, "CHECKED_AT_START_BYTES", 0)


async def made(path: Path) -> None:
    journal = SqliteJournal(SqliteDatabase(path))
    await journal.open()
    for number in range(20):
        await journal.submit(submitted(f"c{number}"))
    await journal.close()


@pytest.mark.usefixtures("every_file_is_large")
def test_large_file_is_opened_at_once_and_what_is_wrong_with_it_is_said_in_a_while(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        await made(path)
        lose_index_entries(path)
        file = SqliteDatabase(path, idle_s=IDLE_S)
        await file.open()
        assert file.problem == ""
        await until(lambda: file.problem)
        assert "table chains: row 1 missing from index sqlite_autoindex_chains_1" in file.problem
        await file.close()

    run(main())
    assert "is damaged, keep the file and restore a backup" in caplog.text


@pytest.mark.usefixtures("every_file_is_large")
def test_sound_large_file_has_no_problem(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        await made(path)
        file = SqliteDatabase(path, idle_s=IDLE_S)
        await file.open()
        await until(lambda: "checked the pages" in caplog.text)
        assert file.problem == ""
        await file.close()

    caplog.set_level(logging.INFO, logger=sqlite_upkeep.__name__)
    run(main())


@pytest.mark.usefixtures("every_file_is_large")
def test_close_in_the_middle_of_a_check_does_not_wait_for_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pauses of the check alone would last for hours."""
    monkeypatch.setattr(sqlite_upkeep, "_PAUSE_EVERY_STEPS", 1)
    monkeypatch.setattr(sqlite_upkeep, "_PAUSE_S", 3_600.0)

    async def main() -> None:
        path = tmp_path / "a.db"
        await made(path)
        file = SqliteDatabase(path, idle_s=IDLE_S)
        await file.open()
        upkeep = file._session.upkeep if file._session else None
        assert upkeep is not None
        await until(lambda: upkeep._checking)
        await file.close()
        assert file.problem == ""

    run(main())


def test_damage_that_a_read_meets_is_kept_in_mind(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "a.db"
        await made(path)
        file = SqliteDatabase(path)
        journal = SqliteJournal(file)
        await journal.open()
        root = ask(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'facts'")
        os.pwrite(descriptor := os.open(path, os.O_WRONLY), b"\xff" * 4096, (root - 1) * 4096)
        os.close(descriptor)
        await refused(journal.read("c1"), StorageError)
        assert "it is damaged" in file.problem
        await journal.close()

    run(main())
