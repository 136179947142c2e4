"""What operators ordered for agents, in a PostgreSQL database: rows that every replica reads."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from aicp.model.notice import Order
from aicp.ports import Clock, Ordered, SystemClock
from aicp.storage.agent_rows import StoredOrder, order_checksum
from aicp.storage.damage import decoded
from aicp.storage.postgres_database import PostgresDatabase
from aicp.storage.postgres_lease import CHANNEL, NOTICE
from aicp.storage.rows import timestamp

_NOW = "pg_current_xact_id()::text::bigint"
_RECORD = f"""
    WITH ordered AS (
        INSERT INTO agent_orders (agent_id, subject, command, ordered_at, checksum, changed_in)
        VALUES ($1, $2, $3, $4, $5, {_NOW})
        ON CONFLICT (agent_id, subject) DO UPDATE SET command = excluded.command, ordered_at = excluded.ordered_at,
            checksum = excluded.checksum, changed_in = excluded.changed_in
        RETURNING agent_id
    )
    SELECT {_NOW} AS number, pg_notify({CHANNEL}, '{NOTICE}') FROM ordered
"""  # noqa: S608 - constants
# Of an agent that somebody has registered meanwhile, what holds is that one's matter.
_FORGET = """
    DELETE FROM agent_orders WHERE agent_id = $1
        AND NOT EXISTS (SELECT 1 FROM registrations WHERE registrations.agent_id = $1)
"""
_LOAD = """
    SELECT agent_id, subject, command, ordered_at, checksum, changed_in FROM agent_orders
    WHERE command <> 'reset' AND (subject = 'circuit' OR agent_id IN (SELECT agent_id FROM registrations))
    ORDER BY agent_id COLLATE "C", subject
"""


class PostgresOrders:
    """Remembers what operators ordered for agents.

    Args:
        database: Opened and closed by somebody else, as a rule the journal.
        clock: Tells when something was ordered.
    """

    def __init__(self, database: PostgresDatabase, *, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    async def record(self, agent_id: str, order: Order) -> int:
        """Put an order on record, for every replica and for those that start later; returns the order's number.

        Raises:
            StorageError: It could not be recorded.
        """
        self._database.require_open()
        at = self._clock.utcnow()
        values = (agent_id, order.subject, order.value, at, order_checksum(agent_id, order, timestamp(at)))
        ((number, _),) = await self._database.sessions.execute(_RECORD, *values)
        return int(number)

    async def forget(self, agent_id: str) -> None:
        """Forget what was ordered for an agent that is gone; one that is on record by now keeps its orders.

        Raises:
            StorageError: It could not be forgotten.
        """
        self._database.require_open()
        await self._database.sessions.execute(_FORGET, agent_id)

    async def load(self) -> Sequence[Ordered]:
        """What holds at a start, by agent. Damaged rows are reported and left out.

        Raises:
            StorageError: It could not be read.
        """
        self._database.require_open()
        rows = await self._database.sessions.read(_LOAD)
        found = [decoded(partial(stored_order(*row).decode, number)) for *row, number in rows]
        return self._database.damage.intact(found)


def stored_order(agent_id: str, subject: str, command: str, ordered_at: datetime, of_row: int | None) -> StoredOrder:
    """An order's row, its time as text."""
    return StoredOrder(agent_id, subject, command, timestamp(ordered_at), of_row)
