"""The scheduler at a glance, of everybody or as one tenant sees it."""

from collections import Counter
from collections.abc import Mapping

import msgspec

from aicp.model.task import Priority
from aicp.model.views import CapabilityStatus, SchedulerStatus
from aicp.scheduling.fleet import NOWHERE, Fleet, Pool
from aicp.scheduling.roster import Roster
from aicp.scheduling.waiting_line import WaitingLine


class _Waiting(msgspec.Struct, frozen=True):
    """Who stands in one line."""

    by_priority: Mapping[Priority, int]
    oldest_s: float = 0.0

    @property
    def depth(self) -> int:
        return sum(self.by_priority.values())


_NOBODY = _Waiting({})


def scheduler_status(
    roster: Roster, lines: Mapping[str, WaitingLine], expired_leases: int, now: float, tenant: str | None = None
) -> SchedulerStatus:
    """Look at every agent and every waiting task; of a tenant, at its own, and at agents that serve everybody."""
    members = [member for member in roster.members.values() if member.profile.serves(tenant)]
    capacity, load = sum(member.slots for member in members), sum(member.taken for member in members)
    waiting = {key: found for key, line in lines.items() if (found := _waiting(line, tenant, now)).depth}
    fleets = {
        key: fleet
        for key, fleet in roster.fleets.items()
        if key in waiting or any(pool.seats for pool in _pools(fleet, tenant))
    }
    return SchedulerStatus(
        agents_count=len(members),
        total_capacity=capacity,
        current_load=load,
        utilization_percentage=round(100 * load / capacity, 2) if capacity else 0.0,
        queue_depth=sum(each.depth for each in waiting.values()),
        oldest_wait_s=max((each.oldest_s for each in waiting.values()), default=0.0),
        by_capability={
            key: _of_capability(fleets[key], waiting.get(key, _NOBODY), tenant) for key in sorted(fleets)
        },
        expired_leases=expired_leases,
    )  # fmt: skip


def _of_capability(fleet: Fleet, waiting: _Waiting, tenant: str | None) -> CapabilityStatus:
    pools = _pools(fleet, tenant)
    free = [seat.member for pool in pools for seat in pool.seats if seat.bucket != NOWHERE]
    tasks_per_s = sum(pool.tasks_per_s for pool in pools)
    return CapabilityStatus(
        agents=sum(len(pool.seats) for pool in pools),
        usable=sum(pool.usable for pool in pools),
        free=len(free),
        free_slots=sum(member.slots - member.taken for member in free),
        queue_depth=waiting.depth,
        waiting={priority.value: waiting.by_priority.get(priority, 0) for priority in Priority},
        oldest_wait_s=waiting.oldest_s,
        expected_wait_s=round(waiting.depth / tasks_per_s, 3) if tasks_per_s else 0.0,
        refused=fleet.refused.total() if tenant is None else fleet.refused[tenant],
    )


def _pools(fleet: Fleet, tenant: str | None) -> list[Pool]:
    return fleet.all_pools() if tenant is None else fleet.pools(tenant)


def _waiting(line: WaitingLine, tenant: str | None, now: float) -> _Waiting:
    if tenant is None:
        return _Waiting(line.by_priority(), line.oldest_wait_s(now))
    theirs = [waiter for waiter in line if waiter.tenant == tenant]
    since = min((waiter.since for waiter in theirs if not waiter.seat_future.done()), default=now)
    return _Waiting(Counter(waiter.task.priority for waiter in theirs), now - since)
