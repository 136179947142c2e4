"""Asks the server that the environment names, and says what to do when it does not answer."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterable
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
    """As `asyncio.run(main())`, but whenever Ctrl-C comes, the loop and what runs on it end without a word."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    work = _interruptible(main, before)
    try:
        with asyncio.Runner() as runner:
            runner.get_loop().set_exception_handler(_say_nothing)
            return runner.run(work)
    finally:
        work.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


async def _interruptible(main: Callable[[], Coroutine[Any, Any, T]], mask: Iterable[int]) -> T:
    """Let Ctrl-C come from now on: before the loop runs, it would leave something half made, which complains."""
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    return await main()


def _say_nothing(_loop: asyncio.AbstractEventLoop, _told: dict[str, Any]) -> None:
    """What is left over of a connection that was interrupted is no news for who interrupted it."""
