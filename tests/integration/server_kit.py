"""What the tests of server and client share: a server on a real socket, and somebody who asks it."""

import asyncio
import io
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from aicp.agent import Agent
from aicp.model.access import GRANTABLE, KeyMade, KeyRequest, Scope
from aicp.observability.feed import Feed
from aicp.runtime.node import Node
from aicp.runtime.settings import Settings
from aicp.server import RunningServer, running_server
from aicp.server.auth import Caller
from aicp.server.connections import Limits

BOUND_S = 55.0
T = TypeVar("T")


class Answered(msgspec.Struct, frozen=True):
    """What a request came back with."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def code(self) -> str:
        return str(self.body["code"])

    @property
    def faults(self) -> dict[str, str]:
        return {fault["place"]: fault["message"] for fault in self.body["faults"]}


class Api:
    """Asks one server, with the admin key unless told otherwise."""

    def __init__(self, server: RunningServer, node: Node, session: aiohttp.ClientSession) -> None:
        self.url = server.url
        self.key = server.admin_key
        self.keys = server.keys
        self.node = node
        self.session = session

    async def send(self, method: str, path: str, *, key: str | None = None, **request: Any) -> Answered:
        headers = {"Authorization": f"Bearer {self.key if key is None else key}", **request.pop("headers", {})}
        async with self.session.request(method, self.url + path, headers=headers, **request) as response:
            is_json = "json" in response.headers.get("Content-Type", "")
            body = await (response.json(content_type=None) if is_json else response.text())
            return Answered(response.status, body, {name.lower(): text for name, text in response.headers.items()})

    async def new_key(self, tenant: str = "default", *scopes: Scope, **told: Any) -> str:
        """The secret of a fresh key of a tenant, with every scope that a tenant's key can have unless told."""
        return (await self.make_key(tenant, *scopes, **told)).secret

    async def make_key(self, tenant: str = "default", *scopes: Scope, **told: Any) -> KeyMade:
        may = scopes or tuple(scope for scope in GRANTABLE if scope not in {Scope.ADMIN, Scope.METRICS_READ})
        return await self.keys.create(KeyRequest("test", may, tenant, **told), Caller())

    async def get(self, path: str, **request: Any) -> Answered:
        return await self.send("GET", path, **request)

    async def delete(self, path: str, **request: Any) -> Answered:
        return await self.send("DELETE", path, **request)

    async def post(self, path: str, body: Any = None, **request: Any) -> Answered:
        if body is None:
            return await self.send("POST", path, **request)
        headers = {"Content-Type": "application/json", **request.pop("headers", {})}
        return await self.send("POST", path, data=io.BytesIO(msgspec.json.encode(body)), headers=headers, **request)

    async def post_raw(self, path: str, body: bytes, **headers: str) -> Answered:
        sent = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        return await self.send("POST", path, data=io.BytesIO(body), headers=sent)

    async def ask_as_written(self, first: str, *fields: str, body: bytes = b"") -> Answered:
        """Send a request with these lines as its header, on a connection of its own."""
        reader, writer = await asyncio.open_connection("127.0.0.1", int(self.url.rpartition(":")[2]))
        head = "\r\n".join([f"{first} HTTP/1.1", "Host: localhost", "Connection: close", *fields])
        try:
            writer.write(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            top, _, content = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.transport.abort()
        status, *told = top.decode("latin-1").split("\r\n")
        headers = {name.lower(): text for name, _, text in (field.partition(": ") for field in told)}
        is_json = "json" in headers.get("content-type", "")
        return Answered(int(status.split()[1]), msgspec.json.decode(content) if is_json else content.decode(), headers)


class Gate:
    """A handler that starts, and waits to be let go."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.let_go = asyncio.Event()

    async def __call__(self, params: dict[str, Any]) -> dict[str, Any]:
        self.started.set()
        await self.let_go.wait()
        return params


async def echo(params: dict[str, Any]) -> dict[str, Any]:
    return params


async def break_down(params: dict[str, Any]) -> None:
    raise ConnectionError("lost the model")


@asynccontextmanager
async def asking(*, limits: Limits | None = None, **settings: Any) -> AsyncIterator[Api]:
    """A node with an agent `echo-1`, its server, and somebody who asks it."""
    with tempfile.TemporaryDirectory() as directory:
        async with Node(policy=settings.get("policy")) as node:
            await node.add_agent("echo-1", {"text.echo": echo}, max_concurrent_tasks=8, labels={"zone": "a"})
            options = Settings(**{"port": 0, "data_dir": Path(directory), **settings})
            async with running_server(options, node, limits) as server, aiohttp.ClientSession() as session:
                yield Api(server, node, session)


async def until(condition: Callable[[], bool]) -> None:
    """Return once it holds, looking every 10 ms, within the bound."""
    async with asyncio.timeout(BOUND_S):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the server, which knows no test
            await asyncio.sleep(0.01)


def readers_of(api: Api) -> int:
    """How many read live events of the server."""
    return sum(feed._readers for feed in feeds_of(api.node))


def feeds_of(node: Node) -> list[Feed]:
    """What the servers of a node tell live events with."""
    return [each for each in node._observers._observers if isinstance(each, Feed)]


def echoing_agent(agent_id: str = "eyes-1") -> Agent:
    agent = Agent(agent_id, max_concurrent_tasks=4)

    @agent.capability("image.label", timeout_s=5.0)
    async def label(params: dict[str, Any]) -> dict[str, Any]:
        return {"seen": params}

    return agent


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await main()

    asyncio.run(bounded())


Test = Callable[[Api], Coroutine[Any, Any, None]]


@contextmanager
def shared_server(**settings: Any) -> Iterator[Callable[[Test], None]]:
    """One server for many tests that leave nothing behind, on a loop of its own; gives what runs a test against it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="shared server")
    thread.start()

    def wait_for(work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, loop).result(BOUND_S)

    serving = asking(**settings)
    try:
        api = wait_for(serving.__aenter__())
        try:
            yield lambda test: wait_for(test(api))
        finally:
            wait_for(serving.__aexit__(None, None, None))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(BOUND_S)
        loop.close()


def with_api(test: Test, **settings: Any) -> None:
    async def main() -> None:
        async with asking(**settings) as api:
            await test(api)

    run(main)
