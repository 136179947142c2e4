"""Writes down who changed what, behind the requests: none of them waits for it."""

import asyncio
import logging
from collections import deque

import msgspec

from aicp.errors import AicpError
from aicp.model.access import AuditRecord
from aicp.ports import AuditLog, Clock, SystemClock
from aicp.runtime.supervision import keep_doing

FLUSH_S = 1.0
BATCH_MAX = 1_000
WAITING_MAX = 20_000
REFUSALS_TOLD_S = 60.0
REFUSALS_MAX = 1_000
CLOSE_WAIT_S = 5.0
OBJECT_CHARS_MAX = 160
LOST = "lost"
"""The action of the record that counts those which found no room."""

_log = logging.getLogger(__name__)


class Auditing:
    """Gathers records and appends them once a second, up to 1,000 in a transaction.

    Of refusals, and of changes that failed here, nothing is kept but their number, by key, action and status, written
    once a minute: whoever guesses at keys cannot fill the disk. What does not fit into memory while the store does not
    answer is counted as lost. What a process that is killed had gathered in its last second is lost, too.

    Args:
        log: Remembers the records.
        keep: About how many are remembered.
        clock: Time.
    """

    def __init__(self, log: AuditLog, keep: int, clock: Clock | None = None) -> None:
        self._log = log
        self._keep = keep
        self._clock = clock or SystemClock()
        self._waiting: deque[AuditRecord] = deque()
        self._refusals: dict[tuple[str, str, str, int], AuditRecord] = {}
        self._refusals_due = self._clock.monotonic() + REFUSALS_TOLD_S
        self._lost = 0
        self._writing = asyncio.Lock()

    def changed(self, key_id: str, tenant: str, action: str, object_id: str, status: int) -> None:
        """Somebody changed something."""
        if len(self._waiting) >= WAITING_MAX:
            self._lost += 1
            return
        at = self._clock.utcnow()
        self._waiting.append(AuditRecord(at, key_id, tenant, action, _plain(object_id), status))

    def refused(self, key_id: str, tenant: str, action: str, status: int) -> None:
        """Somebody tried something without the right to, or in vain."""
        which = (key_id, tenant, action, status)
        before = self._refusals.get(which)
        if before is not None:
            self._refusals[which] = msgspec.structs.replace(before, count=before.count + 1)
        elif len(self._refusals) < REFUSALS_MAX:
            self._refusals[which] = AuditRecord(self._clock.utcnow(), key_id, tenant, action, "", status)
        else:
            self._lost += 1

    async def keep_on(self) -> None:
        """Write what was gathered every second, for ever."""
        await keep_doing(self._flush_soon, "the audit log cannot be written, and its records wait")

    async def flush(self) -> None:
        """Write all that was gathered, refusals of the last minute included; what is being written is waited for.

        Raises:
            StorageError: It could not be written; what is left is tried again later.
        """
        self._refusals_due = 0.0
        await self._flush()

    async def close(self) -> None:
        """Write what was gathered, as far as that is possible within 5 s."""
        try:
            async with asyncio.timeout(CLOSE_WAIT_S):
                await self.flush()
        except (AicpError, TimeoutError) as error:
            _log.warning("%d audit records are lost: %s", len(self._waiting), str(error) or "the database is too slow")

    async def _flush_soon(self) -> None:
        await asyncio.sleep(FLUSH_S)
        await self._flush()

    async def _flush(self) -> None:
        async with self._writing:
            self._gather_refusals()
            self._gather_lost()
            while self._waiting:
                await self._write([self._waiting.popleft() for _ in range(min(BATCH_MAX, len(self._waiting)))])

    async def _write(self, batch: list[AuditRecord]) -> None:
        try:
            await self._log.append(batch, self._keep)
        except BaseException:
            self._waiting.extendleft(reversed(batch))
            raise

    def _gather_refusals(self) -> None:
        now = self._clock.monotonic()
        if now < self._refusals_due or len(self._waiting) >= WAITING_MAX:
            return
        self._refusals_due = now + REFUSALS_TOLD_S
        self._waiting.extend(self._refusals.values())
        self._refusals.clear()

    def _gather_lost(self) -> None:
        if self._lost and len(self._waiting) < WAITING_MAX:
            self._waiting.append(AuditRecord(self._clock.utcnow(), "", "", LOST, "", 0, self._lost))
            self._lost = 0


def _plain(object_id: str) -> str:
    """What was asked for may be anything; what is written is short and printable."""
    told = object_id[:OBJECT_CHARS_MAX]
    return told if told.isprintable() else ascii(told)[1:-1][:OBJECT_CHARS_MAX]
