"""The fleet's health as one value: circuits, counters, capabilities that have nobody."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

import msgspec

from aicp.model.views import AgentHealth, CapabilityHealth, FleetHealth
from aicp.resilience.board import WORST_FIRST, CircuitBoard
from aicp.resilience.circuit_breaker import CircuitState
from aicp.scheduling.fleet import Member, Seat
from aicp.scheduling.slices import Steps
from aicp.scheduling.task_scheduler import TaskScheduler

LOOKS_A_STEP = 200
"""Agents and their capabilities that are looked at before other work of the loop goes on."""

AgentsHealth = Iterator[tuple[str, AgentHealth]]
"""Agents by id, and how each fares."""

_encode = msgspec.json.Encoder().encode
_END = b"}}"


def fleet_health(scheduler: TaskScheduler, board: CircuitBoard, tenant: str | None = None) -> Steps[FleetHealth]:
    """Look at every agent, or at those that serve a tenant, about a hundred in each step."""
    return (yield from fleet_of(agents_health(scheduler, board, tenant), scheduler.capabilities_out(tenant)))


def agents_health(scheduler: TaskScheduler, board: CircuitBoard, tenant: str | None = None) -> AgentsHealth:
    """Each agent that is here now and serves a tenant, as it is when it is come to."""
    return (
        (member.profile.agent_id, agent_health(member, board))
        for member in list(scheduler.members())
        if member.profile.serves(tenant) and not member.is_gone
    )


def merged(own: AgentsHealth, elsewhere: Sequence[Mapping[str, AgentHealth]]) -> AgentsHealth:
    """Each agent as several replicas see it: the worst state, and counters added up.

    Args:
        own: As this replica sees them; it says which agents there are.
        elsewhere: How agents fare with each of the others; agents they did not use may be missing.
    """
    if not elsewhere:
        return own
    return (
        (agent_id, reduce(_merged, [others[agent_id] for others in elsewhere if agent_id in others], agent))
        for agent_id, agent in own
    )


def fleet_of(found: AgentsHealth, capabilities_out: list[str]) -> Steps[FleetHealth]:
    """The fleet's health from that of its agents."""
    agents: dict[str, AgentHealth] = {}
    counts = _Counts()
    for some in _in_steps(found):
        counts.add(some)
        agents.update(some)
        yield
    return counts.fleet(capabilities_out, agents)


def written_health(found: AgentsHealth, capabilities_out: list[str]) -> Steps[list[bytes]]:
    """The JSON of the fleet's health, in pieces; no view of the whole fleet is made."""
    parts: list[bytes] = []
    counts = _Counts()
    for some in _in_steps(found):
        counts.add(some)
        parts.append((b"," if parts else b"") + _encode(some)[1:-1])
        yield
    # Agents are its last field: what ends the document follows them.
    return [_encode(counts.fleet(capabilities_out, {})).removesuffix(_END), *parts, _END]


def agent_health(member: Member, board: CircuitBoard) -> AgentHealth:
    """Look at one agent."""
    agent_id = member.profile.agent_id
    metrics = board.get_metrics(agent_id).values()
    capabilities = {key: _capability_health(seat, board) for key, seat in member.seats.items()}
    latencies = [health.latency_ms for health in capabilities.values() if health.latency_ms is not None]
    tried = member.successes + member.failures
    return AgentHealth(
        state=board.get_state(agent_id),
        liveness=member.liveness,
        failure_count=member.failures,
        success_count=member.successes,
        total_rejections=sum(counted.rejected for counted in metrics),
        retry_after_s=_worst([health.retry_after_s for health in capabilities.values()]),
        backoff_s=max((counted.backoff_s for counted in metrics), default=0.0),
        latency_ms=round(sum(latencies) / len(latencies), 3) if latencies else None,
        success_rate=round(member.successes / tried, 4) if tried else None,
        slots=member.profile.max_concurrent_tasks,
        taken=member.taken,
        draining=member.trouble.is_draining,
        capabilities=capabilities,
    )


class _Counts:
    """What is counted of agents."""

    def __init__(self) -> None:
        self._agents = self._healthy = 0
        self._states = Counter[str]()

    def add(self, some: Mapping[str, AgentHealth]) -> None:
        self._agents += len(some)
        self._healthy += sum(map(_is_healthy, some.values()))
        for agent in some.values():
            self._states.update(capability.state for capability in agent.capabilities.values())

    def fleet(self, capabilities_out: list[str], agents: dict[str, AgentHealth]) -> FleetHealth:
        states = self._states
        return FleetHealth(
            total_agents=self._agents,
            healthy_agents=self._healthy,
            open_circuits=states[CircuitState.OPEN] + states[CircuitState.FORCED_OPEN],
            half_open_circuits=states[CircuitState.HALF_OPEN],
            capabilities_out=capabilities_out,
            agents=agents,
        )


def _in_steps(found: AgentsHealth) -> Iterator[dict[str, AgentHealth]]:
    """As many agents at a time as are looked at in one step; one at least."""
    some: dict[str, AgentHealth] = {}
    looks = 0
    for agent_id, agent in found:
        some[agent_id] = agent
        looks += 1 + len(agent.capabilities)
        if looks >= LOOKS_A_STEP:
            yield some
            some, looks = {}, 0
    if some:
        yield some


def _merged(one: AgentHealth, other: AgentHealth) -> AgentHealth:
    """An agent as two replicas see it; what it is, the first knows."""
    successes, failures = one.success_count + other.success_count, one.failure_count + other.failure_count
    tried = successes + failures
    capabilities = {
        key: _worse(health, other.capabilities.get(key, health)) for key, health in one.capabilities.items()
    }
    return msgspec.structs.replace(
        one,
        state=min(one.state, other.state, key=WORST_FIRST.index),
        failure_count=failures,
        success_count=successes,
        total_rejections=one.total_rejections + other.total_rejections,
        retry_after_s=_worst([one.retry_after_s, other.retry_after_s]),
        backoff_s=max(one.backoff_s, other.backoff_s),
        latency_ms=_mean_latency(one, other),
        success_rate=round(successes / tried, 4) if tried else None,
        taken=one.taken + other.taken,
        capabilities=capabilities,
    )


def _mean_latency(one: AgentHealth, other: AgentHealth) -> float | None:
    """Of what each measured, by how often it succeeded."""
    measured = [(health.latency_ms, health.success_count) for health in (one, other) if health.latency_ms is not None]
    total = sum(count for _, count in measured)
    if not total:
        return measured[0][0] if measured else None
    return round(sum(latency_ms * count for latency_ms, count in measured) / total, 3)


def _worse(one: CapabilityHealth, other: CapabilityHealth) -> CapabilityHealth:
    """The circuit that is worse off; its latency is known to whoever measured it."""
    worse = min(one, other, key=lambda health: (WORST_FIRST.index(health.state), not health.why_out))
    latencies = [health.latency_ms for health in (one, other) if health.latency_ms is not None]
    return msgspec.structs.replace(worse, latency_ms=latencies[0] if latencies else None)


def why_out(agent: AgentHealth) -> dict[str, str]:
    """For which capabilities an agent may not be used now, and why, with what it answered when it was set aside."""
    return {
        key: f"{health.why_out}: {health.reason}" if health.reason else health.why_out
        for key, health in agent.capabilities.items()
        if health.why_out
    }


def _capability_health(seat: Seat, board: CircuitBoard) -> CapabilityHealth:
    agent_id = seat.member.profile.agent_id
    # Whoever is out for another reason than its circuit has no time at which it comes back by itself.
    needs_somebody = bool(seat.why_out) and seat.standing.ready_at == math.inf
    wait_s = math.inf if needs_somebody else board.ready_in_s(agent_id, seat.key)
    return CapabilityHealth(
        state=board.get_state(agent_id, seat.key),
        why_out=seat.why_out,
        reason=seat.member.trouble.why_aside(seat.key),
        retry_after_s=round(wait_s, 3) if wait_s < math.inf else None,
        latency_ms=round(seat.latency_s * 1000, 3) if seat.latency_s else None,
    )


def _worst(waits_s: list[float | None]) -> float | None:
    finite = [wait_s for wait_s in waits_s if wait_s is not None]
    return max(finite, default=0.0) if len(finite) == len(waits_s) else None


def _is_healthy(agent: AgentHealth) -> bool:
    return not any(capability.why_out for capability in agent.capabilities.values())
