"""The keys that a server knows: looked up in memory, made, revoked, and read anew when another server changed them."""

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import msgspec

from aicp.errors import AicpError, Forbidden, KeyNotFound, StorageError
from aicp.model.access import (
    ANYTHING,
    EVERY_TENANT,
    NO_LIMITS,
    OPERATOR_ID,
    ApiKey,
    CurrentKey,
    Grant,
    KeyKind,
    KeyMade,
    KeyRequest,
    Scope,
    tenant_of_new,
)
from aicp.model.agent import DEFAULT_TENANT, AgentProfile
from aicp.ports import DEAD_KEYS_KEPT, NEVER, ApiKeys, Clock, KeySet, StoredKey, SystemClock
from aicp.registry.naming import wanted_key
from aicp.runtime.supervision import keep_doing
from aicp.server.key_requests import check_request
from aicp.server.limits import Usage

REFRESH_S = 1.0
SECRET_PREFIX = "aicp_"  # noqa: S105 - what every secret begins with, so that scanners for leaked ones find it
SECRET_BYTES = 32
KEY_ID_BYTES = 6
ADMIN_MARK_CHARS = 12
_log = logging.getLogger(__name__)


class Caller(msgspec.Struct, frozen=True):
    """Who sent a request, as its key says; without arguments, the operator with the admin key of the data directory.

    Attributes:
        tenant: Whose objects it makes.
        scopes: What it may do; `ADMIN` is everything.
        key_id: Of its key.
        sees: Whose objects it sees and touches; None for those of every tenant.
        grant: What it may submit, and register agents for.
        parent: Of a session: the key that it came from.
    """

    tenant: str = DEFAULT_TENANT
    scopes: frozenset[Scope] = frozenset({Scope.ADMIN})
    key_id: str = OPERATOR_ID
    sees: str | None = None
    grant: Grant = ANYTHING
    parent: str | None = None

    @property
    def owner(self) -> str:
        """Id of the key that what it makes belongs to: its own, or that which a session came from."""
        return self.parent or self.key_id

    def may(self, scope: Scope) -> bool:
        """True when the caller may use a route that asks for `scope`."""
        return scope in {Scope.OPEN, Scope.ANY_KEY} or not self.scopes.isdisjoint({scope, Scope.ADMIN})

    def is_of(self, tenant: str) -> bool:
        """True when the objects of a tenant are the caller's to touch."""
        return self.sees in {None, tenant}

    def sees_agent(self, profile: AgentProfile) -> bool:
        """True when an agent exists for the caller."""
        return profile.serves(self.sees)


class KeyHolder:
    """A key in use on this server.

    Args:
        caller: Who shows it.
        usage: What it uses of its limits.
        key: What is known of it; None for the admin key, which is good for ever.

    Attributes:
        ended: Set once the key is good no more: whatever goes on under it is to stop.
    """

    __slots__ = ("caller", "ended", "key", "usage")

    def __init__(self, caller: Caller, usage: Usage, key: ApiKey | None = None) -> None:
        self.caller = caller
        self.usage = usage
        self.key = key
        self.ended = asyncio.Event()


def current_key(holder: KeyHolder) -> CurrentKey:
    """What a key may do, for whoever shows it."""
    caller = holder.caller
    tenant = EVERY_TENANT if caller.sees is None else caller.tenant
    expires_at = None if holder.key is None else holder.key.expires_at
    return CurrentKey(caller.key_id, tenant, tuple(sorted(caller.scopes)), expires_at)


class Keys:
    """Who may come in. It keeps no secret but its SHA-256, and a request costs it no look at the store.

    Args:
        admin_key: Opens everything, for ever.
        store: Remembers the other keys; None for no others.
        clock: Time.
        cutoff: Gives the moment before which what is kept for so long is old; None when nothing is ever old.

    Attributes:
        admin_parent: The parent of what comes from the admin key: it ends when that file has another content.
    """

    def __init__(
        self,
        admin_key: str,
        store: ApiKeys | None = None,
        clock: Clock | None = None,
        cutoff: Callable[[timedelta], datetime] | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._cutoff = cutoff
        self._store = store
        self._admin_digest = _digest(admin_key)
        self.admin_parent = f"{OPERATOR_ID}.{self._admin_digest.hex()[:ADMIN_MARK_CHARS]}"
        self._admin = KeyHolder(Caller(grant=Grant(OPERATOR_ID)), Usage(NO_LIMITS, self._clock.monotonic))
        self._by_digest: dict[bytes, KeyHolder] = {}
        self._by_id: dict[str, KeyHolder] = {}
        self._codes: dict[bytes, ApiKey] = {}
        self._version: int | None = None
        self._reading = asyncio.Lock()

    def find(self, secret: str) -> KeyHolder | None:
        """Whose key it is; None when it is no key, or good no more.

        What is compared and looked up is the digest, of which nobody can choose a part: the time it takes tells nothing
        of any key.
        """
        digest = _digest(secret)
        if hmac.compare_digest(digest, self._admin_digest):
            return self._admin
        holder = self._by_digest.get(digest)
        return holder if holder is not None and self._is_good(holder) else None

    def is_good(self, key_id: str) -> bool:
        """True while a key of this id opens anything."""
        holder = self._by_id.get(key_id)
        return key_id == OPERATOR_ID or (holder is not None and self._is_good(holder))

    def list(self, by: Caller) -> list[ApiKey]:
        """Every key that the caller may know of, oldest first."""
        return [holder.key for holder in self._by_id.values() if holder.key is not None and self._is_told(holder, by)]

    async def create(self, request: KeyRequest, by: Caller) -> KeyMade:
        """Make a key. Its secret is told here, and never again.

        Raises:
            InvalidInput: With every fault and its place.
            Forbidden: The caller may not give so much.
            Conflict: There are too many keys.
            StorageError: It could not be recorded.
        """
        check_request(request)
        now = self._clock.utcnow()
        key = ApiKey(
            key_id=new_key_id(),
            name=request.name,
            tenant=_tenant_of(request, by),
            scopes=tuple(sorted({Scope(scope) for scope in request.scopes})),
            created_at=now,
            expires_at=None if request.expires_in_s is None else now + timedelta(seconds=request.expires_in_s),
            capabilities=request.capabilities,
            limits=request.limits,
        )
        secret = new_secret()
        await self.add(key, secret)
        return KeyMade(key, secret)

    async def add(self, key: ApiKey, secret: str) -> None:
        """Have a key open what it says, here from the return of this on, on other servers within a second.

        Raises:
            Conflict: There are too many keys.
            StorageError: It could not be recorded.
        """
        forget_before = NEVER if self._cutoff is None else self._cutoff(DEAD_KEYS_KEPT)
        await self._stored.create(StoredKey(key, _digest(secret)), forget_before)
        await self.refresh_if_possible()

    async def take_code(self, code: str) -> KeyHolder | None:
        """Use up a code, also one that another server has just made: the key that asked for it, if both are good.

        Raises:
            StorageError: It cannot be known whether it is good.
        """
        await self.refresh()
        known = self._codes.get(_digest(code))
        parent = self._parent_of(known) if known is not None and known.is_good(self.now()) else None
        if known is None or parent is None:
            return None
        return parent if await self._stored.forget([known.key_id]) else None

    async def forget(self, key_id: str) -> None:
        """Have a session open nothing any more, and remember nothing of it.

        Raises:
            StorageError: It could not be recorded.
        """
        await self._stored.forget([key_id])
        if (holder := self._by_id.get(key_id)) is not None:
            holder.ended.set()
            self._by_id = {known: each for known, each in self._by_id.items() if each is not holder}
            self._by_digest = {digest: each for digest, each in self._by_digest.items() if each is not holder}
        await self.refresh_if_possible()

    def now(self) -> datetime:
        """UTC."""
        return self._clock.utcnow()

    def monotonic(self) -> float:
        """Seconds."""
        return self._clock.monotonic()

    async def revoke(self, key_id: str, by: Caller) -> ApiKey:
        """Have a key open nothing any more: here from the return of this on, on other servers within some seconds.

        Raises:
            KeyNotFound: There is no such key, or it is not the caller's to revoke.
            StorageError: It could not be recorded.
        """
        holder = self._by_id.get(key_id)
        if holder is None or holder.key is None or not by.is_of(holder.key.tenant):
            raise KeyNotFound(f"There is no key '{key_id[:80]}'.")
        now = self._clock.utcnow()
        await self._stored.revoke(key_id, now)
        revoked = holder.key if holder.key.revoked_at else msgspec.structs.replace(holder.key, revoked_at=now)
        holder.key = revoked
        holder.ended.set()
        await self.refresh_if_possible()
        return revoked

    async def refresh(self) -> None:
        """Learn what was changed by others, and end what has expired.

        Raises:
            StorageError: The keys could not be read; those known stay.
        """
        try:
            if self._store is not None:
                async with self._reading:
                    found = await self._store.read(self._version)
                    if found is not None:
                        self._take(found)
        finally:
            for holder in self._by_id.values():
                if not self._is_good(holder):
                    holder.ended.set()
                elif holder.ended.is_set():
                    # It had expired by a wall clock that was set back since.
                    holder.ended.clear()

    async def refresh_if_possible(self) -> None:
        """Refresh; when that cannot be done now, those known go on."""
        try:
            await self.refresh()
        except AicpError as error:
            _log.warning("keys cannot be read anew, those known go on: %s", error)

    async def learn_of(self, key_id: str) -> None:
        """Refresh if this key is not known here: another server may have made it within the last second."""
        if key_id not in self._by_id and key_id != OPERATOR_ID:
            await self.refresh_if_possible()

    async def keep_fresh(self) -> None:
        """Refresh every second, for ever."""
        await keep_doing(self._refresh_soon, "keys cannot be read anew, and those known go on")

    @property
    def _stored(self) -> ApiKeys:
        if self._store is None:
            raise StorageError("This server remembers no keys but its admin key.")
        return self._store

    async def _refresh_soon(self) -> None:
        await asyncio.sleep(REFRESH_S)
        await self.refresh()
        if ended := self._ended_of_parents():
            await self._stored.forget(ended)
            await self.refresh()

    def _ended_of_parents(self) -> Sequence[str]:
        """Sessions and codes that open nothing any more: nobody will ask for them again.

        Those of another admin key stay until they expire: a server with that key may have made them.
        """
        sessions = [holder.key for holder in self._by_id.values() if holder.key is not None and holder.caller.parent]
        return [key.key_id for key in (*sessions, *self._codes.values()) if self._has_ended(key)]

    def _has_ended(self, key: ApiKey) -> bool:
        return not key.is_good(self.now()) or not (_is_of_admin(key) or self._parent_of(key))

    def _is_good(self, holder: KeyHolder) -> bool:
        key = holder.key
        if key is None:
            return True
        is_good = key.is_good(self._clock.utcnow()) if key.expires_at else key.revoked_at is None
        return is_good and (key.parent is None or self._parent_of(key) is not None)

    def _is_told(self, holder: KeyHolder, by: Caller) -> bool:
        key = holder.key
        return key is not None and by.is_of(key.tenant) and (key.kind is KeyKind.KEY or self._is_good(holder))

    def _parent_of(self, key: ApiKey) -> KeyHolder | None:
        """The key that another one came from; None when it is good no more."""
        parent = self._admin if key.parent == self.admin_parent else self._by_id.get(key.parent or "")
        return parent if parent is not None and parent.caller.parent is None and self._is_good(parent) else None

    def _take(self, found: KeySet) -> None:
        before, self._by_id, self._by_digest = self._by_id, {}, {}
        for stored in sorted(found.keys, key=_comes_from_another):
            if stored.key.kind is KeyKind.CODE:
                continue
            holder = before.pop(stored.key.key_id, None) or self._holder(stored.key)
            holder.key = stored.key
            self._by_id[stored.key.key_id] = self._by_digest[stored.digest] = holder
        for forgotten in before.values():
            forgotten.ended.set()
        self._codes = {stored.digest: stored.key for stored in found.keys if stored.key.kind is KeyKind.CODE}
        self._version = found.version

    def _holder(self, key: ApiKey) -> KeyHolder:
        sees = None if key.tenant == EVERY_TENANT else key.tenant
        capabilities = None if key.capabilities is None else frozenset(map(wanted_key, key.capabilities))
        parent_id = OPERATOR_ID if _is_of_admin(key) else key.parent
        grant = Grant(parent_id or key.key_id, capabilities, key.limits.queue)
        caller = Caller(tenant_of_new(key.tenant), frozenset(key.scopes), key.key_id, sees, grant, parent_id)
        parent = self._parent_of(key)
        return KeyHolder(caller, parent.usage if parent else Usage(key.limits, self._clock.monotonic), key)


def new_key_id() -> str:
    """An id that no key has."""
    return secrets.token_hex(KEY_ID_BYTES)


def new_secret() -> str:
    """What to show in `Authorization: Bearer …`."""
    return SECRET_PREFIX + secrets.token_urlsafe(SECRET_BYTES)


def _is_of_admin(key: ApiKey) -> bool:
    return key.parent is not None and key.parent.startswith(f"{OPERATOR_ID}.")


def _comes_from_another(stored: StoredKey) -> bool:
    return stored.key.parent is not None


def _tenant_of(request: KeyRequest, by: Caller) -> str:
    tenant = by.tenant if request.tenant is None else request.tenant
    if not by.is_of(tenant):
        raise Forbidden(f"A key of tenant '{by.tenant}' makes keys of this tenant only.")
    return tenant


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
