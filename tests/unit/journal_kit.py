"""A journal whose disk takes its time or fails, and which watches over the order of facts."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from aicp.errors import StorageError
from aicp.model.event import ChainEnded, ChainSubmitted, Fact, TaskEnded
from aicp.ports import SubmitKey
from aicp.storage.memory import MemoryJournal

T = TypeVar("T")


class WatchedJournal(MemoryJournal):
    """Writes one after another, in the order they were asked for; a write goes on when whoever asked has left.

    Args:
        commit_s: How long each write takes; nothing is on record before.
        fails: Asked at the end of each write; True makes it fail.
        watches: False to let through what no coordinator should record while its disk works.
    """

    def __init__(
        self,
        commit_s: Callable[[], float] = lambda: 0.0,
        *,
        fails: Callable[[], bool] = lambda: False,
        watches: bool = True,
    ) -> None:
        super().__init__()
        self.recorded: list[Fact] = []
        self.writes = 0
        self._commit_s = commit_s
        self._fails = fails
        self._watches = watches
        self._disk = asyncio.Lock()
        self._writing: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        await asyncio.gather(*self._writing, return_exceptions=True)

    async def submit(self, submitted: ChainSubmitted, key: SubmitKey | None = None, facts: Sequence[Fact] = ()) -> str:
        return await self._write(lambda: MemoryJournal.submit(self, submitted, key, facts))

    async def append(self, facts: Sequence[Fact], epoch: int = 1) -> None:
        async def commit() -> None:
            if self._watches:
                for fact in facts:
                    self._check(fact)
            await MemoryJournal.append(self, facts, epoch)
            self.recorded.extend(facts)

        await self._write(commit)

    def of(self, chain_id: str) -> list[Fact]:
        """The facts of one chain, in order."""
        return [fact for fact in self.recorded if fact.chain_id == chain_id]

    def has(self, chain_id: str, task: str) -> bool:
        """True when the end of a task is on record."""
        return any(isinstance(fact, TaskEnded) and fact.task == task for fact in self.of(chain_id))

    async def _write(self, commit: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async def write() -> T:
            async with self._disk:
                self.writes += 1
                await asyncio.sleep(self._commit_s())
                if self._fails():
                    raise StorageError("the disk is full")
                return await commit()

        writing = asyncio.create_task(write())
        self._writing.add(writing)
        writing.add_done_callback(self._writing.discard)
        return await asyncio.shield(writing)

    def _check(self, fact: Fact) -> None:
        earlier = self.of(fact.chain_id)
        assert not any(isinstance(each, ChainEnded) for each in earlier), f"{fact} after the chain's end"
        if isinstance(fact, TaskEnded):
            assert not self.has(fact.chain_id, fact.task), f"{fact.task} ended twice"
