"""Who exists, by id and by capability, and which of them a task may go to."""

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator

import msgspec

from aicp.errors import AgentNotFound, Fault, InvalidAgent
from aicp.model.agent import CAPABILITIES_MAX, DEFAULT_TENANT, SLOTS_MAX, AgentProfile
from aicp.model.task import Task
from aicp.registry.naming import offered_key, wanted_key
from aicp.scheduling.fleet import NOWHERE, Fleet, Labels, Member, Pool, Seat
from aicp.scheduling.input_schemas import Schema

REASONS_MAX = 8
RETRY_AFTER_MIN_S = 0.05
RETRY_AFTER_MAX_S = 3_600.0
RETRY_SOON_S = 1.0
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


class Roster:
    """The agents, and a fleet for each capability that anybody ever offered.

    Attributes:
        members: By agent id.
        fleets: By capability key.
    """

    def __init__(self) -> None:
        self.members: dict[str, Member] = {}
        self.fleets: dict[str, Fleet] = {}

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
        member.slots = slots
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

    def dismiss(self, member: Member) -> dict[str, Seat]:
        """Take its seats away, and return them by key."""
        seats = member.seats
        for seat in seats.values():
            seat.pool.leave(seat)
        member.first = None
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

    def candidates(self, task: Task, tenant: str = DEFAULT_TENANT) -> Iterator[Seat]:
        """Everybody the task may go to, whether it may be used now or not."""
        return itertools.chain.from_iterable(self._in_pool(pool, task) for pool in self.pools(task, tenant))

    def input_schemas(self, task: Task, tenant: str) -> Iterator[Schema]:
        """What those whom the task may go to want to be given; each different schema once, where it names nobody."""
        if task.agents or task.exclude_agents or task.labels:
            return (seat.declared.input_schema for seat in self.candidates(task, tenant))
        return itertools.chain.from_iterable(pool.input_schemas for pool in self.pools(task, tenant))

    def usable_besides(self, task: Task, tenant: str, besides: Collection[str]) -> int:
        """How many agents may be used for the task, free or busy, leaving some out; costs the names in the task."""
        return sum(self._usable_of(pool, task, besides) for pool in self.pools(task, tenant))

    def find_free(self, pool: Pool, task: Task, tried: frozenset[str], draw: Callable[[], float]) -> Seat | None:
        """A free seat of the pool that the task may have; the fastest of those named, else a fast one."""
        if task.agents:
            named = (seat for seat in self._in_pool(pool, task) if seat.bucket != NOWHERE)
            free = (seat for seat in named if seat.agent_id not in tried)
            return min(free, key=lambda seat: (seat.bucket, seat.latency_s), default=None)
        left_out = tried.union(task.exclude_agents) if task.exclude_agents else tried
        if task.labels:
            return pool.selection(labels_of(task)).pick(lambda seat: seat.agent_id not in left_out)
        return pool.pick_besides(left_out, draw) if left_out else pool.pick(draw)

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

    def _in_pool(self, pool: Pool, task: Task) -> Iterator[Seat]:
        seats: Iterable[Seat] = pool.seats
        if task.agents:
            seats = self._named(pool, task.agents)
        elif task.labels:
            seats = pool.selection(labels_of(task))
        return (seat for seat in seats if suits(seat, task))

    def _named(self, pool: Pool, names: Iterable[str]) -> Iterator[Seat]:
        for name in names:
            member = self.members.get(name)
            seat = member.seat(pool.key) if member is not None else None
            if seat is not None and seat.pool is pool:
                yield seat

    def _usable_of(self, pool: Pool, task: Task, besides: Collection[str]) -> int:
        if task.agents:
            named = self._in_pool(pool, task)
            return sum(not seat.why_out and seat.agent_id not in besides for seat in named)
        left_out = self._named(pool, {*besides, *task.exclude_agents})
        if task.labels:
            selection = pool.selection(labels_of(task))
            return selection.usable - sum(not seat.why_out and seat in selection for seat in left_out)
        return pool.usable - sum(not seat.why_out for seat in left_out)


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


def labels_of(task: Task) -> Labels:
    """What the task asks of an agent's labels."""
    return frozenset(task.labels.items())


def suits(seat: Seat, task: Task) -> bool:
    """True when the task may go to this agent, as far as names and labels go."""
    profile = seat.member.profile
    if task.agents and profile.agent_id not in task.agents:
        return False
    if task.exclude_agents and profile.agent_id in task.exclude_agents:
        return False
    return not task.labels or task.labels.items() <= profile.labels.items()
