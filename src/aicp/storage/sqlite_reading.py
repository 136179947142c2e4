"""What a SQLite database says of chains. Each answer is one statement, and so as of one moment."""

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter

import msgspec

from aicp.model.event import ChainSubmitted
from aicp.ports import ChainQuery, ChainRecord, ChainSummary
from aicp.storage.rows import decode_facts
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

_LIST = """
    SELECT json_group_array(json_object(
        'chain_id', chain_id, 'name', name, 'tenant', tenant, 'status', status, 'total_tasks', total_tasks,
        'submitted_at', submitted_at, 'ended_at', ended_at, 'retry_of', retry_of))
    FROM (
        SELECT * FROM chains
        WHERE {filters} number < CASE WHEN :before IS NULL THEN 9223372036854775807
            ELSE (SELECT number FROM chains WHERE chain_id = :before) END
        ORDER BY number DESC LIMIT :limit
    )
"""
LIST_BY_FILTERS = {
    (has_tenant, has_status): _LIST.replace(
        "{filters}", "tenant = :tenant AND " * has_tenant + "status = :status AND " * has_status
    )
    for has_tenant in (False, True)
    for has_status in (False, True)
}
"""The statement for whether a query names a tenant and a status; each is answered from an index, in order."""

_Row = tuple[str, int, str, bytes | None, str | None]
_summaries_decoder = msgspec.json.Decoder(list[ChainSummary])


def read_record(connection: sqlite3.Connection, chain_id: str) -> ChainRecord | None:
    """Everything recorded of a chain; None when there is no such chain.

    Raises:
        sqlite3.Error: It could not be read.
        msgspec.MsgspecError: What is there is not what was written, or of a newer version.
    """
    rows = connection.execute(_OF_CHAIN, (chain_id,)).fetchall()
    return _record(rows) if rows else None


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
    for _, rows in groupby(connection.execute(_UNFINISHED, (after, up_to)), key=itemgetter(0)):
        try:
            yield _record(list(rows))
        except msgspec.MsgspecError as error:
            yield error


def read_summaries(connection: sqlite3.Connection, query: ChainQuery) -> list[ChainSummary]:
    """Newest first, one page.

    Raises:
        sqlite3.Error: They could not be read.
        msgspec.MsgspecError: What is there is not what was written, or of a newer version.
    """
    sql = LIST_BY_FILTERS[query.tenant is not None, query.status is not None]
    params = {**msgspec.structs.asdict(query), "limit": max(0, query.limit)}
    (listed,) = connection.execute(sql, params).fetchone()
    return _summaries_decoder.decode(listed)


def _record(rows: list[_Row]) -> ChainRecord:
    chain_id, epoch = rows[0][:2]
    facts = decode_facts((row[2] for row in rows), _results(chain_id, rows))
    submitted = facts[0]
    if not isinstance(submitted, ChainSubmitted):
        message = f"chain {chain_id} does not begin with its submit"
        raise msgspec.ValidationError(message)
    return ChainRecord(submitted, tuple(facts[1:]), epoch)


def _results(chain_id: str, rows: Iterable[_Row]) -> dict[int, str]:
    """The large results by the position of their fact."""
    results: dict[int, str] = {}
    for position, (_, _, _, digest, body) in enumerate(rows):
        if digest is None:
            continue
        if body is None:
            message = f"chain {chain_id} refers to a result that is not there"
            raise msgspec.ValidationError(message)
        results[position] = body
    return results
