"""Keys over HTTP: what they open, how much, until when, and what is kept of their use."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec.structs import replace

from aicp.client import Client
from aicp.errors import CapabilityRefused, Conflict, Forbidden, InvalidInput, KeyNotFound, QueueFull, StorageError
from aicp.model.access import AuditRecord, KeyLimits, KeyRequest, Scope
from aicp.model.task import Task, TaskStatus
from aicp.runtime.node import Node
from aicp.runtime.settings import Settings
from aicp.server import running_server
from aicp.storage.memory_access import MemoryAuditLog
from tests.integration.server_kit import Answered, Api, Gate, echo, run, until, with_api

ECHO = {"capability": "text.echo", "params": {"text": "hello"}}
WITHIN_S = 20.0


@asynccontextmanager
async def serving(directory: Path, **agents: Any) -> AsyncIterator[Api]:
    """A server on a SQLite file, with agents of its own process."""
    async with Node(database=f"sqlite:///{directory / 'a.db'}") as node:
        for name, handler in (agents or {"echo": echo}).items():
            await node.add_agent(f"{name}-1", {f"text.{name}": handler}, max_concurrent_tasks=8)
        settings = Settings(port=0, data_dir=directory)
        async with running_server(settings, node) as server, aiohttp.ClientSession() as session:
            yield Api(server, node, session)


async def until_status(status: int, ask: Callable[[], Awaitable[Answered]]) -> Answered:
    """The first answer with this status, of those to a question that is asked again and again."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            answered = await ask()
            if answered.status == status:
                return answered
            await asyncio.sleep(0.02)


def client_of(api: Api, key: str | None = None) -> Client:
    return Client(api.url, key or api.key, retries_max=0)


# -- made, listed, revoked


def test_key_is_made_listed_and_revoked_with_the_client() -> None:
    async def test(api: Api) -> None:
        async with client_of(api) as admin:
            request = KeyRequest(
                "billing", ("tasks:submit", "tasks:read"), "acme", 3600.0, ("text.echo",), KeyLimits(5.0, 2, 10)
            )
            made = await admin.create_key(request)
            assert (made.key.tenant, made.key.limits, made.key.capabilities) == (
                "acme", KeyLimits(5.0, 2, 10), ("text.echo",)
            )  # fmt: skip
            assert await admin.list_keys() == [made.key]
            async with client_of(api, made.secret) as billing:
                assert (await billing.info()).name == "aicp"
                with pytest.raises(Forbidden, match="admin"):
                    await billing.list_keys()
            revoked = await admin.revoke_key(made.key.key_id)
            assert revoked.revoked_at is not None
            assert await admin.revoke_key(made.key.key_id) == revoked
            assert (await api.get("/api/info", key=made.secret)).status == 401
            assert [key.revoked_at for key in await admin.list_keys()] == [revoked.revoked_at]
            with pytest.raises(KeyNotFound, match="nobody"):
                await admin.revoke_key("nobody")
            with pytest.raises(KeyNotFound, match="admin"):
                await admin.revoke_key("admin")
            with pytest.raises(InvalidInput, match=r"no\.such"):
                await admin.create_key(KeyRequest("x", ("no.such",)))

    with_api(test)


def test_secret_is_told_once_and_is_in_no_list_and_no_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as api:
            made = await api.post("/api/keys", {"name": "a", "scopes": ["tasks:read"]})
            secret = made.body["secret"]
            assert made.status == 201
            assert made.headers["cache-control"] == "no-store"
            assert (await api.get("/api/tasks", key=secret)).status == 200
            for path in ("/api/keys", "/api/audit", "/openapi.json", "/metrics"):
                assert secret not in str((await api.get(path)).body)
        secrets.append(secret)

    secrets: list[str] = []
    run(main)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert tmp_path / "a.db" in files
    assert not [file for file in files if secrets[0].encode() in file.read_bytes()]


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"scopes": ["tasks:read"]}, "/name"),
        ({"name": "a"}, "/scopes"),
        ({"name": "a", "scopes": "tasks:read"}, "/scopes"),
        ({"name": "a", "scopes": []}, "/scopes"),
        ({"name": "a", "scopes": ["root"]}, "/scopes/0"),
        ({"name": "a", "scopes": ["admin"], "tenant": "a/b"}, "/tenant"),
        ({"name": "a", "scopes": ["admin"], "tenant": None, "expires_in_s": 0}, "/expires_in_s"),
        ({"name": "a", "scopes": ["admin"], "expires_in_s": "1d"}, "/expires_in_s"),
        ({"name": "a", "scopes": ["admin"], "limits": {"rate": 5}}, "/limits/rate"),
        ({"name": "a", "scopes": ["admin"], "limits": {"queue": 1.5}}, "/limits/queue"),
        ({"name": "a", "scopes": ["admin"], "limits": {"concurrency": 10**30}}, "/limits/concurrency"),
        ({"name": "a", "scopes": ["admin"], "key_id": "mine"}, "/key_id"),
    ],
    ids=str,
)
def test_request_for_a_key_that_cannot_be_is_refused_with_its_place(body: dict[str, Any], place: str) -> None:
    async def test(api: Api) -> None:
        refused = await api.post("/api/keys", body)
        assert (refused.status, refused.code) == (422, "invalid_input")
        assert set(refused.faults) == {place}
        assert (await api.get("/api/keys")).body == {"keys": []}

    with_api(test)


def test_admin_of_a_tenant_cannot_reach_beyond_it() -> None:
    async def test(api: Api) -> None:
        boss = await api.new_key("acme", Scope.ADMIN)
        other = await api.make_key("other")
        for tenant in ("*", "other", "default"):
            body = {"name": "more", "scopes": ["admin"], "tenant": tenant}
            refused = await api.post("/api/keys", body, key=boss)
            assert (refused.status, refused.code) == (403, "forbidden")
        made = await api.post("/api/keys", {"name": "worker", "scopes": ["admin"]}, key=boss)
        assert made.body["key"]["tenant"] == "acme"
        listed = (await api.get("/api/keys", key=boss)).body["keys"]
        assert {key["tenant"] for key in listed} == {"acme"}
        refused = await api.post(f"/api/keys/{other.key.key_id}/revoke", key=boss)
        unknown = await api.post("/api/keys/nobody/revoke", key=boss)
        assert (refused.status, unknown.status) == (404, 404)
        assert refused.body["detail"].replace(other.key.key_id, "nobody") == unknown.body["detail"]
        assert (await api.get("/metrics", key=boss)).code == "scope_missing"
        assert (await api.get("/api/info", key=other.secret)).status == 200

    with_api(test)


# -- until when


def test_key_expires() -> None:
    async def test(api: Api) -> None:
        key = await api.new_key("acme", Scope.TASKS_READ, expires_in_s=1.0)
        assert (await api.get("/api/tasks", key=key)).status == 200
        answered = await until_status(401, lambda: api.get("/api/tasks", key=key))
        assert (answered.status, answered.code) == (401, "access_denied")
        assert answered.headers["www-authenticate"].startswith("Bearer")

    with_api(test)


@pytest.mark.parametrize("how", ["revoked", "expired"])
def test_live_events_end_with_their_key(how: str) -> None:
    async def test(api: Api) -> None:
        made = await api.make_key("acme", Scope.TASKS_READ, expires_in_s=1.0 if how == "expired" else None)
        headers = {"Authorization": f"Bearer {made.secret}"}
        async with api.session.get(f"{api.url}/api/events", headers=headers) as response:
            assert response.status == 200
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            assert (await response.content.readline()).startswith(b"id: ")
            if how == "revoked":
                await api.post(f"/api/keys/{made.key.key_id}/revoke")
            async with asyncio.timeout(WITHIN_S):
                await response.content.read()
        async with client_of(api, made.secret) as client, aclosing(client.events()) as events:
            with pytest.raises(Exception, match="key"):
                await anext(events)

    with_api(test)


def test_keys_and_owners_survive_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as api:
            good, revoked = await api.make_key("acme"), await api.make_key("acme")
            await api.post(f"/api/keys/{revoked.key.key_id}/revoke")
            registration = {"endpoint": "http://127.0.0.1:9", "agent_id": "far-1", "max_concurrent_tasks": 1,
                            "capabilities": [{"name": "text.far"}], "instance_id": "1"}  # fmt: skip
            assert (await api.post("/ains/agents", registration, key=good.secret)).status == 201
        async with serving(tmp_path) as api:
            assert (await api.get("/api/tasks", key=good.secret)).status == 200
            assert (await api.get("/api/tasks", key=revoked.secret)).status == 401
            shown = (await api.get("/ains/agents/far-1", key=good.secret)).body
            assert (shown["owner"], shown["tenant"]) == (good.key.key_id, "acme")
            another = await api.new_key("acme")
            assert (await api.send("DELETE", "/ains/agents/far-1", key=another)).code == "not_owner"
            assert (await api.send("DELETE", "/ains/agents/far-1", key=good.secret)).status == 204

    run(main)


# -- what for


async def every_submit(api: Api, capability: str, key: str) -> list[Answered]:
    task = {"capability": capability}
    return [
        await api.post("/api/tasks", task, key=key),
        await api.post("/api/tasks/parallel", {"tasks": [ECHO, task]}, key=key),
        await api.post("/api/tasks/chain", {"tasks": [{"id": "a", **ECHO}, {"id": "b", **task}]}, key=key),
    ]


def test_key_submits_for_its_capabilities_only() -> None:
    async def test(api: Api) -> None:
        await api.node.add_agent("other-1", {"text.other": echo, "text.echo@2": echo})
        bound = await api.new_key(capabilities=("text.echo",))
        for capability in ("text.other", "text.echo@2", "no.such"):
            for refused in await every_submit(api, capability, bound):
                assert (refused.status, refused.code) == (403, "capability_refused")
                assert refused.body["capability"] == capability
                assert capability in refused.body["detail"]
        for accepted in await every_submit(api, "text.echo@1", bound):
            assert accepted.status == 202
        chain = {"tasks": [{"id": "a", "capability": "text.other"}]}
        over = (await api.post("/api/tasks/chain", chain)).body["chain_id"]
        await api.get(f"/api/tasks/chain/{over}?wait_s=10")
        assert (await api.post(f"/api/tasks/chain/{over}/retry", key=bound)).code == "capability_refused"
        async with client_of(api, bound) as client:
            with pytest.raises(CapabilityRefused, match=r"text\.other"):
                await client.submit_task(Task("text.other"))
        await until(lambda: api.node.coordinator.unfinished_of("default") == 0)

    with_api(test)


# -- how much


def test_rate_is_limited_with_a_time_to_come_back() -> None:
    async def test(api: Api) -> None:
        key = await api.new_key(limits=KeyLimits(rate_per_s=2.0))
        answers = [await api.get("/api/tasks", key=key) for _ in range(20)]
        refused = [answered for answered in answers if answered.status == 429]
        assert len(refused) >= 10
        assert {answered.code for answered in refused} == {"too_many_requests"}
        assert all(answered.headers["retry-after"] == "1" for answered in refused)
        assert all(0 < answered.body["retry_after_ms"] <= 500 for answered in refused)
        assert refused[0].body["retryable"]
        assert (await api.get("/api/tasks")).status == 200, "other keys are not touched"

    with_api(test)


def test_requests_at_once_are_limited_and_given_back_however_they_end() -> None:
    async def test(api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate})
        key = await api.new_key(limits=KeyLimits(concurrency=2))
        task_id = (await api.post("/api/tasks", {"capability": "text.gate"}, key=key)).body["task_id"]
        waiting = [asyncio.create_task(api.get(f"/api/tasks/{task_id}?wait_s=30", key=key)) for _ in range(2)]
        refused = await until_status(429, lambda: api.get("/api/info", key=key))
        assert refused.code == "too_many_requests"
        gate.let_go.set()
        assert [(await each).body["status"] for each in waiting] == ["COMPLETED", "COMPLETED"]
        for path in ("/api/tasks/none.x", "/api/tasks?nonsense=1", "/api/keys", "/nowhere", "/api/info"):
            for _ in range(3):
                assert (await api.get(path, key=key)).status != 429, "a refusal kept its place"

    with_api(test)


def test_live_events_that_are_left_give_back_their_place() -> None:
    async def test(api: Api) -> None:
        key = await api.new_key(limits=KeyLimits(concurrency=1))
        for _ in range(3):
            headers = {"Authorization": f"Bearer {key}"}
            async with asyncio.timeout(WITHIN_S):
                while True:
                    async with api.session.get(f"{api.url}/api/events", headers=headers) as response:
                        if response.status == 200:
                            assert (await api.get("/api/info", key=key)).status == 429
                            response.close()
                            break
                    await asyncio.sleep(0.01)

    with_api(test)


def test_accepted_tasks_of_a_key_are_limited_through_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        async with serving(tmp_path, gate=gate) as api:
            key = await api.new_key("acme", limits=KeyLimits(queue=3))
            await share_agents(api)
            chain = {"tasks": [{"id": name, "capability": "text.gate"} for name in "ab"]}
            assert (await api.post("/api/tasks/chain", chain, key=key)).status == 202
            refused = await api.post("/api/tasks/chain", chain, key=key)
            assert (refused.status, refused.code, refused.headers["retry-after"]) == (429, "queue_full", "1")
            assert (await api.post("/api/tasks", {"capability": "text.gate"}, key=key)).status == 202
            another = await api.new_key("acme")
            assert (await api.post("/api/tasks", {"capability": "text.gate"}, key=another)).status == 202
        async with serving(tmp_path, gate=gate) as api:
            await share_agents(api)
            await until(lambda: api.node.coordinator.unfinished == 4)
            assert (await api.post("/api/tasks", {"capability": "text.gate"}, key=key)).code == "queue_full"
            async with client_of(api, key) as client:
                with pytest.raises(QueueFull, match="at most 3"):
                    await client.submit_task(Task("text.gate"))
            gate.let_go.set()
            await until(lambda: api.node.coordinator.unfinished == 0)
            accepted = await api.post("/api/tasks", {"capability": "text.gate"}, key=key)
            done = await api.get(f"/api/tasks/{accepted.body['task_id']}?wait_s=10", key=key)
            assert done.body["status"] == TaskStatus.COMPLETED

    run(main)


async def share_agents(api: Api) -> None:
    for profile in list(api.node.ains.agents()):
        api.node.ains.put(replace(profile, shared=True))


# -- what is kept


def test_who_changed_what_is_told_newest_first() -> None:
    async def test(api: Api) -> None:
        made = await api.make_key("default")
        key, key_id = made.secret, made.key.key_id
        task_id = (await api.post("/api/tasks", ECHO, key=key)).body["task_id"]
        both = (await api.post("/api/tasks/parallel", {"tasks": [ECHO, ECHO]}, key=key)).body["chain_id"]
        chain_id = (await api.post("/api/tasks/chain", {"tasks": [{"id": "a", **ECHO}]}, key=key)).body["chain_id"]
        await api.get(f"/api/tasks/chain/{chain_id}?wait_s=10", key=key)
        again = (await api.post(f"/api/tasks/chain/{chain_id}/retry", key=key)).body["chain_id"]
        await api.post(f"/api/tasks/chain/{again}/cancel", key=key)
        await api.post("/api/circuit-breaker/open/echo-1", key=key)
        await api.post("/api/circuit-breaker/reset/echo-1", key=key)
        await api.post("/ains/agents/echo-1/drain")
        await api.post(f"/api/keys/{key_id}/revoke")
        # What changed nothing is not in it:
        await api.post("/api/tasks", {"capability": "no.such"})
        await api.send("DELETE", "/ains/agents/nobody")
        records = (await api.get("/api/audit")).body["records"]
        assert [(each["key_id"], each["action"], each["object_id"], each["status"]) for each in records] == [
            ("admin", "revoke_key", key_id, 200),
            ("admin", "drain_agent", "echo-1", 200),
            (key_id, "reset", "echo-1", 200),
            (key_id, "open_circuits", "echo-1", 200),
            (key_id, "cancel_chain", again, 200),
            (key_id, "retry_chain", again, 202),
            (key_id, "submit_chain", chain_id, 202),
            (key_id, "submit_parallel", both, 202),
            (key_id, "submit_task", task_id, 202),
        ]
        assert [each["number"] for each in records] == list(range(9, 0, -1))

    with_api(test)


def test_refusals_are_counted_and_heartbeats_are_not_kept() -> None:
    async def test(api: Api) -> None:
        reader = await api.make_key("acme", Scope.TASKS_READ)
        for _ in range(5):
            await api.get("/api/tasks", key="wrong")
            await api.post("/api/tasks", ECHO, key=reader.secret)
        await api.post("/ains/agents/echo-1/heartbeat", {"instance_id": ""})
        records = (await api.get("/api/audit")).body["records"]
        told = {(each["key_id"], each["tenant"], each["action"], each["status"], each["count"]) for each in records}
        assert told == {("", "", "list_tasks", 401, 5), (reader.key.key_id, "acme", "submit_task", 403, 5)}

    with_api(test)


def test_change_that_failed_here_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise StorageError

    async def test(api: Api) -> None:
        monkeypatch.setattr(api.node.stores.journal, "submit", fail)
        for _ in range(5):
            assert (await api.post("/api/tasks", ECHO)).status == 503
        (record,) = (await api.get("/api/audit")).body["records"]
        assert (record["action"], record["status"], record["count"], record["object_id"]) == ("submit_task", 503, 5, "")

    with_api(test)


def test_admin_of_the_default_tenant_is_not_told_what_the_operator_did() -> None:
    async def test(api: Api) -> None:
        boss = await api.new_key("default", Scope.ADMIN)
        await api.post("/ains/agents/echo-1/drain")
        assert (await api.get("/api/audit", key=boss)).body["records"] == []
        assert [each["tenant"] for each in (await api.get("/api/audit")).body["records"]] == ["*"]

    with_api(test)


def test_audit_is_paged_and_a_tenant_sees_its_own() -> None:
    async def test(api: Api) -> None:
        boss, other = await api.new_key("acme", Scope.ADMIN), await api.new_key("other", Scope.ADMIN)
        for number in range(7):
            body = {"name": f"key {number}", "scopes": ["tasks:read"]}
            await api.post("/api/keys", body, key=boss if number % 2 else other)
        async with client_of(api, boss) as client:
            first = await client.list_audit(limit=2)
            assert first.next_cursor is not None
            rest = await client.list_audit(limit=2, cursor=first.next_cursor)
            assert (len(first.records), len(rest.records), rest.next_cursor) == (2, 1, None)
            assert {each.tenant for each in first.records + rest.records} == {"acme"}
        refused = await api.get("/api/audit?cursor=x")
        assert (refused.status, set(refused.faults)) == (422, {"?cursor"})

    with_api(test)


def test_audit_survives_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as api:
            await api.post("/api/tasks", ECHO)
        async with serving(tmp_path) as api:
            records = (await api.get("/api/audit")).body["records"]
            assert [each["action"] for each in records] == ["submit_task"]

    run(main)


def test_submit_does_not_wait_for_the_audit_log(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(api: Api) -> None:
        for _ in range(20):
            assert (await api.post("/api/tasks", ECHO)).status == 202
        await until(lambda: hanging == [20])
        assert (await api.post("/api/tasks", ECHO)).status == 202

    async def hang(_: MemoryAuditLog, records: Sequence[AuditRecord], __: int) -> None:
        hanging.append(len(records))
        await asyncio.Event().wait()

    hanging: list[int] = []
    monkeypatch.setattr(MemoryAuditLog, "append", hang)
    monkeypatch.setattr("aicp.server.auditing.CLOSE_WAIT_S", 0.1)

    with_api(test)  # fails where the end waits for it


def test_key_that_is_one_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aicp.storage.memory_access.KEYS_MAX", 2)

    async def test(api: Api) -> None:
        async with client_of(api) as admin:
            for _ in range(2):
                await admin.create_key(KeyRequest("a", ("tasks:read",)))
            with pytest.raises(Conflict, match="the most that are kept"):
                await admin.create_key(KeyRequest("a", ("tasks:read",)))

    with_api(test)
