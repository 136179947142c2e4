"""Tells when standard input ends: a parent that dies, by kill -9 too, closes the pipe."""

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress

STDIN = 0
PIECE_BYTES = 4_096


def watch_stdin(on_close: Callable[[], None]) -> None:
    """Call `on_close` in the running loop, once, when standard input ends or is not open.

    A daemon thread reads, and drops what it reads: an event loop cannot watch a file, and /dev/null is one.
    """
    loop = asyncio.get_running_loop()
    threading.Thread(target=_read_to_the_end, args=(loop, on_close), name="stdin", daemon=True).start()


def _read_to_the_end(loop: asyncio.AbstractEventLoop, on_close: Callable[[], None]) -> None:
    with suppress(OSError):
        while os.read(STDIN, PIECE_BYTES):
            pass
    with suppress(RuntimeError):  # the loop has closed before
        loop.call_soon_threadsafe(on_close)
