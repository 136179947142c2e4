"""How far time has progressed, in a PostgreSQL database: one state for all replicas."""

from aicp.model.progress import ClockState
from aicp.ports import ClockChange
from aicp.storage.clock_rows import READ, decode_clock_state, encode_clock_state
from aicp.storage.postgres_database import PostgresDatabase
from aicp.storage.postgres_server import Connection

_LOCK = "LOCK TABLE clock_state IN SHARE ROW EXCLUSIVE MODE"
_NOW = "SELECT clock_timestamp()"
_WRITE = """
    INSERT INTO clock_state (number, body, checksum) VALUES (1, $1, $2)
    ON CONFLICT (number) DO UPDATE SET body = excluded.body, checksum = excluded.checksum
"""


class PostgresClockRecord:
    """Remembers how far time has progressed.

    Args:
        database: Opened and closed by somebody else, as a rule the journal.
    """

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def update(self, change: ClockChange) -> ClockState:
        """Replace the state by what `change` makes of it and of the server's clock; other replicas wait meanwhile.

        Raises:
            StorageError: It could not be recorded.
        """

        async def update(connection: Connection) -> ClockState:
            await connection.execute(_LOCK)
            recorded = decode_clock_state(await connection.fetchrow(READ))
            state = change(recorded, await connection.fetchval(_NOW))
            await connection.execute(_WRITE, *encode_clock_state(state))
            return state

        self._database.require_open()
        return await self._database.sessions.in_transaction(update)
