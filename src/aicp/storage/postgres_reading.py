"""What a PostgreSQL database says of chains. Each answer is one statement, and so as of one moment."""

from itertools import product
from typing import Any

from aicp.model.event import Fact
from aicp.model.task import TaskStatus
from aicp.ports import ChainQuery, ChainRecord, ChainSummary
from aicp.storage.postgres_batch import storable
from aicp.storage.postgres_server import Connection
from aicp.storage.postgres_sessions import Sessions
from aicp.storage.rows import decode_outline, decode_record, record_of

FACTS_AT_ONCE = 100
"""How many facts of an outline are in memory at a time."""

_FACTS = """
    SELECT chains.chain_id, chains.epoch, facts.fact, facts.result_digest, results.body
    FROM chains
    JOIN facts ON facts.chain_id = chains.chain_id
    LEFT JOIN results ON results.digest = facts.result_digest
"""
_OF_CHAIN = f"{_FACTS} WHERE chains.chain_id = $1 ORDER BY facts.seq"
OF_CHAINS = f"{_FACTS} WHERE chains.chain_id = ANY($1::text[]) ORDER BY chains.number, facts.seq"
"""The rows of several chains, for `decode_records`."""

_OUTLINES = """
    SELECT chains.epoch, facts.seq, facts.fact FROM chains JOIN facts ON facts.chain_id = chains.chain_id
    WHERE chains.chain_id = $1 AND facts.seq > $2 ORDER BY facts.seq LIMIT $3
"""
_LIST = """
    SELECT chain_id, name, tenant, status, total_tasks, submitted_at, ended_at, retry_of FROM chains
    WHERE ($1::text IS NULL OR $1 = tenant) AND ($2::text IS NULL OR $2 = status) AND {filters}
        number < CASE WHEN $3::text IS NULL THEN 9223372036854775807 ELSE (
            SELECT number FROM chains WHERE chain_id = $3 AND ($1::text IS NULL OR tenant = $1)) END
    ORDER BY number DESC LIMIT $4
"""


def _list(*, has_tenant: bool, has_status: bool, unfinished: bool) -> str:
    filters = [("tenant = $1", has_tenant), ("status = $2", has_status), ("ended_at IS NULL", unfinished)]
    return _LIST.replace("{filters}", "".join(f"{condition} AND " for condition, is_meant in filters if is_meant))


LIST_BY_FILTERS = {
    (has_tenant, has_status, unfinished): _list(has_tenant=has_tenant, has_status=has_status, unfinished=unfinished)
    for has_tenant, has_status, unfinished in product((False, True), repeat=3)
}
"""The statement for whether a query names a tenant and a status and wants unfinished chains only."""


async def read_record(sessions: Sessions, chain_id: str) -> ChainRecord | None:
    """Everything recorded of a chain; None when there is no such chain.

    Raises:
        StorageError: It could not be read.
        msgspec.MsgspecError: What is there is not what was written, or of a newer version.
    """
    rows = await sessions.read(_OF_CHAIN, chain_id)
    return decode_record(rows) if rows else None


async def read_outline(connection: Connection, chain_id: str) -> ChainRecord | None:
    """What `read_record` gives, without results of tasks; to be called in a transaction that is a snapshot.

    Raises:
        msgspec.MsgspecError: What is there is not what was written, or of a newer version.
    """
    epoch, last, facts = 0, -1, list[Fact]()
    while rows := await connection.fetch(_OUTLINES, chain_id, last, FACTS_AT_ONCE):
        epoch, last = rows[-1]["epoch"], rows[-1]["seq"]
        facts += [decode_outline(row["fact"]) for row in rows]
    return record_of(chain_id, epoch, facts) if facts else None


async def read_summaries(sessions: Sessions, query: ChainQuery) -> list[ChainSummary]:
    """Newest first, one page.

    Raises:
        StorageError: They could not be read.
    """
    sql = LIST_BY_FILTERS[query.tenant is not None, query.status is not None, query.unfinished]
    status = None if query.status is None else query.status.value
    before = None if query.before is None else storable(query.before)
    return [_summary(row) for row in await sessions.read(sql, query.tenant, status, before, max(0, query.limit))]


def _summary(row: Any) -> ChainSummary:
    chain_id, name, tenant, status, total_tasks, submitted_at, ended_at, retry_of = row
    return ChainSummary(chain_id, name, tenant, TaskStatus(status), total_tasks, submitted_at, ended_at, retry_of)
