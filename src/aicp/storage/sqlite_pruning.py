"""Forgets what is old: finished chains, keys of submits, and large results that nothing refers to any more."""

from functools import partial

from aicp.storage.chain_summaries import SUMMARY_COLUMNS, StoredSummary
from aicp.storage.damage import IntactRows, checked
from aicp.storage.pruned import CHAINS_AT_ONCE_MAX, KEYS_AT_ONCE_MAX, Pruned, few_enough
from aicp.storage.sqlite_book import KEY_USE_COLUMNS, Book, Key, check_key_use
from aicp.storage.sqlite_reading import check_summary

_ENDED = f"""
    SELECT {SUMMARY_COLUMNS} FROM chains WHERE ended_at IS NOT NULL AND ended_at < ? ORDER BY ended_at LIMIT ?
"""  # noqa: S608 - constants
_DIGESTS = "SELECT DISTINCT result_digest FROM facts WHERE chain_id = ? AND result_digest IS NOT NULL"
_ROWS_OF_CHAIN = [
    f"DELETE FROM {table} WHERE chain_id = ?"  # noqa: S608 - constants
    for table in ("facts", "requests", "open_waits", "chains")
]
_RESULT = """
    DELETE FROM results
    WHERE digest = ? AND NOT EXISTS (
        SELECT 1 FROM facts WHERE result_digest = results.digest AND result_digest IS NOT NULL)
"""
_OLD_KEYS = f"SELECT {KEY_USE_COLUMNS} FROM submit_keys WHERE at < ? ORDER BY at LIMIT ?"  # noqa: S608 - constants
_KEY = "DELETE FROM submit_keys WHERE tenant = ? AND key = ?"


def prune_chains(book: Book, before: str, limit: int) -> Pruned:
    """Forget some finished chains that ended before then. Damaged rows stay: when those chains ended is in doubt."""
    rows = IntactRows[StoredSummary](min(limit, CHAINS_AT_ONCE_MAX))
    check = partial(check_summary, book.connection)
    while not rows.take(checked(check, book.execute(_ENDED, (before, rows.looks)).fetchall())):
        pass
    some = few_enough([(stored.chain_id, stored.weight) for stored in rows.kept])
    digests = {digest for chain_id in some for (digest,) in book.execute(_DIGESTS, (chain_id,)).fetchall()}
    for chain_id in some:
        for sql in _ROWS_OF_CHAIN:
            book.execute(sql, (chain_id,))
    for digest in digests:
        book.execute(_RESULT, (digest,))
    return Pruned(len(some), tuple(rows.damaged))


def prune_keys(book: Book, before: str) -> Pruned:
    """Forget some keys that were first used before then. Damaged rows stay: when those were used is in doubt."""
    rows = IntactRows[Key](KEYS_AT_ONCE_MAX)
    while not rows.take(checked(check_key_use, book.execute(_OLD_KEYS, (before, rows.looks)).fetchall())):
        pass
    for key in rows.kept:
        book.execute(_KEY, key)
    return Pruned(len(rows.kept), tuple(rows.damaged))
