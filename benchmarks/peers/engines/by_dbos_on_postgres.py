"""DBOS on PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.engines.by_dbos import Dbos
from benchmarks.peers.engines.engine import Sizes
from benchmarks.peers.engines.postgres import RECORD, fresh_postgres


class DbosOnPostgres(Dbos):
    """The same workflows; the database is a server beside them."""

    name = "DBOS on PostgreSQL"
    packages = ("dbos", "psycopg")
    record = f"{RECORD}: each step's result on its own"
    sizes = Sizes(chains=100, sequential=300, steps=4, naps=10, layers=5)

    @contextmanager
    def database(self, _directory: Path) -> Iterator[str]:
        """The URL of its database."""
        with fresh_postgres() as server:
            yield server.url()


ENGINE = DbosOnPostgres()
