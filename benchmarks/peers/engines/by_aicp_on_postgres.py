"""AICP on PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aicp import Node
from benchmarks.peers.engines.by_aicp import Aicp
from benchmarks.peers.engines.postgres import RECORD, fresh_postgres


class AicpOnPostgres(Aicp):
    """A node with one local agent; the database is a server beside it."""

    name = "AICP on PostgreSQL"
    packages = ("msgspec", "asyncpg")
    record = f"{RECORD}: a result is on disk before a dependent starts"

    def __init__(self) -> None:
        super().__init__()
        self._url = ""

    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[None]:
        """The node in this process, the database in its own."""
        with fresh_postgres() as server:
            self._url = server.url()
            async with super().opened(directory):
                yield

    def node(self, _directory: Path) -> Node:
        """The node to measure."""
        return Node(database=self._url)


ENGINE = AicpOnPostgres()
