"""The scheduler: who gets a task, and when.

Late binding: a task is bound when an agent has a free slot, else it waits in the line of its capability. The permit of
the circuit is taken at hand-over, never while waiting. A lease ends once, by `complete_task` or by expiry.
"""

import asyncio
import itertools
import logging
import math
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from aicp.model.agent import DEFAULT_TENANT, AgentProfile
from aicp.model.outcome import Outcome
from aicp.model.task import DEFAULT_ATTEMPT_TIMEOUT_S, Priority, Task
from aicp.model.views import Outlook, SchedulerStatus
from aicp.ports import Clock, SystemClock
from aicp.registry.leases import Liveness
from aicp.registry.naming import wanted_key
from aicp.resilience.board import CircuitBoard
from aicp.scheduling.explain import outlook, place_of
from aicp.scheduling.fleet import AT_ONCE, NOWHERE, ON_TRIAL, Fleet, Member, Pool, Seat
from aicp.scheduling.input_schemas import Schema
from aicp.scheduling.latency import LAST_RESORT
from aicp.scheduling.lease import Lease, Leases, Unscheduled
from aicp.scheduling.pace import Pace
from aicp.scheduling.roster import NOBODY, Outage, Roster, check_profile
from aicp.scheduling.serving import Serving
from aicp.scheduling.slices import Slices, Steps, at_once, in_slices
from aicp.scheduling.standing import Judge
from aicp.scheduling.status import scheduler_status
from aicp.scheduling.trouble import FINE
from aicp.scheduling.waiter import ChainTurn, Waiter, is_plain
from aicp.scheduling.waiting_line import WaitingLine
from aicp.standstill import TimeLimit

SLOT_LEASE_GRACE_S = 5.0
PROBE_LEASE_GRACE_S = 1.0
AFTER_DEFECT_S = 1.0
"""How long after an exception inside AICP an agent is looked at again."""
SHORTEST_ATTEMPT_S = 0.001
COOL_DOWN_FIRST_S = 1.0
COOL_DOWN_FACTOR = 1.5
COOL_DOWN_MIN_S = 0.05
COOL_DOWN_MAX_S = 300.0
SHARED_A_STEP = 100

_log = logging.getLogger(__name__)


class TaskScheduler:
    """Gives tasks to agents with a free slot; the cost of a decision does not depend on how many agents there are.

    Args:
        board: Says who may be tried; the scheduler takes its permits and settles them.
        clock: Time.
        rng: Chance, for picks.
        on_probe_due: Told of an agent when the wait of a gated circuit of its is over; None when nobody probes.
        on_outage: Told `(pool, is_out)` when those who offer a capability to the same tenants lost their last usable
            agent, or have one again.
        on_set_aside: Told of an agent that turned out to be misconfigured, with the capability (empty for all of it)
            and what showed it; and of one for which that was forgotten, with None.
    """

    def __init__(
        self,
        board: CircuitBoard,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        on_probe_due: Callable[[AgentProfile], Any] | None = None,
        on_outage: Callable[[Pool, bool], Any] | None = None,
        on_set_aside: Callable[[AgentProfile, str, str | None], Any] | None = None,
    ) -> None:
        self._board = board
        self._clock = clock or SystemClock()
        self._draw = (rng or random.Random()).random
        self.on_probe_due = on_probe_due
        self.on_outage = on_outage
        self.on_set_aside = on_set_aside
        self._roster = Roster()
        self._judge = Judge(board)
        self._leases = Leases(self._clock, self._take_back)
        self._serving = Serving(self._roster, self._clock, self._draw, self._hand_over_to, self._take_back)
        self._lines, self._holds = self._serving.lines, self._serving.holds
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._slices = Slices()
        self._replicas = 1

    async def schedule_task(
        self,
        task: Task,
        *,
        ready_at: float | None = None,
        deadline: float | TimeLimit = math.inf,
        tried: frozenset[str] = NOBODY,
        wait: bool = True,
        tenant: str = DEFAULT_TENANT,
        chain: ChainTurn | None = None,
        is_begun: bool = False,
    ) -> Lease | Unscheduled:
        """Wait for an agent and take a slot of it.

        Args:
            task: What it is for.
            ready_at: When it could first have run, monotonic seconds; now when None.
            deadline: When to give up, monotonic seconds; a limit is shared, and moved where this process stood still.
            tried: Agents it shall not go to.
            wait: False to come back at once when every agent it may go to is out; busy ones are waited for.
            tenant: Whose it is; it goes to agents of that tenant, else to those that serve every tenant.
            chain: Of a chain with more than 64 tasks, how far it has come; None for a smaller one.
            is_begun: True when it was handed over before.

        Returns:
            A lease, to be completed exactly once; or why there is none. With `tried`, `NOBODY_ELSE` says that whoever
            may be used was tried.
        """
        now = self._clock.monotonic()
        if _is_too_late(deadline, now):
            return Unscheduled.DEADLINE
        key = wanted_key(task.capability)
        fleet = self._roster.fleets.get(key)
        if fleet is not None and not is_begun:
            fleet.arrive(task.priority, tenant, now)
        lease = self._lease_at_once(task, fleet, tried, tenant, now)
        if lease is not None:
            if chain is not None:
                chain.handed_over += not is_begun
            return lease
        since = now if ready_at is None else ready_at
        waiter = Waiter(task, since, deadline, tried, gives_up=not wait, tenant=tenant, chain=chain, is_begun=is_begun)
        return await self._find_or_wait(waiter, key)

    def complete_task(
        self,
        lease: Lease,
        outcome: Outcome,
        elapsed_s: float | None = None,
        *,
        evidence: bool = True,
        doubted: bool = False,
        timed_out: bool = False,
        retry_after_s: float | None = None,
        whole_agent: bool = False,
        reason: str = "",
    ) -> None:
        """Settle slot, permit and latency of a lease; the second time, or after it expired, nothing happens.

        Args:
            lease: What `schedule_task` gave.
            outcome: How the attempt ended.
            elapsed_s: How long it took.
            evidence: False when the verdict says nothing about the agent.
            doubted: For AGENT_FAULT: the task may be at fault. The circuit counts it as a doubt, not as a failure;
                without `evidence`, as a repeat of the same doubt.
            timed_out: True when no answer came within the attempt's time.
            retry_after_s: For OVERLOADED: how long the agent asked to be left alone.
            whole_agent: For MISCONFIGURED: about the agent rather than about this capability.
            reason: For MISCONFIGURED: what showed it.
        """
        if not self._leases.settle(lease):
            return
        seat, member = lease.seat, lease.seat.member
        current: Seat | None = seat
        seat.pool.ended(lease.bucket)
        if member.is_gone:
            self._serving.let_go(seat.pool)
            return
        if lease.agent is not member.profile:
            current = member.seat(lease.key)
            seat = current or seat
            if lease.agent.instance_id != member.profile.instance_id:
                # The process it is about is gone: nothing of it says anything about the one that took its place.
                outcome, timed_out = Outcome.CANCELLED, False
        now = self._clock.monotonic()
        try:
            self._tally(lease, seat, outcome, elapsed_s, now)
            if timed_out and elapsed_s is not None:
                seat.time_out(elapsed_s, now)
            self._settle_permit(lease, outcome, elapsed_s, evidence=evidence, doubted=doubted)
            if outcome is Outcome.OVERLOADED:
                self._cool_down(seat, retry_after_s)
            elif outcome is Outcome.MISCONFIGURED and lease.agent is member.profile:
                self._set_aside(seat, reason, whole_agent=whole_agent)
        finally:
            # The lease is settled: whatever was raised, it does not come by its slot again.
            self._free_slot(member, current, now)

    def add_agent(self, profile: AgentProfile) -> None:
        """Take an agent into the fleet, or take over what changed of it: its speed stays known, its tasks go on.

        Raises:
            InvalidAgent: It has no slots, or no capabilities, or more than 1,000; nothing was changed.
        """
        check_profile(profile)
        member = self._roster.members.get(profile.agent_id)
        left: list[Pool] = []
        was_aside, older = False, profile
        if member is None:
            member = self._roster.members[profile.agent_id] = Member(profile)
        else:
            left, older = [seat.pool for seat in member], member.profile
            self._stop_timer(profile.agent_id)
            was_aside = member.trouble.was_set_aside
            member.renew()
        self._roster.enrol(member, profile, self._share_of(profile))
        self.refresh(profile.agent_id)
        self._note_restored(profile, was_aside=was_aside)
        self._note_losses(left, older)

    def remove_agent(self, agent_id: str) -> None:
        """Give it no more tasks; those it has go on, and waiting ones find others.

        Raises:
            AgentNotFound: There is none.
        """
        member = self._roster.member(agent_id)
        del self._roster.members[agent_id]
        self._stop_timer(agent_id)
        self._note_losses([seat.pool for seat in self._roster.dismiss(member).values()], member.profile)

    def drain_agent(self, agent_id: str) -> None:
        """Give it no more tasks, but keep it.

        Raises:
            AgentNotFound: There is none.
        """
        self._roster.member(agent_id).trouble_of_its_own().is_draining = True
        self.refresh(agent_id)

    def set_liveness(self, agent_id: str, liveness: Liveness) -> None:
        """Heard, unheard (a last resort) or offline (out).

        Raises:
            AgentNotFound: There is none.
        """
        member = self._roster.member(agent_id)
        if member.liveness is not liveness:
            member.trouble_of_its_own().liveness = liveness
        self.refresh(agent_id)

    def restore_agent(self, agent_id: str) -> None:
        """Forget that it was set aside or asked for a rest.

        Raises:
            AgentNotFound: There is none.
        """
        member = self._roster.member(agent_id)
        was_aside = member.trouble.was_set_aside
        member.trouble.forgive()
        self.refresh(agent_id)
        self._note_restored(member.profile, was_aside=was_aside)

    def share_slots(self, replicas: int) -> None:
        """Use only this replica's share of every agent's slots, at least one.

        Costs a look at every agent: of more than 100, the others in the next turns of the loop.

        Args:
            replicas: How many are alive, this one counted.
        """
        self._replicas = max(1, replicas)
        self._serving.waits_for_faster = self._replicas == 1
        self._slices.run("share slots", self._share_slots(list(self._roster.members.values())))

    def refresh(self, agent_id: str) -> None:
        """Look again whether an agent may be used: something was said about it, or a wait is over."""
        member = self._roster.members.get(agent_id)
        if member is None:
            return
        now = self._clock.monotonic()
        self._look_at_all(member, now)
        self._set_timer(member, now)
        self._serving.serve(member)
        self._note_outages([seat.pool for seat in member], member.profile)

    def outage(self, task: Task, tenant: str = DEFAULT_TENANT) -> Outage:
        """Who could do the task and why they may not be used now; at most eight agents are looked at."""
        return self._roster.outage(task, tenant, self._clock.monotonic())

    def refusals(self, task: Task, tenant: str = DEFAULT_TENANT) -> list[str]:
        """Which agents refuse the capability of a task, as `<agent>: <what it answered>`; at most eight."""
        return self._roster.refusals(task, tenant)

    def expected_wait_s(self, task: Task, tenant: str = DEFAULT_TENANT) -> float:
        """How long one more such task would wait, in seconds; 0 when that is unknown, or an agent is free.

        Its own agents serve no other tenant, so with those it is no longer than for its own tenant's tasks.
        """
        line = self._lines.get(wanted_key(task.capability))
        pools = self._roster.pools(task, tenant)
        if line is None or any(pool.has_free for pool in pools):
            return 0.0
        wait_s = self._wait_in(line, pools, task, tenant)
        return wait_s if wait_s < math.inf else 0.0

    def pace(self, task: Task, tenant: str = DEFAULT_TENANT, count: int = 1) -> Pace | None:
        """How soon so many such tasks of one chain would start and end if they came now, at the present rate.

        None when that is unknown: none of them succeeded lately, or no agent may be used. Labels, and names of agents,
        are not looked at: few agents may make it longer.
        """
        pools = self._roster.pools(task, tenant)
        tasks_per_s = slots = 0.0
        for pool in pools:
            if pool.mean_s:
                tasks_per_s += pool.tasks_per_s
                slots += pool.slots
        if not tasks_per_s:
            return None
        task_s = slots / tasks_per_s
        line = self._lines.get(wanted_key(task.capability))
        if any(pool.has_free for pool in pools):
            free = 1 if count == 1 else max(1, sum(pool.slots - pool.busy for pool in pools))
            return Pace((1 - free) / tasks_per_s, 1 / tasks_per_s, task_s, slots)
        if line is None:
            return Pace(1 / tasks_per_s, 1 / tasks_per_s, task_s, slots)
        first_s = self._wait_in(line, pools, task, tenant)
        last_s = first_s if count == 1 else self._wait_in(line, pools, task, tenant, count)
        return Pace(first_s, (last_s - first_s) / max(1, count - 1), task_s, slots)

    def usual_s(self, task: Task, tenant: str = DEFAULT_TENANT) -> float:
        """How long such a task takes once it has an agent, seconds: the mean of recent successes; 0 when unknown."""
        return max([pool.mean_s for pool in self._roster.pools(task, tenant)], default=0.0)

    def _wait_in(self, line: WaitingLine, pools: list[Pool], task: Task, tenant: str, count: int = 1) -> float:
        """How long the last of so many more tasks would wait in a line; infinite when that is unknown."""
        now, wait_s = self._clock.monotonic(), math.inf
        for number, pool in enumerate(pools, 1):
            tasks_per_s = sum(each.tasks_per_s for each in pools[:number])
            if tasks_per_s:
                others_per_s = {
                    other: sum(each.arrivals.per_s(other, now) for each in pools[:number])
                    for other in Priority
                    if other is not task.priority
                }
                alone = pool.tenant is not None
                found_s = line.wait_s(task.priority, tenant, tasks_per_s, others_per_s, alone=alone, count=count)
                wait_s = min(wait_s, found_s)
        return wait_s

    def refuse(self, task: Task, tenant: str = DEFAULT_TENANT) -> None:
        """Count a task that is not taken in, since it would have to wait too long."""
        fleet = self._roster.fleet(task)
        if fleet is not None:
            fleet.refused[tenant] += 1

    def member(self, agent_id: str) -> Member:
        """The agent as the fleet sees it, to be read only.

        Raises:
            AgentNotFound: There is none.
        """
        return self._roster.member(agent_id)

    def find_member(self, agent_id: str) -> Member | None:
        """As `member`, but None when there is none."""
        return self._roster.members.get(agent_id)

    def keys_of(self, agent_id: str) -> list[str]:
        """The capability keys of an agent; none when there is no such agent."""
        return [seat.key for seat in self._roster.members.get(agent_id, ())]

    def members(self) -> Iterable[Member]:
        """Every agent as the fleet sees it, to be read only."""
        return self._roster.members.values()

    def fleets(self) -> Iterable[Fleet]:
        """Every capability that somebody ever offered, to be read only."""
        return self._roster.fleets.values()

    def knows(self, capability: str, tenant: str = DEFAULT_TENANT) -> bool:
        """True when somebody, present or gone, offered `name` or `name@major` to the tenant."""
        return self._roster.knows(capability, tenant)

    def similar(self, capability: str, tenant: str = DEFAULT_TENANT) -> str:
        """A capability that was offered to the tenant and is spelled like this one; empty when none is."""
        return self._roster.similar(capability, tenant)

    def has_candidate(self, task: Task, tenant: str = DEFAULT_TENANT) -> bool:
        """True when somebody offers what the task asks for, whether it may be used now or not."""
        return self._roster.has_candidate(task, tenant)

    def has_candidate_besides(self, task: Task, agent_id: str, tenant: str = DEFAULT_TENANT) -> bool:
        """True when another agent offers what the task asks for, whether it may be used now or not."""
        return any(found.agent_id != agent_id for found in self._roster.candidates(task, tenant))

    def input_schemas(self, task: Task, tenant: str = DEFAULT_TENANT) -> Iterator[Schema]:
        """What those whom the task may go to want to be given, None for anything.

        Each different schema comes once; only for a task that names or leaves out agents, or asks for labels, it costs
        a look at each agent.
        """
        return self._roster.input_schemas(task, tenant)

    def has_another(self, task: Task, tried: frozenset[str], tenant: str = DEFAULT_TENANT) -> bool:
        """True when somebody not yet tried may be used for the task, free or busy."""
        return self._roster.usable_besides(task, tenant, tried) > 0

    def is_out(self, agent_id: str, key: str) -> bool:
        """True when nobody may be used of those who offer a capability to the same tenants as this agent."""
        member = self._roster.members.get(agent_id)
        seat = member.seat(key) if member is not None else None
        return seat is not None and not seat.pool.usable

    def capabilities_out(self, tenant: str | None = None) -> list[str]:
        """Capabilities that somebody offers, to a tenant or at all, and nobody may be used for."""
        return sorted(fleet.key for fleet in self._roster.fleets.values() if fleet.is_out(tenant))

    def waiting(self, key: str) -> WaitingLine | None:
        """The line of a capability, to be read only; None when nobody waits."""
        return self._lines.get(key)

    def leases(self) -> Iterable[Lease]:
        """Every lease that was not given back, to be read only."""
        return self._leases

    def status(self, tenant: str | None = None) -> SchedulerStatus:
        """The scheduler at a glance; costs a look at every capability and every free agent.

        Args:
            tenant: Count only its own agents and those that serve every tenant, and its own tasks; None for all.
        """
        return at_once(self._status(tenant))

    async def read_status(self, tenant: str | None = None) -> SchedulerStatus:
        """As `status`, in slices: other work of the loop goes on meanwhile."""
        return await in_slices(self._status(tenant))

    def explain(self, task: Task, tenant: str = DEFAULT_TENANT, tried: frozenset[str] = NOBODY) -> Outlook:
        """Which agents could do a task now, which could not and why, and its place in the queue.

        Costs a look at up to a thousand agents and at all that wait of its tenant and priority.
        """
        return at_once(self._explain(task, tenant, tried))

    async def read_explanation(
        self, task: Task, tenant: str = DEFAULT_TENANT, tried: frozenset[str] = NOBODY
    ) -> Outlook:
        """As `explain`, in slices: other work of the loop goes on meanwhile."""
        return await in_slices(self._explain(task, tenant, tried))

    @property
    def expired_leases(self) -> int:
        """Leases that were never given back. It is an alarm."""
        return self._leases.expired

    def close(self) -> None:
        """Stop every timer; waiting tasks are their owners' to cancel."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._serving.close()
        self._slices.close()
        self._leases.close()

    async def _find_or_wait(self, waiter: Waiter, key: str) -> Lease | Unscheduled:
        if (refusal := self._serving.hopeless(waiter)) is not None:
            return refusal
        if self._serving.is_full:
            return Unscheduled.LINE_FULL
        return await self._serving.stand_in_line(waiter, key)

    def _status(self, tenant: str | None) -> Steps[SchedulerStatus]:
        return scheduler_status(self._roster, self._lines, self._leases.expired, self._clock.monotonic(), tenant)

    def _explain(self, task: Task, tenant: str, tried: frozenset[str]) -> Steps[Outlook]:
        line, now, place = self._lines.get(wanted_key(task.capability)), self._clock.monotonic(), None
        if line is not None:
            place = yield from place_of(task, tenant, line, self.expected_wait_s(task, tenant), now)
        return (yield from outlook(self._roster.pools(task, tenant), task, tried, place, now))

    def _share_slots(self, members: list[Member]) -> Iterator[None]:
        for number, member in enumerate(members, 1):
            slots = self._share_of(member.profile)
            if slots != member.slots and not member.is_gone:
                self._roster.resize(member, slots)
                self.refresh(member.profile.agent_id)
            if not number % SHARED_A_STEP:
                yield
        self._serving.let_all_go()

    def _lease_at_once(
        self, task: Task, fleet: Fleet | None, tried: frozenset[str], tenant: str, now: float
    ) -> Lease | None:
        """A free agent that suits a task, if one is found.

        Whatever waits has no use for an agent that is free, unless it is held from it for a faster one.
        """
        if fleet is None:
            return None
        if not is_plain(task, tried):
            return self._lease_filtered(task, fleet.pools(tenant), tried, now)
        seat = fleet.pick(tenant, self._draw)
        if seat is None or seat.pool.has_faster_busy(seat.bucket) or seat.pool in self._holds:
            return None
        return self._hand_over(seat, task, now)

    def _lease_filtered(self, task: Task, pools: list[Pool], tried: frozenset[str], now: float) -> Lease | None:
        for pool in pools:
            while (seat := self._roster.find_free(pool, task, tried, self._draw)) is not None:
                if (lease := self._hand_over(seat, task, now)) is not None:
                    return lease
        return None

    def _hand_over_to(self, seat: Seat, waiter: Waiter, now: float) -> Lease | None:
        """Hand over a task that waited."""
        lease = self._hand_over(seat, waiter.task, now)
        if lease is not None and waiter.chain is not None:
            waiter.chain.handed_over += not waiter.is_begun
        return lease

    def _hand_over(self, seat: Seat, task: Task, now: float) -> Lease | None:
        """Take the permit and the slot; when the circuit refuses, the seat is no longer among the free."""
        member, bucket = seat.member, seat.bucket
        if not member.taken:
            member.quiet_since, member.slowest = now, seat
        elif not member.is_silent(now):
            member.expect(seat, now)
        elif bucket != LAST_RESORT:
            self._demote(member, now)
            return None
        else:
            member.quiet_since = ON_TRIAL
        timeout_s = task.timeout_s or seat.declared.timeout_s or DEFAULT_ATTEMPT_TIMEOUT_S
        # The slot comes first: asking may move the circuit, and its listener serves those who wait for this agent.
        member.taken += 1
        permit = self._board.try_acquire(member.profile.agent_id, seat.pool.key, timeout_s + PROBE_LEASE_GRACE_S)
        if not permit:
            self._refused(seat, now)
            return None
        lease = Lease(seat, bucket, permit, timeout_s, now, now + timeout_s + SLOT_LEASE_GRACE_S)
        self._leases.watch(lease)
        pool = seat.pool
        pool.began(bucket)
        pool.freshen(now)
        if not member.has_room:
            self._take_from_free(seat)
        elif seat.standing is not FINE:
            self._look_at(seat, now)
            self._set_timer(member, now)
        if seat.newer is not None:
            # It is among the free, and not the one used last.
            pool.used(seat)
        return lease

    def _refused(self, seat: Seat, now: float) -> None:
        """The circuit gave no permit: give the slot back, and keep the seat from the free until it is refreshed."""
        member = seat.member
        member.taken -= 1
        member.end_trial()
        self._look_at_all(member, now)
        if not seat.why_out:
            seat.pool.take(seat)
        self._set_timer(member, now)

    def _take_from_free(self, seat: Seat) -> None:
        """All slots of an agent are taken. Of many seats, others are found out when they are picked (`Pool.park`)."""
        seat.pool.take(seat)
        other, left = seat.member.first, AT_ONCE
        while other is not None and left:
            other.pool.take(other)
            other, left = other.next, left - 1

    def _free_slot(self, member: Member, seat: Seat | None, now: float) -> None:
        member.taken -= 1
        if not member.is_fine:
            self.refresh(member.profile.agent_id)
            return
        if not member.has_room:
            if seat is not None:
                self._take_from_free(seat)
            return
        if member.trouble.is_demoted and not member.is_silent(now):
            member.trouble.is_demoted = False
            self._put(member, now)
        else:
            self._put_again(member, seat, now)
        if self._lines:
            self._serving.serve(member)

    def _put_again(self, member: Member, seat: Seat | None, now: float) -> None:
        """Put what may have been taken from the free back, and the seat that was used to the bucket of its speed."""
        if seat is not None:
            seat.pool.put(seat, now)
            if seat.next is None and seat is member.first:
                return
        self._put(itertools.islice(member, AT_ONCE), now)
        if member.trouble.parked:
            self._put(member.trouble.parked, now)
            member.trouble.parked.clear()

    def _put(self, seats: Iterable[Seat], now: float) -> None:
        for seat in seats:
            seat.pool.put(seat, now)

    def _demote(self, member: Member, now: float) -> None:
        """It is silent: those of its seats that are among the free become a last resort."""
        member.trouble_of_its_own().is_demoted = True
        self._put((seat for seat in member if seat.bucket != NOWHERE), now)

    def _look_at(self, seat: Seat, now: float) -> None:
        """Decide whether a seat may be used, and whether it is among the free."""
        standing = self._judge.standing(seat, now, is_probed=self.on_probe_due is not None)
        seat.pool.judge(seat, standing)
        if standing.why_out or not seat.member.has_room:
            seat.pool.take(seat)
        else:
            seat.pool.put(seat, now)

    def _look_at_all(self, member: Member, now: float) -> None:
        for seat in member:
            self._look_at(seat, now)

    def _set_timer(self, member: Member, now: float) -> None:
        """One timer a member: when the first of its seats may come back."""
        agent_id = member.profile.agent_id
        self._stop_timer(agent_id)
        ready_at = min([seat.standing.ready_at for seat in member if seat.why_out], default=math.inf)
        if ready_at < math.inf:
            delay_s = max(0.0, ready_at - now)
            self._timers[agent_id] = asyncio.get_running_loop().call_later(delay_s, self._wait_is_over, member)

    def _stop_timer(self, agent_id: str) -> None:
        if (timer := self._timers.pop(agent_id, None)) is not None:
            timer.cancel()

    def _wait_is_over(self, member: Member) -> None:
        agent_id = member.profile.agent_id
        self._timers.pop(agent_id, None)
        try:
            self._look_after_wait(member)
        except Exception:  # noqa: BLE001 - whatever it is, the agent is looked at again
            # Without a timer nothing would look at the agent again.
            _log.exception("agent %s: defect, looking again in %s s", agent_id, AFTER_DEFECT_S)
            self._stop_timer(agent_id)
            loop = asyncio.get_running_loop()
            self._timers[agent_id] = loop.call_later(AFTER_DEFECT_S, self._wait_is_over, member)

    def _look_after_wait(self, member: Member) -> None:
        if member.is_gone:
            return
        agent_id, now = member.profile.agent_id, self._clock.monotonic()
        needs_probe = any(
            seat.standing.ready_at <= now and self._board.needs_probe(agent_id, seat.key) for seat in member
        )
        if needs_probe and self.on_probe_due is not None:
            self.on_probe_due(member.profile)
        else:
            self.refresh(agent_id)

    def _note_outages(self, pools: Iterable[Pool], profile: AgentProfile) -> None:
        """Report which capability has no agent any more, or one again; end waits for which no agent is left."""
        for pool in pools:
            is_out = bool(pool.seats) and not pool.usable
            if is_out is not pool.is_known_out:
                pool.is_known_out = is_out
                # A capability that no agent offers any more is neither out nor back.
                if self.on_outage is not None and pool.seats:
                    self.on_outage(pool, is_out)
            if pool.out or not pool.seats:
                self._serving.wake_hopeless(pool, profile)

    def _note_losses(self, pools: list[Pool], profile: AgentProfile) -> None:
        """An agent went or changed: waits for just this one end as well."""
        self._note_outages(pools, profile)
        for pool in pools:
            self._serving.wake_hopeless(pool, profile)

    def _settle_permit(
        self, lease: Lease, outcome: Outcome, elapsed_s: float | None, *, evidence: bool, doubted: bool
    ) -> None:
        agent_id, board = lease.agent.agent_id, self._board
        if outcome is Outcome.SUCCESS and evidence:
            board.record_success(agent_id, lease.key, lease.permit, elapsed_s)
        elif outcome is Outcome.AGENT_FAULT and doubted:
            board.record_doubt(agent_id, lease.key, lease.permit, again=not evidence)
        elif outcome in _EVIDENCE and evidence:
            board.record_failure(agent_id, lease.key, lease.permit, elapsed_s)
            if outcome is Outcome.UNAVAILABLE:
                board.record_evidence(agent_id, [seat.key for seat in lease.seat.member if seat.key != lease.key])
        else:
            board.release(agent_id, lease.key, lease.permit)

    def _tally(self, lease: Lease, seat: Seat, outcome: Outcome, elapsed_s: float | None, now: float) -> None:
        member = seat.member
        if outcome in _ANSWERS:
            lease.seat.pool.answered(lease.bucket, now)
            member.answer(now)
        else:
            member.end_trial()
        if outcome is Outcome.SUCCESS:
            member.successes += 1
            if elapsed_s is not None:
                seat.learn(elapsed_s, now)
            if member.trouble.cool_down_s:
                member.trouble.cool_down_s = 0.0
        elif outcome in _FAILURES:
            member.trouble_of_its_own().failures += 1

    def _cool_down(self, seat: Seat, retry_after_s: float | None) -> None:
        member = seat.member
        if retry_after_s is None:
            if self._board.ready_in_s(seat.agent_id, seat.key):
                # It rests already: this call was on its way before, and its refusal is the same news.
                return
            trouble = member.trouble_of_its_own()
            guess = trouble.cool_down_s * COOL_DOWN_FACTOR or COOL_DOWN_FIRST_S
            trouble.cool_down_s = retry_after_s = min(guess, COOL_DOWN_MAX_S)
        self._board.cool_down(seat.agent_id, rest_s(retry_after_s))
        self._look_at_all(member, self._clock.monotonic())

    def _set_aside(self, seat: Seat, reason: str, *, whole_agent: bool) -> None:
        trouble = seat.member.trouble_of_its_own()
        is_news = not (trouble.is_set_aside or (seat.key in trouble.set_aside_keys and not whole_agent))
        if whole_agent:
            trouble.is_set_aside, trouble.set_aside_because = True, reason
        else:
            trouble.set_aside_keys[seat.key] = reason
            self._roster.refused.add(seat.key)
        self._look_at_all(seat.member, self._clock.monotonic())
        if is_news and self.on_set_aside is not None:
            self.on_set_aside(seat.member.profile, "" if whole_agent else seat.key, reason)

    def _note_restored(self, profile: AgentProfile, *, was_aside: bool) -> None:
        if was_aside and self.on_set_aside is not None:
            self.on_set_aside(profile, "", None)

    def _take_back(self, lease: Lease) -> None:
        self.complete_task(lease, Outcome.CANCELLED)

    def _share_of(self, profile: AgentProfile) -> int:
        return max(1, profile.max_concurrent_tasks // self._replicas)


_EVIDENCE = frozenset({Outcome.AGENT_FAULT, Outcome.UNAVAILABLE})
_FAILURES = _EVIDENCE | {Outcome.TASK_FAILED}
_ANSWERS = frozenset({Outcome.SUCCESS, Outcome.TASK_FAILED, Outcome.CALLER_FAULT, Outcome.OVERLOADED})


def _is_too_late(deadline: float | TimeLimit, now: float) -> bool:
    if isinstance(deadline, TimeLimit):
        return deadline.ends_at - now < SHORTEST_ATTEMPT_S and deadline.is_over(max(now, deadline.ends_at))
    return deadline - now < SHORTEST_ATTEMPT_S


def rest_s(retry_after_s: float) -> float:
    """How long an agent is left alone that asked for so many seconds: 50 ms to 5 minutes."""
    return min(max(retry_after_s, COOL_DOWN_MIN_S), COOL_DOWN_MAX_S)
