"""When a parked chain wakes, as a row has it."""

from aicp.errors import RecordDamaged
from aicp.storage.row_checksums import checksum, described

WAKE_COLUMNS = "chain_id, wake_at, wake_checksum"
WAKES = f"SELECT {WAKE_COLUMNS} FROM chains WHERE wake_at IS NOT NULL OR wake_checksum IS NOT NULL"  # noqa: S608 - constants
"""The rows for `check_wake`."""


def wake_checksum(chain_id: str, wake_at: str | None) -> int | None:
    """Of the time at which a chain wakes, RFC 3339; None for one that is not parked."""
    return None if wake_at is None else checksum(chain_id, wake_at)


def check_wake(chain_id: str, wake_at: str | None, stored: int | None) -> None:
    """Compare the time with its checksum.

    Raises:
        RecordDamaged: It has another.
    """
    if stored != wake_checksum(chain_id, wake_at):
        raise RecordDamaged("chains", described(chain_id), "its time to wake has another checksum")
