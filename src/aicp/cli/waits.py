"""What is said when a command gives up waiting for a task or chain that may go on at the server."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from aicp.cli.exits import say


@contextmanager
def waiting_for(kind: Literal["task", "chain"], id_: str) -> Iterator[None]:
    """Say how to look at it again when the wait in the block is interrupted, or the server goes away.

    Raises:
        ServerUnreachable: The server went away.
    """
    from aicp.client import ServerUnreachable

    try:
        yield
    except KeyboardInterrupt:
        say(f"{kind.title()} {id_} goes on; see `aicp {kind} show {id_}`, or `aicp {kind} cancel {id_}`.")
        raise
    except ServerUnreachable as error:
        told = f"{kind.title()} {id_} may go on there; see `aicp {kind} show {id_} --wait`."
        raise ServerUnreachable(f"{error.message} {told}") from error
