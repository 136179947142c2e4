"""What a SQLite database says of chains. Each answer is one statement, and so as of one moment."""

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import product

import msgspec

from aicp.model.event import Fact
from aicp.ports import ChainQuery, ChainRecord, ChainSummary
from aicp.storage.rows import decode_outline, decode_record, decode_records, record_of
from aicp.storage.sqlite_book import KEY_USE, Key, KeyUse

_FACTS = """
    SELECT chains.chain_id, chains.epoch, facts.fact, facts.result_digest, results.body
    FROM chains
    JOIN facts ON facts.chain_id = chains.chain_id
    LEFT JOIN results ON results.digest = facts.result_digest
"""
_OF_CHAIN = f"{_FACTS} WHERE chains.chain_id = ? ORDER BY facts.seq"
_UNFINISHED = f"""
    {_FACTS} WHERE chains.ended_at IS NULL AND chains.number > ? AND chains.number <= ?
    ORDER BY chains.number, facts.seq
"""

_OUTLINE = """
    SELECT chains.epoch, facts.fact FROM chains JOIN facts ON facts.chain_id = chains.chain_id
    WHERE chains.chain_id = ? ORDER BY facts.seq
"""

_LIST = """
    SELECT json_group_array(json_object(
        'chain_id', chain_id, 'name', name, 'tenant', tenant, 'status', status, 'total_tasks', total_tasks,
        'submitted_at', submitted_at, 'ended_at', ended_at, 'retry_of', retry_of))
    FROM (
        SELECT * FROM chains {index}
        WHERE {filters} number < CASE WHEN :before IS NULL THEN 9223372036854775807 ELSE (
            SELECT number FROM chains WHERE chain_id = :before AND (:tenant IS NULL OR tenant = :tenant)) END
        ORDER BY number DESC LIMIT :limit
    )
"""


def _list(*, has_tenant: bool, has_status: bool, unfinished: bool) -> str:
    filters = [("tenant = :tenant", has_tenant), ("status = :status", has_status), ("ended_at IS NULL", unfinished)]
    told = "".join(f"{condition} AND " for condition, is_meant in filters if is_meant)
    # Named, since there may be a million finished chains of the tenant between two unfinished ones.
    index = "INDEXED BY chains_unfinished" if unfinished else ""
    return _LIST.replace("{filters}", told).replace("{index}", index)


LIST_BY_FILTERS = {
    (has_tenant, has_status, unfinished): _list(has_tenant=has_tenant, has_status=has_status, unfinished=unfinished)
    for has_tenant, has_status, unfinished in product((False, True), repeat=3)
}
"""The statement for whether a query names a tenant and a status and wants unfinished chains only; each walks an index
and sorts nothing. Among the unfinished, those of other tenants are looked at too."""

_summaries_decoder = msgspec.json.Decoder(list[ChainSummary])


def read_record(connection: sqlite3.Connection, chain_id: str) -> ChainRecord | None:
    """Everything recorded of a chain; None when there is no such chain.

    Raises:
        sqlite3.Error: It could not be read.
        msgspec.MsgspecError: What is there is not what was written, or of a newer version.
    """
    rows = connection.execute(_OF_CHAIN, (chain_id,)).fetchall()
    return decode_record(rows) if rows else None


def read_key_use(connection: sqlite3.Connection, key: Key) -> KeyUse | None:
    """What (tenant, key) was used for: the body's digest and the chain.

    Raises:
        sqlite3.Error: It could not be read.
    """
    row: KeyUse | None = connection.execute(KEY_USE, key).fetchone()
    return row


def read_unfinished(
    connection: sqlite3.Connection, after: int, up_to: int
) -> Iterator[ChainRecord | msgspec.MsgspecError]:
    """Chains without an end whose numbers are in (after, up_to], oldest first; for one that cannot be read, why.

    Raises:
        sqlite3.Error: They could not be read.
    """
    return decode_records(connection.execute(_UNFINISHED, (after, up_to)))


def read_outlines(connection: sqlite3.Connection, chain_ids: Iterable[str]) -> list[ChainRecord]:
    """What `read_record` gives of several chains, without results of tasks; those that are not there are left out.

    Raises:
        sqlite3.Error: They could not be read.
        msgspec.MsgspecError: What is there is not what was written, or of a newer version.
    """
    found = ((chain_id, _outline(connection, chain_id)) for chain_id in chain_ids)
    return [record_of(chain_id, epoch, facts) for chain_id, (epoch, facts) in found if facts]


def read_summaries(connection: sqlite3.Connection, query: ChainQuery) -> list[ChainSummary]:
    """Newest first, one page.

    Raises:
        sqlite3.Error: They could not be read.
        msgspec.MsgspecError: What is there is not what was written, or of a newer version.
    """
    sql = LIST_BY_FILTERS[query.tenant is not None, query.status is not None, query.unfinished]
    params = {**msgspec.structs.asdict(query), "limit": max(0, query.limit)}
    (listed,) = connection.execute(sql, params).fetchone()
    return _summaries_decoder.decode(listed)


def _outline(connection: sqlite3.Connection, chain_id: str) -> tuple[int, list[Fact]]:
    epoch, facts = 0, list[Fact]()
    for epoch, fact in connection.execute(_OUTLINE, (chain_id,)):  # noqa: B007 - the same in every row
        facts.append(decode_outline(fact))
    return epoch, facts
