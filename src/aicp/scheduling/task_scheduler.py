"""The scheduler: who gets a task, and when.

Late binding: a task is bound when an agent has a free slot, else it waits in the line of its capability. The permit of
the circuit is taken at hand-over, never while waiting. A lease ends once, by `complete_task` or by expiry.
"""

import asyncio
import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec

from aicp.errors import AgentNotFound
from aicp.model.agent import DEFAULT_TENANT, AgentProfile, Capability
from aicp.model.outcome import Outcome
from aicp.model.task import DEFAULT_ATTEMPT_TIMEOUT_S, Task
from aicp.model.views import CapabilityStatus, SchedulerStatus
from aicp.ports import Clock, SystemClock
from aicp.registry.leases import Liveness
from aicp.registry.naming import wanted_key
from aicp.resilience.board import CircuitBoard
from aicp.resilience.circuit_breaker import CircuitState
from aicp.scheduling.fleet import NOWHERE, Member, Pool, Seat
from aicp.scheduling.latency import smoothed
from aicp.scheduling.lease import Lease, Unscheduled
from aicp.scheduling.waiting_line import Waiter, WaitingLine

SLOT_LEASE_GRACE_S = 5.0
PROBE_LEASE_GRACE_S = 1.0
SHORTEST_ATTEMPT_S = 0.001
COOL_DOWN_FIRST_S = 1.0
COOL_DOWN_FACTOR = 1.5
COOL_DOWN_MIN_S = 0.05
COOL_DOWN_MAX_S = 300.0
WAITING_MAX = 100_000
REASONS_MAX = 8
RETRY_AFTER_MIN_S = 0.05
RETRY_AFTER_MAX_S = 3_600.0
RETRY_SOON_S = 1.0


class Outage(msgspec.Struct, frozen=True):
    """Why a capability has nobody.

    Attributes:
        retry_after_s: Seconds until the first of its agents may be tried again, 0.05 s to an hour; a second when one
            may be tried now, since whoever asks has just done so.
        reasons: `<agent>: <why>`, at most eight.
    """

    retry_after_s: float
    reasons: tuple[str, ...]


class TaskScheduler:
    """Gives tasks to agents with a free slot; the cost of a decision does not depend on how many agents there are.

    Args:
        board: Says who may be tried; the scheduler takes its permits and settles them.
        clock: Time.
        rng: Chance, for picks.
        on_probe_due: Told of an agent when the wait of a gated circuit of its is over; None when nobody probes.
        on_outage: Told `(key, is_out)` when a capability lost its last usable agent, or has one again.
    """

    def __init__(
        self,
        board: CircuitBoard,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        on_probe_due: Callable[[AgentProfile], Any] | None = None,
        on_outage: Callable[[str, bool], Any] | None = None,
    ) -> None:
        self._board = board
        self._clock = clock or SystemClock()
        self._draw = (rng or random.Random()).random
        self.on_probe_due = on_probe_due
        self.on_outage = on_outage
        self._members: dict[str, Member] = {}
        self._pools: dict[str, Pool] = {}
        self._lines: dict[str, WaitingLine] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._leases: dict[int, dict[Lease, None]] = {}
        self._lease_timer: asyncio.TimerHandle | None = None
        self._waiting = 0
        self.expired_leases = 0

    async def schedule_task(
        self,
        task: Task,
        *,
        ready_at: float | None = None,
        deadline: float = math.inf,
        tried: frozenset[str] = frozenset(),
        wait: bool = True,
        tenant: str = DEFAULT_TENANT,
    ) -> Lease | Unscheduled:
        """Wait for an agent and take a slot of it.

        Args:
            task: What it is for.
            ready_at: When it could first have run, monotonic seconds; now when None. Decides its place in line.
            deadline: When to give up, monotonic seconds.
            tried: Agents it shall not go to.
            wait: False to come back at once when every agent it may go to is out; busy ones are waited for.
            tenant: Whose it is; tenants take turns in line.

        Returns:
            A lease, to be completed exactly once; or why there is none. With `tried`, `NOBODY_ELSE` says that whoever
            may be used was tried.
        """
        now = self._clock.monotonic()
        if deadline - now < SHORTEST_ATTEMPT_S:
            return Unscheduled.DEADLINE
        key = wanted_key(task.capability)
        pool = self._pools.get(key)
        if pool is not None and not (task.agents or task.labels or tried or task.exclude_agents):
            seat = pool.pick(self._draw)
            if seat is not None and (lease := self._hand_over(seat, task)) is not None:
                return lease
        since = now if ready_at is None else ready_at
        waiter = Waiter(task, since, deadline, tried, gives_up=not wait, tenant=tenant)
        return await self._find_or_wait(waiter, key)

    def complete_task(
        self,
        lease: Lease,
        outcome: Outcome,
        elapsed_s: float | None = None,
        *,
        evidence: bool = True,
        retry_after_s: float | None = None,
        whole_agent: bool = False,
    ) -> None:
        """Settle slot, permit and latency of a lease; the second time, or after it expired, nothing happens.

        Args:
            lease: What `schedule_task` gave.
            outcome: How the attempt ended.
            elapsed_s: How long it took.
            evidence: False when the verdict says nothing about the agent.
            retry_after_s: For OVERLOADED: how long the agent asked to be left alone.
            whole_agent: For MISCONFIGURED: about the agent rather than about this capability.
        """
        member = lease.seat.member
        if not self._unlease(lease) or not self._is_current(member):
            return
        if lease.agent.instance_id != member.profile.instance_id:
            # The process it is about is gone: nothing of it says anything about the one that took its place.
            outcome = Outcome.CANCELLED
        seat = member.seats.get(lease.key, lease.seat)
        self._tally(seat, outcome, elapsed_s)
        self._settle_permit(lease, outcome, elapsed_s, evidence=evidence)
        if outcome is Outcome.OVERLOADED:
            self._cool_down(seat, retry_after_s)
        elif outcome is Outcome.MISCONFIGURED and lease.agent is member.profile:
            self._set_aside(seat, whole_agent=whole_agent)
        self._free_slot(member)

    def add_agent(self, profile: AgentProfile) -> None:
        """Take an agent into the fleet, or take over what changed of it: its speed stays known, its tasks go on."""
        member = self._members.get(profile.agent_id)
        if member is None:
            member = self._members[profile.agent_id] = Member(profile)
            self._join_pools(member)
            self.refresh(profile.agent_id)
            return
        self._leave_pools(member)
        offered = list(member.seats)
        member.become(profile)
        self._join_pools(member)
        self.refresh(profile.agent_id)
        self._note_losses(offered)

    def remove_agent(self, agent_id: str) -> None:
        """Give it no more tasks; those it has go on, and waiting ones find others.

        Raises:
            AgentNotFound: There is none.
        """
        member = self._member(agent_id)
        del self._members[agent_id]
        self._leave_pools(member)
        self._note_losses(member.seats)

    def drain_agent(self, agent_id: str) -> None:
        """Give it no more tasks, but keep it.

        Raises:
            AgentNotFound: There is none.
        """
        self._member(agent_id).draining = True
        self.refresh(agent_id)

    def set_liveness(self, agent_id: str, liveness: Liveness) -> None:
        """Heard, unheard (a last resort) or offline (out).

        Raises:
            AgentNotFound: There is none.
        """
        self._member(agent_id).liveness = liveness
        self.refresh(agent_id)

    def restore_agent(self, agent_id: str) -> None:
        """Forget that it was set aside or asked for a rest.

        Raises:
            AgentNotFound: There is none.
        """
        member = self._member(agent_id)
        member.set_aside = False
        member.cool_down_s = 0.0
        for seat in member.seats.values():
            seat.set_aside = False
        self.refresh(agent_id)

    def refresh(self, agent_id: str) -> None:
        """Look again whether an agent may be used: something was said about it, or a wait is over."""
        member = self._members.get(agent_id)
        if member is None:
            return
        for seat in member.seats.values():
            self._look_at(seat)
        self._set_timer(member)
        self._serve(member)
        self._note_outages(member.seats)

    def outage(self, task: Task) -> Outage:
        """Who could do the task and why they may not be used now; at most eight agents are looked at."""
        pool = self._pools.get(wanted_key(task.capability), Pool())
        looked_at = list(itertools.islice(self._candidates(pool, task), REASONS_MAX))
        out = [seat for seat in looked_at if seat.why_out]
        reasons = tuple(f"{seat.member.profile.agent_id}: {seat.why_out}" for seat in out)
        filtered = task.agents or task.labels or task.exclude_agents
        if (len(out) < len(looked_at)) if filtered else pool.usable:
            return Outage(RETRY_SOON_S, reasons)
        ready_at = min((seat.ready_at for seat in out), default=math.inf) if filtered else pool.first_return()
        wait_s = max(RETRY_AFTER_MIN_S, ready_at - self._clock.monotonic())
        return Outage(min(wait_s, RETRY_AFTER_MAX_S), reasons)

    def member(self, agent_id: str) -> Member:
        """The agent as the fleet sees it, to be read only.

        Raises:
            AgentNotFound: There is none.
        """
        return self._member(agent_id)

    def keys_of(self, agent_id: str) -> list[str]:
        """The capability keys of an agent; none when there is no such agent."""
        member = self._members.get(agent_id)
        return list(member.seats) if member is not None else []

    def members(self) -> Iterable[Member]:
        """Every agent as the fleet sees it, to be read only."""
        return self._members.values()

    def knows(self, capability: str) -> bool:
        """True when somebody, present or gone, offered `name` or `name@major`."""
        return wanted_key(capability) in self._pools

    def has_candidate(self, task: Task) -> bool:
        """True when somebody offers what the task asks for, whether it may be used now or not."""
        pool = self._pools.get(wanted_key(task.capability))
        return pool is not None and any(True for _ in self._candidates(pool, task))

    def declarations(self, task: Task) -> Iterator[Capability]:
        """What each agent that the task may go to says of the capability, in the order they registered."""
        pool = self._pools.get(wanted_key(task.capability))
        return (seat.declared for seat in self._candidates(pool, task)) if pool is not None else iter(())

    def has_another(self, task: Task, tried: frozenset[str]) -> bool:
        """True when somebody not yet tried may be used for the task, free or busy."""
        pool = self._pools.get(wanted_key(task.capability))
        return pool is not None and self._usable_besides(pool, task, tried) > 0

    def agents_of(self, key: str) -> list[str]:
        """Ids of everybody who offers a capability, by its key."""
        pool = self._pools.get(key)
        return list(pool.seats) if pool is not None else []

    def is_out(self, key: str) -> bool:
        """True when somebody offers the capability and nobody may be used for it."""
        pool = self._pools.get(key)
        return pool is not None and bool(pool.seats) and not pool.usable

    def capabilities_out(self) -> list[str]:
        """Capabilities that somebody offers and nobody may be used for."""
        return sorted(filter(self.is_out, self._pools))

    def status(self) -> SchedulerStatus:
        """The scheduler at a glance; costs a look at every agent and waiting task."""
        now = self._clock.monotonic()
        capacity = sum(member.slots for member in self._members.values())
        load = sum(member.taken for member in self._members.values())
        by_capability = {
            key: self._capability_status(key, now) for key in sorted(self._pools) if self._pools[key].seats
        }
        waiting = [_oldest_wait_s(line, now) for line in self._lines.values()]
        return SchedulerStatus(
            agents_count=len(self._members),
            total_capacity=capacity,
            current_load=load,
            utilization_percentage=round(100 * load / capacity, 2) if capacity else 0.0,
            queue_depth=self._waiting,
            oldest_wait_s=max(waiting, default=0.0),
            by_capability=by_capability,
        )

    def close(self) -> None:
        """Stop every timer; waiting tasks are their owners' to cancel."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._lease_timer is not None:
            self._lease_timer.cancel()
            self._lease_timer = None

    def _member(self, agent_id: str) -> Member:
        member = self._members.get(agent_id)
        if member is None:
            raise AgentNotFound(f"There is no agent '{agent_id[:128]}'.")
        return member

    async def _find_or_wait(self, waiter: Waiter, key: str) -> Lease | Unscheduled:
        pool = self._pools.get(key)
        if pool is None or not pool.seats:
            if waiter.gives_up:
                return Unscheduled.NOBODY_CAPABLE
        elif (lease := self._pick_for(waiter, pool)) is not None:
            return lease
        elif (refusal := self._hopeless(waiter, pool)) is not None:
            return refusal
        if self._waiting >= WAITING_MAX:
            return Unscheduled.LINE_FULL
        return await self._stand_in_line(waiter, key)

    async def _stand_in_line(self, waiter: Waiter, key: str) -> Lease | Unscheduled:
        line = self._lines.setdefault(key, WaitingLine())
        line.join(waiter)
        self._waiting += 1
        timer = None
        if waiter.deadline < math.inf:
            patience_s = max(0.0, waiter.deadline - self._clock.monotonic())
            timer = asyncio.get_running_loop().call_later(patience_s, _decide, waiter, Unscheduled.DEADLINE)
        try:
            return await waiter.seat_future
        except asyncio.CancelledError:
            self._give_back(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()
            line.leave(waiter)
            self._waiting -= 1
            if not line:
                self._lines.pop(key, None)

    def _give_back(self, waiter: Waiter) -> None:
        """The caller left at the very moment it was served."""
        future = waiter.seat_future
        if future.done() and not future.cancelled() and isinstance(lease := future.result(), Lease):
            self.complete_task(lease, Outcome.CANCELLED)

    def _pick_for(self, waiter: Waiter, pool: Pool) -> Lease | None:
        """Hand over a free seat that fits, if there is one whose circuit agrees."""
        while (seat := self._find_free(waiter, pool)) is not None:
            lease = self._hand_over(seat, waiter.task)
            if lease is not None:
                return lease
        return None

    def _find_free(self, waiter: Waiter, pool: Pool) -> Seat | None:
        if waiter.selector is None:
            return pool.pick(self._draw)
        fits = _filter(waiter)
        if waiter.task.agents:
            named = (seat for seat in self._candidates(pool, waiter.task) if seat.bucket != NOWHERE and fits(seat))
            return min(named, key=lambda seat: (seat.bucket, seat.latency_s), default=None)
        # Who is free already wakes nobody: it has to be found now, or the task would wait beside it for ever.
        return pool.pick(self._draw, fits) or pool.find(fits)

    def _hand_over(self, seat: Seat, task: Task) -> Lease | None:
        """Take the permit and the slot; when the circuit refuses, the seat is no longer among the free."""
        timeout_s = task.timeout_s or seat.declared.timeout_s or DEFAULT_ATTEMPT_TIMEOUT_S
        member = seat.member
        # The slot comes first: asking may move the circuit, and its listener serves those who wait for this agent.
        member.taken += 1
        permit = self._board.try_acquire(member.profile.agent_id, seat.key, timeout_s + PROBE_LEASE_GRACE_S)
        if not permit:
            self._refused(seat)
            return None
        lease = Lease(seat, permit, timeout_s, self._clock.monotonic() + timeout_s + SLOT_LEASE_GRACE_S)
        self._watch(lease)
        if member.taken >= member.slots:
            self._take_from_free(member)
        elif seat.is_fragile:
            self._look_at(seat)
            self._set_timer(member)
        return lease

    def _refused(self, seat: Seat) -> None:
        """The circuit gave no permit: give the slot back, and keep the seat from the free until it is refreshed."""
        member = seat.member
        member.taken -= 1
        for other in member.seats.values():
            self._look_at(other)
        if not seat.why_out:
            self._pools[seat.key].take(seat)
        self._set_timer(member)

    def _take_from_free(self, member: Member) -> None:
        for key, seat in member.seats.items():
            if seat.bucket != NOWHERE:
                self._pools[key].take(seat)

    def _free_slot(self, member: Member) -> None:
        member.taken -= 1
        if any(seat.is_fragile or seat.why_out for seat in member.seats.values()):
            self.refresh(member.profile.agent_id)
            return
        if member.taken >= member.slots:
            return
        for key, seat in member.seats.items():
            self._pools[key].put(seat)
        if self._lines:
            self._serve(member)

    def _serve(self, member: Member) -> None:
        """Give the member's free slots to who waits for it, the most urgent first."""
        while member.taken < member.slots and self._lines:
            found = min(self._waiting_for(member), key=lambda entry: entry[0], default=None)
            if found is None:
                return
            _, waiter, seat = found
            lease = self._hand_over(seat, waiter.task)
            if lease is not None and waiter.is_waiting:
                self._lines[seat.key].serve(waiter, lease)
            elif lease is not None:
                # Asking moved the circuit, and its listener told this waiter that nobody is left.
                self.complete_task(lease, Outcome.CANCELLED)

    def _waiting_for(self, member: Member) -> Iterator[tuple[float, Waiter, Seat]]:
        """Who is next in the line of each capability, with its urgency and the seat it would get."""
        for key, seat in member.seats.items():
            line = self._lines.get(key)
            if line is not None and seat.bucket != NOWHERE and (found := line.first(_suiting(seat))) is not None:
                urgency, waiter = found
                yield urgency, waiter, seat

    def _look_at(self, seat: Seat) -> None:
        """Decide whether a seat may be used, and whether it is among the free."""
        member, pool = seat.member, self._pools[seat.key]
        was_out = bool(seat.why_out)
        seat.why_out, wait_s = self._judge(seat)
        seat.ready_at = self._clock.monotonic() + wait_s
        pool.out += bool(seat.why_out) - was_out
        if seat.why_out:
            pool.expect(seat)
        if seat.why_out or member.taken >= member.slots:
            pool.take(seat)
        else:
            pool.put(seat)

    def _judge(self, seat: Seat) -> tuple[str, float]:
        """Why a seat may not be used, and for how long; infinite when something must be said first."""
        if told := _told_out(seat):
            return told, math.inf
        agent_id = seat.member.profile.agent_id
        state = self._board.get_state(agent_id, seat.key)
        wait_s = self._board.ready_in_s(agent_id, seat.key)
        seat.is_fragile = state is CircuitState.HALF_OPEN
        if not wait_s:
            return ("circuit open", self._probe_wait_s()) if self._board.needs_probe(agent_id, seat.key) else ("", 0.0)
        return _TOLD_WAIT.get(state, "cooling down"), wait_s

    def _probe_wait_s(self) -> float:
        """A probe is due now: asked for once more by every look, since this look may have taken the timer's place."""
        return 0.0 if self.on_probe_due is not None else math.inf

    def _set_timer(self, member: Member) -> None:
        """One timer a member: when the first of its seats may come back."""
        agent_id = member.profile.agent_id
        if (timer := self._timers.pop(agent_id, None)) is not None:
            timer.cancel()
        ready_at = min((seat.ready_at for seat in member.seats.values() if seat.why_out), default=math.inf)
        if ready_at < math.inf:
            delay_s = max(0.0, ready_at - self._clock.monotonic())
            self._timers[agent_id] = asyncio.get_running_loop().call_later(delay_s, self._wait_is_over, member)

    def _wait_is_over(self, member: Member) -> None:
        agent_id = member.profile.agent_id
        self._timers.pop(agent_id, None)
        needs_probe = any(
            seat.ready_at <= self._clock.monotonic() and self._board.needs_probe(agent_id, key)
            for key, seat in member.seats.items()
        )
        if needs_probe and self.on_probe_due is not None:
            self.on_probe_due(member.profile)
        else:
            self.refresh(agent_id)

    def _hopeless(self, waiter: Waiter, pool: Pool) -> Unscheduled | None:
        """Why waiting makes no sense for this task now; None when it does."""
        if not waiter.is_impatient or self._usable_besides(pool, waiter.task, waiter.tried):
            return None
        if waiter.tried and not (waiter.gives_up and not self._usable_besides(pool, waiter.task, frozenset())):
            return Unscheduled.NOBODY_ELSE
        return Unscheduled.ALL_OUT if any(self._candidates(pool, waiter.task)) else Unscheduled.NOBODY_CAPABLE

    def _usable_besides(self, pool: Pool, task: Task, besides: frozenset[str]) -> int:
        """How many agents may be used for the task, leaving some out; a scan only where labels are asked for."""
        if task.agents or task.labels:
            seats = self._candidates(pool, task)
            return sum(not seat.why_out and seat.member.profile.agent_id not in besides for seat in seats)
        left_out = besides.union(task.exclude_agents) if task.exclude_agents else besides
        return pool.usable - sum(name in pool.seats and not pool.seats[name].why_out for name in left_out)

    def _note_outages(self, keys: Iterable[str]) -> None:
        """Say loudly what has nobody any more, or somebody again; tell those in line for whom nobody is left."""
        for key in keys:
            pool = self._pools[key]
            is_out = self.is_out(key)
            if is_out is not pool.is_known_out:
                pool.is_known_out = is_out
                # Whom nobody offers any more is neither out nor back.
                if self.on_outage is not None and pool.seats:
                    self.on_outage(key, is_out)
            if pool.out or not pool.seats:
                self._wake_hopeless(key)

    def _note_losses(self, keys: Iterable[str]) -> None:
        """An agent went or changed: those in line who wanted just this one are told as well."""
        self._note_outages(keys)
        for key in keys:
            self._wake_hopeless(key)

    def _wake_hopeless(self, key: str) -> None:
        line = self._lines.get(key)
        for waiter in list(line.impatient) if line is not None else ():
            if (refusal := self._hopeless(waiter, self._pools[key])) is not None:
                _decide(waiter, refusal)

    def _candidates(self, pool: Pool, task: Task) -> Iterator[Seat]:
        if task.agents:
            seats: Iterable[Seat] = (pool.seats[name] for name in task.agents if name in pool.seats)
        else:
            seats = pool.seats.values()
        return (seat for seat in seats if _suits(seat, task))

    def _settle_permit(self, lease: Lease, outcome: Outcome, elapsed_s: float | None, *, evidence: bool) -> None:
        agent_id, board = lease.agent.agent_id, self._board
        if outcome is Outcome.SUCCESS and evidence:
            board.record_success(agent_id, lease.key, lease.permit, elapsed_s)
        elif outcome in _EVIDENCE and evidence:
            board.record_failure(agent_id, lease.key, lease.permit, elapsed_s)
            if outcome is Outcome.UNAVAILABLE:
                board.record_evidence(agent_id, [key for key in lease.seat.member.seats if key != lease.key])
        else:
            board.release(agent_id, lease.key, lease.permit)

    def _is_current(self, member: Member) -> bool:
        return self._members.get(member.profile.agent_id) is member

    def _tally(self, seat: Seat, outcome: Outcome, elapsed_s: float | None) -> None:
        member = seat.member
        if outcome is Outcome.SUCCESS:
            member.successes += 1
            member.cool_down_s = 0.0
            if elapsed_s is not None:
                seat.latency_s = smoothed(seat.latency_s, elapsed_s)
        elif outcome in _FAILURES:
            member.failures += 1

    def _cool_down(self, seat: Seat, retry_after_s: float | None) -> None:
        member = seat.member
        if retry_after_s is None:
            if self._board.ready_in_s(member.profile.agent_id, seat.key):
                # It rests already: this call was on its way before, and its refusal is the same news.
                return
            guess = member.cool_down_s * COOL_DOWN_FACTOR or COOL_DOWN_FIRST_S
            member.cool_down_s = retry_after_s = min(guess, COOL_DOWN_MAX_S)
        self._board.cool_down(member.profile.agent_id, rest_s(retry_after_s))
        for other in member.seats.values():
            self._look_at(other)

    def _set_aside(self, seat: Seat, *, whole_agent: bool) -> None:
        if whole_agent:
            seat.member.set_aside = True
        else:
            seat.set_aside = True
        for other in seat.member.seats.values():
            self._look_at(other)

    def _join_pools(self, member: Member) -> None:
        for key, seat in member.seats.items():
            self._pools.setdefault(key, Pool()).seats[member.profile.agent_id] = seat

    def _leave_pools(self, member: Member) -> None:
        if (timer := self._timers.pop(member.profile.agent_id, None)) is not None:
            timer.cancel()
        for key, seat in member.seats.items():
            self._pools[key].forget(seat)

    def _watch(self, lease: Lease) -> None:
        second = int(lease.expires_at) + 1
        self._leases.setdefault(second, {})[lease] = None
        if self._lease_timer is None:
            self._lease_timer = asyncio.get_running_loop().call_later(1.0, self._expire_leases)

    def _unlease(self, lease: Lease) -> bool:
        if lease.is_settled:
            return False
        lease.is_settled = True
        second = int(lease.expires_at) + 1
        leases = self._leases[second]
        del leases[lease]
        if not leases:
            del self._leases[second]
        return True

    def _expire_leases(self) -> None:
        self._lease_timer = None
        now = self._clock.monotonic()
        for second in [second for second in self._leases if second <= now]:
            for lease in list(self._leases.get(second, ())):
                self.expired_leases += 1
                self.complete_task(lease, Outcome.CANCELLED)
        if self._leases and self._lease_timer is None:
            self._lease_timer = asyncio.get_running_loop().call_later(1.0, self._expire_leases)

    def _capability_status(self, key: str, now: float) -> CapabilityStatus:
        pool, line = self._pools[key], self._lines.get(key, WaitingLine())
        return CapabilityStatus(
            agents=len(pool.seats),
            usable=pool.usable,
            free=pool.free,
            queue_depth=len(line),
            oldest_wait_s=_oldest_wait_s(line, now),
        )


_EVIDENCE = frozenset({Outcome.AGENT_FAULT, Outcome.UNAVAILABLE})
_FAILURES = _EVIDENCE | {Outcome.TASK_FAILED}
_TOLD_WAIT = {
    CircuitState.OPEN: "circuit open",
    CircuitState.HALF_OPEN: "being probed",
    CircuitState.FORCED_OPEN: "opened by an operator",
}


def rest_s(retry_after_s: float) -> float:
    """How long an agent is left alone that asked for so many seconds: 50 ms to 5 minutes."""
    return min(max(retry_after_s, COOL_DOWN_MIN_S), COOL_DOWN_MAX_S)


def _told_out(seat: Seat) -> str:
    member = seat.member
    if member.set_aside or seat.set_aside:
        return "set aside as misconfigured"
    if member.draining:
        return "draining"
    return "offline" if member.liveness is Liveness.OFFLINE else ""


def _suiting(seat: Seat) -> Callable[[Waiter], bool]:
    return lambda waiter: _filter(waiter)(seat)


def _filter(waiter: Waiter) -> Callable[[Seat], bool]:
    task, tried = waiter.task, waiter.tried
    return lambda seat: seat.member.profile.agent_id not in tried and _suits(seat, task)


def _suits(seat: Seat, task: Task) -> bool:
    profile = seat.member.profile
    if task.agents and profile.agent_id not in task.agents:
        return False
    if task.exclude_agents and profile.agent_id in task.exclude_agents:
        return False
    return not task.labels or task.labels.items() <= profile.labels.items()


def _decide(waiter: Waiter, refusal: Unscheduled) -> None:
    if waiter.is_waiting:
        waiter.seat_future.set_result(refusal)


def _oldest_wait_s(line: WaitingLine, now: float) -> float:
    return max((now - waiter.since for waiter in line), default=0.0)
