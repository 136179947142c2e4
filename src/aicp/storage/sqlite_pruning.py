"""Forgets what is old: finished chains, keys of submits, and large results that nothing refers to any more."""

from collections.abc import Sequence
from itertools import accumulate

from aicp.storage.sqlite_book import Book

CHAINS_AT_ONCE_MAX = 100
TASKS_AT_ONCE_MAX = 2_000
KEYS_AT_ONCE_MAX = 1_000
"""What one transaction may forget, so that others wait some milliseconds for it at most."""

_ENDED = """
    SELECT chain_id, total_tasks FROM chains WHERE ended_at IS NOT NULL AND ended_at < ?
    ORDER BY ended_at LIMIT ?
"""
_DIGESTS = "SELECT DISTINCT result_digest FROM facts WHERE chain_id = ? AND result_digest IS NOT NULL"
_RESULT = """
    DELETE FROM results
    WHERE digest = ?1 AND NOT EXISTS (SELECT 1 FROM facts WHERE result_digest = ?1 AND result_digest IS NOT NULL)
"""
_KEYS = """
    DELETE FROM submit_keys
    WHERE (tenant, key) IN (SELECT tenant, key FROM submit_keys WHERE at < ? ORDER BY at LIMIT ?)
"""


def prune_chains(book: Book, before: str, limit: int) -> int:
    """Forget some finished chains that ended before then; returns how many, 0 when there are none left."""
    ended = book.execute(_ENDED, (before, min(limit, CHAINS_AT_ONCE_MAX))).fetchall()
    some = _few_enough(ended)
    digests = {digest for chain_id in some for (digest,) in book.execute(_DIGESTS, (chain_id,)).fetchall()}
    for chain_id in some:
        book.execute("DELETE FROM facts WHERE chain_id = ?", (chain_id,))
        book.execute("DELETE FROM chains WHERE chain_id = ?", (chain_id,))
    for digest in digests:
        book.execute(_RESULT, (digest,))
    return len(some)


def prune_keys(book: Book, before: str) -> int:
    """Forget some keys that were first used before then; returns how many, 0 when there are none left."""
    return book.execute(_KEYS, (before, KEYS_AT_ONCE_MAX)).rowcount


def _few_enough(ended: Sequence[tuple[str, int]]) -> list[str]:
    """The first chains, at least one, with so many tasks together that a transaction may forget them."""
    tasks = accumulate(total for _, total in ended)
    return [
        chain_id
        for index, ((chain_id, _), so_far) in enumerate(zip(ended, tasks, strict=True))
        if index == 0 or so_far <= TASKS_AT_ONCE_MAX
    ]
