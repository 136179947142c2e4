"""The fleet as several replicas see it together: the worst state, and counters added up."""

from collections.abc import Mapping

import msgspec
import pytest

from aicp.model.views import AgentHealth, CapabilityHealth, FleetHealth
from aicp.routing.health import LOOKS_A_STEP, fleet_of, written_health
from aicp.routing.health import merged as merged_agents
from aicp.scheduling.slices import at_once

ECHO, LABEL = "text.echo@1", "image.label@1"


def circuit(state: str = "CLOSED", why_out: str = "", latency_ms: float | None = None) -> CapabilityHealth:
    return CapabilityHealth(state=state, why_out=why_out, reason="", retry_after_s=0.0, latency_ms=latency_ms)


def health(
    state: str = "CLOSED",
    successes: int = 0,
    failures: int = 0,
    *,
    retry_after_s: float | None = 0.0,
    latency_ms: float | None = None,
    **circuits: CapabilityHealth,
) -> AgentHealth:
    tried = successes + failures
    return AgentHealth(
        state=state,
        liveness="HEARD",
        failure_count=failures,
        success_count=successes,
        total_rejections=2,
        retry_after_s=retry_after_s,
        backoff_s=float(failures),
        latency_ms=latency_ms,
        success_rate=successes / tried if tried else None,
        slots=4,
        taken=1,
        draining=False,
        capabilities={{"echo": ECHO, "label": LABEL}[name]: each for name, each in circuits.items()},
    )


def fleet(**agents: AgentHealth) -> FleetHealth:
    return FleetHealth(len(agents), len(agents), 0, 0, [LABEL], agents)


def merged_health(own: FleetHealth, elsewhere: list[Mapping[str, AgentHealth]]) -> FleetHealth:
    """As a node tells it; the same whether it is made at once or written in pieces."""
    found = at_once(fleet_of(merged_agents(iter(own.agents.items()), elsewhere), own.capabilities_out))
    parts = at_once(written_health(merged_agents(iter(own.agents.items()), elsewhere), own.capabilities_out))
    assert b"".join(parts) == msgspec.json.encode(found)
    return found


def merged(own: AgentHealth, *elsewhere: AgentHealth) -> AgentHealth:
    others: list[Mapping[str, AgentHealth]] = [{"a": each} for each in elsewhere]
    return merged_health(fleet(a=own), others).agents["a"]


def test_alone_it_is_what_this_replica_sees() -> None:
    own = fleet(a=health("OPEN"))
    assert merged_health(own, []).agents == own.agents


def test_agents_are_those_of_this_replica_whether_others_used_them_or_not() -> None:
    own = fleet(a=health(), b=health(successes=1))
    found = merged_health(own, [{"a": health(successes=2), "gone": health()}])
    assert {name: agent.success_count for name, agent in found.agents.items()} == {"a": 2, "b": 1}
    assert (found.total_agents, found.capabilities_out) == (2, [LABEL])


@pytest.mark.parametrize("agents", [0, 1, 66, 67, 1_000])
def test_a_fleet_of_any_size_is_written_as_it_is_told_and_a_few_agents_in_each_step(agents: int) -> None:
    own = fleet(**{f"a{n}": health("OPEN", echo=circuit("OPEN", "open"), label=circuit()) for n in range(agents)})
    found = merged_health(own, [])
    assert (found.total_agents, found.open_circuits, list(found.agents)) == (agents, agents, list(own.agents))
    parts = at_once(written_health(iter(own.agents.items()), []))
    of_one = max((len(msgspec.json.encode(each)) for each in own.agents.values()), default=0)
    assert all(len(part) < LOOKS_A_STEP * of_one for part in parts[1:-1])


def test_counters_are_added_up_over_all_replicas() -> None:
    found = merged(health(successes=6, failures=1), health(successes=1, failures=1), health(successes=1))
    assert (found.success_count, found.failure_count, found.success_rate) == (8, 2, 0.8)
    assert (found.total_rejections, found.taken, found.slots) == (6, 3, 4)
    assert found.backoff_s == 1.0


@pytest.mark.parametrize(
    ("states", "worst"),
    [
        (("CLOSED", "OPEN"), "OPEN"),
        (("HALF_OPEN", "CLOSED"), "HALF_OPEN"),
        (("FORCED_OPEN", "OPEN", "CLOSED"), "FORCED_OPEN"),
        (("CLOSED", "CLOSED"), "CLOSED"),
    ],
)
def test_state_is_the_worst_of_all(states: tuple[str, ...], worst: str) -> None:
    one, *others = (health(state, echo=circuit(state)) for state in states)
    found = merged(one, *others)
    assert (found.state, found.capabilities[ECHO].state) == (worst, worst)


def test_open_circuits_and_healthy_agents_are_counted_over_all_replicas() -> None:
    own = fleet(a=health(echo=circuit(), label=circuit()), b=health(echo=circuit()))
    out = health("OPEN", echo=circuit("OPEN", "open"), label=circuit("HALF_OPEN"))
    found = merged_health(own, [{"a": out}])
    assert (found.open_circuits, found.half_open_circuits, found.healthy_agents) == (1, 1, 1)


def test_of_two_circuits_in_one_state_the_one_that_is_out_counts() -> None:
    found = merged(health(echo=circuit()), health(echo=circuit(why_out="cooling")))
    assert found.capabilities[ECHO].why_out == "cooling"


def test_time_to_come_back_is_the_longest_and_none_when_somebody_must_act() -> None:
    assert merged(health(retry_after_s=1.0), health(retry_after_s=3.0)).retry_after_s == 3.0
    assert merged(health(retry_after_s=1.0), health(retry_after_s=None)).retry_after_s is None


def test_latency_is_the_mean_of_what_was_measured_by_how_often() -> None:
    assert merged(health(successes=3, latency_ms=10.0), health(successes=1, latency_ms=50.0)).latency_ms == 20.0
    assert merged(health(), health(successes=1, latency_ms=50.0)).latency_ms == 50.0
    assert merged(health(), health()).latency_ms is None


def test_latency_of_a_circuit_is_known_to_whoever_measured_it() -> None:
    found = merged(health(echo=circuit("OPEN", "open")), health(echo=circuit(latency_ms=7.0)))
    assert (found.capabilities[ECHO].state, found.capabilities[ECHO].latency_ms) == ("OPEN", 7.0)
