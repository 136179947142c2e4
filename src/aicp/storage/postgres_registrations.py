"""Registered agents in a PostgreSQL database, known to every replica; their secrets sealed."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from aicp.model.agent import AgentProfile
from aicp.ports import Claim, Clock, SystemClock
from aicp.storage.agent_rows import AGENT_COLUMNS, Cipher, StoredAgent, encode_agent
from aicp.storage.damage import decoded
from aicp.storage.postgres_database import PostgresDatabase
from aicp.storage.postgres_lease import CHANNEL, NOTICE
from aicp.storage.postgres_server import Connection
from aicp.storage.row_checksums import checksum
from aicp.storage.rows import timestamp

_SAVE = f"""
    WITH back AS (DELETE FROM removed_agents WHERE agent_id = $1),
        resumed AS (DELETE FROM agent_orders WHERE agent_id = $1 AND subject = 'intake'),
        saved AS (
            INSERT INTO registrations ({AGENT_COLUMNS}, changed_in)
            VALUES ($1, $2, $3, $4, $5, $6, pg_current_xact_id()::text::bigint)
            ON CONFLICT (agent_id) DO UPDATE SET profile = excluded.profile, sealed_auth = excluded.sealed_auth,
                more = excluded.more, saved_at = excluded.saved_at, checksum = excluded.checksum,
                changed_in = excluded.changed_in
            RETURNING agent_id
        )
    SELECT pg_notify({CHANNEL}, '{NOTICE}') FROM saved
"""  # noqa: S608 - constants
_FORGET = f"""
    WITH gone AS (DELETE FROM registrations WHERE agent_id = $1 RETURNING agent_id),
        pardoned AS (DELETE FROM agent_orders WHERE agent_id = $1),
        removed AS (
            INSERT INTO removed_agents (agent_id, removed_at, checksum, changed_in)
            SELECT agent_id, clock_timestamp(), $2::bigint, pg_current_xact_id()::text::bigint FROM gone
            ON CONFLICT (agent_id) DO UPDATE SET removed_at = excluded.removed_at, checksum = excluded.checksum,
                changed_in = excluded.changed_in
            RETURNING agent_id
        )
    SELECT pg_notify({CHANNEL}, '{NOTICE}') FROM removed
"""  # noqa: S608 - constants
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('aicp.agent.' || current_schema() || '.' || $1))"
_FIND = f"SELECT {AGENT_COLUMNS} FROM registrations WHERE agent_id = $1"  # noqa: S608 - constants
_LOAD = f'SELECT {AGENT_COLUMNS} FROM registrations ORDER BY agent_id COLLATE "C"'  # noqa: S608 - constants


class PostgresRegistrations:
    """Remembers which agents are registered.

    Args:
        database: Opened and closed by somebody else, as a rule the journal.
        seal: Encrypts a secret; without it an agent with a secret is refused, for none is ever stored in the clear.
        unseal: Turns that back; it raises `ValueError` for what `seal` with this key has not made.
        clock: Tells when an agent was saved.
    """

    def __init__(
        self,
        database: PostgresDatabase,
        *,
        seal: Cipher | None = None,
        unseal: Cipher | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._database = database
        self._seal = seal
        self._unseal = unseal
        self._clock = clock or SystemClock()

    async def save(self, profile: AgentProfile, claim: Claim | None = None) -> None:
        """Record an agent, in place of what was known of it, by this replica or another.

        Args:
            profile: The agent.
            claim: Asked with whom it would replace on record, while nobody else can register one of this id; what it
                raises is raised here.

        Raises:
            SettingsError: It has a secret, and there is no key to seal it with.
            StorageError: It could not be recorded.
        """
        if claim is None:
            self._database.require_open()
            await self._database.sessions.execute(_SAVE, *self._row(profile))
            return
        # A secret that cannot be sealed is refused before anybody is locked out.
        self._row(profile)
        self._database.require_open()
        await self._database.sessions.in_transaction(lambda connection: self._claim(connection, profile, claim))

    async def forget(self, agent_id: str) -> None:
        """Remove an agent; one that is not there is no error.

        Raises:
            StorageError: It could not be removed.
        """
        self._database.require_open()
        await self._database.sessions.execute(_FORGET, agent_id, checksum(agent_id))

    async def load(self) -> Sequence[AgentProfile]:
        """Every agent, by id. A damaged row is reported, and its agent left out until it registers again.

        Raises:
            SettingsError: A secret cannot be unsealed.
            StorageError: They could not be read.
        """
        self._database.require_open()
        rows = await self._database.sessions.read(_LOAD)
        found = [decoded(partial(stored_agent(*row).decode, self._unseal)) for row in rows]
        return self._database.damage.intact(found)

    async def _claim(self, connection: Connection, profile: AgentProfile, claim: Claim) -> None:
        await connection.execute(_LOCK, profile.agent_id)
        rows = await connection.fetch(_FIND, profile.agent_id)
        # One that is damaged is reported, and gives way to whoever registers anew: so it is mended.
        found = self._database.damage.intact([decoded(stored_agent(*row).decode_public) for row in rows])
        await connection.execute(_SAVE, *self._row(claim(profile, found[0] if found else None)))

    def _row(self, profile: AgentProfile) -> tuple[str, str, bytes | None, str | None, datetime, int]:
        row, saved_at = encode_agent(profile, self._seal), self._clock.utcnow()
        of_row = row.checksum(profile.agent_id, timestamp(saved_at))
        return (profile.agent_id, row.profile, row.sealed_auth, row.more, saved_at, of_row)


def stored_agent(
    agent_id: str, profile: str, sealed_auth: bytes | None, more: str | None, saved_at: datetime, of_row: int | None
) -> StoredAgent:
    """An agent's row, its time as text."""
    return StoredAgent(agent_id, profile, sealed_auth, more, timestamp(saved_at), of_row)
