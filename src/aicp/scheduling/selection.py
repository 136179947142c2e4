"""Those of a pool who carry certain labels, so that a task that asks for them scans nobody else."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Selection(Generic[T]):
    """A part of a pool, with its free members by speed; within a speed who has been free longest comes first.

    Attributes:
        out: How many of them may not be used.
    """

    __slots__ = ("_bucket_of", "_members", "_rows", "out")

    def __init__(self) -> None:
        self.out = 0
        self._members: dict[T, None] = {}
        self._bucket_of: dict[T, int] = {}
        self._rows: dict[int, OrderedDict[T, None]] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[T]:
        return iter(self._members)

    def __contains__(self, member: T) -> bool:
        return member in self._members

    @property
    def usable(self) -> int:
        """How many may be used, free or busy."""
        return len(self._members) - self.out

    def add(self, member: T) -> None:
        """Somebody who carries the labels joined the pool."""
        self._members[member] = None

    def forget(self, member: T) -> None:
        """It left the pool; it is not among the free any more."""
        self._members.pop(member, None)

    def put(self, member: T, bucket: int) -> None:
        """It is free, at this speed."""
        self.take(member)
        self._bucket_of[member] = bucket
        self._rows.setdefault(bucket, OrderedDict())[member] = None

    def take(self, member: T) -> None:
        """It is not free any more."""
        bucket = self._bucket_of.pop(member, None)
        if bucket is not None:
            row = self._rows[bucket]
            del row[member]
            if not row:
                del self._rows[bucket]

    def pick(self, fits: Callable[[T], bool]) -> T | None:
        """The fastest free member that fits; looks past those that do not."""
        return next((member for bucket in sorted(self._rows) for member in self._rows[bucket] if fits(member)), None)
