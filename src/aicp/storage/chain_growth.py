"""What of a chain's row may grow while the chain runs: the level that its readers need, and how many runs it has.

PostgreSQL computes both in the statement that records the facts, where no checksum can be computed. So their check is a
copy of the two in one number: NULL while the row has the level 0 and no count of its own.
"""

from aicp.errors import RecordDamaged
from aicp.storage.row_checksums import described

NEEDS_MAX = 0x7FFF
_RUNS_BIT = 16

GROWN = f"(1 + {{runs}}) * {1 << _RUNS_BIT} + {{needs}}"
"""`growth_check` in SQL, of what the row has from then on; there the count is never NULL."""


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
