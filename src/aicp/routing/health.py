"""The fleet's health as one value: circuits, counters, capabilities that have nobody."""

import math

import msgspec

from aicp.resilience.board import CircuitBoard
from aicp.resilience.circuit_breaker import CircuitState
from aicp.scheduling.fleet import Member, Seat
from aicp.scheduling.task_scheduler import TaskScheduler


class CapabilityHealth(msgspec.Struct, frozen=True):
    """One agent at one capability.

    Attributes:
        state: Of the circuit.
        why_out: Why it may not be used; empty when it may.
        retry_after_s: Seconds until it may be tried; None when only an operator or a registration brings it back.
        latency_ms: Smoothed milliseconds of its successes; None while unmeasured.
    """

    state: CircuitState
    why_out: str
    retry_after_s: float | None
    latency_ms: float | None


class AgentHealth(msgspec.Struct, frozen=True):
    """One agent.

    Attributes:
        state: The worst of its circuits.
        liveness: Whether it is heard.
        failure_count: Attempts that failed at it.
        success_count: Attempts that succeeded.
        total_rejections: Permits its circuits refused.
        retry_after_s: Seconds until every circuit may be tried; None when only an operator brings one back.
        backoff_s: The longest current wait of its circuits.
        latency_ms: Mean over its measured capabilities; None while none is.
        success_rate: 0 to 1; None while nothing was tried.
        slots: How many tasks it takes at a time.
        taken: How many it has.
        draining: True when it gets no new ones.
        capabilities: Each by key.
    """

    state: CircuitState
    liveness: str
    failure_count: int
    success_count: int
    total_rejections: int
    retry_after_s: float | None
    backoff_s: float
    latency_ms: float | None
    success_rate: float | None
    slots: int
    taken: int
    draining: bool
    capabilities: dict[str, CapabilityHealth]


class FleetHealth(msgspec.Struct, frozen=True):
    """The fleet.

    Attributes:
        total_agents: Registered.
        healthy_agents: Of those, who may be used for everything they offer.
        open_circuits: Circuits that admit nobody.
        half_open_circuits: Circuits that admit probes.
        capabilities_out: Capabilities that have nobody.
        agents: By id.
    """

    total_agents: int
    healthy_agents: int
    open_circuits: int
    half_open_circuits: int
    capabilities_out: list[str]
    agents: dict[str, AgentHealth]


def fleet_health(scheduler: TaskScheduler, board: CircuitBoard) -> FleetHealth:
    """Look at every agent; linear in agents and capabilities."""
    agents = {member.profile.agent_id: agent_health(member, board) for member in scheduler.members()}
    states = [capability.state for agent in agents.values() for capability in agent.capabilities.values()]
    return FleetHealth(
        total_agents=len(agents),
        healthy_agents=sum(_is_healthy(agent) for agent in agents.values()),
        open_circuits=states.count(CircuitState.OPEN) + states.count(CircuitState.FORCED_OPEN),
        half_open_circuits=states.count(CircuitState.HALF_OPEN),
        capabilities_out=scheduler.capabilities_out(),
        agents=agents,
    )


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
        slots=member.slots,
        taken=member.taken,
        draining=member.draining,
        capabilities=capabilities,
    )


def _capability_health(seat: Seat, board: CircuitBoard) -> CapabilityHealth:
    agent_id = seat.member.profile.agent_id
    wait_s = board.ready_in_s(agent_id, seat.key)
    return CapabilityHealth(
        state=board.get_state(agent_id, seat.key),
        why_out=seat.why_out,
        retry_after_s=round(wait_s, 3) if wait_s < math.inf else None,
        latency_ms=round(seat.latency_s * 1000, 3) if seat.latency_s else None,
    )


def _worst(waits_s: list[float | None]) -> float | None:
    finite = [wait_s for wait_s in waits_s if wait_s is not None]
    return max(finite, default=0.0) if len(finite) == len(waits_s) else None


def _is_healthy(agent: AgentHealth) -> bool:
    return not any(capability.why_out for capability in agent.capabilities.values())
