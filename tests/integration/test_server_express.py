"""The shorter way answers what the framework's way answers, and takes only what is written plainly."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from aicp.model.access import Scope
from aicp.runtime.node import Node
from aicp.server import Keys, make_app
from aicp.server.app import entry_guard
from aicp.server.auth import loopback_hosts
from aicp.server.door import Door
from aicp.server.express import TAKEN, Express
from aicp.server.routes.parameters import NodeAndWaits
from aicp.server.waits import Waits
from tests.integration.server_kit import break_down, echo

KEY = "k" * 40
TASK = {"capability": "text.echo", "params": {"text": "hello"}}
CHAIN = {"name": "one", "tasks": [{"id": "a", "capability": "text.echo"}]}
HEADERS = {"host": "127.0.0.1:8420", "authorization": f"Bearer {KEY}", "content-type": "application/json"}
Asgi = Callable[[Any, Any, Any], Coroutine[Any, Any, None]]


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class BothWays:
    """One node behind the framework alone, and behind the shorter way; counts what the framework got of the latter."""

    def __init__(self, node: Node) -> None:
        self.node = node
        keys, waits = Keys(KEY), Waits()
        node.observe(waits)
        hosts = loopback_hosts("127.0.0.1")
        app = make_app(node, keys, hosts=hosts, waits=waits)
        express = Express(app, entry_guard(node, keys, hosts=hosts), NodeAndWaits(node, waits))
        self.left_to_framework = 0

        async def counted(scope: Any, receive: Any, send: Any) -> None:
            self.left_to_framework += 1
            await app(scope, receive, send)

        express._app = counted  # type: ignore[assignment]
        self.framework, self.express = Door(app), Door(express)


async def ask(app: Asgi, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> Answer:
    path, _, query = target.partition("?")
    scope = {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()], "scheme": "http",
        "root_path": "", "server": ("127.0.0.1", 8420), "client": ("127.0.0.1", 1), "http_version": "1.1",
    }  # fmt: skip
    sent: list[Any] = []
    pieces = [{"type": "http.request", "body": body[:5], "more_body": True}, {"type": "http.request", "body": body[5:]}]

    async def receive() -> Any:
        return pieces.pop(0) if pieces else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    told = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:]))


@asynccontextmanager
async def both_ways() -> AsyncIterator[BothWays]:
    async with Node() as node:
        await node.add_agent("echo-1", {"text.echo": echo}, max_concurrent_tasks=8)
        await node.add_agent("broken-1", {"text.broken": break_down})
        yield BothWays(node)


def on_both_ways(test: Callable[[BothWays], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30), both_ways() as ways:
            await test(ways)

    asyncio.run(main())


def encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else msgspec.json.encode(body)


REFUSED = [
    ("POST", "/api/tasks", b"{", {}),
    ("POST", "/api/tasks", b"", {}),
    ("POST", "/api/tasks", b"x" * 1_100_000, {}),
    ("POST", "/api/tasks", b'{"capability": "text.echo", "capability": "text.echo"}', {}),
    ("POST", "/api/tasks", {"capability": "No Name"}, {}),
    ("POST", "/api/tasks", {"capability": "nobody.offers"}, {}),
    ("POST", "/api/tasks", TASK, {"content-type": "text/plain"}),
    ("POST", "/api/tasks", TASK, {"content-type": "application/json; charset=utf-16"}),
    ("POST", "/api/tasks", TASK, {"content-encoding": "gzip"}),
    ("POST", "/api/tasks", TASK, {"idempotency-key": "\x01"}),
    ("POST", "/api/tasks", TASK, {"authorization": "Bearer wrong"}),
    ("POST", "/api/tasks", TASK, {"authorization": ""}),
    ("POST", "/api/tasks", TASK, {"host": "elsewhere.example"}),
    ("POST", "/api/tasks", TASK, {"origin": "http://elsewhere.example"}),
    ("POST", "/api/tasks/parallel", {"tasks": []}, {}),
    ("POST", "/api/tasks/parallel", {"tasks": [{**TASK, "depends_on": ["x"]}]}, {}),
    ("POST", "/api/tasks/chain", {"tasks": [{"id": "a", "capability": "x", "depends_on": ["a"]}]}, {}),
    ("POST", "/api/tasks/chain", [], {}),
    ("GET", "/api/tasks/" + "0" * 32 + ".task", b"", {}),
    ("GET", "/api/tasks/" + "0" * 32, b"", {}),
    ("GET", "/api/tasks/chain/" + "0" * 32, b"", {}),
    ("GET", "/api/tasks/chain/" + "0" * 32 + ".a", b"", {}),
    ("GET", "/api/tasks/" + "0" * 32 + ".task?wait_s=1", b"", {"authorization": "Basic x"}),
]  # fmt: skip


@pytest.mark.parametrize(("method", "target", "body", "headers"), REFUSED)
def test_what_is_refused_is_refused_in_the_same_words(
    method: str, target: str, body: Any, headers: dict[str, str]
) -> None:
    async def test(ways: BothWays) -> None:
        sent = {**HEADERS, **headers}
        short, long = [await ask(app, method, target, encoded(body), sent) for app in (ways.express, ways.framework)]
        assert short == long
        assert short.status >= 400
        assert ways.left_to_framework == 0

    on_both_ways(test)


def test_what_is_accepted_is_answered_in_the_same_form() -> None:
    async def test(ways: BothWays) -> None:
        for place, body in (("", TASK), ("/parallel", {"tasks": [TASK, TASK]}), ("/chain", CHAIN)):
            for wait in ("", "?wait_s=0", "?wait_s=10", "?wait_s=10.5"):
                key = {**HEADERS, "idempotency-key": f"key of {place}{wait}"}
                target = f"/api/tasks{place}{wait}"
                short, long = [
                    await ask(app, "POST", target, encoded(body), key) for app in (ways.express, ways.framework)
                ]
                assert (short.status, short.json) == (202, long.json)
                assert short.headers == long.headers
        assert ways.left_to_framework == 0

    on_both_ways(test)


def test_looks_are_answered_in_the_same_form() -> None:
    async def test(ways: BothWays) -> None:
        for capability in ("text.echo", "text.broken"):
            task = {"capability": capability, "deadline_s": 1, "idempotent": False}
            ended = await ask(ways.express, "POST", "/api/tasks?wait_s=20", encoded(task), HEADERS)
            task_id = ended.json["task_id"]
            for target in (f"/api/tasks/{task_id}", f"/api/tasks/chain/{task_id.partition('.')[0]}?wait_s=5"):
                short, long = [await ask(app, "GET", target, b"", HEADERS) for app in (ways.express, ways.framework)]
                assert short == long
                assert short.status == 200
        assert ways.left_to_framework == 0

    on_both_ways(test)


@pytest.mark.parametrize(
    ("method", "target"),
    [
        *(
            ("POST", f"/api/tasks?{query}")
            for query in ("wait_s=61", "wait_s=-1", "wait_s=", "wait_s=1&wait_s=2", "x=1")
        ),
        ("POST", "/api/tasks?wait_s=1e1"),
        ("POST", "/api/tasks/"),
        ("GET", "/api/tasks"),
        ("GET", "/api/tasks/chain"),
        ("GET", "/api/tasks/nope"),
        ("GET", f"/api/tasks/{'0' * 32}.a/explain"),
        ("OPTIONS", "/api/tasks"),
        ("HEAD", "/api/tasks"),
        ("DELETE", "/api/tasks"),
        ("POST", "/api/tasks/nope"),
        ("GET", "/livez"),
    ],
)
def test_what_is_out_of_the_ordinary_goes_the_frameworks_way(method: str, target: str) -> None:
    async def test(ways: BothWays) -> None:
        await ask(ways.express, method, target, encoded(TASK), HEADERS)
        assert ways.left_to_framework == 1

    on_both_ways(test)


def test_every_handler_that_it_takes_is_found_among_the_routes() -> None:
    app = make_app(Node(), Keys(KEY))
    express = Express(app, entry_guard(Node(), Keys(KEY)), NodeAndWaits(Node(), Waits()))
    found = [*express._submits.values(), *express._looks.values()]
    assert {handler.handler_name for handler in found} == TAKEN
    assert all(Scope(handler.opt["aicp_scope"]) is not Scope.OPEN for handler in found)


def test_defect_of_a_handler_is_answered_and_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(ways: BothWays) -> None:
        async def fail(*_: Any, **__: Any) -> str:
            raise RuntimeError("secret of the house")

        monkeypatch.setattr(ways.node.coordinator, "submit_task", fail)
        short, long = [
            await ask(app, "POST", "/api/tasks", encoded(TASK), HEADERS) for app in (ways.express, ways.framework)
        ]
        assert short == long
        assert (short.status, short.json["code"]) == (500, "internal_error")
        assert b"secret" not in short.body

    on_both_ways(test)


def test_answer_that_cannot_be_written_as_json_is_a_defect_like_any(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(ways: BothWays) -> None:
        async def odd(*_: Any, **__: Any) -> Any:
            return "\ud800.task"

        monkeypatch.setattr(ways.node.coordinator, "submit_task", odd)
        answer = await ask(ways.express, "POST", "/api/tasks", encoded(TASK), HEADERS)
        assert (answer.status, answer.json["code"]) == (500, "internal_error")

    on_both_ways(test)
