"""The journal on PostgreSQL: what it acknowledged is on the server's disk, and any replica may go on with it."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from functools import partial

import msgspec

from aicp.errors import NewerVersion, RecordDamaged
from aicp.model.document_desk import DocumentDesk
from aicp.model.event import ChainSubmitted, Fact
from aicp.model.request import Request
from aicp.ports import ChainQuery, ChainRecord, ChainSummary, SubmitKey
from aicp.storage.chain_summaries import CONTRADICTORY_ENDS, contradictory_end
from aicp.storage.postgres_batch import KEY_USES, Append, Submit, chain_of, key_use, storable
from aicp.storage.postgres_claiming import ANY_DEAD, Claim, Claimed, claim_chains
from aicp.storage.postgres_database import PostgresDatabase
from aicp.storage.postgres_pruning import REMOVED_AGENTS, prune_chains, prune_keys
from aicp.storage.postgres_reading import read_outline, read_record, read_summaries, read_summary
from aicp.storage.postgres_requests import read_requests, record_request
from aicp.storage.postgres_server import Connection
from aicp.storage.pruned import Pruned
from aicp.storage.rows import FIRST_EPOCH, FactEncoder

UNREADABLE_MAX = 10_000
"""How many chains that could not be read a claim does not look at again."""


class PostgresJournal:
    """Chains in a PostgreSQL database, which several processes may share.

    Each chain has one owner, a living replica; whoever submits or claims it. Writes of one moment share a transaction,
    of one round trip to the server and one wait for its disk. When the server cannot be reached, every call raises
    `StorageError` within seconds, and later ones succeed once it is back.

    Args:
        database: The database; the journal opens and closes it.
        documents: Where heavy facts are encoded and decoded; a desk of its own by default.
    """

    durable = True

    def __init__(self, database: PostgresDatabase, documents: DocumentDesk | None = None) -> None:
        self._database = database
        self._level = database.level
        self._unreadable: dict[int, None] = {}
        self._documents = documents or DocumentDesk()
        self._encoder = FactEncoder(self._documents)
        self._has_looked = False

    async def open(self) -> None:
        """Bring the database to the newest schema, and join its replicas. It waits up to 10 s for the server.

        Raises:
            SettingsError: It cannot be used: wrong URL, user, password, rights or version.
            StorageError: The server cannot be reached.
        """
        self._has_looked = False
        await self._database.open()

    async def close(self) -> None:
        """Write what was handed over, and leave: other replicas may claim what is unfinished. At most 15 s."""
        await self._database.close()

    async def find(self, key: SubmitKey) -> str | None:
        """The id of the chain that was submitted with a key and this body; None when the key was not used.

        Raises:
            IdempotencyConflict: The key was used with another body.
            RecordDamaged: What is on record of the key is damaged.
            StorageError: It could not be read.
        """
        self._database.require_open()
        rows = await self._database.sessions.read(KEY_USES, [storable(key.tenant)], [storable(key.key)])
        with self._database.damage.reporting():
            return chain_of(key_use(rows[0]), key) if rows else None

    async def submit(self, submitted: ChainSubmitted, key: SubmitKey | None = None, facts: Sequence[Fact] = ()) -> str:
        """Record a new chain, with further facts of it, and return its id.

        For a key seen before with the same body that is the id it got then, and nothing is recorded. When this raises
        `StorageError` and the chain came to be on record all the same, a later `claim` returns it.

        Raises:
            IdempotencyConflict: The key was used with another body.
            Conflict: There is a chain of this id.
            RecordDamaged: What is on record of the key is damaged; nothing was recorded.
            StorageError: It could not be recorded, or this replica is not alive.
        """
        first, rows = await self._encoder.submit(submitted, facts)
        size = len(first.fact) + (rows.size if rows else 0)
        with self._database.damage.reporting():
            return await self._database.writer.write(Submit(submitted, first, rows, key), size)

    async def append(self, facts: Sequence[Fact], epoch: int = FIRST_EPOCH) -> None:
        """Record facts of one chain, all or none, in the order of the calls.

        Once it was handed over, a cancelled caller only stops waiting: the facts are recorded all the same.

        Raises:
            ChainNotFound: There is no such chain.
            OwnershipLost: Another replica owns it, or its epoch is higher than `epoch`, or this replica is dead.
            Conflict: The chain has ended.
            StorageError: They could not be recorded.
            ValueError: They are of several chains.
        """
        if facts:
            rows = await self._encoder.append(facts)
            await self._database.writer.write(Append(rows, epoch), rows.size)

    async def claim(self, limit: int) -> Sequence[ChainRecord]:
        """Become the owner of unfinished chains whose owner died or left, epoch + 1; oldest first.

        At most `limit` of them, and fewer when they are large. One that is damaged, or that this version cannot read,
        is logged and left to others; one that needs a higher level is left to others.

        Raises:
            StorageError: They could not be claimed or read; a later claim returns them.
        """
        self._database.require_open()
        await self._look_for_contradictory_ends()
        doubts = self._database.writer.take_doubts(limit)
        if not doubts and not await self._database.sessions.execute(ANY_DEAD):
            return ()
        claimed = await self._claim(limit, doubts)
        self._database.damage.report_unfinished(claimed.left)
        return claimed.records

    async def read(self, chain_id: str) -> ChainRecord | None:
        """Everything recorded of a chain, as of one moment; None when there is no such chain.

        Raises:
            NewerVersion: It needs a higher level.
            RecordDamaged: Something of it is damaged or missing.
            StorageError: It could not be read.
        """
        self._database.require_open()
        with self._database.damage.reporting():
            return await read_record(self._database.sessions, storable(chain_id), self._documents, self._level)

    async def summary(self, chain_id: str) -> ChainSummary | None:
        """The row of a chain, whatever level it needs; None when there is no such chain.

        Raises:
            RecordDamaged: It is damaged.
            StorageError: It could not be read.
        """
        self._database.require_open()
        found = await read_summary(self._database.sessions, storable(chain_id))
        with self._database.damage.reporting():
            if isinstance(found, RecordDamaged):
                raise found
        return found

    async def outlines(self, chain_ids: Sequence[str]) -> Sequence[ChainRecord]:
        """What `read` gives of several chains, in this order, without results of tasks.

        Unknown ones, and those that need a higher level, are left out; damaged ones are, too, and are reported.

        Raises:
            StorageError: They could not be read.
        """
        self._database.require_open()
        found = [await self._outline(chain_id) for chain_id in chain_ids]
        return [record for record in self._database.damage.intact(found) if record is not None]

    async def list_chains(self, query: ChainQuery) -> Sequence[ChainSummary]:
        """Newest first, one page. Costs the page, however many chains there are. Damaged rows are reported, not listed.

        Raises:
            StorageError: They could not be read.
        """
        self._database.require_open()

        async def read(limit: int) -> list[ChainSummary | RecordDamaged]:
            return await read_summaries(self._database.sessions, msgspec.structs.replace(query, limit=limit))

        return await self._database.damage.page(read, max(0, query.limit))

    async def ask(self, request: Request) -> bool:
        """Put a request to whoever owns a chain, now or later, on record; False when it has ended, or there is none.

        Raises:
            Conflict: There is one of this name with another body.
            StorageError: It could not be recorded.
        """
        self._database.require_open()
        return await record_request(self._database.sessions, request)

    async def asked(self) -> Sequence[Request]:
        """The requests to unfinished chains of this replica. Damaged rows are reported and left out.

        Raises:
            StorageError: They could not be read, or this replica is not alive.
        """
        self._database.require_open()
        return self._database.damage.intact(
            await read_requests(self._database.sessions, self._database.replicas.number)
        )

    async def prune(self, before: datetime, limit: int) -> int:
        """Forget at most `limit` finished chains that ended before then, oldest end first; returns how many.

        Large results that nothing refers to any more go too. It takes many short transactions; several replicas may do
        it at once.

        Raises:
            StorageError: Something could not be forgotten; what was, stays so.
        """
        self._database.require_open()
        pruned = 0
        while pruned < limit:
            count = await self._prune_some(partial(prune_chains, before=before, limit=limit - pruned))
            if not count:
                break
            pruned += count
        return pruned

    async def prune_keys(self, before: datetime) -> int:
        """Forget at most 1,000 submit keys that were first used before then, oldest first; returns how many.

        What is remembered of agents that were removed before then goes as well. Damaged rows are reported, and stay.

        Raises:
            StorageError: They could not be forgotten.
        """
        self._database.require_open()
        await self._database.sessions.execute(REMOVED_AGENTS, before)
        return await self._prune_some(partial(prune_keys, before=before))

    async def _outline(self, chain_id: str) -> ChainRecord | RecordDamaged | None:
        try:
            return await self._database.sessions.in_transaction(
                lambda connection: read_outline(connection, storable(chain_id), self._level), snapshot=True
            )
        except NewerVersion:
            return None
        except RecordDamaged as damage:
            return damage

    async def _look_for_contradictory_ends(self) -> None:
        """Once after an open: no claim finds those chains."""
        if not self._has_looked:
            rows = await self._database.sessions.read(CONTRADICTORY_ENDS)
            self._database.damage.report_unfinished(contradictory_end(chain_id) for (chain_id,) in rows)
            self._has_looked = True

    async def _claim(self, limit: int, doubts: list[str]) -> Claimed:
        """Claim some; when the answer gets lost, what may have been claimed is in doubt."""
        taken = list(doubts)
        number = self._database.replicas.living_number
        claim = Claim(number, self._level, limit, doubts, list(self._unreadable))

        async def work(connection: Connection) -> Claimed:
            claimed = await claim_chains(connection, claim, self._documents)
            taken.extend(record.submitted.chain_id for record in claimed.records)
            return claimed

        try:
            claimed = await self._database.sessions.in_transaction(work)
        except BaseException:
            self._database.writer.give_doubts_back(taken)
            raise
        self._database.writer.give_doubts_back(claimed.locked)
        self._leave_to_others(claimed.unreadable)
        return claimed

    def _leave_to_others(self, numbers: Sequence[int]) -> None:
        """A look at them each second would find the same."""
        self._unreadable.update(dict.fromkeys(numbers))
        while len(self._unreadable) > UNREADABLE_MAX:
            del self._unreadable[next(iter(self._unreadable))]

    async def _prune_some(self, work: Callable[[Connection], Awaitable[Pruned]]) -> int:
        pruned = await self._database.sessions.in_transaction(work)
        self._database.damage.intact(pruned.damaged)
        return pruned.count
