"""What a PostgreSQL database says of chains. What an answer is made of is from one statement, and so of one moment."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

from aicp.errors import RecordDamaged
from aicp.model.document_desk import DocumentDesk
from aicp.model.event import Fact
from aicp.model.level import LEVEL
from aicp.ports import ChainQuery, ChainRecord, ChainSummary
from aicp.storage.chain_summaries import SUMMARY_COLUMNS, StoredSummary
from aicp.storage.damage import checked, decoded, is_utf8
from aicp.storage.list_shapes import SHAPES, ListShape, names_from_to, shape_of, times_from_to
from aicp.storage.postgres_batch import storable
from aicp.storage.postgres_server import Connection, Rows
from aicp.storage.postgres_sessions import Sessions
from aicp.storage.row_checksums import described
from aicp.storage.rows import FACT_COLUMNS, StoredChain, decode_record, outline_fact, read_in_pieces, timestamp
from aicp.storage.task_ends import may_have

Ask = Callable[..., Awaitable[Rows]]
"""Reads the rows of a statement with its parameters."""

FACTS_AT_ONCE = 100
"""How many facts of an outline are in memory at a time."""

# Bytes, as JSON is decoded from; `convert_to` would fail the statement for text that is not UTF-8 any more.
_FACT = f"{FACT_COLUMNS}, textsend(facts.fact)"
_FACTS = f"""
    SELECT {_FACT}, textsend(results.body)
    FROM chains
    LEFT JOIN facts ON facts.chain_id = chains.chain_id
    LEFT JOIN results ON results.digest = facts.result_digest
"""  # noqa: S608 - constants
_OF_CHAIN = f"{_FACTS} WHERE chains.chain_id = $1 ORDER BY facts.seq"
OF_CHAINS = f"{_FACTS} WHERE chains.number = ANY($1::bigint[]) ORDER BY chains.number, facts.seq"
"""The rows of several chains, by their numbers, for `decode_records`."""

# The chain's row is looked for again: a submit may have been recorded since the statement that did not find it.
_ORPHANS = """
    SELECT 1 FROM facts WHERE chain_id = $1 AND NOT EXISTS (SELECT 1 FROM chains WHERE chain_id = $1) LIMIT 1
"""
_SUMMARY = f"SELECT {SUMMARY_COLUMNS} FROM chains WHERE chain_id = $1"  # noqa: S608 - constants
_OUTLINES = f"""
    SELECT {_FACT} FROM chains LEFT JOIN facts ON facts.chain_id = chains.chain_id AND facts.seq > $2
    WHERE chains.chain_id = $1 ORDER BY facts.seq LIMIT $3
"""  # noqa: S608 - constants
# With the row itself, so that the two are of one moment.
_WITH_LAST_FACT = f"""
    SELECT {SUMMARY_COLUMNS}, (SELECT textsend(fact) FROM facts WHERE facts.chain_id = chains.chain_id
        ORDER BY seq DESC LIMIT 1) FROM chains WHERE chain_id = ANY($1::text[])
"""  # noqa: S608 - constants
_LIST = """
    SELECT {columns} FROM chains
    WHERE ($1::text IS NULL OR $1 = tenant) AND ($2::text IS NULL OR $2 = status) AND {filters}
        number < CASE WHEN $3::text IS NULL THEN 9223372036854775807 ELSE (
            SELECT number FROM chains WHERE chain_id = $3 AND ($1::text IS NULL OR tenant = $1)) END
    ORDER BY number DESC LIMIT $4
"""
_LIST_BY_TIME = """
    SELECT {columns} FROM chains
    WHERE ($1::text IS NULL OR $1 = tenant) AND ($2::text IS NULL OR $2 = status) AND {filters}
        (submitted_at, number) < (
            SELECT 'infinity'::timestamptz, 0 WHERE $3::text IS NULL
            UNION ALL
            SELECT submitted_at, number FROM chains WHERE chain_id = $3 AND ($1::text IS NULL OR tenant = $1))
    ORDER BY submitted_at DESC, number DESC LIMIT $4
"""
_NAMES = "name <> '' AND name ~>=~ {} AND name ~<~ {}"
_TIMES = "submitted_at >= {} AND submitted_at < {}"
_PLACES = ("$5", "$6", "$7", "$8")


def _list(shape: ListShape) -> str:
    filters = [
        ("tenant = $1", shape.has_tenant), ("status = $2", shape.has_status), ("ended_at IS NULL", shape.unfinished),
        (_NAMES, shape.has_name), (_TIMES, shape.has_times),
    ]  # fmt: skip
    if shape.ends is not None:
        filters.append((may_have(shape.ends), True))
    conditions = "".join(f"{condition} AND " for condition, is_meant in filters if is_meant)
    statement = _LIST_BY_TIME if shape.has_times else _LIST
    return statement.format(columns=SUMMARY_COLUMNS, filters=conditions.format(*_PLACES))


LIST_BY_SHAPE = {shape: _list(shape) for shape in SHAPES}
"""The statement for a query: the index that leads to the fewest is the planner's to choose, by what each holds."""


async def read_record(
    sessions: Sessions, chain_id: str, documents: DocumentDesk, level: int = LEVEL
) -> ChainRecord | None:
    """Everything recorded of a chain; None when there is no such chain.

    Raises:
        NewerVersion: It needs a higher level.
        RecordDamaged: Something of it is damaged or missing.
        StorageError: It could not be read.
    """
    rows = await sessions.read(_OF_CHAIN, chain_id)
    if rows:
        return await read_in_pieces(rows, documents, lambda: decode_record(rows, level))
    if await sessions.read(_ORPHANS, chain_id):
        raise RecordDamaged("chains", described(chain_id), "it is missing, and facts of the chain are there")
    return None


async def read_outline(connection: Connection, chain_id: str, level: int = LEVEL) -> ChainRecord | None:
    """What `read_record` gives, without results of tasks; to be called in a transaction that is a snapshot.

    Raises:
        NewerVersion: It needs a higher level.
        RecordDamaged: Something of it is damaged or missing.
    """
    chain: StoredChain | None = None
    facts: list[Fact] = []
    while True:
        rows = await connection.fetch(_OUTLINES, chain_id, len(facts) - 1, FACTS_AT_ONCE)
        if chain is None and rows:
            chain = StoredChain(rows[0], level)
        found = [row for row in rows if row["seq"] is not None]
        facts += [outline_fact(chain, row) for row in found if chain is not None]
        if len(found) < FACTS_AT_ONCE:
            return None if chain is None else chain.record(facts)


async def read_summaries(sessions: Sessions, query: ChainQuery) -> list[ChainSummary | RecordDamaged]:
    """Newest first, one page; for a row that is damaged, how.

    Raises:
        StorageError: They could not be read.
    """
    shape = shape_of(query)
    rows = await sessions.read(LIST_BY_SHAPE[shape], *list_parameters(query, shape))
    found = await check_summaries(sessions.read, rows)
    return [each if isinstance(each, RecordDamaged) else decoded(each.summary) for each in found]


def list_parameters(query: ChainQuery, shape: ListShape) -> list[object]:
    """What the statement for a query takes."""
    status = None if query.status is None else query.status.value
    before = None if query.before is None else storable(query.before)
    parameters: list[object] = [query.tenant, status, before, max(0, query.limit)]
    if shape.has_name:
        parameters += names_from_to(storable(query.name or ""))
    if shape.has_times:
        parameters += times_from_to(query)
    return parameters


async def read_summary(sessions: Sessions, chain_id: str) -> ChainSummary | RecordDamaged | None:
    """The row of a chain, whatever level it needs, or how it is damaged; None when there is no such chain.

    Raises:
        StorageError: It could not be read.
    """
    for each in await check_summaries(sessions.read, await sessions.read(_SUMMARY, chain_id)):
        return each if isinstance(each, RecordDamaged) else decoded(each.summary)
    return None


async def check_summaries(ask: Ask, rows: Rows) -> list[StoredSummary | RecordDamaged]:
    """Rows of chains that are as they were written, and how others are damaged; `ask` reads what decides it.

    Raises:
        StorageError: That could not be read; or what `ask` raises.
    """
    found = [stored_summary(row) for row in rows]
    # An id that is not UTF-8 any more is not a parameter that the server takes.
    in_doubt = [each.chain_id for each in found if each.is_in_doubt and is_utf8(each.chain_id)]
    if not in_doubt:
        return checked(partial(check_summary, {}), found)
    again = [(stored_summary(row), fact) for *row, fact in await ask(_WITH_LAST_FACT, in_doubt)]
    newest = {stored.chain_id: stored for stored, _ in again}
    last_facts = {stored.chain_id: fact for stored, fact in again}
    gone = set(in_doubt).difference(newest)
    there = [newest.get(each.chain_id, each) for each in found if each.chain_id not in gone]
    return checked(partial(check_summary, last_facts), there)


def stored_summary(row: Iterable[Any]) -> StoredSummary:
    """A chain's row, its times as texts."""
    chain_id, name, tenant, status, total_tasks, submitted_at, ended_at, *others = row
    end = None if ended_at is None else timestamp(ended_at)
    return StoredSummary(chain_id, name, tenant, status, total_tasks, timestamp(submitted_at), end, *others)


def check_summary(last_facts: Mapping[str, bytes | None], stored: StoredSummary) -> StoredSummary:
    """A chain's row, which is as it was written; `last_facts` has the JSON of the last fact where that decides it.

    Raises:
        RecordDamaged: It is not.
    """
    stored.check()
    if stored.is_in_doubt:
        stored.check_progress(last_facts.get(stored.chain_id))
    return stored
