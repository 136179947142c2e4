"""How the tasks of a chain have ended, as a set of bits in the chain's row: which chains a list of tasks has to read.

    bit 1: COMPLETED    2: FAILED    4: CANCELLED    8: SKIPPED    from 16 up: the chain's epoch when they were written

A set bit says that the chain may have such tasks, a clear one that it has none. Bits count while their epoch is the
chain's. A row without them, or with those of another epoch, was written by code that knows none (see
docs/adr/0017-two-phase-migrations.md), and its facts are read.
"""

from collections.abc import Sequence

from aicp.model.event import ChainCancelled, ChainEnded, ChainStopped, Fact, TaskEnded
from aicp.model.task import TaskStatus

EPOCH = 16
"""What an epoch is multiplied by."""

_BITS = {
    TaskStatus.COMPLETED: 1,
    TaskStatus.FAILED: 2,
    TaskStatus.CANCELLED: 4,
    TaskStatus.SKIPPED: 8,
}
_SKIPPED = _BITS[TaskStatus.SKIPPED]
_RECORDED = 7
_BITS_OF_TASK = {status: bit if status is TaskStatus.COMPLETED else bit | _SKIPPED for status, bit in _BITS.items()}
_BITS_OF_CHAIN = {
    TaskStatus.COMPLETED: 0,
    TaskStatus.FAILED: _SKIPPED,
    TaskStatus.CANCELLED: _BITS[TaskStatus.CANCELLED],
}
ENDS = tuple(_BITS)
"""The statuses that have a bit, and in each database an index of the chains that may have such tasks."""


def may_have(status: TaskStatus) -> str:
    """A condition of SQL, word for word that of the index: the chain's row may have tasks that ended so."""
    return f"(task_ends IS NULL OR task_ends / {EPOCH} <> epoch OR (task_ends & {_BITS[status]}) <> 0)"


def bits_with(status: TaskStatus) -> int:
    """The bit of a status; 0 for one that has none."""
    return _BITS.get(status, 0)


def bits_of(facts: Sequence[Fact]) -> int:
    """What facts of a chain add to its bits.

    Tasks have no fact of their own that are CANCELLED with their chain, or SKIPPED as another one failed or was
    cancelled, the chain was stopped, or its time ran out.
    """
    bits = 0
    for fact in facts:
        if isinstance(fact, TaskEnded):
            bits |= _BITS_OF_TASK[fact.result.status]
        elif isinstance(fact, ChainStopped):
            bits |= _SKIPPED
        elif isinstance(fact, ChainCancelled):
            bits |= _BITS[TaskStatus.CANCELLED]
        elif isinstance(fact, ChainEnded):
            bits |= _BITS_OF_CHAIN[fact.status]
    return bits


def added(bits: int, more: int, total_tasks: int) -> int:
    """Bits, and those of further facts: where the one task of a chain has ended, the chain's end adds nothing."""
    both = bits | more
    return both & ~_SKIPPED if total_tasks == 1 and both & _RECORDED else both


ADDED = f"""
    CASE WHEN chains.task_ends / {EPOCH} = chains.epoch THEN
        CASE WHEN chains.total_tasks = 1 AND ((chains.task_ends | fit.new_ends) & {_RECORDED}) <> 0
            THEN (chains.task_ends | fit.new_ends) & ~{_SKIPPED}::bigint ELSE chains.task_ends | fit.new_ends END
    ELSE chains.task_ends END
"""
"""`added` in SQL, of the chain's row and `fit.new_ends`."""


def claimed(epoch: str) -> str:
    """In SQL: the bits of a chain's row whose epoch becomes another; those of an older version's row stay unknown."""
    return f"CASE WHEN task_ends / {EPOCH} = epoch THEN task_ends % {EPOCH} + {EPOCH} * ({epoch}) ELSE task_ends END"
