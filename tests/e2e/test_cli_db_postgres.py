"""`aicp db` on a real PostgreSQL, and what it, and a node, say of one that cannot be used."""

import asyncio
import json
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aicp.cli.main import main
from aicp.errors import AicpError
from aicp.runtime.databases import backup
from aicp.runtime.node import Node
from aicp.storage import postgres_server as server_module
from aicp.storage.postgres_address import parse_postgres_url
from aicp.storage.postgres_check import TABLES
from aicp.storage.postgres_programs import target_of
from aicp.storage.sqlite_backup import EPOCHS_LEAPT
from aicp.storage.sqlite_schema import REVISIONS
from tests.integration.postgres_kit import opened, run
from tests.postgres_server import PostgresServer, ask_now, binaries, free_port, postgres_server
from tests.unit.sqlite_kit import submitted

NEWEST = REVISIONS[-1]
PASSWORD = "hunter2/@#"
QUOTED_PASSWORD = "hunter2%2F%40%23"


class Ran(msgspec.Struct, frozen=True):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


class Shell:
    """Runs commands on one database, with PostgreSQL's programs in the PATH."""

    def __init__(self, server: PostgresServer, url: str, capture: pytest.CaptureFixture[str]) -> None:
        self.server = server
        self.url = url
        self._capture = capture

    def run(self, *arguments: str, url: str | None = None) -> Ran:
        code = main(["db", *arguments, "--database", url or self.url])
        told = self._capture.readouterr()
        return Ran(code, told.out, told.err)

    def ask(self, sql: str) -> Any:
        return ask_now(self.url, sql)

    def fill(self, *chains: str) -> None:
        async def main() -> None:
            async with opened(self.url) as journal:
                await asyncio.gather(*(journal.submit(submitted(chain)) for chain in chains))

        run(main())

    @property
    def chains(self) -> list[str]:
        found: list[str] = self.ask("SELECT array_agg(chain_id ORDER BY chain_id) FROM chains")
        return found


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server as one would run it, which asks the user `guarded` for a password."""
    with postgres_server({"fsync": "on"}) as started:
        rules = started._data / "pg_hba.conf"
        rules.write_text("host all guarded 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        ask_now(started.url(), f"CREATE ROLE guarded LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
        ask_now(started.url(), "CREATE ROLE nobody LOGIN")
        ask_now(started.url(), "SELECT pg_reload_conf()")
        yield started


@pytest.fixture
def shell(
    server: PostgresServer, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(binaries()), prepend=os.pathsep)
    return Shell(server, server.fresh_url(), capsys)


def assert_one_sentence(ran: Ran, code: int, *told: str) -> None:
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert len(ran.err.splitlines()) == 1, ran.err
    for text in told:
        assert text in ran.err


def place_of(server: PostgresServer, database: str = "postgres") -> str:
    return f"postgresql://127.0.0.1:{server.port}/{database}"


# -- upgrade and check


def test_upgrade_makes_the_tables_and_again_does_nothing(shell: Shell) -> None:
    made = shell.run("upgrade", "-o", "json")
    place = place_of(shell.server)
    assert (made.code, made.err) == (0, "")
    assert made.data == {"place": place, "revision_before": None, "revision": NEWEST, "waiting": []}
    assert shell.run("upgrade", "-o", "json").data["revision_before"] == NEWEST


def test_upgrade_may_be_done_while_a_server_uses_it(shell: Shell) -> None:
    async def main() -> None:
        async with opened(shell.url):
            assert (await asyncio.to_thread(shell.run, "upgrade")).code == 0

    run(main())


def test_check_of_a_database_in_use_counts_what_it_holds(shell: Shell) -> None:
    async def main() -> Ran:
        async with opened(shell.url) as journal:
            await journal.submit(submitted("c1"))
            return await asyncio.to_thread(shell.run, "check", "-o", "json")

    ran = run(main())
    assert (ran.code, ran.err) == (0, "")
    assert (ran.data["is_sound"], ran.data["revision"], ran.data["notes"]) == (True, NEWEST, [])
    assert ran.data["size_bytes"] > 0
    assert ran.data["counts"] == {
        "chains": 1, "unfinished_chains": 1, "facts": 1, "large_results": 0, "submit_keys": 0, "registrations": 0,
        "replicas_alive": 1, "api_keys": 0, "audit_records": 0,
    }  # fmt: skip


def test_check_finds_results_that_are_missing_and_tables_that_are_not_as_they_should_be(shell: Shell) -> None:
    shell.fill("c1")
    shell.ask("INSERT INTO facts VALUES ('c1', 99, '{}', '\\x00')")
    missing = shell.run("check", "-o", "json")
    fact, result = missing.data["problems"]
    assert missing.code == 1
    assert fact.startswith("row c1/1 of table facts is damaged: it is missing")
    assert result.startswith("row 00 of table results is damaged: it is missing")
    assert missing.err == f"The database {place_of(shell.server)} is not sound: {missing.data['problems'][0]}.\n"
    shell.ask("ALTER TABLE results RENAME COLUMN body TO soul")
    damaged = shell.run("check", "-o", "json")
    assert (damaged.code, damaged.data["problems"]) == (1, ['it is damaged (column "body" does not exist)'])


def test_check_knows_every_table_of_the_newest_schema(shell: Shell) -> None:
    shell.run("upgrade")
    made = shell.ask("SELECT array_agg(tablename::text) FROM pg_tables WHERE schemaname = current_schema()")
    assert set(made) == set(TABLES)


def test_check_of_a_newer_version_or_of_another_program_says_what_a_node_says(shell: Shell) -> None:
    shell.fill("c1")
    shell.ask("UPDATE alembic_version SET version_num = '9999'")
    shell.ask("UPDATE schema_needs SET revision = '9999'")
    newer = shell.run("check")
    assert newer.code == 1
    assert "is of a newer version of AICP (revision 9999): upgrade AICP" in newer.err
    assert "is of a newer version of AICP (revision 9999" in refusal_of_node(shell.url)
    assert_one_sentence(shell.run("upgrade"), 2, "is of a newer version of AICP (revision 9999", "upgrade AICP")
    shell.ask("DROP TABLE alembic_version")
    assert "belongs to another program" in shell.run("check").err
    assert "belongs to another program" in refusal_of_node(shell.url)


# -- what cannot be used


def refusal_of_node(url: str) -> str:
    """What a node says that is started on this database."""

    async def main() -> str:
        with pytest.raises(AicpError) as raised:
            async with Node(database=url):
                pass
        return raised.value.message

    return run(main())


@pytest.mark.parametrize(
    ("user", "database", "told"),
    [
        ("guarded", "postgres", "the password is wrong, or the server wants one"),
        ("guarded:wrong", "postgres", "the password is wrong"),
        ("unknown", "postgres", "the server does not let this user in"),
        ("postgres", "missing", "there is no such database"),
        ("nobody", "postgres", "the user has too few rights"),
    ],
)
def test_database_that_cannot_be_used_is_one_sentence_the_same_everywhere(
    shell: Shell, user: str, database: str, told: str
) -> None:
    url = shell.server.url(database, user=user)
    sentence = refusal_of_node(url)
    assert told in sentence
    assert place_of(shell.server, database) in sentence
    for command in (["check"], ["upgrade"], ["backup", "copy.dump"]):
        if command == ["backup", "copy.dump"] and user == "nobody":
            continue  # it may look, and sees that there is nothing to copy
        assert_one_sentence(shell.run(*command, url=url), 2, sentence)
    assert "wrong:" not in sentence
    assert not list(Path().iterdir())


def test_database_of_somebody_else_is_refused_for_want_of_rights(shell: Shell) -> None:
    shell.fill("c1")
    schema = shell.ask("SELECT current_schema()")
    shell.ask(f"GRANT USAGE ON SCHEMA {schema} TO nobody")
    shell.ask(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO nobody")
    url = shell.url.replace("postgres@", "nobody@")
    assert_one_sentence(shell.run("check", url=url), 2, "too few rights", "permission denied for table")
    assert "too few rights" in refusal_of_node(url)


def test_server_that_is_too_old_is_one_sentence_the_same_everywhere(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No server that old runs on a machine of today: the bound is moved instead.
    monkeypatch.setattr(server_module, "VERSION_MIN", 99)
    sentence = refusal_of_node(shell.url)
    assert "which is too old: AICP needs" in sentence
    assert_one_sentence(shell.run("check"), 2, sentence)


def test_server_that_is_not_there_and_url_that_is_none_are_one_sentence(shell: Shell) -> None:
    gone = shell.url.replace(f":{shell.server.port}/", f":{free_port()}/")
    for command in (["check"], ["backup", "copy.dump"]):
        assert_one_sentence(shell.run(*command, url=gone), 3, "nobody listens there: start PostgreSQL")
    for url, told in (
        ("postgresql://u:hunter2@ho st:5x/db", "no host and port"),
        ("postgresql://u:hunter2@host/db#1", "bare '#'"),
        ("postgresql://u:hunter2@host/db?connect_timeout=soon", "connect_timeout is no whole number"),
    ):
        ran = shell.run("check", url=url)
        assert_one_sentence(ran, 2, told)
        assert "hunter2" not in ran.err


# -- backup and restore


def test_backup_beside_a_server_is_restored_and_what_was_there_is_kept(shell: Shell) -> None:
    async def back_up() -> Ran:
        async with opened(shell.url) as journal:
            await asyncio.gather(*(journal.submit(submitted(chain)) for chain in ("c1", "c2")))
            return await asyncio.to_thread(shell.run, "backup", "copy.dump", "-o", "json")

    made = run(back_up())
    copy = Path("copy.dump")
    assert (made.code, made.err) == (0, "")
    assert made.data == {
        "place": place_of(shell.server), "backup": "copy.dump", "revision": NEWEST, "size_bytes": copy.stat().st_size,
    }  # fmt: skip
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert [each.name for each in Path().iterdir()] == ["copy.dump"]
    shell.fill("c3")
    number = shell.ask("SELECT max(number) FROM replicas")

    restored = shell.run("restore", "copy.dump", "-o", "json")
    kept = restored.data["kept"]
    assert restored.code == 0, restored.err
    assert restored.err == f"What was there is kept in the schema {kept}.\n"
    assert restored.data == {
        "place": place_of(shell.server), "backup": "copy.dump", "revision": NEWEST, "kept": kept,
    }  # fmt: skip
    assert shell.chains == ["c1", "c2"]
    assert shell.ask(f"SELECT count(*) FROM {kept}.chains") == 3
    assert shell.run("check").code == 0
    assert claimed(shell.url) == {"c1": EPOCHS_LEAPT + 2, "c2": EPOCHS_LEAPT + 2}
    assert shell.ask("SELECT max(number) FROM replicas") > number + EPOCHS_LEAPT
    assert shell.run("restore", "copy.dump", "-o", "json").data["kept"] != kept


def claimed(url: str) -> dict[str, int]:
    """The epochs under which a server goes on with what is unfinished."""

    async def main() -> dict[str, int]:
        async with opened(url) as journal:
            return {record.submitted.chain_id: record.epoch for record in await journal.claim(10)}

    return run(main())


def test_restore_into_an_empty_database_keeps_nothing(shell: Shell) -> None:
    shell.fill("c1")
    assert shell.run("backup", "copy.dump").code == 0
    schema = shell.ask("SELECT current_schema()")
    ask_now(shell.server.url(), "CREATE DATABASE fresh")
    url = shell.url.replace("/postgres?", "/fresh?")
    assert_one_sentence(shell.run("restore", "copy.dump", url=url), 2, "there is no schema to make tables in")
    ask_now(url, f"CREATE SCHEMA {schema}")
    ran = shell.run("restore", "copy.dump", "-o", "json", url=url)
    assert (ran.code, ran.err, ran.data["kept"]) == (0, "", None)
    assert ask_now(url, "SELECT count(*) FROM chains") == 1


def test_backup_and_restore_leave_tables_of_others_alone(shell: Shell) -> None:
    shell.fill("c1")
    shell.ask("CREATE TABLE of_somebody AS SELECT 1 AS one")
    assert shell.run("backup", "copy.dump").code == 0
    shell.ask("INSERT INTO of_somebody VALUES (2)")
    assert shell.run("restore", "copy.dump").code == 0
    assert shell.ask("SELECT count(*) FROM of_somebody") == 2


def test_restore_refuses_while_a_server_is_alive_and_says_which(shell: Shell) -> None:
    async def main() -> None:
        async with opened(shell.url, name="berlin-1") as journal:
            await journal.submit(submitted("c1"))
            assert (await asyncio.to_thread(shell.run, "backup", "copy.dump")).code == 0
            ran = await asyncio.to_thread(shell.run, "restore", "copy.dump")
            assert_one_sentence(ran, 2, "is in use by berlin-1: stop every server on it first")
            await journal.submit(submitted("c2"))

    run(main())
    assert shell.chains == ["c1", "c2"]


def test_restore_of_a_backup_that_is_no_good_leaves_the_database_as_it_was(shell: Shell) -> None:
    shell.fill(*(f"c{number}" for number in range(300)))
    # Much, and of a kind that does not shrink, so that part of it is restored before the damage is met.
    shell.ask("INSERT INTO results SELECT sha256(n::text::bytea), md5(n::text) FROM generate_series(1, 50000) AS n")
    assert shell.run("backup", "copy.dump").code == 0
    whole = Path("copy.dump").read_bytes()
    Path("cut.dump").write_bytes(whole[: len(whole) // 2])
    Path("letter.txt").write_text("Dear friend, this is no backup. " * 100)
    middle = len(whole) // 2
    Path("damaged.dump").write_bytes(whole[:middle] + b"\xff" * 512 + whole[middle + 512 :])
    schemas = shell.ask("SELECT count(*) FROM pg_namespace")
    for name in ("cut.dump", "letter.txt", "damaged.dump"):
        assert_one_sentence(shell.run("restore", name), 2, f"The backup {name} cannot be used", "take another one")
    assert_one_sentence(shell.run("restore", "missing.dump"), 2, "There is no backup missing.dump")
    assert len(shell.chains) == 300
    assert shell.ask("SELECT count(*) FROM pg_namespace") == schemas


def test_restore_by_one_who_may_not_keep_what_was_there_leaves_it_as_it_was(shell: Shell) -> None:
    schema = shell.ask("SELECT current_schema()")
    shell.ask("CREATE ROLE tenant LOGIN")
    shell.ask(f"ALTER SCHEMA {schema} OWNER TO tenant")
    url = shell.url.replace("postgres@", "tenant@")
    assert shell.run("upgrade", url=url).code == 0
    assert shell.run("check", url=url).code == 0
    shell.fill("c1")
    assert shell.run("backup", "copy.dump", url=url).code == 0
    assert_one_sentence(shell.run("restore", "copy.dump", url=url), 3, "psql failed", "denied for database postgres")
    assert shell.chains == ["c1"]


def test_restore_refuses_a_backup_of_a_newer_version_or_another_schema(shell: Shell) -> None:
    shell.fill("c1")
    assert shell.run("backup", "copy.dump").code == 0
    elsewhere = shell.server.fresh_url()
    assert_one_sentence(shell.run("restore", "copy.dump", url=elsewhere), 2, "is of the schema", "csearch_path")
    shell.ask("UPDATE alembic_version SET version_num = '9999'")
    assert shell.run("backup", "expanded.dump").code == 0
    shell.ask("UPDATE schema_needs SET revision = '9999'")
    assert_one_sentence(shell.run("backup", "newer.dump"), 2, "newer version of AICP")
    assert shell.run("restore", "copy.dump").code == 0, "a backup of this version is the way back"
    assert shell.chains == ["c1"]


def test_backup_tells_how_far_it_is_and_ends_without_a_trace_when_it_is_told_to(shell: Shell) -> None:
    shell.fill("c1")
    told: list[tuple[int, int]] = []
    backup(shell.url, Path("copy.dump"), lambda done, of: told.append((done, of)))
    assert told == [(done, len(TABLES)) for done in range(len(TABLES) - 2)], "all but the two that are not copied"

    def interrupt(_: int, __: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        backup(shell.url, Path("other.dump"), interrupt)
    assert [each.name for each in Path().iterdir()] == ["copy.dump"]


def test_backup_overwrites_nothing_and_copies_nothing_of_nobody(shell: Shell) -> None:
    assert_one_sentence(shell.run("backup", "copy.dump"), 2, "holds nothing of AICP")
    shell.fill("c1")
    Path("copy.dump").write_text("dear to me")
    assert_one_sentence(shell.run("backup", "copy.dump"), 2, "copy.dump is there already")
    assert Path("copy.dump").read_text() == "dear to me"
    assert_one_sentence(shell.run("backup", "nowhere/copy.dump"), 2, "cannot be written")


def test_without_the_programs_of_postgresql_one_sentence_says_what_to_install(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.fill("c1")
    Path("copy.dump").touch()
    monkeypatch.setenv("PATH", "/nowhere")
    assert_one_sentence(shell.run("backup", "other.dump"), 2, "no pg_dump in the PATH", "postgresql-client")
    assert_one_sentence(shell.run("restore", "copy.dump"), 2, "no pg_restore in the PATH")


def test_password_goes_to_the_programs_where_nobody_sees_it(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    shell.fill("c1")
    Path("spies").mkdir()
    for program in ("pg_dump", "pg_restore", "psql"):
        spy = Path("spies", program)
        spy.write_text(f'#!/bin/sh\necho "$0 $@" >> spied\nexec "{binaries() / program}" "$@"\n')
        spy.chmod(0o755)
    monkeypatch.setenv("PATH", str(Path("spies").absolute()), prepend=os.pathsep)
    monkeypatch.delenv("PGPASSWORD", raising=False)
    url = shell.url.replace("postgres@", f"guarded:{QUOTED_PASSWORD}@")
    assert shell.run("backup", "copy.dump", url=url).code == 0
    assert shell.run("restore", "copy.dump", url=url).code == 0
    spied = Path("spied").read_text()
    assert {"pg_dump", "pg_restore", "psql"} <= {Path(line.split()[0]).name for line in spied.splitlines()}
    assert "hunter2" not in spied
    assert shutil.which("psql") == str(Path("spies/psql").absolute())


def test_programs_are_told_what_they_know_and_the_server_is_told_the_rest() -> None:
    url = "postgresql://u:p%2Fw@[::1]:5433/db?sslmode=require&search_path=a b&options=-cjit%3Doff&connect_timeout=7"
    target = target_of(parse_postgres_url(url), {"HOME": "/home/u"})
    assert target.url == "postgresql://u@[::1]:5433/db?sslmode=require&options=-cjit%3Doff%20-csearch_path%3Da%5C%20b"
    assert target.environ == {"HOME": "/home/u", "LC_ALL": "C", "PGCONNECT_TIMEOUT": "7", "PGPASSWORD": "p/w"}
    assert "p/w" not in repr(target)
