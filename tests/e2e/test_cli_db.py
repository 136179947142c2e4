"""`aicp db` as people use it: in processes of its own, beside another process that writes to the same database."""

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

import aicp
from aicp.storage.sqlite_schema import REVISIONS
from tests.integration.test_sqlite_processes import Acknowledged, line_of, process
from tests.unit.sqlite_kit import ask, opened, run, submitted

SOURCES = Path(aicp.__file__).parents[1]
BOUND_S = 60.0
NOBODY = 65_534
NEWEST = REVISIONS[-1]
COMMANDS = (["upgrade"], ["check"], ["backup", "copy.db"], ["restore", "backup.db"])


class Ran(msgspec.Struct, frozen=True):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


class Shell:
    """A directory with a data directory in it, and the environment in which commands run there."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.database = where / "data" / "aicp.db"
        self.environment = {**os.environ, "PYTHONPATH": str(SOURCES), "AICP_DATA_DIR": str(where / "data")}
        self.environment.pop("AICP_DATABASE_URL", None)

    def run(self, *arguments: str, **environment: str) -> Ran:
        return self._run([sys.executable, "-m", "aicp", "db", *arguments], environment)

    def run_without_rights(self, *arguments: str) -> Ran:
        return self._run([sys.executable, "-c", UNPRIVILEGED, str(NOBODY), "db", *arguments], {})

    def run_in_terminal(self, *arguments: str) -> tuple[str, str]:
        """What comes on stdout, which is a pipe, and on stderr, which is a terminal."""
        screen, terminal = os.openpty()
        with os.fdopen(screen, "rb"), os.fdopen(terminal, "wb") as stderr:
            ran = subprocess.run(
                [sys.executable, "-m", "aicp", "db", *arguments], cwd=self.where,
                env={**self.environment, "TERM": "xterm"}, stdout=subprocess.PIPE, stderr=stderr, text=True,
                timeout=BOUND_S, check=True,
            )  # fmt: skip
            return ran.stdout, os.read(screen, 100_000).decode()

    @contextmanager
    def written_to(self) -> Iterator[Acknowledged]:
        """Another process writes all the while; what it has acknowledged so far is given."""
        acknowledged = Acknowledged()
        with process("write", self.database, 1) as writer:
            while len(acknowledged.submitted) < 30:
                acknowledged.take(line_of(writer))
            yield acknowledged
            assert writer.poll() is None

    def fill(self, *chains: str) -> None:
        async def main() -> None:
            async with opened(self.database) as journal:
                for chain in chains:
                    await journal.submit(submitted(chain))

        run(main())

    @property
    def chains(self) -> list[str]:
        with closing(sqlite3.connect(self.database)) as connection:
            return [name for (name,) in connection.execute("SELECT chain_id FROM chains ORDER BY number")]

    def _run(self, command: list[str], environment: dict[str, str]) -> Ran:
        ran = subprocess.run(
            command, cwd=self.where, env={**self.environment, **environment},
            capture_output=True, text=True, timeout=BOUND_S, check=False,
        )  # fmt: skip
        assert "Traceback" not in ran.stderr
        return Ran(ran.returncode, ran.stdout, ran.stderr)


# A command that is refused goes first: what it imports may be where the user without rights cannot read.
UNPRIVILEGED = """
import contextlib, io, os, sys
from aicp.cli.main import main
with contextlib.redirect_stderr(io.StringIO()):
    main(["db", "check", "--database", "nonsense"])
if os.geteuid() == 0:
    os.setgid(int(sys.argv[1]))
    os.setuid(int(sys.argv[1]))
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def public() -> Iterator[Shell]:
    """A shell in a directory that others may enter; pytest's own they may not."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield Shell(directory)
        directory.chmod(0o700)


def assert_one_sentence(ran: Ran, code: int, *told: str) -> None:
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert len(ran.err.splitlines()) == 1, ran.err
    for text in told:
        assert text in ran.err


def files_in(directory: Path) -> list[str]:
    return sorted(each.name for each in directory.iterdir())


def make_newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")


def damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xff" * 4096 * 3)


# -- which database


def test_database_is_the_one_in_the_data_directory_unless_another_is_named(shell: Shell) -> None:
    made = shell.run("upgrade", "-o", "json")
    assert made.data == {"path": str(shell.database), "revision_before": None, "revision": NEWEST}
    by_variable = shell.run("upgrade", "-o", "json", AICP_DATABASE_URL="sqlite:///by-variable.db")
    assert by_variable.data["path"] == "by-variable.db"
    url = f"sqlite:///{shell.where}/by-option.db"
    by_option = shell.run("upgrade", "-o", "json", "--database", url, AICP_DATABASE_URL="sqlite:///by-variable.db")
    assert by_option.data["path"] == f"{shell.where}/by-option.db"
    assert {"by-variable.db", "by-option.db"} <= set(files_in(shell.where))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_database_of_another_kind_is_one_sentence(shell: Shell, command: list[str]) -> None:
    ran = shell.run(*command, "--database", "mysql://aicp:hunter2@host/aicp")
    assert_one_sentence(ran, 2, "knows no database 'mysql://'", "postgresql://")
    assert "hunter2" not in ran.err
    assert files_in(shell.where) == []


# -- backup, beside a writer


def test_backup_of_a_database_in_use_holds_everything_acknowledged_before_it_began(shell: Shell) -> None:
    with shell.written_to() as acknowledged:
        ran = shell.run("backup", "copy.db", "-o", "json")
    assert (ran.code, ran.err) == (0, "")
    copy = shell.where / "copy.db"
    assert ran.data == {
        "path": str(shell.database), "backup": "copy.db", "revision": NEWEST, "size_bytes": copy.stat().st_size,
    }  # fmt: skip
    assert files_in(shell.where) == ["copy.db", "data"]
    assert shell.run("check", "--database", "sqlite:///copy.db").code == 0
    asyncio.run(acknowledged.check(copy))


def test_backup_shows_a_bar_on_a_terminal_and_data_stays_clean(shell: Shell) -> None:
    shell.fill("c1")
    out, screen = shell.run_in_terminal("backup", "copy.db", "-o", "jsonl")
    assert json.loads(out)["backup"] == "copy.db"
    assert "copying" in screen
    assert "━" in screen
    assert "100%" in screen


def test_backup_overwrites_nothing(shell: Shell) -> None:
    shell.fill("c1")
    (shell.where / "copy.db").write_text("dear to me")
    assert_one_sentence(shell.run("backup", "copy.db"), 2, "copy.db is there already")
    assert (shell.where / "copy.db").read_text() == "dear to me"


# -- restore


def test_restore_refuses_while_another_process_uses_the_database(shell: Shell) -> None:
    with shell.written_to() as acknowledged:
        assert shell.run("backup", "copy.db").code == 0
        ran = shell.run("restore", "copy.db")
        assert_one_sentence(ran, 2, f"The database {shell.database} is in use by process", "stop that one")
    asyncio.run(acknowledged.check(shell.database))
    assert not [name for name in files_in(shell.database.parent) if "before-restore" in name]


def test_restore_puts_the_backup_in_place_keeps_what_was_there_and_says_where(shell: Shell) -> None:
    shell.fill("old")
    assert shell.run("backup", "copy.db").code == 0
    shell.fill("new")
    ran = shell.run("restore", "copy.db", "-o", "json")
    kept = shell.database.with_name("aicp.db.before-restore-1")
    assert ran.code == 0
    assert ran.data == {"path": str(shell.database), "backup": "copy.db", "revision": NEWEST, "kept": str(kept)}
    assert ran.err == f"The database that was there is kept as {kept}.\n"
    assert shell.chains == ["old"]
    assert ask(kept, "SELECT count(*) FROM chains") == 2


def test_restore_is_taken_back_by_restoring_what_was_kept(shell: Shell) -> None:
    shell.fill("old")
    assert shell.run("backup", "copy.db").code == 0
    shell.fill("new")
    kept = shell.run("restore", "copy.db", "-o", "json").data["kept"]
    assert shell.run("restore", kept).code == 0
    assert shell.chains == ["old", "new"]


def test_backup_taken_beside_a_killed_writer_is_restored_whole(shell: Shell) -> None:
    with shell.written_to() as acknowledged:
        assert shell.run("backup", "copy.db").code == 0
    ran = shell.run("restore", "copy.db")
    assert ran.code == 0, ran.err
    assert "before-restore-1" in ran.out
    assert shell.run("check").code == 0
    asyncio.run(acknowledged.check(shell.database))


def test_restore_to_where_nothing_was_keeps_nothing(shell: Shell) -> None:
    shell.fill("c1")
    assert shell.run("backup", "copy.db").code == 0
    ran = shell.run("restore", "copy.db", "--database", "sqlite:///new/aicp.db", "-o", "json")
    assert (ran.code, ran.data["kept"], ran.err) == (0, None, "")


def test_restore_of_a_backup_that_is_no_good_leaves_the_database_as_it_was(shell: Shell) -> None:
    shell.fill(*(f"c{number}" for number in range(50)))
    for name, spoil in (("damaged.db", damage), ("newer.db", make_newer)):
        assert shell.run("backup", name).code == 0
        spoil(shell.where / name)
        assert_one_sentence(shell.run("restore", name), 2, f"The backup {name} cannot be used", "take another one")
    assert_one_sentence(shell.run("restore", "missing.db"), 2, "There is no database missing.db")
    assert len(shell.chains) == 50
    assert files_in(shell.database.parent) == ["aicp.db", "aicp.db.lock"]


# -- check


def test_check_of_a_database_in_use_counts_what_it_holds(shell: Shell) -> None:
    with shell.written_to() as acknowledged:
        ran = shell.run("check", "-o", "json")
    assert (ran.code, ran.err) == (0, "")
    assert (ran.data["is_sound"], ran.data["problems"]) == (True, [])
    assert ran.data["counts"]["chains"] >= len(acknowledged.submitted)
    assert {"unfinished_chains", "facts", "large_results", "registrations"} <= ran.data["counts"].keys()


def test_check_is_told_as_a_table_too(shell: Shell) -> None:
    shell.fill("c1", "c2")
    rows = [line.split() for line in shell.run("check").out.splitlines()]
    assert ["is", "sound", "yes"] in rows
    assert ["chains", "2"] in rows
    assert ["problems", "-"] in rows


def test_check_of_a_damaged_database_ends_with_one_and_lists_the_damage(shell: Shell) -> None:
    shell.fill(*(f"c{number}" for number in range(50)))
    damage(shell.database)
    ran = shell.run("check", "-o", "jsonl")
    assert (ran.code, ran.data["is_sound"]) == (1, False)
    assert ran.data["problems"]
    assert ran.err.startswith(f"The database {shell.database} is not sound: ")
    assert len(ran.err.splitlines()) == 1


def test_check_of_a_newer_version_and_of_no_database_ends_with_one(shell: Shell) -> None:
    shell.fill("c1")
    make_newer(shell.database)
    newer = shell.run("check", "-o", "json")
    assert (newer.code, newer.data["revision"]) == (1, "9999")
    assert "newer version of AICP (revision 9999): upgrade AICP" in newer.err
    (shell.where / "letter.txt").write_text("Dear friend, this is no database. " * 100)
    letter = shell.run("check", "--database", "sqlite:///letter.txt", "-o", "json")
    assert (letter.code, letter.data["is_sound"]) == (1, False)
    assert "file is not a database" in letter.err


# -- upgrade


def test_upgrade_of_a_database_in_use_is_refused(shell: Shell) -> None:
    with shell.written_to():
        assert_one_sentence(shell.run("upgrade"), 2, "is in use by process")


def test_upgrade_of_a_newer_database_or_of_no_database_is_refused(shell: Shell) -> None:
    shell.fill("c1")
    make_newer(shell.database)
    assert_one_sentence(shell.run("upgrade"), 2, "newer version of AICP (revision 9999", "upgrade AICP")
    letter = shell.where / "letter.txt"
    letter.write_text("Dear friend, this is no database. " * 100)
    before = letter.read_bytes()
    assert_one_sentence(shell.run("upgrade", "--database", "sqlite:///letter.txt"), 2, "letter.txt", "no database")
    assert letter.read_bytes() == before


# -- what cannot be read or written


@pytest.mark.parametrize("command", [["check"], ["backup", "copy.db"]], ids=lambda command: command[0])
def test_database_that_is_not_there_is_one_sentence_and_none_is_made(shell: Shell, command: list[str]) -> None:
    assert_one_sentence(shell.run(*command), 2, f"There is no database {shell.database}")
    assert files_in(shell.where) == []


def test_damaged_database_is_not_backed_up(shell: Shell) -> None:
    shell.fill(*(f"c{number}" for number in range(50)))
    shell.database.write_bytes(b"\xff" * 8192)
    assert_one_sentence(shell.run("backup", "copy.db"), 2, f"{shell.database} cannot be used: it is no database")
    assert files_in(shell.where) == ["data"]


def test_backup_into_a_directory_that_is_not_there_is_one_sentence(shell: Shell) -> None:
    shell.fill("c1")
    assert_one_sentence(shell.run("backup", "nowhere/copy.db"), 2, "nowhere/copy.db", "No such file or directory")


def test_directory_one_may_not_write_to_is_one_sentence(public: Shell) -> None:
    public.fill("c1")
    assert public.run("backup", "copy.db").code == 0
    for readable, mode in (
        (public.database.parent, 0o755),
        (public.database, 0o644),
        (public.where / "copy.db", 0o644),
    ):
        readable.chmod(mode)
    for command in (["upgrade"], ["restore", "copy.db"]):
        ran = public.run_without_rights(*command, "--database", "sqlite:///new.db")
        assert_one_sentence(ran, 2, "new.db", "Permission denied", "a directory of yours")
    assert_one_sentence(
        public.run_without_rights("backup", "another.db", "--database", "sqlite:///copy.db"), 2, "another.db"
    )
    assert files_in(public.where) == ["copy.db", "data"]


def test_backup_that_one_may_only_read_can_be_checked(public: Shell) -> None:
    public.fill("c1")
    assert public.run("backup", "copy.db").code == 0
    (public.where / "copy.db").chmod(0o444)
    assert public.run_without_rights("check", "--database", "sqlite:///copy.db", "-o", "json").code == 0
