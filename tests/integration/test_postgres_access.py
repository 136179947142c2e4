"""API keys and the audit log on PostgreSQL, and two servers that share them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from aicp.runtime.node import Node
from aicp.runtime.settings import Settings
from aicp.server import running_server
from aicp.storage.postgres_access import PostgresApiKeys, PostgresAuditLog
from tests.integration.postgres_kit import database, run, shared_server
from tests.integration.server_kit import Answered, Api, echo
from tests.unit.access_contract import AccessContract, AccessStores

WITHIN_S = 15.0


@pytest.fixture
def url() -> str:
    return shared_server().fresh_url()


class TestPostgresKeepsTheContract(AccessContract):
    @asynccontextmanager
    async def stores(self) -> AsyncIterator[AccessStores]:
        url = shared_server().fresh_url()
        one, two = database(url), database(url)
        await one.open()
        await two.open()
        try:
            yield AccessStores(
                PostgresApiKeys(one), PostgresAuditLog(one), lambda: (PostgresApiKeys(two), PostgresAuditLog(two))
            )
        finally:
            await two.close()
            await one.close()


@asynccontextmanager
async def two_servers(url: str, directory: Path) -> AsyncIterator[tuple[Api, Api]]:
    """Two servers on one database, each with an admin key of its own."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        apis = []
        for name in ("one", "two"):
            node = await stack.enter_async_context(Node(database=url))
            settings = Settings(port=0, data_dir=directory / name)
            server = await stack.enter_async_context(running_server(settings, node))
            apis.append(Api(server, node, session))
        yield apis[0], apis[1]


async def until_status(status: int, ask: Callable[[], Awaitable[Answered]]) -> Answered:
    async with asyncio.timeout(WITHIN_S):
        while (answered := await ask()).status != status:  # noqa: ASYNC110 - another process does it, and tells nobody
            await asyncio.sleep(0.05)
    return answered


def test_servers_of_one_database_share_keys(url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with two_servers(url, tmp_path) as (one, two):
            assert one.key != two.key
            made = await one.make_key("acme")
            asked = {api: lambda api=api: api.get("/api/tasks", key=made.secret) for api in (one, two)}
            assert (await asked[one]()).status == 200
            await until_status(200, asked[two])
            headers = {"Authorization": f"Bearer {made.secret}"}
            async with one.session.get(f"{one.url}/api/events", headers=headers) as events:
                assert events.status == 200
                assert (await two.post(f"/api/keys/{made.key.key_id}/revoke")).status == 200
                assert (await asked[two]()).status == 401
                await until_status(401, asked[one])
                async with asyncio.timeout(WITHIN_S):
                    await events.content.read()
            assert (await one.get("/api/keys")).body == (await two.get("/api/keys")).body

    run(main())


def test_session_of_a_code_of_one_server_is_opened_at_the_other_and_ends_with_its_key_at_both(
    url: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with two_servers(url, tmp_path) as (one, two):
            made = await one.make_key("acme")
            code = (await one.post("/api/sessions/codes", key=made.secret)).body["code"]
            tries = await asyncio.gather(
                *(api.post("/api/sessions", {"code": code}, key="") for api in (two, one, two, one))
            )
            assert sorted(each.status for each in tries) == [201, 401, 401, 401]
            (session,) = [each.body["key"] for each in tries if each.status == 201]
            asked = [lambda api=api: api.get("/api/tasks", key=session) for api in (one, two)]
            for ask in asked:
                await until_status(200, ask)
            assert (await two.post(f"/api/keys/{made.key.key_id}/revoke")).status == 200
            for ask in asked:
                await until_status(401, ask)

    run(main())


def test_session_of_the_admin_key_opens_nothing_at_a_server_with_another_one(url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with two_servers(url, tmp_path) as (one, two):
            code = (await one.post("/api/sessions/codes")).body["code"]
            assert (await two.post("/api/sessions", {"code": code}, key="")).status == 401
            session = (await one.post("/api/sessions", {"code": code}, key="")).body["key"]
            # Once the other one knows this key it has read the session, too.
            made = await one.make_key("acme")
            await until_status(200, lambda: two.get("/api/tasks", key=made.secret))
            assert (await two.get("/api/tasks", key=session)).status == 401
            assert (await one.get("/api/tasks", key=session)).status == 200

    run(main())


def test_servers_of_one_database_share_the_audit_log(url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with two_servers(url, tmp_path) as (one, two):
            for api in (one, two):
                body = {"name": "a", "scopes": ["tasks:read"], "tenant": "acme"}
                assert (await api.post("/api/keys", body)).status == 201
            await two.get("/api/audit")
            records = (await one.get("/api/audit")).body["records"]
            assert [each["action"] for each in records] == ["create_key", "create_key"]

    run(main())


def test_key_that_another_server_has_just_made_keeps_its_agents(url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with two_servers(url, tmp_path) as (one, two):
            second = (await one.make_key("acme")).secret
            await until_status(200, lambda: two.get("/api/info", key=second))
            body = {"endpoint": "http://127.0.0.1:9", "instance_id": "1", "lease": False, "max_concurrent_tasks": 1,
                    "capabilities": [{"name": "text.far"}]}  # fmt: skip
            for number in range(5):
                agent_id = f"far-{number}"
                first = (await one.make_key("acme")).secret
                assert (await one.post("/ains/agents", {**body, "agent_id": agent_id}, key=first)).status == 201
                refused = await two.post("/ains/agents", {**body, "agent_id": agent_id}, key=second)
                assert (refused.status, refused.code) == (403, "not_owner")

    run(main())


def test_owner_of_an_agent_is_known_to_every_server(url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with two_servers(url, tmp_path) as (one, two):
            first, second, stranger = [await one.make_key(tenant) for tenant in ("acme", "acme", "other")]
            body = {"endpoint": "http://127.0.0.1:9", "agent_id": "far-1", "instance_id": "1", "lease": False,
                    "max_concurrent_tasks": 1, "capabilities": [{"name": "text.far"}]}  # fmt: skip
            assert (await one.post("/ains/agents", body, key=first.secret)).status == 201
            await until_status(200, lambda: two.get("/ains/agents/far-1", key=second.secret))
            assert (await two.get("/ains/agents/far-1", key=second.secret)).body["owner"] == first.key.key_id
            assert (await two.post("/ains/agents/far-1/drain", key=second.secret)).code == "not_owner"
            assert (await two.get("/ains/agents/far-1", key=stranger.secret)).status == 404
            assert (await two.post("/ains/agents", body, key=stranger.secret)).status == 409
            assert (await two.post("/ains/agents/far-1/drain", key=first.secret)).status == 200

    run(main())


def test_health_of_the_fleet_tells_a_tenant_of_its_own_agents_at_every_server(url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with two_servers(url, tmp_path) as (one, two):
            await one.node.add_agent("echo-1", {"text.echo": echo})
            ours = await one.make_key("ours")
            await until_status(200, lambda: two.get("/api/circuit-breaker/health", key=ours.secret))
            for api in (one, two):
                health = (await api.get("/api/circuit-breaker/health", key=ours.secret)).body
                assert (health["total_agents"], health["agents"]) == (0, {})

    run(main())
