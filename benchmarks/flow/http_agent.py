"""The agent that benchmarks call: echoes its params, in its own process; prints its endpoint, ends with its stdin."""

import asyncio
import sys
from typing import Any

import uvloop

from aicp.agent import Agent

SLOTS = 64
agent = Agent("echo", max_concurrent_tasks=SLOTS)


@agent.capability("echo")
async def echo(params: dict[str, Any]) -> dict[str, Any]:
    return params


async def main() -> None:
    async with agent.serving() as served:
        print(served.endpoint, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    uvloop.run(main())
