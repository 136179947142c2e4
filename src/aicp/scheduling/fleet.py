"""Agents as the scheduler sees them: their slots, and for each capability and tenant who is free, in buckets by speed.

Whoever is open, cooling, draining, set aside, offline, silent or full is not among the free: nothing is ever scanned
past it. There may be millions: what is rare or can be derived is not kept for each.
"""

import heapq
import math
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator

from aicp import standstill
from aicp.model.agent import AgentProfile, Capability
from aicp.registry.leases import Liveness
from aicp.scheduling.input_schemas import InputSchemas
from aicp.scheduling.latency import (
    FADES_AFTER_S,
    LAST_RESORT,
    POOL_SAMPLES_MAX,
    SAMPLES_MAX,
    averaged,
    bucket_of,
    faded,
    latency_of,
    smoothed,
)
from aicp.scheduling.selection import Selection

SELECTIONS_MAX = 64
DECISIONS_A_LOOK = 8
OUTDATED_KEPT_MAX = 64
SILENT_AFTER_LATENCIES = 4.0
NOWHERE = -1
ON_TRIAL = -math.inf
LONG_AGO = -sys.float_info.max

Labels = frozenset[tuple[str, str]]


class Standing:
    """Whether an agent may be used for a capability.

    Attributes:
        why_out: Why it may not, empty when it may; being full is no such reason.
        ready_at: When it may again, monotonic seconds; infinite when only a command brings it back.
        is_fragile: True when its circuit has to be asked after every use.
    """

    __slots__ = ("is_fragile", "ready_at", "why_out")

    def __init__(self, why_out: str, ready_at: float, *, is_fragile: bool = False) -> None:
        self.why_out = why_out
        self.ready_at = ready_at
        self.is_fragile = is_fragile


FINE = Standing("", 0.0)
FRAGILE = Standing("", 0.0, is_fragile=True)


class Seat:
    """One agent at one capability.

    Attributes:
        member: The agent.
        pool: All who offer the capability to the same tenants.
        declared: What the agent says of it.
        latency_s: Smoothed seconds of its successes, 0 while unmeasured.
        samples: How many successes that rests on, at most 20.
        measured_at: When the last of them was, monotonic seconds.
        standing: Whether it may be used.
        bucket: Where it lies among the free of its pool, NOWHERE when it does not.
        place: Its index there.
        rank: Its index among all of its pool.
        next: The agent's next seat.
    """

    __slots__ = (
        "bucket", "declared", "latency_s", "measured_at", "member", "next", "place", "pool", "rank", "samples",
        "standing",
    )  # fmt: skip

    def __init__(self, member: "Member", declared: Capability, pool: "Pool") -> None:
        self.member = member
        self.pool = pool
        self.declared = declared
        self.latency_s = 0.0
        self.samples = 0
        self.measured_at = 0.0
        self.standing = FINE
        self.bucket = NOWHERE
        self.place = self.rank = 0
        self.next: Seat | None = None

    @property
    def key(self) -> str:
        """The capability's key."""
        return self.pool.key

    @property
    def agent_id(self) -> str:
        """The agent's id."""
        return self.member.profile.agent_id

    @property
    def why_out(self) -> str:
        """Why it may not be used, empty when it may; being full is no such reason."""
        return self.standing.why_out

    def estimate_s(self, now: float) -> float:
        """How long it would take for a task; what its pool usually takes while unmeasured, 0 when nobody knows."""
        return faded(self.latency_s, now - self.measured_at, self.pool.latency_s)

    def learn(self, elapsed_s: float, now: float) -> None:
        """It succeeded."""
        self.latency_s = smoothed(self.latency_s, elapsed_s, self.samples)
        self.samples += self.samples < SAMPLES_MAX
        self.measured_at = now
        self.pool.learn(elapsed_s)

    def take_over(self, older: "Seat") -> None:
        """It is the same agent, registered anew: its speed stays known."""
        self.latency_s, self.samples, self.measured_at = older.latency_s, older.samples, older.measured_at


class Member:
    """One agent of the fleet.

    Attributes:
        profile: As registered.
        slots: How many tasks it takes at a time.
        taken: How many it has.
        successes: Attempts that succeeded, since it registered first.
        failures: Attempts that ended TASK_FAILED, AGENT_FAULT or UNAVAILABLE.
        quiet_since: When it answered last, or got the first of what it has, monotonic seconds; `ON_TRIAL` when it was
            silent and got one more task.
        trouble: What is unusual about it.
        first: The first of its seats.
    """

    __slots__ = ("failures", "first", "profile", "quiet_since", "slots", "successes", "taken", "trouble")

    def __init__(self, profile: AgentProfile) -> None:
        self.profile = profile
        self.slots = profile.max_concurrent_tasks
        self.taken = 0
        self.successes = self.failures = 0
        self.quiet_since = 0.0
        self.trouble = NO_TROUBLE
        self.first: Seat | None = None

    def __iter__(self) -> Iterator[Seat]:
        """Its seats."""
        seat = self.first
        while seat is not None:
            yield seat
            seat = seat.next

    def seat(self, key: str) -> Seat | None:
        """Its seat at a capability."""
        return next((seat for seat in self if seat.pool.key == key), None)

    @property
    def seats(self) -> dict[str, Seat]:
        """Its seats by capability key, made anew."""
        return {seat.key: seat for seat in self}

    @property
    def liveness(self) -> Liveness:
        """How sure we are that it is there."""
        return self.trouble.liveness

    @property
    def is_gone(self) -> bool:
        """True when it was removed."""
        return self.first is None

    @property
    def is_fine(self) -> bool:
        """True when nothing stands against using any of its seats."""
        seat = self.first
        while seat is not None:
            if seat.standing is not FINE:
                return False
            seat = seat.next
        return True

    def is_silent(self, now: float) -> bool:
        """True while it has tasks and has answered nothing for four times what it usually takes.

        Nothing is expected in time of whom nobody knows.
        """
        if not self.taken:
            return False
        slowest_s = max([seat.latency_s or math.inf for seat in self], default=math.inf)
        silent_after_s = SILENT_AFTER_LATENCIES * slowest_s
        quiet_s = now - self.quiet_since
        # What it answered while this process stood still lies unread.
        return quiet_s > silent_after_s and quiet_s - standstill.since(self.quiet_since) > silent_after_s

    def is_last_resort(self, now: float) -> bool:
        """True when others are better whatever their speed: it is unheard, or silent."""
        return self.trouble.liveness is Liveness.UNHEARD or (self.taken > 0 and self.is_silent(now))

    @property
    def has_room(self) -> bool:
        """True when it may get one more task; a silent agent gets one at a time."""
        return self.taken < self.slots and (self.quiet_since != ON_TRIAL or not self.taken)

    def end_trial(self) -> None:
        """A task of it ended without an answer: when it was silent, it may be tried with another one."""
        if self.quiet_since == ON_TRIAL:
            self.quiet_since = LONG_AGO

    def renew(self) -> None:
        """It registered again: it is neither draining nor set aside."""
        self.trouble.forgive()
        self.trouble.is_draining = False

    def trouble_of_its_own(self) -> "Trouble":
        """Where to write what is unusual about it."""
        if self.trouble is NO_TROUBLE:
            self.trouble = Trouble()
        return self.trouble


class Trouble:
    """What is unusual about an agent.

    Attributes:
        is_draining: It gets no new tasks.
        is_set_aside: It turned out to be misconfigured as a whole.
        set_aside_keys: Capabilities it turned out not to be configured for, and what showed that.
        set_aside_because: What showed that it is misconfigured as a whole.
        liveness: Unheard agents are a last resort, offline ones are out.
        cool_down_s: The last guessed cool-down, 0 after a success.
    """

    __slots__ = ("cool_down_s", "is_draining", "is_set_aside", "liveness", "set_aside_because", "set_aside_keys")

    def __init__(self) -> None:
        self.is_draining = self.is_set_aside = False
        self.set_aside_because = ""
        self.set_aside_keys: dict[str, str] = {}
        self.liveness = Liveness.HEARD
        self.cool_down_s = 0.0

    @property
    def was_set_aside(self) -> bool:
        """True when it is set aside, as a whole or for a capability."""
        return self.is_set_aside or bool(self.set_aside_keys)

    def why_aside(self, key: str) -> str:
        """What showed that it is misconfigured, as a whole or for a capability; empty when nothing did."""
        return self.set_aside_because or self.set_aside_keys.get(key, "")

    def forgive(self) -> None:
        """Forget that it was set aside or asked for a rest."""
        self.is_set_aside = False
        self.set_aside_because = ""
        self.set_aside_keys.clear()
        self.cool_down_s = 0.0


NO_TROUBLE = Trouble()


class Pool:
    """Everybody who offers one capability to the same tenants, and the free among them by speed.

    Attributes:
        key: The capability's.
        tenant: Whom they serve; None for everybody.
        seats: All of them, in no order.
        out: How many of them may not be used.
        slots: How many tasks those who may be used take at a time.
        latency_s: Smoothed seconds of all successes here, as of a seat; 0 while there were none.
        mean_s: Their arithmetic mean, which is what a queue is drained by.
        samples: How many successes these rest on, at most 500.
        is_known_out: True when it was told that nobody may be used.
        in_vain_at: When a task was last held as long as that pays, for faster agents that did not end theirs.
        input_schemas: What they want to be given.
    """

    __slots__ = (
        "_answered_at",
        "_busy",
        "_busy_mask",
        "_free_mask",
        "_hand",
        "_returns",
        "_rows",
        "_selections",
        "in_vain_at",
        "input_schemas",
        "is_known_out",
        "key",
        "latency_s",
        "mean_s",
        "out",
        "samples",
        "seats",
        "slots",
        "tenant",
    )  # fmt: skip

    def __init__(self, key: str, tenant: str | None = None) -> None:
        self.key = key
        self.tenant = tenant
        self.seats: list[Seat] = []
        self.out = 0
        self.slots = 0
        self.latency_s = self.mean_s = 0.0
        self.samples = 0
        self.is_known_out = False
        self.in_vain_at = -math.inf
        self._rows: dict[int, list[Seat]] = {}
        self._free_mask = 0
        self._answered_at: dict[int, float] = {}
        self._busy: dict[int, int] = {}
        self._busy_mask = 0
        self._hand = 0
        self._returns: list[tuple[float, int, Seat]] = []
        self._selections: OrderedDict[Labels, Selection[Seat]] = OrderedDict()
        self.input_schemas = InputSchemas()

    @property
    def usable(self) -> int:
        """How many may be used, free or busy."""
        return len(self.seats) - self.out

    @property
    def free(self) -> int:
        """How many have a slot now."""
        return sum(map(len, self._rows.values()))

    @property
    def has_free(self) -> bool:
        """True when somebody has a slot now."""
        return bool(self._free_mask)

    @property
    def tasks_per_s(self) -> float:
        """How many tasks they get done in a second when all are busy; 0 when nobody knows."""
        return self.slots / self.mean_s if self.mean_s else 0.0

    def learn(self, elapsed_s: float) -> None:
        """One of them succeeded."""
        self.latency_s = smoothed(self.latency_s, elapsed_s, self.samples)
        self.mean_s = averaged(self.mean_s, elapsed_s, self.samples)
        self.samples += self.samples < POOL_SAMPLES_MAX

    def join(self, seat: Seat) -> None:
        """The agent offers the capability; it is not among the free yet."""
        seat.rank = len(self.seats)
        self.seats.append(seat)
        self.slots += seat.member.slots
        self.input_schemas.add(seat.declared.input_schema)
        for labels, selection in self._selections.items():
            if labels <= seat.member.profile.labels.items():
                selection.add(seat)

    def leave(self, seat: Seat) -> None:
        """The agent no longer offers the capability, or not as it did."""
        self.take(seat)
        self.judge(seat, FINE)
        for selection in self._selections.values():
            selection.forget(seat)
        self.slots -= seat.member.slots
        self.input_schemas.discard(seat.declared.input_schema)
        last = self.seats.pop()
        if last is not seat:
            self.seats[seat.rank] = last
            last.rank = seat.rank

    def resize(self, seat: Seat, slots: int) -> None:
        """The agent is going to take so many tasks at a time."""
        if not seat.why_out:
            self.slots += slots - seat.member.slots

    def judge(self, seat: Seat, standing: Standing) -> None:
        """Whether it may be used was found out anew."""
        gone = bool(standing.why_out) - bool(seat.why_out)
        seat.standing = standing
        if gone:
            self.out += gone
            self.slots -= gone * seat.member.slots
            for selection in self._selections.values():
                selection.out += gone * (seat in selection)
        if standing.why_out and standing.ready_at < math.inf:
            self._expect(seat)

    def put(self, seat: Seat, now: float) -> None:
        """Put a seat among the free, into the bucket of its speed."""
        bucket = LAST_RESORT if seat.member.is_last_resort(now) else bucket_of(seat.estimate_s(now))
        if seat.bucket == bucket:
            return
        self.take(seat)
        row = self._rows.get(bucket)
        if row is None:
            row = self._rows[bucket] = []
            self._free_mask |= 1 << bucket
        seat.bucket, seat.place = bucket, len(row)
        row.append(seat)
        if self._selections:
            self._put_into_selections(seat)

    def take(self, seat: Seat) -> None:
        """Take a seat from among the free; the last of its bucket fills the gap."""
        bucket = seat.bucket
        if bucket == NOWHERE:
            return
        row = self._rows[bucket]
        last = row.pop()
        if last is not seat:
            row[seat.place] = last
            last.place = seat.place
        if not row:
            del self._rows[bucket]
            self._free_mask &= ~(1 << bucket)
        seat.bucket = NOWHERE
        for selection in self._selections.values():
            selection.take(seat)

    def pick(self, draw: Callable[[], float]) -> Seat | None:
        """Of two random free seats of the fastest bucket the faster one.

        Args:
            draw: Uniform in [0, 1).
        """
        mask = self._free_mask
        if not mask:
            return None
        row = self._rows[(mask & -mask).bit_length() - 1]
        if len(row) == 1:
            return row[0]
        one, other = row[int(draw() * len(row))], row[int(draw() * len(row))]
        return one if one.latency_s <= other.latency_s else other

    def pick_besides(self, left_out: Collection[str], draw: Callable[[], float]) -> Seat | None:
        """The same, but for some agents; looks at one seat of a bucket more than there are of those."""
        mask = self._free_mask
        while mask:
            lowest = mask & -mask
            row = self._rows[lowest.bit_length() - 1]
            start = int(draw() * len(row))
            for step in range(min(len(left_out) + 1, len(row))):
                seat = row[(start + step) % len(row)]
                if seat.agent_id not in left_out:
                    return seat
            mask ^= lowest
        return None

    def selection(self, labels: Labels) -> Selection[Seat]:
        """Those who carry these labels.

        A selection asked for the first time costs a look at everybody; the 64 last used are kept up to date.
        """
        selection = self._selections.get(labels)
        if selection is None:
            selection = self._selections[labels] = self._select(labels)
            if len(self._selections) > SELECTIONS_MAX:
                self._selections.popitem(last=False)
        else:
            self._selections.move_to_end(labels)
        return selection

    def began(self, bucket: int) -> None:
        """A seat of that speed got a task."""
        self._busy[bucket] = self._busy.get(bucket, 0) + 1
        self._busy_mask |= 1 << bucket

    def ended(self, bucket: int) -> None:
        """It gave it back."""
        left = self._busy[bucket] - 1
        self._busy[bucket] = left
        if not left:
            del self._busy[bucket]
            self._busy_mask &= ~(1 << bucket)

    def answered(self, bucket: int, now: float) -> None:
        """A seat of that speed answered."""
        self._answered_at[bucket] = now

    def answered_at(self, bucket: int) -> float:
        """When a seat faster than that answered last, monotonic seconds; minus infinity when none did."""
        return max((at for other, at in self._answered_at.items() if other < bucket), default=-math.inf)

    def has_faster_busy(self, bucket: int) -> bool:
        """True when agents faster than that have tasks."""
        return bool(self._busy_mask & ((1 << bucket) - 1))

    def faster_busy(self, seat: Seat) -> tuple[int, float]:
        """About how many tasks agents faster than this one have, and how many of them they end in a second."""
        tasks, tasks_per_s = 0, 0.0
        for bucket, count in self._busy.items():
            if bucket < seat.bucket:
                tasks += count
                tasks_per_s += count / latency_of(bucket)
        # It may have been faster itself when it got what it has.
        others = max(0, tasks - seat.member.taken)
        return others, tasks_per_s * others / tasks if tasks else 0.0

    def freshen(self, now: float) -> None:
        """At every eighth decision move the next seat, if it is free, to where its fading estimate puts it."""
        self._hand += 1
        if self._hand % DECISIONS_A_LOOK or not self.seats:
            return
        seat = self.seats[self._hand // DECISIONS_A_LOOK % len(self.seats)]
        if seat.bucket != NOWHERE and (not seat.latency_s or now - seat.measured_at > FADES_AFTER_S):
            self.put(seat, now)

    def first_return(self) -> float:
        """When the first of those that are out may be used again, monotonic seconds; infinite when nobody knows."""
        while self._returns:
            ready_at, _, seat = self._returns[0]
            if self._is_awaited(seat, ready_at):
                return ready_at
            heapq.heappop(self._returns)
        return math.inf

    def _expect(self, seat: Seat) -> None:
        heapq.heappush(self._returns, (seat.standing.ready_at, id(seat), seat))
        if len(self._returns) > 2 * len(self.seats) + OUTDATED_KEPT_MAX:
            awaited = [seat for seat in self.seats if seat.why_out and seat.standing.ready_at < math.inf]
            self._returns = [(seat.standing.ready_at, id(seat), seat) for seat in awaited]
            heapq.heapify(self._returns)

    def _is_awaited(self, seat: Seat, ready_at: float) -> bool:
        is_here = seat.rank < len(self.seats) and self.seats[seat.rank] is seat
        return is_here and bool(seat.why_out) and seat.standing.ready_at == ready_at

    def _select(self, labels: Labels) -> Selection[Seat]:
        selection = Selection[Seat]()
        for seat in self.seats:
            if labels <= seat.member.profile.labels.items():
                selection.add(seat)
                selection.out += bool(seat.why_out)
                if seat.bucket != NOWHERE:
                    selection.put(seat, seat.bucket)
        return selection

    def _put_into_selections(self, seat: Seat) -> None:
        for selection in self._selections.values():
            if seat in selection:
                selection.put(seat, seat.bucket)


class Fleet:
    """Everybody who offers one capability: the agents of each tenant, and those who serve every tenant.

    Attributes:
        key: The capability's.
        own: Pools by tenant; one that was offered once stays, empty.
        shared: The pool that is looked at second.
        refused: Submits and direct calls that were refused because the wait would have been too long, by tenant.
    """

    __slots__ = ("key", "own", "refused", "shared")

    def __init__(self, key: str) -> None:
        self.key = key
        self.own: dict[str, Pool] = {}
        self.shared: Pool | None = None
        self.refused = Counter[str]()

    def pool_for(self, profile: AgentProfile) -> Pool:
        """Where an agent belongs; made when it is the first of its kind."""
        if profile.shared:
            self.shared = self.shared or Pool(self.key)
            return self.shared
        return self.own.setdefault(profile.tenant, Pool(self.key, profile.tenant))

    def pools(self, tenant: str) -> list[Pool]:
        """Who may work for a tenant: its own agents, then those of everybody."""
        own = self.own.get(tenant)
        return [pool for pool in (own, self.shared) if pool is not None]

    def all_pools(self) -> list[Pool]:
        """Every pool."""
        return [*self.own.values(), *([self.shared] if self.shared is not None else [])]

    def pick(self, tenant: str, draw: Callable[[], float]) -> Seat | None:
        """A free seat of the tenant's own agents, else of those who serve everybody."""
        own = self.own.get(tenant)
        seat = own.pick(draw) if own is not None else None
        return self.shared.pick(draw) if seat is None and self.shared is not None else seat

    @property
    def has_agents(self) -> bool:
        """True when somebody offers the capability."""
        return any(pool.seats for pool in self.all_pools())

    def is_out(self, tenant: str | None = None) -> bool:
        """True when somebody offers the capability, to a tenant or at all, and nobody may be used for it."""
        pools = self.all_pools() if tenant is None else self.pools(tenant)
        return any(pool.seats for pool in pools) and not any(pool.usable for pool in pools)
