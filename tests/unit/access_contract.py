"""What every `ApiKeys` and `AuditLog` must keep, as tests: subclass `AccessContract` and say how to make them."""

import abc
import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from aicp.errors import Conflict
from aicp.model.access import ApiKey, AuditRecord, KeyKind, KeyLimits, Scope
from aicp.ports import KEYS_OF_PARENT_MAX, ApiKeys, AuditLog, StoredKey

AT = datetime(2026, 1, 2, 3, 4, 5, 678_901, tzinfo=UTC)
SECOND = timedelta(seconds=1)
BOUND_S = 60.0


class AccessStores(msgspec.Struct, frozen=True):
    """What is put to the test, open.

    Attributes:
        keys: The keys.
        audit: The audit log.
        again: The keys and the log as another process finds them, or this one after a restart.
    """

    keys: ApiKeys
    audit: AuditLog
    again: Callable[[], tuple[ApiKeys, AuditLog]]


def stored(key_id: str, *, at: datetime = AT, **told: Any) -> StoredKey:
    """A key with a digest of its own."""
    fields: dict[str, Any] = {"name": f"key {key_id}", "tenant": "default", "scopes": (Scope.TASKS_READ,)} | told
    return StoredKey(ApiKey(key_id, created_at=at, **fields), f"digest of {key_id}".encode())


def session(key_id: str, *, parent: str = "k1", kind: KeyKind = KeyKind.SESSION, at: datetime = AT) -> StoredKey:
    """A key that came from another one."""
    return stored(key_id, at=at, expires_at=at + timedelta(hours=12), kind=kind, parent=parent)


def record(number: int, *, tenant: str = "default", status: int = 200, count: int = 1) -> AuditRecord:
    """A record that another number tells apart."""
    return AuditRecord(AT + number * SECOND, "k1", tenant, "submit_task", f"object-{number}", status, count)


def _rule(check: Callable[[Any, AccessStores], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
    """A test of fresh stores. Not `functools.wraps`: pytest would look for a fixture called `stores`."""

    def test(self: "AccessContract") -> None:
        async def main() -> None:
            async with asyncio.timeout(BOUND_S), self.stores() as stores:
                await check(self, stores)

        asyncio.run(main())

    test.__name__, test.__qualname__, test.__doc__ = check.__name__, check.__qualname__, check.__doc__
    return test


async def _ids(keys: ApiKeys) -> list[str]:
    found = await keys.read()
    assert found is not None
    return [each.key.key_id for each in found.keys]


class AccessContract(abc.ABC):
    """Rules of the ports `ApiKeys` and `AuditLog`, one per test."""

    @abc.abstractmethod
    def stores(self) -> AbstractAsyncContextManager[AccessStores]:
        """Fresh stores, open; whatever they took is given back at the end."""

    @_rule
    async def test_key_is_read_as_it_was_created(self, stores: AccessStores) -> None:
        """Every field comes back, also in another process."""
        full = stored(
            "k2", at=AT + SECOND, name="ü \0 \n", tenant="*", scopes=(Scope.ADMIN, Scope.TASKS_SUBMIT),
            expires_at=AT + timedelta(days=400), capabilities=("image.label", "text.read@2"),
            limits=KeyLimits(rate_per_s=0.5, concurrency=3, queue=10),
        )  # fmt: skip
        bare = stored("k1")
        await stores.keys.create(full)
        await stores.keys.create(bare)
        for keys in (stores.keys, stores.again()[0]):
            found = await keys.read()
            assert found is not None
            assert found.keys == (bare, full)

    @_rule
    async def test_read_is_silent_while_nothing_changes(self, stores: AccessStores) -> None:
        """A version known is answered with None, and each change makes another one."""
        empty = await stores.keys.read()
        assert empty is not None
        assert empty.keys == ()
        assert await stores.keys.read(empty.version) is None
        await stores.keys.create(stored("k1"))
        created = await stores.keys.read(empty.version)
        assert created is not None
        assert await stores.keys.read(created.version) is None
        await stores.keys.revoke("k1", AT + SECOND)
        assert await stores.keys.read(created.version) is not None

    @_rule
    async def test_revoked_key_stays_with_the_time_it_was_revoked_first(self, stores: AccessStores) -> None:
        """Revoking again changes nothing."""
        await stores.keys.create(stored("k1"))
        assert await stores.keys.revoke("k1", AT + SECOND)
        assert await stores.keys.revoke("k1", AT + 2 * SECOND)
        for keys in (stores.keys, stores.again()[0]):
            found = await keys.read()
            assert found is not None
            assert found.keys[0].key.revoked_at == AT + SECOND

    @_rule
    async def test_unknown_key_is_not_revoked(self, stores: AccessStores) -> None:
        """It is told, and nothing is made up."""
        assert not await stores.keys.revoke("nobody", AT)
        assert await _ids(stores.keys) == []

    @_rule
    async def test_id_or_secret_is_not_used_twice(self, stores: AccessStores) -> None:
        """The first stays."""
        await stores.keys.create(stored("k1"))
        for second in (stored("k1", name="other"), StoredKey(stored("k2").key, stored("k1").digest)):
            with pytest.raises(Conflict):
                await stores.keys.create(second)
        found = await stores.keys.read()
        assert found is not None
        assert found.keys == (stored("k1"),)

    @_rule
    async def test_keys_that_ended_a_month_ago_are_forgotten_by_the_next(self, stores: AccessStores) -> None:
        """Revoked or expired; those that ended later, and those that are good, stay."""
        await stores.keys.create(stored("revoked"))
        await stores.keys.create(stored("expired", expires_at=AT + SECOND))
        await stores.keys.create(stored("later", expires_at=AT + timedelta(days=1)))
        await stores.keys.create(stored("good"))
        await stores.keys.revoke("revoked", AT)
        await stores.keys.create(stored("next", at=AT + timedelta(days=400)))
        assert len(await _ids(stores.keys)) == 5
        await stores.keys.revoke("next", AT + timedelta(days=400))
        await stores.keys.create(stored("last"), AT + 2 * SECOND)
        assert sorted(await _ids(stores.keys)) == ["good", "last", "later", "next"]

    @_rule
    async def test_one_key_too_many_is_refused_until_one_has_ended_long_ago(self, stores: AccessStores) -> None:
        """What is there stays as it is."""
        with pytest.MonkeyPatch.context() as patch:
            for module in ("memory_access", "sqlite_access", "postgres_access"):
                patch.setattr(f"aicp.storage.{module}.KEYS_MAX", 2)
            await stores.keys.create(stored("k1"))
            await stores.keys.create(stored("k2", expires_at=AT + SECOND))
            with pytest.raises(Conflict, match="the most that are kept"):
                await stores.keys.create(stored("k3", at=AT + 2 * SECOND))
            assert await _ids(stores.keys) == ["k1", "k2"]
            await stores.keys.create(stored("k3"), AT + 2 * SECOND)
            assert await _ids(stores.keys) == ["k1", "k3"]

    @_rule
    async def test_session_is_read_as_it_was_created_and_ends_like_any_key(self, stores: AccessStores) -> None:
        """What it is and whom it ends with come back, also in another process."""
        made = [stored("k1"), session("s1"), session("c1", kind=KeyKind.CODE)]
        for each in made:
            await stores.keys.create(each)
        for keys in (stores.keys, stores.again()[0]):
            found = await keys.read()
            assert found is not None
            assert sorted(found.keys, key=made.index) == made
        await stores.keys.revoke("s1", AT + SECOND)
        await stores.keys.create(stored("last"), AT + 2 * SECOND)
        assert sorted(await _ids(stores.keys)) == ["c1", "k1", "last"]

    @_rule
    async def test_oldest_of_one_parent_and_kind_goes_for_one_too_many(self, stores: AccessStores) -> None:
        """Those of other parents and kinds, and keys of none, stay."""
        await stores.keys.create(stored("k1"))
        await stores.keys.create(session("other", parent="k2"))
        await stores.keys.create(session("code", kind=KeyKind.CODE))
        for number in range(KEYS_OF_PARENT_MAX + 2):
            await stores.keys.create(session(f"s{number:02}", at=AT + number * SECOND))
        kept = [f"s{number:02}" for number in range(2, KEYS_OF_PARENT_MAX + 2)]
        assert sorted(await _ids(stores.keys)) == ["code", "k1", "other", *kept]

    @_rule
    async def test_key_is_forgotten_for_one_of_those_who_ask_at_once(self, stores: AccessStores) -> None:
        """The others are told that it was gone, and a set that was read before is no longer the newest."""
        await stores.keys.create(stored("k1"))
        await stores.keys.create(stored("k2"))
        before = await stores.keys.read()
        assert before is not None
        told = await asyncio.gather(*(stores.keys.forget(["k1", "nobody"]) for _ in range(4)))
        assert sorted(told) == [0, 0, 0, 1]
        assert await stores.keys.read(before.version) is not None
        assert [await _ids(keys) for keys in (stores.keys, stores.again()[0])] == [["k2"], ["k2"]]
        assert await stores.keys.forget([]) == 0

    @_rule
    async def test_records_are_read_newest_first_and_page_by_page(self, stores: AccessStores) -> None:
        """Numbers rise; a page goes on below the last number of the one before."""
        await stores.audit.append([record(1), record(2, status=0)], 100)
        await stores.audit.append([record(3, status=401, count=7)], 100)
        for audit in (stores.audit, stores.again()[1]):
            first = await audit.page(None, 2)
            rest = await audit.page(None, 2, before=first[-1].number)
            told = [*first, *rest]
            assert [each.number for each in told] == sorted((each.number for each in told), reverse=True)
            unnumbered = [msgspec.structs.replace(each, number=0) for each in told]
            assert unnumbered == [record(3, status=401, count=7), record(2, status=0), record(1)]
            assert await audit.page(None, 2, before=rest[-1].number) == []

    @_rule
    async def test_records_of_one_tenant_are_found(self, stores: AccessStores) -> None:
        """And no others."""
        await stores.audit.append([record(number, tenant="ab"[number % 2]) for number in range(6)], 100)
        assert [each.object_id for each in await stores.audit.page("b", 10)] == ["object-5", "object-3", "object-1"]
        assert await stores.audit.page("c", 10) == []

    @_rule
    async def test_oldest_records_are_forgotten(self, stores: AccessStores) -> None:
        """As many are kept as is asked for."""
        for start in range(0, 50, 5):
            await stores.audit.append([record(start + number) for number in range(5)], 12)
        kept = await stores.audit.page(None, 100)
        assert kept[0].object_id == "object-49"
        assert len(kept) == 12

    @_rule
    async def test_no_records_are_no_error(self, stores: AccessStores) -> None:
        """Appending nothing does nothing."""
        await stores.audit.append([], 10)
        assert await stores.audit.page(None, 10) == []
