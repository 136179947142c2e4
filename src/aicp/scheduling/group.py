"""Waiting tasks of one tenant and priority that ask for the same, in the order in which they are served.

The first 64 tasks of each chain stand before the rest of larger chains, 8 : 1; among equals the order is by due time,
then arrival. The tasks of a chain that may become a large one form a strand, which changes its class as one entry.
"""

import itertools
from collections.abc import Iterator

from aicp.model.task import Priority
from aicp.scheduling.heap import Heap
from aicp.scheduling.turns import CLASS_STRIDES, Turns
from aicp.scheduling.waiter import FIRST_TASKS, ChainTurn, Selector, Waiter

PROMOTED_AT_ONCE = 64

Rank = tuple[int, bool, tuple[float, int]]
"""Class pass, class and place of a task among those of its tenant and priority; less is served sooner."""


class Queue:
    """Waiters by a key. Those that left are forgotten when they come first, or when they outnumber those that wait."""

    __slots__ = ("_heap", "size")

    def __init__(self) -> None:
        self._heap = Heap[tuple[float, int, Waiter]]()
        self.size = 0

    def __iter__(self) -> Iterator[Waiter]:
        return (entry[2] for entry in self._heap if self._is_here(entry))

    def entered(self) -> Iterator[Waiter]:
        """All that joined and were not forgotten; some of them may have left. Others may join meanwhile."""
        return (entry[2] for entry in list(self._heap))

    def join(self, key: float, waiter: Waiter) -> None:
        """Add a waiter."""
        self.size += 1
        self._heap.push((key, waiter.arrival, waiter))

    def leave(self) -> None:
        """One of them left."""
        self.size -= 1
        self._heap.forget_gone(self.size, self._is_here)

    def first(self) -> Waiter | None:
        """The first by key, then arrival."""
        heap = self._heap
        while (entry := heap.first()) is not None:
            if self._is_here(entry):
                return entry[2]
            heap.pop()
        return None

    def _is_here(self, entry: tuple[float, int, Waiter]) -> bool:
        return entry[2].is_waiting


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

    def _is_here(self, entry: tuple[float, int, Waiter]) -> bool:
        waiter = entry[2]
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
        self._entries = Heap[_Entry](), Heap[_Entry]()
        self._strands: dict[ChainTurn, Strand] = {}
        self._ageing = Heap[tuple[float, int, Waiter]]()

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
        self._ageing.push((waiter.half_at, waiter.arrival, waiter))
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
            self._entries[True].forget_gone(self.size, _is_rest)
            self._ageing.forget_gone(self.size, _is_ageing)
        self._entries[False].forget_gone(self.size, _is_first)

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
        self._entries[is_rest].push((*place, next(self._pushes), item))

    def _head(self, *, is_rest: bool) -> Waiter | None:
        """The first of a class; entries that are out of date are dropped or put right on the way."""
        entries = self._entries[is_rest]
        while (entry := entries.first()) is not None:
            due, arrival, _, item = entry
            head = item.first() if isinstance(item, Strand) else item if item.is_waiting else None
            if head is None or (isinstance(item, Strand) and item.is_rest is not is_rest):
                entries.pop()
            elif isinstance(item, Strand) and item.chain.is_large and not is_rest:
                entries.pop()
                self._cross(item, head)
            elif head.place != (due, arrival):
                entries.pop()
                self._push(head.place, item, is_rest=is_rest)
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
            entry = ageing.first()
            if entry is None or entry[0] > now:
                return
            ageing.pop()
            waiter = entry[2]
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


def _is_first(entry: "_Entry") -> bool:
    """True for an entry of the first tasks of chains that is not out of date."""
    item = entry[-1]
    return item.is_waiting if isinstance(item, Waiter) else bool(item.size) and not item.is_rest


def _is_rest(entry: "_Entry") -> bool:
    """True for an entry of the rest of large chains that is not out of date."""
    item = entry[-1]
    return item.is_waiting if isinstance(item, Waiter) else bool(item.size) and item.is_rest


def _is_ageing(entry: tuple[float, int, Waiter]) -> bool:
    """True for a task that may still be put among the first since it has waited for long."""
    waiter = entry[2]
    return waiter.strand is not None and waiter.is_waiting


_Entry = tuple[float, int, int, Waiter | Strand]
