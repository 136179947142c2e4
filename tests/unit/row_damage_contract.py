"""What every store on a disk must do with damaged rows: subclass `RowDamageContract` and say how to make one.

Each stored value is damaged directly, one at a time, and `aicp db check` must find it. A column that is not checked is
in `UNCHECKED`, with the reason: so a new table or column without a checksum fails here.
"""

import abc
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest

from aicp.errors import RecordDamaged
from aicp.model.access import EVERY_TENANT, ApiKey, AuditRecord, Scope
from aicp.model.agent import AgentProfile, Capability
from aicp.model.notice import Order
from aicp.ports import (
    ApiKeys,
    AuditLog,
    ChainQuery,
    Journal,
    Registrations,
    StandingOrders,
    StoredKey,
    SubmitKey,
)
from aicp.storage.agent_rows import AgentRow
from aicp.storage.capability_rows import CAPABILITY_COLUMNS, capability_checksum
from aicp.storage.chain_growth import growth_check
from aicp.storage.request_rows import REQUEST_COLUMNS, request_checksum
from aicp.storage.row_checksums import chain_checksum, checksum
from aicp.storage.rows import timestamp
from aicp.storage.wait_rows import WAIT_COLUMNS, wait_checksum
from aicp.storage.wake_rows import wake_checksum
from tests.unit.sqlite_kit import AT, chain_ended, submitted, task_ended

LARGE = {"text": "x" * 100_000}

_ORDER_ONLY = "assigned by the database; it only orders rows"
_NOT_READ = "a time that is for people alone"
_OF_NOW = "about processes that live now; each renews what is its own"
UNCHECKED = {
    ("chains", "number"): _ORDER_ONLY,
    ("audit", "number"): _ORDER_ONLY,
    ("chains", "epoch"): "a higher one is obeyed by agents; for a lower one there is a test of its own",
    ("chains", "status_checksum"): "when it does not fit, the chain's last fact decides",
    ("chains", "epoch_min"): "a higher one makes the next owner's epoch higher, which agents obey",
    ("chains", "task_ends"): "it only says which chains a list of tasks by status reads; statuses come from facts",
    ("chains", "owner"): _OF_NOW,
    ("chains", "changed_at"): "it orders a list of the chains of a context, and says nothing else",
    ("requests", "at"): _NOT_READ,
    ("capabilities", "last_offered_at"): "an earlier or later one ends the retention earlier or later",
    ("registrations", "saved_at"): _NOT_READ,
    ("agent_orders", "ordered_at"): _NOT_READ,
    ("cancel_requests", "at"): _NOT_READ,
    ("removed_agents", "removed_at"): _NOT_READ,
    ("registrations", "changed_in"): _OF_NOW,
    ("agent_orders", "changed_in"): _OF_NOW,
    ("removed_agents", "changed_in"): _OF_NOW,
}
NOT_ROWS = {"alembic_version", "schema_needs", "replicas", "server_life", "notices", "api_keys_version"}
"""Tables of the schema itself and of processes that live now; another version has every API key read anew."""


class DiskStores(msgspec.Struct, frozen=True):
    """Stores on one disk, open.

    Attributes:
        journal: Remembers chains.
        registrations: Remembers agents.
        orders: Remembers orders.
        keys: Remembers API keys.
        audit: Remembers who changed what.
        ask: Runs a statement directly on the database, its parameters behind it; gives its rows.
        columns: The columns of every table of AICP, by table.
        check: What `aicp db check` finds wrong.
        found: What was reported, as (table, row).
    """

    journal: Journal
    registrations: Registrations
    orders: StandingOrders
    keys: ApiKeys
    audit: AuditLog
    ask: Callable[..., Awaitable[Sequence[Any]]]
    columns: dict[str, tuple[str, ...]]
    check: Callable[[], Awaitable[Sequence[str]]]
    found: list[tuple[str, str]]


async def populate(stores: DiskStores) -> None:
    """At least one row in every table, and a value in every column that may have one."""
    journal = stores.journal
    await journal.submit(submitted("c1", name="first"), SubmitKey("default", "k1", b"d" * 32))
    await journal.append([task_ended("c1", "t0", LARGE), task_ended("c1", "t1", {"n": 1}), chain_ended("c1")])
    await journal.submit(submitted("c2"), SubmitKey("default", "k2", b"e" * 32))
    await journal.append([task_ended("c2", "t0", {"n": 2})])
    retried = msgspec.structs.replace(submitted("c3"), retry_of="c1")
    await journal.submit(retried, None, [task_ended("c3", "t0", {"n": 3})])
    for agent_id in ("a1", "a2"):
        await stores.registrations.save(agent(agent_id, "https://a.example/"))
    await stores.registrations.save(agent("a3", "https://a.example/"))
    await stores.registrations.forget("a3")
    await stores.orders.record("a1", Order.OPEN)
    for number, name in enumerate(("k1", "k2"), 1):
        key = ApiKey(name, name, EVERY_TENANT, (Scope.TASKS_READ,), AT, AT + timedelta(days=number))
        await stores.keys.create(StoredKey(key, bytes([number]) * 32), AT)
    assert await stores.keys.revoke("k2", AT + timedelta(hours=1))
    await stores.audit.append([AuditRecord(AT, "k1", "default", "agent.remove", "a9", 200, 1)], 100)


async def add_rows_of_later_versions(stores: DiskStores, place: Callable[[int], str]) -> None:
    """Rows, and columns of rows, that this version reads and does not write yet."""
    at = timestamp(AT)

    async def insert(table: str, columns: str, *values: Any) -> None:
        await stores.ask(
            f"INSERT INTO {table} ({columns}) VALUES ({', '.join(place(n + 1) for n in range(len(values)))})", *values
        )

    def time() -> Any:
        return AT if place(1) == "$1" else at

    wait = ("c3", "c3.t1", "default", "sleeping", at, at, "a title")
    stored = [*wait[:4], time(), time(), wait[6]]
    await insert("open_waits", WAIT_COLUMNS, *stored, wait_checksum(*wait))
    capability = ("default", "test.echo@1", 4, 1.5, at, "{}")
    await insert("capabilities", CAPABILITY_COLUMNS, *capability[:4], time(), "{}", capability_checksum(*capability))
    request = ("c3", "cancel", "cancel", "{}", "k1")
    await insert("requests", REQUEST_COLUMNS, *request, time(), request_checksum(*request))
    new = chain_checksum("c3", "default", "", 2, at, "c1", None, "talk", "c1.t0")
    grown = f"needs = 0, runs = 7, growth_check = {growth_check(0, 7)}"
    changed = f"context = 'talk', parent = 'c1.t0', wake_at = {place(1)}, wake_checksum = {place(2)}"
    await stores.ask(f"UPDATE chains SET {changed}, checksum = {place(3)}, {grown} WHERE chain_id = 'c3'",
                     time(), wake_checksum("c3", at), new)  # fmt: skip
    (row,) = await stores.ask("SELECT profile, saved_at FROM registrations WHERE agent_id = 'a2'")
    saved_at = row[1] if isinstance(row[1], str) else timestamp(row[1])
    of_agent = AgentRow(row[0], None, "{}").checksum("a2", saved_at)
    await stores.ask(f"UPDATE registrations SET more = '{{}}', checksum = {place(1)} WHERE agent_id = 'a2'", of_agent)
    columns = "key_id, digest, described, created_at, expires_at"
    (key,) = await stores.ask(f"SELECT {columns} FROM api_keys WHERE key_id = 'k1'")
    told = [each if isinstance(each, str | bytes) else timestamp(each) for each in key]
    await stores.ask(f"UPDATE api_keys SET more = '{{}}', checksum = {place(1)} WHERE key_id = 'k1'",
                     checksum(*told, "{}"))  # fmt: skip


def agent(agent_id: str, endpoint: str) -> AgentProfile:
    return AgentProfile(agent_id, (Capability("test.echo"),), endpoint=endpoint)


def flipped(value: Any) -> Any:
    """The value with one bit changed, of the same type."""
    if isinstance(value, str):
        return chr(ord(value[0]) ^ 1) + value[1:] if value else "x"
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1]) + value[1:]
    if isinstance(value, datetime):
        return value + timedelta(microseconds=1)
    if isinstance(value, float):
        return value + 1
    return value ^ 4


class RowDamageContract(abc.ABC):
    """See the module."""

    @abc.abstractmethod
    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run it to its end."""

    @abc.abstractmethod
    def stores(self) -> AbstractAsyncContextManager[DiskStores]:
        """Fresh stores, open for a block."""

    @abc.abstractmethod
    def place(self, number: int) -> str:
        """A parameter of a statement; they stand in it in the order of their numbers."""

    @abc.abstractmethod
    def not_utf8(self, column: str) -> str:
        """SQL for the text of a column with another first byte, one that is in no UTF-8."""

    async def populate(self, stores: DiskStores) -> None:
        """Have a row in every table."""
        await populate(stores)
        await add_rows_of_later_versions(stores, self.place)

    async def refill(self, stores: DiskStores, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """Make these the rows of a table."""
        names = [_quoted(name) for name in stores.columns[table]]
        places = ", ".join(self.place(number) for number in range(1, len(names) + 1))
        await stores.ask(f"DELETE FROM {table}")
        for row in rows:
            await stores.ask(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})", *row)

    async def rows(self, stores: DiskStores, table: str) -> list[tuple[Any, ...]]:
        """What is in a table."""
        found = await stores.ask(f"SELECT {', '.join(map(_quoted, stores.columns[table]))} FROM {table}")
        return [tuple(row) for row in found]

    def _with_stores(self, use: Callable[[DiskStores], Coroutine[Any, Any, None]]) -> None:
        async def main() -> None:
            async with self.stores() as stores:
                await self.populate(stores)
                problems = list(await stores.check())
                assert problems == []
                await use(stores)

        self.run(main())

    def test_any_changed_value_of_any_row_is_found_by_a_check(self) -> None:
        async def use(stores: DiskStores) -> None:
            silent, seen = list[str](), set[str]()
            for table in sorted(stores.columns.keys() - NOT_ROWS):
                rows = await self.rows(stores, table)
                for number, row in enumerate(rows):
                    for place, name in enumerate(stores.columns[table]):
                        if row[place] is None or (table, name) in UNCHECKED:
                            continue
                        seen.add(table)
                        changed = (*row[:place], flipped(row[place]), *row[place + 1 :])
                        await self.refill(stores, table, [*rows[:number], changed, *rows[number + 1 :]])
                        if not await stores.check():
                            silent.append(f"{table}.{name}: {row!r:.200}")
                await self.refill(stores, table, rows)
            assert silent == []
            assert seen == stores.columns.keys() - NOT_ROWS - {table for table, _ in UNCHECKED if table not in seen}
            assert list(await stores.check()) == []

        self._with_stores(use)

    def test_text_that_is_not_utf8_is_found_and_takes_no_other_row_along(self) -> None:
        """One flipped bit makes it of ASCII: drivers decode text before any checksum is looked at."""

        async def use(stores: DiskStores) -> None:
            wrong, damaged = list[str](), 0
            for table in sorted(stores.columns.keys() - NOT_ROWS):
                rows = await self.rows(stores, table)
                for name, value in zip(stores.columns[table], rows[0], strict=True):
                    if not isinstance(value, str) or (table, name) in UNCHECKED:
                        continue
                    damaged += 1
                    where = f"{_quoted(name)} = {self.place(1)} AND {stores.columns[table][0]} = {self.place(2)}"
                    damage = f"UPDATE {table} SET {name} = {self.not_utf8(name)} WHERE {where}"
                    await stores.ask(damage, value, rows[0][0])
                    if not await stores.check():
                        wrong.append(f"{table}.{name}: not found by a check")
                    wrong += [f"{table}.{name}: {fault}" async for fault in _faults_of_uses(stores)]
                    await self.refill(stores, table, rows)
            assert not wrong, wrong
            assert damaged > len(stores.columns.keys() - NOT_ROWS)

        self._with_stores(use)

    @pytest.mark.parametrize(
        ("table", "where"),
        [
            ("facts", "chain_id = 'c2' AND seq = 1"),
            ("facts", "chain_id = 'c1' AND seq = 1"),
            ("facts", "chain_id = 'c1' AND seq = 3"),
            ("facts", "chain_id = 'c1' AND seq = 0"),
            ("facts", "chain_id = 'c3'"),
            ("chains", "chain_id = 'c1'"),
            ("results", "1 = 1"),
            ("submit_keys", "key = 'k2'"),
        ],
    )
    def test_missing_rows_are_found_by_a_check(self, table: str, where: str) -> None:
        async def use(stores: DiskStores) -> None:
            await stores.ask(f"DELETE FROM {table} WHERE {where}")
            assert await stores.check()

        self._with_stores(use)

    @pytest.mark.parametrize(("epoch", "epoch_min", "at_least"), [(1, 5, 5), (0, None, 1), (-(2**62), None, 1)])
    def test_epoch_that_fell_is_found_by_a_check(self, epoch: int, epoch_min: int | None, at_least: int) -> None:
        async def use(stores: DiskStores) -> None:
            fell = f"UPDATE chains SET epoch = {self.place(1)}, epoch_min = {self.place(2)} WHERE chain_id = 'c2'"
            await stores.ask(fell, epoch, epoch_min)
            assert any("c2 of table chains" in problem for problem in await stores.check())
            record = await stores.journal.read("c2")
            assert record is not None
            assert record.epoch == at_least

        self._with_stores(use)

    def test_rows_that_changed_places_are_found_by_a_check(self) -> None:
        async def use(stores: DiskStores) -> None:
            for swap in (
                "UPDATE facts SET seq = CASE seq WHEN 1 THEN 11 ELSE 12 END WHERE chain_id = 'c1' AND seq IN (1, 2)",
                "UPDATE facts SET seq = CASE seq WHEN 11 THEN 2 ELSE 1 END WHERE chain_id = 'c1' AND seq > 10",
            ):
                await stores.ask(swap)
            assert any("c1/1 of table facts" in problem for problem in await stores.check())
            await stores.ask("UPDATE submit_keys SET chain_id = 'c1' WHERE key = 'k2'")
            assert any("default/k2 of table submit_keys" in problem for problem in await stores.check())

        self._with_stores(use)

    def test_changed_result_is_an_error_and_never_an_answer(self) -> None:
        async def use(stores: DiskStores) -> None:
            await stores.ask(
                "UPDATE facts SET fact = replace(fact, '\"n\":1', '\"n\":7') WHERE chain_id = 'c1' AND seq = 2"
            )
            with pytest.raises(RecordDamaged, match="c1/2 of table facts"):
                await stores.journal.read("c1")
            assert [each.submitted.chain_id for each in await stores.journal.outlines(["c1", "c2"])] == ["c2"]
            assert ("facts", "c1/2") in stores.found

        self._with_stores(use)

    def test_changed_large_result_is_an_error_and_other_chains_are_read(self) -> None:
        async def use(stores: DiskStores) -> None:
            await stores.ask("UPDATE results SET body = replace(body, 'xxx', 'xxy')")
            with pytest.raises(RecordDamaged, match="of table results"):
                await stores.journal.read("c1")
            assert await stores.journal.read("c2") is not None

        self._with_stores(use)

    @pytest.mark.parametrize(
        "damage", ["DELETE FROM facts WHERE chain_id = 'c2' AND seq = 1", "DELETE FROM chains WHERE chain_id = 'c2'"]
    )
    def test_missing_row_is_an_error_and_never_a_shorter_history(self, damage: str) -> None:
        async def use(stores: DiskStores) -> None:
            await stores.ask(damage)
            with pytest.raises(RecordDamaged, match="it is missing"):
                await stores.journal.read("c2")
            assert await stores.journal.read("c3") is not None

        self._with_stores(use)

    def test_fact_behind_a_missing_one_does_not_take_its_place(self) -> None:
        async def use(stores: DiskStores) -> None:
            await stores.ask("DELETE FROM facts WHERE chain_id = 'c2' AND seq = 1")
            await stores.journal.append([task_ended("c2", "t1", {})])
            with pytest.raises(RecordDamaged, match="c2/1 of table facts"):
                await stores.journal.read("c2")

        self._with_stores(use)

    def test_list_leaves_a_damaged_row_out_and_keeps_its_pages_full(self) -> None:
        async def use(stores: DiskStores) -> None:
            await stores.ask("UPDATE chains SET name = 'other' WHERE chain_id = 'c3'")
            page = await stores.journal.list_chains(ChainQuery(limit=1))
            assert [chain.chain_id for chain in page] == ["c2"]
            assert stores.found == [("chains", "c3")]
            await stores.journal.list_chains(ChainQuery(limit=1))
            assert stores.found == [("chains", "c3")]

        self._with_stores(use)

    def test_changed_end_of_a_chain_is_not_listed_and_the_chain_not_pruned(self) -> None:
        async def use(stores: DiskStores) -> None:
            (row,) = await stores.ask("SELECT ended_at FROM chains WHERE chain_id = 'c1'")
            sooner = "2006-01-01T12:00:00.000000Z" if isinstance(row[0], str) else row[0] - timedelta(days=7_300)
            await stores.ask(f"UPDATE chains SET ended_at = {self.place(1)} WHERE chain_id = 'c1'", sooner)
            assert [chain.chain_id for chain in await stores.journal.list_chains(ChainQuery())] == ["c3", "c2"]
            assert await stores.journal.prune(datetime(2020, 1, 1, tzinfo=UTC), 100) == 0
            assert await stores.journal.read("c1") is not None

        self._with_stores(use)

    def test_unfinished_chain_whose_row_has_an_end_is_reported_by_the_first_claim(self) -> None:
        """It is not among the unfinished ones any more, so no claim finds it, and it is not run."""

        async def use(stores: DiskStores) -> None:
            await stores.ask("UPDATE chains SET ended_at = submitted_at WHERE chain_id = 'c2'")
            assert list(await stores.journal.claim(10)) == []
            assert stores.found == [("chains", "c2")]

        self._with_stores(use)

    def test_damaged_rows_keep_no_other_from_being_pruned(self) -> None:
        async def use(stores: DiskStores) -> None:
            await stores.journal.append([chain_ended("c2", at=AT + timedelta(seconds=5))])
            await stores.ask("UPDATE chains SET name = 'other' WHERE chain_id = 'c1'")
            assert await stores.journal.prune(AT + timedelta(days=1), 1) == 1
            assert await stores.journal.read("c2") is None
            await stores.ask("UPDATE submit_keys SET chain_id = 'c9' WHERE key = 'k1'")
            assert await stores.journal.prune_keys(AT + timedelta(days=1)) == 1
            assert {row[0] for row in await stores.ask("SELECT key FROM submit_keys")} == {"k1"}

        self._with_stores(use)

    def test_damaged_submit_key_starts_nothing_a_second_time(self) -> None:
        async def use(stores: DiskStores) -> None:
            await stores.ask("UPDATE submit_keys SET chain_id = 'c1' WHERE key = 'k2'")
            key = SubmitKey("default", "k2", b"e" * 32)
            with pytest.raises(RecordDamaged, match="default/k2 of table submit_keys"):
                await stores.journal.find(key)
            with pytest.raises(RecordDamaged, match="default/k2 of table submit_keys"):
                await stores.journal.submit(submitted("c4"), key)
            assert await stores.journal.read("c4") is None

        self._with_stores(use)

    def test_damaged_registration_and_order_are_left_out_and_reported(self) -> None:
        async def use(stores: DiskStores) -> None:
            await stores.ask("UPDATE registrations SET profile = replace(profile, 'a.example', 'b.example') "
                             "WHERE agent_id = 'a1'")  # fmt: skip
            assert [profile.agent_id for profile in await stores.registrations.load()] == ["a2"]
            await stores.ask("UPDATE agent_orders SET command = 'disable'")
            assert await stores.orders.load() == []
            assert stores.found == [("registrations", "a1"), ("agent_orders", "a1/circuit")]
            await stores.registrations.save(agent("a1", "https://c.example/"))
            assert [profile.agent_id for profile in await stores.registrations.load()] == ["a1", "a2"]

        self._with_stores(use)

    @pytest.mark.parametrize(
        ("damage", "key_id"),
        [
            ("UPDATE api_keys SET described = replace(described, '*', 'x') WHERE key_id = 'k1'", "k1"),
            ("UPDATE api_keys SET revoked_at = NULL WHERE key_id = 'k2'", "k2"),
        ],
    )
    def test_damaged_key_opens_nothing(self, damage: str, key_id: str) -> None:
        async def use(stores: DiskStores) -> None:
            await stores.ask(damage)
            found = await stores.keys.read()
            assert found is not None
            assert key_id not in {stored.key.key_id for stored in found.keys}
            assert stores.found == [("api_keys", key_id)]

        self._with_stores(use)

    def test_damaged_audit_record_is_left_out_and_the_page_is_full(self) -> None:
        async def use(stores: DiskStores) -> None:
            await stores.audit.append([AuditRecord(AT, "k1", "default", "agent.add", "a8", 200, 1)], 100)
            await stores.ask("UPDATE audit SET status = 403 WHERE object_id = 'a8'")
            assert [record.object_id for record in await stores.audit.page(None, 1)] == ["a9"]

        self._with_stores(use)

    def test_rows_of_older_versions_are_read_and_get_a_checksum_when_they_are_written(self) -> None:
        async def use(stores: DiskStores) -> None:
            await _as_of_an_older_version(stores)
            assert list(await stores.check()) == []
            assert await stores.journal.read("c1") is not None
            assert len(await stores.journal.list_chains(ChainQuery())) == 3
            assert await stores.journal.find(SubmitKey("default", "k1", b"d" * 32)) == "c1"
            assert len(await stores.registrations.load()) == 2
            keys = await stores.keys.read()
            assert keys is not None
            assert len(keys.keys) == 2
            await stores.journal.append([task_ended("c2", "t1", {})])
            await stores.registrations.save(agent("a1", "https://c.example/"))
            assert list(await stores.check()) == []
            rows = await stores.ask("SELECT seq, checksum FROM facts WHERE chain_id = 'c2' ORDER BY seq")
            assert [checksum is not None for _, checksum in rows] == [False, False, True]
            await stores.ask("DELETE FROM facts WHERE chain_id = 'c2' AND seq = 1")
            assert await stores.check()

        self._with_stores(use)


async def _faults_of_uses(stores: DiskStores) -> AsyncIterator[str]:
    """What goes wrong when everything is read: damage is an error of what it is in, and of nothing else."""
    journal = stores.journal
    uses: dict[str, Callable[[], Awaitable[Sequence[Any] | object]]] = {
        "chains": lambda: journal.list_chains(ChainQuery()),
        "outlines": lambda: journal.outlines(["c1", "c2", "c3"]),
        "registrations": stores.registrations.load,
        "orders": stores.orders.load,
        "keys": stores.keys.read,
        "audit": lambda: stores.audit.page(None, 10),
        **{chain_id: partial(journal.read, chain_id) for chain_id in ("c1", "c2", "c3")},
        "submit key": lambda: journal.find(SubmitKey("default", "k1", b"d" * 32)),
    }
    for name, use in uses.items():
        try:
            found = await use()
        except RecordDamaged:
            continue
        except Exception as error:  # noqa: BLE001 - each is a fault of this use
            yield f"{name}: {error!r}"
            continue
        if name in {"chains", "outlines"} and isinstance(found, Sequence) and len(found) < 2:
            yield f"{name}: only {len(found)}"


def _quoted(name: str) -> str:
    return f'"{name}"'


async def _as_of_an_older_version(stores: DiskStores) -> None:
    columns = {
        "chains": ("checksum", "status_checksum", "key_checksum", "facts_min", "epoch_min"),
        "facts": ("checksum",), "submit_keys": ("checksum",), "registrations": ("checksum",),
        "api_keys": ("checksum", "revoked_checksum"), "audit": ("checksum",), "agent_orders": ("checksum",),
    }  # fmt: skip
    for table, names in columns.items():
        await stores.ask(f"UPDATE {table} SET {', '.join(f'{name} = NULL' for name in names)}")
