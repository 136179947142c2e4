"""The audit log is written behind the requests, and bounded on the way."""

import asyncio
from collections.abc import Sequence

from aicp.errors import StorageError
from aicp.model.access import AuditRecord
from aicp.server import auditing
from aicp.server.auditing import BATCH_MAX, FLUSH_S, REFUSALS_MAX, REFUSALS_TOLD_S, WAITING_MAX, Auditing
from aicp.storage.memory_access import MemoryAuditLog
from aicp.testing import VirtualClock, run

KEPT = 1_000_000


class Disk(MemoryAuditLog):
    """Fails while it is told to; counts its transactions."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.takes_s = 0.0
        self.transactions = 0

    async def append(self, records: Sequence[AuditRecord], keep: int) -> None:
        self.transactions += 1
        if self.fails:
            raise StorageError
        await asyncio.sleep(self.takes_s)
        await super().append(records, keep)


async def told(disk: Disk) -> list[tuple[str, str, int, int]]:
    return [(each.action, each.object_id, each.status, each.count) for each in (await disk.page(None, 100_000))[::-1]]


def test_changes_are_written_within_a_second_in_their_order() -> None:
    async def main() -> None:
        disk = Disk()
        audit = Auditing(disk, KEPT, VirtualClock())
        care = asyncio.create_task(audit.keep_on())
        for number in range(2 * BATCH_MAX + 1):
            audit.changed("k1", "t", "submit_task", f"task-{number}", 202)
        assert disk.transactions == 0, "a request would have waited"
        await asyncio.sleep(FLUSH_S * 1.01)
        assert disk.transactions == 3
        assert [object_id for _, object_id, _, _ in await told(disk)] == [f"task-{n}" for n in range(2 * BATCH_MAX + 1)]
        care.cancel()

    run(main())


def test_refusals_are_counted_and_told_once_a_minute() -> None:
    async def main() -> None:
        disk = Disk()
        audit = Auditing(disk, KEPT, VirtualClock())
        care = asyncio.create_task(audit.keep_on())
        for _ in range(100_000):
            audit.refused("", "", "list_tasks", 401)
        audit.refused("k1", "t", "list_keys", 403)
        await asyncio.sleep(REFUSALS_TOLD_S / 2)
        assert await told(disk) == []
        await asyncio.sleep(REFUSALS_TOLD_S)
        assert await told(disk) == [("list_tasks", "", 401, 100_000), ("list_keys", "", 403, 1)]
        care.cancel()

    run(main())


def test_refusals_of_hours_without_a_store_take_no_more_memory_than_those_of_a_minute() -> None:
    async def main() -> None:
        disk = Disk()
        disk.fails = True
        audit = Auditing(disk, KEPT, VirtualClock())
        care = asyncio.create_task(audit.keep_on())
        for _ in range(WAITING_MAX // REFUSALS_MAX + 10):
            for number in range(REFUSALS_MAX):
                audit.refused(f"k{number}", "t", "list_keys", 403)
            await asyncio.sleep(REFUSALS_TOLD_S + 5)
        disk.fails = False
        await asyncio.sleep(2 * REFUSALS_TOLD_S)
        records = await told(disk)
        assert len(records) <= WAITING_MAX + 2 * REFUSALS_MAX
        assert sum(count for _, _, _, count in records) == (WAITING_MAX // REFUSALS_MAX + 10) * REFUSALS_MAX
        care.cancel()

    run(main())


def test_what_does_not_fit_is_counted_as_lost() -> None:
    async def main() -> None:
        disk = Disk()
        audit = Auditing(disk, KEPT, VirtualClock())
        for number in range(WAITING_MAX + 5):
            audit.changed("k1", "t", "submit_task", str(number), 202)
        for number in range(REFUSALS_MAX + 2):
            audit.refused(f"k{number}", "t", "list_keys", 403)
        await audit.flush()
        await audit.flush()
        records = await told(disk)
        assert len(records) == WAITING_MAX + REFUSALS_MAX + 1
        assert [each for each in records if each[0] == auditing.LOST] == [(auditing.LOST, "", 0, 7)]

    run(main())


def test_disk_that_fails_is_tried_again_and_nothing_is_lost_or_doubled() -> None:
    async def main() -> None:
        disk = Disk()
        audit = Auditing(disk, KEPT, VirtualClock())
        care = asyncio.create_task(audit.keep_on())
        disk.fails = True
        audit.changed("k1", "t", "submit_task", "a", 202)
        await asyncio.sleep(5 * FLUSH_S)
        audit.changed("k1", "t", "submit_task", "b", 202)
        disk.fails = False
        await asyncio.sleep(2 * FLUSH_S)
        assert [object_id for _, object_id, _, _ in await told(disk)] == ["a", "b"]
        care.cancel()

    run(main())


def test_reader_waits_for_what_is_being_written() -> None:
    async def main() -> None:
        disk = Disk()
        disk.takes_s = 0.5
        audit = Auditing(disk, KEPT, VirtualClock())
        care = asyncio.create_task(audit.keep_on())
        audit.changed("k1", "t", "create_key", "a", 201)
        await asyncio.sleep(FLUSH_S * 1.1)
        assert disk.transactions == 1
        await audit.flush()
        assert await told(disk) == [("create_key", "a", 201, 1)]
        assert disk.transactions == 1
        care.cancel()

    run(main())


def test_end_writes_what_is_left() -> None:
    async def main() -> None:
        disk = Disk()
        audit = Auditing(disk, KEPT, VirtualClock())
        audit.changed("k1", "t", "create_key", "k2", 201)
        audit.refused("", "", "list_keys", 401)
        await audit.close()
        assert await told(disk) == [("create_key", "k2", 201, 1), ("list_keys", "", 401, 1)]

    run(main())


def test_end_does_not_wait_for_a_disk_that_fails() -> None:
    async def main() -> None:
        disk = Disk()
        disk.fails = True
        audit = Auditing(disk, KEPT, VirtualClock())
        audit.changed("k1", "t", "create_key", "k2", 201)
        await audit.close()

    run(main())


def test_names_that_cannot_be_printed_are_written_so_that_they_can() -> None:
    async def main() -> None:
        disk = Disk()
        audit = Auditing(disk, KEPT, VirtualClock())
        for name in ("eyes\x00\x1b[31m\ud800", "x" * 10_000, "ünïcode"):
            audit.changed("k1", "t", "remove_agent", name, 204)
        await audit.flush()
        assert [each[1] for each in await told(disk)] == ["eyes\\x00\\x1b[31m\\ud800", "x" * 160, "ünïcode"]

    run(main())
