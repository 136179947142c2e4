"""Registering agents: schemas of which a part is not checked, and keys that are made for some capabilities."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aicp.model.access import Scope
from tests.integration.server_kit import Api, Test, echoing_agent, shared_server

OnServer = Callable[[Test], None]
UNKNOWN = r"[\w-\.]+"


@pytest.fixture(scope="module", name="on_server")
def running() -> Iterator[OnServer]:
    with shared_server() as run:
        yield run


def registration(agent_id: str, *names: str, schema: Any = None) -> dict[str, Any]:
    capabilities = [{"name": name, "input_schema": schema} for name in names]
    return {
        "endpoint": "http://127.0.0.1:9", "agent_id": agent_id, "max_concurrent_tasks": 1, "capabilities": capabilities,
    }  # fmt: skip


def test_an_answer_names_the_patterns_that_are_not_checked(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        schema = {"type": "object", "properties": {"name": {"type": "string", "pattern": UNKNOWN}}}
        answer = await api.post("/ains/agents", registration("odd-1", "text.odd", schema=schema))
        assert answer.status == 201
        [warning] = answer.body["warnings"]
        assert warning["place"] == "/capabilities/0/input_schema/properties/name/pattern"
        assert "is not checked" in warning["message"]
        refused = await api.post("/api/tasks", {"capability": "text.odd", "params": {"name": 1}})
        assert refused.status == 422

    on_server(test)


def test_an_answer_without_warnings_has_none(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        answer = await api.post("/ains/agents", registration("even-1", "text.even", schema=True))
        assert (answer.status, set(answer.body)) == (201, {"agent_id", "lease"})
        assert (await api.post("/api/tasks", {"capability": "text.even", "params": {"a": 1}})).status == 202

    on_server(test)


def test_a_schema_that_names_parts_of_another_document_is_refused_with_advice(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        component = {"$ref": "#/components/schemas/Pet"}
        answer = await api.post("/ains/agents", registration("pet-1", "pets.add", schema=component))
        assert answer.status == 422
        assert "copy it under $defs as '#/$defs/Pet'" in answer.faults["/capabilities/0/input_schema"]

    on_server(test)


def test_a_registration_may_have_two_mib_of_schemas(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        names = [f"bulk.n{number}" for number in range(10)]
        schema = {"type": "object", "description": "x" * 200_000}
        assert (await api.post("/ains/agents", registration("bulk-1", *names, schema=schema))).status == 201

    on_server(test)


def test_a_key_made_for_some_capabilities_registers_these_only(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        key = await api.new_key("default", Scope.AGENTS_WRITE, capabilities=("text.shout", "text.echo@2"))
        allowed = await api.post("/ains/agents", registration("shout-1", "text.shout"), key=key)
        assert allowed.status == 201
        for names in (["text.echo"], ["text.shout", "image.label"]):
            refused = await api.post("/ains/agents", registration("greedy-1", *names), key=key)
            assert (refused.status, refused.body["code"]) == (403, "capability_refused")
            assert "may not register agents for" in refused.body["detail"]
        assert (await api.get("/ains/agents/greedy-1")).status == 404

    on_server(test)


def test_what_an_agent_says_of_itself_is_held_to_the_key_too(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        key = await api.new_key("default", Scope.AGENTS_WRITE, capabilities=("text.shout",))
        async with echoing_agent("said-1").serving() as agent:
            refused = await api.post("/ains/agents", {"endpoint": agent.endpoint}, key=key)
            assert (refused.status, refused.body["code"]) == (403, "capability_refused")

    on_server(test)
