"""What `aicp db backup` and `aicp db restore` do with PostgreSQL: its own programs copy, and this says what and how.

A backup has AICP's tables, and nothing else of the database. A restore is one transaction: it moves the tables that are
there into a schema of their own, lets `pg_restore` make them anew, and raises what later owners must not meet again.
"""

import asyncio
import contextlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import msgspec

from aicp.errors import SettingsError, StorageError
from aicp.storage.postgres_address import PostgresAddress
from aicp.storage.postgres_check import GOODBYE_WAIT_S, TABLES
from aicp.storage.postgres_faults import Trouble, opening_error
from aicp.storage.postgres_programs import Running, Target, find_program, program_error, running, target_of
from aicp.storage.postgres_reports import BackedUpPostgres, RestoredPostgres
from aicp.storage.postgres_schema import PostgresSchema, recognise, refuse_unusable
from aicp.storage.postgres_server import Connection, PostgresServer, close_connection
from aicp.storage.sqlite_backup import EPOCHS_LEAPT
from aicp.storage.sqlite_schema import REVISIONS, Standing

LOOK_WAIT_S = 10.0
WORK_WAIT_S = 86_400.0
CHUNK_BYTES = 256 * 1024
HEADER_BYTES_MAX = 1024 * 1024
NAME_CHARS_MAX = 40
NAMED_AT_ONCE = 5

Tell = Callable[[int, int], None]
"""Told how many tables are done, and how many there are."""

_SCHEMA = "SELECT current_schema() AS name, quote_ident(current_schema()) AS quoted"
_TABLES = """
    SELECT relname, quote_ident(relname) AS quoted FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p') AND ($2 OR relname = ANY($1))
    ORDER BY relname
"""
_ALIVE = "SELECT name FROM replicas WHERE died_at IS NULL AND alive_until > clock_timestamp() ORDER BY number"
_SCHEMAS = "SELECT nspname FROM pg_namespace"
_HEADER = re.compile(r"^COPY (.+)\.(alembic_version|schema_needs) \([^)]*\) FROM stdin;\n(.*)$", re.MULTILINE)

_BEGIN = """
BEGIN;
SET LOCAL lock_timeout = '20s';
SELECT pg_advisory_xact_lock(hashtext('aicp.schema.' || current_schema()));
"""
_LOCK_OUT = """
LOCK TABLE {schema}.replicas IN ACCESS EXCLUSIVE MODE;
DO $aicp$ BEGIN
    IF EXISTS (SELECT 1 FROM {schema}.replicas WHERE died_at IS NULL AND alive_until > clock_timestamp()) THEN
        RAISE EXCEPTION 'a server began to use it';
    END IF;
END $aicp$;
"""
_KEEP = "CREATE SCHEMA {kept};\n"
_MOVE = "ALTER TABLE {schema}.{table} SET SCHEMA {kept};\n"
# Numbers of replicas rise as epochs do: one that was paused since before must not find another alive under its own.
_LEAP = """
UPDATE {schema}.chains SET epoch = epoch + {leap} WHERE ended_at IS NULL;
DO $aicp$ BEGIN
    IF to_regclass('{literal}.replicas') IS NOT NULL THEN
        UPDATE {schema}.replicas SET died_at = clock_timestamp() WHERE died_at IS NULL;
        PERFORM setval(
            pg_get_serial_sequence('{literal}.replicas', 'number'),
            {leap} + greatest(
                pg_sequence_last_value(pg_get_serial_sequence('{literal}.replicas', 'number')::regclass),
                {before}, 0
            )
        );
    END IF;
END $aicp$;
COMMIT;
"""
_BEFORE = "pg_sequence_last_value(pg_get_serial_sequence('{kept}.replicas', 'number')::regclass)"


class _Found(msgspec.Struct, frozen=True):
    """What is in the place of a database; names are quoted as SQL wants them."""

    schema: PostgresSchema
    name: str
    tables: tuple[str, ...]
    kept: str
    alive: tuple[str, ...]


class _Complaints(msgspec.Struct, frozen=True):
    """What those complain of that read a backup and write the database; nothing if all is well."""

    reader: str
    writer: str


class _Header(msgspec.Struct, frozen=True):
    """What a backup says of itself."""

    schema: str
    revision: str


def backup_database(address: PostgresAddress, backup: Path, tell: Tell | None = None) -> BackedUpPostgres:
    """Copy AICP's tables as of one moment into one file; servers may use them, and go on meanwhile.

    `tell` hears how far it is; what it raises ends the copy, and nothing of it stays.

    Raises:
        SettingsError: There is no `pg_dump`, or an older one; the database cannot be used, or holds nothing of AICP;
            or the copy would overwrite something, or cannot be written.
        StorageError: It failed; there is no copy.
    """
    if os.access(backup, os.F_OK):
        raise SettingsError(f"{backup} is there already: name a new file for the backup.")
    program, target = find_program("pg_dump"), target_of(address)
    found = asyncio.run(_look(address))
    refuse_unusable(found.schema, address.place)
    if not found.tables:
        raise SettingsError(f"The database {address.place} holds nothing of AICP.")
    with _new_file(backup) as made:
        asyncio.run(_dump(program, target, found, made.absolute(), address.place, tell))
        made.rename(backup)
    return BackedUpPostgres(address.place, backup, found.schema.revision, backup.stat().st_size)


def restore_database(backup: Path, address: PostgresAddress) -> RestoredPostgres:
    """Put a backup in the place of a database, whole or not at all; what was there is kept in a schema of its own.

    Raises:
        SettingsError: There is no such backup, or it is none, or of a newer version, or of another schema; a program is
            missing; or the database cannot be used, or a server uses it.
        StorageError: It failed; the database is as it was.
    """
    if not (os.access(backup, os.F_OK) and backup.is_file()):
        raise SettingsError(f"There is no backup {backup}; name the file of one.")
    reader, writer, target = find_program("pg_restore"), find_program("psql"), target_of(address)
    header = _header_of(*asyncio.run(_read_header(reader, target, backup.absolute())), backup)
    found = asyncio.run(_look(address))
    _refuse_place(found, header, address.place, backup)
    read = [reader, "--format=custom", "--no-owner", "--no-privileges", "--file=-", str(backup.absolute())]
    write = [writer, "--no-psqlrc", "--quiet", "--no-password", "--set=ON_ERROR_STOP=1", f"--dbname={target.url}"]
    complaints = asyncio.run(_replace(read, write, target, found))
    if complaints.reader:
        raise _useless(backup, complaints.reader)
    if complaints.writer:
        raise program_error("psql", complaints.writer, address.place)
    return RestoredPostgres(address.place, backup, header.revision, found.kept if found.tables else None)


async def _look(address: PostgresAddress) -> _Found:
    server = PostgresServer(address)
    connection, _ = await server.look()
    try:
        async with server.transaction(connection, LOOK_WAIT_S, snapshot=True):
            return await _looked(connection)
    except Trouble as error:
        raise opening_error(error, server.place) from error
    finally:
        await close_connection(connection, GOODBYE_WAIT_S)


async def _looked(connection: Connection) -> _Found:
    schema = await recognise(connection)
    (place,) = await connection.fetch(_SCHEMA)
    if place["name"] is None:
        raise asyncpg.InvalidSchemaNameError("no schema has been selected to create in")
    # Of a newer version, which tables are AICP's is not known.
    rows = await connection.fetch(_TABLES, TABLES, schema.standing is Standing.NEWER)
    tables = tuple(row["quoted"] for row in rows)
    alive = [name for (name,) in await connection.fetch(_ALIVE)] if "replicas" in tables else []
    taken = {name for (name,) in await connection.fetch(_SCHEMAS)}
    kept = next(name for name in _names_to_keep(place["name"]) if name not in taken)
    return _Found(schema, place["quoted"], tables, _quoted(kept), tuple(alive))


async def _dump(program: str, target: Target, found: _Found, made: Path, place: str, tell: Tell | None) -> None:
    begun = 0

    def hear(line: str) -> None:
        nonlocal begun
        if tell is not None and "dumping contents of table" in line:
            tell(begun, len(found.tables))
            begun += 1

    command = [
        program, "--format=custom", "--no-owner", "--no-privileges", "--no-unlogged-table-data", "--no-password",
        "--lock-wait-timeout=20s", "--verbose", f"--file={made}", f"--dbname={target.url}",
        *(f"--table={found.name}.{table}" for table in found.tables),
    ]  # fmt: skip
    try:
        async with asyncio.timeout(WORK_WAIT_S), running(command, target.environ, on_line=hear) as dumping:
            if complaint := await dumping.ended():
                raise program_error("pg_dump", complaint, place)
    except TimeoutError as error:
        raise _too_slow("pg_dump") from error


async def _read_header(program: str, target: Target, backup: Path) -> tuple[str, str]:
    """What a backup says of itself, without a database; and what `pg_restore` complains of."""
    tables = [f"--table={table}" for table in ("alembic_version", "schema_needs")]
    command = [program, "--format=custom", "--data-only", *tables, "--file=-", str(backup)]
    async with running(command, target.environ, gives_output=True) as reading:
        told = b""
        while piece := await reading.read(CHUNK_BYTES):
            told = (told + piece)[:HEADER_BYTES_MAX]
        return told.decode(errors="replace"), await reading.ended()


def _header_of(told: str, complaint: str, backup: Path) -> _Header:
    if complaint:
        raise _useless(backup, complaint)
    rows = {table: (schema, value) for schema, table, value in _HEADER.findall(told)}
    if "alembic_version" not in rows:
        raise _useless(backup, "it holds nothing of AICP")
    schema, revision = rows["alembic_version"]
    _, needs = rows.get("schema_needs", ("", revision))
    if not {revision, needs} & set(REVISIONS):
        raise SettingsError(
            f"The backup {backup} is of a newer version of AICP (revision {revision}, this one knows up to "
            f"{REVISIONS[-1]}): upgrade AICP."
        )
    return _Header(schema, revision)


def _refuse_place(found: _Found, header: _Header, place: str, backup: Path) -> None:
    if found.schema.standing is Standing.FOREIGN:
        refuse_unusable(found.schema, place)
    if found.alive:
        names = ", ".join(found.alive[:NAMED_AT_ONCE])
        raise SettingsError(
            f"The database {place} is in use by {names}: stop every server on it first; one that was killed counts for "
            "3 more seconds."
        )
    if header.schema != found.name:
        raise SettingsError(
            f"The backup {backup} is of the schema {header.schema}, and {place} leads to {found.name}: name the former "
            "with ?options=-csearch_path%3D… in the URL."
        )


async def _replace(read: Sequence[str], write: Sequence[str], target: Target, found: _Found) -> _Complaints:
    """One transaction; whatever goes wrong before its end, the server undoes it."""
    try:
        async with asyncio.timeout(WORK_WAIT_S):
            return await _replace_now(read, write, target, found)
    except TimeoutError as error:
        raise _too_slow("pg_restore") from error


async def _replace_now(read: Sequence[str], write: Sequence[str], target: Target, found: _Found) -> _Complaints:
    async with (
        running(read, target.environ, gives_output=True) as reading,
        running(write, target.environ, takes_input=True) as writing,
        asyncio.TaskGroup() as group,
    ):
        ends = group.create_task(reading.ended()), group.create_task(writing.ended())
        with contextlib.suppress(ConnectionError):
            await writing.feed(_before(found).encode())
            await _pass_on(reading, writing)
        # Whether the backup is whole shows at its end, also when the database refused what came before.
        while await reading.read(CHUNK_BYTES):
            pass
        if not await ends[0]:
            with contextlib.suppress(ConnectionError):
                await writing.feed(_after(found).encode())
        # Without its COMMIT, an end of the input is the end of a transaction that never was.
        writing.end_input()
    return _Complaints(ends[0].result(), ends[1].result())


async def _pass_on(source: Running, target: Running) -> None:
    while data := await source.read(CHUNK_BYTES):
        await target.feed(data)


def _before(found: _Found) -> str:
    script = _BEGIN
    if not found.tables:
        return script
    if "replicas" in found.tables:
        script += _LOCK_OUT.format(schema=found.name)
    script += _KEEP.format(kept=found.kept)
    return script + "".join(_MOVE.format(schema=found.name, table=table, kept=found.kept) for table in found.tables)


def _after(found: _Found) -> str:
    before = _BEFORE.format(kept=_literal(found.kept)) if "replicas" in found.tables else "0"
    return _LEAP.format(schema=found.name, literal=_literal(found.name), leap=EPOCHS_LEAPT, before=before)


def _literal(name: str) -> str:
    """A quoted name inside a string of SQL."""
    return name.replace("'", "''")


def _too_slow(name: str) -> StorageError:
    return StorageError(f"{name} did not end within {WORK_WAIT_S / 3600:.0f} hours.")


def _useless(backup: Path, why: str) -> SettingsError:
    return SettingsError(f"The backup {backup} cannot be used: {why}; take another one.")


def _names_to_keep(schema: str) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield f"{schema[:NAME_CHARS_MAX]}_before_restore_{number}"


def _quoted(name: str) -> str:
    if re.fullmatch("[a-z_][a-z0-9_]*", name):
        return name
    escaped = name.replace('"', '""')
    return f'"{escaped}"'


@contextmanager
def _new_file(path: Path) -> Iterator[Path]:
    """A file beside `path`, readable by its owner alone, to be filled and renamed; it does not stay when that fails."""
    try:
        descriptor, name = tempfile.mkstemp(".partial", f"{path.name}.", path.parent)
        os.close(descriptor)
        made = Path(name)
        try:
            yield made
            _sync(path.parent)
        finally:
            made.unlink(missing_ok=True)
    except OSError as error:
        raise SettingsError(f"The backup {path} cannot be written: {error.strerror}; name another file.") from error


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
