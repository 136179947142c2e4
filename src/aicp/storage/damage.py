"""What happens when a stored row is not what was written: it is reported once, and the others are used."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

from aicp.errors import NewerVersion, RecordDamaged

R = TypeVar("R")
T = TypeVar("T")

REPORTED_MAX = 10_000
LOOKED_AT_MAX = 10_000

OnDamage = Callable[[RecordDamaged], None]

_log = logging.getLogger(__name__)


class DamageReports:
    """Logs each damaged row once and passes it on. For one event loop.

    Args:
        on_damage: Called with each damaged row, once as long as it is among the last 10,000.
    """

    def __init__(self, on_damage: OnDamage | None = None) -> None:
        self._on_damage = on_damage
        self._reported: dict[tuple[str, str], None] = {}

    def report(self, damage: RecordDamaged) -> None:
        """Log a damaged row, unless that was done before."""
        row = damage.table, damage.row
        if row in self._reported:
            return
        if len(self._reported) >= REPORTED_MAX:
            del self._reported[next(iter(self._reported))]
        self._reported[row] = None
        _log.error("damaged row, not used: table=%s row=%s why='%s'", damage.table, damage.row, damage.why)
        if self._on_damage is not None:
            self._on_damage(damage)

    def report_unfinished(self, found: Iterable[RecordDamaged | NewerVersion]) -> None:
        """Report chains that cannot be read, and are unfinished or may be. One of a newer version is no damage."""
        for each in found:
            if isinstance(each, NewerVersion):
                _log.warning("an unfinished chain needs a newer version, and is not run here: %s", each)
                continue
            self.report(each)
            _log.error("an unfinished chain is damaged, and stays on record without being run: %s", each)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Report a damaged row that a block raises."""
        try:
            yield
        except RecordDamaged as damage:
            self.report(damage)
            raise

    def intact(self, found: "Iterable[T | RecordDamaged]") -> list[T]:
        """What is not damaged; the rest is reported."""
        kept: list[T] = []
        for each in found:
            if isinstance(each, RecordDamaged):
                self.report(each)
            else:
                kept.append(each)
        return kept

    async def page(self, read: "Callable[[int], Awaitable[Sequence[T | RecordDamaged]]]", limit: int) -> list[T]:
        """The first `limit` rows that are not damaged, so that a short page still means that there are no more.

        Args:
            read: Reads so many rows, always from the same place.
            limit: At most this many; damaged ones are looked at beside them, up to 10,000.

        Raises:
            AicpError: They could not be read.
        """
        looks = limit
        while True:
            found = await read(looks)
            kept = self.intact(found)
            if len(kept) >= limit or len(found) < looks or looks >= LOOKED_AT_MAX:
                return kept[:limit]
            looks = min(2 * looks, LOOKED_AT_MAX)


class IntactRows(Generic[T]):
    """Those of the first rows of a statement that are not damaged, for what must not stop at damaged ones.

    Read `looks` rows from the beginning, check them and hand them to `take`, until that returns True.

    Args:
        limit: How many to keep, at most.

    Attributes:
        looks: How many rows to read.
        kept: What is not damaged.
        damaged: How the others are damaged.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.looks = limit
        self.kept: list[T] = []
        self.damaged: list[RecordDamaged] = []

    def take(self, found: "Sequence[T | RecordDamaged]") -> bool:
        """Take rows in place of those before; True when some are intact, or there are no more."""
        self.damaged = [each for each in found if isinstance(each, RecordDamaged)]
        self.kept = [each for each in found if not isinstance(each, RecordDamaged)][: self._limit]
        is_enough = bool(self.kept) or len(found) < self.looks or self.looks >= LOOKED_AT_MAX
        self.looks = min(2 * self.looks, LOOKED_AT_MAX)
        return is_enough


def read_text(stored: bytes) -> str:
    """Text as a database stores it. Bytes that are not UTF-8 become surrogates, so that the row's checksum decides."""
    return stored.decode("utf-8", "surrogateescape")


def is_utf8(text: str) -> bool:
    """False for text that `read_text` made of other bytes."""
    return not any("\udc80" <= character <= "\udcff" for character in text)


def decoded(decode: Callable[[], T]) -> T | RecordDamaged:
    """What a row contains, or how it is damaged, so that the rows beside it are read."""
    try:
        return decode()
    except RecordDamaged as damage:
        return damage


def checked(check: Callable[[R], T], rows: Iterable[R]) -> list[T | RecordDamaged]:
    """What a check makes of each row, or how that is damaged."""
    return [decoded(partial(check, row)) for row in rows]
