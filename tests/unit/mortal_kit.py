"""Journals that fail or die at a chosen use, in front of a real one."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import TypeVar

from aicp.errors import StorageError
from aicp.model.event import ChainSubmitted, Fact
from aicp.model.request import Request
from aicp.ports import ChainQuery, ChainRecord, ChainSummary, Journal, SubmitKey

T = TypeVar("T")


class _Passing:
    """Hands every call to the journal behind it, by way of `_use`."""

    def __init__(self, inner: Journal) -> None:
        self.inner = inner

    @property
    def durable(self) -> bool:
        return self.inner.durable

    async def open(self) -> None:
        await self.inner.open()

    async def close(self) -> None:
        await self.inner.close()

    async def find(self, key: SubmitKey) -> str | None:
        return await self._use("find", lambda: self.inner.find(key))

    async def submit(self, submitted: ChainSubmitted, key: SubmitKey | None = None, facts: Sequence[Fact] = ()) -> str:
        return await self._use("submit", lambda: self.inner.submit(submitted, key, facts))

    async def append(self, facts: Sequence[Fact], epoch: int = 1) -> None:
        await self._use("append", lambda: self.inner.append(facts, epoch))

    async def claim(self, limit: int) -> Sequence[ChainRecord]:
        return await self._use("claim", lambda: self.inner.claim(limit))

    async def read(self, chain_id: str) -> ChainRecord | None:
        return await self._use("read", lambda: self.inner.read(chain_id))

    async def summary(self, chain_id: str) -> ChainSummary | None:
        return await self._use("summary", lambda: self.inner.summary(chain_id))

    async def outlines(self, chain_ids: Sequence[str]) -> Sequence[ChainRecord]:
        return await self._use("outlines", lambda: self.inner.outlines(chain_ids))

    async def list_chains(self, query: ChainQuery) -> Sequence[ChainSummary]:
        return await self._use("list", lambda: self.inner.list_chains(query))

    async def ask(self, request: Request) -> bool:
        return await self._use("ask", lambda: self.inner.ask(request))

    async def asked(self) -> Sequence[Request]:
        return await self._use("asked", self.inner.asked)

    async def prune(self, before: datetime, limit: int) -> int:
        return await self._use("prune", lambda: self.inner.prune(before, limit))

    async def prune_keys(self, before: datetime) -> int:
        return await self._use("prune_keys", lambda: self.inner.prune_keys(before))

    async def _use(self, what: str, doing: Callable[[], Awaitable[T]]) -> T:
        return await doing()


class FailingJournal(_Passing):
    """Fails at some uses.

    Args:
        inner: The journal behind it.
        fails: Asked with the number, from 1, and the name of each use; True makes it fail.
        after: True to do it all the same, as when only the answer gets lost.
    """

    def __init__(self, inner: Journal, fails: Callable[[int, str], bool], *, after: bool = False) -> None:
        super().__init__(inner)
        self.uses = 0
        self._fails = fails
        self._after = after

    async def _use(self, what: str, doing: Callable[[], Awaitable[T]]) -> T:
        self.uses += 1
        fails = self._fails(self.uses, what)
        if fails and not self._after:
            raise StorageError("the disk failed")
        result = await doing()
        if fails:
            raise StorageError("the answer of the disk got lost")
        return result


class MortalJournal(_Passing):
    """Its process dies at a write: from then on nothing is recorded, and nobody is told anything.

    Args:
        inner: The journal behind it, which survives.
        dies_at: The number of the write, from 1; 0 for never.
        after: True when that write is on record before the process dies.
    """

    def __init__(self, inner: Journal, dies_at: int, *, after: bool) -> None:
        super().__init__(inner)
        self.writes = 0
        self.died = asyncio.Event()
        self._dies_at = dies_at
        self._after = after

    async def close(self) -> None:
        """A process that died closes nothing."""

    async def _use(self, what: str, doing: Callable[[], Awaitable[T]]) -> T:
        if what in {"submit", "append", "claim", "prune"}:
            self.writes += 1
            if self.writes == self._dies_at and not self.died.is_set():
                if self._after:
                    await doing()
                self.died.set()
        if self.died.is_set():
            await asyncio.Event().wait()
        return await doing()
