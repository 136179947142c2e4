"""Tasks that wait for a free agent, in the order they shall be served.

Between priorities: whose oldest task, of those that would take the agent, has the least `ready + slack` (high 0 s,
normal 1 s, low 3 s); so nobody starves beyond the difference. Inside a priority tenants share equally, by a virtual
clock. Inside a tenant: by deadline, then when it became ready. Tasks that do not take just any agent stand in a queue
for each kind of choosy, in the same order.
"""

import asyncio
import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from aicp.model.agent import DEFAULT_TENANT
from aicp.model.task import Priority, Task
from aicp.scheduling.lease import Lease, Unscheduled
from aicp.standstill import TimeLimit

SLACK_S = {Priority.HIGH: 0.0, Priority.NORMAL: 1.0, Priority.LOW: 3.0}
KINDS_LOOKED_AT_MAX = 64
GONE_KEPT_MAX = 256
OWN_LEAD_MAX = 64

Selector = tuple[Any, ...]
"""What a choosy task asks of an agent; tasks that ask for the same stand in one queue."""

Found = tuple[float, "Waiter"]
"""Who is next, and how urgent its priority is, or when the oldest of those it stands for was ready; less is first."""


class Waiter:
    """One task in line.

    Attributes:
        task: What it is.
        tenant: Whose.
        since: When it became ready, monotonic seconds.
        deadline: When it gives up, monotonic seconds; its place in line stays by this when `limit` is moved.
        limit: When it gives up, moved once when this process stood still meanwhile.
        arrival: Rises with each that joins any line.
        tried: Agents it shall not go to.
        selector: Whom it would take; None when any capable agent will do.
        gives_up: True when it rather leaves than wait for agents that are out.
        held_since: From when its patience is counted; None until it was held from an agent for a faster one.
        patient_until: Until when it leaves the last of those alone; 0 before.
        seat_future: Resolved with what became of it.
    """

    __slots__ = (
        "arrival", "deadline", "gives_up", "held_since", "limit", "patient_until", "seat_future", "selector", "since",
        "task", "tenant", "tried",
    )  # fmt: skip

    _arrivals = itertools.count()

    def __init__(
        self,
        task: Task,
        ready_at: float,
        deadline: float | TimeLimit,
        tried: frozenset[str],
        *,
        gives_up: bool,
        tenant: str = DEFAULT_TENANT,
    ) -> None:
        self.task = task
        self.tenant = tenant
        self.since = ready_at
        self.limit = deadline if isinstance(deadline, TimeLimit) else TimeLimit(ready_at, deadline)
        self.deadline = self.limit.ends_at
        self.arrival = next(self._arrivals)
        self.tried = tried
        self.selector = _selector(task, tried)
        self.gives_up = gives_up
        self.held_since: float | None = None
        self.patient_until = 0.0
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

    def oldest_since(self) -> float:
        """Of a queue by age: when the first was ready; infinite when nobody waits."""
        oldest = self.first()
        return math.inf if oldest is None else oldest.since


class _Kind:
    """Waiters who ask for the same, by deadline and by age."""

    __slots__ = ("_by_age", "_by_turn")

    def __init__(self) -> None:
        self._by_turn = _Queue()
        self._by_age = _Queue()

    def __len__(self) -> int:
        return len(self._by_turn)

    def join(self, waiter: Waiter) -> None:
        self._by_turn.join((waiter.deadline, waiter.since), waiter)
        self._by_age.join((waiter.since,), waiter)

    def leave(self) -> None:
        self._by_turn.leave()
        self._by_age.leave()

    def first(self) -> Waiter | None:
        return self._by_turn.first()

    def oldest_since(self) -> float:
        return self._by_age.oldest_since()


class _Turn:
    """The waiting tasks of one tenant at one priority, by kinds of choosy.

    Attributes:
        clock: How much it was served, on its lane's virtual clock.
        place: Among those that were served as much: rises with each that came to that.
    """

    __slots__ = ("_kinds", "_size", "clock", "place")

    def __init__(self, clock: int) -> None:
        self.clock = clock
        self.place = 0
        self._size = 0
        self._kinds: OrderedDict[Selector | None, _Kind] = OrderedDict()

    def __len__(self) -> int:
        return self._size

    def join(self, waiter: Waiter) -> None:
        self._size += 1
        kind = self._kinds.get(waiter.selector)
        if kind is None:
            kind = self._kinds[waiter.selector] = _Kind()
        kind.join(waiter)

    def leave(self, waiter: Waiter) -> None:
        self._size -= 1
        kind = self._kinds[waiter.selector]
        kind.leave()
        if not kind:
            del self._kinds[waiter.selector]

    def first(self, fits: Callable[[Waiter], bool], *, choosy: bool) -> Found | None:
        """Of each kind that fits the first, of those the one with the earliest deadline; and since when any waits.

        Of more than 64 kinds as many are compared, and others the next time; but nobody waits beside an agent that
        suits it: when none of those does, the rest is looked at until one does.
        """
        found, oldest_since = None, math.inf
        for kind in self._looked_at():
            waiter = kind.first()
            if waiter is None or (choosy if waiter.selector is None else not fits(waiter)):
                continue
            oldest_since = min(oldest_since, kind.oldest_since())
            if found is None or waiter.turn < found.turn:
                found = waiter
        if found is None and len(self._kinds) > KINDS_LOOKED_AT_MAX:
            return self._first_of_the_rest(fits)
        return (oldest_since, found) if found is not None else None

    def _looked_at(self) -> Iterable[_Kind]:
        """Every kind; of more than 64, as many and those who take anybody. These are the last to be looked at again."""
        kinds = self._kinds
        if len(kinds) <= KINDS_LOOKED_AT_MAX:
            return kinds.values()
        looked_at = list(itertools.islice(kinds, KINDS_LOOKED_AT_MAX))
        for kind in looked_at:
            kinds.move_to_end(kind)
        if None in kinds and None not in looked_at:
            looked_at.append(None)
        return [kinds[kind] for kind in looked_at]

    def _first_of_the_rest(self, fits: Callable[[Waiter], bool]) -> Found | None:
        rest = itertools.islice(self._kinds.items(), len(self._kinds) - KINDS_LOOKED_AT_MAX)
        firsts = (kind.first() for selector, kind in rest if selector is not None)
        return next(((each.since, each) for each in firsts if each is not None and fits(each)), None)


class _Lane:
    """Everybody of one priority; tenants take turns.

    Attributes:
        slack_s: How long it lets others go first.
    """

    __slots__ = ("_by_age", "_by_clock", "_clock", "_plain_by_age", "_pushes", "_served_now", "_turns", "slack_s")

    def __init__(self, slack_s: float) -> None:
        self.slack_s = slack_s
        self._by_age = _Queue()
        self._plain_by_age = _Queue()
        self._turns: dict[str, _Turn] = {}
        self._by_clock: list[tuple[int, int, str, _Turn]] = []
        self._pushes = itertools.count()
        self._clock = 0
        self._served_now: set[str] = set()

    def __len__(self) -> int:
        return len(self._by_age)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._by_age)

    def waiting(self, tenant: str) -> tuple[int, int]:
        """How many of a tenant wait, and of how many tenants somebody waits."""
        return len(self._turns.get(tenant, ())), len(self._turns)

    def join(self, waiter: Waiter) -> None:
        self._by_age.join((waiter.since,), waiter)
        if waiter.selector is None:
            self._plain_by_age.join((waiter.since,), waiter)
        turn = self._turns.get(waiter.tenant)
        if turn is None:
            # Whoever had its turn at this hour and left has none left, or one task at a time would take every slot.
            turn = self._turns[waiter.tenant] = _Turn(self._clock + (waiter.tenant in self._served_now))
            self._push(waiter.tenant, turn)
        turn.join(waiter)

    def serve(self, waiter: Waiter) -> None:
        """A shared agent takes it."""
        turn = self._turns[waiter.tenant]
        if turn.clock > self._clock:
            self._clock = turn.clock
            self._served_now.clear()
        if turn.clock == self._clock:
            self._served_now.add(waiter.tenant)
        turn.clock += 1
        self._push(waiter.tenant, turn)

    def serve_by_own(self, waiter: Waiter) -> None:
        """An agent of its tenant takes it: the hour stays, and should the tenant lose its agents it soon has turns."""
        turn = self._turns[waiter.tenant]
        if turn.clock < self._clock + OWN_LEAD_MAX:
            turn.clock += 1
            self._push(waiter.tenant, turn)

    def leave(self, waiter: Waiter) -> None:
        self._by_age.leave()
        if waiter.selector is None:
            self._plain_by_age.leave()
        turn = self._turns[waiter.tenant]
        turn.leave(waiter)
        if not turn:
            del self._turns[waiter.tenant]

    def ready_before(self, share: float, now: float) -> float:
        """When the last of the oldest `share` of them was ready, as if they had come one by one at even gaps."""
        oldest_since = self._plain_by_age.oldest_since()
        return oldest_since + share * (now - oldest_since) if oldest_since < now else now

    def share_before(self, since: float, now: float) -> float:
        """Which share of them was ready before that."""
        if since >= now:
            return 1.0
        oldest_since = self._plain_by_age.oldest_since()
        return (since - oldest_since) / (now - oldest_since) if oldest_since < since else 0.0

    def oldest_since(self) -> float:
        """When the oldest was ready; infinite when nobody waits."""
        return self._by_age.oldest_since()

    def first(self, fits: Callable[[Waiter], bool], tenant: str | None, *, choosy: bool) -> Found | None:
        """Who is next, and when the oldest who would take the agent at hand was ready, plus the slack."""
        turn = self._turns.get(tenant) if tenant is not None else self._next_turn()
        found = turn.first(fits, choosy=choosy) if turn is not None else None
        if found is None and tenant is None:
            others = (each.first(fits, choosy=choosy) for each in self._in_turn() if each is not turn)
            found = next(filter(None, others), None)
        if found is None:
            return None
        since, waiter = found
        if tenant is None and not choosy:
            since = min(since, self._plain_by_age.oldest_since())
        return since + self.slack_s, waiter

    def _next_turn(self) -> _Turn | None:
        """Whose turn it is; entries of turns that were served or ended since are dropped on the way."""
        while self._by_clock:
            if self._is_current(self._by_clock[0]):
                return self._by_clock[0][-1]
            heapq.heappop(self._by_clock)
        return None

    def _in_turn(self) -> list[_Turn]:
        return sorted(self._turns.values(), key=lambda turn: (turn.clock, turn.place))

    def _push(self, tenant: str, turn: _Turn) -> None:
        turn.place = next(self._pushes)
        heapq.heappush(self._by_clock, (turn.clock, turn.place, tenant, turn))
        if len(self._by_clock) > 2 * len(self._turns) + GONE_KEPT_MAX:
            self._by_clock = [entry for entry in self._by_clock if self._is_current(entry)]
            heapq.heapify(self._by_clock)

    def _is_current(self, entry: tuple[int, int, str, _Turn]) -> bool:
        _, place, tenant, turn = entry
        return self._turns.get(tenant) is turn and turn.place == place


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

    def waiting(self, tenant: str | None) -> int:
        """How many wait; of one tenant, or of all."""
        if tenant is None:
            return len(self)
        return sum(lane.waiting(tenant)[0] for lane in self._lanes.values())

    def oldest_wait_s(self, now: float) -> float:
        """How long the one who has waited longest has, in seconds."""
        # Those who were served and have not left yet do not wait any more, and their lane has no oldest.
        return max(0.0, *(now - lane.oldest_since() for lane in self._lanes.values()))

    def join(self, waiter: Waiter) -> None:
        """Stand in line."""
        if waiter.is_impatient:
            self.impatient[waiter] = None
        self._lanes[waiter.task.priority].join(waiter)

    def serve(self, waiter: Waiter, lease: Lease) -> None:
        """Give it what it waited for. That is a turn of its tenant at once: the next slot may be free already.

        Whom its own agents serve leaves the shared ones to others, until they had as many; up to 64 are remembered.
        """
        lane = self._lanes[waiter.task.priority]
        if lease.seat.pool.tenant is None:
            lane.serve(waiter)
        else:
            lane.serve_by_own(waiter)
        waiter.seat_future.set_result(lease)

    def leave(self, waiter: Waiter) -> None:
        """Its fate is decided; call once for each that joined."""
        self.impatient.pop(waiter, None)
        self._lanes[waiter.task.priority].leave(waiter)

    def first(self, fits: Callable[[Waiter], bool], tenant: str | None = None, *, choosy: bool = False) -> Found | None:
        """Who is next, with the urgency of its priority (less is more urgent), to compare with other lines.

        Those who would not take the agent at hand make nobody more urgent, however long they have waited.

        Args:
            fits: Whether the agent at hand suits a choosy waiter.
            tenant: The only one the agent at hand serves; None for everybody.
            choosy: True to pass over those who take anybody.
        """
        found = (lane.first(fits, tenant, choosy=choosy) for lane in self._lanes.values() if lane)
        return min(filter(None, found), key=lambda each: each[0], default=None)

    def ahead_of(self, priority: Priority, tenant: str, now: float, *, alone: bool = False) -> float:
        """About how many would be served before one more task that joins now.

        Of its own priority its tenant's, and as many of each other tenant at most; by then that priority has come so
        far in time, and the others with it: they are served up to there, less or more by their slack.

        Args:
            priority: Of the task.
            tenant: Whose it is.
            now: Monotonic seconds.
            alone: True for agents that work for this tenant only.
        """
        own = self._lanes[priority]
        theirs, tenants = own.waiting(tenant)
        ahead = float(theirs if alone else min(len(own), (theirs + 1) * max(1, tenants) - 1))
        share = 1.0 if alone or not own else ahead / len(own)
        urgency = own.ready_before(share, now) + own.slack_s
        for lane in self._lanes.values():
            if lane and lane is not own:
                waiting = lane.waiting(tenant)[0] if alone else len(lane)
                ahead += waiting * lane.share_before(urgency - lane.slack_s, now)
        return ahead


def _selector(task: Task, tried: frozenset[str]) -> Selector | None:
    if not (tried or task.agents or task.exclude_agents or task.labels):
        return None
    return tried, task.agents, task.exclude_agents, frozenset(task.labels.items())
