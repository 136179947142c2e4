"""What is written between two statements of one read is no damage."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from aicp.model.document_desk import DocumentDesk
from aicp.model.task import TaskStatus
from aicp.ports import ChainQuery, ChainSummary, Journal
from aicp.storage import postgres_reading, sqlite_reading
from aicp.storage.postgres_server import Rows
from aicp.storage.postgres_sessions import Sessions
from aicp.storage.sqlite_connections import connect
from tests.integration.postgres_kit import opened as opened_server
from tests.integration.postgres_kit import run, shared_server
from tests.postgres_server import ask
from tests.unit.sqlite_kit import chain_ended, opened, submitted

IN_DOUBT = "UPDATE chains SET status = 'RUNNING', status_checksum = 1"
"""As code of before 0008 leaves a row: the chain's last fact decides."""

Write = Callable[[Journal], Coroutine[Any, Any, object]]
Reading = Callable[[sqlite3.Connection, Any], Any]


class SessionsWithWrite:
    """Sessions of a PostgreSQL database; something is written after the first statement of a read."""

    def __init__(self, sessions: Sessions, write: Callable[[], Awaitable[object]]) -> None:
        self._sessions = sessions
        self._writes = [write]

    async def read(self, sql: str, *params: Any) -> Rows:
        rows = await self._sessions.read(sql, *params)
        while self._writes:
            await self._writes.pop()()
        return rows


def write_before_the_second_statement(connection: sqlite3.Connection, write: Callable[[], object]) -> None:
    statements = list[str]()

    def count(sql: str) -> None:
        statements.append(sql)
        if len(statements) == 2:
            write()

    connection.set_trace_callback(count)


async def submit(journal: Journal) -> None:
    await journal.submit(submitted("c1"))


async def end(journal: Journal) -> None:
    await journal.append([chain_ended("c1")])


async def prune(journal: Journal) -> None:
    assert await journal.prune(chain_ended("c1").at.replace(year=2027), 10) == 1


def test_chain_that_is_submitted_to_a_file_while_it_is_looked_for_is_not_damaged(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as journal:
            with closing(connect(tmp_path / "a.db")) as connection:
                read = _beside(connection, journal, submit)
                assert await read(sqlite_reading.read_record, "c1") is None
                assert await read(sqlite_reading.read_record, "c1") is not None

    run(main())


@pytest.mark.parametrize("write", [end, prune])
def test_chain_of_a_file_that_changes_while_a_list_is_read_is_not_damaged(tmp_path: Path, write: Write) -> None:
    async def main() -> None:
        async with opened(tmp_path / "a.db") as journal:
            with closing(connect(tmp_path / "a.db")) as connection:
                await submit(journal)
                if write is prune:
                    await end(journal)
                doubted = IN_DOUBT if write is end else IN_DOUBT.replace("RUNNING", "COMPLETED")
                connection.execute(doubted)
                read = _beside(connection, journal, write)
                (chain,) = await read(sqlite_reading.read_summaries, ChainQuery())
                assert cast("ChainSummary", chain).status in {TaskStatus.RUNNING, TaskStatus.COMPLETED}

    run(main())


def test_chain_that_is_submitted_to_a_server_while_it_is_looked_for_is_not_damaged() -> None:
    async def main() -> None:
        async with opened_server(shared_server().fresh_url()) as journal:
            sessions = _with_write(journal._database.sessions, lambda: submit(journal))
            assert await postgres_reading.read_record(sessions, "c1", DocumentDesk()) is None
            assert await postgres_reading.read_record(sessions, "c1", DocumentDesk()) is not None

    run(main())


@pytest.mark.parametrize(("write", "left"), [(end, [TaskStatus.COMPLETED]), (prune, [])])
def test_chain_of_a_server_that_changes_while_a_list_is_read_is_not_damaged(
    write: Write, left: list[TaskStatus]
) -> None:
    async def main() -> None:
        url = shared_server().fresh_url()
        async with opened_server(url) as journal:
            await submit(journal)
            if write is prune:
                await end(journal)
            await ask(url, IN_DOUBT if write is end else IN_DOUBT.replace("RUNNING", "COMPLETED"))
            sessions = _with_write(journal._database.sessions, lambda: write(journal))
            found = await postgres_reading.read_summaries(sessions, ChainQuery())
            assert [cast("ChainSummary", chain).status for chain in found] == left

    run(main())


def _beside(connection: sqlite3.Connection, journal: Journal, write: Write) -> Callable[[Reading, Any], Awaitable[Any]]:
    """Reads in a thread; before the second statement of all reads, something is written by the journal."""
    loop = asyncio.get_running_loop()
    write_before_the_second_statement(
        connection, lambda: asyncio.run_coroutine_threadsafe(write(journal), loop).result()
    )

    async def read(reading: Reading, what: Any) -> Any:
        return await asyncio.to_thread(reading, connection, what)

    return read


def _with_write(sessions: Sessions, write: Callable[[], Awaitable[object]]) -> Sessions:
    return cast("Sessions", SessionsWithWrite(sessions, write))
