"""Who stands in line, and who of them is served when an agent has a free slot.

A task may also be left in line though an agent is free, for a faster one that is expected in time (the wait rule).
"""

import asyncio
import math
from collections.abc import Callable

import msgspec

from aicp import standstill
from aicp.model.task import Task
from aicp.ports import Clock
from aicp.scheduling.fleet import NOWHERE, Member, Pool, Seat
from aicp.scheduling.lease import Lease, Unscheduled
from aicp.scheduling.roster import NOBODY, Roster, suits
from aicp.scheduling.waiting_line import Waiter, WaitingLine

WAITING_MAX = 100_000
WELL_KNOWN = 10
WORTH_WAITING = 2.0


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
        hand_over: Callable[[Seat, Task, float], Lease | None],
        take_back: Callable[[Lease], None],
    ) -> None:
        self._roster = roster
        self._clock = clock
        self._draw = draw
        self._hand_over = hand_over
        self._take_back = take_back
        self._waiting = 0
        self.lines: dict[str, WaitingLine] = {}
        self.holds: dict[Pool, _Hold] = {}
        self.waits_for_faster = True

    @property
    def is_full(self) -> bool:
        """True when so many tasks wait that no more is taken in."""
        return self._waiting >= WAITING_MAX

    async def stand_in_line(self, waiter: Waiter, key: str) -> Lease | Unscheduled:
        """Wait for an agent; a lease, or why there is none. Whoever leaves before gives back what it was just given."""
        line = self.lines.setdefault(key, WaitingLine())
        line.join(waiter)
        self._waiting += 1
        timer = None
        if waiter.deadline < math.inf:
            patience_s = max(0.0, waiter.deadline - self._clock.monotonic())
            timer = standstill.call_after(waiter.limit, patience_s, _decide, waiter, Unscheduled.DEADLINE)
        try:
            self._serve_newcomer(waiter)
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
        """Give the member's free slots to who waits for it, the most urgent first."""
        now = self._clock.monotonic()
        while self.lines and member.has_room:
            found = self._next_for(member, now)
            if found is None:
                break
            waiter, seat = found
            self._give(waiter, seat, now)
        if self.holds:
            for pool in [seat.pool for seat in member]:
                self.let_go(pool)

    def let_go(self, pool: Pool) -> None:
        """Something changed: whoever is held from this pool may have no reason to wait any more."""
        if pool in self.holds:
            self._serve_from(pool)

    def let_all_go(self) -> None:
        """What decides about waiting changed: nobody is held any more without being looked at again."""
        for pool in list(self.holds):
            self.let_go(pool)

    def hopeless(self, waiter: Waiter) -> Unscheduled | None:
        """Why waiting makes no sense for this task now; None when it does."""
        if not waiter.is_impatient:
            return None
        task, tenant, roster = waiter.task, waiter.tenant, self._roster
        if roster.usable_besides(task, tenant, waiter.tried):
            return None
        is_anybody = any(True for _ in roster.candidates(task, tenant))
        if waiter.tried and is_anybody and not (waiter.gives_up and not roster.usable_besides(task, tenant, NOBODY)):
            return Unscheduled.NOBODY_ELSE
        if is_anybody:
            return Unscheduled.ALL_OUT
        return Unscheduled.NOBODY_CAPABLE if waiter.gives_up else None

    def wake_hopeless(self, key: str) -> None:
        """Tell those in a line for whom waiting makes no sense any more."""
        line = self.lines.get(key)
        for waiter in list(line.impatient) if line is not None else ():
            if (refusal := self.hopeless(waiter)) is not None:
                _decide(waiter, refusal)

    def close(self) -> None:
        """Stop every timer; waiting tasks are their owners' to cancel."""
        for hold in self.holds.values():
            hold.timer.cancel()
        self.holds.clear()

    def _give_back(self, waiter: Waiter) -> None:
        """The caller left at the very moment it was served."""
        future = waiter.seat_future
        if future.done() and not future.cancelled() and isinstance(lease := future.result(), Lease):
            self._take_back(lease)

    def _serve_newcomer(self, waiter: Waiter) -> None:
        """Agents may be free though tasks wait, for faster ones: one more in line may change that."""
        if waiter.selector is None:
            for pool in self._roster.pools(waiter.task, waiter.tenant):
                self._serve_from(pool)

    def _next_for(self, member: Member, now: float) -> tuple[Waiter, Seat] | None:
        """Who is next of those in the lines of the member's capabilities, and the seat it would get."""
        waiting = [(*found, seat) for seat in member if (found := self._next_in_line(seat, now)) is not None]
        _, waiter, seat = min(waiting, key=lambda entry: entry[0], default=(0.0, None, None))
        return (waiter, seat) if waiter is not None and seat is not None else None

    def _next_in_line(self, seat: Seat, now: float) -> tuple[float, Waiter] | None:
        """Who is next for a free seat in the line of its capability, with its urgency.

        While those who take anybody wait for faster agents, who asked for this very one goes.
        """
        line = self.lines.get(seat.pool.key)
        if line is None or seat.bucket == NOWHERE:
            return None
        fits, tenant = _suiting(seat), seat.pool.tenant
        found = line.first(fits, tenant)
        if found is not None and self._is_held(found[1], seat, now):
            return line.first(fits, tenant, choosy=True)
        return found

    def _serve_from(self, pool: Pool) -> None:
        """Give free seats of a pool to who waits for any, in order, until they had better wait for faster ones."""
        now = self._clock.monotonic()
        while (seat := pool.pick(self._draw)) is not None and (found := self._next_in_line(seat, now)) is not None:
            self._give(found[1], seat, now)

    def _give(self, waiter: Waiter, seat: Seat, now: float) -> None:
        lease = self._hand_over(seat, waiter.task, now)
        if lease is not None and waiter.is_waiting:
            self.lines[lease.key].serve(waiter, lease)
        elif lease is not None:
            # Asking moved the circuit, and its listener told this waiter that nobody is left.
            self._take_back(lease)

    def _is_held(self, waiter: Waiter, seat: Seat, now: float) -> bool:
        """True when the next in line had better wait for a faster agent than leave with this one.

        So it is when this agent is well known, and the faster ones, at the rate they end tasks, would be through with
        theirs and with all that wait here in half the time it takes; and nobody waits longer for it than it could win.
        Once somebody waited in vain nobody else does, until one of the faster answers again.
        """
        pool = seat.pool
        if waiter.selector is not None or seat.samples < WELL_KNOWN or not pool.has_faster_busy(seat.bucket):
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


def _suiting(seat: Seat) -> Callable[[Waiter], bool]:
    agent_id = seat.agent_id
    return lambda waiter: agent_id not in waiter.tried and suits(seat, waiter.task)


def _decide(waiter: Waiter, refusal: Unscheduled) -> None:
    if waiter.is_waiting:
        waiter.seat_future.set_result(refusal)
