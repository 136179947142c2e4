"""Room for a bounded number of bytes; who finds none waits in line."""

import asyncio
from collections import deque


class Room:
    """Bounds what is handed over and not yet written. For one event loop.

    First come, first served: nobody overtakes, so the order of calls is the order of entry.

    Args:
        size_max: Bytes; something larger gets in when it is alone.
    """

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._taken = 0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()

    async def enter(self, size: int) -> int:
        """Wait for room; returns what is to be given back by `leave`. Does not yield when there is room."""
        size = min(size, self._size_max)
        if not self._waiting and self._taken + size <= self._size_max:
            self._taken += size
            return size
        place = (asyncio.get_running_loop().create_future(), size)
        self._waiting.append(place)
        try:
            await place[0]
        except asyncio.CancelledError:
            self._give_up(place)
            raise
        return size

    def leave(self, size: int) -> None:
        """Give room back."""
        self._taken -= size
        self._let_in()

    def _give_up(self, place: tuple[asyncio.Future[None], int]) -> None:
        waited, size = place
        if waited.done() and not waited.cancelled():
            # Let in and cancelled at the same moment.
            self.leave(size)
            return
        if place in self._waiting:
            self._waiting.remove(place)
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._taken + self._waiting[0][1] <= self._size_max:
            waited, size = self._waiting.popleft()
            if not waited.cancelled():
                self._taken += size
                waited.set_result(None)
