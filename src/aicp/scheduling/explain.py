"""Why a task goes where it goes: everything it could go to, what speaks for each, and what against."""

import itertools
import math
from collections.abc import Sequence

from aicp.model.task import Priority, Task
from aicp.model.views import Candidate, LinePlace, Outlook
from aicp.registry.leases import Liveness
from aicp.scheduling.fleet import Pool, Seat
from aicp.scheduling.slices import Steps
from aicp.scheduling.waiter import Waiter
from aicp.scheduling.waiting_line import WaitingLine

LOOKED_AT_MAX = 1_000
LOOKED_AT_A_STEP = 100
WAITERS_A_STEP = 500
SHOWN_MAX = 20
UNHEARD = "unheard, so a last resort"
_BEST_FIRST = {"free": 0, "silent": 1, "busy": 2, "out": 3, "left_out": 4}


def outlook(
    pools: Sequence[Pool], task: Task, tried: frozenset[str], place: LinePlace | None, now: float
) -> Steps[Outlook]:
    """Which agents could do a task now; in each standing the fastest first, behind them those that are a last resort.

    A step looks at a hundred agents.
    """
    candidates = []
    for number, seat in enumerate(itertools.islice((seat for pool in pools for seat in pool.seats), LOOKED_AT_MAX), 1):
        candidates.append(_candidate(seat, task, tried, now))
        if not number % LOOKED_AT_A_STEP:
            yield
    candidates.sort(key=_rank)
    could = [each for each in candidates if each.standing in {"free", "silent", "busy"}]
    could_not = [each for each in candidates if each.standing in {"out", "left_out"}]
    return Outlook(
        agents=sum(len(pool.seats) for pool in pools),
        usable=sum(pool.usable for pool in pools),
        free=sum(pool.free for pool in pools),
        candidates=(*could[:SHOWN_MAX], *could_not[:SHOWN_MAX]),
        place=place,
    )


def place_of(task: Task, tenant: str, line: WaitingLine, expected_wait_s: float, now: float) -> Steps[LinePlace | None]:
    """Where a task is in the queue; None when it does not wait. A step looks at five hundred waiting tasks."""
    waiter: Waiter | None = None
    mine: list[Waiter] = []
    for number, each in enumerate(line.of(tenant, task.priority), 1):
        if each.is_waiting:
            mine.append(each)
            waiter = each if each.task is task else waiter
        if not number % WAITERS_A_STEP:
            yield
    if waiter is None:
        return None
    before = 0
    for number, each in enumerate(mine, 1):
        before += each.urgency < waiter.urgency
        if not number % WAITERS_A_STEP:
            yield
    return LinePlace(
        ahead=line.ahead(task.priority, tenant, before),
        waiting={priority.value: line.by_priority()[priority] for priority in Priority},
        waited_s=round(now - waiter.since, 3),
        expected_wait_s=round(expected_wait_s, 3),
        patient_for_s=round(max(0.0, waiter.patient_until - now), 3),
    )


def _candidate(seat: Seat, task: Task, tried: frozenset[str], now: float) -> Candidate:
    standing, reason = _standing(seat, task, tried, now)
    ready_at = seat.standing.ready_at
    return Candidate(
        agent_id=seat.agent_id,
        standing=standing,
        reason=reason,
        estimate_s=round(seat.estimate_s(now), 6) or None,
        measured=bool(seat.latency_s),
        slots=seat.member.slots,
        taken=seat.member.taken,
        retry_after_s=round(max(0.0, ready_at - now), 3) if standing == "out" and ready_at < math.inf else None,
        shared=seat.pool.tenant is None,
    )


def _standing(seat: Seat, task: Task, tried: frozenset[str], now: float) -> tuple[str, str]:
    if against := _against(seat, task, tried):
        return "left_out", against
    if seat.why_out:
        return "out", seat.why_out
    unheard = UNHEARD if seat.member.liveness is Liveness.UNHEARD else ""
    if seat.member.is_silent(now):
        return "silent", f"answers nothing; {unheard}" if unheard else "answers nothing"
    return "free" if seat.member.has_room else "busy", unheard


def _against(seat: Seat, task: Task, tried: frozenset[str]) -> str:
    """What the task itself has against an agent."""
    if task.agents and seat.agent_id not in task.agents:
        return "not among the agents it names"
    if seat.agent_id in task.exclude_agents:
        return "excluded by the task"
    if not task.labels.items() <= seat.member.profile.labels.items():
        return "without the labels it asks for"
    return "tried already in this round" if seat.agent_id in tried else ""


def _rank(candidate: Candidate) -> tuple[int, bool, bool, float]:
    is_last = candidate.reason.endswith(UNHEARD)
    return _BEST_FIRST[candidate.standing], candidate.shared, is_last, candidate.estimate_s or 0.0
