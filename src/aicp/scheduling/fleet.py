"""Agents as the scheduler sees them: their slots, and for each capability and tenant which are free, by speed.

Whatever is open, cooling, draining, set aside, offline or full is not among the free: nothing is ever scanned past it.
There may be millions: what is rare or can be derived is not kept for each.
"""

import itertools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from aicp import standstill
from aicp.model.agent import AgentProfile, Capability
from aicp.model.task import DEFAULT_ATTEMPT_TIMEOUT_S, Priority
from aicp.registry.leases import Liveness
from aicp.scheduling.arrivals import Arrivals
from aicp.scheduling.heap import Heap
from aicp.scheduling.input_schemas import InputSchemas
from aicp.scheduling.latency import (
    FADES_AFTER_S,
    LAST_RESORT,
    POOL_SAMPLES_MAX,
    SAMPLES_MAX,
    SLOWER_MAX,
    UNKNOWN_S,
    averaged,
    bucket_of,
    faded,
    latency_of,
    smoothed,
    with_timeout,
)
from aicp.scheduling.rows import ALIKE, MEASURED_SAMPLES, Posting, Row, shared_number
from aicp.scheduling.trouble import FINE, NO_TROUBLE, Standing, Trouble
from aicp.scheduling.turns import Order

DECISIONS_A_LOOK = 8
LOOKS = 8
SILENT_AFTER_LATENCIES = FAIR_LATENCIES = 4.0
TOLERANCE_S = 0.001
EXPLORED_EVERY = 50
EXPLORED_KEPT_MAX = 16
NOWHERE = -1
ON_TRIAL = -math.inf
LONG_AGO = -sys.float_info.max
SEATS_SCANNED_MAX = 8
AT_ONCE = 4
"""How many seats of an agent with more of them follow at once when its slots are all taken, or one is free again."""

Label = tuple[str, str]
Labels = frozenset[Label]


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
        older: The seat there that was used right before it.
        newer: The seat there that was used right after it.
        rank: Its index among all of its pool.
        next: The agent's next seat.
    """

    __slots__ = (
        "bucket", "declared", "latency_s", "measured_at", "member", "newer", "next", "older", "place", "pool", "rank",
        "samples", "standing",
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
        self.older: Seat | None = None
        self.newer: Seat | None = None
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

    @property
    def fair_time_s(self) -> float:
        """How long an attempt must have had before its timeout says something about the agent, in seconds."""
        declared_s = self.declared.timeout_s or DEFAULT_ATTEMPT_TIMEOUT_S
        return min(declared_s, FAIR_LATENCIES * self.latency_s) if self.latency_s else declared_s

    def estimate_s(self, now: float) -> float:
        """How long it would take for a task, in seconds; 0 when that is unknown.

        Of fewer than 5 successes that is what its pool usually takes, and more after timeouts.
        """
        if self.samples < MEASURED_SAMPLES:
            return self._assumed_s() if self.member.trouble.slower else self.pool.latency_s
        return faded(self.latency_s, now - self.measured_at, self.pool.latency_s)

    def _assumed_s(self) -> float:
        slower = self.member.trouble.slower.get(self.pool.key, 1.0)
        return self.pool.latency_s if slower == 1.0 else slower * (self.pool.latency_s or UNKNOWN_S)

    def time_out(self, elapsed_s: float, now: float) -> None:
        """An attempt had no answer for so long: until it answers, the agent gets one task at a time.

        What is measured does not change by a timeout below fair time.
        """
        if self.samples >= MEASURED_SAMPLES:
            if elapsed_s < self.fair_time_s - TOLERANCE_S:
                return
            self.latency_s, self.measured_at = with_timeout(self.latency_s, elapsed_s), now
        else:
            slower = self.member.trouble_of_its_own().slower
            slower[self.pool.key] = min(SLOWER_MAX, 2 * slower.get(self.pool.key, 1.0))
        self.member.trouble_of_its_own().timed_out = True

    def learn(self, elapsed_s: float, now: float) -> None:
        """It succeeded."""
        self.latency_s = smoothed(self.latency_s, elapsed_s, self.samples)
        self.samples += self.samples < SAMPLES_MAX
        self.measured_at = now
        self.pool.learn(elapsed_s)
        if self.member.trouble.slower:
            self.member.trouble.slower.pop(self.pool.key, None)

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
        quiet_since: When it answered last, or got the first of what it has, monotonic seconds; `ON_TRIAL` when it was
            silent and got one more task.
        trouble: What is unusual about it.
        first: The first of its seats.
        slowest: Of the seats that have its tasks, the one that is expected to take longest.
    """

    __slots__ = ("first", "profile", "quiet_since", "slots", "slowest", "successes", "taken", "trouble")

    def __init__(self, profile: AgentProfile) -> None:
        self.profile = profile
        self.slots = profile.max_concurrent_tasks
        self.taken = 0
        self.successes = 0
        self.quiet_since = 0.0
        self.trouble = NO_TROUBLE
        self.first: Seat | None = None
        self.slowest: Seat | None = None

    def __iter__(self) -> Iterator[Seat]:
        """Its seats."""
        seat = self.first
        while seat is not None:
            yield seat
            seat = seat.next

    def seat(self, key: str) -> Seat | None:
        """Its seat at a capability."""
        if self.trouble.by_key:
            return self.trouble.by_key.get(key)
        return next((seat for seat in self if seat.pool.key == key), None)

    def index(self) -> None:
        """Its seats changed: many are found by key."""
        is_many = sum(1 for _ in itertools.islice(self, SEATS_SCANNED_MAX + 1)) > SEATS_SCANNED_MAX
        if is_many or self.trouble.by_key:
            self.trouble_of_its_own().by_key = self.seats if is_many else {}

    @property
    def seats(self) -> dict[str, Seat]:
        """Its seats by capability key, made anew."""
        return {seat.key: seat for seat in self}

    @property
    def liveness(self) -> Liveness:
        """How sure we are that it is there."""
        return self.trouble.liveness

    @property
    def failures(self) -> int:
        """Attempts that ended TASK_FAILED, AGENT_FAULT or UNAVAILABLE, since it registered first."""
        return self.trouble.failures

    @property
    def is_gone(self) -> bool:
        """True when it was removed."""
        return self.first is None

    @property
    def is_fine(self) -> bool:
        """True when nothing stands against using any of its seats."""
        return not self.trouble.unfit

    def is_silent(self, now: float) -> bool:
        """True while it has tasks and has answered none for four times the longest that any of them should take.

        An agent that was never measured should take what is typical of the capability; where that is unknown too,
        nothing is expected of it in time.
        """
        if not self.taken or self.slowest is None:
            return False
        silent_after_s = SILENT_AFTER_LATENCIES * (self.slowest.estimate_s(now) or math.inf)
        quiet_s = now - self.quiet_since
        # What it answered while this process stood still lies unread.
        return quiet_s > silent_after_s and quiet_s - standstill.since(self.quiet_since) > silent_after_s

    def expect(self, seat: Seat, now: float) -> None:
        """It gets one more task, at this seat."""
        slowest = self.slowest
        if slowest is None:
            self.slowest = seat
        elif seat is not slowest and (slowest_s := slowest.estimate_s(now)):
            expected_s = seat.estimate_s(now)
            if not expected_s or expected_s > slowest_s:
                self.slowest = seat

    def is_last_resort(self, now: float) -> bool:
        """True when others are better whatever their speed: it is unheard, or silent."""
        return self.trouble.liveness is Liveness.UNHEARD or (self.taken > 0 and self.is_silent(now))

    @property
    def has_room(self) -> bool:
        """True when it may get one more task; one that is silent or timed out last gets one at a time."""
        if not self.taken:
            return self.slots > 0
        return self.taken < self.slots and self.quiet_since != ON_TRIAL and not self.trouble.timed_out

    def answer(self, now: float) -> None:
        """It answered, whatever it said."""
        self.quiet_since = now
        if self.trouble.timed_out:
            self.trouble.timed_out = False

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


class Pool:
    """All who offer one capability to the same tenants, and the free among them by speed.

    Attributes:
        key: The capability's.
        tenant: Whom they serve; None for all.
        seats: All of them, in no order.
        out: How many of them may not be used.
        refusing: How many of those answered that they do not do the capability.
        slots: How many tasks those that may be used take at a time.
        latency_s: Smoothed seconds of all successes here, as of a seat; 0 while there were none.
        mean_s: Their arithmetic mean, which is what a queue is drained by.
        samples: How many successes these rest on, at most 500.
        is_known_out: True when the observers know that none may be used.
        in_vain_at: When a task was last held as long as that pays, for faster agents that did not end theirs.
        arrivals: How many tasks came lately.
        order: What each priority, and each tenant, has had of its hand-overs.
        input_schemas: The input schemas that they declare.
    """

    __slots__ = (
        "_answered_at", "_busy", "_busy_mask", "_free_mask", "_hand", "_new", "_postings", "_returns", "_rows",
        "arrivals", "in_vain_at", "input_schemas", "is_known_out", "key", "latency_s", "mean_s", "order", "out",
        "refusing", "samples", "seats", "slots", "tenant",
    )  # fmt: skip

    def __init__(self, key: str, tenant: str | None = None) -> None:
        self.key = key
        self.tenant = tenant
        self.seats: list[Seat] = []
        self.out = self.refusing = 0
        self.slots = 0
        self.latency_s = self.mean_s = 0.0
        self.samples = 0
        self.is_known_out = False
        self.in_vain_at = -math.inf
        self.order = Order()
        self.arrivals = Arrivals()
        self._rows: dict[int, Row[Seat]] = {}
        self._free_mask = 0
        self._answered_at: dict[int, float] = {}
        self._busy: dict[int, int] = {}
        self._busy_mask = 0
        self._hand = 0
        self._new: dict[Seat, None] = {}
        self._returns = Heap[tuple[float, int, Seat]]()
        self._postings: dict[Label, Posting[Seat]] = {}
        self.input_schemas = InputSchemas()

    @property
    def usable(self) -> int:
        """How many may be used, free or busy."""
        return len(self.seats) - self.out

    @property
    def free(self) -> int:
        """How many have a slot now; of agents with more than four capabilities, those not known to have none."""
        return sum(map(len, self._rows.values()))

    @property
    def has_free(self) -> bool:
        """True when one has a slot now."""
        return self._fastest_row() is not None

    @property
    def busy(self) -> int:
        """How many tasks they have."""
        return sum(self._busy.values())

    @property
    def tasks_per_s(self) -> float:
        """How many tasks they get done in a second when all are busy; 0 when that is unknown."""
        return self.slots / self.mean_s if self.mean_s else 0.0

    def learn(self, elapsed_s: float) -> None:
        """One of them succeeded."""
        self.latency_s = smoothed(self.latency_s, elapsed_s, self.samples)
        self.mean_s = averaged(self.mean_s, elapsed_s, self.samples)
        self.samples += self.samples < POOL_SAMPLES_MAX

    def join(self, seat: Seat) -> None:
        """The agent offers the capability; it is not among the free yet."""
        seat.rank = shared_number(len(self.seats))
        self.seats.append(seat)
        self.slots += seat.member.slots
        self.input_schemas.add(seat.declared.input_schema)
        for label in seat.member.profile.labels.items():
            self._postings.setdefault(label, Posting()).seats[seat] = None

    def leave(self, seat: Seat) -> None:
        """The agent no longer offers the capability, or not as it did."""
        self.take(seat)
        self._new.pop(seat, None)
        self.judge(seat, FINE)
        for label in seat.member.profile.labels.items():
            posting = self._postings[label]
            del posting.seats[seat]
            if not posting.seats:
                del self._postings[label]
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
        unfit = (standing is not FINE) - (seat.standing is not FINE)
        self.refusing += standing.refuses - seat.standing.refuses
        is_known = bool(seat.why_out) and seat.standing.ready_at == standing.ready_at
        seat.standing = standing
        if unfit:
            seat.member.trouble_of_its_own().unfit += unfit
        if gone:
            self.out += gone
            self.slots -= gone * seat.member.slots
            for posting in self._postings_of(seat):
                posting.out += gone
        if standing.why_out and standing.ready_at < math.inf and not is_known:
            self._returns.push((standing.ready_at, id(seat), seat))
            self._returns.forget_gone(self.out, self._is_awaited)

    def put(self, seat: Seat, now: float) -> None:
        """Put a seat among the free, into the bucket of its speed."""
        bucket = LAST_RESORT if seat.member.is_last_resort(now) else bucket_of(seat.estimate_s(now))
        if seat.bucket == bucket:
            return
        self.take(seat)
        row = self._rows.get(bucket)
        if row is None:
            row = self._rows[bucket] = Row()
            self._free_mask |= 1 << bucket
        seat.bucket = bucket
        row.put(seat)
        if seat.samples < MEASURED_SAMPLES:
            self._note_new(seat)
        if seat.member.profile.labels:
            for posting in self._postings_of(seat):
                posting.put(seat, bucket)

    def take(self, seat: Seat) -> None:
        """Take a seat from among the free."""
        bucket = seat.bucket
        if bucket == NOWHERE:
            return
        row = self._rows[bucket]
        row.take(seat)
        if not row.seats:
            del self._rows[bucket]
            self._free_mask &= ~(1 << bucket)
        seat.bucket = NOWHERE
        if seat.member.profile.labels:
            for posting in self._postings_of(seat):
                posting.take(seat, bucket)

    def used(self, seat: Seat) -> None:
        """A free seat got a task and stays among the free: the others of its speed were used longer ago."""
        self._rows[seat.bucket].used(seat)

    def pick(self, draw: Callable[[], float]) -> Seat | None:
        """Of the fastest bucket the seat used longest ago, or a random one that is over 25 % faster.

        A seat of the next bucket that was used longer ago comes first where it is at most 25 % slower: equal agents
        at a border of buckets have equal shares. One hand-over in 50 goes to a seat that has fewer than 5 samples.

        Args:
            draw: Uniform in [0, 1).
        """
        if self._new and self._hand % EXPLORED_EVERY == EXPLORED_EVERY - 1 and (new := self._newcomer()) is not None:
            return new
        while mask := self._free_mask:
            lowest = mask & -mask
            seat = self._rows[lowest.bit_length() - 1].pick(draw)
            if not seat.member.has_room:
                self.park(seat)
            elif mask & lowest << 1:
                return self._or_next(seat, self._rows[lowest.bit_length()])
            else:
                return seat
        return None

    def pick_fitting(self, fits: Callable[[Seat], bool], draw: Callable[[], float]) -> Seat | None:
        """The first that fits of at most eight free seats, of the fastest bucket first."""
        looks, mask = LOOKS, self._free_mask
        while mask and looks:
            lowest = mask & -mask
            seats = self._rows[lowest.bit_length() - 1].seats
            start = int(draw() * len(seats))
            for step in range(min(looks, len(seats))):
                seat = seats[(start + step) % len(seats)]
                if seat.member.has_room and fits(seat):
                    return seat
                looks -= 1
            mask ^= lowest
        return None

    def free_seats(self) -> Iterator[Seat]:
        """All that are free, the fastest first."""
        return itertools.chain.from_iterable(list(self._rows[bucket].seats) for bucket in sorted(self._rows))

    def park(self, seat: Seat) -> None:
        """All slots of its agent turned out to be taken: take the seat from the free until one is not."""
        self.take(seat)
        seat.member.trouble_of_its_own().parked.append(seat)

    def carriers(self, label: Label) -> Posting[Seat]:
        """The seats that carry a label."""
        return self._postings.get(label) or Posting()

    def rarest(self, labels: Iterable[Label]) -> Label:
        """Of some labels the one that fewest carry."""
        return min(labels, key=lambda label: len(self.carriers(label).seats))

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
        if seat.bucket != NOWHERE and (seat.samples < MEASURED_SAMPLES or now - seat.measured_at > FADES_AFTER_S):
            self.put(seat, now)
        if seat.bucket != NOWHERE and seat.samples < MEASURED_SAMPLES:
            self._note_new(seat)

    def first_return(self) -> float:
        """When the first of those that are out may be used again, monotonic seconds; infinite when nobody knows."""
        while (entry := self._returns.first()) is not None:
            if self._is_awaited(entry):
                return entry[0]
            self._returns.pop()
        return math.inf

    def _is_awaited(self, entry: tuple[float, int, Seat]) -> bool:
        ready_at, _, seat = entry
        is_here = seat.rank < len(self.seats) and self.seats[seat.rank] is seat
        return is_here and bool(seat.why_out) and seat.standing.ready_at == ready_at

    def _or_next(self, seat: Seat, row: Row[Seat]) -> Seat:
        """The oldest of the next bucket when it was used longer ago, and is at most 25 % slower."""
        rival = row.oldest
        if rival is None:
            return seat
        is_alike = rival.samples >= MEASURED_SAMPLES and rival.latency_s <= ALIKE * seat.latency_s
        is_longer_idle = rival.member.quiet_since < seat.member.quiet_since
        return rival if is_alike and is_longer_idle and rival.member.has_room else seat

    def _newcomer(self) -> Seat | None:
        """A free seat with fewer than 5 samples, which is neither silent nor timed out last."""
        while self._new:
            seat = next(iter(self._new))
            del self._new[seat]
            is_sound = seat.bucket not in {NOWHERE, LAST_RESORT} and not seat.member.trouble.timed_out
            if seat.samples < MEASURED_SAMPLES and is_sound and seat.member.has_room:
                self._new[seat] = None
                return seat
        return None

    def _note_new(self, seat: Seat) -> None:
        if len(self._new) < EXPLORED_KEPT_MAX:
            self._new[seat] = None

    def _fastest_row(self) -> Row[Seat] | None:
        """The row of the fastest free seats; seats of agents that turn out to be full are taken out on the way."""
        while mask := self._free_mask:
            row = self._rows[(mask & -mask).bit_length() - 1]
            if row.seats[0].member.has_room:
                return row
            self.park(row.seats[0])
        return None

    def _postings_of(self, seat: Seat) -> Iterator[Posting[Seat]]:
        return (self._postings[label] for label in seat.member.profile.labels.items())


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

    def arrive(self, priority: Priority, tenant: str, now: float) -> None:
        """Count a task that came: at the agents of its tenant, where it has any, else at the shared ones."""
        pool = self.own.get(tenant)
        if pool is None or (not pool.seats and self.shared is not None):
            pool = self.shared
        if pool is not None:
            pool.arrivals.note(priority, now)

    def pools_of(self, tenant: str | None) -> list[Pool]:
        """Every pool, or those that may work for a tenant."""
        return self.all_pools() if tenant is None else self.pools(tenant)

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
        pools = self.pools_of(tenant)
        return any(pool.seats for pool in pools) and not any(pool.usable for pool in pools)
