"""Follows a chain to its end: how far it is, when somebody looks, and what it waits for."""

import sys
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager

from aicp.cli.exits import say
from aicp.model.task import TaskStatus
from aicp.model.views import ChainView
from aicp.registry.naming import wanted_key

LOOK_EVERY_S = 0.5
ASK_EVERY_LOOKS = 6
RUNNING_SHOWN_MAX = 4


async def follow(
    look: Callable[[float], Awaitable[ChainView]], capabilities_out: Callable[[], Awaitable[Collection[str]]]
) -> ChainView:
    """Look until a chain has ended.

    Args:
        look: Gives its view, once it has ended or after as many seconds as it is given.
        capabilities_out: Says now and then which capabilities have nobody; those the chain waits for are told, once.
    """
    told: set[str] = set()
    looks = 0
    with _bar() as show:
        while True:
            view = await look(LOOK_EVERY_S)
            show(view)
            if view.status.is_terminal:
                return view
            looks += 1
            if looks % ASK_EVERY_LOOKS == 0:
                _tell_waits(view, await capabilities_out(), told)


@contextmanager
def waiting(told: str) -> Iterator[None]:
    """Show on stderr, when somebody looks, that the command waits and for what."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status(Text(told)):
        yield


def _tell_waits(view: ChainView, out: Collection[str], told: set[str]) -> None:
    wanted = {wanted_key(task.capability) for task in view.tasks.values() if not task.status.is_terminal}
    for key in sorted(wanted.intersection(out) - told):
        say(f"The chain waits: every agent that offers '{key}' is out; see `aicp breaker list`.")
        told.add(key)


@contextmanager
def _bar() -> Iterator[Callable[[ChainView], None]]:
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=None)
        yield lambda view: progress.update(bar, total=view.total_tasks, completed=_ended(view), description=_told(view))


def _ended(view: ChainView) -> int:
    return sum(task.status.is_terminal for task in view.tasks.values())


def _told(view: ChainView) -> str:
    running = [name for name, task in view.tasks.items() if task.status is TaskStatus.RUNNING]
    more = f" and {len(running) - RUNNING_SHOWN_MAX} more" if len(running) > RUNNING_SHOWN_MAX else ""
    return ", ".join(running[:RUNNING_SHOWN_MAX]) + more
