"""Requests that are sent ahead of their answers: bytes of a connection that wait, and turns for all connections.

A parser of HTTP takes every request that a read brought. A client that pipelines thousands of them, or some hundred
clients that do, keep the loop from everybody else. Here bytes wait unparsed:

    read -> held bytes -> [ turn of the loop: at most 8 requests begin ] -> parser -> request -> answer
               ^                                                                                   |
               +--------- what is held goes on, at the end of the queue of turns <-----------------+

Nothing is parsed of a connection before its answer is written. At most 64 KiB of later requests are held; a client that
sends more ahead has its connection closed after the answer, which HTTP allows at any time, and repeats the others.
"""

import asyncio
from collections import deque
from typing import Protocol

HELD_BYTES_MAX = 64 * 1024
BEGINS_IN_A_TURN = 8
_END_OF_HEAD = b"\r\n\r\n"


class Waiting(Protocol):
    """A connection that holds bytes."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the connection."""

    def go_on(self) -> None:
        """Parse what is held, up to the end of one request."""


class Turns:
    """Counts the pieces of requests that one turn of the loop takes, and queues the connections of the others.

    For the connections of one loop.

    Args:
        in_a_turn: At most so many.
    """

    def __init__(self, in_a_turn: int = BEGINS_IN_A_TURN) -> None:
        self._in_a_turn = in_a_turn
        self._left = in_a_turn
        self._waiting: deque[Waiting] = deque()
        self._is_due = False

    def take(self, loop: asyncio.AbstractEventLoop) -> bool:
        """True when a connection may go on at once; else it has to `queue`."""
        if not self._left or self._waiting:
            return False
        self._left -= 1
        self._see_to_it(loop)
        return True

    def queue(self, connection: Waiting) -> None:
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


class HeldBytes:
    """Bytes of one connection that are not parsed yet, cut where another request may begin.

    Attributes:
        body_left: Bytes of the current request's body that are still to come; 0 when there is none, or its length is
            not known before its end.
    """

    __slots__ = ("_at", "_bytes", "body_left")

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0
        self.body_left = 0

    def __len__(self) -> int:
        return len(self._bytes) - self._at

    def add(self, data: bytes) -> None:
        """More bytes, which are not copied when none are held."""
        self._bytes, self._at = (self._bytes[self._at :] + data if self else data), 0

    def take(self) -> bytes:
        """The next bytes that can be parsed without the beginning of another request behind them."""
        begin, self._at = self._at, self._end_of_piece()
        piece = self._bytes[begin : self._at]
        if not self:
            self.forget()
        return piece

    def forget(self) -> None:
        """Drop what is held."""
        self._bytes, self._at = b"", 0

    def _end_of_piece(self) -> int:
        if self.body_left:
            return min(len(self._bytes), self._at + self.body_left)
        end = self._bytes.find(_END_OF_HEAD, self._at)
        return len(self._bytes) if end < 0 else end + len(_END_OF_HEAD)
