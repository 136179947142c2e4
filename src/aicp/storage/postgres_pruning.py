"""Forgets what is old: finished chains, keys of submits, and large results that nothing refers to any more."""

from datetime import datetime

from aicp.storage.postgres_server import Connection

CHAINS_AT_ONCE_MAX = 100
TASKS_AT_ONCE_MAX = 2_000
KEYS_AT_ONCE_MAX = 1_000
"""What one transaction may forget, so that others wait some milliseconds for it at most."""

_ENDED = """
    WITH old AS MATERIALIZED (
        SELECT chain_id, total_tasks, ended_at FROM chains WHERE ended_at IS NOT NULL AND ended_at < $1
        ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ), few AS (
        SELECT chain_id, sum(total_tasks) OVER (ORDER BY ended_at, chain_id) - total_tasks AS before FROM old
    )
    SELECT chain_id FROM few WHERE before < $3
"""
_DIGESTS = """
    SELECT DISTINCT chain_id, result_digest FROM facts WHERE chain_id = ANY($1::text[]) AND result_digest IS NOT NULL
"""
_FACTS = "DELETE FROM facts WHERE chain_id = ANY($1::text[])"
_CHAINS = "DELETE FROM chains WHERE chain_id = ANY($1::text[])"
# First the locks, then the look: a fact that refers to one of them again waits for this, or is seen by it.
_LOCK_RESULTS = "SELECT digest FROM results WHERE digest = ANY($1::bytea[]) ORDER BY digest FOR UPDATE SKIP LOCKED"
_THERE = "SELECT digest FROM results WHERE digest = ANY($1::bytea[])"
_RESULTS = """
    DELETE FROM results WHERE digest = ANY($1::bytea[])
        AND NOT EXISTS (SELECT 1 FROM facts WHERE result_digest = results.digest AND result_digest IS NOT NULL)
"""
KEYS = f"""
    DELETE FROM submit_keys WHERE (tenant, key) IN (
        SELECT tenant, key FROM submit_keys WHERE at < $1 ORDER BY at LIMIT {KEYS_AT_ONCE_MAX} FOR UPDATE SKIP LOCKED
    )
    RETURNING 1
"""  # noqa: S608 - a constant
"""Forgets some keys that were first used before then."""

REMOVED_AGENTS = f"""
    DELETE FROM removed_agents WHERE agent_id IN (
        SELECT agent_id FROM removed_agents WHERE removed_at < $1 LIMIT {KEYS_AT_ONCE_MAX} FOR UPDATE SKIP LOCKED
    )
"""  # noqa: S608 - a constant
"""Forgets some agents that were removed before then: replicas that were away for longer do not hear of it."""


async def prune_chains(connection: Connection, before: datetime, limit: int) -> int:
    """Forget some finished chains that ended before then; returns how many, 0 when there are none left.

    To be called in a transaction.
    """
    rows = await connection.fetch(_ENDED, before, min(limit, CHAINS_AT_ONCE_MAX), TASKS_AT_ONCE_MAX)
    chain_ids, digests = await _unlocked(connection, [chain_id for (chain_id,) in rows])
    if not chain_ids:
        return 0
    await connection.execute(_FACTS, chain_ids)
    await connection.execute(_CHAINS, chain_ids)
    if digests:
        await connection.execute(_RESULTS, digests)
    return len(chain_ids)


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
