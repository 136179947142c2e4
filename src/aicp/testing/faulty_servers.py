"""HTTP servers on loopback that misbehave for real, down to the socket.

    async with FaultyServer(answers({"ok": True}), resets()) as server:
        …  # the first request gets an answer, every later one a reset

Linux.
"""

import asyncio
import json
import socket
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, Self

import msgspec

from aicp.testing.gauge import Gauge

REQUESTS_KEPT_MAX = 10_000
CHUNK = b"a" * 65_536
_NO_LINGER = struct.pack("ii", 1, 0)


class Request(msgspec.Struct, frozen=True):
    """What a client sent.

    Attributes:
        connection: On which of the server's connections, counted from 1.
        method: `GET`, `POST`, …
        path: As sent.
        headers: By name in lower case.
        body: As sent.
    """

    connection: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)


class Exchange:
    """One request and the way to answer it, or not.

    Attributes:
        request: What was asked.
    """

    def __init__(self, request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self._reader = reader
        self._writer = writer

    @property
    def is_over(self) -> bool:
        """True when the connection was ended."""
        return self._writer.is_closing()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are.

        Raises:
            ConnectionError: The client has gone.
        """
        self._writer.write(data)
        await self._writer.drain()

    async def client_gone(self) -> None:
        """Wait until the client ends the connection."""
        while await self._reader.read(65_536):
            pass

    def close(self) -> None:
        """End the connection in order."""
        self._writer.close()

    def reset(self) -> None:
        """Tear the connection down: the client sees a reset."""
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self._writer.transport.abort()


Behaviour = Callable[[Exchange], Awaitable[None]]
"""What a server does with one request."""


def http(status: int = 200, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    """The bytes of an answer; a Content-Length is added unless one is given or the answer is chunked."""
    told = {"Content-Type": "application/json", **(headers or {})}
    if not {"Content-Length", "Transfer-Encoding"} & told.keys():
        told["Content-Length"] = str(len(body))
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in told.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def answers(
    result: Any = None,
    *,
    task_id: str | None = None,
    error: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Behaviour:
    """A 200 as the contract has it.

    Args:
        result: Any JSON.
        task_id: In place of the one that was asked for.
        error: In place of a result.
        headers: More of them, or others.
    """

    async def behave(exchange: Exchange) -> None:
        named = task_id or exchange.request.headers.get("idempotency-key", "")
        told = {"result": result} if error is None else {"error": error}
        await exchange.send(http(200, json.dumps({"task_id": named, **told}).encode(), headers))

    return behave


def status(code: int, body: bytes = b"{}", headers: Mapping[str, str] | None = None) -> Behaviour:
    """Any status with any body."""
    return sends(http(code, body, headers))


def sends(data: bytes) -> Behaviour:
    """Exactly these bytes, and then wait for the next request."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(data)

    return behave


def never_answers() -> Behaviour:
    """Silence, until the client goes."""

    async def behave(exchange: Exchange) -> None:
        await exchange.client_gone()
        exchange.close()

    return behave


def resets(after: bytes = b"") -> Behaviour:
    """These bytes, then a reset."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(after)
        exchange.reset()

    return behave


def closes(after: bytes = b"") -> Behaviour:
    """These bytes, then an orderly end."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(after)
        exchange.close()

    return behave


def drips(interval_s: float) -> Behaviour:
    """The head of an answer, then a byte now and then, as long as the client listens."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send(http(200, headers={"Content-Length": "1000000"}))
        while not exchange.is_over:
            await exchange.send(b" ")
            await asyncio.sleep(interval_s)

    return behave


def chunks_forever() -> Behaviour:
    """A chunked answer without an end, as fast as the client reads."""
    chunk = f"{len(CHUNK):x}\r\n".encode() + CHUNK + b"\r\n"

    async def behave(exchange: Exchange) -> None:
        await exchange.send(http(200, headers={"Transfer-Encoding": "chunked"}))
        while not exchange.is_over:
            await exchange.send(chunk)

    return behave


class FaultyServer:
    """A server on 127.0.0.1 that treats each request as it was told.

    Args:
        *behaviours: For the first request, the second, …; the last one for all that follow.
        is_deaf: True to accept connections and never read from them.
        greeting: Sent as soon as a connection is accepted, before anybody asked.

    Attributes:
        requests: What was asked, in order; the last 10,000.
        connections: How many were accepted.
        open: How many of them are open.
    """

    def __init__(self, *behaviours: Behaviour, is_deaf: bool = False, greeting: bytes = b"") -> None:
        self.requests: deque[Request] = deque(maxlen=REQUESTS_KEPT_MAX)
        self.connections = 0
        self.open = Gauge()
        self._behaviours = deque(behaviours)
        self._is_deaf = is_deaf
        self._greeting = greeting
        self._server: asyncio.Server | None = None
        self._at_work: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._at_work:
            task.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)
        # One more turn: what was aborted is closed in it.
        await asyncio.sleep(0)

    @property
    def port(self) -> int:
        """Where it listens."""
        if self._server is None:
            raise RuntimeError("the server was not started: use `async with`")
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve in a task of ours; its callback closes the connection even if the task never takes its first step."""
        self.connections += 1
        task = asyncio.get_running_loop().create_task(self._serve(self.connections, reader, writer))
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)
        task.add_done_callback(lambda _: writer.transport.abort())

    async def _serve(self, connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # The client goes away, or the test is over: an end like any other.
        with (
            suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError),
            self.open.one_more(),
        ):
            await self._talk(connection, reader, writer)

    async def _talk(self, connection: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._greeting)
        if self._is_deaf:
            # The reader takes in no more than its limit, and then the kernel's buffers fill.
            await asyncio.get_running_loop().create_future()
        while not writer.is_closing():
            request = await _read_request(connection, reader)
            self.requests.append(request)
            behave = self._behaviours.popleft() if len(self._behaviours) > 1 else self._behaviours[0]
            await behave(Exchange(request, reader, writer))
        await writer.wait_closed()


@contextmanager
def refusing_url() -> Iterator[str]:
    """A URL where connections are refused: the port is taken, and nobody listens."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def unreachable_url() -> Iterator[str]:
    """A URL where connecting never ends: the kernel drops what comes, as the line of waiting connections is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(closing(socket.socket()))
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(2):
            filler = stack.enter_context(closing(socket.socket()))
            filler.setblocking(False)  # noqa: FBT003 - the standard library has it so
            filler.connect_ex(address)
        yield f"http://127.0.0.1:{address[1]}"


async def _read_request(connection: int, reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.rstrip().split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = first.split(" ")
    return Request(connection, method, path, headers, body)
