"""Tells an observer of facts in their order; of very many, some in each turn of the loop."""

import asyncio
from collections import deque
from collections.abc import Sequence

from aicp.model.event import Fact
from aicp.ports import Observer

TOLD_AT_ONCE = 64


class Telling:
    """The facts of one chain that an observer is told of: at once, as long as no earlier ones are left.

    Args:
        observer: Who is told; None for nobody.
    """

    def __init__(self, observer: Observer | None) -> None:
        self._observer = observer
        self._left: deque[Fact] = deque()
        self._is_done: asyncio.Event | None = None

    def tell(self, facts: Sequence[Fact]) -> None:
        """Tell of facts that are on record."""
        if self._observer is None:
            return
        if self._left or len(facts) > TOLD_AT_ONCE:
            self._tell_later(facts)
            return
        for fact in facts:
            self._observer.notify(fact)

    async def done(self) -> None:
        """Return when all was told."""
        if self._left:
            self._is_done = self._is_done or asyncio.Event()
            await self._is_done.wait()

    def _tell_later(self, facts: Sequence[Fact]) -> None:
        is_telling = bool(self._left)
        self._left.extend(facts)
        if not is_telling:
            self._tell_some()

    def _tell_some(self) -> None:
        observer, left = self._observer, self._left
        try:
            for _ in range(min(TOLD_AT_ONCE, len(left))):
                fact = left.popleft()
                if observer is not None:
                    observer.notify(fact)
        finally:
            if left:
                asyncio.get_running_loop().call_soon(self._tell_some)
            elif self._is_done is not None:
                self._is_done.set()
