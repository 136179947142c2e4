"""Registered agents in a SQLite file; their secrets sealed, in a column of their own."""

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from aicp.errors import SettingsError
from aicp.model.agent import AgentAuth, AgentProfile
from aicp.ports import Clock, SystemClock
from aicp.storage.rows import timestamp
from aicp.storage.sqlite_book import Book, Row
from aicp.storage.sqlite_database import SqliteDatabase

Cipher = Callable[[bytes], bytes]

_SAVE = """
    INSERT INTO registrations (agent_id, profile, sealed_auth, saved_at) VALUES (?, ?, ?, ?)
    ON CONFLICT (agent_id) DO UPDATE
    SET profile = excluded.profile, sealed_auth = excluded.sealed_auth, saved_at = excluded.saved_at
"""
_FORGET = "DELETE FROM registrations WHERE agent_id = ?"
_LOAD = "SELECT profile, sealed_auth FROM registrations ORDER BY agent_id"

_profile_decoder = msgspec.json.Decoder(AgentProfile)
_auth_decoder = msgspec.json.Decoder(AgentAuth)


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

    async def save(self, profile: AgentProfile) -> None:
        """Record an agent, in place of what was known of it.

        Raises:
            SettingsError: It has a secret, and there is no key to seal it with.
            StorageError: It could not be recorded.
        """
        sealed = self._sealed(profile)
        open_part = msgspec.json.encode(msgspec.structs.replace(profile, auth=None)).decode()
        row = (profile.agent_id, open_part, sealed, timestamp(self._clock.utcnow()))
        await self._database.write(partial(_execute, _SAVE, row), len(open_part))

    async def forget(self, agent_id: str) -> None:
        """Remove an agent; one that is not there is no error.

        Raises:
            StorageError: It could not be removed.
        """
        await self._database.write(partial(_execute, _FORGET, (agent_id,)))

    async def load(self) -> Sequence[AgentProfile]:
        """Every agent, by id.

        Raises:
            SettingsError: A secret cannot be unsealed.
            StorageError: They could not be read.
        """
        rows = await self._database.read(_load)
        return [self._whole(profile, sealed) for profile, sealed in rows]

    def _sealed(self, profile: AgentProfile) -> bytes | None:
        if profile.auth is None:
            return None
        if self._seal is None:
            raise SettingsError(
                f"The secret of agent '{profile.agent_id}' cannot be recorded without a key to seal it: set "
                "AICP_SECRET_KEY."
            )
        return self._seal(msgspec.json.encode(profile.auth))

    def _whole(self, profile: AgentProfile, sealed: bytes | None) -> AgentProfile:
        if sealed is None:
            return profile
        try:
            auth = _auth_decoder.decode((self._unseal or _refuse)(sealed))
        except ValueError as error:
            raise SettingsError(
                f"The secret of agent '{profile.agent_id}' cannot be unsealed ({error}): set AICP_SECRET_KEY to the "
                "key it was sealed with, or remove the agent."
            ) from error
        return msgspec.structs.replace(profile, auth=auth)


def _refuse(_: bytes) -> bytes:
    message = "there is no key"
    raise ValueError(message)


def _execute(sql: str, row: Row, book: Book) -> None:
    book.execute(sql, row)


def _load(connection: sqlite3.Connection) -> list[tuple[AgentProfile, bytes | None]]:
    return [(_profile_decoder.decode(profile), sealed) for profile, sealed in connection.execute(_LOAD).fetchall()]
