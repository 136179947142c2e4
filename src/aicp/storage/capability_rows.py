"""Known capabilities as rows: what has been offered to a tenant, or to all, and when last."""

import msgspec

from aicp.errors import RecordDamaged
from aicp.storage.row_checksums import checksum, described, is_intact_stamped, stamped

CAPABILITY_COLUMNS = "tenant, capability, slots, latency_s, last_offered_at, described, checksum"
"""The columns of a `StoredCapability`, in the order of its fields."""


class StoredCapability(msgspec.Struct, frozen=True):
    """A capability's row as a database returns it; `last_offered_at` is RFC 3339 in UTC. Fields are as in the table."""

    tenant: str
    capability: str
    slots: int
    latency_s: float | None
    last_offered_at: str
    described: str
    checksum: int | None

    def check(self) -> None:
        """Compare the row with its checksum.

        Raises:
            RecordDamaged: It has another.
        """
        values = (self.tenant, self.capability, self.slots, self.latency_s, self.described)
        if not is_intact_stamped(self.checksum, self.last_offered_at, *values):
            raise RecordDamaged("capabilities", described(self.tenant, self.capability), "its checksum is another")


def capability_checksum(
    tenant: str, capability: str, slots: int, latency_s: float | None, last_offered_at: str, described: str
) -> int:  # fmt: skip
    """Of the row of a capability that is offered now; `last_offered_at` is RFC 3339 in UTC."""
    return stamped(checksum(tenant, capability, slots, latency_s, described), last_offered_at)
