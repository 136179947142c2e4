"""Waiting tasks of one tenant and priority that ask for the same, in the order in which they are served.

The first 64 tasks of each chain stand before the rest of larger chains, 8 : 1; among equals the order is by due time,
then arrival. The tasks of a chain that may become a large one form a strand, which changes its class as one entry.
"""

import heapq
import itertools
from collections.abc import Iterator

from aicp.model.task import Priority
from aicp.scheduling.turns import CLASS_STRIDES, Turns
from aicp.scheduling.waiter import FIRST_TASKS, ChainTurn, Selector, Waiter

GONE_KEPT_MAX = 256
PROMOTED_AT_ONCE = 64

Rank = tuple[int, bool, tuple[float, int]]
"""Class pass, class and place of a task among those of its tenant and priority; less is served sooner."""


class Queue:
    """Waiters by a key. Those that left are forgotten when they come first, or when they outnumber those that wait."""

    __slots__ = ("_heap", "size")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Waiter]] = []
        self.size = 0

    def __iter__(self) -> Iterator[Waiter]:
        return (entry[2] for entry in self._heap if self._is_here(entry[2]))

    def entered(self) -> Iterator[Waiter]:
        """All that joined and were not forgotten; some of them may have left. Others may join meanwhile."""
        return (entry[2] for entry in list(self._heap))

    def join(self, key: float, waiter: Waiter) -> None:
        """Add a waiter."""
        self.size += 1
        heapq.heappush(self._heap, (key, waiter.arrival, waiter))

    def leave(self) -> None:
        """One of them left."""
        self.size -= 1
        if len(self._heap) > 2 * self.size + GONE_KEPT_MAX:
            self._heap = [entry for entry in self._heap if self._is_here(entry[2])]
            heapq.heapify(self._heap)

    def first(self) -> Waiter | None:
        """The first by key, then arrival."""
        heap = self._heap
        while heap and not self._is_here(heap[0][2]):
            heapq.heappop(heap)
        return heap[0][2] if heap else None

    def _is_here(self, waiter: Waiter) -> bool:
        return waiter.is_waiting


class Strand(Queue):
    """The waiting tasks of one chain in a group.

    Attributes:
        chain: How far it has come.
        is_rest: True once it stands with the rest of the large chains.
    """

    __slots__ = ("chain", "is_rest")

    def __init__(self, chain: ChainTurn) -> None:
        super().__init__()
        self.chain = chain
        self.is_rest = False

    def _is_here(self, waiter: Waiter) -> bool:
        return waiter.strand is self and waiter.is_waiting


class Share:
    """What one tenant has waiting at one priority, and what its classes have had.

    Attributes:
        tenant: Whose.
        priority: Which.
        turns: Of the first tasks of chains (False) and of the rest of large ones (True).
        place: Rises with each of its hand-overs: among shares that had as much the least is next.
        waiting: How many wait in each class.
        groups: How many groups they wait in.
        ages: All of them by when they became ready.
    """

    __slots__ = ("ages", "groups", "place", "priority", "tenant", "turns", "waiting")

    _places = itertools.count()

    def __init__(self, tenant: str, priority: Priority) -> None:
        self.tenant = tenant
        self.priority = priority
        self.turns = Turns[bool]()
        self.place = next(self._places)
        self.waiting = [0, 0]
        self.groups = 0
        self.ages = Queue()

    def charge(self, *, is_rest: bool) -> None:
        """Count one hand-over to a class."""
        self.turns.charge(is_rest, CLASS_STRIDES[is_rest])
        self.place = next(self._places)

    def move(self, count: int, *, to_rest: bool) -> None:
        """So many of them changed their class."""
        self.waiting[to_rest] += count
        self.waiting[not to_rest] -= count


class Group:
    """Tasks that ask for the same.

    Attributes:
        selector: What they ask for; None for any capable agent.
        share: What their tenant has at their priority.
        keys: Under which the group is found by an agent that may suit it; empty for a plain one.
        size: How many there are, those included that are served and have not left yet.
        impatient: Those that leave as soon as no agent is left for them, by whether they also leave agents that are
            only out.
        is_offered: True when every free agent that suits the group was offered to it.
        is_dropped: True when the order of plain groups passed it over, as none of its tasks waited then.
    """

    __slots__ = (
        "_ageing", "_entries", "_strands", "impatient", "is_dropped", "is_offered", "keys", "selector", "share", "size",
    )  # fmt: skip

    _pushes = itertools.count()

    def __init__(self, selector: Selector | None, share: Share) -> None:
        self.selector = selector
        self.share = share
        self.keys: tuple[object, ...] = ()
        self.size = 0
        self.impatient: dict[bool, dict[Waiter, None]] = {}
        self.is_offered = self.is_dropped = False
        self._entries: tuple[list[_Entry], ...] = ([], [])
        self._strands: dict[ChainTurn, Strand] = {}
        self._ageing: list[tuple[float, int, Waiter]] = []

    @property
    def excluded(self) -> frozenset[str]:
        """The agents that do not suit it though every other does; empty where it names agents or labels."""
        selector = self.selector
        return frozenset() if selector is None or selector.agents or selector.labels else selector.left_out

    def __iter__(self) -> Iterator[Waiter]:
        """Those that wait, in no order."""
        singles = (entry[-1] for entries in self._entries for entry in entries)
        yield from (each for each in singles if isinstance(each, Waiter) and each.is_waiting)
        for strand in self._strands.values():
            yield from strand

    def entered(self) -> Iterator[Waiter]:
        """All that joined and were not forgotten; some of them may have left. Others may join or leave meanwhile."""
        entries, strands = [*itertools.chain(*self._entries)], list(self._strands.values())
        yield from (entry[-1] for entry in entries if isinstance(entry[-1], Waiter))
        for strand in strands:
            yield from strand.entered()

    def join(self, waiter: Waiter) -> None:
        """Add a waiter."""
        self.size += 1
        waiter.group = self
        if waiter.is_impatient:
            self.impatient.setdefault(waiter.gives_up, {})[waiter] = None
        strand = waiter.strand = self._strand_for(waiter)
        if strand is None:
            self._push(waiter.place, waiter, is_rest=False)
            self.share.waiting[False] += 1
            return
        strand.join(waiter.due, waiter)
        heapq.heappush(self._ageing, (waiter.half_at, waiter.arrival, waiter))
        self.share.waiting[strand.is_rest] += 1
        if strand.first() is waiter:
            self._push(waiter.place, strand, is_rest=strand.is_rest)

    def leave(self, waiter: Waiter) -> None:
        """It was decided what becomes of a waiter; once for each that joined."""
        self.size -= 1
        self.calm(waiter)
        strand = waiter.strand
        self.share.waiting[strand is not None and strand.is_rest] -= 1
        if strand is not None:
            strand.leave()
            if not strand.size:
                del self._strands[strand.chain]
        if sum(map(len, self._entries)) + len(self._ageing) > 4 * self.size + GONE_KEPT_MAX:
            self._forget_gone()

    def calm(self, waiter: Waiter) -> None:
        """It need no longer be asked whether an agent is left for this waiter."""
        waiters = self.impatient.get(waiter.gives_up)
        if waiters is not None and waiters.pop(waiter, self) is None and not waiters:
            del self.impatient[waiter.gives_up]

    def first(self, now: float) -> tuple[Rank, Waiter] | None:
        """Which is next, with its rank."""
        self._promote(now)
        first = self._head(is_rest=False) if self._entries[False] else None
        rest = self._head(is_rest=True) if self._entries[True] else None
        return min((self._ranked(head, is_rest) for is_rest, head in enumerate((first, rest)) if head), default=None)

    def serve(self, waiter: Waiter) -> None:
        """It got an agent."""
        strand = waiter.strand
        self.share.charge(is_rest=strand is not None and strand.is_rest)

    def _ranked(self, head: Waiter, is_rest: int) -> tuple[Rank, Waiter]:
        return (self.share.turns.pass_of(bool(is_rest)), bool(is_rest), head.place), head

    def _strand_for(self, waiter: Waiter) -> Strand | None:
        chain = waiter.chain
        if chain is None or chain.tasks <= FIRST_TASKS:
            return None
        strand = self._strands.get(chain)
        if strand is None:
            strand = self._strands[chain] = Strand(chain)
            strand.is_rest = chain.is_large
        return strand

    def _push(self, place: tuple[float, int], item: "Waiter | Strand", *, is_rest: bool) -> None:
        heapq.heappush(self._entries[is_rest], (*place, next(self._pushes), item))

    def _head(self, *, is_rest: bool) -> Waiter | None:
        """The first of a class; entries that are out of date are dropped or put right on the way."""
        entries = self._entries[is_rest]
        while entries:
            due, arrival, _, item = entries[0]
            head = item.first() if isinstance(item, Strand) else item if item.is_waiting else None
            if head is None or (isinstance(item, Strand) and item.is_rest is not is_rest):
                heapq.heappop(entries)
            elif isinstance(item, Strand) and item.chain.is_large and not is_rest:
                heapq.heappop(entries)
                self._cross(item, head)
            elif head.place != (due, arrival):
                heapq.heapreplace(entries, (*head.place, next(self._pushes), item))
            else:
                return head
        return None

    def _cross(self, strand: Strand, head: Waiter) -> None:
        """The first 64 tasks of its chain were handed over: it stands with the rest of the large ones."""
        strand.is_rest = True
        self.share.move(strand.size, to_rest=True)
        self._push(head.place, strand, is_rest=True)

    def _promote(self, now: float) -> None:
        """Put tasks that have waited for half of their deadline among the first."""
        ageing = self._ageing
        for _ in range(PROMOTED_AT_ONCE):
            if not ageing or ageing[0][0] > now:
                return
            waiter = heapq.heappop(ageing)[2]
            strand = waiter.strand
            if strand is None or not waiter.is_waiting:
                continue
            if strand.is_rest:
                self.share.move(1, to_rest=False)
            waiter.strand = None
            strand.leave()
            if not strand.size:
                del self._strands[strand.chain]
            self._push(waiter.place, waiter, is_rest=False)

    def _forget_gone(self) -> None:
        for is_rest, entries in enumerate(self._entries):
            entries[:] = [entry for entry in entries if _is_current(entry[-1], is_rest=bool(is_rest))]
            heapq.heapify(entries)
        self._ageing = [entry for entry in self._ageing if entry[2].is_waiting and entry[2].strand is not None]
        heapq.heapify(self._ageing)


def _is_current(item: Waiter | Strand, *, is_rest: bool) -> bool:
    return item.is_waiting if isinstance(item, Waiter) else bool(item.size) and item.is_rest is is_rest


_Entry = tuple[float, int, int, Waiter | Strand]
