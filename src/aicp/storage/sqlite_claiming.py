"""Takes over the unfinished chains that an earlier process left, some at a time."""

import sqlite3
from itertools import accumulate

import msgspec

from aicp.errors import RecordDamaged
from aicp.ports import ChainRecord
from aicp.storage.chain_summaries import CONTRADICTORY_ENDS, contradictory_end
from aicp.storage.sqlite_book import Book
from aicp.storage.sqlite_reading import read_unfinished
from aicp.storage.task_ends import claimed

TASKS_AT_ONCE_MAX = 2_000
"""What one transaction may claim, so that others wait some milliseconds for it."""

_NEWEST = "SELECT coalesce(max(number), 0) FROM chains"
# Named, since there may be a million finished chains between two unfinished ones.
_LEFT = """
    SELECT number, chain_id, total_tasks FROM chains INDEXED BY chains_unfinished
    WHERE ended_at IS NULL AND number > ? AND number <= ? ORDER BY number LIMIT ?
"""
_CLAIM = f"""
    UPDATE chains INDEXED BY chains_unfinished
    SET epoch = max(epoch, coalesce(epoch_min, 1)) + 1, epoch_min = max(epoch, coalesce(epoch_min, 1)) + 1,
        task_ends = {claimed("max(epoch, coalesce(epoch_min, 1)) + 1")}
    WHERE ended_at IS NULL AND number > ? AND number <= ?
"""  # noqa: S608 - constants


class Claimed(msgspec.Struct, frozen=True):
    """What a claim came to.

    Attributes:
        up_to: The number of the last chain it dealt with.
        records: The chains.
        damaged: How each of the others is damaged, which is left as it is.
    """

    up_to: int
    records: list[ChainRecord]
    damaged: list[RecordDamaged]


def newest_chain(connection: sqlite3.Connection) -> int:
    """The number of the newest chain; 0 when there is none."""
    (number,) = connection.execute(_NEWEST).fetchone()
    return int(number)


def contradictory_ends(connection: sqlite3.Connection) -> list[RecordDamaged]:
    """How chains are damaged that may be unfinished, and that no claim finds; at most 100.

    Raises:
        sqlite3.Error: They could not be read.
    """
    return [contradictory_end(chain_id) for (chain_id,) in connection.execute(CONTRADICTORY_ENDS)]


def claim_chains(book: Book, after: int, up_to: int, limit: int) -> Claimed:
    """Raise the epoch of some unfinished chains whose numbers are in (after, up_to], and read them."""
    left = book.execute(_LEFT, (after, up_to, max(1, limit))).fetchall()
    if not left:
        return Claimed(up_to, [], [])
    few = _few_enough([tasks for *_, tasks in left])
    last = left[few - 1][0]
    book.execute(_CLAIM, (after, last))
    for _, chain_id, _ in left[:few]:
        book.forget_head(chain_id)
    found = list(read_unfinished(book.connection, after, last))
    records = [each for each in found if isinstance(each, ChainRecord)]
    return Claimed(last, records, [each for each in found if isinstance(each, RecordDamaged)])


def _few_enough(tasks: list[int]) -> int:
    """How many chains, from the first on and at least one, have so few tasks together."""
    return max(1, sum(so_far <= TASKS_AT_ONCE_MAX for so_far in accumulate(tasks)))
