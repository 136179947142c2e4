"""What stands in the way of a PostgreSQL database is said in one sentence, and an older schema is brought along."""

import asyncio
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import asyncpg
import pytest

from aicp.errors import SettingsError, StorageError
from aicp.storage import postgres_server as server_module
from aicp.storage.migrations.upgrade import postgresql_steps
from aicp.storage.postgres_address import parse_postgres_url
from aicp.storage.postgres_schema import PostgresSchema, plan_steps
from aicp.storage.sqlite_schema import REVISIONS, Standing
from tests.integration.postgres_kit import database, opened, run, shared_server
from tests.postgres_server import PostgresServer, ask, free_port
from tests.unit.sqlite_kit import refused, submitted, task_ended

SECRET = "s3cret"


@pytest.fixture
def url() -> str:
    return shared_server().fresh_url()


@pytest.fixture(scope="module")
def guarded() -> PostgresServer:
    """A server where alice needs a password, bob has none of the rights, and carol is let in nowhere."""
    server = shared_server()
    for statement in (
        f"CREATE ROLE alice LOGIN PASSWORD '{SECRET}'", "CREATE ROLE bob LOGIN", "CREATE ROLE carol LOGIN",
        "CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
    ):  # fmt: skip
        asyncio.run(ask(server.url(), statement))
    server.let_in("host all alice all scram-sha-256", "host all carol all reject")
    return server


def sentence_of(url: str, kind: type[Exception] = SettingsError) -> str:
    sentence = run(refused(database(url).open(), kind))
    assert SECRET not in sentence
    assert sentence.count(". ") == 0
    return sentence


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u:s3/cret@host/db", "no host and port one could read"),
        ("postgresql://u:s3@cret@host/db", "write %40 for '@'"),
        ("postgresql://host:s3cret/db", "no host and port one could read"),
        ("postgresql://host/db#s3cret", "a bare '#'"),
        ("postgresql://[::1/db", "is not well-formed"),
        ("postgresql://host/db?s3cret", "is not well-formed"),
        ("mysql://u:s3cret@host/db", "does not begin with postgresql://"),
        ("postgresql://u:s3cret@host/db?connect_timeout=soon", "no whole number of seconds"),
        ("postgresql://u:s3cret@host/db?channel_binding=require", "channel_binding, which AICP's driver cannot give"),
    ],
)
def test_url_that_is_none_is_refused_without_telling_its_password(url: str, told: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(told)) as refusal:
        parse_postgres_url(url)
    assert SECRET not in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://u:s3cret@host:5433/db?sslmode=require", "postgresql://host:5433/db"),
        ("postgres://host/db", "postgresql://host/db"),
        ("postgresql+asyncpg://u@[::1]:5432/d%20b", "postgresql://[::1]:5432/d b"),
        ("postgresql:///db?host=/run/postgresql", "postgresql:///run/postgresql/db"),
        ("postgresql://one:1,two:2/db?target_session_attrs=read-write", "postgresql://one:1,two:2/db"),
        ("postgresql://u@host/db?channel_binding=prefer&gssencmode=disable&keepalives=1", "postgresql://host/db"),
    ],
)
def test_place_of_a_url_is_told_without_user_password_and_parameters(url: str, place: str) -> None:
    address = parse_postgres_url(url)
    assert (address.place, repr(address)) == (place, f"PostgresAddress({place})")


def test_parameters_that_only_libpq_knows_do_not_reach_the_server() -> None:
    address = parse_postgres_url(
        "postgresql://h/d?keepalives=1&connect_timeout=7&channel_binding=disable&sslmode=require"
    )
    assert (address.url, address.connect_timeout_s) == ("postgresql://h/d?sslmode=require", 7.0)


@pytest.mark.parametrize(
    ("user", "path", "told"),
    [
        ("alice:wrong-s3cret", "postgres", "the password is wrong"),
        ("alice", "postgres", "the password is wrong, or the server wants one"),
        ("nobody-of-that-name", "postgres", "the server does not let this user in"),
        ("carol", "postgres", "the server does not let this user in"),
        ("postgres", "never-made", "there is no such database: make it with `createdb`"),
        ("bob", "postgres", "the user has too few rights"),
        ("postgres", "latin", "has the encoding LATIN1, and not UTF8"),
        ("postgres", "postgres?no_such_setting=1", "its URL has a parameter that the server does not know"),
        ("postgres", "postgres?sslmode=require", "cannot be used"),
        ("postgres", "postgres?sslmode=perhaps", "its URL"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(guarded: PostgresServer, user: str, path: str, told: str) -> None:
    joint = "&" if "?" in path else "?"
    ssl = "" if "sslmode" in path else f"{joint}sslmode=disable"
    sentence = sentence_of(f"postgresql://{user}@127.0.0.1:{guarded.port}/{path}{ssl}", Exception)
    assert told in sentence
    assert sentence.startswith(f"The database postgresql://127.0.0.1:{guarded.port}/")


def test_host_that_is_not_known_is_told(url: str) -> None:
    assert "its host is not known" in sentence_of("postgresql://u:s3cret@no-such-host.invalid/db")


def test_server_that_does_not_run_is_told_as_what_may_pass() -> None:
    told = sentence_of(f"postgresql://u:s3cret@127.0.0.1:{free_port()}/db?sslmode=disable", StorageError)
    assert "nobody listens there: start PostgreSQL" in told


def test_server_that_is_starting_is_waited_for(url: str) -> None:
    async def main() -> None:
        port = free_port()
        opening = asyncio.create_task(
            database(url.replace(f":{shared_server().port}/", f":{port}/"), open_wait_s=20.0).upgrade()
        )
        done, _ = await asyncio.wait([opening], timeout=0.5)
        assert not done
        proxy = await asyncio.start_server(_forward, "127.0.0.1", port)
        await opening
        proxy.close()

    run(main())


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    to_reader, to_writer = await asyncio.open_connection("127.0.0.1", shared_server().port)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            target.write(data)
        target.transport.abort()

    await asyncio.gather(copy(reader, to_writer), copy(to_reader, writer))


def test_too_old_server_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "VERSION_MIN", 1_000)
    assert "which is too old: AICP needs" in sentence_of(url)


def test_standby_is_refused_as_read_only(url: str) -> None:
    sentence = sentence_of(f"{url}%20-cdefault_transaction_read_only%3Don")
    assert "it is read-only, as a standby is: name the primary server" in sentence


def test_database_of_a_newer_version_that_needs_newer_code_is_refused_and_left_alone(url: str) -> None:
    run(database(url).upgrade())
    asyncio.run(ask(url, "UPDATE alembic_version SET version_num = '9999'; UPDATE schema_needs SET revision = '9998'"))
    sentence = sentence_of(url)
    assert "is of a newer version of AICP (revision 9999, this one knows up to" in sentence
    assert asyncio.run(ask(url, "SELECT version_num FROM alembic_version")) == "9999"


def test_database_that_newer_code_only_expanded_is_used_as_before(url: str) -> None:
    async def main() -> None:
        await database(url).upgrade()
        await ask(url, "UPDATE alembic_version SET version_num = '9999'; ALTER TABLE chains ADD COLUMN newer text")
        async with opened(url) as journal:
            await journal.submit(submitted("c1"))
            await journal.append([task_ended("c1", "t0")])
            assert await journal.read("c1") is not None
        assert await ask(url, "SELECT version_num FROM alembic_version") == "9999"

    run(main())


@pytest.mark.parametrize(
    "table",
    ["songs (title TEXT)", "alembic_version (other TEXT)", "alembic_version (version_num TEXT)"],
)
def test_database_of_another_program_is_refused_and_left_alone(url: str, table: str) -> None:
    asyncio.run(ask(url, f"CREATE TABLE {table}"))
    assert "belongs to another program: name an empty database" in sentence_of(url)
    count = "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'"
    assert asyncio.run(ask(url, count)) == 1


def test_another_programs_migrations_are_not_taken_for_a_newer_version(url: str) -> None:
    asyncio.run(
        ask(url, "CREATE TABLE alembic_version (version_num TEXT); INSERT INTO alembic_version VALUES ('a1b2')")
    )
    assert "belongs to another program" in sentence_of(url)


def test_schema_file_is_the_one_the_migrations_make() -> None:
    written = files("aicp.storage.migrations").joinpath("schema_postgresql.sql").read_text(encoding="utf-8")
    assert written == postgresql_steps(None), "run: python -m aicp.storage.migrations"


@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_older_database_is_brought_along_and_is_what_a_new_one_is(url: str, revision: str) -> None:
    async def main() -> None:
        fresh = shared_server().fresh_url()
        await database(fresh).upgrade()
        await ask(url, postgresql_steps(None, revision))
        upgraded = await database(url).upgrade()
        assert (upgraded.revision_before, upgraded.revision) == (revision, REVISIONS[-1])
        assert await shape_of(url) == await shape_of(fresh)
        async with opened(url) as journal:
            await journal.submit(submitted("c1"))

    run(main())


async def shape_of(url: str) -> list[Any]:
    columns = """
        SELECT table_name, column_name, data_type, is_nullable FROM information_schema.columns
        WHERE table_schema = current_schema() ORDER BY 1, 2
    """
    indexes = """
        SELECT indexname, replace(indexdef, current_schema() || '.', '') FROM pg_indexes
        WHERE schemaname = current_schema() ORDER BY 1
    """
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for sql in (columns, indexes) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


def test_many_who_start_at_once_upgrade_once(url: str) -> None:
    async def main() -> None:
        upgrades = await asyncio.gather(*(database(url).upgrade() for _ in range(6)))
        assert sorted(upgraded.revision_before or "" for upgraded in upgrades) == ["", *[REVISIONS[-1]] * 5]

    run(main())


def test_step_that_fails_leaves_the_database_as_it_was(url: str) -> None:
    async def main() -> None:
        await ask(url, postgresql_steps(None, "0002"))
        await ask(url, "CREATE TABLE cancel_requests (other text)")
        await refused(database(url).upgrade(), StorageError)
        assert await ask(url, "SELECT version_num FROM alembic_version") == "0002"
        assert await ask(url, "SELECT to_regclass('replicas') IS NULL")

    run(main())


STEPS = ("1", "2", "3", "4")


def found(revision: str | None, *alive: str) -> PostgresSchema:
    return PostgresSchema(Standing.OLDER, revision, frozenset(alive))


@pytest.mark.parametrize(
    ("schema", "contracts", "target", "waiting"),
    [
        (found(None), {"2": "1"}, "4", ()),
        (found("1"), {}, "4", ()),
        (found("1", "1", "4"), {}, "4", ()),
        (found("1"), {"4": "3"}, "4", ()),
        (found("1", "3"), {"4": "3"}, "4", ()),
        (found("1", "2"), {"4": "3"}, "3", ("4",)),
        (found("3", "2", "9"), {"4": "3"}, None, ("4",)),
        (found("2", "1"), {"3": "2", "4": "3"}, None, ("3", "4")),
    ],
)
def test_steps_that_take_something_away_wait_until_nobody_alive_needs_it(
    schema: PostgresSchema, contracts: Mapping[str, str], target: str | None, waiting: tuple[str, ...]
) -> None:
    plan = plan_steps(schema, STEPS, contracts)
    assert (plan.target, plan.waiting) == (target, waiting)


def test_step_that_is_needed_behind_one_that_must_wait_is_refused_with_what_to_do() -> None:
    with pytest.raises(SettingsError, match="Stop those, or upgrade them to the release before this one"):
        plan_steps(found("2", "1"), STEPS, {"3": "2"})
