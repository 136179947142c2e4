"""The agents as `aicp top` shows them: who is in trouble first, then who is busiest."""

from aicp.model.views import AgentHealth, FleetHealth

COLUMNS = ("agent", "state", "heard", "busy", "latency", "success", "out because")


def agent_rows(health: FleetHealth) -> list[tuple[str | None, ...]]:
    """A row for each agent, in the order of `COLUMNS`."""
    agents = sorted(health.agents.items(), key=_urgency)
    return [_row(agent_id, agent) for agent_id, agent in agents]


def _urgency(entry: tuple[str, AgentHealth]) -> tuple[bool, float, str]:
    agent_id, agent = entry
    is_out = any(capability.why_out for capability in agent.capabilities.values())
    return not is_out, -agent.taken / max(1, agent.slots), agent_id


def _row(agent_id: str, agent: AgentHealth) -> tuple[str | None, ...]:
    reasons = dict.fromkeys(each.reason or each.why_out for each in agent.capabilities.values() if each.why_out)
    retry = f", retry in {agent.retry_after_s:.1f} s" if agent.retry_after_s else ""
    return (
        agent_id,
        agent.state,
        agent.liveness,
        f"{agent.taken} of {agent.slots}",
        None if agent.latency_ms is None else f"{agent.latency_ms:.0f} ms",
        None if agent.success_rate is None else f"{agent.success_rate:.1%}",
        "; ".join(reasons) + retry if reasons else None,
    )
