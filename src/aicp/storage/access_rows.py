"""API keys as rows and back. When a key was revoked stands in a column of its own, since that alone changes."""

from datetime import datetime

import msgspec

from aicp.model.access import ApiKey
from aicp.ports import StoredKey

_decoder = msgspec.json.Decoder(ApiKey)


def encode_key(key: ApiKey) -> str:
    """All of a key but when it was revoked, as JSON."""
    return msgspec.json.encode(msgspec.structs.replace(key, revoked_at=None)).decode()


def decode_key(described: str, digest: bytes, revoked_at: datetime | None) -> StoredKey:
    """A key from its row.

    Raises:
        msgspec.MsgspecError: It is not what was written, or of a newer version.
    """
    return StoredKey(msgspec.structs.replace(_decoder.decode(described), revoked_at=revoked_at), digest)
