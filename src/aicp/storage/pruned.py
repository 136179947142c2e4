"""How much of what is old one transaction forgets, and what came of it; the same for every database."""

from collections.abc import Sequence
from itertools import accumulate

import msgspec

from aicp.errors import RecordDamaged

CHAINS_AT_ONCE_MAX = 100
TASKS_AT_ONCE_MAX = 2_000
KEYS_AT_ONCE_MAX = 1_000
"""What one transaction may forget, so that others wait some milliseconds for it at most."""


class Pruned(msgspec.Struct, frozen=True):
    """What a transaction forgot.

    Attributes:
        count: How many chains or keys; 0 when there are none left.
        damaged: How rows are damaged that were kept for that.
    """

    count: int
    damaged: tuple[RecordDamaged, ...]


def few_enough(ended: Sequence[tuple[str, int]]) -> list[str]:
    """The first chains, at least one, with so many tasks together that a transaction may forget them.

    Args:
        ended: Chain ids, each with its number of tasks.
    """
    tasks = accumulate(total for _, total in ended)
    return [
        chain_id
        for index, ((chain_id, _), so_far) in enumerate(zip(ended, tasks, strict=True))
        if index == 0 or so_far <= TASKS_AT_ONCE_MAX
    ]
