"""API keys and the audit log in a SQLite file."""

import contextlib
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from functools import partial

from aicp.errors import RecordDamaged
from aicp.model.access import AuditRecord
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
from aicp.storage.many_rows import ManyRows
from aicp.storage.memory_access import outnumbered_by, too_many_keys
from aicp.storage.rows import timestamp
from aicp.storage.sqlite_book import Book, Row
from aicp.storage.sqlite_database import SqliteDatabase

RECORD_BYTES = 200
PRUNED_MAX = 10_000
"""What one transaction may forget, so that others wait some milliseconds for it at most."""

_COUNT = "SELECT count(*) FROM api_keys WHERE min(coalesce(revoked_at, '~'), coalesce(expires_at, '~')) >= ?"
_CREATE = """
    INSERT INTO api_keys (key_id, digest, described, created_at, expires_at, more, checksum)
    VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_REVOKE = """
    UPDATE api_keys SET revoked_at = ?, revoked_checksum = ? WHERE key_id = ? AND revoked_at IS NULL
"""
_IS_THERE = "SELECT 1 FROM api_keys WHERE key_id = ?"
_READ = f"SELECT {KEY_COLUMNS} FROM api_keys ORDER BY created_at, key_id"  # noqa: S608 - constants
_DEAD = f"""
    SELECT {KEY_COLUMNS} FROM api_keys WHERE min(coalesce(revoked_at, '~'), coalesce(expires_at, '~')) < ?
"""  # noqa: S608 - constants
_OF_PARENTS = f"SELECT {KEY_COLUMNS} FROM api_keys WHERE more IS NOT NULL"  # noqa: S608 - constants
_FORGET = "DELETE FROM api_keys WHERE key_id = ?"

_PRUNE = f"""
    DELETE FROM audit WHERE number <= min(
        (SELECT max(number) FROM audit) - ?, (SELECT min(number) FROM audit) + {PRUNED_MAX})
"""  # noqa: S608 - a constant
_RECORDS = ManyRows("INSERT INTO audit (at, key_id, tenant, action, object_id, status, count, checksum) VALUES", 8)
RECORD_COLUMNS = "at, key_id, tenant, action, object_id, status, count, number, checksum"
_RECORD = f"SELECT {RECORD_COLUMNS} FROM audit"  # noqa: S608 - constants
_PAGE = f"{_RECORD} WHERE number < ? ORDER BY number DESC LIMIT ?"
_PAGE_OF_TENANT = f"{_RECORD} WHERE tenant = ? AND number < ? ORDER BY number DESC LIMIT ?"
_NUMBER_MAX = 2**63 - 1


class SqliteApiKeys:
    """Remembers API keys.

    Args:
        database: Opened and closed by somebody else, as a rule the journal.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        # Nobody but this process writes to the file, so its own changes are all there are.
        self._version = 1

    async def create(self, key: StoredKey, forget_before: datetime = NEVER) -> None:
        """Record a new key; forget those that ended before `forget_before`, and the oldest of its parent beyond 32.

        Raises:
            Conflict: There are 10,000 already, or one with this id or secret.
            StorageError: It could not be recorded.
        """
        await self._database.write(partial(_create, key, timestamp(forget_before)))
        self._version += 1

    async def revoke(self, key_id: str, at: datetime) -> bool:
        """Record that a key is good no more; False when there is none.

        Raises:
            StorageError: It could not be recorded.
        """
        is_known = await self._database.write(partial(_revoke, key_id, timestamp(at)))
        self._version += 1
        return is_known

    async def forget(self, key_ids: Sequence[str]) -> int:
        """Forget keys, and say how many were known.

        Raises:
            StorageError: It could not be recorded.
        """
        forgotten = await self._database.write(partial(_forget_all, key_ids))
        self._version += 1
        return forgotten

    async def read(self, known: int | None = None) -> KeySet | None:
        """Every key; None when nothing changed since the version `known`. Damaged rows are reported and left out.

        Raises:
            StorageError: They could not be read.
        """
        version = self._version
        if known == version:
            return None
        return KeySet(version, tuple(self._database.damage.intact(await self._database.read(_read))))


class SqliteAuditLog:
    """Remembers who changed what.

    Args:
        database: Opened and closed by somebody else, as a rule the journal.
    """

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database

    async def append(self, records: Sequence[AuditRecord], keep: int) -> None:
        """Record them, in a transaction that others share, and forget the oldest beyond `keep`.

        Raises:
            StorageError: They could not be recorded.
        """
        rows = [_row(record) for record in records]
        await self._database.write(partial(_append, rows, keep), RECORD_BYTES * len(rows))

    async def page(self, tenant: str | None, limit: int, before: int | None = None) -> Sequence[AuditRecord]:
        """At most `limit` records, newest first. Damaged rows are reported and left out.

        Raises:
            StorageError: They could not be read.
        """
        place = _NUMBER_MAX if before is None else before

        async def read(looks: int) -> list[AuditRecord | RecordDamaged]:
            return await self._database.read(partial(_page, tenant, looks, place))

        return await self._database.damage.page(read, limit)


def _create(stored: StoredKey, before: str, book: Book) -> None:
    key = stored.key
    (count,) = book.execute(_COUNT, (before,)).fetchone()
    if count >= KEYS_MAX:
        raise too_many_keys()
    for row in book.execute(_DEAD, (before,)).fetchall():
        _forget(StoredApiKey(*row), book)
    if key.parent is not None:
        known = [decoded(StoredApiKey(*row).decode) for row in book.execute(_OF_PARENTS).fetchall()]
        _forget_all(outnumbered_by(key, (each.key for each in known if isinstance(each, StoredKey))), book)
    expires_at = None if key.expires_at is None else timestamp(key.expires_at)
    values = (key.key_id, stored.digest, encode_key(key), timestamp(key.created_at), expires_at, encode_more(key))
    book.execute(_CREATE, (*values, key_checksum(key, stored.digest)))


def _forget(stored: StoredApiKey, book: Book) -> None:
    """A key whose end is in doubt stays: reading it reports it."""
    with contextlib.suppress(RecordDamaged):
        stored.check()
        book.execute(_FORGET, (stored.key_id,))


def _forget_all(key_ids: Sequence[str], book: Book) -> int:
    return sum(book.execute(_FORGET, (key_id,)).rowcount for key_id in key_ids)


def _revoke(key_id: str, at: str, book: Book) -> bool:
    book.execute(_REVOKE, (at, revoked_checksum(key_id, at), key_id))
    return book.execute(_IS_THERE, (key_id,)).fetchone() is not None


def _read(connection: sqlite3.Connection) -> list[StoredKey | RecordDamaged]:
    return [decoded(StoredApiKey(*row).decode) for row in connection.execute(_READ).fetchall()]


def _row(record: AuditRecord) -> Row:
    return (
        timestamp(record.at), record.key_id, record.tenant, record.action, record.object_id, record.status,
        record.count, audit_checksum(record),
    )  # fmt: skip


def _append(rows: Sequence[Row], keep: int, book: Book) -> None:
    book.execute(_PRUNE, (keep - len(rows),))
    _RECORDS.write(book.connection, rows)


def _page(
    tenant: str | None, limit: int, before: int, connection: sqlite3.Connection
) -> list[AuditRecord | RecordDamaged]:
    sql, filters = (_PAGE, (before,)) if tenant is None else (_PAGE_OF_TENANT, (tenant, before))
    rows = connection.execute(sql, (*filters, limit)).fetchall()
    return [decoded(StoredAudit(*row).decode) for row in rows]
