"""Agents as the scheduler sees them: their slots, and per capability who is free, in buckets by speed.

Whoever is open, cooling, draining, set aside, offline or full is not among the free: nothing is ever scanned past it.
"""

import heapq
import math
from collections.abc import Callable

from aicp.model.agent import AgentProfile, Capability
from aicp.registry.leases import Liveness
from aicp.registry.naming import offered_key
from aicp.scheduling.latency import BUCKETS, LAST_RESORT, bucket_of

LOOKS_MAX = 8
OUTDATED_KEPT_MAX = 64
NOWHERE = -1


class Seat:
    """One agent at one capability.

    Attributes:
        member: The agent.
        key: The capability's.
        declared: What the agent says of it.
        latency_s: Smoothed seconds of its successes, 0 while unmeasured.
        why_out: Why it may not be used, empty when it may; being full is no such reason.
        ready_at: When it may be used again, monotonic seconds; infinite when only a command brings it back.
        is_fragile: True when its circuit has to be asked after every use.
        set_aside: True when the agent turned out not to be configured for this capability.
        bucket: Where it lies among the free, NOWHERE when it does not.
        place: Its index there.
    """

    __slots__ = (
        "bucket", "declared", "is_fragile", "key", "latency_s", "member", "place", "ready_at", "set_aside", "why_out",
    )  # fmt: skip

    def __init__(self, member: "Member", declared: Capability) -> None:
        self.member = member
        self.key = offered_key(declared)
        self.declared = declared
        self.latency_s = 0.0
        self.why_out = ""
        self.ready_at = 0.0
        self.is_fragile = False
        self.set_aside = False
        self.bucket = NOWHERE
        self.place = 0


class Member:
    """One agent of the fleet.

    Attributes:
        profile: As registered.
        seats: By capability key.
        slots: How many tasks it takes at a time.
        taken: How many it has.
        draining: True when it gets no new ones.
        set_aside: True when the agent as a whole turned out to be misconfigured.
        liveness: Unheard members are a last resort, offline ones are out.
        cool_down_s: The last guessed cool-down, 0 after a success.
        successes: Attempts that succeeded, since it registered first.
        failures: Attempts that ended TASK_FAILED, AGENT_FAULT or UNAVAILABLE.
    """

    __slots__ = (
        "cool_down_s", "draining", "failures", "liveness", "profile", "seats", "set_aside", "slots", "successes",
        "taken",
    )  # fmt: skip

    def __init__(self, profile: AgentProfile) -> None:
        self.profile = profile
        self.slots = profile.max_concurrent_tasks
        self.taken = 0
        self.draining = False
        self.set_aside = False
        self.liveness = Liveness.HEARD
        self.cool_down_s = 0.0
        self.successes = self.failures = 0
        self.seats = {offered_key(declared): Seat(self, declared) for declared in profile.capabilities}

    def become(self, profile: AgentProfile) -> None:
        """Take over what a new registration says; the speed of what it still offers stays known."""
        old_seats = self.seats
        self.profile = profile
        self.slots = profile.max_concurrent_tasks
        self.draining = self.set_aside = False
        self.seats = {offered_key(declared): Seat(self, declared) for declared in profile.capabilities}
        for key in self.seats.keys() & old_seats.keys():
            self.seats[key].latency_s = old_seats[key].latency_s


class Pool:
    """Everybody who offers one capability, and the free among them by speed.

    Attributes:
        seats: All, by agent id.
        out: How many of them may not be used.
        is_known_out: True when it was told that nobody may be used.
    """

    __slots__ = ("_buckets", "_occupied", "_returns", "is_known_out", "out", "seats")

    def __init__(self) -> None:
        self.seats: dict[str, Seat] = {}
        self.out = 0
        self.is_known_out = False
        self._buckets: list[list[Seat] | None] = [None] * BUCKETS
        self._occupied = 0
        self._returns: list[tuple[float, str]] = []

    @property
    def usable(self) -> int:
        """How many may be used, free or busy."""
        return len(self.seats) - self.out

    @property
    def free(self) -> int:
        """How many have a slot now."""
        return sum(len(bucket) for bucket in self._buckets if bucket)

    def find(self, fits: Callable[[Seat], bool]) -> Seat | None:
        """A free seat that fits, of the fastest bucket that has one; all of the free are looked at."""
        return next((seat for row in self._buckets if row for seat in row if fits(seat)), None)

    def put(self, seat: Seat) -> None:
        """Put a seat among the free, into the bucket of its speed."""
        bucket = LAST_RESORT if seat.member.liveness is Liveness.UNHEARD else bucket_of(seat.latency_s)
        if seat.bucket == bucket:
            return
        self.take(seat)
        row = self._buckets[bucket]
        if row is None:
            row = self._buckets[bucket] = []
        seat.bucket, seat.place = bucket, len(row)
        row.append(seat)
        self._occupied |= 1 << bucket

    def take(self, seat: Seat) -> None:
        """Take a seat from among the free; the last of its bucket fills the gap."""
        if seat.bucket == NOWHERE:
            return
        row = self._buckets[seat.bucket] or []
        last = row.pop()
        if last is not seat:
            row[seat.place] = last
            last.place = seat.place
        if not row:
            self._occupied &= ~(1 << seat.bucket)
        seat.bucket = NOWHERE

    def expect(self, seat: Seat) -> None:
        """Remember when a seat that went out may be used again."""
        if seat.ready_at < math.inf:
            self._drop_outdated()
            heapq.heappush(self._returns, (seat.ready_at, seat.member.profile.agent_id))
            if len(self._returns) > 2 * len(self.seats) + OUTDATED_KEPT_MAX:
                self._keep_one_each()

    def first_return(self) -> float:
        """When the first of those that are out may be used again, monotonic seconds; infinite when nobody knows."""
        self._drop_outdated()
        return self._returns[0][0] if self._returns else math.inf

    def _drop_outdated(self) -> None:
        while self._returns:
            ready_at, agent_id = self._returns[0]
            seat = self.seats.get(agent_id)
            if seat is not None and seat.why_out and seat.ready_at == ready_at:
                return
            heapq.heappop(self._returns)

    def _keep_one_each(self) -> None:
        """Outdated entries behind somebody who rests long are still in the heap; at least half of it goes."""
        expected = ((seat.ready_at, agent_id) for agent_id, seat in self.seats.items() if seat.why_out)
        self._returns = [entry for entry in expected if entry[0] < math.inf]
        heapq.heapify(self._returns)

    def forget(self, seat: Seat) -> None:
        """The agent no longer offers the capability."""
        self.take(seat)
        self.out -= bool(seat.why_out)
        del self.seats[seat.member.profile.agent_id]

    def pick(self, draw: Callable[[], float], fits: Callable[[Seat], bool] | None = None) -> Seat | None:
        """Of two random free seats of the fastest bucket the faster one.

        Args:
            draw: Uniform in [0, 1).
            fits: Who may be picked; then at most eight of each bucket are looked at.
        """
        occupied = self._occupied
        while occupied:
            lowest = occupied & -occupied
            row = self._buckets[lowest.bit_length() - 1] or []
            seat = _pick_two(row, draw) if fits is None else _pick_fitting(row, draw, fits)
            if seat is not None:
                return seat
            occupied ^= lowest
        return None


def _pick_two(row: list[Seat], draw: Callable[[], float]) -> Seat:
    if len(row) == 1:
        return row[0]
    one, other = row[int(draw() * len(row))], row[int(draw() * len(row))]
    return one if one.latency_s <= other.latency_s else other


def _pick_fitting(row: list[Seat], draw: Callable[[], float], fits: Callable[[Seat], bool]) -> Seat | None:
    start = int(draw() * len(row))
    for step in range(min(LOOKS_MAX, len(row))):
        seat = row[(start + step) % len(row)]
        if fits(seat):
            return seat
    return None
