"""Which schema a PostgreSQL database has, and how it gets a newer one while older code uses it.

A step *expands* (whatever code of the release before does still works) or *contracts* (it takes away what no code of
this release or the one before uses). Steps that expand are taken by whoever starts first. A step that contracts waits
until no live replica is of code that needs what it takes away; code that knows it runs before and after it. See
docs/adr/0017-two-phase-migrations.md.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from importlib.resources import files

import asyncpg
import msgspec

from aicp.errors import SettingsError
from aicp.storage.postgres_faults import Trouble, opening_error
from aicp.storage.postgres_server import Connection, PostgresServer
from aicp.storage.sqlite_schema import REVISIONS, Standing

UPGRADE_WAIT_S = 60.0
CONTRACTS: Mapping[str, str] = {}
"""The steps that contract, each with the oldest revision whose code can do without what it takes away."""

_LOCK = "SET LOCAL lock_timeout = '20s'; SELECT pg_advisory_xact_lock(hashtext('aicp.schema.' || current_schema()))"
_VERSION = "SELECT version_num FROM alembic_version"
_NEEDS = "SELECT revision FROM schema_needs"
_TABLES = """
    SELECT count(*) FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
        AND NOT EXISTS (SELECT 1 FROM pg_depend WHERE objid = pg_class.oid AND deptype = 'e')
"""
_CODE_ALIVE = "SELECT DISTINCT revision FROM replicas WHERE died_at IS NULL AND alive_until > clock_timestamp()"
_log = logging.getLogger(__name__)


class PostgresSchema(msgspec.Struct, frozen=True):
    """What was found in a database.

    Attributes:
        standing: How it stands to this version of AICP. NEWER is one that this version cannot use any more.
        revision: Its revision; None when it has none.
        code_alive: The newest revision that each live replica's code knows.
    """

    standing: Standing
    revision: str | None = None
    code_alive: frozenset[str] = frozenset()


class Plan(msgspec.Struct, frozen=True):
    """What an upgrade may do now.

    Attributes:
        target: The revision to go to; None when there is nothing to do.
        waiting: Steps that contract and have to wait for older code to end.
    """

    target: str | None
    waiting: tuple[str, ...] = ()


class UpgradedSchema(msgspec.Struct, frozen=True):
    """What an upgrade did.

    Attributes:
        revision_before: None when the database was new.
        revision: Now.
        waiting: Steps left for later, since live replicas are of code that needs what they take away.
    """

    revision_before: str | None
    revision: str
    waiting: tuple[str, ...] = ()


def plan_steps(
    found: PostgresSchema, revisions: Sequence[str] = REVISIONS, contracts: Mapping[str, str] = CONTRACTS
) -> Plan:
    """What may be done to a database of an older revision, or an empty one.

    Raises:
        SettingsError: A step that this code cannot do without lies behind one that has to wait.
    """
    due = revisions[revisions.index(found.revision) + 1 :] if found.revision else revisions
    oldest = min((revisions.index(code) for code in found.code_alive if code in revisions), default=len(revisions))
    blocked = next((at for at, step in enumerate(due) if step in contracts and found.revision is not None
                    and oldest < revisions.index(contracts[step])), len(due))  # fmt: skip
    possible, waiting = due[:blocked], due[blocked:]
    if any(step not in contracts for step in waiting):
        raise SettingsError(
            f"The database cannot be upgraded while replicas of an older AICP (revision {revisions[oldest]}) use it: "
            f"step {waiting[0]} takes away what they need. Stop those, or upgrade them to the release before this one."
        )
    return Plan(possible[-1] if possible else None, tuple(waiting))


async def upgrade_schema(server: PostgresServer, connection: Connection) -> UpgradedSchema:
    """Take every step that is due and may be taken, all or none; others who do the same wait for this one.

    Raises:
        SettingsError: The database is of a newer version that this one cannot use, or of another program; or older
            code has to end first.
        StorageError: It could not be done; the database is as it was.
    """
    try:
        found = await _recognised(server, connection)
        if found.standing is Standing.CURRENT:
            return UpgradedSchema(found.revision, REVISIONS[-1])
        async with server.transaction(connection, UPGRADE_WAIT_S):
            await connection.execute(_LOCK)
            return await _upgrade(connection, server.place)
    except Trouble as error:
        raise opening_error(error, server.place) from error


async def recognise(connection: Connection) -> PostgresSchema:
    """Look, and change nothing; to be called in a transaction."""
    tables = await connection.fetchval(_TABLES)
    if not tables:
        return PostgresSchema(Standing.EMPTY)
    versions = await _ask(connection, _VERSION)
    if versions is None or len(versions) != 1:
        return PostgresSchema(Standing.FOREIGN)
    revision = versions[0][0]
    needs = await _ask(connection, _NEEDS)
    if revision not in REVISIONS:
        return PostgresSchema(_standing_of_newer(needs), revision)
    code = await _ask(connection, _CODE_ALIVE) or []
    standing = Standing.CURRENT if revision == REVISIONS[-1] else Standing.OLDER
    return PostgresSchema(standing, revision, frozenset(name for (name,) in code))


def refuse_unusable(found: PostgresSchema, place: str) -> None:
    """Refuse what this version can neither use nor bring up to date.

    Raises:
        SettingsError: It is of a newer version, or of another program.
    """
    if found.standing is Standing.NEWER:
        raise SettingsError(
            f"The database {place} is of a newer version of AICP (revision {found.revision}, this one knows up to "
            f"{REVISIONS[-1]}): upgrade AICP, or restore a backup of this version."
        )
    if found.standing is Standing.FOREIGN:
        raise SettingsError(
            f"The database {place} belongs to another program: name an empty database, or a schema of its own with "
            "?options=-csearch_path%3Daicp."
        )


async def _recognised(server: PostgresServer, connection: Connection) -> PostgresSchema:
    async with server.transaction(connection, UPGRADE_WAIT_S):
        found = await recognise(connection)
    refuse_unusable(found, server.place)
    return found


async def _upgrade(connection: Connection, place: str) -> UpgradedSchema:
    """Under the lock, so that what is found stays so."""
    found = await recognise(connection)
    refuse_unusable(found, place)
    if found.revision is not None and found.revision not in REVISIONS:
        # Expanded by newer code: all that this one uses is there.
        return UpgradedSchema(found.revision, found.revision)
    plan = plan_steps(found)
    if plan.target is not None:
        await connection.execute(await asyncio.to_thread(_steps, found, plan.target))
    if plan.waiting:
        _log.warning("the database %s waits with step %s until older replicas have ended", place, plan.waiting[0])
    revision = plan.target or found.revision or REVISIONS[-1]
    return UpgradedSchema(found.revision, revision, plan.waiting)


def _steps(found: PostgresSchema, target: str) -> str:
    if found.revision is None and target == REVISIONS[-1]:
        return files("aicp.storage.migrations").joinpath("schema_postgresql.sql").read_text(encoding="utf-8")
    # Here alone, so that a start pays for Alembic only when there is work for it.
    from aicp.storage.migrations.upgrade import postgresql_steps  # noqa: PLC0415 - see above

    return postgresql_steps(found.revision, target)


def _standing_of_newer(needs: Sequence[asyncpg.Record] | None) -> Standing:
    if needs is None or len(needs) != 1:
        return Standing.FOREIGN
    return Standing.CURRENT if needs[0][0] in REVISIONS else Standing.NEWER


async def _ask(connection: Connection, sql: str) -> Sequence[asyncpg.Record] | None:
    """What a table says; None when there is no such table, or one of another shape."""
    await connection.execute("SAVEPOINT asked")
    try:
        rows: Sequence[asyncpg.Record] = await connection.fetch(sql)
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        await connection.execute("ROLLBACK TO SAVEPOINT asked")
        return None
    return rows
