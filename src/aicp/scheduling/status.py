"""The scheduler at a glance."""

from collections.abc import Mapping

from aicp.model.views import CapabilityStatus, SchedulerStatus
from aicp.scheduling.fleet import NOWHERE, Fleet
from aicp.scheduling.roster import Roster
from aicp.scheduling.waiting_line import WaitingLine

_NOBODY_WAITS = WaitingLine()


def scheduler_status(
    roster: Roster, lines: Mapping[str, WaitingLine], expired_leases: int, now: float
) -> SchedulerStatus:
    """Look at every agent and every waiting task."""
    members = roster.members.values()
    capacity, load = sum(member.slots for member in members), sum(member.taken for member in members)
    fleets = {key: fleet for key, fleet in roster.fleets.items() if fleet.has_agents or key in lines}
    return SchedulerStatus(
        agents_count=len(members),
        total_capacity=capacity,
        current_load=load,
        utilization_percentage=round(100 * load / capacity, 2) if capacity else 0.0,
        queue_depth=sum(map(len, lines.values())),
        oldest_wait_s=max((line.oldest_wait_s(now) for line in lines.values()), default=0.0),
        by_capability={key: _of_capability(fleets[key], lines.get(key, _NOBODY_WAITS), now) for key in sorted(fleets)},
        expired_leases=expired_leases,
    )


def _of_capability(fleet: Fleet, line: WaitingLine, now: float) -> CapabilityStatus:
    pools = fleet.all_pools()
    free = [seat.member for pool in pools for seat in pool.seats if seat.bucket != NOWHERE]
    tasks_per_s = sum(pool.tasks_per_s for pool in pools)
    return CapabilityStatus(
        agents=sum(len(pool.seats) for pool in pools),
        usable=sum(pool.usable for pool in pools),
        free=len(free),
        free_slots=sum(member.slots - member.taken for member in free),
        queue_depth=len(line),
        waiting={priority.value: count for priority, count in line.by_priority().items()},
        oldest_wait_s=line.oldest_wait_s(now),
        expected_wait_s=round(len(line) / tasks_per_s, 3) if tasks_per_s else 0.0,
        refused=fleet.refused,
    )
