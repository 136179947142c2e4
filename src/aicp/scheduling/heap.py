"""A heap of which most entries may be gone, and in which no operation costs all of them.

Entries that are gone are not looked for when they go. When they outnumber the others, the list is put aside, and each
operation from then on takes a few entries off its end: those that are still good go into the new list. A heap without
its last entry is a heap, so the first entry is the lesser of two firsts all the while.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

GONE_KEPT_MAX = 256
MOVED_A_STEP = 8

Entry = TypeVar("Entry", bound=tuple[Any, ...])


class Heap(Generic[Entry]):
    """Entries, of which the least comes first; O(log n) each."""

    __slots__ = ("_aside", "_entries")

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._aside: list[Entry] = []

    def __len__(self) -> int:
        """How many entries are kept, those that are gone included."""
        return len(self._entries) + len(self._aside)

    def __iter__(self) -> Iterator[Entry]:
        """All entries that are kept, in no order."""
        return itertools.chain(self._entries, self._aside)

    def push(self, entry: Entry) -> None:
        """Add an entry."""
        heapq.heappush(self._entries, entry)

    def first(self) -> Entry | None:
        """The least entry; None when there is none."""
        entries, aside = self._entries, self._aside
        if aside and not (entries and entries[0] < aside[0]):
            return aside[0]
        return entries[0] if entries else None

    def pop(self) -> None:
        """Take the least entry out."""
        entries, aside = self._entries, self._aside
        heapq.heappop(aside if aside and not (entries and entries[0] < aside[0]) else entries)

    def forget_gone(self, good: int, is_good: Callable[[Entry], bool]) -> None:
        """Forget some of the entries that are gone, if they are too many; to be called at each that goes.

        Args:
            good: How many entries are good, at most.
            is_good: False for an entry that is gone.
        """
        aside = self._aside
        if not aside:
            if len(self._entries) <= 2 * good + GONE_KEPT_MAX:
                return
            aside, self._entries = self._entries, []
            self._aside = aside
        for _ in range(min(MOVED_A_STEP, len(aside))):
            entry = aside.pop()
            if is_good(entry):
                heapq.heappush(self._entries, entry)
