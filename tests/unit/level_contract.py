"""What every store on a disk must do with chains of a newer version: subclass `LevelContract` and say how to make one.

A version of level 1 is made up: to it a cancel is a fact that level 0 does not know.
"""

import abc
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any

import pytest

from aicp.errors import NewerVersion
from aicp.model import level
from aicp.model.event import ChainCancelled, TaskStarted
from aicp.model.fact import TaskExpanded
from aicp.model.request import cancel_request
from aicp.model.task import TaskStatus
from aicp.ports import ChainQuery, Journal
from aicp.storage.row_checksums import fact_checksum, placed
from tests.unit.sqlite_kit import AT, chain_ended, submitted, task_ended

NEWER = [ChainCancelled("c2", AT)]
Ask = Callable[[str], Awaitable[Sequence[Any]]]


@pytest.fixture(autouse=True)
def _newer_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(level, "FACT_LEVELS", {ChainCancelled: 1})


class LevelContract(abc.ABC):
    """See the module."""

    claimed_at_once: tuple[int, ...]
    """How many of three chains with 1,502 runs each a claim takes, one claim behind the other."""

    @abc.abstractmethod
    def run(self, main: Coroutine[Any, Any, None]) -> None:
        """Run it to its end."""

    @abc.abstractmethod
    def opened(self, level: int) -> AbstractAsyncContextManager[Journal]:
        """A journal of a level on the one database of the test, open for a block; others have ended."""

    @abc.abstractmethod
    async def ask(self, sql: str) -> Sequence[Any]:
        """The rows of a statement on that database."""

    @abc.abstractmethod
    async def problems(self) -> Sequence[str]:
        """What `aicp db check` finds wrong."""

    def test_only_a_version_that_knows_the_facts_of_a_chain_claims_and_reads_it(self) -> None:
        async def main() -> None:
            async with self.opened(1) as newer:
                for name in ("c1", "c2", "c3"):
                    await newer.submit(submitted(name, tenant="t"))
                await newer.append(NEWER)
            async with self.opened(0) as older:
                assert await _claimed(older) == ["c1", "c3"]
                with pytest.raises(NewerVersion, match="level 1"):
                    await older.read("c2")
                assert [each.submitted.chain_id for each in await older.outlines(["c1", "c2", "c3"])] == ["c1", "c3"]
                assert [each.chain_id for each in await older.list_chains(ChainQuery())] == ["c3", "c2", "c1"]
                row = await older.summary("c2")
                assert row is not None
                assert (row.tenant, row.status) == ("t", TaskStatus.PENDING)
                assert await older.summary("c4") is None
                await older.append([task_ended("c1", "t0"), chain_ended("c1")], 2)
            assert list(await self.problems()) == []
            async with self.opened(1) as newer:
                assert await _claimed(newer) == ["c2", "c3"]
                record = await newer.read("c2")
                assert record is not None
                assert (list(record.facts), record.epoch) == (NEWER, 2)

        self.run(main())

    def test_request_to_a_chain_of_a_newer_version_waits_for_that_version(self) -> None:
        async def main() -> None:
            async with self.opened(1) as newer:
                await newer.submit(submitted("c2"), None, NEWER)
            async with self.opened(0) as older:
                assert await older.ask(cancel_request("c2"))
                assert list(await older.asked()) == []
            async with self.opened(1) as newer:
                assert await _claimed(newer) == ["c2"]
                assert list(await newer.asked()) == [cancel_request("c2")]

        self.run(main())

    def test_level_of_a_chain_is_raised_with_its_facts_and_never_lowered(self) -> None:
        async def main() -> None:
            async with self.opened(1) as newer:
                await newer.submit(submitted("c1"), None, [ChainCancelled("c1", AT)])
                await newer.submit(submitted("c2"))
                await newer.append([task_ended("c2", "t0")])
                assert await self._needs() == [("c1", 1), ("c2", 0)]
                await newer.append([*NEWER, task_ended("c2", "t1")])
                await newer.append([task_ended("c2", "t1")])
                await newer.append(NEWER)
                assert await self._needs() == [("c1", 1), ("c2", 1)]
                await newer.append([chain_ended("c2")])
                assert await self._needs() == [("c1", 1), ("c2", 1)]
            assert list(await self.problems()) == []

        self.run(main())

    def test_changed_level_of_a_chain_is_found_by_a_check(self) -> None:
        async def main() -> None:
            async with self.opened(1) as newer:
                await newer.submit(submitted("c1"))
                await newer.submit(submitted("c2"), None, NEWER)
            for name, needs in (("c1", 1), ("c2", 0)):
                await self.ask(f"UPDATE chains SET needs = {needs} WHERE chain_id = '{name}'")
                assert any(f"row {name} of table chains" in problem for problem in await self.problems())

        self.run(main())

    def test_runs_of_a_chain_are_counted_with_the_facts_that_begin_them(self) -> None:
        async def main() -> None:
            async with self.opened(0) as journal:
                await journal.submit(submitted("c1", tasks=3), None, [TaskExpanded("c1", "t0", 5, AT)])
                await journal.submit(submitted("c2", tasks=3))
                await journal.append([task_ended("c2", "t0")])
                assert await self._runs() == [("c1", 8), ("c2", None)]
                await journal.append([TaskExpanded("c2", "t1", 10, AT), TaskExpanded("c2", "t2", 0, AT)])
                await journal.append([TaskExpanded("c2", "t2", 7, AT)])
                assert await self._runs() == [("c1", 8), ("c2", 20)]
            assert list(await self.problems()) == []

        self.run(main())

    def test_claims_and_prunes_weigh_chains_by_their_runs(self) -> None:
        async def main() -> None:
            async with self.opened(0) as journal:
                for name in ("c1", "c2", "c3"):
                    await journal.submit(submitted(name), None, [TaskExpanded(name, "t0", 1_500, AT)])
            async with self.opened(0) as journal:
                sizes = []
                while records := await journal.claim(10):
                    sizes.append(len(records))
                    for record in records:
                        await journal.append([chain_ended(record.submitted.chain_id)], 2)
                assert tuple(sizes) == self.claimed_at_once
                assert await journal.prune(AT + timedelta(days=1), 10) == 3

        self.run(main())

    def test_chain_of_a_newer_version_is_pruned_once_it_ended(self) -> None:
        async def main() -> None:
            async with self.opened(1) as newer:
                await newer.submit(submitted("c2"), None, NEWER)
                await newer.append([chain_ended("c2")])
            async with self.opened(0) as older:
                assert await older.prune(AT + timedelta(days=1), 10) == 1
                assert await older.summary("c2") is None

        self.run(main())

    def test_damage_in_a_chain_of_a_newer_version_is_found_without_reading_its_facts(self) -> None:
        async def main() -> None:
            async with self.opened(1) as newer:
                await newer.submit(submitted("c2"), None, NEWER)
            await self.ask("UPDATE facts SET fact = replace(fact, 'chain_cancelled', 'not_known_yet') WHERE seq = 1")
            assert any("row c2/1 of table facts" in problem for problem in await self.problems())

        self.run(main())

    @pytest.mark.parametrize(
        ("seq", "old", "new"),
        [(1, "task_started", "task_dreamed"), (0, '"id":"t0"', '"id":"t0","when":"size(x) > 0"')],
        ids=["fact", "field"],
    )
    def test_intact_fact_that_no_type_fits_needs_a_newer_version(self, seq: int, old: str, new: str) -> None:
        """Its chain is left alone and is not damaged, and the chains beside it are claimed and listed."""

        async def main() -> None:
            async with self.opened(0) as journal:
                for name in ("c1", "c2", "c3"):
                    await journal.submit(submitted(name))
                await journal.append([TaskStarted("c2", "t0", AT)])
            (row,) = await self.ask(f"SELECT fact FROM facts WHERE chain_id = 'c2' AND seq = {seq}")
            fact = row[0].replace(old, new)
            assert fact != row[0]
            checksum = placed(fact_checksum("c2", None, fact.encode()), seq)
            await self.ask(
                f"UPDATE facts SET fact = '{fact}', checksum = {checksum} WHERE chain_id = 'c2' AND seq = {seq}"
            )
            async with self.opened(0) as journal:
                assert await _claimed(journal) == ["c1", "c3"]
                with pytest.raises(NewerVersion):
                    await journal.read("c2")
                assert [each.submitted.chain_id for each in await journal.outlines(["c1", "c2", "c3"])] == ["c1", "c3"]
                assert [each.chain_id for each in await journal.list_chains(ChainQuery())] == ["c3", "c2", "c1"]
            assert list(await self.problems()) == []

        self.run(main())

    async def _runs(self) -> list[tuple[str, int | None]]:
        return [(row[0], row[1]) for row in await self.ask("SELECT chain_id, runs FROM chains ORDER BY chain_id")]

    async def _needs(self) -> list[tuple[str, int]]:
        return [(row[0], row[1]) for row in await self.ask("SELECT chain_id, needs FROM chains ORDER BY chain_id")]


async def _claimed(journal: Journal) -> list[str]:
    claimed: list[str] = []
    while records := await journal.claim(10):
        claimed += [record.submitted.chain_id for record in records]
    return claimed
