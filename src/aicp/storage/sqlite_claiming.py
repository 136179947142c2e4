"""Takes over the unfinished chains that an earlier process left, some at a time."""

import json
import sqlite3
from itertools import accumulate

import msgspec

from aicp.errors import RecordDamaged
from aicp.ports import ChainRecord
from aicp.storage.chain_summaries import CONTRADICTORY_ENDS, contradictory_end
from aicp.storage.rows import Unreadable
from aicp.storage.sqlite_book import Book
from aicp.storage.sqlite_reading import read_chains
from aicp.storage.task_ends import claimed

RUNS_AT_ONCE_MAX = 2_000
"""What one transaction may claim, so that others wait some milliseconds for it."""

_NEWEST = "SELECT coalesce(max(number), 0) FROM chains"
# Named, since there may be a million finished chains between two unfinished ones.
_LEFT = """
    SELECT number, chain_id, coalesce(runs, total_tasks) FROM chains INDEXED BY chains_unfinished
    WHERE ended_at IS NULL AND number > ? AND number <= ? AND needs <= ? ORDER BY number LIMIT ?
"""
_CLAIM = f"""
    UPDATE chains
    SET epoch = max(epoch, coalesce(epoch_min, 1)) + 1, epoch_min = max(epoch, coalesce(epoch_min, 1)) + 1,
        task_ends = {claimed("max(epoch, coalesce(epoch_min, 1)) + 1")}
    WHERE number IN (SELECT value FROM json_each(?))
"""  # noqa: S608 - constants


class Claimed(msgspec.Struct, frozen=True):
    """What a claim came to.

    Attributes:
        up_to: The number of the last chain it dealt with.
        records: The chains.
        left: Why each of the others cannot be read, which is left as it is.
    """

    up_to: int
    records: list[ChainRecord]
    left: list[Unreadable]


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


def claim_chains(book: Book, after: int, up_to: int, limit: int, level: int) -> Claimed:
    """Read some unfinished chains whose numbers are in (after, up_to], and raise the epoch of those that are readable.

    Chains that need a higher level are left as they are.
    """
    left = book.execute(_LEFT, (after, up_to, level, max(1, limit))).fetchall()
    if not left:
        return Claimed(up_to, [], [])
    few = left[: _few_enough([runs for *_, runs in left])]
    numbers = {chain_id: number for number, chain_id, _ in few}
    found = list(read_chains(book.connection, list(numbers.values()), level))
    records = [_claimed(each) for each in found if isinstance(each, ChainRecord)]
    book.execute(_CLAIM, (json.dumps([numbers[each.submitted.chain_id] for each in records]),))
    for record in records:
        book.forget_head(record.submitted.chain_id)
    return Claimed(few[-1][0], records, [each for each in found if not isinstance(each, ChainRecord)])


def _claimed(record: ChainRecord) -> ChainRecord:
    return msgspec.structs.replace(record, epoch=record.epoch + 1)


def _few_enough(runs: list[int]) -> int:
    """How many chains, from the first on and at least one, have so few runs together."""
    return max(1, sum(so_far <= RUNS_AT_ONCE_MAX for so_far in accumulate(runs)))
