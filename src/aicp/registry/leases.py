"""When agents were last heard: one lease missed is unheard, three are offline, a day is gone."""

import heapq
import itertools
import time
from collections.abc import Callable
from enum import StrEnum

import msgspec

from aicp import standstill
from aicp.errors import AgentNotFound, AgentReplaced

LEASE_TTL_S = 15.0
HEARTBEAT_EVERY_S = 5.0
OFFLINE_AFTER_LEASES = 3
PURGE_AFTER_S = 86_400.0


class Liveness(StrEnum):
    """How sure we are that an agent is there.

    `HEARD`: within its lease. `UNHEARD`: one lease missed, used as a last resort. `OFFLINE`: three missed, not used.
    """

    HEARD = "HEARD"
    UNHEARD = "UNHEARD"
    OFFLINE = "OFFLINE"


class LivenessChange(msgspec.Struct, frozen=True):
    """What a sweep found out.

    Attributes:
        agent_id: About whom.
        liveness: What it is now; None when it was silent for a day and shall be purged.
    """

    agent_id: str
    liveness: Liveness | None


_WORST_FIRST = (Liveness.OFFLINE, Liveness.UNHEARD, Liveness.HEARD)


def _is_worse(one: Liveness, other: Liveness) -> bool:
    return _WORST_FIRST.index(one) < _WORST_FIRST.index(other)


class _Lease:
    __slots__ = ("ends", "heard_at", "instance_id", "liveness", "moved_for", "moved_s", "spared_s")

    def __init__(self, instance_id: str, heard_at: float, liveness: Liveness, *, ends: bool) -> None:
        self.instance_id = instance_id
        self.heard_at = heard_at
        self.liveness = liveness
        self.ends = ends
        self.moved_for = Liveness.HEARD
        self.moved_s = self.spared_s = 0.0

    def hear(self, now: float) -> None:
        self.heard_at, self.moved_for = now, Liveness.HEARD
        self.moved_s = self.spared_s = 0.0


class Leases:
    """Leases of agents that promised to be heard; agents without a promise have none and are always HEARD.

    A standstill of this process is not silence of theirs: a lease that would be missed is first moved by what of it
    fell into the lease, at most by the lease's own length.

    Args:
        ttl_s: How long a heartbeat holds.
        clock: Monotonic seconds.
    """

    def __init__(self, ttl_s: float = LEASE_TTL_S, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.ttl_s = ttl_s
        self._clock = clock
        self._leases: dict[str, _Lease] = {}
        self._due: list[tuple[float, int, str, _Lease]] = []
        self._numbers = itertools.count()

    def grant(self, agent_id: str, instance_id: str, liveness: Liveness = Liveness.HEARD, *, ends: bool = True) -> None:
        """Begin a lease, in place of an earlier one.

        One that never `ends` is for an agent without a promise that shall show life once: no silence makes it worse,
        and no heartbeat renews it.
        """
        lease = _Lease(instance_id, self._clock(), liveness, ends=ends)
        self._leases[agent_id] = lease
        if ends:
            self._look_at(lease.heard_at + self.ttl_s, agent_id, lease)

    def renew(self, agent_id: str, instance_id: str) -> bool:
        """A heartbeat came; True when the agent had been given up for unheard or offline.

        Raises:
            AgentNotFound: It has no lease here; it should register again.
            AgentReplaced: Another instance registered under its id.
        """
        lease = self._leases.get(agent_id)
        if lease is None or not lease.ends:
            raise AgentNotFound(f"There is no lease of agent '{agent_id[:128]}'; register again.")
        if lease.instance_id != instance_id:
            raise AgentReplaced(f"Another instance has registered as '{agent_id}'; stop this one or rename it.")
        return self.heard(agent_id)

    def heard(self, agent_id: str) -> bool:
        """The agent showed life, by heartbeat or by answering; True when it had been given up."""
        lease = self._leases.get(agent_id)
        if lease is None:
            return False
        lease.hear(self._clock())
        came_back, lease.liveness = lease.liveness is not Liveness.HEARD, Liveness.HEARD
        return came_back

    def end(self, agent_id: str) -> None:
        """Forget its lease."""
        self._leases.pop(agent_id, None)

    def liveness(self, agent_id: str) -> Liveness:
        """How sure we are that it is there."""
        lease = self._leases.get(agent_id)
        return lease.liveness if lease is not None else Liveness.HEARD

    def silent_s(self, agent_id: str) -> float | None:
        """Seconds since it was heard; None for one that has no lease, or promised nothing."""
        lease = self._leases.get(agent_id)
        return self._clock() - lease.heard_at if lease is not None and lease.ends else None

    @property
    def is_due(self) -> bool:
        """True when a sweep would look at somebody."""
        return bool(self._due) and self._due[0][0] <= self._clock()

    def sweep(self, looks: int | None = None) -> list[LivenessChange]:
        """Who fell silent since the last sweep. Costs O(log n) for each agent that is due, once a lease.

        Args:
            looks: At most so many agents are looked at; None for all that are due.
        """
        now = self._clock()
        changes: list[LivenessChange] = []
        for _ in itertools.repeat(None) if looks is None else itertools.repeat(None, looks):
            if not self._due or self._due[0][0] > now:
                break
            _, _, agent_id, lease = heapq.heappop(self._due)
            if self._leases.get(agent_id) is lease:
                self._judge(agent_id, lease, now, changes)
        return changes

    def _judge(self, agent_id: str, lease: _Lease, now: float, changes: list[LivenessChange]) -> None:
        silent_s = now - lease.heard_at - lease.moved_s
        if silent_s >= PURGE_AFTER_S:
            del self._leases[agent_id]
            changes.append(LivenessChange(agent_id, None))
            return
        found = self._liveness_after(silent_s)
        if _is_worse(found, lease.liveness) and _is_worse(found, lease.moved_for) and self._move(lease, found, now):
            found = self._liveness_after(now - lease.heard_at - lease.moved_s)
        if found is not lease.liveness and found is not Liveness.HEARD:
            lease.liveness = found
            changes.append(LivenessChange(agent_id, found))
        self._look_at(self._next_look(lease, found, now), agent_id, lease)

    def _next_look(self, lease: _Lease, found: Liveness, now: float) -> float:
        """When it would be worse off; but within a lease, since it may be heard and fall silent again."""
        worse_after_s = {
            Liveness.HEARD: self.ttl_s,
            Liveness.UNHEARD: OFFLINE_AFTER_LEASES * self.ttl_s,
            Liveness.OFFLINE: PURGE_AFTER_S,
        }
        return min(lease.heard_at + lease.moved_s + worse_after_s[found], now + self.ttl_s)

    def _move(self, lease: _Lease, found: Liveness, now: float) -> bool:
        """Move a lease before it is worse off, once for each step; False where this process did not stand still."""
        lease.moved_for = found
        length_s = self.ttl_s if found is Liveness.UNHEARD else OFFLINE_AFTER_LEASES * self.ttl_s
        spared_s = min(standstill.since(lease.heard_at), length_s) - lease.spared_s
        if spared_s <= 0:
            return False
        lease.spared_s += spared_s
        lease.moved_s = now - lease.heard_at - length_s + spared_s
        return True

    def _look_at(self, when: float, agent_id: str, lease: _Lease) -> None:
        heapq.heappush(self._due, (when, next(self._numbers), agent_id, lease))

    def _liveness_after(self, silent_s: float) -> Liveness:
        if silent_s >= OFFLINE_AFTER_LEASES * self.ttl_s:
            return Liveness.OFFLINE
        return Liveness.UNHEARD if silent_s >= self.ttl_s else Liveness.HEARD
