"""What is under siege: the servers of one database, and a way to read that database when they are down.

The suite knows nothing else of the database: another one comes in as another `Deployment`.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Protocol

from aicp.ports import Journal
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_backup import check_database
from aicp.storage.sqlite_database import SqliteDatabase
from tests.chaos.server_process import ServerProcess


class Deployment(Protocol):
    """One database and the servers that share it, none of them started yet."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def servers(self) -> Sequence[ServerProcess]:
        """One or more, with the same admin key."""

    @property
    def told(self) -> Sequence[ServerProcess]:
        """Those of them that agents register with; the others learn of it by themselves."""

    def problems(self) -> Sequence[str]:
        """What the database itself finds wrong with it, while no server runs."""

    def journal(self) -> AbstractAsyncContextManager[Journal]:
        """Its journal, open, while no server runs."""


class SqliteDeployment:
    """One server on one file.

    Args:
        directory: Its data directory, not there yet.

    Attributes:
        path: The file.
    """

    name = "sqlite"

    def __init__(self, directory: Path) -> None:
        self.servers = self.told = (ServerProcess(directory),)
        self.path = directory / "aicp.db"

    def problems(self) -> Sequence[str]:
        return check_database(self.path).problems

    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Journal]:
        async with opened_journal(self.path) as journal:
            yield journal


@asynccontextmanager
async def opened_journal(path: Path) -> AsyncIterator[Journal]:
    """The journal in a SQLite file that no server has."""
    journal = SqliteJournal(SqliteDatabase(path))
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


@contextmanager
def sqlite_deployment(directory: Path) -> Iterator[SqliteDeployment]:
    """A server on a file in `directory`; it is dead at the end, whatever happened."""
    deployment = SqliteDeployment(directory / "data")
    try:
        yield deployment
    finally:
        for server in deployment.servers:
            server.kill()
