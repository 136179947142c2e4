"""The free seats of a pool, and of those who carry a label, in rows by speed."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Generic, Protocol, TypeVar

ALIKE = 1.25
"""Two estimates that differ by no more are alike: then the agent used longest ago is taken."""
MEASURED_SAMPLES = 5
"""An agent with fewer successes at a capability counts as unmeasured."""
_NUMBERS = list(range(257))


class Placed(Protocol):
    """What a row writes on those that lie in it, and what it compares."""

    place: int
    older: Any
    newer: Any
    latency_s: float
    samples: int


S = TypeVar("S", bound=Placed)
T = TypeVar("T")


def shared_number(number: int) -> int:
    """The one object for this number: places and ranks of a million seats need few different ones."""
    while len(_NUMBERS) <= number:
        _NUMBERS.append(len(_NUMBERS))
    return _NUMBERS[number]


class Row(Generic[S]):
    """Free seats of one speed: any by its place, and the one that was used longest ago. Each step costs the same.

    Attributes:
        seats: All of them.
        oldest: The one that was used longest ago; None of an empty row.
    """

    __slots__ = ("_newest", "oldest", "seats")

    def __init__(self) -> None:
        self.seats: list[S] = []
        self.oldest: S | None = None
        self._newest: S | None = None

    def __len__(self) -> int:
        return len(self.seats)

    def put(self, seat: S) -> None:
        """Add a seat, as the one used last."""
        seat.place = shared_number(len(self.seats))
        self.seats.append(seat)
        self._link(seat)

    def take(self, seat: S) -> None:
        """Remove a seat; the last one takes its place."""
        last = self.seats.pop()
        if last is not seat:
            self.seats[seat.place] = last
            last.place = seat.place
        self._unlink(seat)

    def used(self, seat: S) -> None:
        """It got a task and stays free."""
        newer, newest = seat.newer, self._newest
        if newer is None or newest is None:
            return
        older = seat.older
        newer.older = older
        if older is None:
            self.oldest = newer
        else:
            older.newer = newer
        newest.newer, seat.older, seat.newer, self._newest = seat, newest, None, seat

    def pick(self, draw: Callable[[], float]) -> S:
        """The one used longest ago, or a random one that is over 25 % faster."""
        seats, oldest = self.seats, self.oldest
        if oldest is None or len(seats) == 1:
            return seats[0]
        other = seats[int(draw() * len(seats))]
        if oldest.samples < MEASURED_SAMPLES or other.samples < MEASURED_SAMPLES:
            return oldest
        return oldest if oldest.latency_s <= ALIKE * other.latency_s else other

    def _link(self, seat: S) -> None:
        seat.older, seat.newer = self._newest, None
        if self._newest is None:
            self.oldest = seat
        else:
            self._newest.newer = seat
        self._newest = seat

    def _unlink(self, seat: S) -> None:
        older, newer = seat.older, seat.newer
        if older is None:
            self.oldest = newer
        else:
            older.newer = newer
        if newer is None:
            self._newest = older
        else:
            newer.older = older
        seat.older = seat.newer = None


class Posting(Generic[T]):
    """The seats of a pool that carry one label, and the free among them by speed.

    Attributes:
        seats: All of them.
        out: How many of them may not be used.
    """

    __slots__ = ("_rows", "free", "out", "seats")

    def __init__(self) -> None:
        self.seats: dict[T, None] = {}
        self.out = 0
        self.free = 0
        self._rows: dict[int, OrderedDict[T, None]] = {}

    @property
    def usable(self) -> int:
        """How many may be used, free or busy."""
        return len(self.seats) - self.out

    def free_seats(self) -> Iterator[T]:
        """The free ones, the fastest first, and of these first the one that has been free longest."""
        return (seat for bucket in sorted(self._rows) for seat in self._rows[bucket])

    def pick(self, fits: Callable[[T], bool], looks: int) -> T | None:
        """The first free one that fits, of so many."""
        for bucket in sorted(self._rows):
            for seat in self._rows[bucket]:
                if fits(seat):
                    return seat
                looks -= 1
                if not looks:
                    return None
        return None

    def put(self, seat: T, bucket: int) -> None:
        """It is free, at this speed."""
        self._rows.setdefault(bucket, OrderedDict())[seat] = None
        self.free += 1

    def take(self, seat: T, bucket: int) -> None:
        """It is no longer free."""
        row = self._rows[bucket]
        del row[seat]
        if not row:
            del self._rows[bucket]
        self.free -= 1
