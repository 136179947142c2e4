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


class _Waiting:
    """Somebody who waits: `news` is set when it is time to look again, `is_over` when it was the last time."""

    __slots__ = ("is_over", "news")

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.is_over = False

    def give_up(self) -> None:
        self.is_over = True
        self.news.set()


class Waits:
    """Who waits for what; an observer of the node. More than 10,000 at once are answered without waiting."""

    def __init__(self) -> None:
        self._waiting: dict[str, set[_Waiting]] = {}
        self._count = 0
        self._closed = False

    def notify(self, event: Event) -> None:
        """Something happened: the end of a task or chain wakes those who wait for it."""
        if isinstance(event, TaskEnded):
            self._wake(event.result.task_id)
        elif isinstance(event, ChainEnded):
            self._wake(event.chain_id)

    def relayed(self, event: LiveEvent, _tenant: str | None, _body: bytes) -> None:
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
        with self._expecting(names, wait_s) as waiting:
            view = await look()
            while not (view.status.is_terminal or waiting.is_over or self._closed):
                await waiting.news.wait()
                waiting.news.clear()
                view = await look()
            return view

    def close(self) -> None:
        """Wake everybody; from now on nobody waits."""
        self._closed = True
        for name in list(self._waiting):
            self._wake(name)

    def _wake(self, name: str) -> None:
        for waiting in self._waiting.get(name, ()):
            waiting.news.set()

    @contextmanager
    def _expecting(self, names: Sequence[str], wait_s: float) -> Iterator[_Waiting]:
        waiting = _Waiting()
        timer = asyncio.get_running_loop().call_later(wait_s, waiting.give_up)
        self._count += 1
        for name in names:
            self._waiting.setdefault(name, set()).add(waiting)
        try:
            yield waiting
        finally:
            timer.cancel()
            self._count -= 1
            for name in names:
                self._waiting[name].discard(waiting)
                if not self._waiting[name]:
                    del self._waiting[name]
