"""What operators ordered for agents, in a SQLite file."""

import itertools
import sqlite3
from collections.abc import Sequence
from functools import partial

from aicp.model.notice import Order
from aicp.ports import Clock, Ordered, SystemClock
from aicp.storage.agent_rows import StoredOrder, order_checksum
from aicp.storage.damage import decoded
from aicp.storage.rows import timestamp
from aicp.storage.sqlite_book import Book
from aicp.storage.sqlite_database import SqliteDatabase

_RECORD = """
    INSERT OR REPLACE INTO agent_orders (agent_id, subject, command, ordered_at, checksum) VALUES (?, ?, ?, ?, ?)
"""
_WITHDRAW = "DELETE FROM agent_orders WHERE agent_id = ? AND subject = ?"
_FORGET = "DELETE FROM agent_orders WHERE agent_id = ?"
_LOAD = """
    SELECT agent_id, subject, command, ordered_at, checksum FROM agent_orders
    WHERE subject = 'circuit' OR agent_id IN (SELECT agent_id FROM registrations)
    ORDER BY agent_id, subject
"""


class SqliteOrders:
    """Remembers what operators ordered for agents.

    Args:
        database: Opened and closed by somebody else, as a rule the journal.
        clock: Tells when something was ordered.
    """

    def __init__(self, database: SqliteDatabase, *, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()
        # Nobody but this process writes to the file, so its own count tells orders apart.
        self._numbers = itertools.count(1)

    async def record(self, agent_id: str, order: Order) -> int:
        """Put an order on record; returns its number. A reset takes away what it resets, and needs no row itself.

        Raises:
            StorageError: It could not be recorded.
        """
        await self._database.write(partial(_record, agent_id, order, timestamp(self._clock.utcnow())))
        return next(self._numbers)

    async def forget(self, agent_id: str) -> None:
        """Forget what was ordered for an agent that is gone.

        Raises:
            StorageError: It could not be forgotten.
        """
        await self._database.write(partial(_forget, agent_id))

    async def load(self) -> Sequence[Ordered]:
        """What holds at a start, by agent. Damaged rows are reported and left out.

        Raises:
            StorageError: It could not be read.
        """
        rows = await self._database.read(_load)
        found = [decoded(partial(row.decode, next(self._numbers))) for row in rows]
        return self._database.damage.intact(found)


def _record(agent_id: str, order: Order, at: str, book: Book) -> None:
    if order is Order.RESET:
        book.execute(_WITHDRAW, (agent_id, order.subject))
    else:
        of_row = order_checksum(agent_id, order, at)
        book.execute(_RECORD, (agent_id, order.subject, order.value, at, of_row))


def _forget(agent_id: str, book: Book) -> None:
    book.execute(_FORGET, (agent_id,))


def _load(connection: sqlite3.Connection) -> list[StoredOrder]:
    return [StoredOrder(*row) for row in connection.execute(_LOAD).fetchall()]
