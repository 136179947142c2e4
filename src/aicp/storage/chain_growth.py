"""What of a chain's row may grow while the chain runs: the level that its readers need, and how many runs it has.

PostgreSQL computes both in the statement that records the facts, where no checksum can be computed. So their check is a
copy of the two in one number: NULL while the row has the level 0 and no count of its own.
"""

from collections.abc import Iterable, Sequence

import msgspec

from aicp.errors import RecordDamaged
from aicp.model.fact import Fact, TaskExpanded
from aicp.model.level import level_of
from aicp.storage.row_checksums import described

NEEDS_MAX = 0x7FFF
_RUNS_BIT = 16

GROWN_SET = f"""
    , needs = greatest(chains.needs, grown.needs),
    runs = CASE WHEN grown.chain_id IS NULL THEN chains.runs
        ELSE coalesce(chains.runs, chains.total_tasks) + grown.runs END,
    growth_check = CASE WHEN grown.chain_id IS NULL THEN chains.growth_check
        ELSE (1 + coalesce(chains.runs, chains.total_tasks) + grown.runs) * {1 << _RUNS_BIT}
            + greatest(chains.needs, grown.needs) END
"""
"""What PostgreSQL sets beside other columns of chains, with `grown` (chain_id, needs, runs) left-joined."""
GROWN_COLUMNS = ", needs, runs, growth_check"
GROWN_VALUES = f"""
    , coalesce(grown.needs, 0), total_tasks + grown.runs,
    (1 + total_tasks + grown.runs) * {1 << _RUNS_BIT} + grown.needs
"""
"""The values of `GROWN_COLUMNS` of a new chain, with `grown` left-joined."""


class Growth(msgspec.Struct, frozen=True, gc=False):
    """What facts add to the row of their chain.

    Attributes:
        needs: The level that reading them needs.
        runs: How many task runs they begin beside those of the chain's tasks.
    """

    needs: int
    runs: int


def growth_of(facts: Sequence[Fact]) -> Growth | None:
    """What facts add to the row of their chain; None for nothing."""
    needs, runs = level_of(facts), 0
    for fact in facts:
        if isinstance(fact, TaskExpanded):
            runs += fact.count
    return Growth(needs, runs) if needs or runs else None


def together(grown: Iterable[Growth | None]) -> Growth | None:
    """What several appends add to the row of their chain."""
    some = [each for each in grown if each is not None]
    return Growth(max(each.needs for each in some), sum(each.runs for each in some)) if some else None


def growth_check(needs: int, runs: int | None) -> int | None:
    """What a row has in `growth_check`.

    Args:
        needs: The level that readers of the chain need, 0 to 32,767.
        runs: How many task runs it has; None for as many as tasks.
    """
    if not needs and runs is None:
        return None
    return (0 if runs is None else 1 + runs) * (1 << _RUNS_BIT) + needs


def check_growth(chain_id: str, needs: int, runs: int | None, stored: int | None) -> None:
    """Compare a row with its check.

    Raises:
        RecordDamaged: They differ.
    """
    is_number = isinstance(needs, int) and isinstance(runs, int | None)
    if not is_number or not 0 <= needs <= NEEDS_MAX or stored != growth_check(needs, runs):
        raise RecordDamaged("chains", described(chain_id), "its level or its number of runs is another")
