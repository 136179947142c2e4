"""What `aicp db check` does with a PostgreSQL database: reads all that is AICP's, and says what is wrong with it."""

import asyncio
from collections.abc import Sequence

import asyncpg

from aicp.storage.postgres_address import PostgresAddress
from aicp.storage.postgres_faults import Trouble, opening_error
from aicp.storage.postgres_reports import CheckedPostgres
from aicp.storage.postgres_row_checks import find_damaged_rows
from aicp.storage.postgres_schema import PostgresSchema, recognise
from aicp.storage.postgres_server import Connection, Look, PostgresServer, close_connection
from aicp.storage.sqlite_schema import REVISIONS, Standing

CHECK_WAIT_S = 3_600.0
GOODBYE_WAIT_S = 1.0

TABLES = (
    "chains", "facts", "results", "submit_keys", "registrations", "replicas", "server_life", "cancel_requests",
    "schema_needs", "alembic_version", "api_keys", "api_keys_version", "audit", "agent_orders", "removed_agents",
    "notices", "clock_state", "requests", "open_waits", "capabilities",
)  # fmt: skip
"""Every table of AICP, as of the newest revision; a test holds it to the schema."""

# The lengths have every value read, and not just its row: so damage shows.
_COUNTS = {
    "chains": "SELECT count(*), sum(length(name)) FROM chains",
    "unfinished chains": "SELECT count(*) FROM chains WHERE ended_at IS NULL",
    "facts": "SELECT count(*), sum(length(fact)) FROM facts",
    "large results": "SELECT count(*), sum(length(body)) FROM results",
    "submit keys": "SELECT count(*), sum(length(key)) FROM submit_keys",
    "registrations": "SELECT count(*), sum(length(profile)) FROM registrations",
}
_ALIVE = {"replicas alive": "SELECT count(*) FROM replicas WHERE died_at IS NULL AND alive_until > clock_timestamp()"}
_ACCESS = {
    "api keys": "SELECT count(*), sum(length(described)) FROM api_keys",
    "audit records": "SELECT count(*), sum(length(object_id)) FROM audit",
}
_REFERENCES = {
    "results are referred to and not there": """
        SELECT count(*) FROM facts
        WHERE result_digest IS NOT NULL AND NOT EXISTS (SELECT 1 FROM results WHERE digest = facts.result_digest)
    """,
    "chains have no facts": """
        SELECT count(*) FROM chains WHERE NOT EXISTS (SELECT 1 FROM facts WHERE facts.chain_id = chains.chain_id)
    """,
}
_SIZE = """
    SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relname = ANY($1)
"""
_NOT_OURS = """
    SELECT relname FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' AND relname = ANY($1)
        AND NOT (has_table_privilege(oid, 'SELECT') AND has_table_privilege(oid, 'INSERT')
            AND has_table_privilege(oid, 'UPDATE') AND has_table_privilege(oid, 'DELETE'))
    ORDER BY relname LIMIT 1
"""
_MAY_MAKE_TABLES = "SELECT current_schema(), has_schema_privilege(current_schema(), 'CREATE')"
_READ_ALL, _GO_ON = "SET LOCAL enable_seqscan = on; SAVEPOINT reading", "ROLLBACK TO SAVEPOINT reading"
_DAMAGE = (
    asyncpg.DataCorruptedError, asyncpg.IndexCorruptedError, asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError,
    asyncpg.InternalServerError, asyncpg.CharacterNotInRepertoireError, UnicodeDecodeError,
)  # fmt: skip
"""What PostgreSQL says when a page cannot be read, a value is none, or a table is not as the revision says."""


def check_database(address: PostgresAddress) -> CheckedPostgres:
    """Read all of a database and say what is wrong with it; it may be in use. Takes as long as reading it.

    Raises:
        SettingsError: It cannot be used: wrong user, password, rights, no such database, or too old a server.
        StorageError: The server cannot be reached.
    """
    return asyncio.run(_look_and_check(PostgresServer(address)))


async def _look_and_check(server: PostgresServer) -> CheckedPostgres:
    connection, look = await server.look()
    try:
        async with server.transaction(connection, CHECK_WAIT_S, snapshot=True):
            return await _check(connection, server.place, look)
    except Trouble as error:
        raise opening_error(error, server.place) from error
    finally:
        await close_connection(connection, GOODBYE_WAIT_S)


async def _check(connection: Connection, place: str, look: Look) -> CheckedPostgres:
    found = await recognise(connection)
    counts: dict[str, int] = {}
    if found.standing in {Standing.OLDER, Standing.CURRENT}:
        await _refuse_too_few_rights(connection)
        has_checksums = found.standing is Standing.CURRENT
        counts, problems = await _read(connection, _wanted(found), has_checksums=has_checksums)
    else:
        if found.standing is Standing.EMPTY:
            await _refuse_no_place(connection)
        problems = [_why_unusable(found)]
    size = await connection.fetchval(_SIZE, TABLES)
    return CheckedPostgres(
        place, found.revision, REVISIONS[-1], size, counts, tuple(problems), tuple(_notes(found, look))
    )


def _wanted(found: PostgresSchema) -> dict[str, str]:
    counts = _COUNTS | _ALIVE
    return counts | _ACCESS if found.standing is Standing.CURRENT else counts


async def _read(
    connection: Connection, wanted: dict[str, str], *, has_checksums: bool
) -> tuple[dict[str, int], list[str]]:
    """How many of each thing there are, and what is wrong with them."""
    await connection.execute(_READ_ALL)
    try:
        counts = {name: await connection.fetchval(sql) for name, sql in wanted.items()}
        problems = await (find_damaged_rows(connection) if has_checksums else _find_missing(connection))
    except _DAMAGE as error:
        await connection.execute(_GO_ON)
        return {}, [f"it is damaged ({error})"]
    return counts, problems


async def _find_missing(connection: Connection) -> list[str]:
    """What a database without checksums shows: rows that others refer to."""
    missing = {told: await connection.fetchval(sql) for told, sql in _REFERENCES.items()}
    return [f"{count} {told}" for told, count in missing.items() if count]


async def _refuse_no_place(connection: Connection) -> None:
    """Nothing is there: say what a server that wants to make its tables would say."""
    ((schema, may_make),) = await connection.fetch(_MAY_MAKE_TABLES)
    if schema is None:
        raise asyncpg.InvalidSchemaNameError("no schema has been selected to create in")
    if not may_make:
        raise asyncpg.InsufficientPrivilegeError(f"permission denied for schema {schema}")


async def _refuse_too_few_rights(connection: Connection) -> None:
    table = await connection.fetchval(_NOT_OURS, TABLES)
    if table is not None:
        raise asyncpg.InsufficientPrivilegeError(f"permission denied for table {table}")


def _why_unusable(found: PostgresSchema) -> str:
    if found.standing is Standing.NEWER:
        return f"it is of a newer version of AICP (revision {found.revision}): upgrade AICP"
    if found.standing is Standing.FOREIGN:
        return "it belongs to another program"
    return "it holds nothing of AICP"


def _notes(found: PostgresSchema, look: Look) -> Sequence[str]:
    notes = []
    if not look.syncs:
        notes.append("the server runs with fsync=off: what it acknowledges may be lost")
    if look.is_pooled:
        notes.append("it is behind a transaction pooler: a replica's death shows when its lease of 3 s ends")
    if found.standing is Standing.OLDER:
        notes.append("its schema is older: a server that starts, or `aicp db upgrade`, brings it up to date")
    if found.standing is Standing.CURRENT and found.revision not in REVISIONS:
        notes.append("its schema is newer, and this AICP can still use it")
    return notes
