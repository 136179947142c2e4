"""API keys and the audit log in memory: the whole contract but durability."""

from collections import deque
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import islice

import msgspec

from aicp.errors import Conflict
from aicp.model.access import ApiKey, AuditRecord
from aicp.ports import KEYS_MAX, KEYS_OF_PARENT_MAX, NEVER, KeySet, StoredKey


class MemoryApiKeys:
    """Remembers API keys until the process ends."""

    def __init__(self) -> None:
        self._keys: dict[str, StoredKey] = {}
        self._version = 1

    async def create(self, key: StoredKey, forget_before: datetime = NEVER) -> None:
        """Record a new key; forget those that ended before `forget_before`, and the oldest of its parent beyond 32.

        Raises:
            Conflict: There are 10,000 already, or one with this id or secret.
        """
        kept = {key_id: stored for key_id, stored in self._keys.items() if not has_ended_by(stored.key, forget_before)}
        if len(kept) >= KEYS_MAX:
            raise too_many_keys()
        if key.key.key_id in kept or any(key.digest == stored.digest for stored in kept.values()):
            raise Conflict(f"There is a key {key.key.key_id} already.")
        for key_id in outnumbered_by(key.key, (stored.key for stored in kept.values())):
            del kept[key_id]
        self._keys = {**kept, key.key.key_id: key}
        self._version += 1

    async def revoke(self, key_id: str, at: datetime) -> bool:
        """Record that a key is good no more; False when there is none."""
        stored = self._keys.get(key_id)
        if stored is None:
            return False
        if stored.key.revoked_at is None:
            self._keys[key_id] = StoredKey(msgspec.structs.replace(stored.key, revoked_at=at), stored.digest)
            self._version += 1
        return True

    async def forget(self, key_ids: Sequence[str]) -> int:
        """Forget keys, and say how many were known."""
        forgotten = [key_id for key_id in key_ids if self._keys.pop(key_id, None) is not None]
        self._version += bool(forgotten)
        return len(forgotten)

    async def read(self, known: int | None = None) -> KeySet | None:
        """Every key; None when nothing changed since the version `known`."""
        if known == self._version:
            return None
        keys = sorted(self._keys.values(), key=lambda stored: (stored.key.created_at, stored.key.key_id))
        return KeySet(self._version, tuple(keys))


class MemoryAuditLog:
    """Remembers who changed what until the process ends."""

    def __init__(self) -> None:
        self._records: deque[AuditRecord] = deque()
        self._last = 0

    async def append(self, records: Sequence[AuditRecord], keep: int) -> None:
        """Record them, and forget the oldest beyond `keep`."""
        for record in records:
            self._last += 1
            self._records.appendleft(msgspec.structs.replace(record, number=self._last))
        while len(self._records) > keep:
            self._records.pop()

    async def page(self, tenant: str | None, limit: int, before: int | None = None) -> Sequence[AuditRecord]:
        """At most `limit` records, newest first."""
        wanted = (
            record
            for record in self._records
            if tenant in {None, record.tenant} and (before is None or record.number < before)
        )
        return list(islice(wanted, limit))


def has_ended_by(key: ApiKey, at: datetime) -> bool:
    """True when a key was revoked or expired before then."""
    return any(end is not None and end < at for end in (key.revoked_at, key.expires_at))


def outnumbered_by(new: ApiKey, known: Iterable[ApiKey]) -> list[str]:
    """The ids of the oldest keys that must go for a new one of the same kind and parent; none for one of no parent."""
    if new.parent is None:
        return []
    siblings = sorted((key.created_at, key.key_id) for key in known if (key.kind, key.parent) == (new.kind, new.parent))
    return [key_id for _, key_id in siblings[: max(0, len(siblings) + 1 - KEYS_OF_PARENT_MAX)]]


def too_many_keys() -> Conflict:
    """What to raise when there is no room for one more key."""
    return Conflict(f"There are {KEYS_MAX} keys, the most that are kept; one that was revoked goes after 30 days.")
