"""Every route of the server with good input, on a real socket."""

import asyncio
from datetime import datetime

import pytest

from aicp import Capability, Registration, TaskFailed
from aicp.model.access import Scope
from aicp.server.body import CHAIN_BYTES_MAX
from tests.integration.server_kit import Api, Gate, break_down, echoing_agent, with_api

TASK = {"capability": "text.echo", "params": {"text": "hello"}}
CHAIN = {
    "name": "two steps",
    "tasks": [
        {"id": "once", "capability": "text.echo", "params": {"text": "hello"}},
        {"id": "twice", "capability": "text.echo", "params": {"text": {"$result": "once", "path": "/text"}}},
    ],
}
SCHEDULER_FIELDS = {
    "agents_count", "total_capacity", "current_load", "utilization_percentage", "queue_depth", "oldest_wait_s",
    "by_capability",
}  # fmt: skip
HEALTH_FIELDS = {
    "total_agents", "healthy_agents", "open_circuits", "half_open_circuits", "capabilities_out", "agents",
}  # fmt: skip
AGENT_HEALTH_FIELDS = {
    "state", "failure_count", "success_count", "total_rejections", "retry_after_s", "backoff_s", "latency_ms",
    "success_rate", "capabilities",
}  # fmt: skip


async def submitted(api: Api, task: object = None) -> str:
    return str((await api.post("/api/tasks", task or TASK)).body["task_id"])


# -- tasks


def test_submitted_task_is_accepted_and_shows_its_result() -> None:
    async def test(api: Api) -> None:
        accepted = await api.post("/api/tasks", TASK)
        assert accepted.status == 202
        assert accepted.body["status"] == "PENDING"
        shown = await api.get(f"/api/tasks/{accepted.body['task_id']}?wait_s=10")
        assert shown.status == 200
        view = shown.body
        assert (view["status"], view["result"], view["agent_id"]) == ("COMPLETED", {"text": "hello"}, "echo-1")
        assert view["error"] is None
        assert view["attempts"][0].keys() >= {"agent_id", "outcome", "reason", "started_at", "ended_at"}
        assert view["attempts"][0]["outcome"] == "SUCCESS"
        assert view["timings"]["total_s"] > 0
        assert datetime.fromisoformat(view["attempts"][0]["ended_at"]).utcoffset() is not None

    with_api(test)


def test_slashes_that_joined_urls_have_do_no_harm() -> None:
    async def test(api: Api) -> None:
        task_id = (await api.post("/api/tasks?wait_s=10", TASK)).body["task_id"]
        own = f"Authorization: Bearer {api.key}"
        for path in (f"//api/tasks/{task_id}", f"/api/tasks/{task_id}/", "/api/tasks/", "//api/tasks", "//livez"):
            assert (await api.ask_as_written(f"GET {path}", own)).status == 200, path

    with_api(test)


def test_zeros_before_a_major_mean_nothing() -> None:
    async def test(api: Api) -> None:
        for capability in ("text.echo@01", "text.echo@000001", "text.echo@1"):
            ended = await api.post("/api/tasks?wait_s=10", {**TASK, "capability": capability})
            assert (ended.body["status"], ended.body["capability"]) == ("COMPLETED", capability)
            listed = await api.get(f"/api/tasks?capability={capability}")
            assert ended.body["task_id"] in {task["task_id"] for task in listed.body["tasks"]}

    with_api(test)


def test_submit_that_waits_answers_what_a_look_at_it_answers() -> None:
    async def test(api: Api) -> None:
        ended = await api.post("/api/tasks?wait_s=10", TASK)
        assert ended.status == 202
        assert (ended.body["status"], ended.body["result"]) == ("COMPLETED", {"text": "hello"})
        assert (await api.get(f"/api/tasks/{ended.body['task_id']}")).body == ended.body
        several = await api.post("/api/tasks/parallel?wait_s=10", {"tasks": [TASK, TASK]})
        assert (several.status, several.body["completed_tasks"]) == (202, 2)
        assert (await api.get(f"/api/tasks/chain/{several.body['chain_id']}")).body == several.body
        chain = await api.post("/api/tasks/chain?wait_s=10", CHAIN)
        assert (chain.status, chain.body["tasks"]["twice"]["result"]) == (202, {"text": "hello"})
        assert (await api.get(f"/api/tasks/chain/{chain.body['chain_id']}")).body == chain.body

    with_api(test)


def test_submit_whose_wait_runs_out_is_accepted_all_the_same() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate})
        answer = await api.post("/api/tasks?wait_s=0.05", {"capability": "text.gate"})
        assert (answer.status, answer.body["status"], answer.body["result"]) == (202, "RUNNING", None)
        gate.let_go.set()
        assert (await api.get(f"/api/tasks/{answer.body['task_id']}?wait_s=10")).body["status"] == "COMPLETED"

    with_api(test)


def test_repeated_submit_waits_for_the_task_that_its_key_made() -> None:
    async def test(api: Api) -> None:
        key = {"Idempotency-Key": "once"}
        first = await api.post("/api/tasks?wait_s=10", TASK, headers=key)
        again = await api.post("/api/tasks?wait_s=10", TASK, headers=key)
        assert again.body == first.body
        standing = await api.post("/api/tasks", TASK, headers=key)
        assert standing.body == {"task_id": first.body["task_id"], "status": "PENDING"}

    with_api(test)


def test_submit_that_waits_needs_a_key_that_may_read() -> None:
    async def test(api: Api) -> None:
        writer = await api.new_key("default", Scope.TASKS_SUBMIT)
        for place, body in (("", TASK), ("/parallel", {"tasks": [TASK]}), ("/chain", CHAIN)):
            refused = await api.post(f"/api/tasks{place}?wait_s=1", body, key=writer)
            assert (refused.status, refused.code) == (403, "scope_missing")
        assert (await api.get("/api/tasks")).body["tasks"] == []
        assert (await api.post("/api/tasks", TASK, key=writer)).status == 202

    with_api(test)


def test_wait_ends_with_the_task_and_not_with_its_time() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate})
        task_id = await submitted(api, {"capability": "text.gate"})
        waiting = asyncio.create_task(api.get(f"/api/tasks/{task_id}?wait_s=60"))
        await gate.started.wait()
        running = (await api.get(f"/api/tasks/{task_id}")).body
        assert (running["status"], running["agent_id"], running["attempts"]) == ("RUNNING", "gate-1", [])
        assert running["started_at"] is not None
        gate.let_go.set()
        assert (await waiting).body["status"] == "COMPLETED"

    with_api(test)


def test_wait_for_a_task_of_a_chain_ends_with_the_task_and_not_with_the_chain() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate})
        tasks = [
            {"id": "quick", "capability": "text.echo"},
            {"id": "slow", "capability": "text.gate", "depends_on": ["quick"]},
        ]
        chain_id = (await api.post("/api/tasks/chain", {"tasks": tasks})).body["chain_id"]
        assert (await api.get(f"/api/tasks/{chain_id}.quick?wait_s=60")).body["status"] == "COMPLETED"
        assert (await api.get(f"/api/tasks/chain/{chain_id}")).body["status"] == "RUNNING"
        gate.let_go.set()

    with_api(test)


def test_wait_for_a_task_that_gets_skipped_ends_with_its_chain() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate})
        tasks = [
            {"id": "gate", "capability": "text.gate"},
            {"id": "behind", "capability": "text.echo", "depends_on": ["gate"]},
        ]
        chain_id = (await api.post("/api/tasks/chain", {"tasks": tasks})).body["chain_id"]
        waiting = asyncio.create_task(api.get(f"/api/tasks/{chain_id}.behind?wait_s=60"))
        await gate.started.wait()
        await api.post(f"/api/tasks/chain/{chain_id}/cancel")
        assert (await waiting).body["status"] == "CANCELLED"

    with_api(test)


def test_wait_that_runs_out_answers_with_where_the_task_stands() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate})
        task_id = await submitted(api, {"capability": "text.gate"})
        assert (await api.get(f"/api/tasks/{task_id}?wait_s=0.05")).body["status"] == "RUNNING"
        gate.let_go.set()

    with_api(test)


def test_cancelled_task_stays_cancelled() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate})
        task_id = await submitted(api, {"capability": "text.gate"})
        await gate.started.wait()
        cancelled = await api.post(f"/api/tasks/{task_id}/cancel")
        assert (cancelled.status, cancelled.body) == (200, {"task_id": task_id, "status": "CANCELLED"})
        gate.let_go.set()
        assert (await api.get(f"/api/tasks/{task_id}?wait_s=5")).body["status"] == "CANCELLED"

    with_api(test)


def test_cancel_leaves_a_task_that_ended_as_it_is() -> None:
    async def test(api: Api) -> None:
        task_id = await submitted(api)
        await api.get(f"/api/tasks/{task_id}?wait_s=10")
        assert (await api.post(f"/api/tasks/{task_id}/cancel")).body["status"] == "COMPLETED"

    with_api(test)


def test_one_task_of_a_chain_is_not_cancelled_alone() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate}, max_concurrent_tasks=2)
        tasks = [{"id": name, "capability": "text.gate"} for name in ("a", "b")]
        chain_id = (await api.post("/api/tasks/chain", {"tasks": tasks})).body["chain_id"]
        refused = await api.post(f"/api/tasks/{chain_id}.a/cancel")
        assert (refused.status, refused.code) == (409, "conflict")
        assert chain_id in refused.body["detail"]
        gate.let_go.set()

    with_api(test)


def test_parallel_tasks_each_run_to_their_own_end() -> None:
    async def test(api: Api) -> None:
        await api.node.add_agent("broken-1", {"text.break": break_down})
        tasks = [TASK, {"capability": "text.break", "idempotent": False}, TASK]
        accepted = await api.post("/api/tasks/parallel", {"tasks": tasks})
        assert accepted.status == 202
        chain_id, task_ids = accepted.body["chain_id"], accepted.body["task_ids"]
        chain = (await api.get(f"/api/tasks/chain/{chain_id}?wait_s=10")).body
        assert chain["status"] == "FAILED"
        views = [(await api.get(f"/api/tasks/{task_id}")).body for task_id in task_ids]
        assert [view["status"] for view in views] == ["COMPLETED", "FAILED", "COMPLETED"]
        assert views[1]["error"]["code"]

    with_api(test)


LATE = {**TASK, "deadline_s": 1e-6}
"""No success is as fast as its deadline."""


@pytest.mark.parametrize(
    ("place", "body"),
    [
        ("", LATE),
        ("/parallel", {"tasks": [LATE, LATE]}),
        ("/chain", {"tasks": [{"id": "a", **LATE}, {"id": "b", **LATE, "depends_on": ["a"]}]}),
    ],
)
def test_answer_to_a_submit_that_will_probably_be_late_says_so(place: str, body: object) -> None:
    async def test(api: Api) -> None:
        unknown = await api.post(f"/api/tasks{place}", body)
        assert (unknown.status, unknown.body.keys() & {"expected_s", "warning"}) == (202, set())
        await api.post("/api/tasks?wait_s=10", TASK)
        for query in ("", "?wait_s=10"):
            late = await api.post(f"/api/tasks{place}{query}", body)
            assert late.status == 202
            assert late.body["expected_s"] > 1e-6
            assert late.body["warning"].endswith("raise deadline_s, or add agents for 'text.echo'.")
            chain_id = late.body.get("chain_id") or late.body["task_id"].partition(".")[0]
            look = (await api.get(f"/api/tasks/chain/{chain_id}?wait_s=10")).body
            assert look.keys() & {"expected_s", "warning"} == set()
        retried = (await api.post(f"/api/tasks/chain/{chain_id}/retry")).body
        assert retried["status"] == "PENDING"
        assert "raise deadline_s" in retried["warning"]
        in_time = await api.post(f"/api/tasks{place}", TASK if place == "" else {"tasks": [{"id": "a", **TASK}]})
        assert (in_time.status, in_time.body.keys() & {"expected_s", "warning"}) == (202, set())

    with_api(test)


# -- chains


def test_chain_passes_results_on_and_shows_every_task() -> None:
    async def test(api: Api) -> None:
        accepted = await api.post("/api/tasks/chain", CHAIN)
        assert accepted.status == 202
        assert accepted.body["status"] == "PENDING"
        view = (await api.get(f"/api/tasks/chain/{accepted.body['chain_id']}?wait_s=10")).body
        assert (view["status"], view["name"]) == ("COMPLETED", "two steps")
        assert (view["total_tasks"], view["completed_tasks"]) == (2, 2)
        assert view["edges"] == [["once", "twice"]]
        assert view["tasks"]["twice"]["result"] == {"text": "hello"}
        assert view["started_at"] <= view["ended_at"]
        assert view["chain_id"] == accepted.body["chain_id"]

    with_api(test)


def test_cancelled_chain_stops_what_runs_and_what_waits() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate})
        tasks = [{"id": "a", "capability": "text.gate"}, {"id": "b", "capability": "text.echo", "depends_on": ["a"]}]
        chain_id = (await api.post("/api/tasks/chain", {"tasks": tasks})).body["chain_id"]
        await gate.started.wait()
        cancelled = await api.post(f"/api/tasks/chain/{chain_id}/cancel")
        assert (cancelled.status, cancelled.body) == (200, {"chain_id": chain_id, "status": "CANCELLED"})
        view = (await api.get(f"/api/tasks/chain/{chain_id}?wait_s=5")).body
        assert {task["status"] for task in view["tasks"].values()} == {"CANCELLED"}

    with_api(test)


def test_retried_chain_is_a_new_one_that_does_only_what_is_left() -> None:
    async def test(api: Api) -> None:
        seen: list[str] = []

        async def second_time_lucky(params: dict[str, object]) -> object:
            seen.append(str(params["step"]))
            if seen.count("second") == 1 and params["step"] == "second":
                raise TaskFailed("not_yet", "Come again.")
            return params

        await api.node.add_agent("lucky", {"text.lucky": second_time_lucky})
        tasks = [
            {"id": "first", "capability": "text.lucky", "params": {"step": "first"}},
            {"id": "second", "capability": "text.lucky", "params": {"step": "second"}, "depends_on": ["first"]},
        ]
        first = (await api.post("/api/tasks/chain", {"tasks": tasks})).body["chain_id"]
        assert (await api.get(f"/api/tasks/chain/{first}?wait_s=10")).body["status"] == "FAILED"
        headers = {"Idempotency-Key": "again"}
        retried = await api.post(f"/api/tasks/chain/{first}/retry", headers=headers)
        assert (retried.status, retried.body["status"]) == (202, "PENDING")
        second = retried.body["chain_id"]
        assert second != first
        assert (await api.get(f"/api/tasks/chain/{second}?wait_s=10")).body["status"] == "COMPLETED"
        assert seen == ["first", "second", "second"]
        assert (await api.post(f"/api/tasks/chain/{first}/retry", headers=headers)).body["chain_id"] == second
        other = await api.post(f"/api/tasks/chain/{second}/retry", headers=headers)
        assert (other.status, other.code) == (409, "idempotency_conflict")
        assert (await api.post("/api/tasks/chain/nowhere/retry")).code == "chain_not_found"

    with_api(test)


def test_running_chain_cannot_be_retried() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate})
        tasks = [{"id": "x", "capability": "text.gate"}]
        chain_id = (await api.post("/api/tasks/chain", {"tasks": tasks})).body["chain_id"]
        refused = await api.post(f"/api/tasks/chain/{chain_id}/retry")
        assert (refused.status, refused.code) == (409, "conflict")
        gate.let_go.set()
        await api.get(f"/api/tasks/chain/{chain_id}?wait_s=10")

    with_api(test)


def test_chain_may_be_larger_than_other_bodies() -> None:
    async def test(api: Api) -> None:
        text = "x" * (CHAIN_BYTES_MAX - 4_096)
        body = {"tasks": [{"id": "a", "capability": "text.echo", "params": {"text": text}}]}
        accepted = await api.post("/api/tasks/chain", body)
        assert accepted.status == 202
        view = (await api.get(f"/api/tasks/chain/{accepted.body['chain_id']}?wait_s=20")).body
        assert view["tasks"]["a"]["result"]["text"] == text

    with_api(test)


# -- submits that are sent twice


@pytest.mark.parametrize(
    ("path", "body"), [("/api/tasks", TASK), ("/api/tasks/chain", CHAIN), ("/api/tasks/parallel", {"tasks": [TASK]})]
)
def test_same_idempotency_key_and_body_give_the_same_object(path: str, body: object) -> None:
    async def test(api: Api) -> None:
        headers = {"Idempotency-Key": "k-1"}
        first = await api.post(path, body, headers=headers)
        again = await api.post(path, body, headers=headers)
        other = await api.post(path, body, headers={"Idempotency-Key": "k-2"})
        assert (again.status, again.body) == (first.status, first.body)
        assert other.body != first.body

    with_api(test)


def test_same_idempotency_key_with_another_body_is_a_conflict() -> None:
    async def test(api: Api) -> None:
        headers = {"Idempotency-Key": "k-1"}
        await api.post("/api/tasks", TASK, headers=headers)
        refused = await api.post("/api/tasks", {**TASK, "params": {"text": "other"}}, headers=headers)
        assert (refused.status, refused.code) == (409, "idempotency_conflict")

    with_api(test)


def test_same_idempotency_key_on_another_route_is_a_conflict() -> None:
    async def test(api: Api) -> None:
        headers = {"Idempotency-Key": "k-1"}
        body = {"tasks": [{"id": "a", "capability": "text.echo"}]}
        await api.post("/api/tasks/chain", body, headers=headers)
        assert (await api.post("/api/tasks/parallel", body, headers=headers)).status == 409

    with_api(test)


def test_order_of_fields_does_not_make_another_body() -> None:
    async def test(api: Api) -> None:
        headers = {"Idempotency-Key": "k-1"}
        first = await api.post("/api/tasks", {"capability": "text.echo", "params": {"a": 1, "b": 2}}, headers=headers)
        again = await api.post("/api/tasks", {"params": {"b": 2, "a": 1}, "capability": "text.echo"}, headers=headers)
        assert again.body == first.body

    with_api(test)


# -- agents


def test_agent_registers_is_found_works_and_leaves() -> None:
    async def test(api: Api) -> None:
        async with echoing_agent().serving() as served:
            registered = await api.post("/ains/agents", {"endpoint": served.endpoint, "labels": {"gpu": "yes"}})
            assert registered.status == 201
            assert registered.body == {"agent_id": "eyes-1", "lease": {"ttl_s": 15.0, "heartbeat_every_s": 5.0}}
            shown = (await api.get("/ains/agents/eyes-1")).body
            assert (shown["endpoint"], shown["max_concurrent_tasks"]) == (served.endpoint, 4)
            assert (shown["liveness"], shown["labels"]) == ("HEARD", {"gpu": "yes"})
            assert shown["capabilities"][0]["name"] == "image.label"
            found = (await api.get("/ains/search?capability=image.label")).body["agents"]
            assert [agent["agent_id"] for agent in found] == ["eyes-1"]
            task_id = await submitted(api, {"capability": "image.label", "params": {"url": "x"}})
            assert (await api.get(f"/api/tasks/{task_id}?wait_s=10")).body["result"] == {"seen": {"url": "x"}}
            removed = await api.send("DELETE", "/ains/agents/eyes-1")
            assert (removed.status, removed.body) == (204, "")
            assert (await api.get("/ains/agents/eyes-1")).status == 404

    with_api(test)


def test_agent_of_the_sdk_registers_and_leaves_by_itself() -> None:
    async def test(api: Api) -> None:
        async with echoing_agent().serving(register=api.url, api_key=api.key) as served:
            await served.registered(10.0)
            assert (await api.get("/ains/agents/eyes-1")).body["instance_id"] == served.instance_id
        assert (await api.get("/ains/agents/eyes-1")).status == 404

    with_api(test)


def test_heartbeat_renews_the_lease_of_its_own_instance_only() -> None:
    async def test(api: Api) -> None:
        registration = {
            "endpoint": "http://127.0.0.1:9", "agent_id": "a-1", "instance_id": "one", "max_concurrent_tasks": 1,
            "capabilities": [{"name": "text.other"}],
        }  # fmt: skip
        await api.post("/ains/agents", registration)
        heard = await api.post("/ains/agents/a-1/heartbeat", {"instance_id": "one"})
        assert (heard.status, heard.body) == (200, {"lease": {"ttl_s": 15.0, "heartbeat_every_s": 5.0}})
        await api.post("/ains/agents", {**registration, "instance_id": "two"})
        replaced = await api.post("/ains/agents/a-1/heartbeat", {"instance_id": "one"})
        assert (replaced.status, replaced.code) == (409, "agent_replaced")
        unknown = await api.post("/ains/agents/nobody/heartbeat", {"instance_id": "one"})
        assert (unknown.status, unknown.code) == (404, "agent_not_found")

    with_api(test)


def test_agent_without_a_lease_is_never_expected_to_be_heard() -> None:
    async def test(api: Api) -> None:
        async with echoing_agent().serving() as served:
            registered = await api.post("/ains/agents", {"endpoint": served.endpoint, "lease": False})
            assert registered.body == {"agent_id": "eyes-1", "lease": None}
            assert (await api.post("/ains/agents/eyes-1/heartbeat", {"instance_id": "x"})).status == 404

    with_api(test)


def test_draining_agent_is_kept_and_gets_no_work() -> None:
    async def test(api: Api) -> None:
        drained = await api.post("/ains/agents/echo-1/drain")
        assert (drained.status, drained.body["draining"]) == (200, True)
        health = (await api.get("/api/circuit-breaker/health")).body
        assert health["capabilities_out"] == ["text.echo"]
        assert health["agents"]["echo-1"]["capabilities"]["text.echo"]["why_out"] == "draining"

    with_api(test)


def test_secrets_of_agents_are_never_shown() -> None:
    async def test(api: Api) -> None:
        async with echoing_agent().serving(token="s3cret-token") as served:
            body = {"endpoint": served.endpoint, "auth": {"bearer": "s3cret-token"}}
            registered = await api.post("/ains/agents", body)
            pages = ("/ains/agents", "/ains/agents/eyes-1", "/ains/search?capability=image.label")
            shown = [await api.get(page) for page in (*pages, "/api/circuit-breaker/health")]
            assert registered.status == 201
            assert "s3cret-token" not in repr([registered, *shown])

    with_api(test)


def test_agents_are_found_by_capability_name_and_labels_together() -> None:
    async def test(api: Api) -> None:
        for number, zone in enumerate("xxy"):
            labels = {"zone": zone, "odd": str(number % 2), "note": "a=b&c"}
            await api.node.add_agent(f"z-{number}", {"text.zoned@2": break_down}, labels=labels)
        await api.node.ains.register(
            Registration("http://127.0.0.1:9", "far", "1", "the far one", None, (Capability("text.zoned", "2.1"),), 1)
        )

        async def found(query: str) -> list[str]:
            page = await api.get(f"/ains/search?{query}")
            assert page.status == 200, page.body
            return [agent["agent_id"] for agent in page.body["agents"]]

        assert await found("capability=text.zoned@2") == ["far", "z-0", "z-1", "z-2"]
        assert await found("capability=text.zoned") == []
        assert await found("label=zone=x") == ["z-0", "z-1"]
        assert await found("label=zone=x&label=odd=1") == ["z-1"]
        assert await found("label=note=a%3Db%26c&limit=10") == ["z-0", "z-1", "z-2"]
        assert await found("name=the%20far%20one") == ["far"]
        assert await found("name=far") == []
        assert await found("name=z-2&capability=text.zoned@2&label=zone=y") == ["z-2"]
        assert await found("name=z-2&label=zone=x") == []

    with_api(test)


@pytest.mark.parametrize(
    ("query", "place", "told"),
    [
        ("label=zone", "?label", "must be key=value"),
        ("label=a=1&label=a=2", "?label", "each key once"),
        ("label=a=1&name=x&name=y", "?name", "more than once"),
        ("name=", "?capability", "must be a dotted name"),
        ("lable=a=1&name=x", "?lable", "is no parameter"),
    ],
)
def test_search_that_cannot_be_meant_is_refused_with_its_place(query: str, place: str, told: str) -> None:
    async def test(api: Api) -> None:
        refused = await api.get(f"/ains/search?{query}")
        assert (refused.status, refused.code) == (422, "invalid_input")
        assert told in refused.faults[place]

    with_api(test)


def test_agent_shows_how_it_does_and_why_it_is_out() -> None:
    async def test(api: Api) -> None:
        registration = Registration("http://127.0.0.1:9", "far", "1", "", None, (Capability("text.far"),), 1)
        await api.node.ains.register(registration)
        assert (await api.get("/ains/agents/far")).body["silent_s"] >= 0
        done = await submitted(api, {"capability": "text.echo"})
        await api.get(f"/api/tasks/{done}?wait_s=10")
        shown = (await api.get("/ains/agents/echo-1")).body
        assert (shown["lease"], shown["silent_s"], shown["success_rate"], shown["why_out"]) == (False, None, 1.0, {})
        assert shown["latency_ms"] > 0
        await api.post("/ains/agents/echo-1/drain")
        assert (await api.get("/ains/agents/echo-1")).body["why_out"] == {"text.echo": "draining"}

    with_api(test)


def test_agents_are_listed_by_id_page_by_page() -> None:
    async def test(api: Api) -> None:
        for number in range(5):
            await api.node.add_agent(f"a-{number}", {"text.many": break_down})
        seen: list[str] = []
        cursor: str | None = ""
        while cursor is not None:
            page = (await api.get(f"/ains/agents?limit=2&cursor={cursor}")).body
            seen += [agent["agent_id"] for agent in page["agents"]]
            cursor = page["next_cursor"]
        assert seen == ["a-0", "a-1", "a-2", "a-3", "a-4", "echo-1"]

    with_api(test)


# -- the fleet


def test_health_counts_agents_and_circuits_and_names_what_has_nobody() -> None:
    async def test(api: Api) -> None:
        await api.node.add_agent("broken-1", {"text.break": break_down})
        for _ in range(20):
            task_id = await submitted(api, {"capability": "text.break", "idempotent": False})
            assert (await api.get(f"/api/tasks/{task_id}?wait_s=10")).body["status"] == "FAILED"
        health = (await api.get("/api/circuit-breaker/health")).body
        assert health.keys() >= HEALTH_FIELDS
        assert (health["total_agents"], health["healthy_agents"], health["open_circuits"]) == (2, 1, 1)
        assert health["capabilities_out"] == ["text.break"]
        broken = health["agents"]["broken-1"]
        assert broken.keys() >= AGENT_HEALTH_FIELDS
        assert (broken["state"], broken["failure_count"]) == ("OPEN", 20)

    with_api(test)


def test_failures_are_told_newest_first_and_limited() -> None:
    async def test(api: Api) -> None:
        await api.node.add_agent("broken-1", {"text.break": break_down})
        ids = []
        for _ in range(3):
            ids.append(await submitted(api, {"capability": "text.break", "idempotent": False}))
            await api.get(f"/api/tasks/{ids[-1]}?wait_s=10")
        failures = (await api.get("/api/circuit-breaker/failures?limit=2")).body
        assert [failure["task_id"] for failure in failures] == [ids[2], ids[1]]
        failure = failures[0]
        assert failure.keys() >= {"task_id", "agent_id", "capability", "outcome", "reason", "timestamp"}
        assert (failure["agent_id"], failure["capability"], failure["outcome"]) == (
            "broken-1", "text.break", "AGENT_FAULT",
        )  # fmt: skip
        assert "lost the model" in failure["reason"]

    with_api(test)


def test_reset_closes_an_open_circuit_at_once() -> None:
    async def test(api: Api) -> None:
        api.node.board.record_evidence("echo-1", ["text.echo"] * 5)
        api.node.scheduler.refresh("echo-1")
        assert (await api.get("/api/circuit-breaker/health")).body["agents"]["echo-1"]["state"] == "OPEN"
        done = await api.post("/api/circuit-breaker/reset/echo-1")
        assert (done.status, done.body) == (200, {"agent_id": "echo-1", "state": "CLOSED"})
        task_id = await submitted(api)
        assert (await api.get(f"/api/tasks/{task_id}?wait_s=0.9")).body["status"] == "COMPLETED"

    with_api(test)


def test_scheduler_status_tells_capacity_load_and_lines() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate}, max_concurrent_tasks=1)
        for _ in range(3):
            await submitted(api, {"capability": "text.gate"})
        await gate.started.wait()
        status = (await api.get("/api/scheduler/status")).body
        assert status.keys() >= SCHEDULER_FIELDS
        assert (status["agents_count"], status["total_capacity"], status["current_load"]) == (2, 9, 1)
        assert status["utilization_percentage"] == pytest.approx(100 / 9, abs=0.01)
        assert status["queue_depth"] == 2
        assert status["by_capability"]["text.gate"]["queue_depth"] == 2
        gate.let_go.set()

    with_api(test)


def test_info_says_that_the_journal_is_not_durable() -> None:
    async def test(api: Api) -> None:
        info = (await api.get("/api/info")).body
        assert (info["name"], info["durable"], info["unfinished_tasks"]) == ("aicp", False, 0)
        assert info["version"]

    with_api(test)


def test_livez_answers_one_word_to_anybody() -> None:
    async def test(api: Api) -> None:
        async with api.session.get(f"{api.url}/livez") as response:
            assert (response.status, await response.text()) == (200, "ok")

    with_api(test)
