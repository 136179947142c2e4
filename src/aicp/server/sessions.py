"""Sessions of the dashboard: a key asks for a code, a link carries it, and a page exchanges it for a key of its own."""

import secrets
from datetime import datetime, timedelta

import msgspec

from aicp.errors import AccessDenied, Conflict, Forbidden
from aicp.model.access import (
    EVERY_TENANT,
    OPERATOR_ID,
    ApiKey,
    KeyKind,
    Scope,
    SessionCode,
    SessionMade,
)
from aicp.server.keys import Caller, KeyHolder, Keys, new_key_id, new_secret
from aicp.server.limits import Tries

CODE_S = 60.0
CODE_BYTES = 16
SESSION_S = 12 * 3_600.0
TRIES_EACH_PER_S = 5.0
TRIES_PER_S = 50.0
_NO_CODE = "This code is wrong, was used, or is older than 60 s: ask for a new link with `aicp dashboard`."


class OpenedSession(msgspec.Struct, frozen=True):
    """A session that has just begun.

    Attributes:
        made: What its page is told.
        key_id: Of its key.
        parent: Who asked for the code.
    """

    made: SessionMade
    key_id: str
    parent: Caller


class Sessions:
    """Opens and ends them. A session is a key of 12 hours, and a code one of 60 seconds that opens nothing.

    Args:
        keys: Who may come in.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._asked = Tries(TRIES_EACH_PER_S, TRIES_PER_S, keys.monotonic)
        self._tried = Tries(TRIES_EACH_PER_S, TRIES_PER_S, keys.monotonic)

    async def make_code(self, holder: KeyHolder) -> SessionCode:
        """A code for a session of this key.

        Raises:
            Forbidden: It is a session itself.
            TooManyRequests: This key, or all together, ask for too many.
            Conflict: There are too many keys.
            StorageError: It could not be recorded.
        """
        if holder.caller.parent is not None:
            raise Forbidden("A session makes no other session: ask for the link with the key that it came from.")
        self._asked.enter(holder.caller.key_id)
        code, expires_at = secrets.token_urlsafe(CODE_BYTES), self._end_of(holder, CODE_S)
        await self._keys.add(self._key_of(holder, KeyKind.CODE, expires_at), code)
        return SessionCode(code, expires_at)

    async def open(self, code: str, address: str) -> OpenedSession:
        """Exchange a code for a session; the code is used up.

        Args:
            code: As it was told.
            address: Where it comes from, for the bound on tries.

        Raises:
            AccessDenied: It is no code, or none any more; nobody is told which.
            TooManyRequests: This address, or all together, try too often.
            Conflict: There are too many keys.
            StorageError: It cannot be known, or the session could not be recorded.
        """
        self._tried.enter(address)
        holder = await self._keys.take_code(code)
        if holder is None:
            raise AccessDenied(_NO_CODE)
        secret, expires_at = new_secret(), self._end_of(holder, SESSION_S)
        key = self._key_of(holder, KeyKind.SESSION, expires_at)
        await self._keys.add(key, secret)
        return OpenedSession(SessionMade(secret, expires_at), key.key_id, holder.caller)

    async def close(self, holder: KeyHolder) -> None:
        """End the session whose key this is.

        Raises:
            Conflict: It is the key of no session.
            StorageError: It could not be recorded.
        """
        if holder.caller.parent is None:
            raise Conflict("This key is that of no session: `aicp key revoke` ends a key.")
        await self._keys.forget(holder.caller.key_id)

    def _end_of(self, holder: KeyHolder, life_s: float) -> datetime:
        """When something of a key ends that is to live so many seconds: with the key at the latest."""
        ends_at = self._keys.now() + timedelta(seconds=life_s)
        last = holder.key.expires_at if holder.key is not None else None
        return ends_at if last is None else min(ends_at, last)

    def _key_of(self, holder: KeyHolder, kind: KeyKind, expires_at: datetime) -> ApiKey:
        """A key with the rights of another one."""
        parent = holder.key or ApiKey(
            self._keys.admin_parent, OPERATOR_ID, EVERY_TENANT, (Scope.ADMIN,), self._keys.now()
        )
        return msgspec.structs.replace(
            parent,
            key_id=new_key_id(),
            created_at=self._keys.now(),
            expires_at=expires_at,
            kind=kind,
            parent=parent.key_id,
        )
