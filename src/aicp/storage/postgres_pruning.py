"""Forgets what is old: finished chains, keys of submits, and large results that nothing refers to any more."""

from datetime import datetime

from aicp.storage.chain_summaries import SUMMARY_COLUMNS, StoredSummary
from aicp.storage.damage import IntactRows, checked
from aicp.storage.postgres_batch import KEY_USE_COLUMNS, Key, check_key_use
from aicp.storage.postgres_reading import check_summaries
from aicp.storage.postgres_server import Connection
from aicp.storage.pruned import CHAINS_AT_ONCE_MAX, KEYS_AT_ONCE_MAX, Pruned, few_enough

_ENDED = f"""
    SELECT {SUMMARY_COLUMNS} FROM chains WHERE ended_at IS NOT NULL AND ended_at < $1
    ORDER BY ended_at, chain_id LIMIT $2 FOR UPDATE SKIP LOCKED
"""  # noqa: S608 - constants
_DIGESTS = """
    SELECT DISTINCT chain_id, result_digest FROM facts WHERE chain_id = ANY($1::text[]) AND result_digest IS NOT NULL
"""
_ROWS_OF_CHAINS = [
    f"DELETE FROM {table} WHERE chain_id = ANY($1::text[])"  # noqa: S608 - constants
    for table in ("facts", "requests", "open_waits", "chains")
]
# First the locks, then the look: a fact that refers to one of them again waits for this, or is seen by it.
_LOCK_RESULTS = "SELECT digest FROM results WHERE digest = ANY($1::bytea[]) ORDER BY digest FOR UPDATE SKIP LOCKED"
_THERE = "SELECT digest FROM results WHERE digest = ANY($1::bytea[])"
_RESULTS = """
    DELETE FROM results WHERE digest = ANY($1::bytea[])
        AND NOT EXISTS (SELECT 1 FROM facts WHERE result_digest = results.digest AND result_digest IS NOT NULL)
"""
_OLD_KEYS = f"""
    SELECT {KEY_USE_COLUMNS} FROM submit_keys WHERE at < $1 ORDER BY at LIMIT $2 FOR UPDATE SKIP LOCKED
"""  # noqa: S608 - constants
_KEYS = """
    DELETE FROM submit_keys WHERE (tenant, key) IN (SELECT * FROM unnest($1::text[], $2::text[]))
"""

REMOVED_AGENTS = f"""
    DELETE FROM removed_agents WHERE agent_id IN (
        SELECT agent_id FROM removed_agents WHERE removed_at < $1 LIMIT {KEYS_AT_ONCE_MAX} FOR UPDATE SKIP LOCKED
    )
"""  # noqa: S608 - a constant
"""Forgets some agents that were removed before then: replicas that were away for longer do not hear of it."""


async def prune_chains(connection: Connection, before: datetime, limit: int) -> Pruned:
    """Forget some finished chains that ended before then; to be called in a transaction.

    Damaged rows stay: when those chains ended is in doubt.
    """
    rows = IntactRows[StoredSummary](min(limit, CHAINS_AT_ONCE_MAX))
    while not rows.take(await check_summaries(connection.fetch, await connection.fetch(_ENDED, before, rows.looks))):
        pass
    chain_ids = few_enough([(stored.chain_id, stored.weight) for stored in rows.kept])
    chain_ids, digests = await _unlocked(connection, chain_ids)
    if chain_ids:
        for sql in _ROWS_OF_CHAINS:
            await connection.execute(sql, chain_ids)
    if chain_ids and digests:
        await connection.execute(_RESULTS, digests)
    return Pruned(len(chain_ids), tuple(rows.damaged))


async def prune_keys(connection: Connection, before: datetime) -> Pruned:
    """Forget some keys that were first used before then; to be called in a transaction.

    Damaged rows stay: when those were used is in doubt.
    """
    rows = IntactRows[Key](KEYS_AT_ONCE_MAX)
    while not rows.take(checked(check_key_use, await connection.fetch(_OLD_KEYS, before, rows.looks))):
        pass
    await connection.execute(_KEYS, [tenant for tenant, _ in rows.kept], [key for _, key in rows.kept])
    return Pruned(len(rows.kept), tuple(rows.damaged))


async def _unlocked(connection: Connection, chain_ids: list[str]) -> tuple[list[str], list[bytes]]:
    """The chains whose large results nobody else has locked, and those results, which are locked here from then on."""
    uses = await connection.fetch(_DIGESTS, chain_ids) if chain_ids else ()
    if not uses:
        return chain_ids, []
    wanted = {digest for _, digest in uses}
    digests = [digest for (digest,) in await connection.fetch(_LOCK_RESULTS, list(wanted))]
    left = await connection.fetch(_THERE, list(wanted.difference(digests))) if len(digests) < len(wanted) else ()
    locked_elsewhere = {digest for (digest,) in left}
    held_up = {chain_id for chain_id, digest in uses if digest in locked_elsewhere}
    return [chain_id for chain_id in chain_ids if chain_id not in held_up], digests
