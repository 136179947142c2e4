"""Real processes on one file: killed at any moment, kept out while another has it, refused where they may not write."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import aicp
from aicp.model.event import ChainEnded, TaskEnded
from aicp.ports import SubmitKey
from aicp.storage.sqlite_backup import backup_database, check_database
from tests.integration.sqlite_process import result_of
from tests.unit.sqlite_kit import database, opened, run, submitted

REPOSITORY = Path(__file__).parents[2]
SOURCES = Path(aicp.__file__).parents[1]
BOUND_S = 60.0
NOBODY = 65_534
KILLS = 12


@contextmanager
def process(what: str, path: Path, *arguments: object, **environment: str) -> Iterator["subprocess.Popen[str]"]:
    """A process of `tests.integration.sqlite_process`; killed at the end if it is still there."""
    command = [sys.executable, "-m", "tests.integration.sqlite_process", what, str(path), *map(str, arguments)]
    paths = os.pathsep.join([str(SOURCES), str(REPOSITORY)])
    env = {**os.environ, "PYTHONPATH": paths, **environment}
    with subprocess.Popen(command, cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, text=True) as started:
        guard = threading.Timer(BOUND_S, started.kill)
        guard.start()
        try:
            yield started
        finally:
            guard.cancel()
            started.kill()


def line_of(started: "subprocess.Popen[str]") -> str:
    assert started.stdout is not None
    return started.stdout.readline().strip()


class Acknowledged:
    """What processes said was on disk."""

    def __init__(self) -> None:
        self.submitted: dict[str, str] = {}
        self.appended: dict[str, int] = {}
        self.ended: set[str] = set()

    def take(self, line: str) -> None:
        what, *words = line.split()
        if what == "submitted":
            self.submitted[words[0]] = words[1]
        elif what == "appended":
            self.appended[words[0]] = int(words[1])
        elif what == "ended":
            self.ended.add(words[0])

    async def check(self, path: Path) -> None:
        async with opened(path) as journal:
            for chain, key in self.submitted.items():
                assert await journal.submit(submitted("another"), SubmitKey("t", key, b"body")) == chain
                record = await journal.read(chain)
                assert record is not None
                ends = [fact for fact in record.facts if isinstance(fact, TaskEnded)]
                assert len(ends) >= self.appended.get(chain, 0)
                assert [fact.task for fact in ends] == [f"t{number}" for number in range(len(ends))]
                assert all(fact.result.result == result_of(fact.task) for fact in ends)
                assert chain not in self.ended or isinstance(record.facts[-1], ChainEnded)


def test_what_was_acknowledged_is_there_after_kill_nine_at_any_moment(tmp_path: Path) -> None:
    path, acknowledged, draw = tmp_path / "a.db", Acknowledged(), random.Random(1)
    claimed: list[int] = []
    for seed in range(KILLS):
        with process("write", path, seed) as writer:
            assert line_of(writer) == "open"
            claimed.append(int(line_of(writer).removeprefix("claimed ")))
            killing = threading.Timer(draw.uniform(0.02, 0.4), writer.send_signal, [signal.SIGKILL])
            killing.start()
            assert writer.stdout is not None
            for line in writer.stdout:
                assert line.endswith("\n")
                acknowledged.take(line)
            assert writer.wait() == -signal.SIGKILL
        assert check_database(path).problems == ()
    run(acknowledged.check(path))
    assert len(acknowledged.submitted) > KILLS
    assert max(claimed) > 0


def test_second_process_is_refused_while_the_first_lives_and_let_in_when_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with process("hold", path) as holder:
        assert line_of(holder) == "open"
        with process("open", path, LOCK_WAIT_S="0.2") as second:
            refusal = line_of(second)
            assert refusal == (
                f"SettingsError The database {path} is in use by process {holder.pid}: stop that one, or name another "
                "file."
            )
        with process("open", path, LOCK_WAIT_S="30") as waiting:
            # It is waiting once it has been refused the lock; how long its imports took does not matter.
            assert waiting.stdout is not None
            holder.send_signal(signal.SIGKILL)
            holder.wait(BOUND_S)
            assert line_of(waiting) == "open"
            assert waiting.wait(BOUND_S) == 0


def test_default_wait_for_another_process_is_ten_seconds() -> None:
    assert database(Path("a.db"))._lock_wait_s == 0.2
    assert type(database(Path("a.db")))(Path("a.db"))._lock_wait_s == 10.0


def test_backup_of_a_database_that_another_process_writes_to_is_sound_and_whole(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "a.db", Acknowledged()
    with process("write", path, 1) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            acknowledged.take(line)
            if len(acknowledged.submitted) >= 30:
                break
        backed_up = backup_database(path, tmp_path / "b.db")
        assert writer.poll() is None
    assert check_database(backed_up.backup).is_sound
    run(acknowledged.check(backed_up.backup))


UNPRIVILEGED = """
import asyncio, os, sys
from pathlib import Path
from aicp.errors import AicpError
from aicp.storage.sqlite_backup import check_database
from aicp.storage.sqlite_database import SqliteDatabase
from aicp.storage.migrations import __name__ as _
if os.geteuid() == 0:
    os.setgid(int(sys.argv[1]))
    os.setuid(int(sys.argv[1]))
try:
    asyncio.run(SqliteDatabase(Path(sys.argv[2])).open())
except AicpError as error:
    print(error.code, error)
"""


def open_unprivileged(path: Path) -> str:
    """What a process without rights of its own is told when it opens a database."""
    ended = subprocess.run(
        [sys.executable, "-c", UNPRIVILEGED, str(NOBODY), str(path)],
        env={**os.environ, "PYTHONPATH": str(SOURCES)}, capture_output=True, text=True, timeout=BOUND_S, check=False,
    )  # fmt: skip
    assert ended.stderr == ""
    return ended.stdout.strip()


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that others may enter; pytest's own they may not."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        yield directory
        directory.chmod(0o700)


def test_directory_one_may_not_write_to_is_told(public_directory: Path) -> None:
    public_directory.chmod(0o555)
    path = public_directory / "a.db"
    assert open_unprivileged(path) == (
        f"settings_error The database {path} cannot be used: Permission denied; choose a file in a directory of yours."
    )


def test_file_one_may_not_write_to_is_told(public_directory: Path) -> None:
    path = public_directory / "a.db"

    async def main() -> None:
        async with opened(path) as journal:
            await journal.submit(submitted("c1"))

    asyncio.run(main())
    public_directory.chmod(0o777)
    path.chmod(0o444)
    path.with_name("a.db.lock").chmod(0o666)
    assert open_unprivileged(path) == (
        f"settings_error The database {path} cannot be used: it cannot be written by this user (attempt to write a "
        "readonly database): make the file, those beside it and their directory writable for this user."
    )


def test_file_one_may_not_read_is_told(public_directory: Path) -> None:
    path = public_directory / "a.db"
    path.touch(0o200)
    public_directory.chmod(0o777)
    assert open_unprivileged(path) == (
        f"settings_error The database {path} cannot be used: it cannot be read by this user (unable to open database "
        "file): make the file, those beside it and their directory readable and writable for this user."
    )


def test_file_in_a_directory_one_may_not_write_to_names_the_directory(public_directory: Path) -> None:
    path = public_directory / "a.db"

    async def main() -> None:
        async with opened(path) as journal:
            await journal.submit(submitted("c1"))

    asyncio.run(main())
    for each in public_directory.iterdir():
        each.chmod(0o666)
    public_directory.chmod(0o555)
    told = open_unprivileged(path)
    assert told.startswith(
        f"settings_error The database {path} cannot be used: {public_directory} cannot be written by this user ("
    )
