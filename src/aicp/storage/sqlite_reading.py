"""What a SQLite database says of chains. What an answer is made of is from one statement, and so of one moment."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import product
from typing import Any

import msgspec

from aicp.errors import NewerVersion, RecordDamaged
from aicp.model.level import LEVEL
from aicp.model.task import TaskStatus
from aicp.ports import ChainQuery, ChainRecord, ChainSummary
from aicp.storage.chain_summaries import SUMMARY_COLUMNS, StoredSummary
from aicp.storage.damage import decoded
from aicp.storage.row_checksums import described
from aicp.storage.rows import FACT_COLUMNS, Unreadable, decode_outlines, decode_record, decode_records
from aicp.storage.task_ends import ENDS, may_have

# Bytes, as JSON is decoded from; and what is no UTF-8 any more does not fail the statement.
_FACT = f"{FACT_COLUMNS}, CAST(facts.fact AS BLOB)"
_FACTS = f"""
    SELECT {_FACT}, CAST(results.body AS BLOB)
    FROM chains
    LEFT JOIN facts ON facts.chain_id = chains.chain_id
    LEFT JOIN results ON results.digest = facts.result_digest
"""  # noqa: S608 - constants
_OF_CHAIN = f"{_FACTS} WHERE chains.chain_id = ? ORDER BY facts.seq"
_OF_CHAINS = f"""
    {_FACTS} WHERE chains.number IN (SELECT value FROM json_each(?)) ORDER BY chains.number, facts.seq
"""  # noqa: S608 - constants
# The chain's row is looked for again: a submit may have been recorded since the statement that did not find it.
_ORPHANS = """
    SELECT 1 FROM facts WHERE chain_id = :id AND NOT EXISTS (SELECT 1 FROM chains WHERE chain_id = :id) LIMIT 1
"""
_SUMMARY = f"SELECT {SUMMARY_COLUMNS} FROM chains WHERE chain_id = ?"  # noqa: S608 - constants
_OUTLINE = f"""
    SELECT {_FACT} FROM chains LEFT JOIN facts ON facts.chain_id = chains.chain_id
    WHERE chains.chain_id = ? ORDER BY facts.seq
"""  # noqa: S608 - constants
# With the row itself, so that the two are of one moment.
_WITH_LAST_FACT = f"""
    SELECT {SUMMARY_COLUMNS}, (SELECT CAST(fact AS BLOB) FROM facts WHERE facts.chain_id = chains.chain_id
        ORDER BY seq DESC LIMIT 1) FROM chains WHERE chain_id = ?
"""  # noqa: S608 - constants

_LIST = """
    SELECT {columns} FROM chains {index}
    WHERE {filters} number < CASE WHEN :before IS NULL THEN 9223372036854775807 ELSE (
        SELECT number FROM chains WHERE chain_id = :before AND (:tenant IS NULL OR tenant = :tenant)) END
    ORDER BY number DESC LIMIT :limit
"""


def _list(*, has_tenant: bool, has_status: bool, unfinished: bool, ends: TaskStatus | None) -> str:
    filters = [("tenant = :tenant", has_tenant), ("status = :status", has_status), ("ended_at IS NULL", unfinished)]
    told = "".join(f"{condition} AND " for condition, is_meant in filters if is_meant)
    # Named, since there may be a million finished chains of the tenant between two unfinished ones.
    index = "INDEXED BY chains_unfinished" if unfinished else ""
    if ends is not None:
        told += f"{may_have(ends)} AND "
        index = f"INDEXED BY chains_with_{ends.value.lower()}"
    return _LIST.format(columns=SUMMARY_COLUMNS, filters=told, index=index)


LIST_BY_FILTERS = {
    (has_tenant, has_status, unfinished, ends): _list(
        has_tenant=has_tenant, has_status=has_status, unfinished=unfinished, ends=ends
    )
    for has_tenant, has_status, unfinished in product((False, True), repeat=3)
    for ends in (None, *ENDS)
}
"""The statement for whether a query names a tenant and a status, wants unfinished chains only, and for how tasks of
them must have ended; each walks an index
and sorts nothing. Among the unfinished, those of other tenants are looked at too."""


def read_record(connection: sqlite3.Connection, chain_id: str, level: int = LEVEL) -> ChainRecord | None:
    """Everything recorded of a chain; None when there is no such chain.

    Raises:
        NewerVersion: It needs a higher level.
        sqlite3.Error: It could not be read.
        RecordDamaged: Something of it is damaged or missing.
    """
    rows = connection.execute(_OF_CHAIN, (chain_id,)).fetchall()
    if not rows:
        _refuse_orphans(connection, chain_id)
        return None
    return decode_record(rows, level)


def read_chains(
    connection: sqlite3.Connection, numbers: Sequence[int], level: int
) -> Iterator[ChainRecord | Unreadable]:
    """Chains by their numbers, oldest first; for one that cannot be read, why.

    Raises:
        sqlite3.Error: They could not be read.
    """
    return decode_records(connection.execute(_OF_CHAINS, (json.dumps(numbers),)), level)


def read_summary(connection: sqlite3.Connection, chain_id: str) -> ChainSummary | None:
    """The row of a chain, whatever level it needs; None when there is no such chain.

    Raises:
        RecordDamaged: It is damaged.
        sqlite3.Error: It could not be read.
    """
    row = connection.execute(_SUMMARY, (chain_id,)).fetchone()
    return None if row is None else check_summary(connection, row).summary()


def read_outlines(
    connection: sqlite3.Connection, chain_ids: Iterable[str], level: int = LEVEL
) -> list[ChainRecord | RecordDamaged]:
    """What `read_record` gives of several chains, without results of tasks.

    Those that are not there, or need a higher level, are left out.

    Raises:
        sqlite3.Error: They could not be read.
    """
    found = (_outline(connection, chain_id, level) for chain_id in chain_ids)
    return [each for each in found if each is not None]


def read_summaries(connection: sqlite3.Connection, query: ChainQuery) -> list[ChainSummary | RecordDamaged]:
    """Newest first, one page; for a row that is damaged, how.

    Raises:
        sqlite3.Error: They could not be read.
    """
    sql = LIST_BY_FILTERS[query.tenant is not None, query.status is not None, query.unfinished, query.with_tasks]
    params = {**msgspec.structs.asdict(query), "limit": max(0, query.limit)}
    return [_summary(connection, row) for row in connection.execute(sql, params).fetchall()]


def check_summary(connection: sqlite3.Connection, row: tuple[Any, ...]) -> StoredSummary:
    """A chain's row, which is as it was written.

    Raises:
        RecordDamaged: It is not.
        sqlite3.Error: What decides it could not be read.
    """
    stored = StoredSummary(*row)
    stored.check()
    return _judge(connection, stored) if stored.is_in_doubt else stored


def _judge(connection: sqlite3.Connection, stored: StoredSummary) -> StoredSummary:
    """As it is now; one that is no longer there was deleted since."""
    row = connection.execute(_WITH_LAST_FACT, (stored.chain_id,)).fetchone()
    if row is None:
        return stored
    *columns, last_fact = row
    newest = StoredSummary(*columns)
    newest.check()
    if newest.is_in_doubt:
        newest.check_progress(last_fact)
    return newest


def _outline(connection: sqlite3.Connection, chain_id: str, level: int) -> ChainRecord | RecordDamaged | None:
    # Closed, whatever comes: a statement that is not read to its end keeps its snapshot.
    with closing(connection.execute(_OUTLINE, (chain_id,))) as rows:
        try:
            return decode_outlines(rows, level)
        except NewerVersion:
            return None
        except RecordDamaged as damage:
            return damage


def _summary(connection: sqlite3.Connection, row: tuple[Any, ...]) -> ChainSummary | RecordDamaged:
    return decoded(lambda: check_summary(connection, row).summary())


def _refuse_orphans(connection: sqlite3.Connection, chain_id: str) -> None:
    if connection.execute(_ORPHANS, {"id": chain_id}).fetchone() is not None:
        raise RecordDamaged("chains", described(chain_id), "it is missing, and facts of the chain are there")
