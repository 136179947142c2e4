"""The scheduler at a glance, of all or as one tenant sees it."""

from collections.abc import Mapping

from aicp.model.task import Priority
from aicp.model.views import CapabilityStatus, SchedulerStatus
from aicp.scheduling.fleet import Fleet, Pool
from aicp.scheduling.roster import Roster
from aicp.scheduling.slices import Steps
from aicp.scheduling.waiting_line import WaitingLine

SEATS_A_STEP = 1_000
FLEET_COUNTS_AS = 20


def scheduler_status(
    roster: Roster, lines: Mapping[str, WaitingLine], expired_leases: int, now: float, tenant: str | None = None
) -> Steps[SchedulerStatus]:
    """The counts of all; of a tenant, of its own and of the agents that serve every tenant.

    Costs a look at every capability and at every free agent, in steps of fifty and a thousand.
    """
    totals = [each for of, each in roster.totals.items() if tenant is None or of in {None, tenant}]
    capacity, load = sum(each.slots for each in totals), 0
    by_capability: dict[str, CapabilityStatus] = {}
    looked_at = 0
    for key in sorted(roster.fleets):
        fleet, line = roster.fleets[key], lines.get(key)
        pools = fleet.pools_of(tenant)
        load += sum(pool.busy for pool in pools)
        if any(pool.seats for pool in pools) or (line is not None and line.waiting(tenant)):
            free_slots = yield from _free_slots(pools)
            by_capability[key] = _of_capability(fleet, pools, line or _EMPTY, free_slots, now, tenant)
        looked_at += FLEET_COUNTS_AS + sum(len(pool.seats) for pool in pools)
        if looked_at >= SEATS_A_STEP:
            looked_at = 0
            yield
    return SchedulerStatus(
        agents_count=sum(each.agents for each in totals),
        total_capacity=capacity,
        current_load=load,
        utilization_percentage=round(100 * load / capacity, 2) if capacity else 0.0,
        queue_depth=sum(each.queue_depth for each in by_capability.values()),
        oldest_wait_s=max((each.oldest_wait_s for each in by_capability.values()), default=0.0),
        by_capability=by_capability,
        expired_leases=expired_leases,
    )


def _free_slots(pools: list[Pool]) -> Steps[tuple[int, int]]:
    """How many agents of some pools are free, and how many slots they have."""
    agents = slots = 0
    for number, seat in enumerate((seat for pool in pools for seat in pool.free_seats()), 1):
        agents += seat.member.has_room
        slots += max(0, seat.member.slots - seat.member.taken)
        if not number % SEATS_A_STEP:
            yield
    return agents, slots


def _of_capability(
    fleet: Fleet, pools: list[Pool], line: WaitingLine, free: tuple[int, int], now: float, tenant: str | None
) -> CapabilityStatus:
    waiting = line.by_priority(tenant)
    depth, tasks_per_s = sum(waiting.values()), sum(pool.tasks_per_s for pool in pools)
    return CapabilityStatus(
        agents=sum(len(pool.seats) for pool in pools),
        usable=sum(pool.usable for pool in pools),
        free=free[0],
        free_slots=free[1],
        queue_depth=depth,
        waiting={priority.value: waiting[priority] for priority in Priority},
        oldest_wait_s=line.oldest_wait_s(now, tenant),
        expected_wait_s=round(depth / tasks_per_s, 3) if tasks_per_s else 0.0,
        refused=fleet.refused.total() if tenant is None else fleet.refused[tenant],
    )


_EMPTY = WaitingLine()
