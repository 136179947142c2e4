"""Long work on the event loop that lets everything else have its turn."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")

ITEMS_A_TURN = 500
"""Some ten milliseconds of agents; a hundred thousand at once would cost a replica its lease."""


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """Each of the items; whatever else is due runs after every 500."""
    for number, item in enumerate(items, 1):
        yield item
        if not number % ITEMS_A_TURN:
            await asyncio.sleep(0)
