"""Agents in their own processes that write down every execution.

A `forgetful` one executes whatever it is sent, as an agent that ignores the idempotency key does: whatever the server
sends twice, it does twice. A `minding` one is an agent of the SDK.

    python -m tests.chaos.agent_process forgetful|minding AGENT_ID KEY BOOK SERVER_URL...
"""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from aicp.agent import Agent, Context
from aicp.agent.registration import Registrar, Registration
from aicp.model.agent import Capability
from aicp.model.wire import FENCING_HEADER, KEY_HEADER, Answer, Invocation
from tests.chaos.executions import Book
from tests.chaos.server_process import BOUND_S, ServerProcess

CAPABILITY = "work"
SLOTS = 32
REGISTERED = b"registered\n"
FLEET = {"forgetful-1": "forgetful", "forgetful-2": "forgetful", "minding-1": "minding"}


@contextmanager
def fleet(servers: Sequence[ServerProcess], book: Path) -> Iterator[None]:
    """The agents of the siege, which register themselves with servers that have started and write to one book."""
    log = book.with_suffix(".log")
    running = [_spawn(agent_id, kind, servers, book, log) for agent_id, kind in FLEET.items()]
    try:
        for agent in running:
            assert agent.stdout is not None
            assert agent.stdout.readline() == REGISTERED, "an agent could not register"
        yield
        assert "Traceback" not in log.read_text(encoding="utf-8"), log.read_text(encoding="utf-8")
        assert all(agent.poll() is None for agent in running), "an agent has ended"
    finally:
        for agent in running:
            agent.kill()
            agent.communicate()


def _spawn(
    agent_id: str, kind: str, servers: Sequence[ServerProcess], book: Path, log: Path
) -> "subprocess.Popen[bytes]":
    words = [kind, agent_id, servers[0].key, str(book), *(server.url for server in servers)]
    command = [sys.executable, "-m", "tests.chaos.agent_process", *words]
    with log.open("ab") as stderr:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)


async def execute(book: Book, key: str, token: str, params: dict[str, Any]) -> dict[str, Any]:
    """Take some time over a task, and write down when."""
    execution = uuid.uuid4().hex
    book.begin(execution, key, token, params["given"])
    await asyncio.sleep(params["work_ms"] / 1000)
    book.end(execution)
    return {"execution": execution, "padding": "x" * params["size"]}


@asynccontextmanager
async def forgetful(agent_id: str, server_urls: Sequence[str], api_key: str, book: Book) -> AsyncIterator[None]:
    async def invoke(request: web.Request) -> web.Response:
        call = msgspec.json.decode(await request.read(), type=Invocation)
        assert call.task_id == request.headers[KEY_HEADER]
        result = await execute(book, call.task_id, request.headers[FENCING_HEADER], call.params)
        return web.Response(body=msgspec.json.encode(Answer(call.task_id, result)), content_type="application/json")

    async def be_well(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application(client_max_size=1 << 24)
    app.add_routes([web.post("/invoke", invoke), web.get("/healthz", be_well)])
    runner = web.AppRunner(app, keepalive_timeout=600.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with registered(agent_id, endpoint, uuid.uuid4().hex, server_urls, api_key):
        yield
    await runner.cleanup()


@asynccontextmanager
async def minding(agent_id: str, server_urls: Sequence[str], api_key: str, book: Book) -> AsyncIterator[None]:
    agent = Agent(agent_id, max_concurrent_tasks=SLOTS)

    @agent.capability(CAPABILITY)
    async def work(params: dict[str, Any], context: Context) -> dict[str, Any]:
        return await execute(book, context.task_id, str(context.fencing_token), params)

    first, *others = server_urls
    async with agent.serving(register=first, api_key=api_key) as served:
        await served.registered(BOUND_S)
        async with registered(agent_id, served.endpoint, served.instance_id, others, api_key):
            yield


@asynccontextmanager
async def registered(
    agent_id: str, endpoint: str, instance_id: str, server_urls: Sequence[str], api_key: str
) -> AsyncIterator[None]:
    """An agent is known to each of these servers, and gives signs of life to each."""
    registration = Registration(endpoint, agent_id, instance_id, (Capability(CAPABILITY),), SLOTS)
    registrars = [Registrar(url, registration, api_key, lambda: None) for url in server_urls]
    async with asyncio.TaskGroup() as group:
        heartbeats = [group.create_task(registrar.run()) for registrar in registrars]
        for registrar in registrars:
            await registrar.registered.wait()
        yield
        for heartbeat in heartbeats:
            heartbeat.cancel()
    for registrar in registrars:
        await registrar.close()


async def main(kind: str, agent_id: str, api_key: str, book: str, *server_urls: str) -> None:
    """Serve until standard input ends, that is, until the parent is gone."""
    serving = forgetful if kind == "forgetful" else minding
    async with serving(agent_id, server_urls, api_key, Book(Path(book))):
        os.write(1, REGISTERED)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
