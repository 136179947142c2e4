"""Keys: made, looked up, expired, revoked, and read anew when another server changed them."""

import asyncio
import hashlib
from datetime import timedelta
from typing import Any

import pytest

from aicp.coordination.progress import Progress
from aicp.errors import AicpError, Forbidden, InvalidInput, KeyNotFound, SettingsError, StorageError
from aicp.model.access import GRANTABLE, KeyLimits, KeyRequest, Scope, reserved_tenant
from aicp.ports import KeySet
from aicp.server.key_requests import check_request
from aicp.server.keys import REFRESH_S, Caller, Keys
from aicp.storage.memory_access import MemoryApiKeys
from aicp.testing import VirtualClock, run

OPERATOR = Caller()
READ = ("tasks:read",)


class Store(MemoryApiKeys):
    """Counts looks, and fails while it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.looks = 0
        self.fails = False
        self.failure: AicpError = StorageError()

    async def read(self, known: int | None = None) -> KeySet | None:
        self.looks += 1
        if self.fails:
            raise self.failure
        return await super().read(known)


async def ring(store: Store | None = None) -> tuple[Keys, Store]:
    store = store or Store()
    keys = Keys("the admin key", store, VirtualClock())
    await keys.refresh()
    return keys, store


def test_admin_key_is_of_every_tenant_and_any_other_is_nobodys() -> None:
    async def main() -> None:
        keys, _ = await ring()
        admin = keys.find("the admin key")
        assert admin is not None
        assert (admin.caller.sees, admin.caller.tenant, admin.caller.key_id) == (None, "default", "admin")
        for wrong in ("", "the admin ke", "the admin key ", "THE ADMIN KEY", "\udcff"):
            assert keys.find(wrong) is None

    run(main())


def test_made_key_is_found_by_its_secret_and_only_its_digest_is_kept() -> None:
    async def main() -> None:
        keys, store = await ring()
        request = KeyRequest(
            "billing", ("tasks:submit", "tasks:read"), "acme", capabilities=("image.label@1", "text.read@2"),
            limits=KeyLimits(queue=5),
        )  # fmt: skip
        made = await keys.create(request, OPERATOR)
        assert made.secret.startswith("aicp_")
        assert len(made.secret) == len("aicp_") + 43
        assert made.secret not in repr(made)
        holder = keys.find(made.secret)
        assert holder is not None
        caller = holder.caller
        assert (caller.tenant, caller.sees, caller.key_id) == ("acme", "acme", made.key.key_id)
        assert caller.scopes == {Scope.TASKS_SUBMIT, Scope.TASKS_READ}
        assert caller.grant.capabilities == frozenset({"image.label", "text.read@2"})
        assert (caller.grant.key_id, caller.grant.queue) == (made.key.key_id, 5)
        kept = await MemoryApiKeys.read(store)
        assert kept is not None
        assert [each.digest for each in kept.keys] == [hashlib.sha256(made.secret.encode()).digest()]
        assert made.secret not in repr(kept)

    run(main())


def test_look_up_costs_no_look_at_the_store() -> None:
    async def main() -> None:
        keys, store = await ring()
        made = await keys.create(KeyRequest("a", READ), OPERATOR)
        before = store.looks
        for _ in range(1_000):
            assert keys.find(made.secret)
            assert not keys.find("wrong")
        assert store.looks == before

    run(main())


def test_revoked_key_opens_nothing_at_once_even_if_the_store_cannot_be_read() -> None:
    async def main() -> None:
        keys, store = await ring()
        made = await keys.create(KeyRequest("a", READ), OPERATOR)
        holder = keys.find(made.secret)
        assert holder is not None
        assert not holder.ended.is_set()
        store.fails = True
        revoked = await keys.revoke(made.key.key_id, OPERATOR)
        assert revoked.revoked_at is not None
        assert keys.find(made.secret) is None
        assert holder.ended.is_set()
        assert not keys.is_good(made.key.key_id)

    run(main())


def test_key_expires_to_the_moment_and_what_goes_on_under_it_ends_within_a_second() -> None:
    async def main() -> None:
        keys, _ = await ring()
        care = asyncio.create_task(keys.keep_fresh())
        made = await keys.create(KeyRequest("a", READ, expires_in_s=10.0), OPERATOR)
        holder = keys.find(made.secret)
        assert holder is not None
        await asyncio.sleep(9.99)
        assert keys.find(made.secret) is holder
        assert not holder.ended.is_set()
        await asyncio.sleep(0.01)
        assert keys.find(made.secret) is None
        async with asyncio.timeout(1.01):
            await holder.ended.wait()
        care.cancel()

    run(main())


def test_other_server_learns_of_keys_within_a_second_and_keeps_what_they_used() -> None:
    async def main() -> None:
        one, store = await ring()
        two, _ = await ring(store)
        care = asyncio.create_task(two.keep_fresh())
        made = await one.create(KeyRequest("a", READ), OPERATOR)
        await asyncio.sleep(REFRESH_S * 1.01)
        holder = two.find(made.secret)
        assert holder is not None
        await one.create(KeyRequest("b", READ), OPERATOR)
        await asyncio.sleep(REFRESH_S * 1.01)
        assert two.find(made.secret) is holder, "limits would begin anew"
        await one.revoke(made.key.key_id, OPERATOR)
        await asyncio.sleep(REFRESH_S * 1.01)
        assert two.find(made.secret) is None
        assert holder.ended.is_set()
        care.cancel()

    run(main())


def test_store_that_fails_leaves_known_keys_and_their_expiry() -> None:
    async def main() -> None:
        keys, store = await ring()
        care = asyncio.create_task(keys.keep_fresh())
        lasting = await keys.create(KeyRequest("a", READ), OPERATOR)
        ending = await keys.create(KeyRequest("b", READ, expires_in_s=5.0), OPERATOR)
        store.fails = True
        await asyncio.sleep(10.0)
        assert keys.find(lasting.secret)
        assert not keys.find(ending.secret)
        store.fails = False
        await asyncio.sleep(REFRESH_S * 1.01)
        assert keys.find(lasting.secret)
        care.cancel()

    run(main())


def test_admin_of_a_tenant_makes_and_revokes_keys_of_its_tenant_only() -> None:
    async def main() -> None:
        keys, _ = await ring()
        admin = keys.find((await keys.create(KeyRequest("boss", ("admin",), "acme"), OPERATOR)).secret)
        other = await keys.create(KeyRequest("other", READ, "other"), OPERATOR)
        assert admin is not None
        await asyncio.sleep(1.0)
        made = await keys.create(KeyRequest("worker", READ), admin.caller)
        assert made.key.tenant == "acme"
        for tenant in ("*", "other", "default"):
            with pytest.raises(Forbidden, match="tenant 'acme'"):
                await keys.create(KeyRequest("more", READ, tenant), admin.caller)
        assert [key.name for key in keys.list(admin.caller)] == ["boss", "worker"]
        for key_id in (other.key.key_id, "admin", "nobody"):
            with pytest.raises(KeyNotFound):
                await keys.revoke(key_id, admin.caller)
        assert keys.find(other.secret)
        await keys.revoke(made.key.key_id, admin.caller)

    run(main())


def test_key_of_every_tenant_makes_things_of_the_default_tenant() -> None:
    async def main() -> None:
        keys, _ = await ring()
        made = await keys.create(KeyRequest("prometheus", ("metrics:read",), "*"), OPERATOR)
        holder = keys.find(made.secret)
        assert holder is not None
        assert (holder.caller.sees, holder.caller.tenant) == (None, "default")
        assert not holder.caller.may(Scope.ADMIN)

    run(main())


FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "/name"),
    ({"name": "x" * 65}, "/name"),
    ({"name": "a\nb"}, "/name"),
    ({"scopes": ()}, "/scopes"),
    ({"scopes": ("tasks:write",)}, "/scopes/0"),
    ({"scopes": ("tasks:read", "open")}, "/scopes/1"),
    ({"scopes": ("any_key",)}, "/scopes/0"),
    ({"scopes": ("tasks:read",) * 9}, "/scopes"),
    ({"scopes": ("metrics:read",)}, "/scopes"),
    ({"scopes": ("metrics:read",), "tenant": "acme"}, "/scopes"),
    ({"tenant": ""}, "/tenant"),
    ({"tenant": "a b"}, "/tenant"),
    ({"tenant": "**"}, "/tenant"),
    ({"tenant": "x" * 65}, "/tenant"),
    ({"expires_in_s": 0.0}, "/expires_in_s"),
    ({"expires_in_s": -1.0}, "/expires_in_s"),
    ({"expires_in_s": 1e18}, "/expires_in_s"),
    ({"expires_in_s": float("nan")}, "/expires_in_s"),
    ({"capabilities": ()}, "/capabilities"),
    ({"capabilities": ("image.*",)}, "/capabilities/0"),
    ({"capabilities": ("image.label@x",)}, "/capabilities/0"),
    ({"capabilities": ("a",) * 257}, "/capabilities"),
    ({"limits": KeyLimits(rate_per_s=0.0)}, "/limits/rate_per_s"),
    ({"limits": KeyLimits(rate_per_s=float("inf"))}, "/limits/rate_per_s"),
    ({"limits": KeyLimits(concurrency=0)}, "/limits/concurrency"),
    ({"limits": KeyLimits(queue=-5)}, "/limits/queue"),
]


@pytest.mark.parametrize(("wrong", "place"), FAULTS, ids=str)
def test_request_that_cannot_be_is_refused_with_its_place(wrong: dict[str, Any], place: str) -> None:
    async def main() -> None:
        keys, store = await ring()
        with pytest.raises(InvalidInput) as refused:
            await keys.create(KeyRequest(**({"name": "a", "scopes": READ} | wrong)), OPERATOR)
        assert [fault.place for fault in refused.value.faults] == [place]
        assert await MemoryApiKeys.read(store, 1) is None

    run(main())


def test_every_scope_can_be_given_once_however_often_it_is_named() -> None:
    async def main() -> None:
        keys, _ = await ring()
        made = await keys.create(KeyRequest("all", tuple(GRANTABLE), "*", expires_in_s=1.0), OPERATOR)
        assert set(made.key.scopes) == set(GRANTABLE)
        assert made.key.expires_at == made.key.created_at + timedelta(seconds=1)
        twice = await keys.create(KeyRequest("twice", ("tasks:read", "tasks:read")), OPERATOR)
        assert twice.key.scopes == (Scope.TASKS_READ,)

    run(main())


def test_keys_are_read_anew_after_the_database_took_rights_away_and_gave_them_back() -> None:
    async def main() -> None:
        keys, store = await ring()
        care = asyncio.create_task(keys.keep_fresh())
        store.fails, store.failure = True, SettingsError("the user has too few rights")
        made = await keys.create(KeyRequest("billing", READ), OPERATOR)
        await asyncio.sleep(10 * REFRESH_S)
        assert keys.find(made.secret) is None
        store.fails = False
        await asyncio.sleep(3 * REFRESH_S)
        assert keys.find(made.secret) is not None
        care.cancel()

    run(main())


def test_wall_clock_that_is_wrong_for_a_while_costs_no_key() -> None:
    async def main() -> None:
        clock, store = VirtualClock(), Store()
        progress = Progress(clock)
        await progress.look()
        keys = Keys("the admin key", store, clock, progress.cutoff)
        await keys.refresh()
        made = await keys.create(KeyRequest("short", ("tasks:read",), expires_in_s=86_400.0), OPERATOR)
        holder = keys.find(made.secret)
        assert holder is not None
        clock.shift_wall(45 * 86_400)
        await asyncio.sleep(60)
        await progress.look()
        await keys.create(KeyRequest("next", ("tasks:read",)), OPERATOR)
        assert keys.find(made.secret) is None
        assert holder.ended.is_set()
        clock.shift_wall(-45 * 86_400)
        await keys.refresh()
        assert keys.find(made.secret) is holder
        assert not holder.ended.is_set()

    run(main())


def test_no_key_has_a_tenant_that_is_reserved_for_keys_made_by_aicp() -> None:
    reserved = reserved_tenant("acme", "schedules")
    assert reserved.startswith("acme")
    assert reserved != reserved_tenant("acme", "faces")
    with pytest.raises(InvalidInput, match="tenant"):
        check_request(KeyRequest("a", ("tasks:read",), tenant=reserved))
