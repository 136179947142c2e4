"""A number that tests wait for instead of sleeping."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE_S = 10.0


class Gauge:
    """Counts what goes on: calls under way, connections open."""

    def __init__(self) -> None:
        self._value = 0
        self._highest = 0
        self._changed = asyncio.Event()

    @property
    def value(self) -> int:
        """How many now."""
        return self._value

    @property
    def highest(self) -> int:
        """How many at most, so far."""
        return self._highest

    def change(self, by: int) -> None:
        """So many more, or fewer."""
        self._value += by
        self._highest = max(self._highest, self._value)
        self._changed.set()

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """One more while inside."""
        self.change(+1)
        try:
            yield
        finally:
            self.change(-1)

    async def reaches(self, value: int, *, within_s: float = PATIENCE_S) -> None:
        """Wait until it has this value.

        Raises:
            AssertionError: It did not get there in time; says where it stood.
        """
        try:
            async with asyncio.timeout(within_s):
                while self._value != value:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"stood at {self._value} after {within_s} s, not at {value}") from None
