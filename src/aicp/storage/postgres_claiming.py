"""Takes over the unfinished chains of replicas that died, some at a time; several replicas share them out."""

from collections.abc import Collection, Sequence

import msgspec

from aicp.model.document_desk import DocumentDesk
from aicp.ports import ChainRecord
from aicp.storage.postgres_reading import OF_CHAINS
from aicp.storage.postgres_server import Connection
from aicp.storage.rows import Unreadable, decode_records, read_in_pieces
from aicp.storage.task_ends import claimed

RUNS_AT_ONCE_MAX = 2_000
"""What one transaction may claim, so that others wait some milliseconds for it."""

ANY_DEAD = "SELECT 1 FROM replicas WHERE died_at IS NOT NULL LIMIT 1"
"""Rows when there is anything to look for: on most days there is not, and that is all a claim costs."""

_LOCK = """
    WITH me AS MATERIALIZED (SELECT number FROM replicas WHERE number = $1 AND died_at IS NULL FOR SHARE),
    orphans AS MATERIALIZED (
        SELECT found.* FROM replicas CROSS JOIN LATERAL (
            SELECT number, chain_id, coalesce(runs, total_tasks) AS runs FROM chains
            WHERE owner = replicas.number AND ended_at IS NULL AND needs <= $5 AND number <> ALL($6::bigint[])
            ORDER BY chains.number LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
        ) AS found
        WHERE died_at IS NOT NULL AND EXISTS (SELECT 1 FROM me)
    ), doubted AS MATERIALIZED (
        SELECT number, chain_id, owner, ended_at FROM chains
        WHERE chain_id = ANY($3::text[]) AND EXISTS (SELECT 1 FROM me)
        ORDER BY chain_id FOR NO KEY UPDATE SKIP LOCKED
    ), own AS (SELECT number, chain_id FROM doubted WHERE owner = $1 AND ended_at IS NULL
    ), few AS (
        SELECT number, chain_id FROM (
            SELECT number, chain_id, sum(runs) OVER (ORDER BY number) - runs AS before FROM orphans
        ) AS counted
        WHERE before < $4 ORDER BY number LIMIT greatest($2 - (SELECT count(*) FROM own), 0)
    )
    SELECT number, chain_id FROM few UNION SELECT number, chain_id FROM own
"""
_CLAIM = f"""
    UPDATE chains SET owner = $1, epoch = greatest(epoch, epoch_min, 1) + 1,
        epoch_min = greatest(epoch, epoch_min, 1) + 1, task_ends = {claimed("greatest(epoch, epoch_min, 1) + 1")}
    WHERE number = ANY($2::bigint[])
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
        records: The chains that are this replica's now.
        left: Why others cannot be read, which stay as they are.
        locked: The chains in doubt that are this replica's, and that another session has locked: still in doubt.
        unreadable: The numbers of the chains that could not be read: their owner is who it was.
    """

    records: list[ChainRecord]
    left: list[Unreadable]
    locked: list[str]
    unreadable: list[int]


class Claim(msgspec.Struct, frozen=True):
    """What to claim.

    Attributes:
        number: Of the replica.
        level: Of the replica; chains that need a higher one stay as they are.
        limit: At most this many chains.
        doubts: At most as many chains that may be its own without its knowing: whoever recorded that got no answer.
        not_again: The numbers of chains that it could not read before.
    """

    number: int
    level: int
    limit: int
    doubts: Sequence[str]
    not_again: Sequence[int]


async def claim_chains(connection: Connection, claim: Claim, documents: DocumentDesk) -> Claimed:
    """Read some chains that nobody alive runs, and make a replica the owner of those that it can read.

    Args:
        connection: In a transaction.
        claim: What to claim.
        documents: Where many or large records are decoded.
    """
    rows = await connection.fetch(
        _LOCK, claim.number, max(1, claim.limit), list(claim.doubts), RUNS_AT_ONCE_MAX, claim.level,
        list(claim.not_again),
    )  # fmt: skip
    numbers = {chain_id: number for number, chain_id in rows}
    locked = await _still_own(connection, claim.number, set(claim.doubts).difference(numbers))
    if not numbers:
        await connection.execute(_BURY)
        return Claimed([], [], locked, [])
    # A statement of its own: it sees what the last owner recorded while this one waited for its lock.
    rows = await connection.fetch(OF_CHAINS, list(numbers.values()))
    found = await read_in_pieces(rows, documents, lambda: list(decode_records(rows, claim.level)))
    records = [_claimed(each) for each in found if isinstance(each, ChainRecord)]
    taken = [numbers.pop(record.submitted.chain_id) for record in records]
    await connection.execute(_CLAIM, claim.number, taken)
    left = [each for each in found if not isinstance(each, ChainRecord)]
    return Claimed(records, left, locked, list(numbers.values()))


def _claimed(record: ChainRecord) -> ChainRecord:
    return msgspec.structs.replace(record, epoch=record.epoch + 1)


async def _still_own(connection: Connection, number: int, left: Collection[str]) -> list[str]:
    rows = await connection.fetch(_STILL_OWN, number, list(left)) if left else ()
    return [chain_id for (chain_id,) in rows]
