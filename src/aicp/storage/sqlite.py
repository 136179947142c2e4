"""The journal on SQLite: what it acknowledged survives kill -9 and loss of power."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec

from aicp.errors import ChainNotFound, Conflict, IdempotencyConflict, OwnershipLost, RecordDamaged
from aicp.model.document_desk import DocumentDesk
from aicp.model.event import ChainSubmitted, Fact
from aicp.model.request import Request
from aicp.model.task import TaskStatus
from aicp.ports import ChainQuery, ChainRecord, ChainSummary, SubmitKey
from aicp.storage.chain_growth import growth_of
from aicp.storage.pruned import Pruned
from aicp.storage.rows import FIRST_EPOCH, AppendRows, FactEncoder, FactRow, timestamp
from aicp.storage.sqlite_book import Book, KeyUse, read_key_use
from aicp.storage.sqlite_claiming import Claimed, claim_chains, contradictory_ends, newest_chain
from aicp.storage.sqlite_database import SqliteDatabase
from aicp.storage.sqlite_pruning import prune_chains, prune_keys
from aicp.storage.sqlite_reading import read_outlines, read_record, read_summaries, read_summary
from aicp.storage.sqlite_requests import read_requests, record_request
from aicp.storage.sqlite_writer import Work


class SqliteJournal:
    """Chains in a SQLite file.

    Writes of one moment share a transaction, so the disk's time is shared by all who wait; a small fact then costs some
    20 µs of processor, alone some 200. Reads see a snapshot and wait for nobody.

    Args:
        database: The file; the journal opens and closes it.
        documents: Where heavy facts are encoded and decoded; a desk of its own by default.
    """

    durable = True

    def __init__(self, database: SqliteDatabase, documents: DocumentDesk | None = None) -> None:
        self._database = database
        self._level = database.level
        self._encoder = FactEncoder(documents or DocumentDesk())
        self._claimed_up_to = 0
        self._left_up_to = 0
        self._has_looked = False
        self._may_have_requests = True
        self._is_open = False

    async def open(self) -> None:
        """Open the file: take its lock, within 10 s, and bring it to the newest schema.

        Raises:
            SettingsError: It is in use by another process, unwritable, of a newer version, or not AICP's.
            StorageError: The disk failed.
        """
        if self._is_open:
            return
        await self._database.open()
        try:
            # Whatever is unfinished now was left by an earlier process; what is submitted from now on is this one's.
            self._claimed_up_to, self._left_up_to = 0, await self._database.read(newest_chain)
            self._has_looked = False
            self._may_have_requests = True
        except BaseException:
            await self._database.close()
            raise
        self._is_open = True

    async def close(self) -> None:
        """Write what was handed over, and close the file; at most 30 s.

        Raises:
            StorageError: It took longer.
        """
        self._is_open = False
        await self._database.close()

    async def find(self, key: SubmitKey) -> str | None:
        """The id of the chain that was submitted with a key and this body; None when the key was not used.

        Raises:
            IdempotencyConflict: The key was used with another body.
            RecordDamaged: What is on record of the key is damaged.
            StorageError: It could not be read.
        """
        use = await self._database.read(lambda connection: read_key_use(connection, (key.tenant, key.key)))
        return None if use is None else _chain_of(use, key)

    async def submit(self, submitted: ChainSubmitted, key: SubmitKey | None = None, facts: Sequence[Fact] = ()) -> str:
        """Record a new chain, with further facts of it, and return its id.

        For a key seen before with the same body that is the id it got then, and nothing is recorded.

        Raises:
            IdempotencyConflict: The key was used with another body.
            Conflict: There is a chain of this id.
            RecordDamaged: What is on record of the key is damaged; nothing was recorded.
            StorageError: It could not be recorded.
        """
        fact, rows = await self._encoder.submit(submitted, facts)
        size = len(fact.fact) + (rows.size if rows else 0)
        return await self._database.write(partial(_submit, submitted, fact, rows, key), size)

    async def append(self, facts: Sequence[Fact], epoch: int = 1) -> None:
        """Record facts of one chain, all or none, in the order of the calls.

        Once it was handed over, a cancelled caller only stops waiting: the facts are recorded all the same.

        Raises:
            ChainNotFound: There is no such chain.
            OwnershipLost: The chain's epoch is higher than `epoch`.
            Conflict: The chain has ended.
            StorageError: They could not be recorded.
            ValueError: They are of several chains.
        """
        if facts:
            rows = await self._encoder.append(facts)
            await self._database.write(partial(_append, rows, epoch), rows.size)

    async def claim(self, limit: int) -> Sequence[ChainRecord]:
        """Become the owner of chains that stood unfinished in the file when it was opened, epoch + 1; oldest first.

        At most `limit` of them, and fewer when they are large. One that is damaged, or that this version cannot read,
        is logged and left as it is; one that needs a higher level is left as it is.

        Raises:
            StorageError: They could not be claimed or read; the next claim begins with them again.
        """
        if not self._has_looked:
            self._database.damage.report_unfinished(await self._database.read(contradictory_ends))
            self._has_looked = True
        while self._claimed_up_to < self._left_up_to:
            work = partial(
                claim_chains, after=self._claimed_up_to, up_to=self._left_up_to, limit=limit, level=self._level
            )
            claimed: Claimed = await self._database.write(work)
            self._claimed_up_to = claimed.up_to
            self._database.damage.report_unfinished(claimed.left)
            if claimed.records:
                return claimed.records
        return ()

    async def read(self, chain_id: str) -> ChainRecord | None:
        """Everything recorded of a chain, as of one moment; None when there is no such chain.

        Raises:
            NewerVersion: It needs a higher level.
            RecordDamaged: Something of it is damaged or missing.
            StorageError: It could not be read.
        """
        return await self._database.read(lambda connection: read_record(connection, chain_id, self._level))

    async def summary(self, chain_id: str) -> ChainSummary | None:
        """The row of a chain, whatever level it needs; None when there is no such chain.

        Raises:
            RecordDamaged: It is damaged.
            StorageError: It could not be read.
        """
        return await self._database.read(lambda connection: read_summary(connection, chain_id))

    async def outlines(self, chain_ids: Sequence[str]) -> Sequence[ChainRecord]:
        """What `read` gives of several chains, in this order, without results of tasks.

        Unknown ones, and those that need a higher level, are left out; damaged ones are, too, and are reported.

        Raises:
            StorageError: They could not be read.
        """
        found = await self._database.read(lambda connection: read_outlines(connection, chain_ids, self._level))
        return self._database.damage.intact(found)

    async def list_chains(self, query: ChainQuery) -> Sequence[ChainSummary]:
        """Newest first, one page. Costs the page, however many chains there are. Damaged rows are reported, not listed.

        Raises:
            StorageError: They could not be read.
        """

        async def read(limit: int) -> list[ChainSummary | RecordDamaged]:
            asked = msgspec.structs.replace(query, limit=limit)
            return await self._database.read(lambda connection: read_summaries(connection, asked))

        return await self._database.damage.page(read, max(0, query.limit))

    async def ask(self, request: Request) -> bool:
        """Put a request to the owner of a chain on record; False when it has ended, or there is none.

        Raises:
            Conflict: There is one of this name with another body.
            StorageError: It could not be recorded.
        """
        self._may_have_requests = True
        return await self._database.write(partial(record_request, request, timestamp(datetime.now(UTC))))

    async def asked(self) -> Sequence[Request]:
        """The requests to unfinished chains that this version runs. Costs nothing while there are none.

        Raises:
            StorageError: They could not be read.
        """
        if not self._may_have_requests:
            return ()
        self._may_have_requests = False
        try:
            found = await self._database.read(lambda connection: read_requests(connection, self._level))
        except BaseException:
            self._may_have_requests = True
            raise
        self._may_have_requests = self._may_have_requests or bool(found)
        return self._database.damage.intact(found)

    async def prune(self, before: datetime, limit: int) -> int:
        """Forget at most `limit` finished chains that ended before then, oldest end first; returns how many.

        Large results that nothing refers to any more go too. It takes many short transactions, with other writes
        between them. The file does not shrink: its free pages are used again.

        Raises:
            StorageError: Something could not be forgotten; what was, stays so.
        """
        pruned = 0
        while pruned < limit:
            work = partial(prune_chains, before=timestamp(before), limit=limit - pruned)
            if not (count := await self._prune_some(work)):
                break
            pruned += count
        return pruned

    async def prune_keys(self, before: datetime) -> int:
        """Forget at most 1,000 submit keys that were first used before then, oldest first; returns how many.

        Damaged rows are reported, and stay.

        Raises:
            StorageError: They could not be forgotten.
        """
        return await self._prune_some(partial(prune_keys, before=timestamp(before)))

    async def _prune_some(self, work: Work[Pruned]) -> int:
        pruned = await self._database.write(work)
        self._database.damage.intact(pruned.damaged)
        return pruned.count


def _submit(
    submitted: ChainSubmitted, fact: FactRow, rows: AppendRows | None, key: SubmitKey | None, book: Book
) -> str:
    if key is not None and (use := book.key_use((key.tenant, key.key))) is not None:
        return _chain_of(use, key)
    chain_id, at, spec = submitted.chain_id, timestamp(submitted.at), submitted.spec
    row = (submitted.tenant, spec.name, TaskStatus.PENDING.value, len(spec.tasks), FIRST_EPOCH, at, submitted.retry_of)
    key_checksum = None if key is None else book.add_key((key.tenant, key.key), (key.digest, chain_id), at)
    head = book.add_chain(chain_id, row, fact, key_checksum)
    if (growth := growth_of([submitted])) is not None:
        book.grow(chain_id, head, growth)
    if rows is not None:
        book.add_facts(head, rows)
    return chain_id


def _chain_of(use: KeyUse, key: SubmitKey) -> str:
    digest, chain_id = use
    if digest != key.digest:
        raise IdempotencyConflict
    return chain_id


def _append(rows: AppendRows, epoch: int, book: Book) -> None:
    head = book.head(rows.chain_id)
    if head is None:
        raise ChainNotFound(f"There is no chain '{rows.chain_id}'.")
    if head.epoch > epoch:
        raise OwnershipLost(f"Chain {rows.chain_id} has another owner, of epoch {head.epoch}; this one's is {epoch}.")
    if head.is_over:
        raise Conflict(f"Chain {rows.chain_id} has ended; nothing more is recorded of it.")
    book.add_facts(head, rows)
