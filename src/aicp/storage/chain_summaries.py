"""Rows of chains as lists show them, each checked by itself: one that is damaged takes none of the others along."""

from datetime import datetime

import msgspec

from aicp.errors import RecordDamaged
from aicp.model.event import ChainEnded
from aicp.model.task import TaskStatus
from aicp.ports import ChainSummary
from aicp.storage.chain_growth import check_growth
from aicp.storage.row_checksums import UNREADABLE, chain_checksum, described, status_checksum
from aicp.storage.rows import decode_outline, timestamp

SUMMARY_COLUMNS = (
    "chain_id, name, tenant, status, total_tasks, submitted_at, ended_at, retry_of, checksum, status_checksum, "
    "key_checksum, context, parent, needs, runs, growth_check"
)
"""The columns of a `StoredSummary`, in the order of its fields."""

CONTRADICTORY_ENDS = """
    SELECT chain_id FROM chains WHERE status IN ('PENDING', 'RUNNING') AND ended_at IS NOT NULL LIMIT 100
"""
"""The chains for `contradictory_end`: nothing that looks for unfinished chains finds them."""

_OTHER = "its checksum is another"


def contradictory_end(chain_id: str) -> RecordDamaged:
    """How a chain is damaged that has an end, and the status of an unfinished one."""
    return RecordDamaged("chains", described(chain_id), "it has an end, and the status of an unfinished chain")


class StoredSummary(msgspec.Struct, frozen=True):
    """A chain's row as it is stored; times are RFC 3339 in UTC. Fields are as in the table."""

    chain_id: str
    name: str
    tenant: str
    status: str
    total_tasks: int
    submitted_at: str
    ended_at: str | None
    retry_of: str | None
    checksum: int | None
    status_checksum: int | None
    key_checksum: int | None
    context: str | None = None
    parent: str | None = None
    needs: int = 0
    runs: int | None = None
    growth_check: int | None = None

    @property
    def weight(self) -> int:
        """How many task runs it has."""
        return self.total_tasks if self.runs is None else self.runs

    @property
    def is_in_doubt(self) -> bool:
        """True when status and end have another checksum: `check_progress` decides, by the chain's last fact.

        Without one, a chain of this version has not begun. Code of a version before 0008 changes both and no checksum.
        """
        if self.status_checksum is None:
            has_begun = self.status != TaskStatus.PENDING.value or self.ended_at is not None
            return has_begun and self.checksum is not None
        return self.status_checksum != status_checksum(self.chain_id, self.status, self.ended_at)

    def check_progress(self, last_fact: bytes | None) -> None:
        """Compare status and end with the JSON of the chain's last fact; None when there is none.

        Raises:
            RecordDamaged: They contradict it.
        """
        try:
            fact = decode_outline(last_fact or b"")
            is_told = (
                (self.status, self.ended_at) == (fact.status.value, timestamp(fact.at))
                if isinstance(fact, ChainEnded)
                else self.ended_at is None and self.status in {TaskStatus.PENDING.value, TaskStatus.RUNNING.value}
            )
        except UNREADABLE:
            raise self._damaged("its progress has another checksum, and the last fact cannot be read") from None
        if not is_told:
            raise self._damaged("it contradicts the chain's last fact")

    def summary(self) -> ChainSummary:
        """The chain in a list.

        Raises:
            RecordDamaged: The row is damaged.
        """
        self.check()
        try:
            ended_at = None if self.ended_at is None else datetime.fromisoformat(self.ended_at)
            return ChainSummary(
                self.chain_id, self.name, self.tenant, TaskStatus(self.status), self.total_tasks,
                datetime.fromisoformat(self.submitted_at), ended_at, self.retry_of,
            )  # fmt: skip
        except UNREADABLE as error:
            raise self._damaged(f"it cannot be read ({error})") from error

    def check(self) -> None:
        """Compare what never changes with its checksum.

        Raises:
            RecordDamaged: It has another.
        """
        stored = self.checksum
        if stored is not None and stored != chain_checksum(
            self.chain_id, self.tenant, self.name, self.total_tasks, self.submitted_at, self.retry_of,
            self.key_checksum, self.context, self.parent,
        ):  # fmt: skip
            raise self._damaged(_OTHER)
        check_growth(self.chain_id, self.needs, self.runs, self.growth_check)

    def _damaged(self, why: str) -> RecordDamaged:
        return RecordDamaged("chains", described(self.chain_id), why)
