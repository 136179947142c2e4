"""Live events as Server-Sent Events: what one reader gets for as long as it stays connected."""

import asyncio
import contextlib
from typing import Protocol

from litestar.types import Receive, Scope, Send

STREAM_S_MAX = 900.0
END_S_MAX = 1.0
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


class Batch(Protocol):
    """What a reader gets at once, and where it stands behind that."""

    @property
    def frames(self) -> bytes:
        """Server-Sent Events; empty when it was quiet."""

    @property
    def last_id(self) -> str:
        """Where to go on."""


class Reader(Protocol):
    """Where the events come from."""

    @property
    def last_id(self) -> str:
        """Where it begins."""

    async def next_batch(self, quiet_s: float) -> Batch | None:
        """The next ones, empty when it was quiet for so many seconds; None at the end."""

    def close(self) -> None:
        """Read no more."""


class EventStream:
    """An answer that goes on until the client leaves, the reader or its key ends, or 15 minutes are over.

    The end is an invitation to come back with `Last-Event-ID`: keys are looked at anew then. A client that does not
    read holds its connection and one batch, and nothing is read for it.

    Args:
        reader: Closed at the end.
        key_ended: Set when the key is good no more.
        keepalive_s: An id without data is sent after so many seconds of quiet.
    """

    def __init__(self, reader: Reader, key_ended: asyncio.Event, keepalive_s: float) -> None:
        self._reader = reader
        self._key_ended = key_ended
        self._keepalive_s = keepalive_s

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        telling = asyncio.create_task(self._tell(send))
        leaving = asyncio.create_task(_until_gone(receive))
        ending = asyncio.create_task(_until_set(self._key_ended))
        try:
            await asyncio.wait((telling, leaving, ending), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._reader.close()
            await _cancelled(telling, leaving, ending)
        if not telling.cancelled():
            telling.result()
        elif self._key_ended.is_set():
            await _end_soon(send)

    async def _tell(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + STREAM_S_MAX
        # An id alone tells where to go on, before anything has happened.
        await _send_some(send, _place(self._reader.last_id))
        while loop.time() < ends_at and (batch := await self._reader.next_batch(self._keepalive_s)) is not None:
            await _send_some(send, batch.frames or _place(batch.last_id))
        await _end(send)


def _place(last_id: str) -> bytes:
    return b"id: %b\n\n" % last_id.encode()


async def _send_some(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _end(send: Send) -> None:
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _end_soon(send: Send) -> None:
    """A client that does not read is not waited for: its connection is cut."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_S_MAX):
            await _end(send)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _until_set(event: asyncio.Event) -> None:
    await event.wait()


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
