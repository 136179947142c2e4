"""Tasks that wait for a free agent, in the order they shall be served."""

import asyncio
import heapq
import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from aicp.model.task import Priority, Task
from aicp.scheduling.lease import Lease, Unscheduled

SLACK_S = {Priority.HIGH: 0.0, Priority.NORMAL: 1.0, Priority.LOW: 3.0}
KINDS_LOOKED_AT_MAX = 64
GONE_KEPT_MAX = 256

Rank = tuple[float, float, int]
Selector = tuple[Any, ...]
"""What a choosy task asks of an agent; tasks that ask for the same stand in one queue."""


class Waiter:
    """One task in line.

    Attributes:
        task: What it is.
        since: Monotonic seconds.
        rank: Order in line: ready time plus the slack of its priority, then deadline, then arrival.
        tried: Agents it shall not go to.
        selector: Whom it would take; None when any capable agent will do.
        gives_up: True when it rather leaves than wait for agents that are out.
        seat_future: Resolved with what became of it.
    """

    __slots__ = ("gives_up", "rank", "seat_future", "selector", "since", "task", "tried")

    _arrivals = itertools.count()

    def __init__(self, task: Task, ready_at: float, deadline: float, tried: frozenset[str], *, gives_up: bool) -> None:
        self.task = task
        self.since = ready_at
        self.rank: Rank = (ready_at + SLACK_S[task.priority], deadline, next(self._arrivals))
        self.tried = tried
        self.selector = _selector(task, tried)
        self.gives_up = gives_up
        self.seat_future: asyncio.Future[Lease | Unscheduled] = asyncio.get_running_loop().create_future()

    @property
    def is_impatient(self) -> bool:
        """True when it wants to know that nobody is left."""
        return self.gives_up or bool(self.tried)

    @property
    def is_waiting(self) -> bool:
        """True until its fate is decided."""
        return not self.seat_future.done()


class _Queue:
    """Waiters by rank. Those who left are forgotten when they come first, or outweigh those who wait."""

    __slots__ = ("_heap", "_size")

    def __init__(self) -> None:
        self._heap: list[tuple[Rank, Waiter]] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Waiter]:
        return (waiter for _, waiter in self._heap if waiter.is_waiting)

    def join(self, waiter: Waiter) -> None:
        self._size += 1
        heapq.heappush(self._heap, (waiter.rank, waiter))

    def leave(self) -> None:
        self._size -= 1
        if len(self._heap) > 2 * self._size + GONE_KEPT_MAX:
            self._heap = [entry for entry in self._heap if entry[1].is_waiting]
            heapq.heapify(self._heap)

    def first(self) -> Waiter | None:
        while self._heap and not self._heap[0][1].is_waiting:
            heapq.heappop(self._heap)
        return self._heap[0][1] if self._heap else None


class WaitingLine:
    """The line of one capability: a queue for those who take anybody, and one for each kind of choosy.

    Attributes:
        impatient: Those who want to know when nobody is left for them.
    """

    __slots__ = ("_anybody", "_choosy", "_size", "impatient")

    def __init__(self) -> None:
        self._anybody = _Queue()
        self._choosy: OrderedDict[Selector, _Queue] = OrderedDict()
        self.impatient: dict[Waiter, None] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Waiter]:
        """Everybody who waits, in no order."""
        return itertools.chain(self._anybody, *self._choosy.values())

    def join(self, waiter: Waiter) -> None:
        """Stand in line."""
        self._size += 1
        if waiter.is_impatient:
            self.impatient[waiter] = None
        if waiter.selector is None:
            self._anybody.join(waiter)
        else:
            self._choosy.setdefault(waiter.selector, _Queue()).join(waiter)

    def leave(self, waiter: Waiter) -> None:
        """Its fate is decided; call once for each that joined."""
        self._size -= 1
        self.impatient.pop(waiter, None)
        if waiter.selector is None:
            self._anybody.leave()
            return
        queue = self._choosy[waiter.selector]
        queue.leave()
        if not queue:
            del self._choosy[waiter.selector]

    def first(self) -> Waiter | None:
        """Who is next among those who take anybody."""
        return self._anybody.first()

    def choosy(self) -> list[Waiter]:
        """Who is next of each kind of choosy: of 64 kinds at most, and of the others when asked again."""
        kinds = list(itertools.islice(self._choosy, KINDS_LOOKED_AT_MAX))
        if len(self._choosy) > len(kinds):
            for kind in kinds:
                self._choosy.move_to_end(kind)
        firsts = (self._choosy[kind].first() for kind in kinds)
        return [waiter for waiter in firsts if waiter is not None]


def _selector(task: Task, tried: frozenset[str]) -> Selector | None:
    if not (tried or task.agents or task.exclude_agents or task.labels):
        return None
    return tried, task.agents, task.exclude_agents, frozenset(task.labels.items())
