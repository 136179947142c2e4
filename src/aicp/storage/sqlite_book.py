"""The open transaction of the one writer, and what it knows of chains without asking the disk."""

import contextlib
import sqlite3
from typing import Any

import msgspec

from aicp.errors import RecordDamaged
from aicp.model.task import TaskStatus
from aicp.storage.chain_growth import Growth, growth_check
from aicp.storage.many_rows import ManyRows
from aicp.storage.row_checksums import chain_checksum, checksum, described, is_intact, placed
from aicp.storage.rows import FIRST_EPOCH, AppendRows, FactRow
from aicp.storage.task_ends import EPOCH, added

HEADS_KEPT_MAX = 100_000

_CHAINS = ManyRows(
    "INSERT INTO chains (chain_id, tenant, name, status, total_tasks, epoch, submitted_at, retry_of, checksum,"
    " key_checksum, facts_min, task_ends) VALUES",
    12,
)
_FACTS = ManyRows("INSERT INTO facts (chain_id, seq, fact, result_digest, checksum) VALUES", 5)
_RESULTS = ManyRows("INSERT INTO results (digest, body) VALUES", 2, "ON CONFLICT DO NOTHING")
_KEYS = ManyRows("INSERT INTO submit_keys (tenant, key, digest, chain_id, at, checksum) VALUES", 6)
_STATUSES = ManyRows(
    "UPDATE chains SET status = given.column2, ended_at = given.column3, status_checksum = given.column4,"
    " facts_min = given.column5, task_ends = given.column6 FROM (VALUES",
    6,
    ") AS given WHERE chains.chain_id = given.column1",
)
_COUNTS = ManyRows(
    "UPDATE chains SET facts_min = given.column2, task_ends = given.column3 FROM (VALUES",
    3,
    ") AS given WHERE chains.chain_id = given.column1",
)
_GROWTHS = ManyRows(
    "UPDATE chains SET needs = given.column2, runs = given.column3, growth_check = given.column4 FROM (VALUES",
    4,
    ") AS given WHERE chains.chain_id = given.column1",
)
_ANSWERED = "DELETE FROM requests WHERE chain_id = ? AND name = ?"
# Behind a fact that is missing stays a gap: the next one must not take its place.
_HEAD = """
    SELECT max(epoch, coalesce(epoch_min, 1)), status, ended_at IS NOT NULL,
        max(coalesce(facts_min, 0) - 1, (
            SELECT coalesce(max(seq), -1) FROM facts WHERE facts.chain_id = chains.chain_id)),
        total_tasks, task_ends, needs, runs
    FROM chains WHERE chain_id = ?
"""
KEY_USE_COLUMNS = "tenant, key, digest, chain_id, at, checksum"
_KEY_USE = f"SELECT {KEY_USE_COLUMNS} FROM submit_keys WHERE tenant = ? AND key = ?"  # noqa: S608 - constants

Row = tuple[Any, ...]
Key = tuple[str, str]
KeyUse = tuple[bytes, str]


class Head(msgspec.Struct):
    """Where a chain's record stands, gathered rows included.

    Attributes:
        epoch: Of its owner.
        status: What its row says.
        is_over: True once it has ended.
        seq: Of its last fact.
        total_tasks: How many it has.
        task_ends: How its tasks have ended, as in its row.
        needs: The level that its readers need.
        runs: How many task runs it has; None for as many as tasks.
    """

    epoch: int
    status: str
    is_over: bool
    seq: int
    total_tasks: int
    task_ends: int | None
    needs: int = 0
    runs: int | None = None


class _Gathered(msgspec.Struct):
    """Rows that wait for their statement."""

    chains: list[Row] = []
    facts: list[Row] = []
    results: list[Row] = []
    keys: list[Row] = []
    statuses: dict[str, Row] = {}
    counts: dict[str, Row] = {}
    growths: dict[str, Row] = {}
    answered: list[Row] = []


class Book:
    """Gathers rows of many writes and puts them down in few statements, in one transaction.

    Only one process writes to the file, through one book: so what it wrote is what is there, and it asks only about
    chains it has not met. A transaction that fails makes it forget all it knew.

    Args:
        connection: In autocommit mode; used by one thread at a time, and by nobody else.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._heads: dict[str, Head] = {}
        self._keys: dict[Key, KeyUse] = {}
        self._ended: list[str] = []
        self._gathered = _Gathered()

    @property
    def connection(self) -> sqlite3.Connection:
        """To read from inside the transaction, after `execute`."""
        return self._connection

    def begin(self) -> None:
        """Start a transaction; what an earlier one left open is undone."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self._connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Have what was put down survive whatever comes, from the return of this on."""
        self._connection.execute("COMMIT")
        self._forget_ended()

    def rollback(self) -> None:
        """Undo everything since `begin`."""
        self.forget_heads()
        self._forget_rows()
        if self._connection.in_transaction:
            # What cannot be undone now is undone by the next `begin`, or by whoever opens the file next.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")

    def head(self, chain_id: str) -> Head | None:
        """Where a chain's record stands; None when there is no such chain."""
        head = self._heads.get(chain_id)
        if head is None and (row := self._connection.execute(_HEAD, (chain_id,)).fetchone()) is not None:
            epoch, status, is_over, *others = row
            head = self._heads[chain_id] = Head(epoch, status, bool(is_over), *others)
        return head

    def key_use(self, key: Key) -> KeyUse | None:
        """What (tenant, key) was used for: the body's digest and the chain.

        Raises:
            RecordDamaged: What is on record of it is damaged.
        """
        return self._keys.get(key) or read_key_use(self._connection, key)

    def add_chain(self, chain_id: str, row: Row, first: FactRow, key_checksum: int | None) -> Head:
        """A new chain: tenant, name, status, total_tasks, epoch, submitted_at, retry_of."""
        tenant, name, _, total_tasks, _, submitted_at, retry_of = row
        of_chain = chain_checksum(chain_id, tenant, name, total_tasks, submitted_at, retry_of, key_checksum)
        ends = FIRST_EPOCH * EPOCH
        self._gathered.chains.append((chain_id, *row, of_chain, key_checksum, 1, ends))
        self._gathered.facts.append((chain_id, 0, first.fact, None, placed(first.checksum, 0)))
        head = self._heads[chain_id] = Head(
            FIRST_EPOCH, TaskStatus.PENDING.value, is_over=False, seq=0, total_tasks=total_tasks, task_ends=ends
        )
        return head

    def add_key(self, key: Key, use: KeyUse, at: str) -> int:
        """A key that was not used before; returns the checksum of its row."""
        self._keys[key] = use
        of_key = checksum(*key, *use, at)
        self._gathered.keys.append((*key, *use, at, of_key))
        return of_key

    def add_facts(self, head: Head, rows: AppendRows) -> None:
        """Facts behind those of a chain that is there, their large results, and what the chain's row is to say."""
        chain_id = rows.chain_id
        for seq, row in enumerate(rows.facts, head.seq + 1):
            self._gathered.facts.append((chain_id, seq, row.fact, row.digest, placed(row.checksum, seq)))
        head.seq += len(rows.facts)
        if rows.results:
            self._gathered.results.extend((row.digest, row.body) for row in rows.results)
        self._gather_head(head, rows)
        if rows.growth is not None:
            self.grow(rows.chain_id, head, rows.growth)
        if rows.answered:
            self._gathered.answered.extend((chain_id, name) for name in rows.answered)

    def grow(self, chain_id: str, head: Head, growth: Growth) -> None:
        """Raise the level of a chain, never lower it, and count its new runs."""
        head.needs = max(head.needs, growth.needs)
        head.runs = growth.runs + (head.total_tasks if head.runs is None else head.runs)
        row = (chain_id, head.needs, head.runs, growth_check(head.needs, head.runs))
        self._gathered.growths[chain_id] = row

    def execute(self, sql: str, params: Row = ()) -> sqlite3.Cursor:
        """Any other statement, after all that was gathered so far."""
        self.flush()
        return self._connection.execute(sql, params)

    def forget_head(self, chain_id: str) -> None:
        """Ask the disk again about a chain, as after its epoch was changed."""
        self._heads.pop(chain_id, None)

    def forget_heads(self) -> None:
        """Ask the disk again about every chain."""
        self._heads.clear()

    def flush(self) -> None:
        """Put down what was gathered; it is seen from inside the transaction only."""
        rows, self._gathered = self._gathered, _Gathered()
        _CHAINS.write(self._connection, rows.chains)
        _FACTS.write(self._connection, rows.facts)
        _RESULTS.write(self._connection, rows.results)
        _KEYS.write(self._connection, rows.keys)
        _STATUSES.write(self._connection, list(rows.statuses.values()))
        _COUNTS.write(self._connection, list(rows.counts.values()))
        _GROWTHS.write(self._connection, list(rows.growths.values()))
        for answered in rows.answered:
            self._connection.execute(_ANSWERED, answered)
        self._ended += [chain_id for chain_id, _, ended_at, *_ in rows.statuses.values() if ended_at]

    def _gather_head(self, head: Head, rows: AppendRows) -> None:
        """One row a chain: the last word of the transaction counts."""
        chain_id, gathered = rows.chain_id, self._gathered
        if head.task_ends is not None and head.task_ends // EPOCH == head.epoch:
            head.task_ends = added(head.task_ends, rows.task_ends, head.total_tasks)
        last = (head.seq + 1, head.task_ends)
        if rows.status is not None and rows.status != head.status:
            head.status, head.is_over = rows.status.value, rows.ended_at is not None
            gathered.counts.pop(chain_id, None)
            gathered.statuses[chain_id] = (chain_id, head.status, rows.ended_at, rows.status_checksum, *last)
        elif (status := gathered.statuses.get(chain_id)) is not None:
            gathered.statuses[chain_id] = (*status[:-2], *last)
        else:
            gathered.counts[chain_id] = (chain_id, *last)

    def _forget_ended(self) -> None:
        """Nobody asks for an ended chain's head in the usual course of things."""
        for chain_id in self._ended:
            self._heads.pop(chain_id, None)
        if len(self._heads) > HEADS_KEPT_MAX:
            self.forget_heads()
        self._forget_rows()

    def _forget_rows(self) -> None:
        self._gathered = _Gathered()
        self._keys.clear()
        self._ended.clear()


def read_key_use(connection: sqlite3.Connection, key: Key) -> KeyUse | None:
    """What (tenant, key) was used for: the body's digest and the chain.

    Raises:
        sqlite3.Error: It could not be read.
        RecordDamaged: What is on record of it is damaged.
    """
    row = connection.execute(_KEY_USE, key).fetchone()
    if row is None:
        return None
    check_key_use(row)
    _, _, digest, chain_id, *_ = row
    return digest, chain_id


def check_key_use(row: Row) -> Key:
    """The key of a row of `KEY_USE_COLUMNS`, which is as it was written.

    Raises:
        RecordDamaged: It is not.
    """
    tenant, key, digest, chain_id, at, stored = row
    if not is_intact(stored, tenant, key, digest, chain_id, at):
        raise RecordDamaged("submit_keys", described(tenant, key), "its checksum is another")
    return tenant, key
