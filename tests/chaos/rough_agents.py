"""An agent in its own process whose results are too large, nested too deep, or as asked.

python -m tests.chaos.rough_agents
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

MIB = 1 << 20
CAPABILITIES = ("rough.echo", "rough.large", "rough.deep")


@contextmanager
def rough_agent() -> Iterator[str]:
    """The agent's endpoint, while it runs."""
    command = [sys.executable, "-m", "tests.chaos.rough_agents"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def result_of(capability: str, params: dict[str, Any]) -> str:
    """As JSON."""
    if capability == "rough.large":
        return json.dumps("x" * int(params["bytes"]))
    if capability == "rough.deep":
        levels = int(params["levels"])
        return "[" * levels + "]" * levels
    return json.dumps(params)


async def invoke(request: web.Request) -> web.Response:
    call = await request.json()
    result = result_of(call["capability"], call["params"])
    body = f'{{"task_id": "{call["task_id"]}", "result": {result}}}'
    return web.Response(text=body, content_type="application/json")


async def describe(_: web.Request) -> web.Response:
    capabilities = [{"name": name} for name in CAPABILITIES]
    return web.json_response({"agent_id": "rough", "max_concurrent_tasks": 4, "capabilities": capabilities})


async def be_well(_: web.Request) -> web.Response:
    return web.Response()


async def main() -> None:
    """Serve until standard input ends."""
    app = web.Application(client_max_size=64 * MIB)
    app.add_routes([web.post("/invoke", invoke), web.get("/describe", describe), web.get("/healthz", be_well)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    os.write(1, f"http://127.0.0.1:{runner.addresses[0][1]}\n".encode())
    await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
