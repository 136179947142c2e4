"""The tasks that wait for one capability, and which of them an agent with a free slot gets.

Groups of tasks that ask for the same are found by what they name: an agent, or a label. So an agent asks only for its
own name, its labels, the groups that leave some agents out, and the plain ones; how many others wait costs nothing.
The order is kept for each pool: agents of one tenant, or shared ones.
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping

from aicp.model.agent import AgentProfile
from aicp.model.task import Priority
from aicp.scheduling.fleet import Label, Seat
from aicp.scheduling.group import Group, Rank, Share
from aicp.scheduling.heap import Heap
from aicp.scheduling.lease import Lease
from aicp.scheduling.turns import CLASS_STRIDES, STRIDES, Order, Rounds
from aicp.scheduling.waiter import FIRST_TASKS, Selector, Waiter

LOOKS = 8
"""How many groups under one key are looked at for one free slot; the next time it is the turn of others."""
ANY: object = None
"""The key of groups that only leave some agents out."""

_Best = tuple[tuple[int, int, Rank], Waiter]


class _Lane:
    """Groups of one priority that the same agents may serve."""

    __slots__ = ("_by_key", "_excluding", "_plain", "groups")

    _pushes = itertools.count()

    def __init__(self) -> None:
        self.groups = 0
        self._plain = Heap[tuple[int, int, int, Group]]()
        self._by_key: dict[object, OrderedDict[Group, None]] = {}
        self._excluding: dict[str, int] = {}

    def join(self, group: Group) -> None:
        self.groups += 1
        if group.selector is None:
            self.join_plain(group)
        for key in group.keys:
            self._by_key.setdefault(key, OrderedDict())[group] = None
        for agent_id in group.excluded:
            self._excluding[agent_id] = self._excluding.get(agent_id, 0) + 1

    def join_plain(self, group: Group) -> None:
        """Stand where the order looks for plain tasks; twice does no harm."""
        self._plain.push((0, group.share.place, next(self._pushes), group))
        self._plain.forget_gone(self.groups, _has_tasks)

    def plain(self) -> Iterator[Group]:
        """The groups of plain tasks."""
        return (entry[-1] for entry in self._plain if _has_tasks(entry))

    def leave(self, group: Group) -> None:
        self.groups -= 1
        for key in group.keys:
            groups = self._by_key[key]
            del groups[group]
            if not groups:
                del self._by_key[key]
        for agent_id in group.excluded:
            self._excluding[agent_id] -= 1
            if not self._excluding[agent_id]:
                del self._excluding[agent_id]

    def first(self, seat: Seat, rounds: Rounds[str], now: float, *, plain: bool, looks: int) -> Waiter | None:
        """Which is next for a free seat."""
        found = self._first_asking(seat, rounds, now, looks) if self._by_key else []
        if plain and (best := self._first_plain(rounds, now)) is not None:
            found.append(best)
        return min(found)[1] if found else None

    def under(self, profile: AgentProfile) -> Iterator[OrderedDict[Group, None]]:
        """The groups that may ask for this agent."""
        by_key, agent_id = self._by_key, profile.agent_id
        groups = by_key.get(ANY)
        if groups is not None and len(groups) > self._excluding.get(agent_id, 0):
            yield groups
        for key in (agent_id, *profile.labels.items()):
            if (groups := by_key.get(key)) is not None:
                yield groups

    def _first_asking(self, seat: Seat, rounds: Rounds[str], now: float, looks: int) -> list[_Best]:
        found = []
        for groups in self.under(seat.member.profile):
            some = list(itertools.islice(groups, looks))
            for group in some:
                if len(groups) > looks:
                    groups.move_to_end(group)
                if group.selector is not None and group.selector.suits(seat):
                    found.extend(_best_of(group, rounds, now))
        return found

    def _first_plain(self, rounds: Rounds[str], now: float) -> _Best | None:
        """Of the tenants with plain tasks the one whose turn it is; entries that are out of date are put right."""
        plain = self._plain
        while (entry := plain.first()) is not None:
            had, place, _, group = entry
            share = group.share
            due = rounds.pass_of(share.tenant), share.place
            if not group.size:
                plain.pop()
            elif due != (had, place):
                plain.pop()
                plain.push((*due, next(self._pushes), group))
            else:
                found = _best_of(group, rounds, now)
                if found:
                    return found[0]
                # What becomes of its tasks is decided, and they have not left yet.
                plain.pop()
                group.is_dropped = True
        return None


def _has_tasks(entry: tuple[int, int, int, Group]) -> bool:
    return bool(entry[-1].size)


def _best_of(group: Group, rounds: Rounds[str], now: float) -> list[_Best]:
    first = group.first(now)
    if first is None:
        return []
    rank, waiter = first
    return [((rounds.pass_of(group.share.tenant), group.share.place, rank), waiter)]


class _Index:
    """The groups that the agents of one pool may serve."""

    __slots__ = ("groups", "lanes")

    def __init__(self) -> None:
        self.lanes: dict[Priority, _Lane] = {}
        self.groups = 0

    def join(self, group: Group) -> None:
        self.groups += 1
        self.lanes.setdefault(group.share.priority, _Lane()).join(group)

    def leave(self, group: Group) -> None:
        self.groups -= 1
        lane = self.lanes[group.share.priority]
        lane.leave(group)
        if not lane.groups:
            del self.lanes[group.share.priority]

    def in_order(self, order: Order) -> Iterable[tuple[Priority, _Lane]]:
        """The lanes by the passes of their priorities."""
        if len(self.lanes) < 2:
            return self.lanes.items()
        return sorted(self.lanes.items(), key=lambda lane: (order.priorities.pass_of(lane[0]), STRIDES[lane[0]]))


class WaitingLine:
    """The queue of one capability.

    Args:
        carriers: How many agents that serve a tenant carry a label. A group of tasks that ask for several is found
            by the one that fewest carry.
    """

    __slots__ = ("_carriers", "_counts", "_groups", "_indexes", "_shares")

    def __init__(self, carriers: Callable[[Label, str], int] = lambda _, __: 0) -> None:
        self._carriers = carriers
        self._indexes: dict[str | None, _Index] = {}
        self._groups: dict[tuple[Selector | None, str, Priority], Group] = {}
        self._shares: dict[Priority, dict[str, Share]] = {priority: {} for priority in Priority}
        self._counts = dict.fromkeys(Priority, 0)

    def __len__(self) -> int:
        return sum(self._counts.values())

    def __iter__(self) -> Iterator[Waiter]:
        """All that wait, in no order."""
        return itertools.chain.from_iterable(self._groups.values())

    def by_priority(self, tenant: str | None = None) -> dict[Priority, int]:
        """How many wait at each priority; of one tenant, or of all."""
        if tenant is None:
            return dict(self._counts)
        shares = {priority: self._shares[priority].get(tenant) for priority in Priority}
        return {priority: sum(share.waiting) if share else 0 for priority, share in shares.items()}

    def waiting(self, tenant: str | None) -> int:
        """How many wait; of one tenant, or of all."""
        return len(self) if tenant is None else sum(self.by_priority(tenant).values())

    def oldest_wait_s(self, now: float, tenant: str | None = None) -> float:
        """How long the one that has waited longest has, in seconds; of one tenant, or of all. Costs the tenants."""
        shares = itertools.chain.from_iterable(each.values() for each in self._shares.values())
        oldest = (share.ages.first() for share in shares if tenant in {None, share.tenant})
        return max((now - waiter.since for waiter in oldest if waiter is not None), default=0.0)

    def join(self, waiter: Waiter) -> Group:
        """Add a waiter; returns the group it waits in."""
        what = waiter.selector, waiter.tenant, waiter.task.priority
        group = self._groups.get(what)
        if group is None:
            group = self._groups[what] = self._new_group(*what)
        group.join(waiter)
        group.share.ages.join(waiter.since, waiter)
        self._counts[waiter.task.priority] += 1
        if group.is_dropped:
            group.is_dropped = False
            for index in self._indexes_of(group):
                index.lanes[group.share.priority].join_plain(group)
        return group

    def serve(self, waiter: Waiter, lease: Lease) -> None:
        """Give it the lease; a hand-over is counted at once, as the next slot may be free already."""
        waiter.group.serve(waiter)
        lease.seat.pool.order.charge(waiter.task.priority, waiter.tenant)
        waiter.decide(lease)

    def leave(self, waiter: Waiter) -> None:
        """It was decided what becomes of a waiter; once for each that joined."""
        group = waiter.group
        group.leave(waiter)
        group.share.ages.leave()
        self._counts[waiter.task.priority] -= 1
        if not group.size:
            self._drop_group(group)

    def first(self, seat: Seat, now: float, *, plain: bool = True, looks: int = LOOKS) -> Waiter | None:
        """Which is next for a free seat.

        Args:
            seat: Of the agent at hand.
            now: Monotonic seconds.
            plain: False to pass over tasks that any capable agent suits.
            looks: How many groups under one key are looked at.
        """
        index = self._indexes.get(seat.pool.tenant)
        if index is None:
            return None
        order = seat.pool.order
        for priority, lane in index.in_order(order):
            waiter = lane.first(seat, order.tenants[priority], now, plain=plain, looks=looks)
            if waiter is not None:
                return waiter
        return None

    def unseen(self, seat: Seat, looks: int = LOOKS) -> int:
        """How many groups `first` does not look at in one go, for the key that has most."""
        index = self._indexes.get(seat.pool.tenant)
        lanes = index.lanes.values() if index is not None else ()
        return max((len(groups) - looks for lane in lanes for groups in lane.under(seat.member.profile)), default=0)

    def impatient(self, tenant: str | None, profile: AgentProfile) -> list[Group]:
        """As `asking`, those that have tasks that leave when no agent is left."""
        return [group for group in self.asking(tenant, profile) if group.impatient]

    def asking(self, tenant: str | None, profile: AgentProfile) -> list[Group]:
        """The groups that may ask for this agent.

        Args:
            tenant: The only one that the agent serves; None for all.
            profile: Of the agent.
        """
        index = self._indexes.get(tenant)
        lanes = index.lanes.values() if index is not None else ()
        return [group for lane in lanes for group in itertools.chain(*lane.under(profile), lane.plain())]

    def of(self, tenant: str, priority: Priority) -> Iterable[Waiter]:
        """What a tenant has waiting at a priority; among them may be some that do not wait any longer."""
        share = self._shares[priority].get(tenant)
        return share.ages.entered() if share is not None else []

    def ahead(self, priority: Priority, tenant: str, before: int, *, alone: bool = False) -> int:
        """About how many are served before a task that so many of its tenant's stand before, at all priorities.

        While that many of its priority are served, the others have their shares, as far as they have tasks.
        """
        mine = before if alone else self._with_tenants(priority, tenant, before)
        served = mine + 1
        others = (other for other in Priority if other is not priority)
        waiting = self.by_priority(tenant if alone else None)
        return mine + sum(min(waiting[other], served * STRIDES[priority] // STRIDES[other]) for other in others)

    def wait_s(
        self,
        priority: Priority,
        tenant: str,
        tasks_per_s: float,
        others_per_s: Mapping[Priority, float],
        *,
        alone: bool = False,
        count: int = 1,
    ) -> float:
        """About how long one more task of a tenant would wait, in seconds: the less of two estimates.

        By share: what stands before it in its priority, over the share that its priority has beside those that wait. By
        drain: that and all that waits at other priorities, over the rate that their arrivals leave.

        Args:
            priority: Of the task.
            tenant: Whose it is.
            tasks_per_s: How many tasks the agents end in a second.
            others_per_s: How many tasks of each other priority come in a second.
            alone: True for agents that work for this tenant only.
            count: For the last of so many tasks of one chain that come together.
        """
        before = self.before(priority, tenant, count)
        mine = before if alone else self._with_tenants(priority, tenant, before)
        waiting = self.by_priority(tenant if alone else None)
        weights = sum(1 / STRIDES[other] for other in others_per_s if waiting[other])
        share = 1 / (1 + weights * STRIDES[priority])
        left_per_s = tasks_per_s - sum(others_per_s.values())
        by_drain_s = (
            (mine + sum(waiting[other] for other in others_per_s) + 1) / left_per_s if left_per_s > 0 else math.inf
        )
        return min((mine + 1) / (tasks_per_s * share), by_drain_s)

    def before(self, priority: Priority, tenant: str, count: int = 1) -> int:
        """About how many of its tenant are served before the last of `count` more tasks of one chain and priority.

        Before the first 64 tasks of a chain these are the first tasks of chains, and one of the rest for each eight;
        before any other, all.
        """
        share = self._shares[priority].get(tenant)
        first, rest = share.waiting if share is not None else (0, 0)
        if count > FIRST_TASKS:
            return first + rest + count - 1
        first += count - 1
        return first + min(rest, (first + 1) // CLASS_STRIDES[True])

    def _with_tenants(self, priority: Priority, tenant: str, theirs: int) -> int:
        """How many are served before a task of a tenant that so many of its own stand before."""
        shares = self._shares[priority]
        others = self._counts[priority] - (sum(shares[tenant].waiting) if tenant in shares else 0)
        return theirs + min(others, (theirs + 1) * (len(shares) - (tenant in shares)))

    def _new_group(self, selector: Selector | None, tenant: str, priority: Priority) -> Group:
        shares = self._shares[priority]
        share = shares.get(tenant)
        if share is None:
            share = shares[tenant] = Share(tenant, priority)
        group = Group(selector, share)
        share.groups += 1
        group.keys = self._keys_of(selector, tenant)
        for index in self._indexes_of(group):
            index.join(group)
        return group

    def _drop_group(self, group: Group) -> None:
        share = group.share
        del self._groups[group.selector, share.tenant, share.priority]
        for index in self._indexes_of(group):
            index.leave(group)
            if not index.groups:
                self._indexes = {tenant: each for tenant, each in self._indexes.items() if each is not index}
        share.groups -= 1
        if not share.groups:
            del self._shares[share.priority][share.tenant]

    def _indexes_of(self, group: Group) -> list[_Index]:
        """For the agents of its tenant, and for those that serve every tenant."""
        return [self._indexes.setdefault(tenant, _Index()) for tenant in (group.share.tenant, None)]

    def _keys_of(self, selector: Selector | None, tenant: str) -> tuple[object, ...]:
        """What an agent that suits the group asks for: its own name or a label; never one that it cannot have."""
        if selector is None:
            return ()
        rarest = min(selector.labels, key=lambda label: self._carriers(label, tenant), default=None)
        if selector.agents and (rarest is None or self._carriers(rarest, tenant)):
            return tuple(selector.agents - selector.left_out)
        return (ANY,) if rarest is None else (rarest,)
