"""The open transaction of the one writer, and what it knows of chains without asking the disk."""

import contextlib
import sqlite3
from typing import Any

import msgspec

from aicp.model.task import TaskStatus
from aicp.storage.many_rows import ManyRows
from aicp.storage.rows import AppendRows

FIRST_EPOCH = 1
HEADS_KEPT_MAX = 100_000

_CHAINS = ManyRows(
    "INSERT INTO chains (chain_id, tenant, name, status, total_tasks, epoch, submitted_at, retry_of) VALUES", 8
)
_FACTS = ManyRows("INSERT INTO facts (chain_id, seq, fact, result_digest) VALUES", 4)
_RESULTS = ManyRows("INSERT INTO results (digest, body) VALUES", 2, "ON CONFLICT DO NOTHING")
_KEYS = ManyRows("INSERT INTO submit_keys (tenant, key, digest, chain_id, at) VALUES", 5)
_STATUSES = ManyRows(
    "UPDATE chains SET status = given.column2, ended_at = given.column3 FROM (VALUES",
    3,
    ") AS given WHERE chains.chain_id = given.column1",
)
_HEAD = """
    SELECT epoch, status, ended_at IS NOT NULL, (SELECT max(seq) FROM facts WHERE facts.chain_id = chains.chain_id)
    FROM chains WHERE chain_id = ?
"""
KEY_USE = "SELECT digest, chain_id FROM submit_keys WHERE tenant = ? AND key = ?"

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
    """

    epoch: int
    status: str
    is_over: bool
    seq: int


class _Gathered(msgspec.Struct):
    """Rows that wait for their statement."""

    chains: list[Row] = []
    facts: list[Row] = []
    results: list[Row] = []
    keys: list[Row] = []
    statuses: dict[str, Row] = {}


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
            epoch, status, is_over, seq = row
            head = self._heads[chain_id] = Head(epoch, status, bool(is_over), seq)
        return head

    def key_use(self, key: Key) -> KeyUse | None:
        """What (tenant, key) was used for: the body's digest and the chain."""
        row: KeyUse | None = self._keys.get(key) or self._connection.execute(KEY_USE, key).fetchone()
        return row

    def add_chain(self, chain_id: str, row: Row, first_fact: str) -> Head:
        """A new chain: tenant, name, status, total_tasks, epoch, submitted_at, retry_of."""
        self._gathered.chains.append((chain_id, *row))
        self._gathered.facts.append((chain_id, 0, first_fact, None))
        head = self._heads[chain_id] = Head(FIRST_EPOCH, TaskStatus.PENDING.value, is_over=False, seq=0)
        return head

    def add_key(self, key: Key, use: KeyUse, at: str) -> None:
        """A key that was not used before."""
        self._keys[key] = use
        self._gathered.keys.append((*key, *use, at))

    def add_facts(self, head: Head, rows: AppendRows) -> None:
        """Facts behind those of a chain that is there, their large results, and what the chain's row is to say."""
        for row in rows.facts:
            head.seq += 1
            self._gathered.facts.append((rows.chain_id, head.seq, row.fact, row.digest))
        self._gathered.results.extend((row.digest, row.body) for row in rows.results)
        if rows.status is not None and rows.status != head.status:
            # One row a chain: the last word of the transaction counts.
            self._gathered.statuses[rows.chain_id] = (rows.chain_id, rows.status.value, rows.ended_at)
            head.status, head.is_over = rows.status.value, rows.ended_at is not None

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
        self._ended += [chain_id for chain_id, _, ended_at in rows.statuses.values() if ended_at]

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
