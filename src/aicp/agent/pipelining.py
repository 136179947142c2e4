"""aiohttp's connections, which parse one request at a time, and a few requests of all connections in one turn.

aiohttp parses up to 32 requests that a read brought, and answers one of each connection in one turn of the loop.
"""

import asyncio
from typing import Any

from aiohttp import StreamReader, web

from aicp.model.pipelining import HELD_BYTES_MAX, HeldBytes, Turns

_LENGTH = "Content-Length"


class OneAtATime(web.RequestHandler):
    """aiohttp's connection, which parses a request only when the one before it is answered and its turn has come."""

    def __init__(self, manager: web.Server, turns: Turns, **options: Any) -> None:
        super().__init__(manager, **options)
        self._turns = turns
        self._held = HeldBytes()
        self._payload: StreamReader | None = None
        self._is_answered = False
        self._is_queued = False
        self._drops_later_requests = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the connection."""
        return self._loop

    def connection_lost(self, exc: BaseException | None) -> None:
        """It is closed."""
        self._held.forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """More bytes: parsed now, or held. Without any, aiohttp goes on with what it has read before."""
        if self._drops_later_requests:
            return
        if not data:
            super().data_received(data)
            return
        self._held.add(data)
        if self._is_queued or self._is_answering():
            self._hold()
        elif self._turns.take(self._loop):
            self.go_on()
        else:
            self._queue()

    def go_on(self) -> None:
        """Parse what is held, up to the end of one request."""
        self._is_queued = False
        if self.transport is None or self.transport.is_closing():
            self._held.forget()
            return
        if not self._reading_paused:
            self.transport.resume_reading()
        while self._held and not self._is_answering():
            self._parse(self._held.take())
        if self._held:
            self._hold()

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write the answer: others have their turn, then this connection's next request."""
        try:
            return await super().finish_response(request, resp, start_time)
        finally:
            self._is_answered = True
            if self._held and not self._is_queued and self.transport is not None:
                self._queue()

    def _parse(self, piece: bytes) -> None:
        is_body = self._payload is not None and not self._payload.is_eof()
        super().data_received(piece)
        if is_body:
            self._held.body_left = max(0, self._held.body_left - len(piece))
        elif self._messages:
            message, self._payload = self._messages[-1]
            # What is not HTTP is answered too, and has no headers.
            self._held.body_left = int(getattr(message, "headers", {}).get(_LENGTH, 0))
            self._is_answered = False

    def _queue(self) -> None:
        self._is_queued = True
        self._pause()
        self._turns.queue(self)

    def _hold(self) -> None:
        if len(self._held) <= HELD_BYTES_MAX or not self._is_answering():
            self._pause()
            return
        # Read on, and dropped: a connection that is closed with unread bytes loses the answer on its way.
        self._drops_later_requests = True
        self._held.forget()
        self.close()
        if self.transport is not None:
            self.transport.resume_reading()

    def _pause(self) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def _is_answering(self) -> bool:
        """True when a whole request has come and its answer is not written."""
        return self._payload is not None and self._payload.is_eof() and not self._is_answered


class PipeliningServer(web.Server):
    """aiohttp's bare server with connections that take turns.

    Args:
        handler: Answers a request.
        handler_cancellation: True to cancel it when its caller goes away.
        options: Of each connection.
    """

    def __init__(self, handler: Any, *, handler_cancellation: bool, **options: Any) -> None:
        super().__init__(handler, handler_cancellation=handler_cancellation)
        self._options = options
        self._turns = Turns()

    def __call__(self) -> OneAtATime:
        """A new connection."""
        return OneAtATime(self, self._turns, loop=asyncio.get_running_loop(), **self._options)
