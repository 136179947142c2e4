"""CPU time of a routed HTTP call against a bare aiohttp call to the same agent, in the same process and run.

Aim: at most 1.5 times.
"""

import asyncio
import contextlib
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator

import aiohttp

from aicp import Node, Task, TaskStatus
from benchmarks.measure import ratio, report

CALLS = 2_000
ROUNDS = 7
CONCURRENT = 8
PARAMS = {"text": "what a small task sends", "n": 7}


@contextlib.contextmanager
def agent_process() -> Iterator[str]:
    """The agent in its own process; yields its endpoint."""
    command = [sys.executable, "-m", "benchmarks.http_agent"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


async def spread(call: Callable[[], Awaitable[None]]) -> float:
    """CPU seconds a call, over CALLS calls by CONCURRENT workers."""

    async def worker() -> None:
        for _ in range(CALLS // CONCURRENT):
            await call()

    began = time.process_time()
    await asyncio.gather(*(worker() for _ in range(CONCURRENT)))
    return (time.process_time() - began) / CALLS


async def measure(endpoint: str) -> tuple[list[float], list[float]]:
    body = {"capability": "echo", "params": PARAMS, "attempt": 1}
    numbers = itertools.count()
    async with Node() as node, aiohttp.ClientSession() as session:
        await node.add_agent(endpoint=endpoint)

        async def bare() -> None:
            task_id = f"bare.{next(numbers)}"
            headers = {"Content-Type": "application/json", "Idempotency-Key": task_id}
            sent = json.dumps({**body, "task_id": task_id})
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
    return ours, theirs


def main() -> None:
    with agent_process() as endpoint:
        ours, theirs = asyncio.run(measure(endpoint))
    rows = [
        ["routed by AICP", statistics.median(ours) * 1e6, "µs CPU a call"],
        ["bare aiohttp", statistics.median(theirs) * 1e6, "µs CPU a call"],
        ["ratio", ratio(ours, theirs), "median of pairs"],
    ]
    report("flow/http_call", ["what", "value", "unit"], rows, ["aiohttp", "msgspec"])


if __name__ == "__main__":
    main()
