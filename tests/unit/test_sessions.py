"""Sessions: made of a code that is good once, with the rights and the end of the key that asked for it."""

import asyncio
from datetime import timedelta

import pytest

from aicp.errors import AccessDenied, Conflict, Forbidden
from aicp.model.access import OPERATOR_ID, KeyKind, KeyLimits, KeyRequest, Scope
from aicp.ports import KEYS_OF_PARENT_MAX
from aicp.server.keys import REFRESH_S, Caller, KeyHolder, Keys
from aicp.server.limits import TooManyRequests, Tries
from aicp.server.sessions import CODE_S, SESSION_S, TRIES_EACH_PER_S, TRIES_PER_S, Sessions
from aicp.storage.memory_access import MemoryApiKeys
from aicp.testing import VirtualClock, run

OPERATOR = Caller()
READ = ("tasks:read",)
HERE = "127.0.0.1"


class House:
    """One server of several on the same store."""

    def __init__(self, store: MemoryApiKeys, clock: VirtualClock) -> None:
        self.keys = Keys("the admin key", store, clock)
        self.sessions = Sessions(self.keys)

    def holder(self, secret: str = "the admin key") -> KeyHolder:
        found = self.keys.find(secret)
        assert found is not None
        return found

    async def code(self, secret: str = "the admin key") -> str:
        return (await self.sessions.make_code(self.holder(secret))).code

    async def session(self, secret: str = "the admin key") -> str:
        """The key of a new session, for which nobody has to wait."""
        await asyncio.sleep(1 / TRIES_EACH_PER_S)
        return (await self.sessions.open(await self.code(secret), HERE)).made.key

    async def made(self, **told: object) -> tuple[str, str]:
        """Id and secret of a new key."""
        made = await self.keys.create(KeyRequest("page", READ, **told), OPERATOR)  # type: ignore[arg-type]
        return made.key.key_id, made.secret


async def houses(count: int = 1) -> list[House]:
    store, clock = MemoryApiKeys(), VirtualClock()
    found = [House(store, clock) for _ in range(count)]
    for house in found:
        await house.keys.refresh()
    return found


def test_session_of_the_admin_key_opens_what_it_opens_and_says_whose_it_is() -> None:
    async def main() -> None:
        (house,) = await houses()
        opened = await house.sessions.open(await house.code(), HERE)
        assert opened.parent.key_id == OPERATOR_ID
        holder = house.holder(opened.made.key)
        assert holder.caller.sees is None
        assert holder.caller.scopes == {Scope.ADMIN}
        assert (holder.caller.key_id, holder.caller.owner) == (opened.key_id, OPERATOR_ID)
        (told,) = house.keys.list(OPERATOR)
        assert (told.key_id, told.kind) == (opened.key_id, KeyKind.SESSION)
        assert told.parent == house.keys.admin_parent
        assert told.expires_at == opened.made.expires_at == house.keys.now() + timedelta(seconds=SESSION_S)
        assert opened.made.key not in repr(opened)

    run(main())


def test_session_has_the_rights_of_its_key_and_shares_its_limits() -> None:
    async def main() -> None:
        (house,) = await houses()
        limits = KeyLimits(concurrency=1, queue=7)
        key_id, secret = await house.made(tenant="acme", capabilities=("text.echo",), limits=limits)
        holder = house.holder(await house.session(secret))
        parent = house.holder(secret)
        assert (holder.caller.tenant, holder.caller.sees) == ("acme", "acme")
        assert holder.caller.scopes == {Scope.TASKS_READ}
        assert holder.caller.grant == parent.caller.grant
        assert holder.caller.owner == key_id
        parent.usage.enter()
        with pytest.raises(TooManyRequests):
            holder.usage.enter()
        parent.usage.leave()

    run(main())


def test_code_is_good_once_and_opens_nothing_itself() -> None:
    async def main() -> None:
        (house,) = await houses()
        code = await house.code()
        assert len(code) == 22
        assert house.keys.find(code) is None
        assert house.keys.list(OPERATOR) == []
        await house.sessions.open(code, HERE)
        with pytest.raises(AccessDenied) as used:
            await house.sessions.open(code, HERE)
        with pytest.raises(AccessDenied) as wrong:
            await house.sessions.open("wrong", HERE)
        old = await house.code()
        await asyncio.sleep(CODE_S)
        with pytest.raises(AccessDenied) as expired:
            await house.sessions.open(old, HERE)
        assert str(used.value) == str(wrong.value) == str(expired.value)

    run(main())


def test_code_made_at_one_server_is_used_at_another_by_one_of_two() -> None:
    async def main() -> None:
        one, two, three = await houses(3)
        code = await one.code()
        tries = await asyncio.gather(
            two.sessions.open(code, HERE), three.sessions.open(code, HERE), return_exceptions=True
        )
        assert sorted(type(each).__name__ for each in tries) == ["AccessDenied", "OpenedSession"]

    run(main())


def test_session_is_good_at_another_server_within_a_second() -> None:
    async def main() -> None:
        one, two = await houses(2)
        care = asyncio.create_task(two.keys.keep_fresh())
        secret = await one.session()
        await asyncio.sleep(REFRESH_S)
        assert two.holder(secret).caller.sees is None
        await one.sessions.close(one.holder(secret))
        assert one.keys.find(secret) is None
        await asyncio.sleep(REFRESH_S)
        assert two.keys.find(secret) is None
        care.cancel()

    run(main())


def test_session_ends_with_its_key_everywhere_and_is_forgotten() -> None:
    async def main() -> None:
        one, two = await houses(2)
        cares = [asyncio.create_task(house.keys.keep_fresh()) for house in (one, two)]
        key_id, secret = await one.made()
        page = await one.session(secret)
        await asyncio.sleep(REFRESH_S)
        at_two = two.holder(page)
        pending = await one.code(secret)
        await one.keys.revoke(key_id, OPERATOR)
        assert one.keys.find(page) is None
        with pytest.raises(AccessDenied):
            await one.sessions.open(pending, HERE)
        await asyncio.sleep(2 * REFRESH_S)
        assert two.keys.find(page) is None
        assert at_two.ended.is_set()
        assert [key.key_id for key in two.keys.list(OPERATOR)] == [key_id]
        for care in cares:
            care.cancel()

    run(main())


def test_session_ends_after_twelve_hours_or_with_a_key_that_ends_earlier() -> None:
    async def main() -> None:
        (house,) = await houses()
        care = asyncio.create_task(house.keys.keep_fresh())
        _, secret = await house.made(expires_in_s=100.0)
        short, long = await house.session(secret), await house.session()
        holder = house.holder(short)
        await asyncio.sleep(101.0)
        assert house.keys.find(short) is None
        assert holder.ended.is_set()
        assert house.keys.find(long) is not None
        await asyncio.sleep(SESSION_S)
        assert house.keys.find(long) is None
        assert [key.kind for key in house.keys.list(OPERATOR)] == [KeyKind.KEY]
        care.cancel()

    run(main())


def test_session_of_an_admin_key_that_was_changed_opens_nothing_and_stays_for_servers_that_have_it() -> None:
    async def main() -> None:
        store, clock = MemoryApiKeys(), VirtualClock()
        before, after = House(store, clock), House(store, clock)
        after.keys = Keys("another admin key", store, clock)
        secret = await before.session()
        care = asyncio.create_task(after.keys.keep_fresh())
        await asyncio.sleep(2 * REFRESH_S)
        assert after.keys.find(secret) is None
        assert after.keys.list(OPERATOR) == []
        assert before.keys.find(secret) is not None
        await before.keys.refresh()
        assert len(before.keys.list(OPERATOR)) == 1
        care.cancel()

    run(main())


def test_oldest_session_of_a_key_ends_for_one_too_many() -> None:
    async def main() -> None:
        (house,) = await houses()
        secrets = [await house.session() for _ in range(KEYS_OF_PARENT_MAX + 1)]
        assert house.keys.find(secrets[0]) is None
        assert all(house.keys.find(secret) for secret in secrets[1:])

    run(main())


def test_session_makes_no_session_and_only_a_session_is_signed_out() -> None:
    async def main() -> None:
        (house,) = await houses()
        holder = house.holder(await house.session())
        with pytest.raises(Forbidden):
            await house.sessions.make_code(holder)
        with pytest.raises(Conflict):
            await house.sessions.close(house.holder())
        await house.sessions.close(holder)
        assert holder.ended.is_set()
        assert house.keys.list(OPERATOR) == []

    run(main())


def test_tries_of_one_address_leave_room_for_others_and_all_have_a_bound() -> None:
    async def main() -> None:
        (house,) = await houses()
        for _ in range(int(TRIES_EACH_PER_S)):
            with pytest.raises(AccessDenied):
                await house.sessions.open("wrong", HERE)
        with pytest.raises(TooManyRequests) as refused:
            await house.sessions.open("wrong", HERE)
        assert 0 < refused.value.retry_after_s <= 1 / TRIES_EACH_PER_S
        with pytest.raises(AccessDenied):
            await house.sessions.open("wrong", "192.0.2.1")
        for number in range(int(TRIES_PER_S - TRIES_EACH_PER_S) - 1):
            with pytest.raises(AccessDenied):
                await house.sessions.open("wrong", f"192.0.2.{number + 2}")
        with pytest.raises(TooManyRequests):
            await house.sessions.open("wrong", "192.0.2.200")

    run(main())


def test_tries_remember_nobody_who_stays_away_for_a_second() -> None:
    async def main() -> None:
        tries = Tries(1.0, 50.0, VirtualClock().monotonic)
        for number in range(500):
            tries.enter(f"address {number}")
            await asyncio.sleep(0.02)
        assert len(tries._by_who) <= 51

    run(main())
