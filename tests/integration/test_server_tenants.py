"""Two tenants on one server: whatever one asks, on every route there is, the other is not there."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import pytest

from aicp.client import Client
from aicp.model.access import GRANTABLE, Scope
from tests.integration.server_kit import Answered, Api, Gate, break_down, echo, readers_of, run, until, with_api
from tests.integration.server_kit import asking as asking_a_server
from tests.integration.test_server_auth import OPEN_ROUTES, routes

UNKNOWN = "0123456789abcdef0123456789abcdef"
TENANT_SCOPES = tuple(scope for scope in GRANTABLE if scope is not Scope.METRICS_READ)

OF_ONE_OBJECT = {
    "GET /ains/agents/{agent_id:str}": None,
    "DELETE /ains/agents/{agent_id:str}": None,
    "POST /ains/agents/{agent_id:str}/heartbeat": {"instance_id": "7"},
    "POST /ains/agents/{agent_id:str}/drain": None,
    "POST /api/circuit-breaker/reset/{agent_id:str}": None,
    "POST /api/circuit-breaker/open/{agent_id:str}": None,
    "POST /api/circuit-breaker/disable/{agent_id:str}": None,
    "GET /api/tasks/{task_id:str}": None,
    "GET /api/tasks/{task_id:str}/explain": None,
    "POST /api/tasks/{task_id:str}/cancel": None,
    "GET /api/tasks/chain/{chain_id:str}": None,
    "GET /api/tasks/chain/{chain_id:str}/graph": None,
    "POST /api/tasks/chain/{chain_id:str}/cancel": None,
    "POST /api/tasks/chain/{chain_id:str}/retry": None,
    "POST /api/keys/{key_id:str}/revoke": None,
}
"""Routes that name one object, with a body that fits: another tenant's is 404, as one that is not there."""

OF_MANY = {
    "GET /ains/agents": ("", "?limit=1", "?cursor=s"),
    "GET /ains/search": ("?capability=theirs.echo", "?name=theirs-agent", "?label=whose=theirs"),
    "GET /api/circuit-breaker/failures": ("", "?limit=1000"),
    "GET /api/circuit-breaker/health": ("",),
    "GET /api/history": ("", "?capability=theirs.echo", "?agent_id=theirs-agent"),
    "GET /api/scheduler/status": ("",),
    "GET /api/tasks": ("", "?capability=theirs.echo", "?status=COMPLETED", "?status=RUNNING", "?limit=1000"),
    "GET /api/tasks/chain": ("", "?status=RUNNING", "?limit=1000"),
    "GET /api/keys": ("",),
    "GET /api/keys/current": ("",),
    "GET /api/audit": ("", "?limit=1000"),
    "GET /api/info": ("",),
    "GET /openapi.json": ("",),
}
"""Routes that show many objects, with ways to ask: nothing of another tenant is in the answer."""

TRIED_BELOW = {
    "GET /api/events",
    "GET /metrics",
    "POST /ains/agents",
    "POST /api/keys",
    "POST /api/tasks",
    "POST /api/tasks/chain",
    "POST /api/tasks/parallel",
    # In test_server_sessions.
    "POST /api/sessions/codes",
    "DELETE /api/sessions/current",
}


class Stage(msgspec.Struct):
    """A server with two tenants; `theirs` has one of everything, all with that word in it."""

    api: Api
    ours: str
    theirs: str
    ids: dict[str, list[str]]
    gate: Gate

    def marks(self) -> set[str]:
        """What would betray them."""
        return {"theirs", *(each for ids in self.ids.values() for each in ids)}


@asynccontextmanager
async def two_tenants() -> AsyncIterator[Stage]:
    async with asking_a_server() as api:
        ours = await api.make_key("ours", *TENANT_SCOPES)
        theirs = await api.make_key("theirs", *TENANT_SCOPES)
        gate = Gate()
        await put_agents(api, gate, theirs.key.key_id)
        ended = await accepted(api, theirs.secret, {"id": "theirs-1", "capability": "theirs.echo"})
        await api.get(f"/api/tasks/chain/{ended}?wait_s=10", key=theirs.secret)
        broken = await accepted(
            api, theirs.secret, {"id": "theirs-1", "capability": "theirs.break", "idempotent": False}
        )
        await api.get(f"/api/tasks/chain/{broken}?wait_s=10", key=theirs.secret)
        runs = await accepted(api, theirs.secret, {"id": "theirs-1", "capability": "theirs.gate"})
        await gate.started.wait()
        ids = {
            "agent_id": ["theirs-agent", "theirs-gate", "theirs-broken"],
            "chain_id": [ended, broken, runs],
            "task_id": [f"{chain}.theirs-1" for chain in (ended, broken, runs)],
            "key_id": [theirs.key.key_id],
        }
        yield Stage(api, ours.secret, theirs.secret, ids, gate)
        gate.let_go.set()


async def put_agents(api: Api, gate: Gate, owner: str) -> None:
    for name, does in (
        ("agent", {"theirs.echo": echo}),
        ("gate", {"theirs.gate": gate}),
        ("broken", {"theirs.break": break_down}),
    ):
        profile = await api.node.add_agent(f"theirs-{name}", does)
        api.node.ains.put(
            msgspec.structs.replace(profile, tenant="theirs", owner=owner, labels={"whose": "theirs"})
        )  # fmt: skip


async def accepted(api: Api, key: str, task: dict[str, Any]) -> str:
    chain = {"name": "theirs chain", "tasks": [{"params": {"whose": "theirs"}, "deadline_s": 300, **task}]}
    answered = await api.post("/api/tasks/chain", chain, key=key)
    return str(answered.body["chain_id"])


def on_stage(test: Any) -> None:
    async def main() -> None:
        async with two_tenants() as stage:
            await test(stage)

    run(main)


async def asked(api: Api, route: str, name: str, key: str, *, query: str = "") -> Answered:
    method, _, template = route.partition(" ")
    path = re.sub(r"\{\w+:str\}", name, template) + query
    body = OF_ONE_OBJECT.get(route)
    if body is not None:
        return await api.post(path, body, key=key)
    return await api.send(method, path, key=key)


def test_every_route_is_tried_by_one_tenant_against_another() -> None:
    """A new route belongs into one of the tables above, or into a test of its own."""
    assert OF_ONE_OBJECT.keys() | OF_MANY.keys() | TRIED_BELOW | OPEN_ROUTES == set(routes())
    assert all("{" in route for route in OF_ONE_OBJECT)
    assert not any("{" in route for route in OF_MANY.keys() | TRIED_BELOW)


def test_objects_of_another_tenant_are_as_those_that_are_not() -> None:
    async def test(stage: Stage) -> None:
        for route in OF_ONE_OBJECT:
            (kind,) = re.findall(r"\{(\w+):str\}", route)
            for name in stage.ids[kind]:
                refused = await asked(stage.api, route, name, stage.ours)
                no_one = f"{UNKNOWN}.{name.partition('.')[2]}" if kind == "task_id" else UNKNOWN
                unknown = await asked(stage.api, route, no_one, stage.ours)
                assert (refused.status, unknown.status) == (404, 404), (route, refused.body)
                assert str(refused.body).replace(name, no_one) == str(unknown.body), route
        still = await stage.api.get("/ains/agents/theirs-agent", key=stage.theirs)
        assert (still.body["draining"], still.body["state"]) == (False, "CLOSED")
        chain_id = stage.ids["chain_id"][2]
        assert (await stage.api.get(f"/api/tasks/chain/{chain_id}", key=stage.theirs)).body["status"] == "RUNNING"

    on_stage(test)


def test_nothing_of_another_tenant_is_in_a_list_or_a_count() -> None:
    async def test(stage: Stage) -> None:
        for route, queries in OF_MANY.items():
            for query in queries:
                answered = await asked(stage.api, route, "", stage.ours, query=query)
                assert answered.status == 200, (route, query, answered.body)
                text = msgspec.json.encode(answered.body).decode()
                assert not [mark for mark in stage.marks() if mark in text], (route, query)
        status = (await stage.api.get("/api/scheduler/status", key=stage.ours)).body
        assert (status["agents_count"], status["current_load"], status["by_capability"]) == (0, 0, {})
        health = (await stage.api.get("/api/circuit-breaker/health", key=stage.ours)).body
        assert (health["total_agents"], health["open_circuits"], health["capabilities_out"]) == (0, 0, [])
        assert (await stage.api.get("/api/info", key=stage.ours)).body["unfinished_tasks"] == 0

    on_stage(test)


@pytest.mark.parametrize("who", ["theirs", "operator"])
def test_what_one_tenant_does_not_see_its_own_keys_and_the_operator_do(who: str) -> None:
    async def test(stage: Stage) -> None:
        key = stage.api.key if who == "operator" else stage.theirs
        for route, queries in OF_MANY.items():
            if route not in {"GET /openapi.json", "GET /api/info", "GET /api/keys/current"}:
                text = str((await asked(stage.api, route, "", key, query=queries[0])).body)
                assert [mark for mark in stage.marks() if mark in text], route
        assert (await stage.api.get("/api/info", key=key)).body["unfinished_tasks"] == 1
        for kind, route in (
            ("agent_id", "GET /ains/agents/{agent_id:str}"),
            ("task_id", "GET /api/tasks/{task_id:str}/explain"),
            ("chain_id", "GET /api/tasks/chain/{chain_id:str}/graph"),
        ):
            assert (await asked(stage.api, route, stage.ids[kind][0], key)).status == 200

    on_stage(test)


@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/chain"])
def test_place_in_another_tenants_list_is_none(path: str) -> None:
    async def test(stage: Stage) -> None:
        for name in (*stage.ids["chain_id"], *stage.ids["task_id"]):
            if path == "/api/tasks/chain" and "." in name:
                continue
            refused = await stage.api.get(f"{path}?cursor={name}", key=stage.ours)
            unknown = await stage.api.get(f"{path}?cursor={UNKNOWN}{name[32:]}", key=stage.ours)
            assert refused.status == 422
            assert str(refused.body).replace(name[:32], UNKNOWN) == str(unknown.body)

    on_stage(test)


def test_agents_of_another_tenant_do_nobody_elses_work() -> None:
    async def test(stage: Stage) -> None:
        task: dict[str, Any] = {"capability": "theirs.echo"}
        for path, body in (
            ("/api/tasks", task),
            ("/api/tasks/parallel", {"tasks": [task]}),
            ("/api/tasks/chain", {"tasks": [{"id": "a", **task}]}),
        ):
            refused = await stage.api.post(path, body, key=stage.ours)
            unknown = await stage.api.post(path, msgspec.json.decode(
                msgspec.json.encode(body).replace(b"theirs.echo", b"nobody.echo")
            ), key=stage.ours)  # fmt: skip
            assert (refused.status, refused.code) == (422, "no_capable_agent")
            assert str(refused.body).replace("theirs.echo", "nobody.echo") == str(unknown.body)

    on_stage(test)


def test_submit_key_of_another_tenant_is_free() -> None:
    async def test(stage: Stage) -> None:
        await stage.api.node.add_agent("ours-1", {"text.own": echo})
        stage.api.node.ains.put(msgspec.structs.replace(stage.api.node.ains.get("ours-1"), shared=True))
        ids = [
            (await stage.api.post("/api/tasks", {"capability": "text.own"}, key=key,
                                  headers={"Idempotency-Key": "same"})).body["task_id"]
            for key in (stage.ours, stage.theirs, stage.ours)
        ]  # fmt: skip
        assert ids[0] == ids[2] != ids[1]

    on_stage(test)


def test_live_events_are_of_ones_own_tenant_and_the_operator_hears_all() -> None:
    async def test(stage: Stage) -> None:
        api = stage.api
        async with (
            Client(api.url, stage.ours) as ours,
            Client(api.url, api.key) as operator,
            aclosing(ours.events()) as of_ours,
            aclosing(operator.events()) as of_all,
        ):
            hearing = [asyncio.create_task(heard_up_to_ours(each)) for each in (of_ours, of_all)]
            await until(lambda: readers_of(api) == 2)
            chain_id = await accepted(api, stage.theirs, {"id": "theirs-1", "capability": "theirs.echo"})
            await api.get(f"/api/tasks/chain/{chain_id}?wait_s=10", key=stage.theirs)
            await api.post("/api/circuit-breaker/open/theirs-agent", key=stage.theirs)
            profile = await api.node.add_agent("ours-1", {"ours.echo": break_down})
            api.node.ains.put(msgspec.structs.replace(profile, tenant="ours"))
            heard, by_operator = [await each for each in hearing]
        assert not [mark for mark in {*stage.marks(), chain_id} if mark in heard]
        assert "theirs-agent" in by_operator
        assert chain_id in by_operator

    async def heard_up_to_ours(events: Any) -> str:
        told = ""
        async for event in events:
            told += msgspec.json.encode(event).decode()
            if event.agent_id == "ours-1" and event.change == "updated":
                return told
        return told

    on_stage(test)


def test_metrics_are_for_keys_of_every_tenant() -> None:
    async def test(stage: Stage) -> None:
        refused = await stage.api.get("/metrics", key=stage.ours)
        assert (refused.status, refused.code) == (403, "scope_missing")
        scraper = await stage.api.new_key("*", Scope.METRICS_READ)
        page = await stage.api.get("/metrics", key=scraper)
        assert (page.status, "theirs.echo" in page.body) == (200, True)

    on_stage(test)


# -- whose an agent is


def registration(agent_id: str, **told: Any) -> dict[str, Any]:
    return {
        "endpoint": "http://127.0.0.1:9", "agent_id": agent_id, "instance_id": "1", "max_concurrent_tasks": 1,
        "capabilities": [{"name": "text.far"}], **told,
    }  # fmt: skip


def test_agent_id_that_another_tenant_uses_can_neither_be_taken_nor_looked_up() -> None:
    async def test(stage: Stage) -> None:
        refused = await stage.api.post("/ains/agents", registration("theirs-agent"), key=stage.ours)
        assert (refused.status, refused.code) == (409, "conflict")
        assert refused.body["detail"] == "The agent id 'theirs-agent' cannot be used here: choose another one."
        profile = stage.api.node.ains.get("theirs-agent")
        assert (profile.tenant, profile.endpoint) == ("theirs", None)
        assert (await stage.api.get("/ains/agents/theirs-agent", key=stage.ours)).status == 404

    on_stage(test)


def test_agent_is_the_keys_that_registered_it() -> None:
    async def test(api: Api) -> None:
        first, second = await api.make_key("acme"), await api.make_key("acme")
        boss = await api.new_key("acme", Scope.ADMIN)
        taken = await api.post("/ains/agents", registration("far-1"), key=first.secret)
        assert taken.status == 201
        shown = (await api.get("/ains/agents/far-1", key=second.secret)).body
        assert (shown["owner"], shown["tenant"]) == (first.key.key_id, "acme")
        heartbeat = {"instance_id": "1"}
        for method, path, body in (
            ("POST", "/ains/agents", registration("far-1", instance_id="2")),
            ("POST", "/ains/agents/far-1/heartbeat", heartbeat),
            ("POST", "/ains/agents/far-1/drain", None),
            ("DELETE", "/ains/agents/far-1", None),
        ):
            send = api.post(path, body, key=second.secret) if body else api.send(method, path, key=second.secret)
            refused = await send
            assert (refused.status, refused.code) == (403, "not_owner"), path
        assert api.node.ains.get("far-1").instance_id == "1"
        assert (await api.post("/api/circuit-breaker/open/far-1", key=second.secret)).status == 200
        for key in (first.secret, boss, api.key):
            assert (await api.post("/ains/agents/far-1/heartbeat", heartbeat, key=key)).status == 200
        for key in (boss, api.key):
            assert (await api.post("/ains/agents", registration("far-1", instance_id="3"), key=key)).status == 201
            profile = api.node.ains.get("far-1")
            assert (profile.owner, profile.tenant, profile.instance_id) == (first.key.key_id, "acme", "3")
        assert (await api.post("/ains/agents/far-1/drain", key=boss)).body["draining"]
        assert (await api.send("DELETE", "/ains/agents/far-1", key=first.secret)).status == 204

    with_api(test)


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_agent_whose_key_is_good_no_more_is_taken_over_by_another_of_its_tenant_only(how: str) -> None:
    async def test(api: Api) -> None:
        first = await api.make_key("acme", expires_in_s=0.5 if how == "expired" else None)
        second, stranger = await api.make_key("acme"), await api.new_key("other")
        assert (await api.post("/ains/agents", registration("far-1"), key=first.secret)).status == 201
        if how == "revoked":
            await api.post(f"/api/keys/{first.key.key_id}/revoke")
        await until(lambda: not api.keys.is_good(first.key.key_id))
        assert (await api.post("/ains/agents", registration("far-1"), key=stranger)).status == 409
        assert (await api.post("/ains/agents", registration("far-1"), key=second.secret)).status == 201
        profile = api.node.ains.get("far-1")
        assert (profile.owner, profile.tenant) == (second.key.key_id, "acme")

    with_api(test)


def test_agent_stays_its_tenants_however_often_the_operator_registers_it() -> None:
    async def test(api: Api) -> None:
        first = await api.make_key("acme")
        await api.post("/ains/agents", registration("far-1"), key=first.secret)
        await api.post(f"/api/keys/{first.key.key_id}/revoke")
        for _ in range(3):
            assert (await api.post("/ains/agents", registration("far-1"))).status == 201
            assert api.node.ains.get("far-1").tenant == "acme"

    with_api(test)


def test_agent_that_came_without_a_key_is_the_admins() -> None:
    async def test(api: Api) -> None:
        key = await api.new_key("default")
        assert (await api.get("/ains/agents/echo-1", key=key)).body["owner"] is None
        assert (await api.post("/ains/agents/echo-1/drain", key=key)).code == "not_owner"
        assert (
            await api.post("/ains/agents/echo-1/drain", key=await api.new_key("default", Scope.ADMIN))
        ).status == 200

    with_api(test)


def test_only_an_admin_of_every_tenant_shares_an_agent() -> None:
    async def test(api: Api) -> None:
        body = registration("far-1", shared=True)
        for key in (
            await api.new_key("acme"),
            await api.new_key("acme", Scope.ADMIN),
            await api.new_key("*", Scope.AGENTS_WRITE),
        ):
            refused = await api.post("/ains/agents", body, key=key)
            assert (refused.status, refused.code) == (403, "forbidden")
            assert "far-1" not in [agent["agent_id"] for agent in (await api.get("/ains/agents")).body["agents"]]
        assert (await api.post("/ains/agents", body, key=await api.new_key("*", Scope.ADMIN))).status == 201

    with_api(test)


def test_shared_agent_is_seen_and_used_by_all_and_operated_by_its_own_tenant() -> None:
    async def test(api: Api) -> None:
        profile = api.node.ains.get("echo-1")
        api.node.ains.put(msgspec.structs.replace(profile, shared=True))
        key = await api.new_key("acme", *TENANT_SCOPES)
        shown = (await api.get("/ains/agents/echo-1", key=key)).body
        assert (shown["shared"], shown["tenant"], shown["owner"]) == (True, None, None)
        task_id = (await api.post("/api/tasks", {"capability": "text.echo"}, key=key)).body["task_id"]
        assert (await api.get(f"/api/tasks/{task_id}?wait_s=10", key=key)).body["status"] == "COMPLETED"
        assert "echo-1" in (await api.get("/api/circuit-breaker/health", key=key)).body["agents"]
        assert (await api.get("/api/scheduler/status", key=key)).body["agents_count"] == 1
        for method, path in (
            ("POST", "/api/circuit-breaker/reset/echo-1"),
            ("POST", "/api/circuit-breaker/open/echo-1"),
            ("POST", "/api/circuit-breaker/disable/echo-1"),
            ("POST", "/ains/agents/echo-1/drain"),
            ("DELETE", "/ains/agents/echo-1"),
        ):
            refused = await api.send(method, path, key=key)
            assert (refused.status, refused.code) == (403, "not_owner"), path
        assert (await api.post("/ains/agents", registration("echo-1"), key=key)).code == "not_owner"

    with_api(test)


def test_failures_and_lines_are_counted_for_each_tenant_alone() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        for name, does in (("gate-1", {"text.gate": gate}), ("broken-1", {"text.break": break_down})):
            profile = await api.node.add_agent(name, does)
            api.node.ains.put(msgspec.structs.replace(profile, shared=True))
        one, two = await api.new_key("one"), await api.new_key("two")
        for key, tasks in ((one, 3), (two, 2)):
            for _ in range(tasks):
                await api.post("/api/tasks", {"capability": "text.gate"}, key=key)
            for _ in range(tasks):
                body = {"capability": "text.break", "idempotent": False}
                broken = (await api.post("/api/tasks", body, key=key)).body["task_id"]
                await api.get(f"/api/tasks/{broken}?wait_s=10", key=key)
        await gate.started.wait()
        depths, failures = [], []
        for key in (one, two, api.key):
            status = (await api.get("/api/scheduler/status", key=key)).body
            depths.append((status["queue_depth"], status["by_capability"]["text.gate"]["waiting"]["normal"]))
            failures.append(len((await api.get("/api/circuit-breaker/failures", key=key)).body))
            assert status["oldest_wait_s"] >= 0
        assert depths == [(2, 2), (2, 2), (4, 4)]
        assert failures == [3, 2, 5]
        gate.let_go.set()

    with_api(test)
