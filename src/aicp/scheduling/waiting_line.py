"""Tasks that wait for a free agent, in the order they shall be served.

Between priorities: whose oldest task has the least `ready + slack` (high 0 s, normal 1 s, low 3 s); so nobody starves
beyond the difference. Inside a priority tenants share equally, by a virtual clock. Inside a tenant: by deadline, then
when it became ready. Tasks that do not take just any agent stand in a queue for each kind of choosy, in the same order.
"""

import asyncio
import heapq
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from aicp.model.agent import DEFAULT_TENANT
from aicp.model.task import Priority, Task
from aicp.scheduling.lease import Lease, Unscheduled

SLACK_S = {Priority.HIGH: 0.0, Priority.NORMAL: 1.0, Priority.LOW: 3.0}
KINDS_LOOKED_AT_MAX = 64
GONE_KEPT_MAX = 256

Selector = tuple[Any, ...]
"""What a choosy task asks of an agent; tasks that ask for the same stand in one queue."""


class Waiter:
    """One task in line.

    Attributes:
        task: What it is.
        tenant: Whose.
        since: When it became ready, monotonic seconds.
        deadline: When it gives up, monotonic seconds.
        arrival: Rises with each that joins any line.
        tried: Agents it shall not go to.
        selector: Whom it would take; None when any capable agent will do.
        gives_up: True when it rather leaves than wait for agents that are out.
        seat_future: Resolved with what became of it.
    """

    __slots__ = (
        "arrival", "deadline", "gives_up", "seat_future", "selector", "since", "task", "tenant", "tried",
    )  # fmt: skip

    _arrivals = itertools.count()

    def __init__(
        self,
        task: Task,
        ready_at: float,
        deadline: float,
        tried: frozenset[str],
        *,
        gives_up: bool,
        tenant: str = DEFAULT_TENANT,
    ) -> None:
        self.task = task
        self.tenant = tenant
        self.since = ready_at
        self.deadline = deadline
        self.arrival = next(self._arrivals)
        self.tried = tried
        self.selector = _selector(task, tried)
        self.gives_up = gives_up
        self.seat_future: asyncio.Future[Lease | Unscheduled] = asyncio.get_running_loop().create_future()

    @property
    def turn(self) -> tuple[float, float, int]:
        """Its place among the tasks of its tenant and priority: by deadline, then by when it became ready."""
        return self.deadline, self.since, self.arrival

    @property
    def is_impatient(self) -> bool:
        """True when it wants to know that nobody is left."""
        return self.gives_up or bool(self.tried)

    @property
    def is_waiting(self) -> bool:
        """True until its fate is decided."""
        return not self.seat_future.done()


class _Queue:
    """Waiters by a key, then arrival. Those who left are forgotten when they come first, or outweigh those who wait."""

    __slots__ = ("_heap", "_size")

    def __init__(self) -> None:
        self._heap: list[tuple[tuple[float, ...], int, Waiter]] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Waiter]:
        return (entry[2] for entry in self._heap if entry[2].is_waiting)

    def join(self, key: tuple[float, ...], waiter: Waiter) -> None:
        self._size += 1
        heapq.heappush(self._heap, (key, waiter.arrival, waiter))

    def leave(self) -> None:
        self._size -= 1
        if len(self._heap) > 2 * self._size + GONE_KEPT_MAX:
            self._heap = [entry for entry in self._heap if entry[2].is_waiting]
            heapq.heapify(self._heap)

    def first(self) -> Waiter | None:
        heap = self._heap
        while heap and not heap[0][2].is_waiting:
            heapq.heappop(heap)
        return heap[0][2] if heap else None


class _Turn:
    """The waiting tasks of one tenant at one priority: by deadline, for each kind of choosy.

    Attributes:
        clock: How much it was served, on its lane's virtual clock.
    """

    __slots__ = ("_kinds", "clock")

    def __init__(self, clock: int) -> None:
        self.clock = clock
        self._kinds: OrderedDict[Selector | None, _Queue] = OrderedDict()

    @property
    def is_empty(self) -> bool:
        return not self._kinds

    def join(self, waiter: Waiter) -> None:
        self._kinds.setdefault(waiter.selector, _Queue()).join((waiter.deadline, waiter.since), waiter)

    def leave(self, waiter: Waiter) -> None:
        queue = self._kinds[waiter.selector]
        queue.leave()
        if not queue:
            del self._kinds[waiter.selector]

    def first(self, fits: Callable[[Waiter], bool]) -> Waiter | None:
        """Of each kind that fits the first, of those the one with the earliest deadline."""
        found = None
        for queue in self._looked_at():
            waiter = queue.first()
            if waiter is None or (waiter.selector is not None and not fits(waiter)):
                continue
            if found is None or waiter.turn < found.turn:
                found = waiter
        return found

    def _looked_at(self) -> Iterable[_Queue]:
        """Every kind; of more than 64, as many and those who take anybody, and the others when asked again."""
        kinds = self._kinds
        if len(kinds) <= KINDS_LOOKED_AT_MAX:
            return kinds.values()
        looked_at = list(itertools.islice(kinds, KINDS_LOOKED_AT_MAX))
        for kind in looked_at:
            kinds.move_to_end(kind)
        if None in kinds and None not in looked_at:
            looked_at.append(None)
        return [kinds[kind] for kind in looked_at]


class _Lane:
    """Everybody of one priority; tenants take turns.

    Attributes:
        slack_s: How long it lets others go first.
    """

    __slots__ = ("_by_age", "_clock", "_turns", "slack_s")

    def __init__(self, slack_s: float) -> None:
        self.slack_s = slack_s
        self._by_age = _Queue()
        self._turns: dict[str, _Turn] = {}
        self._clock = 0

    def __len__(self) -> int:
        return len(self._by_age)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._by_age)

    def join(self, waiter: Waiter) -> None:
        self._by_age.join((waiter.since,), waiter)
        turn = self._turns.get(waiter.tenant)
        if turn is None:
            turn = self._turns[waiter.tenant] = _Turn(self._clock)
        turn.join(waiter)

    def serve(self, waiter: Waiter) -> None:
        turn = self._turns[waiter.tenant]
        self._clock = max(self._clock, turn.clock)
        turn.clock += 1

    def leave(self, waiter: Waiter) -> None:
        self._by_age.leave()
        turn = self._turns[waiter.tenant]
        turn.leave(waiter)
        if turn.is_empty:
            del self._turns[waiter.tenant]

    def urgency(self) -> float:
        """When the oldest was ready, plus the slack; infinite when nobody waits."""
        oldest = self._by_age.first()
        return float("inf") if oldest is None else oldest.since + self.slack_s

    def first(self, fits: Callable[[Waiter], bool]) -> Waiter | None:
        firsts = (turn.first(fits) for turn in self._in_turn())
        return next((waiter for waiter in firsts if waiter is not None), None)

    def _in_turn(self) -> Iterable[_Turn]:
        if len(self._turns) == 1:
            return self._turns.values()
        return sorted(self._turns.values(), key=lambda turn: turn.clock)


class WaitingLine:
    """The line of one capability.

    Attributes:
        impatient: Those who want to know when nobody is left for them.
    """

    __slots__ = ("_lanes", "impatient")

    def __init__(self) -> None:
        self._lanes = {priority: _Lane(slack_s) for priority, slack_s in SLACK_S.items()}
        self.impatient: dict[Waiter, None] = {}

    def __len__(self) -> int:
        return sum(map(len, self._lanes.values()))

    def __iter__(self) -> Iterator[Waiter]:
        """Everybody who waits, in no order."""
        return itertools.chain(*self._lanes.values())

    def by_priority(self) -> dict[Priority, int]:
        """How many wait at each priority."""
        return {priority: len(lane) for priority, lane in self._lanes.items()}

    def join(self, waiter: Waiter) -> None:
        """Stand in line."""
        if waiter.is_impatient:
            self.impatient[waiter] = None
        self._lanes[waiter.task.priority].join(waiter)

    def serve(self, waiter: Waiter, lease: Lease) -> None:
        """Give it what it waited for. That is a turn of its tenant at once: the next slot may be free already."""
        self._lanes[waiter.task.priority].serve(waiter)
        waiter.seat_future.set_result(lease)

    def leave(self, waiter: Waiter) -> None:
        """Its fate is decided; call once for each that joined."""
        self.impatient.pop(waiter, None)
        self._lanes[waiter.task.priority].leave(waiter)

    def first(self, fits: Callable[[Waiter], bool]) -> tuple[float, Waiter] | None:
        """Who is next, with the urgency of its priority (less is more urgent), to compare with other lines.

        Args:
            fits: Whether the agent at hand suits a choosy waiter.
        """
        lanes = [(lane.urgency(), lane) for lane in self._lanes.values() if lane]
        for urgency, lane in sorted(lanes, key=lambda pair: pair[0]):
            if (waiter := lane.first(fits)) is not None:
                return urgency, waiter
        return None


def _selector(task: Task, tried: frozenset[str]) -> Selector | None:
    if not (tried or task.agents or task.exclude_agents or task.labels):
        return None
    return tried, task.agents, task.exclude_agents, frozenset(task.labels.items())
