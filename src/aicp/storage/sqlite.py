"""The journal on SQLite: what it acknowledged survives kill -9 and loss of power."""

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial

from aicp.errors import ChainNotFound, Conflict, IdempotencyConflict
from aicp.model.event import ChainSubmitted, Fact
from aicp.model.task import TaskStatus
from aicp.ports import ChainRecord, Clock, SubmitKey, SystemClock
from aicp.storage.contract_draft import ChainQuery, ChainSummary, OwnershipLost
from aicp.storage.rows import AppendRows, FactRow, encode_facts, encode_submitted, timestamp
from aicp.storage.sqlite_book import FIRST_EPOCH, Book
from aicp.storage.sqlite_database import SqliteDatabase
from aicp.storage.sqlite_pruning import prune_chains, prune_keys
from aicp.storage.sqlite_reading import read_record, read_summaries, read_unfinished

KEYS_KEPT = timedelta(days=7)

_CLAIM = "UPDATE chains SET epoch = epoch + 1 WHERE ended_at IS NULL"
_log = logging.getLogger(__name__)


class SqliteJournal:
    """Chains in a SQLite file.

    Writes of one moment share a transaction, so the disk's time is shared by all who wait; a small fact then costs some
    20 µs of processor, alone some 200. Reads see a snapshot and wait for nobody.

    Args:
        database: The file; the journal opens and closes it.
        clock: Tells the age of submit keys.
    """

    durable = True

    def __init__(self, database: SqliteDatabase, *, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    async def open(self) -> None:
        """Open the file: take its lock, within 10 s, and bring it to the newest schema.

        Raises:
            SettingsError: It is in use by another process, unwritable, of a newer version, or not AICP's.
            StorageError: The disk failed.
        """
        await self._database.open()

    async def close(self) -> None:
        """Write what was handed over, and close the file; at most 30 s.

        Raises:
            StorageError: It took longer.
        """
        await self._database.close()

    async def submit(self, submitted: ChainSubmitted, key: SubmitKey | None = None) -> str:
        """Record a new chain and return its id; for a key seen before with the same body, the id it got then.

        Raises:
            IdempotencyConflict: The key was used with another body.
            Conflict: There is a chain of this id.
            StorageError: It could not be recorded.
        """
        fact = encode_submitted(submitted)
        return await self._database.write(partial(_submit, submitted, fact, key), len(fact.fact))

    async def append(self, facts: Sequence[Fact], epoch: int = 1) -> None:
        """Record facts of one chain, all or none, in the order of the calls.

        Once it was handed over, a cancelled caller only stops waiting: the facts are recorded all the same.

        Raises:
            ChainNotFound: There is no such chain.
            OwnershipLost: The chain's epoch is higher than `epoch`.
            Conflict: The chain has ended.
            StorageError: They could not be recorded.
        """
        if facts:
            rows = encode_facts(facts)
            await self._database.write(partial(_append, rows, epoch), rows.size)

    async def claim(self) -> Sequence[ChainRecord]:
        """Become the owner of every unfinished chain, epoch + 1, and return them, oldest first.

        One that cannot be read, as a newer version may have left it, is logged and left as it is.

        Raises:
            StorageError: They could not be claimed or read.
        """
        return await self._database.write(_claim)

    async def read(self, chain_id: str) -> ChainRecord | None:
        """Everything recorded of a chain, as of one moment; None when there is no such chain.

        Raises:
            StorageError: It could not be read.
        """
        return await self._database.read(lambda connection: read_record(connection, chain_id))

    async def list_chains(self, query: ChainQuery) -> Sequence[ChainSummary]:
        """Newest first, one page. Costs the page, however many chains there are.

        Raises:
            StorageError: They could not be read.
        """
        return await self._database.read(lambda connection: read_summaries(connection, query))

    async def prune(self, before: datetime, limit: int) -> int:
        """Forget at most `limit` finished chains that ended before then, oldest end first; returns how many.

        Submit keys older than 7 days go too, and large results that nothing refers to any more. It takes many short
        transactions, with other writes between them. The file does not shrink: its free pages are used again.

        Raises:
            StorageError: Something could not be forgotten; what was, stays so.
        """
        pruned = 0
        while pruned < limit:
            work = partial(prune_chains, before=timestamp(before), limit=limit - pruned)
            if not (count := await self._database.write(work)):
                break
            pruned += count
        keys_before = timestamp(self._clock.utcnow() - KEYS_KEPT)
        while await self._database.write(partial(prune_keys, before=keys_before)):
            pass
        return pruned


def _submit(submitted: ChainSubmitted, fact: FactRow, key: SubmitKey | None, book: Book) -> str:
    if key is not None and (use := book.key_use((key.tenant, key.key))) is not None:
        digest, chain_id = use
        if digest != key.digest:
            raise IdempotencyConflict
        return chain_id
    at, spec = timestamp(submitted.at), submitted.spec
    row = (submitted.tenant, spec.name, TaskStatus.PENDING.value, len(spec.tasks), FIRST_EPOCH, at, submitted.retry_of)
    book.add_chain(submitted.chain_id, row, fact.fact)
    if key is not None:
        book.add_key((key.tenant, key.key), (key.digest, submitted.chain_id), at)
    return submitted.chain_id


def _append(rows: AppendRows, epoch: int, book: Book) -> None:
    head = book.head(rows.chain_id)
    if head is None:
        raise ChainNotFound(f"There is no chain '{rows.chain_id}'.")
    if head.epoch > epoch:
        raise OwnershipLost(f"Chain {rows.chain_id} has another owner, of epoch {head.epoch}; this one's is {epoch}.")
    if head.is_over:
        raise Conflict(f"Chain {rows.chain_id} has ended; nothing more is recorded of it.")
    book.add_facts(head, rows)


def _claim(book: Book) -> list[ChainRecord]:
    book.execute(_CLAIM)
    book.forget_heads()
    records: list[ChainRecord] = []
    for record in read_unfinished(book.connection):
        if isinstance(record, ChainRecord):
            records.append(record)
        else:
            _log.error("an unfinished chain cannot be read, and stays as it is: %s", record)
    return records
