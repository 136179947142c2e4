"""Puts the facts of one chain on record: in their order, and again and again while the disk refuses."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

import msgspec

from aicp.errors import Conflict, StorageError
from aicp.model.event import ChainEnded, Fact
from aicp.ports import Journal
from aicp.resilience.backoff import Backoff

FACTS_AT_ONCE_MAX = 256
CLOSE_WAIT_S = 10.0
RETRY_BACKOFF = Backoff(first_s=0.05, factor=2.0, max_s=5.0, jitter=0.2)

_log = logging.getLogger(__name__)


class _Entry(msgspec.Struct, frozen=True, eq=False):
    facts: Sequence[Fact]
    done: asyncio.Future[None]


class Recorder:
    """One append at a time; what is decided meanwhile goes with the next one.

    So no fact is on record without those decided before it, whichever appends fail. An append that fails is done again
    after a wait that grows from 50 ms to 5 s, until it succeeds, the chain has another owner, or `close`.

    Args:
        chain_id: Of the chain, for the log.
        journal: Holds the record.
        epoch: Of the chain's owner.
        on_record: Called with each set of facts, in their order, once it is on record; it must not raise.
        uniform: Chance, for the waits.
    """

    def __init__(
        self,
        chain_id: str,
        journal: Journal,
        epoch: int,
        on_record: Callable[[Sequence[Fact]], None],
        uniform: Callable[[float, float], float],
    ) -> None:
        self._chain_id = chain_id
        self._journal = journal
        self._epoch = epoch
        self._on_record = on_record
        self._uniform = uniform
        self._pending: deque[_Entry] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._refusal: Exception | None = None
        self._closing = asyncio.Event()

    async def record(self, facts: Sequence[Fact]) -> None:
        """Return once these facts are on record, all together. They will be even if the caller leaves before.

        Raises:
            OwnershipLost: The chain has another owner; nothing is recorded here any more.
            StorageError: The disk refused until `close`.
        """
        if self._refusal is not None:
            raise self._refusal
        done = asyncio.get_running_loop().create_future()
        self._pending.append(_Entry(facts, done))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name=f"record of chain {self._chain_id}")
        await done

    async def drained(self) -> None:
        """Return once nothing waits to be recorded."""
        while self._writing is not None:
            await asyncio.wait([self._writing])

    def stop_trying(self) -> None:
        """Let what waits have one more try; then it fails, and so does whatever comes later."""
        self._closing.set()

    async def close(self) -> None:
        """Stop trying, and return when the last try has ended, within 10 s."""
        self.stop_trying()
        if self._writing is not None:
            await asyncio.wait([self._writing], timeout=CLOSE_WAIT_S)
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.wait([self._writing])
        self._refuse(self._stopped())

    async def _write(self) -> None:
        try:
            while self._pending:
                await self._write_some(self._next())
        except Exception as error:  # noqa: BLE001 - told to everybody who waits for the record
            self._refuse(error)
        except asyncio.CancelledError:
            self._refuse(self._stopped())
            raise
        finally:
            self._writing = None

    def _next(self) -> list[_Entry]:
        """The first entry, and so many of the others that they are one short append."""
        count = 0
        some: list[_Entry] = []
        for entry in islice(self._pending, FACTS_AT_ONCE_MAX):
            count += len(entry.facts)
            if some and count > FACTS_AT_ONCE_MAX:
                break
            some.append(entry)
        return some

    async def _write_some(self, entries: list[_Entry]) -> None:
        await self._append([fact for entry in entries for fact in entry.facts])
        for entry in entries:
            self._on_record(entry.facts)
            # Not before: were that to raise, whoever waits for this entry would never be told.
            self._pending.popleft()
            if not entry.done.done():
                entry.done.set_result(None)

    async def _append(self, facts: Sequence[Fact]) -> None:
        wait_s = 0.0
        while True:
            try:
                await self._journal.append(facts, self._epoch)
            except StorageError as error:
                if self._closing.is_set():
                    raise
                if not wait_s:
                    _log.warning("chain %s cannot be recorded, trying on: %s", self._chain_id, error)
            except Conflict:
                # Nobody else ends a chain of this epoch: it was recorded before, and only the answer got lost.
                if wait_s and isinstance(facts[-1], ChainEnded):
                    return
                raise
            else:
                return
            wait_s = RETRY_BACKOFF.after(wait_s)
            await self._sleep(RETRY_BACKOFF.jittered(wait_s, self._uniform))

    async def _sleep(self, wait_s: float) -> None:
        try:
            async with asyncio.timeout(wait_s):
                await self._closing.wait()
        except TimeoutError:
            return

    def _refuse(self, error: Exception) -> None:
        self._refusal = self._refusal or error
        while self._pending:
            done = self._pending.popleft().done
            if not done.done():
                done.set_exception(self._refusal)

    def _stopped(self) -> StorageError:
        return StorageError(f"Chain {self._chain_id} was stopped before this was on record.")
