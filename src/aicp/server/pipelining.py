"""uvicorn's connections, which parse one request at a time, and a few requests of all connections in one turn.

uvicorn parses every request that a read brought and queues them all.
"""

import asyncio
from typing import ClassVar

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from aicp.model.pipelining import HELD_BYTES_MAX, HeldBytes, Turns

_LENGTH = b"content-length"


class OneAtATime(HttpToolsProtocol):
    """uvicorn's connection, which parses a request only when the one before it is answered and its turn has come."""

    turns: ClassVar[Turns]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's is the same
        """It is open, and holds nothing."""
        super().connection_made(transport)
        self._held = HeldBytes()
        self._is_queued = False
        self._drops_later_requests = False

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self.forget_held()
        super().connection_lost(exc)

    @property
    def is_holding(self) -> bool:
        """True when bytes came that wait for an answer or for their turn."""
        return bool(self._held)

    @property
    def is_held_by_answer(self) -> bool:
        """True when bytes came that wait for the answer to an earlier request."""
        return self.is_holding and self._is_answering()

    def data_received(self, data: bytes) -> None:
        """More bytes: parsed now, or held."""
        if self._drops_later_requests:
            return
        self._held.add(data)
        if self._is_queued or self._is_answering():
            self._hold()
        elif self.turns.take(self.loop):
            self.go_on()
        else:
            self._queue()

    def go_on(self) -> None:
        """Parse what is held, up to the end of one request."""
        self._is_queued = False
        if self.transport.is_closing():
            self.forget_held()
            return
        if not self._is_waiting_for_reader():
            self.flow.resume_reading()
        while self._held and not self._is_answering():
            super().data_received(self._held.take())
        if self._held:
            self._hold()

    def forget_held(self) -> None:
        """Drop the bytes that wait: they will not be answered."""
        self._held.forget()

    def leave(self) -> None:
        """Close it once the client has what was written."""
        self.transport.close()

    def on_headers_complete(self) -> None:
        """The header is whole; its length says where the body ends."""
        self._held.body_left = next((int(value) for name, value in self.headers if name == _LENGTH), 0)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._held.body_left = max(0, self._held.body_left - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._held.body_left = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is written: others have their turn, then this connection's next request."""
        super().on_response_complete()
        if self._drops_later_requests:
            self.leave()
        elif self._held and not self._is_queued and not self.transport.is_closing():
            self._queue()

    def _queue(self) -> None:
        self._is_queued = True
        self.flow.pause_reading()
        self.turns.queue(self)

    def _hold(self) -> None:
        if len(self._held) <= HELD_BYTES_MAX or not self._is_answering():
            self.flow.pause_reading()
            return
        # Read on, and dropped: a connection that is closed with unread bytes loses the answer on its way.
        self._drops_later_requests = True
        self.forget_held()
        self.flow.resume_reading()

    def _is_answering(self) -> bool:
        """True when a whole request has come and its answer is not written."""
        return self.cycle is not None and not self.cycle.more_body and not self.cycle.response_complete

    def _is_waiting_for_reader(self) -> bool:
        """True when so much of a body is here that its reader has to take it first."""
        return self.cycle is not None and not self.cycle.response_complete and len(self.cycle.body) > HIGH_WATER_LIMIT
