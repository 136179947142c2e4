"""Registered agents in a SQLite file; their secrets sealed, in a column of their own."""

import sqlite3
from collections.abc import Sequence
from functools import partial

from aicp.errors import RecordDamaged
from aicp.model.agent import AgentProfile
from aicp.ports import Claim, Clock, SystemClock
from aicp.storage.agent_rows import AGENT_COLUMNS, Cipher, StoredAgent, encode_agent
from aicp.storage.damage import decoded
from aicp.storage.rows import timestamp
from aicp.storage.sqlite_book import Book, Row
from aicp.storage.sqlite_database import SqliteDatabase

_SAVE = f"""
    INSERT INTO registrations ({AGENT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (agent_id) DO UPDATE
    SET profile = excluded.profile, sealed_auth = excluded.sealed_auth, more = excluded.more,
        saved_at = excluded.saved_at, checksum = excluded.checksum
"""  # noqa: S608 - constants
_RESUME = "DELETE FROM agent_orders WHERE agent_id = ? AND subject = 'intake'"
_FORGET = "DELETE FROM registrations WHERE agent_id = ?"
_PARDON = "DELETE FROM agent_orders WHERE agent_id = ?"
_LOAD = f"SELECT {AGENT_COLUMNS} FROM registrations ORDER BY agent_id"  # noqa: S608 - constants


class SqliteRegistrations:
    """Remembers which agents are registered.

    Args:
        database: Opened and closed by somebody else, as a rule the journal.
        seal: Encrypts a secret; without it an agent with a secret is refused, for none is ever stored in the clear.
        unseal: Turns that back; it raises `ValueError` for what `seal` with this key has not made.
        clock: Tells when an agent was saved.
    """

    def __init__(
        self,
        database: SqliteDatabase,
        *,
        seal: Cipher | None = None,
        unseal: Cipher | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._seal = seal
        self._unseal = unseal
        self._clock = clock or SystemClock()

    async def save(self, profile: AgentProfile, _claim: Claim | None = None) -> None:
        """Record an agent, in place of what was known of it, which ends a drain; nobody else records any in this file.

        Raises:
            SettingsError: It has a secret, and there is no key to seal it with.
            StorageError: It could not be recorded.
        """
        row = encode_agent(profile, self._seal)
        saved_at = timestamp(self._clock.utcnow())
        of_row = row.checksum(profile.agent_id, saved_at)
        values = (profile.agent_id, row.profile, row.sealed_auth, row.more, saved_at, of_row)
        await self._database.write(partial(_save, values), len(row.profile))

    async def forget(self, agent_id: str) -> None:
        """Remove an agent, and what was ordered for it; one that is not there is no error.

        Raises:
            StorageError: It could not be removed.
        """
        await self._database.write(partial(_forget, agent_id))

    async def load(self) -> Sequence[AgentProfile]:
        """Every agent, by id. A damaged row is reported, and its agent left out until it registers again.

        Raises:
            SettingsError: A secret cannot be unsealed.
            StorageError: They could not be read.
        """
        return self._database.damage.intact(await self._database.read(partial(_load, self._unseal)))


def _save(values: Row, book: Book) -> None:
    book.execute(_SAVE, values)
    book.execute(_RESUME, values[:1])


def _forget(agent_id: str, book: Book) -> None:
    book.execute(_FORGET, (agent_id,))
    book.execute(_PARDON, (agent_id,))


def _load(unseal: Cipher | None, connection: sqlite3.Connection) -> list[AgentProfile | RecordDamaged]:
    rows = connection.execute(_LOAD).fetchall()
    return [decoded(partial(StoredAgent(*row).decode, unseal)) for row in rows]
