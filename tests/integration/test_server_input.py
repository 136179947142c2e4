"""What cannot be used is refused: 4xx, problem+json, with a place; never 500, never a hang."""

import asyncio
import gc
import io
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from litestar.handlers import BaseRouteHandler

from aicp.server.body import BODY_BYTES_MAX, CHAIN_BYTES_MAX
from tests.integration.server_kit import Answered, Api, Test, shared_server, with_api

TASK = {"capability": "text.echo"}
TASK_A = {"id": "a", "capability": "text.echo"}
AGENT = {
    "endpoint": "http://127.0.0.1:9", "agent_id": "a-1", "max_concurrent_tasks": 1,
    "capabilities": [{"name": "text.other"}],
}  # fmt: skip
PROBLEM_FIELDS = {"type", "title", "status", "detail", "code", "retryable", "retry_after_ms"}
SUBMITS = ("/api/tasks", "/api/tasks/parallel", "/api/tasks/chain", "/ains/agents", "/ains/agents/echo-1/heartbeat")


OnServer = Callable[[Test], None]


@pytest.fixture(scope="module")
def on_server() -> Iterator[OnServer]:
    with shared_server() as run_on_it:
        yield run_on_it


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def assert_is_problem(answered: Answered, status: int, code: str) -> None:
    assert (answered.status, answered.code) == (status, code)
    assert answered.headers["content-type"] == "application/problem+json"
    assert answered.body.keys() >= PROBLEM_FIELDS
    assert answered.body["status"] == status
    assert answered.body["detail"]


def assert_refused(on_server: OnServer, path: str, document: Any, code: str, *places: str) -> None:
    """The document is refused with 422, this code, and a fault at each of these places and no other."""

    async def test(api: Api) -> None:
        refused = await api.post(path, document)
        assert_is_problem(refused, 422, code)
        assert sorted(refused.faults) == sorted(places)

    on_server(test)


# -- tasks


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([], ""),
        ("text", ""),
        (5, ""),
        ({}, "/capability"),
        ({"capability": 5}, "/capability"),
        ({"capability": None}, "/capability"),
        ({"capability": ""}, "/capability"),
        ({"capability": "text echo"}, "/capability"),
        ({"capability": "text..echo"}, "/capability"),
        ({"capability": "text.echo@x"}, "/capability"),
        ({"capability": "text.echo@99999999999"}, "/capability"),
        ({"capability": "x" * 129}, "/capability"),
        ({**TASK, "params": []}, "/params"),
        ({**TASK, "params": None}, "/params"),
        ({**TASK, "params": "{}"}, "/params"),
        ({**TASK, "priority": "urgent"}, "/priority"),
        ({**TASK, "priority": 1}, "/priority"),
        ({**TASK, "timeout_s": "1"}, "/timeout_s"),
        ({**TASK, "timeout_s": 0}, "/timeout_s"),
        ({**TASK, "timeout_s": -1}, "/timeout_s"),
        ({**TASK, "deadline_s": 0}, "/deadline_s"),
        ({**TASK, "deadline_s": 1e12}, "/deadline_s"),
        ({**TASK, "idempotent": "yes"}, "/idempotent"),
        ({**TASK, "labels": ["a"]}, "/labels"),
        ({**TASK, "labels": {"a": 1}}, "/labels/a"),
        ({**TASK, "agents": "echo-1"}, "/agents"),
        ({**TASK, "agents": [1]}, "/agents/0"),
        ({**TASK, "exclude_agents": {}}, "/exclude_agents"),
        ({**TASK, "colour": "red"}, "/colour"),
        ({**TASK, "id": "a"}, "/id"),
        ({**TASK, "depends_on": ["a"]}, "/depends_on"),
        ({**TASK, "on_failure": {"continue": 1}}, "/on_failure"),
        ({**TASK, "params": {"x": {"$result": 5}}}, "/params/x/$result"),
    ],
)
def test_unusable_task_is_refused_with_its_place(on_server: OnServer, document: Any, place: str) -> None:
    assert_refused(on_server, "/api/tasks", document, "invalid_task", place)


def test_every_fault_of_a_task_is_told_at_once(on_server: OnServer) -> None:
    document = {"capability": "no name", "timeout_s": -1, "deadline_s": 0, "id": "a"}
    assert_refused(on_server, "/api/tasks", document, "invalid_task", "/capability", "/timeout_s", "/deadline_s", "/id")


@pytest.mark.parametrize(
    ("path", "document", "place"),
    [
        ("/api/tasks", {**TASK, "params": {"x": {"$result": "other"}}}, "/params"),
        ("/api/tasks/chain", {"tasks": [{**TASK_A, "params": {"x": {"$result": "a"}}}]}, "/tasks/0/params"),
        ("/api/tasks/parallel", {"tasks": [{**TASK_A, "params": {"x": {"$result": "b"}}}]}, "/tasks/0/params"),
    ],
)
def test_reference_that_leads_nowhere_is_refused_where_it_stands(
    on_server: OnServer, path: str, document: Any, place: str
) -> None:
    async def test(api: Api) -> None:
        refused = await api.post(path, document)
        assert refused.status == 422
        assert [found.startswith(place) for found in refused.faults] == [True]

    on_server(test)


def test_unknown_capability_is_refused_and_named(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        refused = await api.post("/api/tasks", {"capability": "text.ecko"})
        assert_is_problem(refused, 422, "no_capable_agent")
        assert refused.body["capability"] == "text.ecko"
        assert "text.ecko" in refused.body["detail"]

    on_server(test)


# -- chains


@pytest.mark.parametrize(
    ("document", "places"),
    [
        ([], [""]),
        ({}, ["/tasks"]),
        ({"tasks": {}}, ["/tasks"]),
        ({"tasks": []}, ["/tasks"]),
        ({"tasks": ["a"]}, ["/tasks/0"]),
        ({"tasks": [{"id": "a"}]}, ["/tasks/0/capability"]),
        ({"tasks": [{"capability": "text.echo"}]}, ["/tasks/0/id"]),
        ({"tasks": [{**TASK_A, "id": "a.b"}]}, ["/tasks/0/id"]),
        ({"tasks": [{**TASK_A, "id": "a\x00"}]}, ["/tasks/0/id"]),
        ({"tasks": [{**TASK_A, "id": "x" * 65}]}, ["/tasks/0/id"]),
        ({"tasks": [TASK_A, TASK_A]}, ["/tasks/1/id"]),
        ({"tasks": [{**TASK_A, "depends_on": ["a"]}]}, ["/tasks/0/depends_on/0"]),
        ({"tasks": [{**TASK_A, "depends_on": ["b"]}]}, ["/tasks/0/depends_on/0"]),
        ({"tasks": [{**TASK_A, "depends_on": "b"}]}, ["/tasks/0/depends_on"]),
        ({"tasks": [{**TASK_A, "on_failure": "continue"}]}, ["/tasks/0/on_failure"]),
        ({"tasks": [TASK_A], "name": 5}, ["/name"]),
        ({"tasks": [TASK_A], "name": "x" * 257}, ["/name"]),
        ({"tasks": [TASK_A], "deadline_s": -5}, ["/deadline_s"]),
        ({"tasks": [TASK_A], "failure_policy": "shrug"}, ["/failure_policy"]),
        ({"tasks": [TASK_A], "colour": "red"}, ["/colour"]),
        (
            {"tasks": [{"id": "a"}, {"id": "b"}], "colour": 1, "name": 1},
            ["/tasks/0/capability", "/tasks/1/capability", "/colour", "/name"],
        ),
        ({"tasks": [TASK_A] * 10_001}, ["/tasks"]),
    ],
)
def test_unusable_chain_is_refused_whole_with_every_place(
    on_server: OnServer, document: Any, places: list[str]
) -> None:
    assert_refused(on_server, "/api/tasks/chain", document, "invalid_chain", *places)


def test_cycle_is_told_with_its_path(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        tasks = [{**TASK_A, "id": name, "depends_on": [other]} for name, other in (("a", "b"), ("b", "c"), ("c", "a"))]
        refused = await api.post("/api/tasks/chain", {"tasks": tasks})
        assert_is_problem(refused, 422, "invalid_chain")
        assert "a -> c -> b -> a" in refused.faults["/tasks"] or "a -> b -> c -> a" in refused.faults["/tasks"]

    on_server(test)


@pytest.mark.parametrize(
    ("document", "places"),
    [
        ([], [""]),
        ({}, ["/tasks"]),
        ({"tasks": []}, ["/tasks"]),
        ({"tasks": [TASK], "name": "x"}, ["/name"]),
        ({"tasks": [{**TASK_A, "depends_on": ["b"]}]}, ["/tasks/0/depends_on"]),
        ({"tasks": [TASK, {"capability": 1}]}, ["/tasks/1/capability"]),
        ({"tasks": [TASK_A, TASK_A]}, ["/tasks/1/id"]),
        ({"tasks": [TASK_A, {**TASK, "params": {"x": [{"$result": "a"}]}}]}, ["/tasks/1/params/x/0/$result"]),
        (
            {"tasks": [TASK_A, {**TASK, "depends_on": ["a"], "params": {"x": {"$result": "a"}}}]},
            ["/tasks/1/depends_on", "/tasks/1/params/x/$result"],
        ),
    ],
)
def test_unusable_parallel_submit_is_refused_with_its_place(
    on_server: OnServer, document: Any, places: list[str]
) -> None:
    assert_refused(on_server, "/api/tasks/parallel", document, "invalid_chain", *places)


# -- agents


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ([], ""),
        ({}, "/endpoint"),
        ({**AGENT, "endpoint": 5}, "/endpoint"),
        ({**AGENT, "endpoint": ""}, "/endpoint"),
        ({**AGENT, "endpoint": "ftp://127.0.0.1"}, "/endpoint"),
        ({**AGENT, "endpoint": "http://user:secret@127.0.0.1"}, "/endpoint"),
        ({**AGENT, "endpoint": "http://127.0.0.1:99999"}, "/endpoint"),
        ({**AGENT, "endpoint": "http://0x7f.1/"}, "/endpoint"),
        ({**AGENT, "endpoint": "http://127.0.0.1/?a=b"}, "/endpoint"),
        ({**AGENT, "agent_id": ""}, "/agent_id"),
        ({**AGENT, "agent_id": "-a"}, "/agent_id"),
        ({**AGENT, "agent_id": "a/b"}, "/agent_id"),
        ({**AGENT, "agent_id": "x" * 129}, "/agent_id"),
        ({**AGENT, "max_concurrent_tasks": 0}, "/max_concurrent_tasks"),
        ({**AGENT, "max_concurrent_tasks": 1.5}, "/max_concurrent_tasks"),
        ({**AGENT, "max_concurrent_tasks": 10**30}, "/max_concurrent_tasks"),
        ({**AGENT, "capabilities": []}, "/capabilities"),
        ({**AGENT, "capabilities": [{}]}, "/capabilities/0/name"),
        ({**AGENT, "capabilities": [{"name": "a b"}]}, "/capabilities/0/name"),
        ({**AGENT, "capabilities": [{"name": "a", "version": "x"}]}, "/capabilities/0/version"),
        ({**AGENT, "capabilities": [{"name": "a", "timeout_s": 0}]}, "/capabilities/0/timeout_s"),
        ({**AGENT, "capabilities": [{"name": "a", "input_schema": {"type": 5}}]}, "/capabilities/0/input_schema"),
        (
            {**AGENT, "capabilities": [{"name": "a", "input_schema": {"$ref": "http://127.0.0.1/x"}}]},
            "/capabilities/0/input_schema",
        ),
        ({**AGENT, "capabilities": [{"name": "a"}, {"name": "a"}]}, "/capabilities/1"),
        ({**AGENT, "labels": {"": "x"}}, "/labels/"),
        ({**AGENT, "auth": "token"}, "/auth"),
        ({**AGENT, "auth": {"bearer": "x", "basic": "x"}}, "/auth/basic"),
        ({**AGENT, "colour": "red"}, "/colour"),
    ],
)
def test_unusable_agent_is_refused_with_its_place(on_server: OnServer, document: Any, place: str) -> None:
    assert_refused(on_server, "/ains/agents", document, "invalid_agent", place)


def test_agent_that_does_not_answer_is_refused_with_the_reason(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        refused = await api.post("/ains/agents", {"endpoint": "http://127.0.0.1:9"})
        assert_is_problem(refused, 422, "invalid_agent")
        assert "refused" in refused.body["detail"]

    on_server(test)


@pytest.mark.parametrize("document", [{}, [], {"instance_id": 5}, {"instance_id": "x", "load": 1}])
def test_unusable_heartbeat_is_refused(on_server: OnServer, document: Any) -> None:
    async def test(api: Api) -> None:
        assert_is_problem(await api.post("/ains/agents/echo-1/heartbeat", document), 422, "invalid_input")

    on_server(test)


# -- bodies that are no documents


@pytest.mark.parametrize("path", SUBMITS)
def test_body_that_is_not_json_is_refused(on_server: OnServer, path: str) -> None:
    async def test(api: Api) -> None:
        bodies = [
            b"", b"{", b'{"a": 1} x', b"{'a': 1}", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": 1e999}', b"\xff\xfe",
            b'{"a": "\xff"}', b'{"a": "\\ud800"}', b'{"a": 01}', b'{"a": ' + b"9" * 5_000 + b"}",
        ]  # fmt: skip
        for body in bodies:
            assert_is_problem(await api.post_raw(path, body), 400, "invalid_json")

    on_server(test)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "it is empty (line 1, column 1)"),
        (b'{"capability": "text.echo"', "it ends too early (line 1, column 27)"),
        (b'{"capability": "text.echo",\n "params": {"a": [1,]}}', "trailing comma in array (line 2, column 21)"),
        ('{"é": "ü", "a": ?}'.encode(), "invalid character (line 1, column 17)"),
        (b'{"a": "\\ud800"}', "\\ud800 is half a character, without its other half (line 1, column 8)"),
        (b'{"\\\\ud800": 1,\n"b": "\\ud83d\\ude00 \\udc00"}', "\\udc00 is half a character"),
        (b'{"a": "1e999",\n"b": [1e9, 1e999]}', "a number that is too large (line 2, column 12)"),
        (b'{"a": ' + b"9" * 5_000 + b"}", "a number that is too large (line 1, column 7)"),
        (b'{"a":\n\n "b\xff"}', "bytes that are no UTF-8 (line 3, column 4)"),
        (b'{"[[": \n' + b"[" * 64 + b"]" * 64 + b"}", "nested deeper than 64 (line 2, column 64)"),
        (b"[" * 200_000, "nested deeper than 64 (line 1, column 65)"),
    ],
)
def test_body_that_is_not_json_is_refused_with_the_place(on_server: OnServer, body: bytes, told: str) -> None:
    async def test(api: Api) -> None:
        refused = await api.post_raw("/api/tasks", body)
        assert_is_problem(refused, 400, "invalid_json")
        assert told in refused.body["detail"]
        assert refused.body["detail"].endswith(".")

    on_server(test)


@pytest.mark.parametrize("path", SUBMITS)
def test_body_that_is_nested_too_deep_is_refused(on_server: OnServer, path: str) -> None:
    async def test(api: Api) -> None:
        for levels in (65, 500, 100_000):
            body = b"[" * levels + b"]" * levels
            refused = await api.post_raw(path, body)
            assert_is_problem(refused, 400, "invalid_json")
            assert "64" in refused.body["detail"]

    on_server(test)


def test_params_may_be_nested_as_deep_as_is_allowed(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        assert (await api.post("/api/tasks", {**TASK, "params": {"a": nested(62)}})).status == 202
        assert (await api.post("/api/tasks", {**TASK, "params": {"a": nested(63)}})).status == 400

    on_server(test)


@pytest.mark.parametrize(("path", "bytes_max"), [("/api/tasks", BODY_BYTES_MAX), ("/api/tasks/chain", CHAIN_BYTES_MAX)])
def test_body_that_is_too_large_is_refused(on_server: OnServer, path: str, bytes_max: int) -> None:
    async def test(api: Api) -> None:
        assert_is_problem(await api.post_raw(path, b" " * (bytes_max + 1)), 413, "body_too_large")
        assert_is_problem(await api.post_raw(path, b" " * bytes_max), 400, "invalid_json")

    on_server(test)


def test_body_without_a_declared_length_is_bounded_too(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        async def pieces() -> Any:
            for _ in range(20):
                yield b" " * 65_536

        headers = {"Content-Type": "application/json"}
        assert_is_problem(await api.send("POST", "/api/tasks", data=pieces(), headers=headers), 413, "body_too_large")

    on_server(test)


@pytest.mark.parametrize("body", [b"", b"{}", b" {\n} \n"])
def test_route_without_a_body_takes_none_and_an_empty_object(on_server: OnServer, body: bytes) -> None:
    async def test(api: Api) -> None:
        async def pieces() -> Any:
            for start in range(len(body)):
                yield body[start : start + 1]

        for sent in (io.BytesIO(body), pieces()):
            reset = await api.send("POST", "/api/circuit-breaker/reset/echo-1", data=sent)
            assert (reset.status, reset.body) == (200, {"agent_id": "echo-1", "state": "CLOSED"})
        for sent in (io.BytesIO(body), pieces()):
            assert_is_problem(await api.send("DELETE", "/ains/agents/nobody", data=sent), 404, "agent_not_found")

    on_server(test)


def test_body_that_is_not_taken_is_not_waited_for(on_server: OnServer) -> None:
    """No more of it is read than shows that it is one, whether or not its length is told."""

    async def test(api: Api) -> None:
        for told in ("Content-Length: 3000000\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n50\r\n" + "x" * 80):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
            head = "POST /api/circuit-breaker/reset/echo-1 HTTP/1.1\r\nHost: localhost\r\n"
            writer.write(f"{head}Authorization: Bearer {api.key}\r\n{told}".encode())
            assert (await reader.readline()).split()[1] == b"422"
            writer.transport.abort()

    on_server(test)


def test_agent_that_drains_may_say_who_it_is() -> None:
    async def test(api: Api) -> None:
        for body in ({"instance_id": "7d1f"}, {}, None):
            assert (await api.post("/ains/agents/echo-1/drain", body)).body["draining"] is True

    with_api(test)


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/jsonp"},
        {"Content-Type": ""},
        {"Content-Encoding": "gzip"},
    ],
)
def test_body_of_another_type_is_refused(on_server: OnServer, headers: dict[str, str]) -> None:
    async def test(api: Api) -> None:
        for path in SUBMITS:
            assert_is_problem(await api.post(path, TASK, headers=headers), 415, "media_type_refused")

    on_server(test)


@pytest.mark.parametrize("told", ["; charset=utf-8", ';charset="UTF-8"', "; v=1; Charset = utf8", ";", "; version=1"])
def test_json_may_be_told_to_be_utf_8(on_server: OnServer, told: str) -> None:
    async def test(api: Api) -> None:
        headers = {"Content-Type": f"Application/JSON{told}"}
        assert (await api.post("/api/tasks", TASK, headers=headers)).status == 202

    on_server(test)


def test_body_that_is_cut_off_harms_nobody() -> None:
    async def test(api: Api) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
        head = f"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.key}\r\n"
        writer.write(f"{head}Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{".encode())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        assert (await api.get("/api/info")).body["unfinished_tasks"] == 0

    with_api(test)


@pytest.mark.parametrize("path", SUBMITS)
@pytest.mark.parametrize(
    ("body", "places"),
    [
        (b'{"a": 1, "a": 1}', ["/a"]),
        (b'{"a": 1, "b": 2, "\\u0061": 3, "b": 4}', ["/a", "/b"]),
        (b'{"capability": "text.echo", "params": {"x": {"y": 1, "y": 2}}}', ["/params/x/y"]),
        (b'{"tasks": [{}, {"id": "a", "id": "b", "params": [{"": 1, "": 2}]}]}', ["/tasks/1/id", "/tasks/1/params/0/"]),
        (b'{"a~/b": 1, "a~/b": {"c": 1, "c": 2}}', ["/a~0~1b", "/a~0~1b/c"]),
        (b"[" * 60 + b'{"a": 1, "a": 2}' + b"]" * 60, ["/0" * 60 + "/a"]),
        (b'{"a": [1e300, 123456789012345678901234567890, -0.5], "a": 1}', ["/a"]),
    ],
)
def test_key_that_stands_twice_is_refused_with_its_place(
    on_server: OnServer, path: str, body: bytes, places: list[str]
) -> None:
    async def test(api: Api) -> None:
        refused = await api.post_raw(path, body)
        assert_is_problem(refused, 422, "invalid_input")
        assert sorted(refused.faults) == places

    on_server(test)


def test_very_many_keys_that_stand_twice_are_not_all_told(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        pairs = ",".join(f'"k{number}": 1, "k{number}": 2' for number in range(10_000))
        refused = await api.post_raw("/api/tasks", b"{" + pairs.encode() + b"}")
        assert_is_problem(refused, 422, "invalid_input")
        assert len(refused.faults) == 100

    on_server(test)


def test_same_key_in_different_objects_is_no_fault(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        body = b'{"capability": "text.echo", "params": {"a": {"a": [{"a": 1}, {"a": 1}]}, "A": "\\"a\\":"}}'
        assert (await api.post_raw("/api/tasks", body)).status == 202

    on_server(test)


# -- parameters, keys, paths


@pytest.mark.parametrize(
    ("path", "place"),
    [
        *((f"/api/tasks/x.y?wait_s={value}", "?wait_s") for value in ("-1", "60.1", "nan", "inf", "x", "1e99")),
        *((f"/api/tasks/chain/x?wait_s={value}", "?wait_s") for value in ("-1", "61", "soon")),
        *((f"/api/circuit-breaker/failures?limit={value}", "?limit") for value in ("0", "-1", "1001", "x", "1.5")),
        *((f"/ains/agents?limit={value}", "?limit") for value in ("0", "1001", "all")),
        *((f"/ains/search?capability={value}", "?capability") for value in ("", "a%20b", "a@b", "a@", "@1")),
        ("/ains/search", "?capability"),
        *((f"/api/tasks?status={value}", "?status") for value in ("", "completed", "DONE", "1")),
        *((f"/api/tasks?limit={value}", "?limit") for value in ("0", "1001", "-1", "x", "1.5")),
        *((f"/api/tasks?capability={value}", "?capability") for value in ("", "a%20b", "a@b")),
        *((f"/api/tasks?cursor={value}", "?cursor") for value in ("x", "x.y", ".", "%00.a", "%ff", "x" * 5_000)),
        *((f"/api/tasks/chain?cursor={value}", "?cursor") for value in ("x", "x.y", "%00", "%ed%a0%80")),
        ("/api/tasks/chain?status=OPEN", "?status"),
        ("/api/tasks/chain?limits=5", "?limits"),
        ("/api/tasks?colour=red", "?colour"),
        ("/api/tasks?STATUS=FAILED", "?STATUS"),
        ("/api/tasks?status=FAILED&status=FAILED", "?status"),
        ("/api/tasks?task_id=x.y", "?task_id"),
        ("/api/tasks?node=x", "?node"),
        ("/api/tasks?request=x", "?request"),
        ("/api/tasks?=x", "?"),
        ("/api/tasks?x", "?x"),
        ("/api/tasks/x.y?task_id=x.y", "?task_id"),
        ("/api/tasks/x.y?limit=1", "?limit"),
        ("/api/tasks/chain/x/graph?format=svg", "?format"),
        ("/api/info?x=1", "?x"),
        ("/api/scheduler/status?x=1", "?x"),
        *((f"/api/history?capability={value}", "?capability") for value in ("", "a%20b", "a@b")),
        ("/api/history?agent_id=-a", "?agent_id"),
        ("/api/history?metric=p101_s", "?metric"),
        ("/api/circuit-breaker/health?agent=a", "?agent"),
        ("/ains/agents/echo-1?verbose=1", "?verbose"),
    ],
)
def test_unusable_parameter_is_refused_with_its_name(on_server: OnServer, path: str, place: str) -> None:
    async def test(api: Api) -> None:
        refused = await api.get(path)
        assert_is_problem(refused, 422, "invalid_input")
        assert list(refused.faults) == [place]

    on_server(test)


@pytest.mark.parametrize("key", ["x" * 257, "", "a\tb", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
def test_unusable_idempotency_key_is_refused(on_server: OnServer, key: str) -> None:
    async def test(api: Api) -> None:
        for path, document in (
            ("/api/tasks", TASK), ("/api/tasks/chain", {"tasks": [TASK_A]}), ("/api/tasks/parallel", {"tasks": [TASK]}),
        ):  # fmt: skip
            refused = await api.post(path, document, headers={"Idempotency-Key": key})
            assert_is_problem(refused, 422, "invalid_input")
            assert list(refused.faults) == ["Idempotency-Key"]

    on_server(test)


def test_idempotency_key_that_is_there_twice_is_one(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        fields = [f"Authorization: Bearer {api.key}", "Content-Type: application/json", "Idempotency-Key: as before"]
        answers = [
            await api.ask_as_written("POST /api/tasks", *fields, *again, body=msgspec.json.encode(TASK))
            for again in ([], ["idempotency-key: as before"])
        ]
        assert [answer.status for answer in answers] == [202, 202]
        assert answers[0].body == answers[1].body

    on_server(test)


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4])
def test_ids_that_name_nothing_are_not_found(on_server: OnServer, number: int) -> None:
    ids = ["nope", "no.pe", "..%2f..%2fetc", "%00%ff", "x" * 2_000]

    async def test(api: Api) -> None:
        name = ids[number]
        for method, path, code in (
            ("GET", f"/api/tasks/{name}", "task_not_found"),
            ("POST", f"/api/tasks/{name}/cancel", "task_not_found"),
            ("GET", f"/api/tasks/chain/{name}", "chain_not_found"),
            ("POST", f"/api/tasks/chain/{name}/cancel", "chain_not_found"),
            ("POST", f"/api/tasks/chain/{name}/retry", "chain_not_found"),
            ("GET", f"/api/tasks/chain/{name}/graph", "chain_not_found"),
            ("GET", f"/api/tasks/{name}/explain", "task_not_found"),
            ("GET", f"/ains/agents/{name}", "agent_not_found"),
            ("DELETE", f"/ains/agents/{name}", "agent_not_found"),
            ("POST", f"/ains/agents/{name}/drain", "agent_not_found"),
            ("POST", f"/api/circuit-breaker/reset/{name}", "agent_not_found"),
        ):
            answered = await api.send(method, path)
            assert answered.status == 404
            assert answered.headers["content-type"] == "application/problem+json"
            assert answered.code in {code, "not_found"}

    on_server(test)


def test_unknown_task_of_a_known_chain_is_not_found(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        task_id = (await api.post("/api/tasks", TASK)).body["task_id"]
        assert_is_problem(await api.get(f"/api/tasks/{task_id}x"), 404, "task_not_found")

    on_server(test)


def test_unknown_routes_and_methods_are_problems_too(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        assert_is_problem(await api.get("/"), 404, "not_found")
        assert_is_problem(await api.get("/api/task"), 404, "not_found")
        assert_is_problem(await api.send("PUT", "/api/tasks"), 405, "method_not_allowed")
        assert_is_problem(await api.send("DELETE", "/api/info"), 405, "method_not_allowed")

    on_server(test)


def test_defect_is_answered_without_its_inside(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(api: Api) -> None:
        def fail(*_arguments: object) -> None:
            raise RuntimeError("the secret of the inside")

        monkeypatch.setattr(api.node, "write_health", fail)
        answered = await api.get("/api/circuit-breaker/health")
        assert_is_problem(answered, 500, "internal_error")
        assert "secret" not in repr(answered.body)

    with_api(test)
    assert "GET /api/circuit-breaker/health failed" in caplog.text


def test_full_queue_says_when_to_come_again() -> None:
    async def test(api: Api) -> None:
        api.node.coordinator._accepted._tasks_max = 0
        refused = await api.post("/api/tasks", TASK)
        assert_is_problem(refused, 429, "queue_full")
        assert (refused.body["retryable"], refused.body["retry_after_ms"]) == (True, 1_000)
        assert refused.headers["retry-after"] == "1"

    with_api(test)


def test_requests_with_a_query_leave_nothing_behind() -> None:
    def handlers() -> int:
        return sum(isinstance(each, BaseRouteHandler) for each in gc.get_objects())

    async def test(api: Api) -> None:
        await api.get("/api/tasks?limit=1")
        before = handlers()
        for _ in range(20):
            assert (await api.get("/api/tasks?limit=1")).status == 200
        assert handlers() - before < 20

    with_api(test)


# -- what agents answer


@pytest.mark.parametrize(("levels", "status"), [(64, "COMPLETED"), (65, "FAILED"), (1_000, "FAILED")])
def test_result_of_an_agent_may_be_nested_as_deep_as_is_allowed(levels: int, status: str) -> None:
    async def deep(params: dict[str, Any]) -> Any:
        return nested(levels)

    async def test(api: Api) -> None:
        await api.node.add_agent("deep-1", {"text.deep": deep})
        task_id = (await api.post("/api/tasks", {"capability": "text.deep", "idempotent": False})).body["task_id"]
        view = (await api.get(f"/api/tasks/{task_id}?wait_s=30")).body
        assert view["status"] == status
        if status == "FAILED":
            assert view["attempts"][0]["outcome"] == "AGENT_FAULT"
            assert "deep" in view["attempts"][0]["reason"]

    with_api(test)
