"""Sessions of the dashboard over HTTP: a code opens one, it may do what its key may, and it ends."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from aicp.client import Client
from aicp.errors import AccessDenied, Conflict, Forbidden
from aicp.model.access import Scope
from aicp.runtime.node import Node
from aicp.runtime.settings import Settings
from aicp.server import running_server
from tests.integration.server_kit import Api, run, with_api

CODES, SESSIONS, CURRENT = "/api/sessions/codes", "/api/sessions", "/api/sessions/current"


async def session_of(api: Api, key: str | None = None) -> str:
    """The key of a new session."""
    code = (await api.post(CODES, key=key)).body["code"]
    return str((await api.post(SESSIONS, {"code": code}, key="")).body["key"])


def test_client_opens_a_session_and_signs_out() -> None:
    async def test(api: Api) -> None:
        async with Client(api.url, api.key) as admin, Client(api.url, None, retries_max=0) as page:
            opened = await page.open_session((await admin.create_session_code()).code)
            async with Client(api.url, opened.key, retries_max=0) as session:
                assert (await session.info()).name == "aicp"
                (told,) = await session.list_keys()
                assert (told.kind, told.expires_at) == ("session", opened.expires_at)
                with pytest.raises(Forbidden):
                    await session.create_session_code()
                await session.close_session()
                with pytest.raises(AccessDenied):
                    await session.info()
            with pytest.raises(Conflict):
                await admin.close_session()
            assert await admin.list_keys() == []

    with_api(test)


def test_every_key_is_told_what_it_may_do() -> None:
    async def test(api: Api) -> None:
        reader = await api.make_key("acme", Scope.TASKS_READ, Scope.AGENTS_READ, expires_in_s=60.0)
        async with Client(api.url, reader.secret) as client:
            told = await client.current_key()
        assert (told.key_id, told.tenant, told.expires_at) == (reader.key.key_id, "acme", reader.key.expires_at)
        assert set(told.scopes) == {Scope.TASKS_READ, Scope.AGENTS_READ}
        admin = (await api.get("/api/keys/current")).body
        assert admin == {"key_id": "admin", "tenant": "*", "scopes": ["admin"], "expires_at": None}
        session = (await api.get("/api/keys/current", key=await session_of(api, reader.secret))).body
        assert (session["tenant"], set(session["scopes"])) == ("acme", {"tasks:read", "agents:read"})

    with_api(test)


def test_wrong_used_and_odd_codes_are_refused_alike() -> None:
    async def test(api: Api) -> None:
        code = (await api.post(CODES)).body["code"]
        assert (await api.post(SESSIONS, {"code": code}, key="")).status == 201
        odd = [await api.post(SESSIONS, {"code": each}, key="wrong") for each in (code, "wrong", "", "\0\U0001f600")]
        assert {(each.status, each.code) for each in odd} == {(401, "access_denied")}
        assert len({each.body["detail"] for each in odd}) == 1
        refused = await api.post(SESSIONS, {"code": "wrong"}, key="")
        assert (refused.status, refused.code) == (429, "too_many_requests")
        assert int(refused.headers["retry-after"]) >= 1

    with_api(test)


@pytest.mark.parametrize(
    ("body", "place"), [({}, "/code"), ({"code": 5}, "/code"), ({"code": "a", "key": "b"}, "/key"), ([], "")], ids=str
)
def test_body_that_is_no_code_is_told_where(body: object, place: str) -> None:
    async def test(api: Api) -> None:
        refused = await api.post(SESSIONS, body, key="")
        assert (refused.status, refused.code) == (422, "invalid_input")
        assert place in refused.faults

    with_api(test)


def test_code_as_a_key_opens_nothing_and_asks_for_no_body() -> None:
    async def test(api: Api) -> None:
        code = (await api.post(CODES)).body["code"]
        assert (await api.get("/api/info", key=code)).status == 401
        assert (await api.post(CODES, {"for": "me"})).status == 422
        assert (await api.post(SESSIONS, {"code": code}, key="")).status == 201

    with_api(test)


def test_session_is_of_the_tenant_and_scopes_of_its_key_and_owns_what_its_key_owns() -> None:
    async def test(api: Api) -> None:
        made = await api.make_key("acme", Scope.AGENTS_READ, Scope.AGENTS_WRITE)
        session = await session_of(api, made.secret)
        assert (await api.get("/api/keys", key=session)).code == "scope_missing"
        assert (await api.get("/ains/agents", key=session)).body["agents"] == []
        agent = {
            "agent_id": "a1", "endpoint": "http://127.0.0.1:9", "capabilities": [{"name": "a.b"}],
            "max_concurrent_tasks": 1, "lease": False,
        }  # fmt: skip
        assert (await api.post("/ains/agents", agent, key=made.secret)).status == 201
        told = await api.post("/ains/agents/a1/drain", key=session)
        assert (told.status, told.body["owner"]) == (200, made.key.key_id)

    with_api(test)


def test_revoked_key_ends_its_sessions_and_their_live_events() -> None:
    async def test(api: Api) -> None:
        made = await api.make_key("acme")
        session = await session_of(api, made.secret)
        headers = {"Authorization": f"Bearer {session}"}
        async with api.session.get(f"{api.url}/api/events", headers=headers) as events:
            assert events.status == 200
            assert (await api.post(f"/api/keys/{made.key.key_id}/revoke")).status == 200
            assert (await api.get("/api/info", key=session)).status == 401
            while await events.content.readany():
                pass

    with_api(test)


def test_audit_log_says_who_let_the_page_in_and_what_it_did() -> None:
    async def test(api: Api) -> None:
        made = await api.make_key("acme")
        session = await session_of(api, made.secret)
        assert (await api.delete(CURRENT, key=session)).status == 204
        await api.post(SESSIONS, {"code": "wrong"}, key="")
        records = (await api.get("/api/audit")).body["records"]
        told = {(each["action"], each["status"]): each for each in records}
        opened, closed = told["open_session", 201], told["close_session", 204]
        assert (opened["key_id"], opened["tenant"]) == (made.key.key_id, "acme")
        assert opened["object_id"] == closed["key_id"] == closed["object_id"]
        assert told["open_session", 401]["key_id"] == ""

    with_api(test)


def test_neither_code_nor_key_of_a_session_is_in_any_file(tmp_path: Path) -> None:
    async def main() -> None:
        settings = Settings(port=0, data_dir=tmp_path)
        async with (
            Node(database=f"sqlite:///{tmp_path / 'a.db'}") as node,
            running_server(settings, node) as server,
            aiohttp.ClientSession() as session,
        ):
            api = Api(server, node, session)
            left, code = (await api.post(CODES)).body["code"], (await api.post(CODES)).body["code"]
            told.extend([left, code, (await api.post(SESSIONS, {"code": code}, key="")).body["key"]])

    told: list[str] = []
    run(main)
    content = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert not [secret for secret in told if secret.encode() in content]


def test_session_lives_through_a_restart_of_the_server(tmp_path: Path) -> None:
    async def main() -> None:
        settings, session = Settings(port=0, data_dir=tmp_path), ""
        for _ in range(2):
            async with (
                Node(database=f"sqlite:///{tmp_path / 'a.db'}") as node,
                running_server(settings, node) as server,
                aiohttp.ClientSession() as asking,
            ):
                api = Api(server, node, asking)
                session = session or await session_of(api)
                assert (await api.get("/api/info", key=session)).status == 200

    run(main)


def test_pages_that_come_at_once_share_one_code_and_one_gets_in() -> None:
    async def test(api: Api) -> None:
        code = (await api.post(CODES)).body["code"]
        tries = await asyncio.gather(*(api.post(SESSIONS, {"code": code}, key="") for _ in range(4)))
        assert sorted(each.status for each in tries) == [201, 401, 401, 401]

    with_api(test)
