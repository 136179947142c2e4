"""What chains wait for, as rows: they come and go in the transactions of the facts."""

import msgspec

from aicp.errors import RecordDamaged
from aicp.storage.row_checksums import checksum, described, is_intact

WAIT_COLUMNS = "chain_id, task_id, tenant, phase, since, due_at, title, checksum"
"""The columns of a `StoredWait`, in the order of its fields."""


class StoredWait(msgspec.Struct, frozen=True):
    """The row of an open wait as a database returns it; times are RFC 3339 in UTC. Fields are as in the table."""

    chain_id: str
    task_id: str
    tenant: str
    phase: str
    since: str
    due_at: str | None
    title: str
    checksum: int | None

    def check(self) -> None:
        """Compare the row with its checksum.

        Raises:
            RecordDamaged: It has another.
        """
        values = (self.chain_id, self.task_id, self.tenant, self.phase, self.since, self.due_at, self.title)
        if not is_intact(self.checksum, *values):
            raise RecordDamaged("open_waits", described(self.task_id), "its checksum is another")


def wait_checksum(
    chain_id: str, task_id: str, tenant: str, phase: str, since: str, due_at: str | None, title: str
) -> int:  # fmt: skip
    """Of the row of an open wait."""
    return checksum(chain_id, task_id, tenant, phase, since, due_at, title)
