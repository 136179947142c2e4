"""The PostgreSQL that engines are measured on: fresh for each, and as durable as it comes."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.postgres_server import PostgresServer, postgres_server

AS_IT_COMES = {"fsync": "on", "shared_buffers": "128MB", "autovacuum_naptime": "1min"}
RECORD = "PostgreSQL, fsync=on, synchronous_commit=on"


@contextmanager
def fresh_postgres() -> Iterator[PostgresServer]:
    """A server with an empty database on this machine's disk."""
    with postgres_server(AS_IT_COMES) as server:
        yield server
