"""The agent that benchmarks call, in its own process: `echo` its params, or `nap` for a while.

Takes its id and port; prints its endpoint; ends with its standard input.
"""

import asyncio
import sys
from typing import Any

import uvloop

from aicp.agent import Agent

SLOTS = 64


async def echo(params: dict[str, Any]) -> dict[str, Any]:
    return params


async def nap(params: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(params["nap_s"])
    return params


async def main(agent_id: str, port: int) -> None:
    agent = Agent(agent_id, max_concurrent_tasks=SLOTS)
    agent.capability("echo")(echo)
    agent.capability("nap")(nap)
    async with agent.serving(port=port) as served:
        print(served.endpoint, flush=True)
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    uvloop.run(main(arguments[0] if arguments else "echo", int(arguments[1]) if len(arguments) > 1 else 0))
