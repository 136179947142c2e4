"""API keys and the audit log in a PostgreSQL database, known to every replica."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from aicp.errors import RecordDamaged
from aicp.model.access import ApiKey, AuditRecord
from aicp.ports import KEYS_MAX, NEVER, KeySet, StoredKey
from aicp.storage.access_rows import (
    KEY_COLUMNS,
    StoredApiKey,
    StoredAudit,
    audit_checksum,
    encode_key,
    encode_more,
    key_checksum,
    revoked_checksum,
)
from aicp.storage.damage import decoded
from aicp.storage.memory_access import outnumbered_by, too_many_keys
from aicp.storage.postgres_database import PostgresDatabase
from aicp.storage.postgres_server import Connection
from aicp.storage.rows import timestamp

PRUNED_MAX = 10_000
"""What one transaction may forget, so that others wait some milliseconds for it at most."""

# Raised first: whoever else changes keys waits here, so versions are seen in the order of the changes.
_RAISE = "UPDATE api_keys_version SET version = version + 1"
_VERSION = "SELECT version FROM api_keys_version"
_COUNT = "SELECT count(*) FROM api_keys WHERE NOT coalesce(least(revoked_at, expires_at) < $1, FALSE)"
_CREATE = """
    INSERT INTO api_keys (key_id, digest, described, created_at, expires_at, more, checksum)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
_REVOKE = "UPDATE api_keys SET revoked_at = $2, revoked_checksum = $3 WHERE key_id = $1 AND revoked_at IS NULL"
_IS_THERE = "SELECT 1 FROM api_keys WHERE key_id = $1"
_READ = f'SELECT {KEY_COLUMNS} FROM api_keys ORDER BY created_at, key_id COLLATE "C"'  # noqa: S608 - constants
_DEAD = f"SELECT {KEY_COLUMNS} FROM api_keys WHERE least(revoked_at, expires_at) < $1"  # noqa: S608 - constants
_OF_PARENTS = f"SELECT {KEY_COLUMNS} FROM api_keys WHERE more IS NOT NULL"  # noqa: S608 - constants
_FORGET = "DELETE FROM api_keys WHERE key_id = ANY($1::text[]) RETURNING key_id"

_APPEND = f"""
    WITH old AS (
        DELETE FROM audit WHERE number IN (
            SELECT number FROM audit WHERE number <= least(
                (SELECT max(number) FROM audit) - $9, (SELECT min(number) FROM audit) + {PRUNED_MAX})
            FOR UPDATE SKIP LOCKED
        )
    )
    INSERT INTO audit (at, key_id, tenant, action, object_id, status, count, checksum)
    SELECT * FROM unnest(
        $1::timestamptz[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int[], $7::int[], $8::bigint[]
    )
"""  # noqa: S608 - a constant
RECORD_COLUMNS = "at, key_id, tenant, action, object_id, status, count, number, checksum"
_RECORD = f"SELECT {RECORD_COLUMNS} FROM audit"  # noqa: S608 - constants
_PAGE = f"{_RECORD} WHERE number < $1 ORDER BY number DESC LIMIT $2"
_PAGE_OF_TENANT = f"{_RECORD} WHERE number < $1 AND tenant = $3 ORDER BY number DESC LIMIT $2"
_NUMBER_MAX = 2**63 - 1


class PostgresApiKeys:
    """Remembers API keys.

    Args:
        database: Opened and closed by somebody else, as a rule the journal.
    """

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def create(self, key: StoredKey, forget_before: datetime = NEVER) -> None:
        """Record a new key; forget those that ended before `forget_before`, and the oldest of its parent beyond 32.

        Raises:
            Conflict: There are 10,000 already, or one with this id or secret.
            StorageError: It could not be recorded.
        """

        async def create(connection: Connection) -> bool:
            await connection.execute(_RAISE)
            if await connection.fetchval(_COUNT, forget_before) >= KEYS_MAX:
                return False
            await _forget_dead(connection, forget_before)
            told = key.key
            if told.parent is not None:
                await _forget_outnumbered(connection, told)
            values = (
                told.key_id, key.digest, encode_key(told), told.created_at, told.expires_at, encode_more(told)
            )  # fmt: skip
            await connection.execute(_CREATE, *values, key_checksum(told, key.digest))
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
            await connection.execute(_REVOKE, key_id, at, revoked_checksum(key_id, timestamp(at)))
            return await connection.fetchval(_IS_THERE, key_id) is not None

        self._database.require_open()
        return await self._database.sessions.in_transaction(revoke)

    async def forget(self, key_ids: Sequence[str]) -> int:
        """Forget keys, and say how many were known.

        Raises:
            StorageError: It could not be recorded.
        """

        async def forget(connection: Connection) -> int:
            await connection.execute(_RAISE)
            return len(await connection.fetch(_FORGET, list(key_ids)))

        self._database.require_open()
        return await self._database.sessions.in_transaction(forget)

    async def read(self, known: int | None = None) -> KeySet | None:
        """Every key; None when nothing changed since the version `known`. Damaged rows are reported and left out.

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
        found = [decoded(stored_key(*row).decode) for row in await connection.fetch(_READ)]
        return KeySet(version, tuple(self._database.damage.intact(found)))


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
            (
                record.at,
                record.key_id,
                record.tenant,
                record.action,
                record.object_id,
                record.status,
                record.count,
                audit_checksum(record),
            )
            for record in records
        ]
        columns = [list(column) for column in zip(*told, strict=True)]
        if columns:
            await self._database.sessions.execute(_APPEND, *columns, keep - len(told))

    async def page(self, tenant: str | None, limit: int, before: int | None = None) -> Sequence[AuditRecord]:
        """At most `limit` records, newest first. Damaged rows are reported and left out.

        Raises:
            StorageError: They could not be read.
        """
        self._database.require_open()
        place = _NUMBER_MAX if before is None else before
        sql, of_tenant = (_PAGE, ()) if tenant is None else (_PAGE_OF_TENANT, (tenant,))

        async def read(looks: int) -> list[AuditRecord | RecordDamaged]:
            rows = await self._database.sessions.read(sql, place, looks, *of_tenant)
            return [decoded(stored_audit(*row).decode) for row in rows]

        return await self._database.damage.page(read, limit)


async def _forget_dead(connection: Connection, before: datetime) -> None:
    """A key whose end is in doubt stays: reading it reports it."""
    ended = [stored_key(*row) for row in await connection.fetch(_DEAD, before)]
    await connection.execute(
        _FORGET, [key.key_id for key in ended if not isinstance(decoded(key.check), RecordDamaged)]
    )


async def _forget_outnumbered(connection: Connection, new: ApiKey) -> None:
    known = [decoded(stored_key(*row).decode) for row in await connection.fetch(_OF_PARENTS)]
    old = outnumbered_by(new, (each.key for each in known if isinstance(each, StoredKey)))
    await connection.execute(_FORGET, old)


def stored_key(
    key_id: str, digest: bytes, told: str, created_at: datetime, expires_at: datetime | None,
    revoked_at: datetime | None, more: str | None, *checksums: int | None,
) -> StoredApiKey:  # fmt: skip
    """A key's row, its times as texts."""
    expires, revoked = (None if at is None else timestamp(at) for at in (expires_at, revoked_at))
    return StoredApiKey(key_id, digest, told, timestamp(created_at), expires, revoked, more, *checksums)


def stored_audit(at: datetime, *others: Any) -> StoredAudit:
    """The row of an audit record, its time as text."""
    return StoredAudit(timestamp(at), *others)
