"""Lets requests wait for the end of a task or chain, and wakes them all when the server stops."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from aicp.model.event import ChainEnded, Event, TaskEnded
from aicp.model.live import LiveEvent
from aicp.model.task import TaskStatus

WAITING_MAX = 10_000
_ENDS = frozenset({"task_ended", "chain_ended"})


class HasStatus(Protocol):
    """A view of a task or chain."""

    @property
    def status(self) -> TaskStatus:
        """Where it stands."""


View = TypeVar("View", bound=HasStatus)


class Waits:
    """Who waits for what; an observer of the node. More than 10,000 at once are answered without waiting."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._count = 0
        self._closed = False

    def notify(self, event: Event) -> None:
        """Something happened: the end of a task or chain wakes those who wait for it."""
        if isinstance(event, TaskEnded):
            self._wake(event.result.task_id)
        elif isinstance(event, ChainEnded):
            self._wake(event.chain_id)

    def relayed(self, event: LiveEvent, _tenant: str | None) -> None:
        """As `notify`, of something that happened at another replica."""
        if event.kind in _ENDS:
            self._wake(event.task_id or event.chain_id or "")

    def missed(self) -> None:
        """Something may have ended elsewhere: everybody looks again."""
        for name in list(self._waiting):
            self._wake(name)

    async def for_end(self, names: Sequence[str], look: Callable[[], Awaitable[View]], wait_s: float) -> View:
        """Look; if it has not ended, wait for one of these ends and look again.

        Args:
            names: Ids of tasks or chains, each of whose ends is waited for.
            look: Gives the view.
            wait_s: At most so long, seconds.
        """
        if not wait_s or self._closed or self._count >= WAITING_MAX:
            return await look()
        with self._expecting(names) as ended:
            ends_at = asyncio.get_running_loop().time() + wait_s
            view = await look()
            while not view.status.is_terminal and await _happens_by(ended, ends_at) and not self._closed:
                ended.clear()
                view = await look()
            return view if view.status.is_terminal else await look()

    def close(self) -> None:
        """Wake everybody; from now on nobody waits."""
        self._closed = True
        for name in list(self._waiting):
            self._wake(name)

    def _wake(self, name: str) -> None:
        for ended in self._waiting.get(name, ()):
            ended.set()

    @contextmanager
    def _expecting(self, names: Sequence[str]) -> Iterator[asyncio.Event]:
        ended = asyncio.Event()
        self._count += 1
        for name in names:
            self._waiting.setdefault(name, set()).add(ended)
        try:
            yield ended
        finally:
            self._count -= 1
            for name in names:
                self._waiting[name].discard(ended)
                if not self._waiting[name]:
                    del self._waiting[name]


async def _happens_by(event: asyncio.Event, ends_at: float) -> bool:
    try:
        async with asyncio.timeout_at(ends_at):
            return await event.wait()
    except TimeoutError:
        return False
