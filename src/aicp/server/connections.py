"""Connections that cannot hold the server: each part of a request has its time and size, and their number is bounded.

uvicorn closes connections that are idle and bounds nothing else: whoever sends one byte of a header and then nothing
holds a connection for ever. Here each connection is looked at ten times a second, by the server's own tick.
No limit counts what this process stood still (`aicp.standstill`).

| what                                                  | limit       | then                                        |
|-------------------------------------------------------|-------------|---------------------------------------------|
| a header on its way                                   | `header_s`  | 408, or nothing when no byte of it had come |
| a body on its way                                     | `body_s`    | 408, or nothing when the answer had begun   |
| an answer of which the client takes nothing           | `stall_s`   | cut off                                     |
| a connection that is kept for a next request          | `idle_s`    | closed (uvicorn's own)                      |
| the bytes of a header                                 | `head_bytes_max` | 431                                    |
| connections                                           | `connections_max` | 503, but `/livez` and `/readyz` answer |
"""

import asyncio
import logging
import math
import resource
import time
from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from aicp.errors import AicpError
from aicp.model.pipelining import Turns
from aicp.server.pipelining import OneAtATime
from aicp.server.problems import (
    PROBLEM_TYPE,
    BodyTooSlow,
    HeaderTooLarge,
    HeaderTooSlow,
    InvalidHttp,
    TooManyConnections,
    header_fields,
    problem_of,
)
from aicp.standstill import TimeLimit, let_loop_read

CONNECTIONS_MAX = 4_000
SPARE_CONNECTIONS = 64
OPEN_FILES_WANTED = 65_536
RETRY_AFTER_S = 1.0
LEAVE_S = 2.0
_HEALTH = frozenset({"/livez", "/readyz"})
_NO_LIMIT = TimeLimit(-math.inf, math.inf)

# What clients do wrong is answered and not logged: anybody could fill the disk with it.
_log = logging.getLogger("uvicorn.error.requests")
_log.setLevel(logging.ERROR)


class Limits(msgspec.Struct, frozen=True):
    """What a connection may take.

    Attributes:
        header_s: For the whole header of a request, from its first byte or from the connect, seconds.
        body_s: For the whole body, seconds.
        stall_s: For the client to take more of an answer, seconds.
        idle_s: Between two requests, seconds.
        head_bytes_max: Request line and header together.
        connections_max: At once; 64 more are told so, or asked how the server is, and whoever comes then is cut off.
    """

    header_s: float = 10.0
    body_s: float = 30.0
    stall_s: float = 30.0
    idle_s: int = 75
    head_bytes_max: int = 64 * 1024
    connections_max: int = CONNECTIONS_MAX


class Connection(OneAtATime):
    """One connection, with a moment by which the client must have sent what is on its way."""

    limits: ClassVar[Limits] = Limits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's is the same
        """It is open: the first header has its time from now on, and when there are too many, a refusal waits."""
        super().connection_made(transport)
        self.logger = _log
        self._head_bytes = 0
        self._is_in_head = False
        self._is_leaving = False
        self._closes = False
        self._unsent = 0
        self._stall = _NO_LIMIT
        self._limit = _from_now(self.limits.header_s)
        beyond = len(self.connections) - self.limits.connections_max
        if beyond > 0:
            self.app = _RefusingAll(self.app, TooManyConnections(RETRY_AFTER_S), _HEALTH)
        if beyond > SPARE_CONNECTIONS:
            self._cut_off()

    def data_received(self, data: bytes) -> None:
        """More bytes; outside of a request they begin a header, whatever they are."""
        if self._is_leaving:
            return
        if self._limit is _NO_LIMIT and self._is_between_requests():
            self._limit = _from_now(self.limits.header_s)
        self._head_bytes += len(data)
        super().data_received(data)
        if self._is_in_head and self._head_bytes > self.limits.head_bytes_max:
            self._refuse(HeaderTooLarge())

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._is_in_head = True
        if self._limit is _NO_LIMIT:
            self._limit = _from_now(self.limits.header_s)

    def on_headers_complete(self) -> None:
        """The header is whole: the request runs, and its body has its time from now on."""
        if self._size_of_head() > self.limits.head_bytes_max:
            self.app, self.url = _RefusingAll(self.app, HeaderTooLarge()), b"/"
        self._is_in_head = False
        self._head_bytes = 0
        self._limit = _from_now(self.limits.body_s)
        super().on_headers_complete()
        # Closed before the body has come, an answer that did not wait for it would be lost on the way.
        self._closes = not self.cycle.keep_alive
        self.cycle.keep_alive = True

    def on_message_complete(self) -> None:
        """The body is whole: nothing more is expected of the client."""
        super().on_message_complete()
        self._head_bytes = 0
        self._limit = _NO_LIMIT
        if self._closes:
            self.cycle.keep_alive = False
            if self.cycle.response_complete:
                self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        """It was idle for too long, unless its next request lies unread: this process may have stood still."""
        let_loop_read(self._close_if_idle, self.timeout_keep_alive_task)

    def resume_writing(self) -> None:
        """The client took most of what waited for it."""
        super().resume_writing()
        self._stall = _from_now(self.limits.stall_s)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's sentence tells nothing
        """What came is not HTTP."""
        self._refuse(InvalidHttp())

    def leave(self) -> None:
        """Say nothing more: closed while the client still sends, the last words would be lost on the way."""
        self._is_leaving = True
        self.forget_held()
        self._unset_keepalive_if_required()
        self._limit = _from_now(LEAVE_S)
        self.transport.write_eof()

    def look(self, now: float) -> None:
        """Give up what takes too long; `now` is monotonic seconds."""
        if self._is_stalled(now):
            self._cut_off()
        elif self.pipeline or self.is_held_by_answer:
            # Nothing is read from the client while an earlier request of it is answered: that is not its fault.
            self._limit = TimeLimit(now, now + self.limits.body_s)
        elif not self.transport.is_closing() and self._limit.is_over(now):
            self._give_up()

    def _close_if_idle(self, timer: object) -> None:
        # What is parsed ends the timer; what arrived may wait for its turn.
        if self.timeout_keep_alive_task is timer and not self.is_holding:
            super().timeout_keep_alive_handler()

    def _give_up(self) -> None:
        if self._is_leaving:
            self._cut_off()
        elif self._is_in_head and self._is_between_requests():
            self._refuse(HeaderTooSlow())
        elif self._may_still_answer():
            self._refuse(BodyTooSlow())
        else:
            self.transport.close()

    def _is_stalled(self, now: float) -> bool:
        """True when an answer waits for the client, and it took nothing of that for too long."""
        unsent = self.transport.get_write_buffer_size()
        if unsent and not 0 < self._unsent <= unsent:
            self._stall = TimeLimit(now, now + self.limits.stall_s)
        self._unsent = unsent
        return unsent > 0 and self._stall.is_over(now)

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _may_still_answer(self) -> bool:
        """True when a body is on its way, and nothing was answered yet."""
        return not self._is_in_head and self.cycle is not None and not self.cycle.response_started

    def _refuse(self, error: AicpError) -> None:
        """Say why, as the last words on this connection; what the request's own handler says is dropped."""
        if self.transport.is_closing() or self._is_leaving:
            return
        if not self._is_between_requests():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(_last_words(error))
        self.leave()

    def _cut_off(self) -> None:
        self.transport.abort()

    def _size_of_head(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)


class _RefusingAll:
    """An ASGI app that refuses every request and closes its connection.

    Args:
        app: Answers what is not refused.
        error: What the others are told.
        except_for: Paths that are not refused.
    """

    def __init__(self, app: Any, error: AicpError, except_for: frozenset[str] = frozenset()) -> None:
        self._app = app
        self._error = error
        self._except_for = except_for

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] in self._except_for:
            await self._app(scope, receive, send)
            return
        await refuse(self._error, send)


async def refuse(error: AicpError, send: Any) -> None:
    """Tell a client why its request is not served, as an ASGI app does, and close its connection."""
    body, headers = _content(error)
    fields = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem_of(error).status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


def _from_now(seconds: float) -> TimeLimit:
    now = time.monotonic()
    return TimeLimit(now, now + seconds)


def connections_within(limits: Limits) -> type[Connection]:
    """The class of connections that uvicorn shall make."""
    return type("BoundedConnection", (Connection,), {"limits": limits, "turns": Turns()})


def look_at(connections: Iterable[Any], now: float) -> None:
    """Give up every connection that takes too long."""
    for connection in list(connections):
        connection.look(now)


def widen_open_files() -> None:
    """Let this process have as many open files as it may, up to 65,536: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_at_most_wanted(most), most))


def limits_of_process() -> Limits:
    """The limits of a server: 4,000 connections, or as many as half of the files that this process may open."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Limits(connections_max=min(CONNECTIONS_MAX, _at_most_wanted(files) // 2))


def _at_most_wanted(files: int) -> int:
    return OPEN_FILES_WANTED if files == resource.RLIM_INFINITY else min(files, OPEN_FILES_WANTED)


def _last_words(error: AicpError) -> bytes:
    body, headers = _content(error)
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return STATUS_LINE[problem_of(error).status] + fields.encode() + b"\r\n" + body


def _content(error: AicpError) -> tuple[bytes, dict[str, str]]:
    problem = problem_of(error)
    body = msgspec.json.encode(problem)
    headers = {"Content-Type": PROBLEM_TYPE, "Content-Length": str(len(body)), "Connection": "close"}
    return body, {**headers, **header_fields(problem)}
