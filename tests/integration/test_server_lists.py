"""Lists, drawings and traces of the server, on a real socket; and that tenants do not see one another."""

import asyncio
from typing import Any
from urllib.parse import quote

import msgspec
import pytest

from aicp.model.agent import Registration
from aicp.model.trace import parse_traceparent
from aicp.testing.faulty_servers import FaultyServer, answers
from tests.integration.server_kit import Api, Gate, break_down, with_api

TASK = {"capability": "text.echo", "params": {"text": "hello"}}
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"
LISTED_TASK_FIELDS = {
    "task_id", "chain_id", "capability", "status", "error", "agent_id", "attempts", "timings", "submitted_at",
    "ready_at", "started_at", "ended_at", "kind", "phase",
}  # fmt: skip
LISTED_CHAIN_FIELDS = {"chain_id", "name", "status", "total_tasks", "started_at", "ended_at", "retry_of"}


async def submitted_chain(api: Api, *tasks: dict[str, Any], wait_s: float = 10, name: str = "", **request: Any) -> str:
    """The id of a chain that was submitted; it has ended by then, unless `wait_s` is 0."""
    accepted = await api.post("/api/tasks/chain", {"tasks": tasks, "name": name}, **request)
    chain_id = accepted.body["chain_id"]
    await api.get(f"/api/tasks/chain/{chain_id}?wait_s={wait_s}", **request)
    return str(chain_id)


async def pages_of(api: Api, path: str, field: str) -> list[Any]:
    """What is listed on every page, one after the other."""
    found: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await api.get(f"{path}&cursor={cursor}")).body
        assert page.keys() == {field, "next_cursor"}
        found += page[field]
        cursor = page["next_cursor"]
    return found


# -- lists


def test_tasks_are_listed_newest_chain_first_page_by_page() -> None:
    async def test(api: Api) -> None:
        single = (await api.post("/api/tasks", TASK)).body["task_id"]
        tasks = [{**TASK, "id": name} for name in ("z", "a", "m")]
        chain_id = await submitted_chain(api, *tasks)
        expected = [f"{chain_id}.{name}" for name in ("z", "a", "m")] + [single]
        for limit in (1, 2, 3, 4, 1_000):
            found = await pages_of(api, f"/api/tasks?limit={limit}", "tasks")
            assert [task["task_id"] for task in found] == expected
        assert all(task.keys() == LISTED_TASK_FIELDS for task in found)
        assert found[0]["chain_id"] == chain_id
        assert found[0]["attempts"][0]["outcome"] == "SUCCESS"

    with_api(test)


def test_tasks_are_listed_by_status_and_capability() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate})
        await api.node.add_agent("broken-1", {"text.break": break_down})
        tasks: list[dict[str, Any]] = [
            {"id": "quick", "capability": "text.echo"},
            {"id": "broken", "capability": "text.break", "idempotent": False, "on_failure": {"continue": 1}},
            {"id": "slow", "capability": "text.gate", "depends_on": ["quick", "broken"]},
            {"id": "behind", "capability": "text.echo@1", "depends_on": ["slow"]},
        ]
        chain_id = await submitted_chain(api, *tasks, wait_s=0)
        await gate.started.wait()
        for query, expected in (
            ("status=COMPLETED", ["quick"]), ("status=FAILED", ["broken"]), ("status=RUNNING", ["slow"]),
            ("status=PENDING", ["behind"]), ("capability=text.echo", ["quick", "behind"]),
            ("phase=at_agent", ["slow"]), ("phase=waiting", ["behind"]), ("phase=in_line", []),
            ("phase=accepted&status=RUNNING", []), ("phase=waiting&status=COMPLETED", []),
            ("capability=text.echo&status=PENDING", ["behind"]), ("capability=text.other", []),
        ):  # fmt: skip
            found = await pages_of(api, f"/api/tasks?limit=1&{query}", "tasks")
            assert [task["task_id"] for task in found] == [f"{chain_id}.{name}" for name in expected]
        gate.let_go.set()

    with_api(test)


def test_chains_are_listed_newest_first_by_status_and_page_by_page() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate})
        ended = [await submitted_chain(api, {**TASK, "id": "a"}) for _ in range(3)]
        slow = await submitted_chain(api, {"id": "a", "capability": "text.gate"}, wait_s=0)
        await gate.started.wait()
        for query, expected in (
            ("", [slow, *ended[::-1]]), ("status=COMPLETED", ended[::-1]), ("status=RUNNING", [slow]),
            ("status=PENDING", []), ("status=SKIPPED", []),
        ):  # fmt: skip
            for limit in (1, 2, 100):
                found = await pages_of(api, f"/api/tasks/chain?limit={limit}&{query}".rstrip("&"), "chains")
                assert [chain["chain_id"] for chain in found] == expected
        gate.let_go.set()
        retried = (await api.post(f"/api/tasks/chain/{ended[0]}/retry")).body["chain_id"]
        newest = (await api.get("/api/tasks/chain?limit=1")).body["chains"][0]
        assert newest.keys() == LISTED_CHAIN_FIELDS
        assert (newest["chain_id"], newest["retry_of"]) == (retried, ended[0])
        assert (await api.get(f"/api/tasks/chain/{retried}")).body["retry_of"] == ended[0]

    with_api(test)


def test_chains_are_listed_by_the_beginning_of_their_name_and_by_a_time() -> None:
    async def test(api: Api) -> None:
        named = ["image label", "image", "text", ""]
        chains = {name: await submitted_chain(api, {**TASK, "id": "a"}, name=name) for name in named}
        listed = (await api.get("/api/tasks/chain")).body["chains"]
        first, *_, last = [quote(chain["started_at"]) for chain in reversed(listed)]
        for query, expected in (
            ("name=image", ["image", "image label"]), ("name=", named[::-1]), ("name=image%20", ["image label"]),
            ("name=%25", []), (f"from={first}", named[::-1]), (f"to={first}", []), (f"from={last}", [""]),
            (f"from={first}&to={last}", named[2::-1]), (f"name=i&to={last}", ["image", "image label"]),
            (f"from={first}&status=RUNNING", []), (f"name=t&from={first}&status=COMPLETED", ["text"]),
        ):  # fmt: skip
            for limit in (1, 100):
                found = await pages_of(api, f"/api/tasks/chain?limit={limit}&{query}", "chains")
                assert [chain["chain_id"] for chain in found] == [chains[name] for name in expected], query

    with_api(test)


@pytest.mark.parametrize(
    ("query", "place", "told"),
    [
        ("from=yesterday", "?from", "'yesterday' is no time: write it like 2026-01-02T03:04:05Z"),
        ("to=2026-01-02T03:04:05", "?to", "'2026-01-02T03:04:05' has no zone: end it with Z for UTC"),
        ("to=2026-01-02T03:04:05+01:00", "?to", "and a + as %2B"),
        ("from=0001-01-01T00:00:00%2B14:00", "?from", "is no time"),
        ("from=2026-01-02T00:00:00Z&to=2026-01-02T00:00:00Z", "?to", "must be later than ?from"),
        ("name=" + "n" * 257, "?name", "is longer than 256 characters"),
        ("submitted_from=2026-01-02T00:00:00Z", "?submitted_from", "it takes cursor, from, limit, name, status, to"),
    ],
)
def test_what_is_no_time_or_name_of_chains_is_refused_with_what_to_write(query: str, place: str, told: str) -> None:
    async def test(api: Api) -> None:
        refused = await api.get(f"/api/tasks/chain?{query}")
        (fault,) = refused.body["faults"]
        assert (refused.status, fault["place"]) == (422, place)
        assert told in fault["message"]

    with_api(test)


def test_pages_stay_as_they_are_while_new_work_arrives() -> None:
    async def test(api: Api) -> None:
        expected = [(await api.post("/api/tasks", TASK)).body["task_id"] for _ in range(9)][::-1]
        found: list[str] = []
        cursor = ""
        while len(found) < len(expected):
            page = (await api.get(f"/api/tasks?limit=2&cursor={cursor}")).body
            found += [task["task_id"] for task in page["tasks"]]
            cursor = page["next_cursor"]
            await asyncio.gather(*(api.post("/api/tasks", TASK) for _ in range(5)))
        assert found == expected
        assert cursor is None

    with_api(test)


# -- drawings


def test_chain_is_drawn_for_mermaid_with_every_attempt() -> None:
    async def test(api: Api) -> None:
        await api.node.add_agent("broken-1", {"text.break": break_down})
        tasks: list[dict[str, Any]] = [
            {"id": "end", "capability": "text.echo"},
            {"id": "b", "capability": "text.break", "idempotent": False, "depends_on": ["end"]},
            {"id": "c", "capability": "text.echo", "depends_on": ["b"]},
        ]
        chain_id = await submitted_chain(api, *tasks)
        drawn = await api.get(f"/api/tasks/chain/{chain_id}/graph")
        assert (drawn.status, drawn.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        lines = drawn.body.splitlines()
        assert lines[0] == "flowchart LR"
        assert {"  t0 --> t1", "  t1 --> t2", "  class t1 failed", "  class t2 skipped"} <= set(lines)
        assert "broken-1 AGENT_FAULT" in lines[2]

    with_api(test)


# -- traces


@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/parallel", "/api/tasks/chain"])
@pytest.mark.parametrize("header", [TRACEPARENT, None, "nonsense"])
def test_agent_is_told_the_trace_of_whoever_submitted(path: str, header: str | None) -> None:
    async def test(api: Api) -> None:
        async with FaultyServer(answers()) as server:
            await api.node.ains.register(registration(server.url))
            task = {"capability": "text.far", "id": "a"} if path.endswith("chain") else {"capability": "text.far"}
            body = task if path == "/api/tasks" else {"tasks": [task]}
            headers = {} if header is None else {"traceparent": header}
            accepted = (await api.post(path, body, headers=headers)).body
            chain_id = accepted.get("chain_id") or accepted["task_id"].partition(".")[0]
            await api.get(f"/api/tasks/chain/{chain_id}?wait_s=10")
            told = next(each for each in server.requests if each.path == "/invoke").headers["traceparent"]
            assert parse_traceparent(told) == told
            assert told[3:35] == (TRACE if header == TRACEPARENT else chain_id)
            assert told[36:52] != TRACEPARENT[36:52]

    with_api(test)


def registration(endpoint: str) -> Registration:
    raw = {
        "endpoint": endpoint, "agent_id": "far-1", "max_concurrent_tasks": 1, "capabilities": [{"name": "text.far"}],
        "lease": False,
    }  # fmt: skip
    return msgspec.convert(raw, Registration)


# -- tenants


async def share_agents(api: Api) -> None:
    for profile in list(api.node.ains.agents()):
        api.node.ains.put(msgspec.structs.replace(profile, shared=True))


def test_whatever_a_tenant_asks_another_tenants_work_is_not_there() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate})
        await share_agents(api)
        ours, theirs = await api.new_key("ours"), await api.new_key("theirs")
        over = await submitted_chain(api, {"id": "a", **TASK}, key=theirs)
        runs = await submitted_chain(api, {"id": "a", "capability": "text.gate"}, wait_s=0, key=theirs)
        await gate.started.wait()
        nothing = "0" * 32
        for method, path in (
            ("GET", "/api/tasks/{}.a"), ("GET", "/api/tasks/{}.a/explain"), ("POST", "/api/tasks/{}.a/cancel"),
            ("GET", "/api/tasks/chain/{}"), ("GET", "/api/tasks/chain/{}?wait_s=1"),
            ("GET", "/api/tasks/chain/{}/graph"), ("POST", "/api/tasks/chain/{}/cancel"),
            ("POST", "/api/tasks/chain/{}/retry"),
            ("GET", "/api/tasks?cursor={}.a"), ("GET", "/api/tasks?cursor={}"), ("GET", "/api/tasks/chain?cursor={}"),
        ):  # fmt: skip
            for chain_id in (over, runs):
                refused = await api.send(method, path.format(chain_id), key=ours)
                unknown = await api.send(method, path.format(nothing), key=ours)
                assert refused.status in {404, 422}
                told = msgspec.json.encode(refused.body).replace(chain_id.encode(), nothing.encode())
                assert told == msgspec.json.encode(unknown.body)
        for key in (theirs, api.key):
            assert (await api.get(f"/api/tasks/chain/{runs}", key=key)).body["status"] == "RUNNING"
            assert (await api.get(f"/api/tasks/{over}.a", key=key)).body["status"] == "COMPLETED"
        gate.let_go.set()

    with_api(test)


def test_lists_show_a_tenant_its_own_work_only() -> None:
    async def test(api: Api) -> None:
        await share_agents(api)
        keys = [await api.new_key(tenant) for tenant in ("ours", "theirs")]
        chains = {key: [await submitted_chain(api, {"id": "a", **TASK}, key=key) for _ in range(3)] for key in keys}
        for key, own in chains.items():
            listed = (await api.get("/api/tasks/chain", key=key)).body["chains"]
            assert [chain["chain_id"] for chain in listed] == own[::-1]
            for query in ("", "?status=COMPLETED", "?capability=text.echo", f"?cursor={own[2]}.a&limit=2"):
                tasks = (await api.get(f"/api/tasks{query}", key=key)).body["tasks"]
                assert {task["chain_id"] for task in tasks} <= set(own)
                assert len(tasks) == (2 if "cursor" in query else 3)
        everybodys = (await api.get("/api/tasks")).body["tasks"]
        assert {task["chain_id"] for task in everybodys} == {chain for own in chains.values() for chain in own}

    with_api(test)
