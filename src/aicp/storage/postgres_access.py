"""API keys and the audit log in a PostgreSQL database, known to every replica."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from aicp.model.access import AuditRecord
from aicp.ports import KEYS_MAX, NEVER, KeySet, StoredKey
from aicp.storage.access_rows import decode_key, encode_key
from aicp.storage.memory_access import too_many_keys
from aicp.storage.postgres_database import PostgresDatabase
from aicp.storage.postgres_faults import storage_error
from aicp.storage.postgres_server import Connection

PRUNED_MAX = 10_000
"""What one transaction may forget, so that others wait some milliseconds for it at most."""

# Raised first: whoever else changes keys waits here, so versions are seen in the order of the changes.
_RAISE = "UPDATE api_keys_version SET version = version + 1"
_VERSION = "SELECT version FROM api_keys_version"
_COUNT = "SELECT count(*) FROM api_keys WHERE NOT coalesce(least(revoked_at, expires_at) < $1, FALSE)"
_FORGET = "DELETE FROM api_keys WHERE least(revoked_at, expires_at) < $1"
_CREATE = "INSERT INTO api_keys (key_id, digest, described, created_at, expires_at) VALUES ($1, $2, $3, $4, $5)"
_REVOKE = "UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE key_id = $1 RETURNING 1"
_READ = 'SELECT described, digest, revoked_at FROM api_keys ORDER BY created_at, key_id COLLATE "C"'

_APPEND = f"""
    WITH old AS (
        DELETE FROM audit WHERE number IN (
            SELECT number FROM audit WHERE number <= least(
                (SELECT max(number) FROM audit) - $8, (SELECT min(number) FROM audit) + {PRUNED_MAX})
            FOR UPDATE SKIP LOCKED
        )
    )
    INSERT INTO audit (at, key_id, tenant, action, object_id, status, count)
    SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[], $7::int[])
"""  # noqa: S608 - a constant
_PAGE = """
    SELECT at, key_id, tenant, action, object_id, status, count, number FROM audit
    WHERE number < $1 ORDER BY number DESC LIMIT $2
"""
_PAGE_OF_TENANT = """
    SELECT at, key_id, tenant, action, object_id, status, count, number FROM audit
    WHERE number < $1 AND tenant = $3 ORDER BY number DESC LIMIT $2
"""
_NUMBER_MAX = 2**63 - 1


class PostgresApiKeys:
    """Remembers API keys.

    Args:
        database: Opened and closed by somebody else, as a rule the journal.
    """

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def create(self, key: StoredKey, forget_before: datetime = NEVER) -> None:
        """Record a new key, and forget those that ended before `forget_before`.

        Raises:
            Conflict: There are 10,000 already, or one with this id or secret.
            StorageError: It could not be recorded.
        """

        async def create(connection: Connection) -> bool:
            await connection.execute(_RAISE)
            if await connection.fetchval(_COUNT, forget_before) >= KEYS_MAX:
                return False
            await connection.execute(_FORGET, forget_before)
            told = key.key
            await connection.execute(
                _CREATE, told.key_id, key.digest, encode_key(told), told.created_at, told.expires_at
            )
            return True

        self._database.require_open()
        if not await self._database.sessions.in_transaction(create):
            raise too_many_keys()

    async def revoke(self, key_id: str, at: datetime) -> bool:
        """Record that a key is good no more; False when there is none.

        Raises:
            StorageError: It could not be recorded.
        """

        async def revoke(connection: Connection) -> bool:
            await connection.execute(_RAISE)
            return bool(await connection.fetch(_REVOKE, key_id, at))

        self._database.require_open()
        return await self._database.sessions.in_transaction(revoke)

    async def read(self, known: int | None = None) -> KeySet | None:
        """Every key; None when nothing changed since the version `known`.

        Raises:
            StorageError: They could not be read.
        """
        self._database.require_open()
        if known is not None:
            ((version,),) = await self._database.sessions.read(_VERSION)
            if version == known:
                return None
        return await self._database.sessions.in_transaction(self._read, snapshot=True)

    async def _read(self, connection: Connection) -> KeySet:
        version = await connection.fetchval(_VERSION)
        rows = await connection.fetch(_READ)
        try:
            return KeySet(version, tuple(decode_key(*row) for row in rows))
        except msgspec.MsgspecError as error:
            raise storage_error(error, self._database.place) from error


class PostgresAuditLog:
    """Remembers who changed what.

    Args:
        database: Opened and closed by somebody else, as a rule the journal.
    """

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def append(self, records: Sequence[AuditRecord], keep: int) -> None:
        """Record them, and forget the oldest beyond `keep`.

        Raises:
            StorageError: They could not be recorded; when the connection was lost, they may have been.
        """
        self._database.require_open()
        told = [
            (record.at, record.key_id, record.tenant, record.action, record.object_id, record.status, record.count)
            for record in records
        ]
        columns = [list(column) for column in zip(*told, strict=True)]
        if columns:
            await self._database.sessions.execute(_APPEND, *columns, keep - len(told))

    async def page(self, tenant: str | None, limit: int, before: int | None = None) -> Sequence[AuditRecord]:
        """At most `limit` records, newest first.

        Raises:
            StorageError: They could not be read.
        """
        self._database.require_open()
        place = _NUMBER_MAX if before is None else before
        read = self._database.sessions.read
        rows = await (read(_PAGE, place, limit) if tenant is None else read(_PAGE_OF_TENANT, place, limit, tenant))
        return [AuditRecord(*row) for row in rows]
