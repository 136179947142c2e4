"""Who stands in line, and who of them is served when an agent has a free slot.

A task may also be left in line though an agent is free, for a faster one that is expected in time (the wait rule).
"""

import asyncio
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import msgspec

from aicp import standstill
from aicp.model.agent import AgentProfile
from aicp.model.task import Priority
from aicp.ports import Clock
from aicp.scheduling.fleet import NOWHERE, Member, Pool, Seat
from aicp.scheduling.group import Group
from aicp.scheduling.lease import Lease, Unscheduled
from aicp.scheduling.roster import NOBODY, Roster
from aicp.scheduling.slices import Slices
from aicp.scheduling.waiter import Selector, Waiter
from aicp.scheduling.waiting_line import LOOKS, WaitingLine

WAITING_MAX = 100_000
WELL_KNOWN = 10
WORTH_WAITING = 2.0
WEIGHTS = {Priority.HIGH: 64, Priority.NORMAL: 8, Priority.LOW: 1}
LINES_COMPARED_MAX = 64
LOOKS_A_STEP = 64
SEATS_A_STEP = 256
WOKEN_A_STEP = 64

HandOver = Callable[[Seat, Waiter, float], Lease | None]


class _Hold(msgspec.Struct, frozen=True, eq=False):
    """How long somebody is held back at the longest.

    The timer itself need not know: what uvloop gives for one that is due at once is a handle without a time.
    """

    until: float
    timer: asyncio.Handle


class Serving:
    """The lines of all capabilities.

    Args:
        roster: The agents.
        clock: Time.
        draw: Chance, uniform in [0, 1), for picks.
        hand_over: Takes permit and slot of a seat for a task; None when the circuit refuses.
        take_back: Settles a lease that nobody is there to use.

    Attributes:
        lines: Those in which somebody stands, by capability key.
        holds: The pools from which the next in line is held back for a faster agent, and until when at the longest.
        waits_for_faster: False to switch the wait rule off, as several replicas do.
    """

    def __init__(
        self,
        roster: Roster,
        clock: Clock,
        draw: Callable[[], float],
        hand_over: HandOver,
        take_back: Callable[[Lease], None],
    ) -> None:
        self._roster = roster
        self._clock = clock
        self._draw = draw
        self._hand_over = hand_over
        self._take_back = take_back
        self._waiting = 0
        self._slices = Slices()
        self._late: deque[Waiter] = deque()
        self.lines: dict[str, WaitingLine] = {}
        self.holds: dict[Pool, _Hold] = {}
        self.waits_for_faster = True

    @property
    def is_full(self) -> bool:
        """True when so many tasks wait that no more is taken in."""
        return self._waiting >= WAITING_MAX

    async def stand_in_line(self, waiter: Waiter, key: str) -> Lease | Unscheduled:
        """Wait for an agent; a lease, or why there is none. A waiter that leaves gives back what it was just given."""
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = WaitingLine(lambda label, tenant: self._roster.carriers(key, label, tenant))
        group = line.join(waiter)
        self._waiting += 1
        timer = None
        if waiter.deadline < math.inf:
            patience_s = max(0.0, waiter.deadline - self._clock.monotonic())
            timer = standstill.call_after(waiter.limit, patience_s, self._time_is_up, waiter)
        try:
            await self._offer_free(waiter, group)
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
                self.lines.pop(key, None)

    def serve(self, member: Member) -> None:
        """Give the member's free slots to the tasks that wait for it, in their order."""
        self._serve(member, LOOKS)
        unseen = self._unseen(member)
        if unseen > 0:
            self._slices.run(member, self._serve_on(member, unseen))
        if self.holds:
            for pool in [seat.pool for seat in member]:
                self.let_go(pool)

    def let_go(self, pool: Pool) -> None:
        """Something changed: a task that is held from this pool may have no reason to wait any longer."""
        if pool in self.holds:
            self._serve_from(pool)

    def let_all_go(self) -> None:
        """What decides about waiting changed: every task that is held is looked at again."""
        for pool in list(self.holds):
            self.let_go(pool)

    def hopeless(self, waiter: Waiter) -> Unscheduled | None:
        """Why waiting makes no sense for this task now; None when it does."""
        task, tenant, roster = waiter.task, waiter.tenant, self._roster
        if roster.is_refused(task, tenant):
            return Unscheduled.ALL_REFUSE
        if not waiter.is_impatient:
            return None
        if roster.usable_besides(task, tenant, waiter.tried):
            return None
        has_candidate = roster.has_candidate(task, tenant)
        if waiter.tried and has_candidate and not (waiter.gives_up and not roster.usable_besides(task, tenant, NOBODY)):
            return Unscheduled.NOBODY_ELSE
        if has_candidate:
            return Unscheduled.ALL_OUT
        return Unscheduled.NOBODY_CAPABLE if waiter.gives_up else None

    def wake_hopeless(self, pool: Pool, profile: AgentProfile) -> None:
        """An agent of a pool is out or gone: end the wait of tasks for which it was the last that may be used.

        It is decided once for all that ask for the same; of very many, some in each turn of the loop.
        """
        line = self.lines.get(pool.key)
        if line is None:
            return
        if groups := line.impatient(pool.tenant, profile):
            self._slices.run((pool, profile.agent_id), self._wake_hopeless(groups))
        if pool.key in self._roster.refused:
            self._slices.run((pool, profile.agent_id, "refused"), self._end_refused(line.asking(pool.tenant, profile)))

    def close(self) -> None:
        """Stop every timer; waiting tasks are their owners' to cancel."""
        for hold in self.holds.values():
            hold.timer.cancel()
        self.holds.clear()
        self._slices.close()

    def _time_is_up(self, waiter: Waiter) -> None:
        """Its wait ends in the next turn; of a crowd with one deadline, as a large chain has it, some in each."""
        self._late.append(waiter)
        if len(self._late) == 1:
            asyncio.get_running_loop().call_soon(self._end_late)

    def _end_late(self) -> None:
        late = self._late
        for _ in range(min(WOKEN_A_STEP, len(late))):
            late[0].decide(Unscheduled.DEADLINE)
            late.popleft()
        if late:
            asyncio.get_running_loop().call_soon(self._end_late)

    def _give_back(self, waiter: Waiter) -> None:
        """The caller left at the very moment it was served."""
        future = waiter.seat_future
        if future.done() and not future.cancelled() and isinstance(lease := future.result(), Lease):
            self._take_back(lease)

    async def _offer_free(self, waiter: Waiter, group: Group) -> None:
        """Agents may be free though tasks wait: for faster ones, or since a pick looks at a few only."""
        pools = self._roster.pools(waiter.task, waiter.tenant)
        selector = waiter.selector
        if selector is None:
            for pool in pools:
                self._serve_from(pool)
        elif not group.is_offered:
            for pool in pools:
                await self._offer_each(waiter, selector, self._roster.free_seats(pool, waiter.task))
            group.is_offered = True

    async def _offer_each(self, waiter: Waiter, selector: Selector, seats: Iterable[Seat]) -> None:
        for number, seat in enumerate(seats, 1):
            if not waiter.is_waiting:
                return
            if seat.bucket != NOWHERE and seat.member.has_room and selector.suits(seat):
                self._give(waiter, seat, self._clock.monotonic())
            if not number % SEATS_A_STEP:
                await asyncio.sleep(0)

    def _serve(self, member: Member, looks: int) -> None:
        now = self._clock.monotonic()
        while self.lines and member.has_room:
            found = self._next_for(member, now, looks)
            if found is None:
                return
            self._give(*found, now)

    def _serve_on(self, member: Member, unseen: int) -> Iterator[None]:
        """Go on to ask groups that were not looked at."""
        while unseen > 0 and member.has_room:
            yield
            unseen -= LOOKS_A_STEP
            self._serve(member, LOOKS_A_STEP)

    def _unseen(self, member: Member) -> int:
        """How many groups were not looked at for the free slots of a member."""
        if not self.lines or not member.has_room:
            return 0
        return max((self.lines[seat.key].unseen(seat) for seat in self._asking(member)), default=0)

    def _next_for(self, member: Member, now: float, looks: int) -> tuple[Waiter, Seat] | None:
        """Of the firsts of the lines of the member's capabilities the one with the most weight x time waited."""
        found: tuple[Waiter, Seat] | None = None
        most = -1.0
        for seat in self._asking(member):
            waiter = self._next_in_line(seat, now, looks)
            if waiter is not None and (weight := WEIGHTS[waiter.task.priority] * (now - waiter.since)) > most:
                found, most = (waiter, seat), weight
        return found

    def _asking(self, member: Member) -> list[Seat]:
        """The free seats of a member in whose lines tasks wait; of more than 64, 64 in turn."""
        by_key, lines = member.trouble.by_key, self.lines
        if not by_key:
            return [seat for seat in member if seat.bucket != NOWHERE and seat.pool.key in lines]
        keys = [key for key in (lines if len(lines) < len(by_key) else by_key) if key in lines and key in by_key]
        seats = [by_key[key] for key in keys if by_key[key].bucket != NOWHERE]
        if len(seats) <= LINES_COMPARED_MAX:
            return seats
        hand = member.trouble.hand = (member.trouble.hand + LINES_COMPARED_MAX) % len(seats)
        return [*seats[hand:], *seats[:hand]][:LINES_COMPARED_MAX]

    def _next_in_line(self, seat: Seat, now: float, looks: int = LOOKS) -> Waiter | None:
        """Which is next for a free seat in the line of its capability.

        While those that any agent suits wait for faster ones, a task that asked for this very agent goes.
        """
        line = self.lines.get(seat.pool.key)
        if line is None or seat.bucket == NOWHERE:
            return None
        found = line.first(seat, now, looks=looks)
        if found is not None and self._is_held(found, seat, now):
            return line.first(seat, now, plain=False, looks=looks)
        return found

    def _serve_from(self, pool: Pool) -> None:
        """Give free seats of a pool to the tasks that wait, in order, until they had better wait for faster ones."""
        now = self._clock.monotonic()
        while (seat := pool.pick(self._draw)) is not None and (found := self._next_in_line(seat, now)) is not None:
            self._give(found, seat, now)

    def _give(self, waiter: Waiter, seat: Seat, now: float) -> None:
        lease = self._hand_over(seat, waiter, now)
        if lease is not None and waiter.is_waiting:
            self.lines[lease.key].serve(waiter, lease)
        elif lease is not None:
            # Asking moved the circuit, and its listener ended the wait of this task.
            self._take_back(lease)

    def _wake_hopeless(self, groups: list[Group]) -> Iterator[None]:
        for number, group in enumerate(groups, 1):
            for gives_up in list(group.impatient):
                yield from self._wake_group(group, gives_up=gives_up)
            if not number % WOKEN_A_STEP:
                yield

    def _wake_group(self, group: Group, *, gives_up: bool) -> Iterator[None]:
        while waiters := group.impatient.get(gives_up):
            some = list(itertools.islice(waiters, WOKEN_A_STEP))
            refusal = self.hopeless(some[0])
            if refusal is None:
                return
            for waiter in some:
                group.calm(waiter)
                waiter.decide(refusal)
            if len(some) == WOKEN_A_STEP:
                yield

    def _end_refused(self, groups: list[Group]) -> Iterator[None]:
        """End the wait of tasks for which every agent refuses the capability."""
        left = WOKEN_A_STEP
        for waiter in itertools.chain.from_iterable(group.entered() for group in groups):
            task = waiter.task
            if waiter.is_waiting and self._roster.is_refused(task, waiter.tenant):
                waiter.decide(Unscheduled.ALL_REFUSE)
            # Names and labels cost a look at each agent that has them.
            left -= WOKEN_A_STEP if task.agents or task.labels else 1
            if left <= 0:
                left = WOKEN_A_STEP
                yield

    def _is_held(self, waiter: Waiter, seat: Seat, now: float) -> bool:
        """True when the next in line had better wait for a faster agent than leave with this one.

        So it is when this agent is well known, and the faster ones, at the rate they end tasks, would be through with
        theirs and with all that wait here in half the time it takes; and nobody waits longer for it than it could win.
        Once somebody waited in vain nobody else does, until one of the faster answers again.
        """
        pool = seat.pool
        if not waiter.is_plain or seat.samples < WELL_KNOWN or not pool.has_faster_busy(seat.bucket):
            return False
        tasks, tasks_per_s = pool.faster_busy(seat)
        waiting = self.lines[pool.key].waiting(pool.tenant)
        slow_s = seat.estimate_s(now)
        if not self.waits_for_faster or not tasks or WORTH_WAITING * (waiting + tasks) / tasks_per_s >= slow_s:
            return False
        if pool.answered_at(seat.bucket) < pool.in_vain_at:
            return False
        if waiter.held_since is None:
            waiter.held_since = now
        won_until = waiter.held_since + slow_s - tasks / tasks_per_s
        if now >= won_until:
            pool.in_vain_at = now
        waiter.patient_until = min(won_until, waiter.deadline - slow_s)
        if now >= waiter.patient_until:
            return False
        self._look_again(pool, waiter.patient_until, now)
        return True

    def _look_again(self, pool: Pool, at: float, now: float) -> None:
        hold = self.holds.get(pool)
        if hold is not None and hold.until <= at:
            return
        if hold is not None:
            hold.timer.cancel()
        timer = asyncio.get_running_loop().call_later(at - now, self._hold_is_over, pool)
        self.holds[pool] = _Hold(at, timer)

    def _hold_is_over(self, pool: Pool) -> None:
        del self.holds[pool]
        self._serve_from(pool)
