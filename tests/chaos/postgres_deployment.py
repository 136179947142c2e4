"""Replicas on one PostgreSQL database, of a server that belongs to the siege alone; each by a way of its own."""

import base64
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from aicp.ports import Journal
from aicp.runtime.database_url import DATABASE_URL_VARIABLE
from aicp.runtime.settings import SECRET_KEY_VARIABLE
from aicp.storage.postgres_address import parse_postgres_url
from aicp.storage.postgres_check import check_database
from tests.chaos.server_process import ServerProcess, wait_until
from tests.chaos.way_process import WayProcess, ways_to
from tests.integration.postgres_kit import opened
from tests.postgres_server import STANDBY, PostgresServer, ask_now, postgres_server, standby_of

SECRET_KEY = base64.urlsafe_b64encode(bytes(32)).decode()
_DURABLE = {"fsync": "on"}
LEASE_S = 3.0
"""How long a replica counts as alive after each sign of life."""


class PostgresDeployment:
    """Some servers on one database.

    Args:
        directory: For their logs and keys, not there yet.
        database: Their server.
        ways: From each of them to it; empty when each goes there by itself.
        replicas: How many.
        scope: For standbys.

    Attributes:
        database: Their server, as of now.
        ways: From each of them to it.
    """

    def __init__(
        self, directory: Path, database: PostgresServer, ways: Sequence[WayProcess], replicas: int, scope: ExitStack
    ) -> None:
        self.name = f"postgresql with {replicas} replicas"
        self.database = database
        self.ways = ways
        self._standby: PostgresServer | None = None
        self._scope = scope
        self.servers = [
            ServerProcess(directory, {DATABASE_URL_VARIABLE: url, SECRET_KEY_VARIABLE: SECRET_KEY})
            for url in self._urls(replicas)
        ]

    def stand_by(self) -> None:
        """Let a standby follow the database; from then on, what it acknowledges is on the standby's disk as well."""
        assert self._standby is None
        self._standby = self._scope.enter_context(standby_of(self.database, _DURABLE))
        ask_now(self.database.url(), f"ALTER SYSTEM SET synchronous_standby_names = '{STANDBY}'")
        ask_now(self.database.url(), "SELECT pg_reload_conf()")
        following = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'"
        wait_until(lambda: ask_now(self.database.url(), following) == 1, "the standby follows")

    def fail_over(self) -> None:
        """Make the standby the database, and lead there."""
        assert self._standby is not None
        self.database, self._standby = self._standby, None
        ask_now(self.database.url(), "SELECT pg_promote()")
        for way in self.ways:
            way.turn_to(self.database.port)

    @property
    def told(self) -> Sequence[ServerProcess]:
        """One; it tells the others of registrations and heartbeats."""
        return self.servers[:1]

    def problems(self) -> Sequence[str]:
        return check_database(parse_postgres_url(self.database.url())).problems

    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Journal]:
        async with opened(self.database.url()) as journal:
            yield journal

    def _urls(self, replicas: int) -> list[str]:
        if not self.ways:
            return [self.database.url()] * replicas
        url = self.database.url()
        return [url.replace(f":{self.database.port}/", f":{way.port}/") for way in self.ways]


@contextmanager
def postgres_deployment(directory: Path, replicas: int, *, with_ways: bool = False) -> Iterator[PostgresDeployment]:
    """Replicas on a database of their own; all of it is gone at the end, whatever happened.

    Args:
        directory: For their logs and keys.
        replicas: How many.
        with_ways: True when the way to the database is to be disturbed.
    """
    with (
        postgres_server(_DURABLE) as database,
        ways_to(database.port, replicas if with_ways else 0) as ways,
        ExitStack() as scope,
    ):
        deployment = PostgresDeployment(directory / "data", database, ways, replicas, scope)
        try:
            yield deployment
        finally:
            for server in deployment.servers:
                server.kill()
