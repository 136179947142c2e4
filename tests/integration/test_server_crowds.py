"""Looks at a large fleet over HTTP: whole and in order, and a few agents in each turn of the loop."""

from typing import Any

import msgspec
import pytest

from aicp.model.agent import AgentProfile, Capability
from aicp.routing import health
from aicp.server.routes import agents
from tests.integration.server_kit import Api, asking, run
from tests.unit.flow_kit import counted_in_turns

CROWD = 2_500
IDS = [f"crowd-{number:05}" for number in range(CROWD)]


def with_crowd(test: Any) -> None:
    async def main() -> None:
        async with asking() as api:
            offered = Capability("text.crowd"), Capability("text.other", input_schema={"type": "object"})
            for number, agent_id in enumerate(IDS):
                labels = {"half": str(number % 2), "one": str(number)}
                api.node.ains.put(AgentProfile(agent_id, offered, 2, labels=labels))
            await test(api)

    run(main)


def test_health_of_a_crowd_is_whole_and_is_looked_at_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = counted_in_turns(monkeypatch, health, "agent_health")

    async def test(api: Api) -> None:
        api.node.open_agent(IDS[7])
        answered = await api.get("/api/circuit-breaker/health")
        assert answered.status == 200
        assert set(answered.body["agents"]) >= set(IDS)
        assert answered.body["total_agents"] == len(answered.body["agents"]) == len(api.node.ains.agents())
        assert answered.body["open_circuits"] == 2
        assert answered.body["healthy_agents"] == answered.body["total_agents"] - 1
        calls, most = looks()
        assert calls >= CROWD
        assert most <= health.LOOKS_A_STEP
        assert answered.body == msgspec.to_builtins(api.node.health())

    with_crowd(test)


def test_pages_of_a_crowd_are_whole_and_in_order_and_made_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = counted_in_turns(monkeypatch, agents, "agent_health")

    async def test(api: Api) -> None:
        found: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            page = (await api.get(f"/ains/agents?limit=1000&cursor={cursor}")).body
            found += [agent["agent_id"] for agent in page["agents"]]
            cursor = page["next_cursor"]
        assert found == sorted(profile.agent_id for profile in api.node.ains.agents())

    with_crowd(test)
    calls, most = looks()
    assert calls >= CROWD
    assert most <= agents.LOOKS_A_STEP


def test_a_search_looks_at_a_crowd_in_slices_even_if_it_finds_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = counted_in_turns(monkeypatch, agents, "is_wanted")

    async def test(api: Api) -> None:
        for query, wanted in (
            ("label=half=1&limit=500", IDS[1:1_000:2]),
            (f"label=half=1&cursor={IDS[9]}&limit=2", [IDS[11], IDS[13]]),
            ("label=one=2400&capability=text.crowd", [IDS[2_400]]),
            ("label=one=none", []),
        ):
            page = (await api.get(f"/ains/search?{query}")).body
            assert [agent["agent_id"] for agent in page["agents"]] == wanted

    with_crowd(test)
    calls, most = looks()
    assert calls >= 3 * CROWD
    assert most <= agents.AGENTS_A_STEP
