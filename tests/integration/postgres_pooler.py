"""What a pooler in transaction mode does to its clients: each transaction goes to another session of the server."""

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.postgres_server import PostgresServer

MADE_UP_PID = 1_234_567
_READY, _KEY = b"Z", b"K"
_IDLE = b"I"

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Pooler:
    """Two sessions behind each client, used in turns. For clients without TLS.

    Attributes:
        port: Where it listens.
        transactions: How many went through.
    """

    def __init__(self, server: PostgresServer) -> None:
        self._target = server.port
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.transactions = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def turn_to(self, server: PostgresServer) -> None:
        """Hand what comes from now on to sessions of another server, also for clients that are connected."""
        self._target = server.port

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        sessions: list[Stream] = []
        try:
            startup = await _packet(reader)
            writer.write(await self._connect(startup, sessions))
            await self._take_turns(reader, writer, startup, sessions)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for _, each in sessions:
                each.transport.abort()
            writer.transport.abort()

    async def _connect(self, startup: bytes, sessions: list[Stream]) -> bytes:
        """Make two sessions in place of those there are; what the server said to the first."""
        for _, each in sessions:
            each.transport.abort()
        sessions.clear()
        for _ in range(2):
            sessions.append(await asyncio.open_connection("127.0.0.1", self._target))
            sessions[-1][1].write(startup)
        greetings = [await _until_ready(session[0]) for session in sessions]
        return greetings[0]

    async def _take_turns(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, startup: bytes, sessions: list[Stream]
    ) -> None:
        connected_to = self._target
        while True:
            for turn in range(2):
                first = await _some(reader)
                if connected_to != self._target:
                    connected_to = self._target
                    await self._connect(startup, sessions)
                from_session, to_session = sessions[turn]
                to_session.write(first)
                pumping = asyncio.create_task(_pump(reader, to_session))
                try:
                    while True:
                        kind, message = await _message(from_session)
                        writer.write(message)
                        if kind == _READY and message[-1:] == _IDLE:
                            break
                finally:
                    pumping.cancel()
                    with suppress(asyncio.CancelledError, EOFError):
                        await pumping
                self.transactions += 1


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A client sends nothing between the end of its transaction and the answer to that, so nothing goes astray."""
    while True:
        writer.write(await _some(reader))


async def _some(reader: asyncio.StreamReader) -> bytes:
    data = await reader.read(65536)
    if not data:
        raise EOFError
    return data


async def _packet(reader: asyncio.StreamReader) -> bytes:
    size = await reader.readexactly(4)
    return size + await reader.readexactly(struct.unpack("!I", size)[0] - 4)


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    kind = await reader.readexactly(1)
    return kind, kind + await _packet(reader)


async def _until_ready(reader: asyncio.StreamReader) -> bytes:
    """The greeting of a server, with a key of the pooler's own."""
    greeting = b""
    while True:
        kind, message = await _message(reader)
        if kind == _KEY:
            message = message[:5] + struct.pack("!I", MADE_UP_PID) + message[9:]
        greeting += message
        if kind == _READY:
            return greeting


@asynccontextmanager
async def pooler_of(server: PostgresServer) -> AsyncIterator[Pooler]:
    pooler = Pooler(server)
    await pooler.start()
    try:
        yield pooler
    finally:
        await pooler.close()
