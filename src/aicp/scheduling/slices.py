"""Long work on the event loop in short steps, so that nothing else waits for the whole of it."""

import asyncio
from collections.abc import Generator, Hashable, Iterator
from typing import TypeVar

T = TypeVar("T")

Steps = Generator[None, None, T]
"""Work that yields after each step of at most about a millisecond, and returns its result."""


def at_once(steps: Steps[T]) -> T:
    """The result of all steps, without a pause: for callers that accept to hold the loop."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return] # what the generator returns


async def in_slices(steps: Steps[T]) -> T:
    """The result of all steps; everything else that is due runs between two of them."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return] # what the generator returns
        await asyncio.sleep(0)


class Slices:
    """Steps that run by themselves: the first at once, each other one in a later turn of the loop."""

    __slots__ = ("_handles", "_next")

    def __init__(self) -> None:
        self._handles: dict[Hashable, asyncio.Handle] = {}
        self._next: dict[Hashable, Iterator[None]] = {}

    def run(self, key: Hashable, steps: Iterator[None]) -> None:
        """Begin these steps, or, while others under the same key run, begin them after those."""
        if key in self._handles:
            self._next[key] = steps
        else:
            self._step(key, steps)

    def close(self) -> None:
        """Stop all steps."""
        for handle in self._handles.values():
            handle.cancel()
        self._handles.clear()
        self._next.clear()

    def _step(self, key: Hashable, steps: Iterator[None] | None) -> None:
        self._handles.pop(key, None)
        if steps is not None and next(steps, self) is self:
            steps = self._next.pop(key, None)
        if steps is not None:
            self._handles[key] = asyncio.get_running_loop().call_soon(self._step, key, steps)
