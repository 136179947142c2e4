"""One request of a connection at a time, and a few requests of all connections in one turn of the loop.

uvicorn parses every request that a read brought and queues them all, so that a client that pipelines thousands of them,
or some hundred clients that do, keep the loop from everybody else. Here bytes wait unparsed:

    read -> held bytes -> [ turn of the loop: at most 8 requests begin ] -> parser -> request -> answer
               ^                                                                                   |
               +--------- what is held goes on, at the end of the queue of turns <-----------------+

Nothing is parsed of a connection before its answer is written. At most 64 KiB of later requests are held; a client that
sends more ahead has its connection closed after the answer, which HTTP allows at any time, and repeats the others.
"""

import asyncio
from collections import deque
from typing import ClassVar

from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HELD_BYTES_MAX = 64 * 1024
BEGINS_IN_A_TURN = 8
_END_OF_HEAD = b"\r\n\r\n"
_LENGTH = b"content-length"


class Turns:
    """Counts the pieces of requests that one turn of the loop takes, and queues the connections of the others.

    For the connections of one loop.

    Args:
        in_a_turn: At most so many.
    """

    def __init__(self, in_a_turn: int = BEGINS_IN_A_TURN) -> None:
        self._in_a_turn = in_a_turn
        self._left = in_a_turn
        self._waiting: deque[OneAtATime] = deque()
        self._is_due = False

    def take(self, loop: asyncio.AbstractEventLoop) -> bool:
        """True when a connection may go on at once; else it has to `queue`."""
        if not self._left or self._waiting:
            return False
        self._left -= 1
        self._see_to_it(loop)
        return True

    def queue(self, connection: "OneAtATime") -> None:
        """Let a connection go on when all that came before it have."""
        self._waiting.append(connection)
        self._see_to_it(connection.loop)

    def _see_to_it(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._is_due:
            self._is_due = True
            loop.call_soon(self._begin_turn, loop)

    def _begin_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._is_due = False
        going = min(self._in_a_turn, len(self._waiting))
        self._left = self._in_a_turn - going
        if going:
            self._see_to_it(loop)
        for _ in range(going):
            self._waiting.popleft().go_on()


class OneAtATime(HttpToolsProtocol):
    """uvicorn's connection, which parses a request only when the one before it is answered and its turn has come."""

    turns: ClassVar[Turns]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # uvicorn's is the same
        """It is open, and holds nothing."""
        super().connection_made(transport)
        self._held = b""
        self._at = 0
        self._is_queued = False
        self._body_left = 0
        self._drops_later_requests = False

    def connection_lost(self, exc: Exception | None) -> None:
        """It is closed."""
        self.forget_held()
        super().connection_lost(exc)

    @property
    def is_holding(self) -> bool:
        """True when bytes came that wait for an answer or for their turn."""
        return self._at < len(self._held)

    @property
    def is_held_by_answer(self) -> bool:
        """True when bytes came that wait for the answer to an earlier request."""
        return self.is_holding and self._is_answering()

    def data_received(self, data: bytes) -> None:
        """More bytes: parsed now, or held."""
        if self._drops_later_requests:
            return
        self._held, self._at = (self._held[self._at :] + data if self.is_holding else data), 0
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
        while self.is_holding and not self._is_answering():
            begin, self._at = self._at, self._end_of_piece()
            super().data_received(self._held[begin : self._at])
        if self.is_holding:
            self._hold()
        else:
            self.forget_held()

    def forget_held(self) -> None:
        """Drop the bytes that wait: they will not be answered."""
        self._held, self._at = b"", 0

    def leave(self) -> None:
        """Close it once the client has what was written."""
        self.transport.close()

    def on_headers_complete(self) -> None:
        """The header is whole; its length says where the body ends."""
        self._body_left = next((int(value) for name, value in self.headers if name == _LENGTH), 0)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._body_left = max(0, self._body_left - len(body))
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._body_left = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is written: others have their turn, then this connection's next request."""
        super().on_response_complete()
        if self._drops_later_requests:
            self.leave()
        elif self.is_holding and not self._is_queued and not self.transport.is_closing():
            self._queue()

    def _queue(self) -> None:
        self._is_queued = True
        self.flow.pause_reading()
        self.turns.queue(self)

    def _hold(self) -> None:
        if len(self._held) - self._at <= HELD_BYTES_MAX or not self._is_answering():
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

    def _end_of_piece(self) -> int:
        """Where the next piece ends that can be parsed without the beginning of another request behind it."""
        if self._body_left:
            return min(len(self._held), self._at + self._body_left)
        end = self._held.find(_END_OF_HEAD, self._at)
        return len(self._held) if end < 0 else end + len(_END_OF_HEAD)
