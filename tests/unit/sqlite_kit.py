"""Chains to record, a journal to record them in, and connections whose statements fail or take their time."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from aicp.model.chain import ChainSpec
from aicp.model.event import ChainEnded, ChainSubmitted, Fact, TaskEnded
from aicp.model.outcome import Outcome
from aicp.model.task import Attempt, Task, TaskResult, TaskStatus
from aicp.ports import Journal, Registrations
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_claiming import newest_chain
from aicp.storage.sqlite_connections import connect
from aicp.storage.sqlite_database import SqliteDatabase
from aicp.storage.sqlite_registrations import SqliteRegistrations

T = TypeVar("T")

BOUND_S = 60.0
AT = datetime(2026, 1, 1, 12, tzinfo=UTC)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run it on a fresh loop, for a minute at most."""

    async def bounded() -> T:
        async with asyncio.timeout(BOUND_S):
            return await main

    return asyncio.run(bounded())


def submitted(
    chain_id: str, *, tasks: int = 2, name: str = "", tenant: str = "default", at: datetime = AT
) -> ChainSubmitted:
    spec = ChainSpec(tuple(Task("test.echo", {"n": n}, id=f"t{n}") for n in range(tasks)), name=name)
    return ChainSubmitted(chain_id, spec, at, tenant)


def task_ended(chain_id: str, task: str, result: Any = None, *, status: TaskStatus = TaskStatus.COMPLETED) -> TaskEnded:
    later = AT + timedelta(seconds=1)
    attempt = Attempt("a1", 1, Outcome.SUCCESS, "", AT, later)
    ended = TaskResult(
        f"{chain_id}.{task}", "test.echo", status, result, agent_id="a1", attempts=(attempt,), ended_at=later
    )
    return TaskEnded(chain_id, task, ended)


def chain_ended(chain_id: str, *, at: datetime = AT, status: TaskStatus = TaskStatus.COMPLETED) -> ChainEnded:
    return ChainEnded(chain_id, status, at)


def tasks_of(facts: tuple[Fact, ...]) -> list[str]:
    """The local ids of the tasks that ended, in the order of the record."""
    return [fact.task for fact in facts if isinstance(fact, TaskEnded)]


class Disk:
    """Makes connections; counts their statements, and fails or delays those it is told to.

    Attributes:
        statements: Every statement that was begun, over all connections.
        fails: Asked with the number (from 1) and text of each statement: an error to raise, or None.
        after: True to execute the statement before the error is raised, as when the answer of a disk is lost.
        before_commit: Called, in the writer's thread, before each COMMIT.
        pages_max: The size of the disk; None for the real one.
        syncs: False to save the time of waiting for the real disk.
        open_connections: Those made and not closed.
    """

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.fails: Callable[[int, str], Exception | None] = lambda _, __: None
        self.after = False
        self.before_commit: Callable[[], object] = lambda: None
        self.pages_max: int | None = None
        self.syncs = True
        self.open_connections = 0

    def connect(self, path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(
            path, timeout=0.1, isolation_level=None, check_same_thread=False, factory=_WatchedConnection
        )
        connection.disk = self
        self.open_connections += 1
        if self.pages_max is not None:
            sqlite3.Connection.execute(connection, f"PRAGMA max_page_count = {self.pages_max}")
        return connection

    @property
    def commits(self) -> int:
        return self.statements.count("COMMIT")

    def fail_at(self, number: int, error: Callable[[], Exception] | None = None) -> None:
        """Fail one statement, counted from the next."""
        at = len(self.statements) + number
        self.fails = lambda n, _: (error or io_error)() if n == at else None

    def run(self, connection: sqlite3.Connection, sql: str, execute: Callable[[], sqlite3.Cursor]) -> sqlite3.Cursor:
        """Count a statement and execute it, or not."""
        self.statements.append(" ".join(sql.split()))
        error = self.fails(len(self.statements), sql)
        if error is not None and not self.after:
            raise error
        if sql == "COMMIT":
            self.before_commit()
        done = execute()
        if "synchronous" in sql and not self.syncs:
            sqlite3.Connection.execute(connection, "PRAGMA synchronous = OFF")
        if error is not None:
            # The error's traceback would keep the cursor, and the cursor the file's lock.
            done.close()
            raise error
        return done


class _WatchedConnection(sqlite3.Connection):
    disk: Disk

    def execute(self, sql: str, params: Any = ()) -> sqlite3.Cursor:
        return self.disk.run(self, sql, lambda: super(_WatchedConnection, self).execute(sql, params))

    def close(self) -> None:
        self.disk.open_connections -= 1
        super().close()

    def executescript(self, script: str) -> sqlite3.Cursor:
        return self.disk.run(self, script, lambda: super(_WatchedConnection, self).executescript(script))


def sqlite_error(code: int, message: str = "simulated") -> sqlite3.OperationalError:
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return error


def io_error() -> sqlite3.OperationalError:
    return sqlite_error(sqlite3.SQLITE_IOERR, "disk I/O error")


def database(path: Path, disk: Disk | None = None, *, lock_wait_s: float = 0.2) -> SqliteDatabase:
    return SqliteDatabase(path, lock_wait_s=lock_wait_s, connect_writer=disk.connect if disk else connect)


@asynccontextmanager
async def opened(path: Path, disk: Disk | None = None) -> AsyncIterator[SqliteJournal]:
    """A journal that is open."""
    journal = SqliteJournal(database(path, disk))
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


async def disown(journal: SqliteJournal) -> None:
    """As if an earlier process had left what is in the file now."""
    journal._claimed_up_to, journal._left_up_to = 0, await journal._database.read(newest_chain)


def ask(path: Path, sql: str, *params: object) -> Any:
    """The one value that a question to the file has as an answer."""
    connection = sqlite3.connect(path)
    try:
        row = connection.execute(sql, params).fetchone()
    finally:
        connection.close()
    return row[0] if row else None


async def refused(awaitable: Awaitable[object], kind: type[Exception]) -> str:
    """The sentence it was refused with."""
    try:
        await awaitable
    except kind as error:
        sentence = str(error)
        assert "\n" not in sentence
        return sentence
    raise AssertionError(f"this was not refused with {kind.__name__}")


def _keeps_the_contract(journal: SqliteJournal, registrations: SqliteRegistrations) -> tuple[Journal, Registrations]:
    """For the type checker: these are what the ports ask for."""
    return journal, registrations
