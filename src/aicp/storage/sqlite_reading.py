"""What a SQLite database says of chains. What an answer is made of is from one statement, and so of one moment."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

from aicp.errors import NewerVersion, RecordDamaged
from aicp.model.level import LEVEL
from aicp.ports import ChainQuery, ChainRecord, ChainSummary
from aicp.storage.chain_summaries import SUMMARY_COLUMNS, StoredSummary
from aicp.storage.damage import decoded
from aicp.storage.list_shapes import ListShape, names_from_to, shape_of, times_from_to
from aicp.storage.row_checksums import described
from aicp.storage.rows import FACT_COLUMNS, Unreadable, decode_outlines, decode_record, decode_records, timestamp
from aicp.storage.task_ends import may_have

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
_LIST_BY_TIME = """
    SELECT {columns} FROM chains {index}
    WHERE {filters} (submitted_at, number) < (
        SELECT '~', 0 WHERE :before IS NULL
        UNION ALL
        SELECT submitted_at, number FROM chains WHERE chain_id = :before AND (:tenant IS NULL OR tenant = :tenant))
    ORDER BY submitted_at DESC, number DESC LIMIT :limit
"""
_NAMES = "name <> '' AND name >= :name_from AND name < :name_to"
_TIMES = "submitted_at >= :submitted_from AND submitted_at < :submitted_to"
_NAMED = f"SELECT count(*) FROM (SELECT 1 FROM chains INDEXED BY chains_by_name WHERE {_NAMES} LIMIT :limit)"  # noqa: S608 - constants
FEW_NAMED = 1_000
"""Chains with a beginning of their names are found and sorted when they are less than this many. Where there are more,
a look at the newest chains finds some soon."""


def list_statement(shape: ListShape, *, few_named: bool = False) -> str:
    """The statement for a query; each walks an index, and sorts nothing but what is named by few.

    Args:
        shape: Of the query.
        few_named: True when few chains have a name that begins as the query says.
    """
    filters = [
        ("tenant = :tenant", shape.has_tenant), ("status = :status", shape.has_status),
        ("ended_at IS NULL", shape.unfinished), (_NAMES, shape.has_name), (_TIMES, shape.has_times),
    ]  # fmt: skip
    if shape.ends is not None:
        filters.append((may_have(shape.ends), True))
    conditions = "".join(f"{condition} AND " for condition, is_meant in filters if is_meant)
    statement = _LIST_BY_TIME if shape.has_times else _LIST
    return statement.format(columns=SUMMARY_COLUMNS, filters=conditions, index=_index(shape, few_named=few_named))


def _index(shape: ListShape, *, few_named: bool) -> str:
    """The index to walk, named: SQLite does not count what each holds."""
    if few_named:
        return "INDEXED BY chains_by_name"
    of_tenant = "_of_tenant" if shape.has_tenant else ""
    if shape.has_times:
        return f"INDEXED BY chains{of_tenant}_by_submit"
    if shape.ends is not None:
        return f"INDEXED BY chains_with_{shape.ends.value.lower()}"
    if shape.unfinished:
        return "INDEXED BY chains_unfinished"
    if shape.has_status:
        return f"INDEXED BY chains{of_tenant}_by_status"
    return f"INDEXED BY chains{of_tenant}" if of_tenant else "NOT INDEXED"


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
    shape, parameters = shape_of(query), list_parameters(query)
    few_named = shape.has_name and _are_few_named(connection, parameters)
    rows = connection.execute(list_statement(shape, few_named=few_named), parameters).fetchall()
    return [_summary(connection, row) for row in rows]


def list_parameters(query: ChainQuery) -> dict[str, Any]:
    """What the statement for a query takes, by name."""
    name_from, name_to = names_from_to(query.name or "")
    submitted_from, submitted_to = map(timestamp, times_from_to(query))
    return {
        "tenant": query.tenant, "status": query.status, "before": query.before, "limit": max(0, query.limit),
        "name_from": name_from, "name_to": name_to, "submitted_from": submitted_from, "submitted_to": submitted_to,
    }  # fmt: skip


def _are_few_named(connection: sqlite3.Connection, parameters: Mapping[str, Any]) -> bool:
    (count,) = connection.execute(_NAMED, {**parameters, "limit": FEW_NAMED}).fetchone()
    return bool(count < FEW_NAMED)


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
