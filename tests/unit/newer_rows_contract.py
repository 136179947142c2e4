"""What every store on a disk must do with agents and keys of a newer version: subclass `NewerRowsContract`."""

import abc
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from aicp.model.access import ApiKey, Scope
from aicp.model.level import LEVEL
from aicp.ports import StoredKey
from aicp.storage.agent_rows import AgentRow, encode_agent
from aicp.storage.row_checksums import checksum
from aicp.storage.rows import timestamp
from tests.unit.row_damage_contract import DiskStores, agent
from tests.unit.sqlite_kit import AT


class NewerRowsContract(abc.ABC):
    """See the module. It is mixed into a `RowDamageContract`, of which it uses `run`, `stores` and `place`."""

    @abc.abstractmethod
    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run it to its end."""

    @abc.abstractmethod
    def stores(self) -> AbstractAsyncContextManager[DiskStores]:
        """Fresh stores, open for a block."""

    @abc.abstractmethod
    def place(self, number: int) -> str:
        """A parameter of a statement; they stand in it in the order of their numbers."""

    def _with_rows(self, use: Callable[[DiskStores], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with self.stores() as stores:
                for agent_id in ("a1", "a2", "a3"):
                    await stores.registrations.save(agent(agent_id, "https://a.example/"))
                for number, name in enumerate(("k1", "k2", "k3"), 1):
                    key = ApiKey(name, name, "default", (Scope.TASKS_READ,), AT, AT + timedelta(days=9))
                    await stores.keys.create(StoredKey(key, bytes([number]) * 32), AT)
                await use(stores)
                assert list(await stores.check()) == [], "a row of a newer version is no damage"

        self.run(main())

    @pytest.mark.parametrize("more", ['{"protocol": "unheard-of"}', '{"needs": 0, "price": {"units": [1]}}'])
    def test_part_of_an_agent_that_is_not_known_is_passed_over(self, more: str) -> None:
        async def use(stores: DiskStores) -> None:
            await self._agent_has(stores, "a2", more)
            assert [(each.agent_id, each.needs) for each in await stores.registrations.load()] == [
                ("a1", 0), ("a2", 0), ("a3", 0),
            ]  # fmt: skip
            assert stores.found == []

        self._with_rows(use)

    def test_level_that_an_agent_needs_is_read_and_written(self) -> None:
        async def use(stores: DiskStores) -> None:
            needy = msgspec.structs.replace(agent("a2", "https://a.example/"), needs=LEVEL + 1)
            await stores.registrations.save(needy)
            assert [each.needs for each in await stores.registrations.load()] == [0, LEVEL + 1, 0]
            (row,) = await stores.ask("SELECT profile, more FROM registrations WHERE agent_id = 'a2'")
            assert row[0] == encode_agent(agent("a2", "https://a.example/"), None).profile
            assert msgspec.json.decode(row[1]) == {"needs": LEVEL + 1}
            await stores.registrations.save(agent("a2", "https://a.example/"))
            assert [each.needs for each in await stores.registrations.load()] == [0, 0, 0]

        self._with_rows(use)

    @pytest.mark.parametrize("more", ['{"needs": "much"}', "[]", "{"])
    def test_agent_that_cannot_be_read_is_left_out_and_stops_no_other(self, more: str) -> None:
        async def use(stores: DiskStores) -> None:
            await self._agent_has(stores, "a2", more)
            assert [each.agent_id for each in await stores.registrations.load()] == ["a1", "a3"]
            assert stores.found == [("registrations", "a2")]

        self._with_rows(use)

    def test_scope_that_is_not_known_opens_nothing_and_others_stay(self) -> None:
        async def use(stores: DiskStores) -> None:
            await self._key_has(stores, "k2", '{"scopes": ["tasks:unheard-of", "agents:read", "any_key"]}')
            assert await self._scopes(stores) == {
                "k1": (Scope.TASKS_READ,), "k2": (Scope.TASKS_READ, Scope.AGENTS_READ), "k3": (Scope.TASKS_READ,),
            }  # fmt: skip
            assert stores.found == []

        self._with_rows(use)

    @pytest.mark.parametrize(
        "more", ['{"spend_a_day": 5}', '{"scopes": [], "hours": "9-17"}', '{"scopes": [7]}', "null", "{"]
    )
    def test_key_with_a_restriction_that_is_not_known_opens_nothing(self, more: str) -> None:
        async def use(stores: DiskStores) -> None:
            await self._key_has(stores, "k2", more)
            assert set(await self._scopes(stores)) == {"k1", "k3"}
            assert stores.found == [("api_keys", "k2")]
            assert await stores.keys.revoke("k2", AT)
            assert await stores.keys.revoke("k3", AT)
            found = await stores.keys.read()
            assert found is not None
            assert [(stored.key.key_id, stored.key.revoked_at) for stored in found.keys] == [("k1", None), ("k3", AT)]

        self._with_rows(use)

    async def _scopes(self, stores: DiskStores) -> dict[str, tuple[Scope, ...]]:
        found = await stores.keys.read()
        assert found is not None
        return {stored.key.key_id: stored.key.scopes for stored in found.keys}

    async def _agent_has(self, stores: DiskStores, agent_id: str, more: str) -> None:
        (row,) = await stores.ask(f"SELECT profile, saved_at FROM registrations WHERE agent_id = '{agent_id}'")
        of_row = AgentRow(row[0], None, more).checksum(agent_id, _text(row[1]))
        await self._set(stores, "registrations", f"agent_id = '{agent_id}'", more, of_row)

    async def _key_has(self, stores: DiskStores, key_id: str, more: str) -> None:
        columns = "key_id, digest, described, created_at, expires_at"
        (row,) = await stores.ask(f"SELECT {columns} FROM api_keys WHERE key_id = '{key_id}'")
        of_row = checksum(*map(_text, row), more)
        await self._set(stores, "api_keys", f"key_id = '{key_id}'", more, of_row)

    async def _set(self, stores: DiskStores, table: str, where: str, more: str, of_row: int) -> None:
        values = f"more = {self.place(1)}, checksum = {self.place(2)}"
        await stores.ask(f"UPDATE {table} SET {values} WHERE {where}", more, of_row)


def _text(value: Any) -> Any:
    return value if isinstance(value, str | bytes) else timestamp(value)
