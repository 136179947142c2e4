"""How far time has progressed, in a SQLite file."""

from functools import partial

from aicp.model.progress import ClockState
from aicp.ports import ClockChange
from aicp.storage.clock_rows import READ, decode_clock_state, encode_clock_state
from aicp.storage.sqlite_book import Book
from aicp.storage.sqlite_database import SqliteDatabase

_WRITE = """
    INSERT INTO clock_state (number, body, checksum) VALUES (1, ?, ?)
    ON CONFLICT (number) DO UPDATE SET body = excluded.body, checksum = excluded.checksum
"""


class SqliteClockRecord:
    """Remembers how far time has progressed.

    Args:
        database: Opened and closed by somebody else, as a rule the journal.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def update(self, change: ClockChange) -> ClockState:
        """Replace the state by what `change` makes of it; `change` is called in the thread of the writer.

        Raises:
            StorageError: It could not be recorded.
        """
        return await self._database.write(partial(_update, change))


def _update(change: ClockChange, book: Book) -> ClockState:
    row = book.execute(READ).fetchone()
    state = change(decode_clock_state(row), None)
    book.execute(_WRITE, encode_clock_state(state))
    return state
