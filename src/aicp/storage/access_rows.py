"""API keys and audit records as rows and back. When a key was revoked has a column of its own: it alone changes."""

from datetime import datetime

import msgspec

from aicp.errors import RecordDamaged
from aicp.model.access import GRANTABLE, ApiKey, AuditRecord, KeyKind, Scope
from aicp.ports import StoredKey
from aicp.storage.row_checksums import UNREADABLE, checksum, described, is_intact, with_more
from aicp.storage.rows import timestamp

_decoder = msgspec.json.Decoder(ApiKey)


def encode_key(key: ApiKey) -> str:
    """All of a key but when it was revoked, and what stands in `more`, as JSON."""
    plain = msgspec.structs.replace(key, revoked_at=None, kind=KeyKind.KEY, parent=None)
    return msgspec.json.encode(plain).decode()


def encode_more(key: ApiKey) -> str | None:
    """What the column `more` of a key has: of a session or a code, what keeps it from versions that know none."""
    if key.kind is KeyKind.KEY:
        return None
    return msgspec.json.encode(_More(kind=key.kind, parent=key.parent)).decode()


def key_checksum(key: ApiKey, digest: bytes) -> int:
    """Of what a key's row says from its creation on."""
    expires_at = None if key.expires_at is None else timestamp(key.expires_at)
    described_by = (key.key_id, digest, encode_key(key), timestamp(key.created_at), expires_at)
    return checksum(*with_more(described_by, encode_more(key)))


def revoked_checksum(key_id: str, revoked_at: str | None) -> int:
    """Of when a key was revoked."""
    return checksum(key_id, revoked_at)


class _More(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the column `more` of a key may have. Anything else restricts the key in a way that this version cannot keep.

    Attributes:
        scopes: Further ones; those that this version does not know open nothing here.
        kind: What it is.
        parent: The key that it ends with.
    """

    scopes: tuple[str, ...] = ()
    kind: KeyKind = KeyKind.KEY
    parent: str | None = None


_more_decoder = msgspec.json.Decoder(_More)

KEY_COLUMNS = "key_id, digest, described, created_at, expires_at, revoked_at, more, checksum, revoked_checksum"
"""The columns of a `StoredApiKey`, in the order of its fields."""


class StoredApiKey(msgspec.Struct, frozen=True):
    """A key's row as a database returns it; times are RFC 3339 in UTC. Fields are as in the table."""

    key_id: str
    digest: bytes
    described: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    more: str | None
    checksum: int | None
    revoked_checksum: int | None

    def decode(self) -> StoredKey:
        """The key.

        Raises:
            RecordDamaged: The row is damaged, or of a newer version: it must open nothing.
        """
        self.check()
        try:
            revoked_at = None if self.revoked_at is None else datetime.fromisoformat(self.revoked_at)
            key = _decoder.decode(self.described)
            more = _More() if self.more is None else _more_decoder.decode(self.more)
            scopes = (*key.scopes, *(Scope(scope) for scope in more.scopes if scope in GRANTABLE))
            whole = msgspec.structs.replace(
                key, revoked_at=revoked_at, scopes=scopes, kind=more.kind, parent=more.parent
            )
            return StoredKey(whole, self.digest)
        except UNREADABLE as error:
            raise self._damaged(f"this version of AICP cannot read it ({error})") from error

    def verify(self) -> None:
        """Compare the row with its checksums. One without is decoded: what is intact may still be of a newer version.

        Raises:
            RecordDamaged: It is damaged.
        """
        self.check()
        if self.checksum is None:
            self.decode()

    def check(self) -> None:
        """Compare the row with its checksums. That of the revocation is missing when an older version revoked the key.

        Raises:
            RecordDamaged: It is damaged.
        """
        described_by = (self.key_id, self.digest, self.described, self.created_at, self.expires_at)
        values = with_more(described_by, self.more)
        if not (is_intact(self.checksum, *values) and is_intact(self.revoked_checksum, self.key_id, self.revoked_at)):
            raise self._damaged("its checksum is another")

    def _damaged(self, why: str) -> RecordDamaged:
        return RecordDamaged("api_keys", described(self.key_id), why)


class StoredAudit(msgspec.Struct, frozen=True):
    """The row of an audit record as a database returns it; `at` is RFC 3339 in UTC. Fields are as in the table."""

    at: str
    key_id: str
    tenant: str
    action: str
    object_id: str
    status: int
    count: int
    number: int
    checksum: int | None

    def decode(self) -> AuditRecord:
        """The record.

        Raises:
            RecordDamaged: The row is damaged.
        """
        values = (self.at, self.key_id, self.tenant, self.action, self.object_id, self.status, self.count)
        if not is_intact(self.checksum, *values):
            raise RecordDamaged("audit", described(self.number), "its checksum is another")
        try:
            return AuditRecord(datetime.fromisoformat(self.at), *values[1:], self.number)
        except UNREADABLE as error:
            raise RecordDamaged("audit", described(self.number), f"it cannot be read ({error})") from error


def audit_checksum(record: AuditRecord) -> int:
    """Of the row of a record."""
    return checksum(
        timestamp(record.at),
        record.key_id,
        record.tenant,
        record.action,
        record.object_id,
        int(record.status),
        int(record.count),
    )
