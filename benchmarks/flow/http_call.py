"""CPU time of a routed HTTP call against a bare aiohttp call to the same agent, in the same process and run.

Aim: at most 1.5 times.
"""

import asyncio
import contextlib
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import aiohttp

from aicp import Node, Task, TaskStatus
from benchmarks.measure import ratio, report

CALLS = 2_000
ROUNDS = 7
CONCURRENT = 8
PARAMS = {"text": "what a small task sends", "n": 7}


@contextlib.asynccontextmanager
async def agent_process() -> AsyncIterator[str]:
    """The agent in its own process; yields its endpoint."""
    command = [sys.executable, "-m", "benchmarks.flow.http_agent"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield await asyncio.to_thread(process.stdout.readline)
    finally:
        process.kill()
        process.wait()


async def spread(call: object) -> float:
    """CPU seconds a call, over CALLS calls by CONCURRENT workers."""
    assert callable(call)

    async def worker() -> None:
        for _ in range(CALLS // CONCURRENT):
            await call()

    began = time.process_time()
    await asyncio.gather(*(worker() for _ in range(CONCURRENT)))
    return (time.process_time() - began) / CALLS


async def main() -> None:
    body = {"capability": "echo", "params": PARAMS, "attempt": 1}
    async with agent_process() as line, Node() as node, aiohttp.ClientSession() as session:
        endpoint = line.strip()
        await node.add_agent(endpoint=endpoint)
        numbers = iter(range(10**9))

        async def bare() -> None:
            task_id = f"bare.{next(numbers)}"
            sent = json.dumps({**body, "task_id": task_id})
            headers = {"Content-Type": "application/json", "Idempotency-Key": task_id}
            async with session.post(f"{endpoint}/invoke", data=sent, headers=headers) as response:
                answer = await response.json()
                assert answer["result"] == PARAMS, answer

        async def routed() -> None:
            result = await node.router.route_task(Task("echo", PARAMS))
            assert result.status is TaskStatus.COMPLETED, result.error

        await spread(bare)
        await spread(routed)
        ours, theirs = [], []
        for _ in range(ROUNDS):
            theirs.append(await spread(bare))
            ours.append(await spread(routed))
    rows = [
        ["routed by AICP", statistics.median(ours) * 1e6, "µs CPU a call"],
        ["bare aiohttp", statistics.median(theirs) * 1e6, "µs CPU a call"],
        ["ratio", ratio(ours, theirs), "median of pairs"],
    ]
    report("flow/http_call", ["what", "value", "unit"], rows, ["aiohttp", "msgspec"])


if __name__ == "__main__":
    asyncio.run(main())
