"""The whole path in memory: 3 parallel tasks of 100 ms, and the overhead per task of a DAG of 10,000.

Aims: the three in at most 103 ms (median); at most 60 µs a node.
"""

import asyncio
import statistics
import time
from typing import Any

from aicp import Node, Task, TaskChain, TaskStatus
from benchmarks.measure import quantile, report

RUNS = 50
NODES = 10_000
DAG_RUNS = 5


async def nap(params: dict[str, Any]) -> dict[str, Any]:
    await asyncio.sleep(0.1)
    return params


async def no_op(_: dict[str, Any]) -> int:
    return 1


async def three_by_aicp(node: Node) -> float:
    began = time.perf_counter()
    results = await node.coordinator.execute_parallel_tasks([Task("nap", {"n": n}) for n in range(3)])
    elapsed_s = time.perf_counter() - began
    assert [result.status for result in results] == [TaskStatus.COMPLETED] * 3
    return elapsed_s


async def three_by_gather() -> float:
    began = time.perf_counter()
    await asyncio.gather(*(nap({"n": n}) for n in range(3)))
    return time.perf_counter() - began


async def three_parallel() -> list[list[object]]:
    async with Node() as node:
        await node.add_agent("napper", {"nap": nap}, max_concurrent_tasks=3)
        await three_by_aicp(node)
        ours, theirs = [], []
        for _ in range(RUNS):
            ours.append(await three_by_aicp(node))
            theirs.append(await three_by_gather())
    return [
        ["3 x 100 ms, AICP", statistics.median(ours) * 1e3, quantile(ours, 0.99) * 1e3, "ms"],
        ["3 x 100 ms, asyncio.gather", statistics.median(theirs) * 1e3, quantile(theirs, 0.99) * 1e3, "ms"],
    ]


def layered_dag() -> TaskChain:
    """100 layers of 100; each task waits for two of the layer before."""
    chain = TaskChain("layers")
    before: list[Any] = []
    for layer in range(NODES // 100):
        now = []
        for column in range(100):
            awaited = [before[column], before[(column + 1) % 100]] if before else []
            now.append(chain.add_task("noop", id=f"t{layer}-{column}", depends_on=awaited))
        before = now
    return chain


async def one_dag(node: Node) -> float:
    chain = layered_dag().freeze()
    began = time.perf_counter()
    ended = await node.coordinator.execute_chain(chain)
    elapsed_s = time.perf_counter() - began
    assert ended.status is TaskStatus.COMPLETED, ended.error
    return elapsed_s


async def dag_overhead() -> list[list[object]]:
    async with Node() as node:
        for number in range(10):
            await node.add_agent(f"agent-{number}", {"noop": no_op}, max_concurrent_tasks=100)
        await one_dag(node)
        times = [await one_dag(node) for _ in range(DAG_RUNS)]
    per_node_us = [elapsed_s / NODES * 1e6 for elapsed_s in times]
    return [[f"{NODES} node DAG, each node", statistics.median(per_node_us), max(per_node_us), "µs"]]


async def main() -> None:
    rows = [*await three_parallel(), *await dag_overhead()]
    report("flow/parallel", ["what", "median", "p99", "unit"], rows, ["msgspec"])


if __name__ == "__main__":
    asyncio.run(main())
