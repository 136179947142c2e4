"""The fleet's health as one value: circuits, counters, capabilities that have nobody."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import msgspec

from aicp.model.views import AgentHealth, CapabilityHealth, FleetHealth
from aicp.resilience.board import WORST_FIRST, CircuitBoard
from aicp.resilience.circuit_breaker import CircuitState
from aicp.scheduling.fleet import Member, Seat
from aicp.scheduling.slices import Steps
from aicp.scheduling.task_scheduler import TaskScheduler

AGENTS_A_STEP = 100


def fleet_health(scheduler: TaskScheduler, board: CircuitBoard, tenant: str | None = None) -> Steps[FleetHealth]:
    """Look at every agent, or at those that serve a tenant, a hundred in each step."""
    agents = (
        (member.profile.agent_id, agent_health(member, board))
        for member in list(scheduler.members())
        if member.profile.serves(tenant) and not member.is_gone
    )
    return (yield from _fleet_of(agents, scheduler.capabilities_out(tenant)))


def merged_health(own: FleetHealth, elsewhere: Sequence[Mapping[str, AgentHealth]]) -> Steps[FleetHealth]:
    """The fleet's health as several replicas see it: the worst state, and counters added up; a hundred in each step.

    Args:
        own: As this replica sees it; it says which agents and capabilities there are.
        elsewhere: How agents fare with each of the others; agents they did not use may be missing.
    """
    if not elsewhere:
        return own
    agents = (
        (agent_id, reduce(_merged, [others[agent_id] for others in elsewhere if agent_id in others], agent))
        for agent_id, agent in own.agents.items()
    )
    return (yield from _fleet_of(agents, own.capabilities_out))


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


def _fleet_of(found: Iterable[tuple[str, AgentHealth]], capabilities_out: list[str]) -> Steps[FleetHealth]:
    agents: dict[str, AgentHealth] = {}
    states, healthy = Counter[str](), 0
    for number, (agent_id, agent) in enumerate(found, 1):
        agents[agent_id] = agent
        healthy += _is_healthy(agent)
        states.update(capability.state for capability in agent.capabilities.values())
        if not number % AGENTS_A_STEP:
            yield
    return FleetHealth(
        total_agents=len(agents),
        healthy_agents=healthy,
        open_circuits=states[CircuitState.OPEN] + states[CircuitState.FORCED_OPEN],
        half_open_circuits=states[CircuitState.HALF_OPEN],
        capabilities_out=capabilities_out,
        agents=agents,
    )


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
