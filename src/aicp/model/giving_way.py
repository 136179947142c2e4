"""Threads that work on large documents give way to the event loop between two pieces of their work."""

import asyncio
import time

PAUSE_S = 0.0002


def give_way() -> None:
    """Sleep for 0.2 ms, in a thread that runs no event loop; in one that does, return at once.

    Python hands the interpreter lock to whoever takes it first. A thread that never stops often takes it again itself:
    two of them kept it from the loop for 10 to 60 ms, with pauses for 3 ms. A piece takes about 0.5 ms.
    """
    if asyncio._get_running_loop() is None:  # noqa: SLF001 - the public one raises
        time.sleep(PAUSE_S)
