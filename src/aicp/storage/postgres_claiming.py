"""Takes over the unfinished chains of replicas that died, some at a time; several replicas share them out."""

from collections.abc import Collection, Sequence

import msgspec

from aicp.errors import RecordDamaged
from aicp.model.document_desk import DocumentDesk
from aicp.ports import ChainRecord
from aicp.storage.damage import is_utf8
from aicp.storage.postgres_reading import OF_CHAINS
from aicp.storage.postgres_server import Connection
from aicp.storage.rows import decode_records, read_in_pieces
from aicp.storage.task_ends import claimed

TASKS_AT_ONCE_MAX = 2_000
"""What one transaction may claim, so that others wait some milliseconds for it."""

ANY_DEAD = "SELECT 1 FROM replicas WHERE died_at IS NOT NULL LIMIT 1"
"""Rows when there is anything to look for: on most days there is not, and that is all a claim costs."""

_CLAIM = f"""
    WITH me AS MATERIALIZED (SELECT number FROM replicas WHERE number = $1 AND died_at IS NULL FOR SHARE),
    orphans AS MATERIALIZED (
        SELECT found.* FROM replicas CROSS JOIN LATERAL (
            SELECT number, chain_id, total_tasks FROM chains
            WHERE owner = replicas.number AND ended_at IS NULL
            ORDER BY chains.number LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
        ) AS found
        WHERE died_at IS NOT NULL AND EXISTS (SELECT 1 FROM me)
    ), doubted AS MATERIALIZED (
        SELECT number, owner, ended_at FROM chains WHERE chain_id = ANY($3::text[]) AND EXISTS (SELECT 1 FROM me)
        ORDER BY chain_id FOR NO KEY UPDATE SKIP LOCKED
    ), own AS (SELECT number FROM doubted WHERE owner = $1 AND ended_at IS NULL
    ), few AS (
        SELECT number FROM (
            SELECT number, sum(total_tasks) OVER (ORDER BY number) - total_tasks AS before FROM orphans
        ) AS counted
        WHERE before < $4 ORDER BY number LIMIT greatest($2 - (SELECT count(*) FROM own), 0)
    )
    UPDATE chains SET owner = $1, epoch = greatest(epoch, epoch_min, 1) + 1,
        epoch_min = greatest(epoch, epoch_min, 1) + 1, task_ends = {claimed("greatest(epoch, epoch_min, 1) + 1")}
    FROM (SELECT number FROM few UNION SELECT number FROM own) AS taken WHERE chains.number = taken.number
    RETURNING chains.number, chains.chain_id
"""  # noqa: S608 - constants
_STILL_OWN = "SELECT chain_id FROM chains WHERE owner = $1 AND ended_at IS NULL AND chain_id = ANY($2::text[])"
_BURY = """
    DELETE FROM replicas WHERE number IN (
        SELECT number FROM replicas WHERE died_at < clock_timestamp() - interval '1 minute'
            AND NOT EXISTS (SELECT 1 FROM chains WHERE owner = replicas.number AND ended_at IS NULL)
        FOR UPDATE SKIP LOCKED
    )
"""


class Claimed(msgspec.Struct, frozen=True):
    """What a claim came to.

    Attributes:
        chain_ids: Of all chains that are this replica's now, without those whose ids are damaged text.
        records: Those that are intact.
        damaged: How each of the others is damaged, which is left as it is.
        locked: The chains in doubt that are this replica's, and that another session has locked: still in doubt.
    """

    chain_ids: list[str]
    records: list[ChainRecord]
    damaged: list[RecordDamaged]
    locked: list[str]


async def claim_chains(
    connection: Connection, number: int, limit: int, doubts: Sequence[str], documents: DocumentDesk
) -> Claimed:
    """Make a replica the owner of some chains that nobody alive runs, and read them; to be called in a transaction.

    Args:
        connection: In a transaction.
        number: Of the replica.
        limit: At most this many.
        doubts: At most as many chains that may be its own without its knowing: whoever recorded that got no answer.
        documents: Where many or large records are decoded.
    """
    rows = await connection.fetch(_CLAIM, number, max(1, limit), list(doubts), TASKS_AT_ONCE_MAX)
    numbers, chain_ids = [each for each, _ in rows], [chain_id for _, chain_id in rows if is_utf8(chain_id)]
    locked = await _still_own(connection, number, set(doubts).difference(chain_ids))
    if not numbers:
        await connection.execute(_BURY)
        return Claimed([], [], [], locked)
    # A statement of its own: it sees what the last owner recorded while this one waited for its lock.
    rows = await connection.fetch(OF_CHAINS, numbers)
    found = await read_in_pieces(rows, documents, lambda: list(decode_records(rows)))
    records = [each for each in found if isinstance(each, ChainRecord)]
    return Claimed(chain_ids, records, [each for each in found if isinstance(each, RecordDamaged)], locked)


async def _still_own(connection: Connection, number: int, left: Collection[str]) -> list[str]:
    rows = await connection.fetch(_STILL_OWN, number, list(left)) if left else ()
    return [chain_id for (chain_id,) in rows]
