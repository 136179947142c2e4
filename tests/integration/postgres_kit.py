"""Journals on a PostgreSQL server of the tests' own, and a way to it that can be slowed, cut and swallowed."""

import asyncio
import atexit
import contextlib
import functools
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from aicp.ports import ChainRecord, Journal, Registrations, Replicas
from aicp.storage.postgres import PostgresJournal
from aicp.storage.postgres_database import PostgresDatabase
from aicp.storage.postgres_registrations import PostgresRegistrations
from aicp.storage.postgres_replicas import PostgresReplicas
from tests.postgres_server import PostgresServer, postgres_server

T = TypeVar("T")

BOUND_S = 90.0


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run it on a fresh loop, for a minute and a half at most."""

    async def bounded() -> T:
        async with asyncio.timeout(BOUND_S):
            return await main

    return asyncio.run(bounded())


@functools.cache
def shared_server() -> PostgresServer:
    """A server for all tests of this process; nobody is to harm it."""
    scope = contextlib.ExitStack()
    atexit.register(scope.close)
    return scope.enter_context(postgres_server())


class Way:
    """A TCP proxy to a server: as fast as it can, slow, a black hole, or cut at a chosen byte.

    Attributes:
        port: Where it listens.
        delay_s: Added to whatever passes, in each direction.
        is_hole: True to swallow everything, and to accept without a word, as a firewall does.
        cut_at: Bytes from a client that make it cut that client off; None for none.
        lets_through: When these bytes go on to the server: at once, never, or when this event is set.
        cuts: How often it did.
        bursts: How often it passed on what had come from clients.
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
        self.came = asyncio.Event()
        self.delay_s = 0.0
        self.cut_at: bytes | None = None
        self.lets_through: bool | asyncio.Event = False
        self.cuts = 0
        self.bursts = 0
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

    def turn_to(self, target: int) -> None:
        """Lead to another port from now on, as a name does that resolves elsewhere: connections there are stay."""
        self._target = target

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
            self.came.set()
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
            self.bursts += watches
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


async def until(holds: Callable[[], bool], *, within_s: float = 60.0) -> None:
    """Wait until something holds; `within_s` ends a test that hangs, and judges no speed."""
    async with asyncio.timeout(within_s):
        while not holds():  # noqa: ASYNC110 - what holds is the state of the product, which has no event for tests
            await asyncio.sleep(0.005)


async def claim_all(journal: PostgresJournal, count: int, *, within_s: float = 60.0) -> list[ChainRecord]:
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
async def opened(url: str, **options: Any) -> AsyncIterator[PostgresJournal]:
    """A journal that is open; `journal._database` leads to its parts."""
    journal = PostgresJournal(database(url, **options))
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
