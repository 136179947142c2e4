"""Every route asks for a key, and the Host header must name the server."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from litestar import Router, get

from aicp.model.access import GRANTABLE
from aicp.runtime.node import Node
from aicp.server import Keys, make_app
from aicp.server.auth import Caller, Scope, UnscopedRoute, declared_routes, loopback_hosts, scope_of
from tests.integration.server_kit import Api, Test, shared_server, with_api

EXPECTED_ROUTES = {
    "DELETE /ains/agents/{agent_id:str}",
    "DELETE /api/sessions/current",
    "GET /ains/agents",
    "GET /ains/agents/{agent_id:str}",
    "GET /ains/search",
    "GET /api/audit",
    "GET /api/circuit-breaker/failures",
    "GET /api/circuit-breaker/health",
    "GET /api/events",
    "GET /api/history",
    "GET /api/info",
    "GET /api/keys",
    "GET /api/keys/current",
    "GET /api/scheduler/status",
    "GET /api/tasks",
    "GET /api/tasks/chain",
    "GET /api/tasks/chain/{chain_id:str}",
    "GET /api/tasks/chain/{chain_id:str}/graph",
    "GET /api/tasks/{task_id:str}",
    "GET /api/tasks/{task_id:str}/explain",
    "GET /",
    "GET /dashboard",
    "GET /dashboard/{file:path}",
    "GET /docs",
    "GET /docs/page.css",
    "GET /livez",
    "GET /metrics",
    "GET /openapi.json",
    "GET /readyz",
    "HEAD /dashboard",
    "HEAD /dashboard/{file:path}",
    "HEAD /docs",
    "HEAD /docs/page.css",
    "HEAD /livez",
    "HEAD /readyz",
    "POST /ains/agents",
    "POST /ains/agents/{agent_id:str}/drain",
    "POST /ains/agents/{agent_id:str}/heartbeat",
    "POST /api/circuit-breaker/disable/{agent_id:str}",
    "POST /api/circuit-breaker/open/{agent_id:str}",
    "POST /api/circuit-breaker/reset/{agent_id:str}",
    "POST /api/keys",
    "POST /api/keys/{key_id:str}/revoke",
    "POST /api/sessions",
    "POST /api/sessions/codes",
    "POST /api/tasks",
    "POST /api/tasks/chain",
    "POST /api/tasks/chain/{chain_id:str}/cancel",
    "POST /api/tasks/chain/{chain_id:str}/retry",
    "POST /api/tasks/parallel",
    "POST /api/tasks/{task_id:str}/cancel",
}


OnServer = Callable[[Test], None]


@pytest.fixture(scope="module")
def on_server() -> Iterator[OnServer]:
    with shared_server() as run_on_it:
        yield run_on_it


OPEN_PATHS = ("/livez", "/readyz", "/docs", "/docs/page.css", "/dashboard", "/dashboard/{file:path}")
OPEN_ROUTES = {f"{method} {path}" for method in ("GET", "HEAD") for path in OPEN_PATHS}
OPEN_ROUTES |= {"GET /", "POST /api/sessions"}
# The bare address leads only a browser somewhere, which says that it takes pages; a session asks for a body.
OPEN_BUT_NOT_FOR_ALL = {"GET /": 404, "POST /api/sessions": 415}
ANY_KEY_ROUTES = {
    "GET /api/info", "GET /api/keys/current", "GET /openapi.json",
    "POST /api/sessions/codes", "DELETE /api/sessions/current",
}  # fmt: skip


def scopes_of_routes() -> dict[str, Scope]:
    """What every route asks for, by `METHOD path`, as the app itself lists them."""
    found: Any = declared_routes(make_app(Node(), Keys("k")))
    return {f"{method} {path}": scope_of(handler) for path, handler in found for method in handler.http_methods}


def routes() -> list[str]:
    return sorted(scopes_of_routes())


def asked(route: str, name: str = "echo-1") -> tuple[str, str]:
    """Method and path of a request that takes a route."""
    method, _, template = route.partition(" ")
    return method, re.sub(r"\{\w+:str\}", name, template).replace("{file:path}", "app.js")


def test_app_has_the_routes_of_the_contract_and_no_other() -> None:
    assert set(routes()) == EXPECTED_ROUTES


@pytest.mark.parametrize("route", routes())
def test_route_asks_for_a_valid_key(on_server: OnServer, route: str) -> None:
    async def test(api: Api) -> None:
        method, path = asked(route)
        for authorization in (
            None,
            "Bearer wrong",
            "Bearer",
            "Bearer  ",
            f"Basic {api.key}",
            api.key,
            f"Bearer {api.key}x",
        ):
            headers = {} if authorization is None else {"Authorization": authorization}
            async with api.session.request(method, api.url + path, headers=headers) as response:
                if route in OPEN_ROUTES:
                    assert response.status == OPEN_BUT_NOT_FOR_ALL.get(route, 200)
                    continue
                assert response.status == 401
                assert response.headers["WWW-Authenticate"].startswith("Bearer")
                assert response.headers["Content-Type"] == "application/problem+json"
                assert (await response.json(content_type=None))["code"] == "access_denied"

    on_server(test)


@pytest.mark.parametrize("other", ["Bearer wrong", "Basic YWRtaW46", ""])
def test_of_several_keys_none_is_taken(on_server: OnServer, other: str) -> None:
    """Else it depends on who reads the header whom a request is from: here, or in a proxy in front."""

    async def test(api: Api) -> None:
        own = f"Authorization: Bearer {api.key}"
        for fields in ([own, f"Authorization: {other}"], [f"authorization: {other}", own]):
            refused = await api.ask_as_written("GET /api/info", *fields)
            assert (refused.status, refused.code) == (401, "access_denied")
            assert refused.body["detail"] == "There are several different Authorization headers: send one."
        assert (await api.ask_as_written("GET /api/info", own, own)).status == 200
        assert (await api.ask_as_written("GET /readyz", own, f"Authorization: {other}")).body == "ready"

    on_server(test)


def test_options_asks_for_a_key_too(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        assert (await api.send("OPTIONS", "/api/tasks", key="wrong")).status == 401
        assert (await api.send("OPTIONS", "/api/tasks/parallel")).headers["allow"] == "OPTIONS, POST"

    on_server(test)


def test_body_is_not_read_before_the_key_is_known(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        refused = await api.post("/api/tasks", {"capability": 5}, key="wrong")
        assert refused.status == 401

    on_server(test)


def test_route_without_a_scope_does_not_start() -> None:
    @get("/open")
    async def forgotten() -> str:
        return "anybody may read this"

    with pytest.raises(UnscopedRoute, match="/open"):
        make_app(Node(), Keys("k"), routers=[Router("/", route_handlers=[forgotten])])


def test_caller_may_do_what_its_scopes_say() -> None:
    reader = Caller(scopes=frozenset({Scope.TASKS_READ}))
    assert reader.may(Scope.TASKS_READ)
    assert reader.may(Scope.ANY_KEY)
    assert not reader.may(Scope.TASKS_SUBMIT)
    assert not reader.may(Scope.ADMIN)
    assert all(Caller().may(scope) for scope in Scope)


def test_every_route_refuses_a_key_with_every_scope_but_its_own(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        refused = set()
        for route, scope in scopes_of_routes().items():
            if scope in {Scope.OPEN, Scope.ANY_KEY}:
                continue
            others = [each for each in GRANTABLE if each not in {scope, Scope.ADMIN}]
            key = await api.new_key("*", *others)
            answered = await api.send(*asked(route), key=key)
            assert (answered.status, answered.code) == (403, "scope_missing"), route
            assert scope in answered.body["detail"]
            refused.add(route)
        assert refused == EXPECTED_ROUTES - OPEN_ROUTES - ANY_KEY_ROUTES

    on_server(test)


def test_every_route_takes_a_key_with_its_scope_alone(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        for route, scope in scopes_of_routes().items():
            if scope in {Scope.OPEN, Scope.ANY_KEY} or route == "GET /api/events":
                continue
            answered = await api.send(*asked(route, "nobody"), key=await api.new_key("*", scope))
            assert answered.status not in {401, 403}, route

    on_server(test)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8420", "127.0.0.1.evil.example", "", "127.0.0.2"])
def test_host_that_names_somebody_else_is_refused(on_server: OnServer, host: str) -> None:
    async def test(api: Api) -> None:
        refused = await api.get("/api/info", headers={"Host": host})
        assert (refused.status, refused.code) == (421, "host_refused")
        assert (await api.get("/livez", headers={"Host": host})).status == 421

    on_server(test)


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "127.0.0.1:8420", "[::1]", "[::1]:8420"])
def test_names_of_loopback_are_accepted(on_server: OnServer, host: str) -> None:
    async def test(api: Api) -> None:
        assert (await api.get("/api/info", headers={"Host": host})).status == 200

    on_server(test)


def test_bound_host_is_accepted_as_it_is_written_in_a_url() -> None:
    assert "[::1]" in loopback_hosts("::1")
    assert "127.0.0.2" in loopback_hosts("127.0.0.2")


def test_proxy_in_front_minds_the_host() -> None:
    async def test(api: Api) -> None:
        assert (await api.get("/api/info", headers={"Host": "aicp.example"})).status == 200

    with_api(test, behind_tls_proxy=True)


def test_admin_key_is_written_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    async def test(api: Api) -> None:
        key_file = tmp_path / "data" / "admin.key"
        assert key_file.read_text() == api.key + "\n"
        assert key_file.stat().st_mode & 0o777 == 0o600

    with_api(test, data_dir=tmp_path / "data")
    with_api(test, data_dir=tmp_path / "data")


# -- pages of elsewhere


@pytest.mark.parametrize("route", routes())
def test_route_refuses_pages_of_another_origin(on_server: OnServer, route: str) -> None:
    async def test(api: Api) -> None:
        own = api.url
        for origin in (
            "null",
            "",
            "https://evil.example",
            own.replace("http://", "https://"),
            own.replace("127.0.0.1", "localhost"),
            f"{own}1",
            f"{own}/",
            f"{own}.evil.example",
            own.rpartition(":")[0],
        ):
            refused = await api.send(*asked(route), headers={"Origin": origin})
            assert refused.status == 403, origin
            assert not refused.body if route.startswith("HEAD") else refused.code == "origin_refused"
            assert not [name for name in refused.headers if name.startswith("access-control")]

    on_server(test)


def test_own_pages_and_programs_without_an_origin_are_served(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        for url in (api.url, api.url.replace("127.0.0.1", "localhost")):
            headers = {"Origin": url, "Host": url.removeprefix("http://")}
            assert (await api.get("/api/info", headers=headers)).status == 200
        assert (await api.get("/api/info")).status == 200
        answered = await api.send("OPTIONS", "/api/tasks", headers={"Origin": "https://evil.example"})
        assert (answered.status, answered.code) == (403, "origin_refused")

    on_server(test)


def test_own_pages_behind_a_proxy_have_https() -> None:
    async def test(api: Api) -> None:
        for origin, status in (
            ("https://aicp.example", 200),
            ("http://aicp.example", 403),
            ("https://evil.example", 403),
        ):
            answered = await api.get("/api/info", headers={"Host": "aicp.example", "Origin": origin})
            assert answered.status == status, origin

    with_api(test, behind_tls_proxy=True)


@pytest.mark.parametrize("route", [*routes(), "GET /nowhere", "POST /livez"])
def test_every_answer_says_what_browsers_may_do_with_it(on_server: OnServer, route: str) -> None:
    async def test(api: Api) -> None:
        for key in (None, "wrong"):
            if route == "GET /api/events" and key is None:
                continue
            said = (await api.send(*asked(route, "nobody"), key=key)).headers
            assert said["x-content-type-options"] == "nosniff"
            assert said["referrer-policy"] == "no-referrer"
            assert said["cache-control"] == ("no-cache" if " /dashboard" in route or " /docs" in route else "no-store")
            policy = said["content-security-policy"]
            assert policy.startswith("default-src 'none'")
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert "set-cookie" not in said
            assert not [name for name in said if name.startswith("access-control")]

    on_server(test)
