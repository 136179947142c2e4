"""Long work on the event loop that lets everything else have its turn."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")

ITEMS_A_TURN = 100
"""Some two milliseconds of agents; a hundred thousand at once would cost a replica its lease."""


async def in_turns(items: Iterable[T], items_a_turn: int = ITEMS_A_TURN) -> AsyncIterator[T]:
    """Each of the items; whatever else is due runs after every 100, or so many."""
    for number, item in enumerate(items, 1):
        yield item
        if not number % items_a_turn:
            await asyncio.sleep(0)
