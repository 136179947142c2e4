"""Who exists, by id and by capability, and which of them a task may go to."""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator

import msgspec

from aicp.errors import AgentNotFound, Fault, InvalidAgent
from aicp.model.agent import CAPABILITIES_MAX, DEFAULT_TENANT, SLOTS_MAX, AgentProfile
from aicp.model.task import Task
from aicp.registry.naming import offered_key, similar_name, wanted_key
from aicp.scheduling.fleet import LOOKS, NOWHERE, Fleet, Label, Member, Pool, Seat
from aicp.scheduling.input_schemas import Schema
from aicp.scheduling.rows import Posting
from aicp.scheduling.waiter import fitting

REASONS_MAX = 8
RETRY_AFTER_MIN_S = 0.05
RETRY_AFTER_MAX_S = 3_600.0
RETRY_SOON_S = 1.0
LOOKED_AT_MAX = 1_000
"""Agents that are looked at for a question about several labels at once; then the answer is the hopeful one."""
NOBODY: frozenset[str] = frozenset()


class Outage(msgspec.Struct, frozen=True):
    """Why a capability has nobody.

    Attributes:
        retry_after_s: Seconds until the first of its agents may be tried again, 0.05 s to an hour; a second when one
            may be tried now, since whoever asks has just done so.
        reasons: `<agent>: <why>`, at most eight.
    """

    retry_after_s: float
    reasons: tuple[str, ...]


class Totals(msgspec.Struct):
    """Agents of one tenant, or shared ones, and their slots."""

    agents: int = 0
    slots: int = 0


class Roster:
    """The agents, and a fleet for each capability that anybody ever offered.

    Attributes:
        members: By agent id.
        fleets: By capability key.
        totals: By tenant, None for agents that serve all.
        refused: Capability keys that an agent has refused at some time.
    """

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.fleets: dict[str, Fleet] = {}
        self.totals: dict[str | None, Totals] = {}
        self.refused: set[str] = set()

    def member(self, agent_id: str) -> Member:
        """The agent.

        Raises:
            AgentNotFound: There is none.
        """
        member = self.members.get(agent_id)
        if member is None:
            raise AgentNotFound(f"There is no agent '{agent_id[:128]}'.")
        return member

    def enrol(self, member: Member, profile: AgentProfile, slots: int) -> None:
        """Give a member the seats its profile asks for; of what it had, speed stays known and the rest goes."""
        old_seats = self.dismiss(member)
        member.profile = profile
        self._count(member, slots)
        for declared in reversed(profile.capabilities):
            key = offered_key(declared)
            fleet = self.fleets.get(key)
            if fleet is None:
                fleet = self.fleets[key] = Fleet(key)
            seat = Seat(member, declared, fleet.pool_for(profile))
            seat.next, member.first = member.first, seat
            if (old := old_seats.get(key)) is not None:
                seat.take_over(old)
            seat.pool.join(seat)
        member.index()

    def resize(self, member: Member, slots: int) -> None:
        """Let an agent have so many slots."""
        for seat in member:
            seat.pool.resize(seat, slots)
        self._totals_of(member).slots += slots - member.slots
        member.slots = slots

    def dismiss(self, member: Member) -> dict[str, Seat]:
        """Take its seats away, and return them by key."""
        seats = member.seats
        for seat in seats.values():
            seat.pool.leave(seat)
        if seats:
            totals = self._totals_of(member)
            totals.agents -= 1
            totals.slots -= member.slots
        member.first = member.slowest = None
        member.index()
        return seats

    def fleet(self, task: Task) -> Fleet | None:
        """Who offers what the task asks for, or did once."""
        return self.fleets.get(wanted_key(task.capability))

    def pools(self, task: Task, tenant: str) -> list[Pool]:
        """The pools a tenant's task may be served by, in the order to look at them."""
        fleet = self.fleet(task)
        return fleet.pools(tenant) if fleet is not None else []

    def knows(self, capability: str, tenant: str = DEFAULT_TENANT) -> bool:
        """True when somebody, present or gone, offered `name` or `name@major` to the tenant."""
        fleet = self.fleets.get(wanted_key(capability))
        return fleet is not None and bool(fleet.pools(tenant))

    def similar(self, capability: str, tenant: str = DEFAULT_TENANT) -> str:
        """A capability key that was offered to the tenant and is spelled like this one; empty when none is."""
        return similar_name(capability, self.fleets, lambda key: key in self.fleets and self.knows(key, tenant))

    def candidates(self, task: Task, tenant: str = DEFAULT_TENANT) -> Iterator[Seat]:
        """Every seat the task may go to, whether it may be used now or not."""
        return itertools.chain.from_iterable(self._in_pool(pool, task) for pool in self.pools(task, tenant))

    def carriers(self, key: str, label: Label, tenant: str) -> int:
        """How many agents that offer a capability to a tenant carry a label."""
        fleet = self.fleets.get(key)
        return sum(len(pool.carriers(label).seats) for pool in fleet.pools(tenant)) if fleet is not None else 0

    def has_candidate(self, task: Task, tenant: str = DEFAULT_TENANT) -> bool:
        """True when an agent offers what the task asks for; also when the first thousand with a label do not."""
        return any(self._usable_of(pool, task, NOBODY, and_out=True) for pool in self.pools(task, tenant))

    def input_schemas(self, task: Task, tenant: str) -> Iterator[Schema]:
        """What those whom the task may go to want to be given; each different schema once, where it names nobody."""
        if task.agents or task.exclude_agents or task.labels:
            return (seat.declared.input_schema for seat in self.candidates(task, tenant))
        return itertools.chain.from_iterable(pool.input_schemas for pool in self.pools(task, tenant))

    def usable_besides(self, task: Task, tenant: str, besides: Collection[str]) -> int:
        """How many agents may be used for the task, free or busy, leaving some out; costs the names in the task."""
        return sum(self._usable_of(pool, task, besides) for pool in self.pools(task, tenant))

    def is_refused(self, task: Task, tenant: str) -> bool:
        """True when an agent offers what the task asks for, and every one that does refuses the capability.

        False as well where the task asks for a label that more than a thousand agents carry, and some do not refuse.
        """
        pools = self.pools(task, tenant)
        if not any(pool.refusing for pool in pools):
            return False
        if all(pool.refusing == len(pool.seats) for pool in pools):
            return self.has_candidate(task, tenant)
        if not (task.agents or task.labels):
            return self._others_refuse(task, pools)
        if not task.agents and any(len(_carriers_of(pool, task)) > LOOKED_AT_MAX for pool in pools):
            return False
        seats = list(self.candidates(task, tenant))
        return bool(seats) and all(seat.standing.refuses for seat in seats)

    def refusals(self, task: Task, tenant: str) -> list[str]:
        """Which agents refuse the capability of a task, as `<agent>: <what it answered>`; at most eight."""
        seats = (seat for seat in self.candidates(task, tenant) if seat.standing.refuses)
        some = itertools.islice(seats, REASONS_MAX)
        return [f"{seat.agent_id}: {seat.member.trouble.why_aside(seat.key)}" for seat in some]

    def _others_refuse(self, task: Task, pools: list[Pool]) -> bool:
        """True when there are agents besides those that the task excludes, and all of them refuse the capability."""
        left_out = [seat for pool in pools for seat in self._named(pool, set(task.exclude_agents))]
        others = sum(len(pool.seats) for pool in pools) - len(left_out)
        refusing = sum(pool.refusing for pool in pools) - sum(seat.standing.refuses for seat in left_out)
        return refusing == others > 0

    def find_free(self, pool: Pool, task: Task, tried: frozenset[str], draw: Callable[[], float]) -> Seat | None:
        """A free seat of the pool that the task may have, a fast one of those looked at, which are at most eight."""
        if task.agents:
            return self._free_named(pool, task, tried, draw)
        fits = fitting(task, tried)
        if task.labels:
            return self._posting(pool, task).pick(lambda seat: seat.member.has_room and fits(seat), LOOKS)
        return pool.pick_fitting(fits, draw)

    def free_seats(self, pool: Pool, task: Task) -> Iterable[Seat]:
        """All free seats of a pool that may suit a task, to be looked at one by one."""
        if task.agents:
            return [seat for seat in self._named(pool, task.agents) if seat.bucket != NOWHERE]
        return list(self._posting(pool, task).free_seats() if task.labels else pool.free_seats())

    def outage(self, task: Task, tenant: str, now: float) -> Outage:
        """Who could do the task and why they may not be used now; at most eight agents are looked at."""
        looked_at = list(itertools.islice(self.candidates(task, tenant), REASONS_MAX))
        out = [seat for seat in looked_at if seat.why_out]
        reasons = tuple(f"{seat.agent_id}: {seat.why_out}" for seat in out)
        if self.usable_besides(task, tenant, NOBODY):
            return Outage(RETRY_SOON_S, reasons)
        wait_s = max(RETRY_AFTER_MIN_S, self._first_return(task, tenant, out) - now)
        return Outage(min(wait_s, RETRY_AFTER_MAX_S), reasons)

    def _first_return(self, task: Task, tenant: str, out: Iterable[Seat]) -> float:
        if task.agents or task.labels or task.exclude_agents:
            return min((seat.standing.ready_at for seat in out), default=math.inf)
        return min((pool.first_return() for pool in self.pools(task, tenant)), default=math.inf)

    def _free_named(self, pool: Pool, task: Task, tried: frozenset[str], draw: Callable[[], float]) -> Seat | None:
        names = task.agents
        start = int(draw() * len(names)) if len(names) > LOOKS else 0
        fits = fitting(task, tried, is_named=True)
        best: Seat | None = None
        for seat in self._named(pool, _some(names, start)):
            if seat.bucket != NOWHERE and seat.member.has_room and fits(seat):
                if best is not None and len(names) > LOOKS:
                    return min(best, seat, key=_by_speed)
                best = seat if best is None else min(best, seat, key=_by_speed)
        return best

    def _posting(self, pool: Pool, task: Task) -> Posting[Seat]:
        """Of the labels the task asks for those that carry the one that fewest free agents carry."""
        return min((pool.carriers(label) for label in task.labels.items()), key=_by_free)

    def _in_pool(self, pool: Pool, task: Task) -> Iterator[Seat]:
        seats: Iterable[Seat] = pool.seats
        if task.agents:
            seats = self._named(pool, task.agents)
        elif task.labels:
            seats = _carriers_of(pool, task)
        return filter(fitting(task), seats)

    def _named(self, pool: Pool, names: Iterable[str]) -> Iterator[Seat]:
        for name in names:
            member = self.members.get(name)
            seat = member.seat(pool.key) if member is not None else None
            if seat is not None and seat.pool is pool:
                yield seat

    def _usable_of(self, pool: Pool, task: Task, besides: Collection[str], *, and_out: bool = False) -> int:
        """How many may be used, or also how many are out; for names and several labels 1 stands for any number."""
        if task.agents or len(task.labels) > 1:
            return self._has_usable(pool, task, besides, and_out=and_out)
        left_out = self._named(pool, {*besides, *task.exclude_agents})
        if task.labels:
            (label,) = task.labels.items()
            posting = pool.carriers(label)
            usable = len(posting.seats) if and_out else posting.usable
            return usable - sum((and_out or not seat.why_out) and seat in posting.seats for seat in left_out)
        return (len(pool.seats) if and_out else pool.usable) - sum(and_out or not seat.why_out for seat in left_out)

    def _has_usable(self, pool: Pool, task: Task, besides: Collection[str], *, and_out: bool) -> bool:
        fits = fitting(task, frozenset(besides))
        seats: Iterable[Seat] = self._named(pool, task.agents)
        if not task.agents:
            seats = _carriers_of(pool, task)
            if len(seats) > LOOKED_AT_MAX:
                return True
        return any((and_out or not seat.why_out) and fits(seat) for seat in seats)

    def _count(self, member: Member, slots: int) -> None:
        member.slots = slots
        totals = self._totals_of(member)
        totals.agents += 1
        totals.slots += slots

    def _totals_of(self, member: Member) -> Totals:
        tenant = None if member.profile.shared else member.profile.tenant
        return self.totals.setdefault(tenant, Totals())


def check_profile(profile: AgentProfile) -> None:
    """Refuse what no scheduler can use; the directory checks the rest.

    Raises:
        InvalidAgent: With every fault and its place.
    """
    faults = []
    if not 1 <= profile.max_concurrent_tasks <= SLOTS_MAX:
        faults.append(Fault("/max_concurrent_tasks", f"must be 1 to {SLOTS_MAX}, not {profile.max_concurrent_tasks}"))
    if not 1 <= len(profile.capabilities) <= CAPABILITIES_MAX:
        faults.append(Fault("/capabilities", f"must be 1 to {CAPABILITIES_MAX}, not {len(profile.capabilities)}"))
    if faults:
        raise InvalidAgent(faults)


def _carriers_of(pool: Pool, task: Task) -> Collection[Seat]:
    """The agents that carry the label of a task that fewest carry."""
    return pool.carriers(pool.rarest(task.labels.items())).seats


def _some(names: tuple[str, ...], start: int) -> tuple[str, ...]:
    """Eight names from a place on, or all of fewer."""
    if len(names) <= LOOKS:
        return names
    return names[start : start + LOOKS] + names[: max(0, start + LOOKS - len(names))]


def _by_speed(seat: Seat) -> tuple[int, float]:
    return seat.bucket, seat.latency_s


def _by_free(posting: Posting[Seat]) -> int:
    return posting.free
