"""Tasks that wait for a free agent, in the order they shall be served."""

import asyncio
import heapq
import itertools
from collections.abc import Iterator

from aicp.model.task import Priority, Task
from aicp.scheduling.lease import Lease, Unscheduled

SLACK_S = {Priority.HIGH: 0.0, Priority.NORMAL: 1.0, Priority.LOW: 3.0}
FILTERED_LOOKS_MAX = 64
GONE_KEPT_MAX = 256


class Waiter:
    """One task in line.

    Attributes:
        task: What it is.
        since: Monotonic seconds.
        rank: Order in line: ready time plus the slack of its priority, then deadline, then arrival.
        tried: Agents it shall not go to.
        gives_up: True when it rather leaves than wait for agents that are out.
        seat_future: Resolved with what became of it.
    """

    __slots__ = ("gives_up", "rank", "seat_future", "since", "task", "tried")

    _arrivals = itertools.count()

    def __init__(self, task: Task, ready_at: float, deadline: float, tried: frozenset[str], *, gives_up: bool) -> None:
        self.task = task
        self.since = ready_at
        self.rank = (ready_at + SLACK_S[task.priority], deadline, next(self._arrivals))
        self.tried = tried
        self.gives_up = gives_up
        self.seat_future: asyncio.Future[Lease | Unscheduled] = asyncio.get_running_loop().create_future()

    @property
    def is_filtered(self) -> bool:
        """True when not every capable agent will do."""
        return bool(self.tried or self.task.agents or self.task.exclude_agents or self.task.labels)

    @property
    def is_impatient(self) -> bool:
        """True when it wants to know that nobody is left."""
        return self.gives_up or bool(self.tried)

    @property
    def is_waiting(self) -> bool:
        """True until its fate is decided."""
        return not self.seat_future.done()


class WaitingLine:
    """The line of one capability: a heap for those who take anybody, a short list for the choosy.

    Attributes:
        impatient: Those who want to know when nobody is left for them.
    """

    __slots__ = ("_anybody", "_choosy", "_size", "impatient")

    def __init__(self) -> None:
        self._anybody: list[tuple[tuple[float, float, int], Waiter]] = []
        self._choosy: dict[Waiter, None] = {}
        self.impatient: dict[Waiter, None] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Waiter]:
        """Everybody who waits, in no order."""
        yield from (waiter for _, waiter in self._anybody if waiter.is_waiting)
        yield from (waiter for waiter in self._choosy if waiter.is_waiting)

    def join(self, waiter: Waiter) -> None:
        """Stand in line."""
        self._size += 1
        if waiter.is_impatient:
            self.impatient[waiter] = None
        if waiter.is_filtered:
            self._choosy[waiter] = None
        else:
            heapq.heappush(self._anybody, (waiter.rank, waiter))

    def leave(self, waiter: Waiter) -> None:
        """Its fate is decided; call once for each that joined."""
        self._size -= 1
        self._choosy.pop(waiter, None)
        self.impatient.pop(waiter, None)
        if len(self._anybody) > 2 * self._size + GONE_KEPT_MAX:
            self._forget_the_gone()

    def first(self) -> Waiter | None:
        """Who is next among those who take anybody."""
        while self._anybody and not self._anybody[0][1].is_waiting:
            heapq.heappop(self._anybody)
        return self._anybody[0][1] if self._anybody else None

    def choosy(self) -> Iterator[Waiter]:
        """The choosy, longest in line first, a bounded number of them."""
        return itertools.islice((waiter for waiter in self._choosy if waiter.is_waiting), FILTERED_LOOKS_MAX)

    def _forget_the_gone(self) -> None:
        """Those who left behind somebody who waits long are still in the heap; at least half of it goes."""
        self._anybody = [entry for entry in self._anybody if entry[1].is_waiting]
        heapq.heapify(self._anybody)
