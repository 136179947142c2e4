"""Asks the server that the environment names, and says what to do when it does not answer."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from aicp.errors import AccessDenied, Forbidden

RETRIES_MAX = 2
T = TypeVar("T")


def ask(work: Callable[[Any], Awaitable[T]], **options: Any) -> T:
    """Run `work` with an `aicp.client.Client` of the server at `AICP_URL`.

    Args:
        work: What to do.
        options: Of the client, in place of its own.

    Raises:
        AicpError: What the server refused, or that it cannot be reached, with what to do.
    """
    from aicp.client import Client, ServerUnreachable
    from aicp.runtime.settings import api_key, server_url

    url = server_url()

    async def main() -> T:
        async with Client(url, api_key(url), **{"retries_max": RETRIES_MAX, **options}) as client:
            return await work(client)

    try:
        return run_to_end(main)
    except ServerUnreachable as error:
        if error.advice:
            raise
        raise ServerUnreachable(error.message, "start it with `aicp serve`, or set AICP_URL") from error
    except Forbidden:
        raise
    except AccessDenied as error:
        told = "set AICP_API_KEY, or AICP_DATA_DIR to the data directory of the server"
        raise AccessDenied(f"{url} does not accept the key: {told}.") from error


def run_to_end(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """As `asyncio.run(main())`, but interrupted before it began it ends without a word about what was never awaited."""
    with ExitStack() as closing:
        with _uninterrupted():
            # A loop that is half made when Ctrl-C comes complains when it is collected.
            runner = closing.enter_context(asyncio.Runner())
        work = main()
        try:
            return runner.run(work)
        finally:
            work.close()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the block has ended."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
