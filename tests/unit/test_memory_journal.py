"""The journal in memory: the contract of journals, and the bounds that are its own."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aicp.errors import ChainNotFound, QueueFull
from aicp.model.event import ChainEnded
from aicp.model.task import TaskStatus
from aicp.ports import KEYS_KEPT, ChainQuery, Journal, SubmitKey
from aicp.storage import memory
from aicp.storage.memory import MemoryJournal
from aicp.testing import VirtualClock, run
from aicp.testing.journal_contract import AT, JournalContract, chain, ended
from tests.unit.flow_kit import virtual
from tests.unit.journal_kit import WatchedJournal


class TestMemoryJournalKeepsTheContract(JournalContract):
    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Journal]:
        yield MemoryJournal()

    def reopened(self, journal: Journal) -> Journal:
        return journal


class TestSlowWatchedJournalKeepsTheContract(JournalContract):
    """The tests' own journal, so that what they find is not its fault."""

    def run(self, main: Coroutine[Any, Any, None]) -> None:
        run(main)

    @asynccontextmanager
    async def journal(self) -> AsyncIterator[Journal]:
        yield WatchedJournal(lambda: 0.01, watches=False)

    def reopened(self, journal: Journal) -> Journal:
        return journal


async def finish(journal: MemoryJournal, name: str) -> None:
    await journal.append([ChainEnded(name, TaskStatus.COMPLETED, AT)])


@virtual
async def test_it_says_that_it_is_not_durable() -> None:
    assert MemoryJournal().durable is False


@virtual
async def test_the_oldest_finished_chains_are_forgotten_and_unfinished_ones_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "FINISHED_KEPT_MAX", 3)
    journal = MemoryJournal()
    for number in range(10):
        await journal.submit(chain(f"chain-{number}"))
    for number in range(1, 10):
        await finish(journal, f"chain-{number}")
    listed = [summary.chain_id for summary in await journal.list_chains(ChainQuery())]
    assert listed == ["chain-9", "chain-8", "chain-7", "chain-0"]
    assert await journal.read("chain-1") is None
    with pytest.raises(ChainNotFound):
        await journal.append([ended("chain-1", "a")])


@virtual
async def test_keys_are_kept_seven_days_and_no_longer() -> None:
    clock = VirtualClock()
    journal, key = MemoryJournal(clock=clock), SubmitKey("t", "key", b"digest")
    await journal.submit(chain("first"), key)
    clock.shift_wall(30 * 86_400)
    assert await journal.submit(chain("second"), key) == "first"
    await journal.prune(clock.utcnow(), 10)
    assert await journal.prune_keys(AT) == 0
    assert await journal.submit(chain("second"), key) == "first"
    assert await journal.prune_keys(clock.utcnow()) == 1
    assert await journal.submit(chain("third"), key) == "third"


@virtual
async def test_too_many_young_keys_are_refused_and_none_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "KEYS_KEPT_MAX", 5)
    clock = VirtualClock()
    journal = MemoryJournal(clock=clock)
    for number in range(5):
        await journal.submit(chain(f"chain-{number}"), SubmitKey("t", f"key-{number}", b"digest"))
    with pytest.raises(QueueFull, match="submit without a key"):
        await journal.submit(chain("one-more"), SubmitKey("t", "key-5", b"digest"))
    assert await journal.read("one-more") is None
    assert await journal.submit(chain("again"), SubmitKey("t", "key-0", b"digest")) == "chain-0"
    clock.shift_wall(KEYS_KEPT.total_seconds() + 1)
    with pytest.raises(QueueFull):
        await journal.submit(chain("later"), SubmitKey("t", "key-5", b"digest"))
    await asyncio.sleep(KEYS_KEPT.total_seconds() + 1)
    assert await journal.submit(chain("later"), SubmitKey("t", "key-5", b"digest")) == "later"


@virtual
async def test_a_key_outlives_the_chain_it_leads_to_so_that_nothing_runs_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "FINISHED_KEPT_MAX", 1)
    journal, key = MemoryJournal(), SubmitKey("t", "key", b"digest")
    await journal.submit(chain("first"), key)
    await finish(journal, "first")
    await journal.submit(chain("second"))
    await finish(journal, "second")
    assert await journal.read("first") is None
    assert await journal.submit(chain("third"), key) == "first"
