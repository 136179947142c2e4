"""Hundreds of requests that nobody should send: each is refused with its status, its code and its places."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from tests.integration.server_kit import Api, Test, shared_server

ASKED_AT_LEAST = 300
JSON = "application/json"
TASK = {"capability": "text.echo"}
A, B = {"id": "a", **TASK}, {"id": "b", **TASK}
AGENT = {"endpoint": "http://127.0.0.1:9", "agent_id": "x", "max_concurrent_tasks": 1, "capabilities": [{"name": "x"}]}
KEY = {"name": "k", "scopes": ["tasks:read"]}
YES, NO = True, False
NUMBER_TOO_LONG = b"9" * 5_000

OnServer = Callable[[Test], None]


class Bad(msgspec.Struct, frozen=True):
    """A request, and how it is refused.

    Attributes:
        method: Of HTTP.
        path: As it is sent, query included.
        status: Expected.
        code: Expected.
        places: Expected of the faults, in any order; None for a refusal that has no faults.
        body: What is sent: bytes as they are, anything else as JSON; None for no body.
        headers: Besides Host, Authorization, Content-Type and Content-Length, or instead of these; None leaves one out.
    """

    method: str
    path: str
    status: int
    code: str
    places: tuple[str, ...] | None = None
    body: Any = None
    headers: dict[str, str | None] = {}


def nested(levels: int, inner: Any = 1) -> Any:
    for _ in range(levels):
        inner = [inner]
    return inner


def these(*values: Any) -> tuple[Any, ...]:
    return values


def no_json(text: bytes) -> Bad:
    return Bad("POST", "/api/tasks", 400, "invalid_json", body=text)


def task(*places: str, **fields: Any) -> Bad:
    return Bad("POST", "/api/tasks", 422, "invalid_task", places, {**TASK, **fields})


def chain(*places: str, **fields: Any) -> Bad:
    return Bad("POST", "/api/tasks/chain", 422, "invalid_chain", places, {"tasks": [A], **fields})


def in_chain(place: str, **fields: Any) -> Bad:
    return chain(f"/tasks/0{place}", tasks=[{**A, **fields}])


def parallel(*places: str, **fields: Any) -> Bad:
    return Bad("POST", "/api/tasks/parallel", 422, "invalid_chain", places, {"tasks": [A], **fields})


def agent(*places: str, **fields: Any) -> Bad:
    return Bad("POST", "/ains/agents", 422, "invalid_agent", places, {**AGENT, **fields})


def endpoint(url: Any) -> Bad:
    return agent("/endpoint", endpoint=url)


def capability(place: str, **fields: Any) -> Bad:
    return agent(f"/capabilities/0{place}", capabilities=[{"name": "x", **fields}])


def key(*places: str, **fields: Any) -> Bad:
    return Bad("POST", "/api/keys", 422, "invalid_input", places, {**KEY, **fields})


def media(kind: str | None) -> Bad:
    return Bad("POST", "/api/tasks", 415, "media_type_refused", body=TASK, headers={"Content-Type": kind})


def packed(how: str) -> Bad:
    return Bad("POST", "/api/tasks", 415, "media_type_refused", body=TASK, headers={"Content-Encoding": how})


def query(path: str, place: str) -> Bad:
    return Bad("GET", path, 422, "invalid_input", (place,))


def missing(path: str, code: str, method: str = "GET") -> Bad:
    return Bad(method, path, 404, code)


def method(name: str, path: str) -> Bad:
    return Bad(name, path, 405, "method_not_allowed")


def twice(place: str, text: bytes) -> Bad:
    return Bad("POST", "/api/tasks", 422, "invalid_input", (place,), text)


def host(name: str | None) -> Bad:
    return Bad("GET", "/api/info", 421, "host_refused", headers={"Host": name})


def authorization(text: str | None) -> Bad:
    return Bad("GET", "/api/info", 401, "access_denied", headers={"Authorization": text})


def submit_key(text: str) -> Bad:
    return Bad("POST", "/api/tasks", 422, "invalid_input", ("Idempotency-Key",), TASK, {"Idempotency-Key": text})


def untaken(body: Any, **headers: str | None) -> list[Bad]:
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    return [
        Bad(name, path, 422, "invalid_input", ("",), body, sent)
        for name, path in (
            ("POST", "/api/circuit-breaker/reset/echo-1"), ("POST", "/api/circuit-breaker/open/nobody"),
            ("POST", "/api/circuit-breaker/disable/nobody"), ("DELETE", "/ains/agents/nobody"),
            ("POST", "/api/tasks/nope/cancel"), ("POST", "/api/tasks/chain/nope/cancel"),
            ("POST", "/api/tasks/chain/nope/retry"), ("POST", "/api/keys/nope/revoke"),
        )
    ]  # fmt: skip


NO_JSON = [
    no_json(text)
    for text in (
        b"", b" ", b"\x00", b"\n\n", b"{", b"[", b'"', b"}", b"]", b"{]", b"[}", b"tru", b"nul", b"True", b"None",
        b"undefined",
        b"NaN", b"Infinity", b"-Infinity", b"-", b"+1", b"01", b"1.", b".5", b"1e", b"0x10", b"1_000", b"'a'",
        b'{"capability"}', b'{"capability":}', b'{"capability":"text.echo"', b'{"capability":"text.echo",}', b"{,}",
        b'{"capability":"text.echo"}}', b'{"capability":"text.echo"} {}', b'{"capability":"text.echo"}\x00',
        b'{capability:"text.echo"}', b"{'capability':'text.echo'}", b'{"a":1 "b":2}', b"{1:2}", b"[1,]", b"[,1]",
        b'// no\n{"capability":"text.echo"}', b'{"capability":"text.echo"/* no */}',
        b'\xef\xbb\xbf{"capability":"text.echo"}', '{"capability":"text.echo"}'.encode("utf-16"),
        '{"capability":"text.echo"}'.encode("utf-16-le"), '{"capability":"text.echo"}'.encode("utf-32"),
        b'{"capability":"\xff"}', b'{"capability":"\xc0\xaf"}', b'{"capability":"\xed\xa0\x80"}', b'{"\xff":1}',
        b'{"capability":"\xf4\x90\x80\x80"}', b'{"capability":"\xe2\x82"}',
        b'{"capability":"a\nb"}', b'{"capability":"a\x00b"}', b'{"capability":"a\x1fb"}', b'{"capability":"\\x41"}',
        b'{"capability":"\\u12"}', b'{"capability":"\\ud800"}', b'{"capability":"\\udc00\\ud800"}', b'{"\\ud800":1}',
        b'{"params":{"x":NaN}}', b'{"params":{"x":[Infinity]}}', b'{"params":{"x":1e999}}', b'{"params":{"x":-1e999}}',
        b'{"params":{"x":%s}}' % NUMBER_TOO_LONG, b"%s" % NUMBER_TOO_LONG, b'{"timeout_s":1e400}',
        b"capability=text.echo", b"<task/>", b"--boundary\r\n\r\n{}\r\n--boundary--",
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    )
]  # fmt: skip

TOO_DEEP = [
    no_json(b"[" * 65 + b"]" * 65),
    no_json(b"[" * 1_000 + b"]" * 1_000),
    no_json(b"[" * 200_000 + b"]" * 200_000),
    no_json(b"[" * 500_000),
    no_json(b'{"a":' * 65 + b"1" + b"}" * 65),
    no_json(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    no_json(b'[{"a":' * 33 + b"1" + b"}]" * 33),
    no_json(msgspec.json.encode({**TASK, "params": {"x": nested(63)}})),
    Bad("POST", "/api/tasks/chain", 400, "invalid_json", body={"tasks": [{**A, "params": {"x": nested(61)}}]}),
    Bad(
        "POST",
        "/ains/agents",
        400,
        "invalid_json",
        body={**AGENT, "capabilities": [{"name": "x", "input_schema": nested(62)}]},
    ),
]

TWICE = [
    twice("/capability", b'{"capability":"text.echo","capability":"text.echo"}'),
    twice("/capability", b'{"capability":"text.echo","\\u0063apability":"text.echo"}'),
    twice("/params/x", b'{"capability":"text.echo","params":{"x":1,"x":2}}'),
    twice("/params/x/0/y", b'{"capability":"text.echo","params":{"x":[{"y":1,"y":1}]}}'),
    twice("/params/", b'{"capability":"text.echo","params":{"":1,"":1}}'),
    twice("/params/a~1b", b'{"capability":"text.echo","params":{"a/b":1,"a/b":1}}'),
    twice("/priority", b'{"capability":"text.echo","priority":"high","priority":"low"}'),
    Bad("POST", "/api/tasks/chain", 422, "invalid_input", ("/tasks",), b'{"tasks":[],"tasks":[]}'),
    Bad("POST", "/api/tasks/chain", 422, "invalid_input", ("/tasks/0/id",), b'{"tasks":[{"id":"a","id":"a"}]}'),
    Bad("POST", "/ains/agents", 422, "invalid_input", ("/endpoint",), b'{"endpoint":"http://a","endpoint":"http://b"}'),
]

MEDIA = [
    *map(media, (
        None, "", " ", "text/plain", "text/json", "text/html", "text/xml", "application/xml",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x", "application/octet-stream", "application/jsonl", "application/json5",
        "application/x-ndjson", "application/problem+json", "application/ld+json", "application/x-json", "application",
        "application/", "json", "*/*", "application/*", "application/json,text/plain", "application/yaml",
        "application/msgpack",
        "application / json", "\u00e9", "x" * 5_000,
    )),
    *(media(f"application/json; {told}") for told in ("charset=utf-16", 'charset="UTF-16LE"', "charset=iso-8859-1",
        "CHARSET=latin1", "x=y; charset = utf-32", "charset=utf-8; charset=utf-16")),
    *map(packed, ("gzip", "deflate", "br", "zstd", "compress", "x-gzip", "gzip, identity", "identity, gzip",
        "nonsense", "aes128gcm")),
    *(Bad("POST", path, 415, "media_type_refused", body=b"{}", headers={"Content-Type": "text/plain"})
      for path in ("/api/tasks/chain", "/api/tasks/parallel", "/ains/agents", "/ains/agents/echo-1/heartbeat",
          "/api/keys")),
]  # fmt: skip

TOO_LARGE = [
    Bad("POST", "/api/tasks", 413, "body_too_large", body=b" " * (1024 * 1024 + 1)),
    Bad("POST", "/api/tasks/parallel", 413, "body_too_large", body=b" " * (1024 * 1024 + 1)),
    Bad("POST", "/api/tasks/chain", 413, "body_too_large", body=b" " * (8 * 1024 * 1024 + 1)),
    Bad("POST", "/ains/agents", 413, "body_too_large", body=b" " * (5 * 1024 * 1024 + 1)),
    Bad("POST", "/ains/agents/echo-1/heartbeat", 413, "body_too_large", body=b" " * (1024 * 1024 + 1)),
    Bad("POST", "/api/keys", 413, "body_too_large", body=b" " * (1024 * 1024 + 1)),
]

NO_BODY = [
    *untaken(b"x", Content_Type="text/plain"), *untaken(b"[]"), *untaken(b'{"a":1}'), *untaken(b"{}{}"),
    *untaken(b"null"), *untaken(b"x" * 3_000_000, Content_Type="application/octet-stream"),
    *untaken(b"1\r\n[\r\n1\r\n]\r\n0\r\n\r\n", Transfer_Encoding="chunked", Content_Length=None),
    Bad("POST", "/ains/agents/echo-1/drain", 422, "invalid_input", ("/instance_id",), {"instance_id": "a\n"}),
    Bad("POST", "/ains/agents/echo-1/drain", 400, "invalid_json", body=b"x"),
    Bad("POST", "/ains/agents/echo-1/drain", 413, "body_too_large", body=b" " * (1024 * 1024 + 1)),
]  # fmt: skip

TASKS = [
    *(Bad("POST", "/api/tasks", 422, "invalid_task", ("",), value) for value in these([], [TASK], "task", b"5", b"null",
        b"true", b"1.5")),
    Bad("POST", "/api/tasks", 422, "invalid_task", ("/capability",), {}),
    *(task("/capability", capability=value) for value in these(
        None, 5, YES, [], {}, "", " ", "a b", "a..b", ".a", "a.", "a/b", "a\x00b", "a\tb", "a\n", "\u00e9", "a@",
        "@1", "a@x", "a@-1",
        "a@1.0", "a@1@2", "a@1234567", "x" * 129, "a@\u0661", "$result", "<script>",
    )),
    *(task("/params", params=value) for value in these(None, 5, "x", YES, [], [{}])),
    *(task("/priority", priority=value) for value in these("", "HIGH", "urgent", 0, None, YES, ["high"])),
    *(task("/timeout_s", timeout_s=value) for value in these(0, -1, -0.0, "1", YES, [], 1e10, 10**30)),
    *(task("/deadline_s", deadline_s=value) for value in these(0, -5, "600", {}, 1e300, NO)),
    *(task("/idempotent", idempotent=value) for value in these(None, 0, 1, "true", "no", [])),
    *(task("/labels", labels=value) for value in these(None, [], "zone=a", 5)),
    *(task("/labels/zone", labels={"zone": value}) for value in these(None, 1, YES, ["a"], {})),
    task("/labels", labels={f"l{number}": "" for number in range(1_001)}),
    *(task("/agents", agents=value) for value in these(None, "echo-1", {}, 5, ["a"] * 1_001)),
    *(task("/labels/zone", labels={"zone": value}) for value in these("a\x00", "a\nb", "\x1b[31m", "\x7f", "\x9b",
        "\u2028", "x" * 257)),
    *(task(f"/labels/{key}", labels={key: "x"}) for key in these("", "a\x00", "a\n", "\x1b")),
    task("/labels", labels={f"l{number}": "" for number in range(65)}),
    *(task("/agents/0", agents=[value]) for value in these(None, 1, [], {}, "", "a\nb", "a\n", "a\x00", "-a", "a b",
        "\u00e9", "x" * 129)),
    task("/agents/1", "/agents/2", "/exclude_agents/0", agents=["echo-1", "a\x1b", ""], exclude_agents=["a\nb"]),
    *(task("/exclude_agents", exclude_agents=value) for value in these(None, "echo-1", 5, ["a"] * 1_001)),
    task("/id", id="a"), task("/id", id=5), task("/id", id=None), task("/depends_on", depends_on=["a"]),
        task("/depends_on", depends_on="a"),
    task("/on_failure", on_failure={"continue": 1}), task("/on_failure/continue", on_failure={}), task("/on_failure",
        on_failure="continue"),
    task("/params", params={"$result": "a"}), task("/params/x/$result", params={"x": {"$result": 5}}),
    task("/params/x", params={"x": {"$result": "a", "where": 1}}), task("/params/x/path", params={"x": {"$result": "a",
        "path": "no"}}),
    task("/colour", colour="red"), task("/task_id", task_id="x"), task("/Capability", Capability="x"),
        task("/", **{"": 1}), task("/__class__", __class__="x"),
    task("/capability", "/foo", "/priority", "/labels/a~1b", "/labels/c", "/agents/1", "/agents/3", "/timeout_s", "/id",
        capability=5, foo=1, priority="x", labels={"a/b": 1, "ok": "x", "c": None}, agents=["a", 5, "b", 6],
        timeout_s=-1, id="x"),
    task("/capability", "/timeout_s", "/deadline_s", capability="no name", timeout_s=-1, deadline_s=0),
    Bad("POST", "/api/tasks", 422, "no_capable_agent", None, {"capability": "text.ecko"}),
    Bad("POST", "/api/tasks", 422, "no_capable_agent", None, {"capability": "text.echo@2"}),
    Bad("POST", "/api/tasks", 422, "no_capable_agent", None, {"capability": "x" * 128}),
]  # fmt: skip

CHAINS = [
    *(Bad("POST", "/api/tasks/chain", 422, "invalid_chain", ("",), value) for value in these([], [A], "chain", b"5",
        b"null", b"false")),
    Bad("POST", "/api/tasks/chain", 422, "invalid_chain", ("/tasks",), {}),
    *(chain("/tasks", tasks=value) for value in these(None, {}, "a", 5, [])),
    *(chain("/tasks/0", tasks=[value]) for value in these(None, 5, "a", [], [A])),
    *(chain("/tasks/0/capability", tasks=[value]) for value in these({"id": "a"}, {"id": "b"})),
    chain("/tasks/0/capability", "/tasks/0/id", tasks=[{}]),
    *(in_chain("/id", id=value) for value in these("", "a.b", "a b", "a/b", "a\x00", "a\n", "\u00e9", "\u202e",
        "x" * 65, 5,
        None, ["a"])),
    *(in_chain("/depends_on/0", depends_on=[value]) for value in these("a", "z", "", "a.b", "A", "\x00", 5, None)),
    *(in_chain("/depends_on", depends_on=value) for value in these("z", None, 5, {})),
    *(in_chain("/on_failure", on_failure=value) for value in these("continue", 5, [])),
    in_chain("/on_failure/continue", on_failure={}), in_chain("/on_failure/x", on_failure={"continue": 1, "x": 2}),
    chain("/tasks/0/on_failure/continue", "/tasks/0/on_failure/stop", tasks=[{**A, "on_failure": {"stop": 1}}]),
    *(in_chain("/params/x/$result", params={"x": {"$result": value}}) for value in these("a", "z", "", 5, None, [])),
    *(in_chain("/params/x/path", params={"x": {"$result": "a", "path": value}}) for value in these("x", "/~", "/~2", 5,
        None)),
    in_chain("/params/x", params={"x": {"$result": "a", "paths": "/x"}}),
    in_chain("/capability", capability="a b"), in_chain("/timeout_s", timeout_s=0), in_chain("/deadline_s",
        deadline_s=-1),
    in_chain("/colour", colour="red"),
    chain("/tasks/0/capability", "/tasks/0/timeout_s", "/tasks/1/id", "/tasks/1/depends_on/0", "/tasks/1/depends_on/1",
        "/tasks/2/id", "/tasks/2/priority", tasks=[{"id": "a", "capability": "b c", "timeout_s": -1},
        {**A, "depends_on": ["x", "a"]}, {"id": "c!", **TASK, "priority": "x"}]),
    chain("/colour", "/name", "/deadline_s", "/tasks/0/colour", "/tasks/0/capability", "/tasks/1", colour="red", name=5,
        deadline_s=0, tasks=[{"id": "a", "capability": "a b", "colour": "red"}, 5]),
    chain("/tasks/0/foo", "/tasks/0/capability", tasks=[{"id": "a", "capability": "", "foo": 1}]),
    chain("/tasks/1/id", tasks=[A, A]), chain("/tasks/1/id", "/tasks/2/id", tasks=[A, A, A]),
    chain("/tasks", tasks=[{**A, "depends_on": ["b"]}, {**B, "depends_on": ["a"]}]),
    chain("/tasks", tasks=[{**A, "params": {"x": {"$result": "b"}}}, {**B, "params": {"x": [{"$result": "a"}]}}]),
    chain("/tasks", tasks=[{"id": f"t{n}", **TASK, "depends_on": [f"t{(n + 1) % 100}"]} for n in range(100)]),
    chain("/tasks", tasks=[{"id": f"t{n}", **TASK} for n in range(10_001)]),
    chain("/tasks", tasks=[A] * 10_001),
    chain("/tasks", tasks=[{"id": f"t{n}", **TASK, "depends_on": [f"t{m}" for m in range(max(0, n - 320),
        n)]} for n in range(330)]),
    *(chain("/name", name=value) for value in these(None, 5, [], "x" * 257, "a\x00\x1b[31m", "a\n", "\x7f",
        "a\u2029b")),
    in_chain("/exclude_agents/0", exclude_agents=["a\nb"]), in_chain("/labels/zone", labels={"zone": "\x00"}),
    *(chain("/deadline_s", deadline_s=value) for value in these(0, -1, "1", YES, 1e12)),
    *(chain("/failure_policy", failure_policy=value) for value in these("", "shrug", "FAIL_FAST", None, 1)),
    chain("/colour", colour="red"), chain("/chain_id", chain_id="x"), chain("/", **{"": 1}), chain("/a", "/b", a=1,
        b=2),
    Bad("POST", "/api/tasks/chain", 422, "no_capable_agent", None, {"tasks": [{"id": "a",
        "capability": "nobody.has"}]}),
]  # fmt: skip

PARALLEL = [
    *(Bad("POST", "/api/tasks/parallel", 422, "invalid_chain", ("",), value) for value in these([], [TASK], "x", b"5",
        b"null")),
    *(parallel("/tasks", tasks=value) for value in these(None, {}, [], "a", 5)),
    parallel("/tasks/0", tasks=[5]), parallel("/tasks/1/capability", tasks=[TASK, {"capability": 5}]),
    parallel("/name", name="x"), parallel("/failure_policy", failure_policy="continue"), parallel("/deadline_s",
        deadline_s=5),
    parallel("/tasks/1/id", tasks=[A, A]), parallel("/tasks/0/depends_on", tasks=[{**A, "depends_on": ["b"]}, B]),
    parallel("/tasks/1/params/x/$result", tasks=[A, {**B, "params": {"x": {"$result": "a"}}}]),
    parallel("/tasks/0/id", tasks=[{**TASK, "id": "a.b"}]),
    parallel("/name", "/tasks/0/priority", "/tasks/1/depends_on", "/tasks/1/capability", "/tasks/2", name=5, tasks=[
        {**TASK, "priority": "x"}, {"capability": "a b", "depends_on": ["z"]}, 5]),
    Bad("POST", "/api/tasks/parallel", 422, "no_capable_agent", None, {"tasks": [TASK, {"capability": "nobody.has"}]}),
]  # fmt: skip

AGENTS = [
    *(Bad("POST", "/ains/agents", 422, "invalid_agent", ("",), value) for value in these([], "agent", b"5", b"null")),
    *(Bad("POST", "/ains/agents", 422, "invalid_agent", ("/endpoint",), value)
        for value in these({}, {"agent_id": "x"})),
    *map(endpoint, (
        None, 5, True, [], "", " ", "x", "127.0.0.1:9", "//127.0.0.1", "ftp://127.0.0.1", "file:///etc/passwd",
        "javascript:1",
        "http://", "http:///x", "http:127.0.0.1", "http://user@127.0.0.1", "http://user:secret@127.0.0.1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0", "http://127.0.0.1:-1", "http://127.0.0.1:x", "http://127.0.0.1 .example.org",
        "http://a b/",
        "http://127.0.0.1/\x00", "http://127.0.0.1/\r\nX: y", "http://127.0.0.1/?a=b", "http://127.0.0.1/#a",
        "http://0x7f.1", "http://0177.0.0.1",
        "http://2130706433", "http://127.1", "http://[::1", "http://[::1%25eth0]", "http://169.254.169.254/latest",
        "http://[::ffff:169.254.169.254]",
        "http://10.0.0.1", "http://192.168.0.1", "http://0.0.0.0", "http://\u2460\u2461.\u24ea.\u24ea.\u2460",
        "http://" + "x" * 5_000,
    )),
    *(agent("/agent_id", agent_id=value) for value in these(5, "", "-a", ".a", "a b", "a/b", "..", "../x", "a\x00",
        "a\n",
        "\u00e9", "x" * 129, [])),
    *(agent("/instance_id", instance_id=value) for value in these(5, [], "x" * 257, "a\nb", "a\n", "\x00", "\x1b[2J")),
    *(agent("/name", name=value) for value in these(None, 5, "x" * 257, "\x1b[31m", "a\x00", "a\r\n", "\x85",
        "\u2028")),
    *(agent("/max_concurrent_tasks", max_concurrent_tasks=value) for value in these(0, -1, 1.5, "4", YES, 10_001,
        10**30,
        [])),
    *(agent("/capabilities", capabilities=value) for value in these([], {}, "x", 5,
        [{"name": f"c{n}"} for n in range(1_001)])),
    *(agent("/capabilities/0", capabilities=[value]) for value in these(None, 5, "x")),
    *(agent("/capabilities/0/name", capabilities=[value]) for value in these({}, {"version": "1.0"})),
    *(capability("/name", name=value) for value in these(None, 5, "", "a b", "a..b", "a@1", "a\x00", "\u00e9",
        "x" * 129)),
    *(capability("/version", version=value) for value in these(None, 1, "", "x", "1.x", "-1.0", "1.0.0.0", "1234567.0",
        " 1.0")),
    *(capability("/timeout_s", timeout_s=value) for value in these(0, -1, "1", YES, 86_401, 1e300)),
    *(capability("/input_schema", input_schema=value) for value in these(
        5, "x", [], {"type": 5}, {"type": "nothing"}, {"$ref": "http://127.0.0.1/x"}, {"$ref": "file:///etc/passwd"},
        {"$ref": "#/nowhere"},
        {"minimum": "x"}, {"required": "x"}, {"properties": []}, {"description": "x" * 262_144},
    )),
    *(capability("/output_schema", output_schema=value) for value in these(5, {"type": "nothing"},
        {"$ref": "http://example.org/"})),
    capability("/colour", colour="red"), agent("/capabilities/1", capabilities=[{"name": "x"}, {"name": "x"}]),
    agent("/capabilities/1", capabilities=[{"name": "x"}, {"name": "x", "version": "1.2"}]),
    *(agent("/labels", labels=value) for value in these(None, [], "zone=a", {f"l{n}": "" for n in range(65)})),
    agent("/labels/zone", labels={"zone": 5}), agent("/labels/", labels={"": "x"}),
    agent("/labels/zone", labels={"zone": "a\x00"}), agent("/labels/a\n", labels={"a\n": "x"}),
    agent("/labels/a~1b~0", labels={"a/b~": "\x1b"}),
    *(agent("/auth", auth=value) for value in these(5, "token", [])),
    agent("/auth/bearer", auth={}), agent("/auth/bearer", "/auth/basic", auth={"basic": "x"}),
    agent("/auth/more", auth={"bearer": "x", "more": 1}),
    *(agent("/auth/bearer", auth={"bearer": value}) for value in these(None, 5, "", "a b", "a\r\nX: y", "a\x00",
        "\u00e9",
        "x" * 10_000)),
    *(agent("/shared", shared=value) for value in these(None, 0, "yes")),
    *(agent("/lease", lease=value) for value in these(None, 1, "no")),
    agent("/name", "/auth/bearer", "/capabilities/0/version", "/capabilities/0/x", "/capabilities/2/name", "/colour",
        name=5, auth={}, capabilities=[{"name": "x", "version": 1, "x": 1}, {"name": "y"}, {}], colour="red"),
    agent("/colour", colour="red"), agent("/tenant", tenant="other"), agent("/endpoints", endpoints=[]),
]  # fmt: skip

HEARTBEATS = [
    *(Bad("POST", "/ains/agents/echo-1/heartbeat", 422, "invalid_input", ("",), value) for value in these([], "x",
        b"null")),
    Bad("POST", "/ains/agents/echo-1/heartbeat", 422, "invalid_input", ("/instance_id",), {}),
    Bad("POST", "/ains/agents/echo-1/heartbeat", 422, "invalid_input", ("/load",), {"instance_id": "x", "load": 1}),
    *(Bad("POST", "/ains/agents/echo-1/heartbeat", 422, "invalid_input", ("/instance_id",),
        {"instance_id": value}) for value in these(None, 5, [], YES, "a\n", "\x00", "\x1b[2J", "x" * 257)),
    Bad("POST", "/ains/agents/nobody/heartbeat", 404, "agent_not_found", None, {"instance_id": "x"}),
    Bad("POST", "/ains/agents/echo-1/heartbeat", 404, "agent_not_found", None,
        {"instance_id": "of one without a lease"}),
]  # fmt: skip

KEYS = [
    *(Bad("POST", "/api/keys", 422, "invalid_input", ("",), value) for value in these([], "key", b"null")),
    Bad("POST", "/api/keys", 422, "invalid_input", ("/name", "/scopes"), {}),
    *(key("/name", name=value) for value in these(None, 5, "", "a\x00", "a\nb", "x" * 300)),
    *(key("/scopes", scopes=value) for value in these(None, [], "tasks:read", {})),
    *(key("/scopes/0", scopes=[value]) for value in these("root", "", "ADMIN", 5, None)),
    *(key("/tenant", tenant=value) for value in these(5, "", "a b", "-a", "../x", "x" * 65, "\u00e9")),
    *(key("/expires_in_s", expires_in_s=value) for value in these(0, -1, "1", 1e12, YES)),
    *(key("/capabilities", capabilities=value) for value in these([], "x", 5)),
    *(key("/capabilities/0", capabilities=[value]) for value in these("", "a b", "a@x", 5)),
    *(key("/limits", limits=value) for value in these(None, 5, [])),
    key("/limits/rate", limits={"rate": 1}),
    *(key("/limits/rate_per_s", limits={"rate_per_s": value}) for value in these(0, -1, "1", 1e300)),
    *(key("/limits/concurrency", limits={"concurrency": value}) for value in these(0, -1, 1.5, 10**30)),
    *(key("/limits/queue", limits={"queue": value}) for value in these(0, -1, "x", 10**30)),
    key("/colour", colour="red"), missing("/api/keys/nope/revoke", "key_not_found", "POST"),
]  # fmt: skip

QUERIES = [
    *(Bad("POST", f"/api/tasks{place}?wait_s={value}", 422, "invalid_input", ("?wait_s",), body)
        for place, body in (("", TASK), ("/parallel", {"tasks": [TASK]}), ("/chain", {"tasks": [{"id": "a", **TASK}]}))
        for value in these("", "-1", "60.1", "1e99", "nan", "inf", "x", "%00", "9" * 400)),
    *(query(f"/api/tasks/x.y?wait_s={value}", "?wait_s") for value in these("", "-1", "-0.1", "60.1", "61", "1e99",
        "nan",
        "NaN", "inf", "-inf", "x", "1,5", "0x1", "null", "true", "%00", "9" * 400)),
    *(query(f"/api/tasks?limit={value}", "?limit") for value in these("", "0", "-1", "1001", "1.5", "x", "null", "true",
        "0x10", "9" * 400, "%00", "1%201")),
    *(query(f"/api/circuit-breaker/failures?limit={value}", "?limit") for value in these("0", "1001", "all")),
    *(query(f"/api/tasks?status={value}", "?status") for value in these("", "null", "None", "completed", "DONE", "1",
        "COMPLETED,FAILED", "COMPLETED%00", "%20COMPLETED")),
    *(query(f"/api/tasks/chain?status={value}", "?status") for value in these("", "null", "OPEN")),
    *(query(f"/api/tasks?capability={value}", "?capability") for value in these("", "a%20b", "a@", "a@b", "%00", "%ff",
        "x" * 129)),
    *(query(f"/ains/search?capability={value}", "?capability") for value in these("", "a..b", "@1", "%2e%2e%2f",
        "a@1234567")),
    *(query(f"/api/tasks?cursor={value}", "?cursor") for value in these("x", "x.y", ".", "..", "%00", "%ff",
        "x" * 5_000,
        "null", "../../etc")),
    *(query(f"/api/tasks/chain?cursor={value}", "?cursor") for value in these("x", "%00", "null", "%ed%a0%80")),
    *(query(f"/api/events?kind={value}", "?kind") for value in these("1", "task_ended,", ",", "TASK_ENDED", "%00",
        "task_ended%20", "x" * 65)),
    *(query(f"/api/events?chain_id={value}", "?chain_id") for value in these("a%00", "a%0A", "a.b", "%1B[31m",
        "x" * 65)),
    *(query(f"/api/events?agent_id={value}", "?agent_id") for value in these("a%00", "a%0A", "-a", "x" * 129)),
    query("/api/tasks?status=FAILED&status=FAILED", "?status"), query("/api/tasks?limit=1&limit=2", "?limit"),
    query("/api/tasks?colour=red", "?colour"), query("/api/tasks?LIMIT=1", "?LIMIT"), query("/api/tasks?limit%00=1",
        "?limit\x00"),
    query("/api/tasks?x", "?x"), query("/api/tasks?=x", "?"), query("/api/tasks?limit[]=1", "?limit[]"),
        query("/api/tasks?node=x", "?node"),
    query("/api/tasks?" + "x" * 5_000, "?" + "x" * 80), query("/api/tasks?request=1", "?request"),
        query("/api/info?x=1", "?x"),
    query("/api/tasks/x.y?task_id=z", "?task_id"), query("/openapi.json?x=1", "?x"), query("/metrics?x=1", "?x"),
    Bad("POST", "/api/tasks?dry_run=1", 422, "invalid_input", ("?dry_run",), TASK),
]  # fmt: skip

_IDS = (
    "nope",
    "no.pe",
    ".",
    "..",
    "%2e%2e",
    "%00",
    "%00.a",
    "a%00b",
    "%ff%fe",
    "%f0%28",
    "x" * 3_000,
    "null",
    "%0d%0aX:%20y",
    "%3Cscript%3E",
    "$result",
)
IDS = [
    *(missing(f"/ains/agents/{name}", "agent_not_found") for name in _IDS if name not in {".", ".."}),
    *(missing(f"/api/tasks/chain/{name}/graph", "chain_not_found") for name in _IDS if name not in {".", ".."}),
    *(missing(f"/api/tasks/{name}", "task_not_found") for name in _IDS if name not in {".", ".."}),
    missing("/ains/agents/nope", "agent_not_found", "DELETE"), missing("/ains/agents/nope/drain", "agent_not_found",
        "POST"),
    missing("/api/circuit-breaker/reset/nope", "agent_not_found", "POST"), missing("/api/circuit-breaker/open/nope",
        "agent_not_found", "POST"),
    missing("/api/circuit-breaker/disable/nope", "agent_not_found", "POST"), missing("/api/tasks/no.pe/cancel",
        "task_not_found", "POST"),
    missing("/api/tasks/no.pe/explain", "task_not_found"), missing("/api/tasks/chain/nope/cancel", "chain_not_found",
        "POST"),
    missing("/api/tasks/chain/nope/retry", "chain_not_found", "POST"),
    Bad("POST", "/api/tasks/chain/nope/retry", 422, "invalid_input", ("",), b"{no json"),
    Bad("POST", "/api/tasks/chain/nope/retry", 422, "invalid_input", ("",), {"tasks": []}),
    Bad("POST", "/api/tasks/no.pe/cancel", 422, "invalid_input", ("",), b"\x00" * 1_000),
]  # fmt: skip

PATHS = [
    missing(path, "not_found")
    for path in (
        "/", "//", "/api", "/api/", "/api/task", "/API/TASKS", "/api/tasks/a/b/c", "/api/tasks/chain/a/b", "/ains",
        "/ains/agent", "/v1/tasks",
        "/docs/../etc/passwd", "/docs/%2e%2e/%2e%2e/etc/passwd", "/docs/..%2f..%2fetc%2fpasswd",
        "/docs/page.css%00.html", "/docs/page.css/x",
        "/docs/page.html", "/.env", "/.git/config", "/robots.txt", "/favicon.ico", "/%00", "/%ff", "/livez/x",
        "/openapi.yaml", "/schema",
        "/api/tasks/%2e%2e/%2e%2e/x", "/" + "x" * 10_000, "/" + "x/" * 1_000, "/api/circuit-breaker/reset",
        "/api/keys/a/b", "/*", "/api/tasks//explain", "/api//tasks/a.b", "/api/tasks/a.b//explain", "/api/tasks/a.b//",
        "/api/tasks/chain//graph", "//api//tasks/a.b", "/ains/agents//echo-1", "/api/tasks/%2Fexplain",
    )
]  # fmt: skip

METHODS = [
    method(name, path)
    for name, path in (
        ("GET", "/api/tasks/parallel"), ("PUT", "/api/tasks"), ("DELETE", "/api/tasks"), ("PATCH", "/api/tasks"),
        ("HEAD", "/api/tasks"),
        ("TRACE", "/api/tasks"), ("POST", "/api/info"), ("DELETE", "/api/info"), ("POST", "/api/events"), ("PUT",
        "/ains/agents/echo-1"),
        ("POST", "/ains/agents/echo-1"), ("GET", "/ains/agents/echo-1/drain"), ("GET",
        "/ains/agents/echo-1/heartbeat"), ("POST", "/ains/search"),
        ("POST", "/livez"), ("POST", "/readyz"), ("POST", "/metrics"), ("DELETE", "/docs"), ("POST", "/openapi.json"),
        ("GET", "/api/tasks/a.b/cancel"), ("GET", "/api/tasks/chain/a/retry"), ("GET",
        "/api/circuit-breaker/reset/echo-1"),
        ("POST", "/api/circuit-breaker/health"), ("POST", "/api/scheduler/status"), ("PROPFIND", "/api/tasks"),
        ("LOCK", "/api/tasks"),
    )
]  # fmt: skip

HEADERS = [
    *map(host, ("example.org", "localhost.example.org", "127.0.0.1.example.org", "", "localhost:", "localhost:x",
        "user@localhost", "[::1", "0", "127.1", None)),
    *map(authorization, (
        None, "", "Bearer", "Bearer ", "Bearer wrong", "bearer\twrong", "Basic YWRtaW46YWRtaW4=", "Token x",
        "Bearer " + "x" * 10_000, "Bearer \u00e9",
        "Bearer null", "Bearer undefined", "Bearer *", "Bearer a, Bearer b",
        "Bearer a\r\nAuthorization: Bearer b", "Digest username=x",
    )),
    *map(submit_key, ("", " ", "x" * 257, "a\tb", "\u00e9", "\u00a0", "a\u0080b", "x" * 20_000,
        "a\r\nIdempotency-Key: b", "a\r\nidempotency-key: A", "a\r\nIdempotency-Key: ")),
    Bad("POST", "/api/tasks/chain/nope/retry", 422, "invalid_input", ("Idempotency-Key",), None,
        {"Idempotency-Key": "x" * 257}),
    Bad("GET", "/api/info", 403, "origin_refused", None, None, {"Origin": "http://example.org"}),
    Bad("GET", "/api/info", 403, "origin_refused", None, None, {"Origin": "null"}),
]  # fmt: skip

ALL = [
    *NO_JSON, *TOO_DEEP, *TWICE, *MEDIA, *TOO_LARGE, *NO_BODY, *TASKS, *CHAINS, *PARALLEL, *AGENTS, *HEARTBEATS, *KEYS,
        *QUERIES, *IDS, *PATHS,
    *METHODS, *HEADERS,
]  # fmt: skip


def name_of(bad: Any) -> str:
    sent = bad.body if isinstance(bad.body, bytes) else json.dumps(bad.body).encode()
    told = f"{bad.method} {bad.path[:40]} {sent[:60]!r} {' '.join(bad.headers)}"
    return told.encode("ascii", "backslashreplace").decode()


@pytest.fixture(scope="module")
def on_server() -> Iterator[OnServer]:
    with shared_server() as run_on_it:
        yield run_on_it


class Told(msgspec.Struct, frozen=True):
    """A raw answer."""

    status: int
    headers: dict[str, str]
    body: bytes


async def ask(api: Api, bad: Bad) -> Told:
    """Send a request byte for byte as it is written here, on a connection of its own."""
    body = b"" if bad.body is None else bad.body if isinstance(bad.body, bytes) else msgspec.json.encode(bad.body)
    given: dict[str, str | None] = {
        "Host": "localhost", "Authorization": f"Bearer {api.key}", "Content-Length": str(len(body)),
        "Connection": "close",
        **({} if bad.body is None else {"Content-Type": JSON}), **bad.headers,
    }  # fmt: skip
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items() if value is not None)
    reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
    try:
        writer.write(f"{bad.method} {bad.path} HTTP/1.1\r\n{head}\r\n".encode() + body)
        answered = await reader.read()
    finally:
        writer.transport.abort()
    top, _, content = answered.partition(b"\r\n\r\n")
    first, *fields = top.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
    return Told(int(first.split()[1]), headers, content)


@pytest.mark.parametrize("bad", ALL, ids=name_of)
def test_bad_request_is_refused_as_it_should_be(on_server: OnServer, bad: Bad) -> None:
    async def test(api: Api) -> None:
        told = await ask(api, bad)
        assert told.status == bad.status, told.body
        assert told.headers["content-type"] == "application/problem+json"
        if bad.method == "HEAD":
            return
        problem = json.loads(told.body)
        assert (problem["status"], problem["code"]) == (bad.status, bad.code), problem
        assert problem["detail"]
        assert len(told.body) < 64 * 1024
        assert sorted(fault["place"] for fault in problem.get("faults", [])) == sorted(bad.places or ())
        if bad.status == 405:
            assert bad.method not in told.headers["allow"].split(", ")

    on_server(test)


def test_there_are_hundreds_of_them_and_none_stands_twice() -> None:
    assert len(ALL) >= ASKED_AT_LEAST
    assert len({(bad.method, bad.path, repr(bad.body), repr(bad.headers)) for bad in ALL}) == len(ALL)


def test_server_is_well_after_all_of_them(on_server: OnServer) -> None:
    async def test(api: Api) -> None:
        assert (await api.post("/api/tasks", TASK)).status == 202
        assert (await api.get("/readyz")).body == "ready"

    on_server(test)
