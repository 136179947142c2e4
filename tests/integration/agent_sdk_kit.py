"""What the tests of the agent SDK share: a caller, a capability that waits to be let go, a registry that obeys."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from aicp.agent import Agent, Context, ServedAgent

BOUND_S = 60.0


class Answered(msgspec.Struct, frozen=True):
    """What a call came back with."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])


class Caller:
    """Calls one served agent."""

    def __init__(self, served: ServedAgent, session: aiohttp.ClientSession) -> None:
        self.served = served
        self.session = session

    async def send(self, method: str, path: str, **request: Any) -> Answered:
        async with self.session.request(method, self.served.endpoint + path, **request) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answered(response.status, await response.json(), headers)

    async def invoke(
        self, key: str = "c.t-1", params: Any = None, *, capability: str = "work", headers: Any = None, attempt: int = 1
    ) -> Answered:
        body = {"task_id": key, "capability": capability, "params": params or {}, "attempt": attempt}
        return await self.send("POST", "/invoke", json=body, headers={"Idempotency-Key": key, **(headers or {})})

    def start(self, *arguments: Any, **named: Any) -> "asyncio.Task[Answered]":
        return asyncio.create_task(self.invoke(*arguments, **named))

    async def send_raw(self, body: bytes, **headers: str) -> Answered:
        sent = {"Content-Type": "application/json", **{name.replace("_", "-"): text for name, text in headers.items()}}
        return await self.send("POST", "/invoke", data=body, headers=sent)


@asynccontextmanager
async def calling(agent: Agent, **options: Any) -> AsyncIterator[Caller]:
    options.setdefault("drain_s", 1.0)
    async with aiohttp.ClientSession() as session, agent.serving(**options) as served:
        yield Caller(served, session)


class Work:
    """A capability whose executions start, wait to be let go, and tell what became of them."""

    def __init__(self, slots: int = 1, **declared: Any) -> None:
        self.agent = Agent("eyes-1", max_concurrent_tasks=slots)
        self.started = asyncio.Semaphore(0)
        self.let_go = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.executions = 0
        self.contexts: list[Context] = []
        self.agent.capability("work", **declared)(self._execute)

    async def _execute(self, params: dict[str, Any], context: Context) -> dict[str, Any]:
        self.executions += 1
        self.contexts.append(context)
        self.started.release()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return {"execution": self.executions, **params}

    async def joined_by(self, caller: Caller, key: str, token: str = "1.2") -> "asyncio.Task[Answered]":
        """A repeat that waits for the execution in flight, whose own deadline is ten seconds or less."""
        headers = {"X-AICP-Fencing-Token": token, "X-AICP-Deadline-Ms": "60000"}
        repeat = caller.start(key, headers=headers, attempt=2)
        while (self.contexts[-1].remaining_s or 0.0) < 30.0:
            await caller.send("GET", "/healthz")
        return repeat


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_S):
            await main()

    asyncio.run(bounded())


def echoing() -> Agent:
    agent = Agent("eyes-1", max_concurrent_tasks=4)

    @agent.capability("work")
    async def echo(params: dict[str, Any]) -> dict[str, Any]:
        return params

    return agent


class FakeAins:
    """The registry's four calls, answered as the test says."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any, str]] = []
        self.statuses: dict[str, int] = {}
        self.url = ""
        self._changed = asyncio.Condition()

    @asynccontextmanager
    async def serving(self, port: int = 0) -> AsyncIterator["FakeAins"]:
        runner = web.ServerRunner(web.Server(self._answer, access_log=None), shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self
        finally:
            await runner.cleanup()

    async def saw(self, call: str, times: int = 1) -> Any:
        """The body of this call, once it has come so often."""
        async with self._changed:
            await self._changed.wait_for(lambda: self.calls.count(call) >= times)
        return [body for name, body, _ in self.seen if name == call][times - 1]

    @property
    def calls(self) -> list[str]:
        return [name for name, _, _ in self.seen]

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        call = f"{request.method} {request.path}"
        self.seen.append((call, msgspec.json.decode(body) if body else None, request.headers.get("Authorization", "")))
        async with self._changed:
            self._changed.notify_all()
        lease = {"agent_id": "eyes-1", "lease": {"ttl_s": 15, "heartbeat_every_s": 0.02}}
        status = self.statuses.get(call, 201 if call == REGISTER else 200)
        return web.json_response(lease, status=status)


REGISTER = "POST /ains/agents"
HEARTBEAT = "POST /ains/agents/eyes-1/heartbeat"
DRAIN = "POST /ains/agents/eyes-1/drain"
LEAVE = "DELETE /ains/agents/eyes-1"


def with_ains(test: Callable[[FakeAins], Awaitable[None]]) -> None:
    async def main() -> None:
        async with FakeAins().serving() as ains:
            await test(ains)

    run(main)
