"""Work on large documents in a few threads, so that the event loop serves everybody else meanwhile."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import msgspec

from aicp.errors import AicpError
from aicp.model.long_texts import LONG_TEXT
from aicp.model.pieces import is_large
from aicp.model.writing import encode_in_pieces, is_heavy

THREADS = 2
BYTES_MAX = 64 * 1024 * 1024
RETRY_AFTER_S = 1.0
T = TypeVar("T")
_encode = msgspec.json.Encoder().encode


class TooManyDocuments(AicpError):
    """The server reads as many large documents as it can at once.

    Attributes:
        retry_after_s: Seconds after which one more has a chance.
    """

    code = "too_many_documents"
    retryable = True

    def __init__(self, message: str | None = None, retry_after_s: float = RETRY_AFTER_S) -> None:
        self.retry_after_s = retry_after_s
        super().__init__(message)


class DocumentDesk:
    """Runs work on documents: small ones at once, large ones in at most two threads.

    A thread helps only as far as its work gives up the interpreter lock: use `aicp.model.pieces`, or Python code.

    Args:
        bytes_max: Of all large documents that are worked on or wait for a thread.
    """

    def __init__(self, bytes_max: int = BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._threads: ThreadPoolExecutor | None = None

    async def read(self, body: bytes, work: Callable[[], T], *, waits: bool = False) -> T:
        """The result of work on a document; the work is done even if the caller leaves.

        Args:
            body: The document, whose size and number of values decide where the work is done.
            work: Needs nothing that belongs to the loop.
            waits: True to wait for a thread however much waits already: for what is in memory anyway, and bounded.

        Raises:
            TooManyDocuments: It is large, and with it 64 MiB would be worked on.
        """
        return await self.run(len(body), work, waits=waits) if is_large(body) else work()

    async def run(self, size: int, work: Callable[[], T], *, waits: bool = False) -> T:
        """As `read`, of a document that is known to be large; `size` in bytes."""
        if not waits and self._bytes and self._bytes + size > self._bytes_max:
            told = f"This server reads {self._bytes >> 20} MiB of large documents at this moment: repeat it later."
            raise TooManyDocuments(told)
        self._bytes += size
        loop = asyncio.get_running_loop()
        try:
            done = self._pool().submit(work)
        except BaseException:
            self._bytes -= size
            raise
        done.add_done_callback(partial(self._give_back, loop, size))
        return await asyncio.wrap_future(done)

    async def write(self, value: Any, work: Callable[[], T]) -> T:
        """The result of work on a value, such as its JSON; in a thread, for which it waits, when the value is heavy.

        A heavy value counts as 64 KiB.
        """
        return await self.run(LONG_TEXT, work, waits=True) if is_heavy(value) else work()

    async def encode(self, value: Any) -> bytes:
        """The JSON of a value, as `msgspec.json.encode` writes it; a heavy value is written in a thread.

        Raises:
            TypeError: It holds what JSON cannot express; `ValueError` and `RecursionError` likewise.
        """
        if not is_heavy(value):
            return _encode(value)
        return await self.run(LONG_TEXT, partial(encode_in_pieces, value), waits=True)

    def close(self) -> None:
        """Take on nothing more; what waits for a thread is called off, what runs ends by itself."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._threads = None

    @property
    def bytes_at_work(self) -> int:
        """Bytes of the documents that are worked on, or wait for a thread."""
        return self._bytes

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="aicp-documents")
        return self._threads

    def _give_back(self, loop: asyncio.AbstractEventLoop, size: int, _done: Future[T]) -> None:
        # Called in the thread, or where a waiting one is cancelled.
        with suppress(RuntimeError):  # the loop is closed, and the desk with it
            loop.call_soon_threadsafe(self._add, -size)

    def _add(self, size: int) -> None:
        self._bytes += size
