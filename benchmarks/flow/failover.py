"""Three real HTTP agents under steady load, with and without one of them being killed every 5 s and restarted at once.

Aims: every task completed; p99 with kills at most twice the p99 without. Also: from a kill to the last attempt lost to
it, and from a restart to the agent's first new answer.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

from aicp import AicpError, Node, Outcome, Task, TaskResult, TaskStatus
from benchmarks.measure import quantile, report

TASKS = int(os.environ.get("TASKS", "20000"))
RATE_PER_S = 300
KILL_EVERY_S = 5.0
AGENTS = 3
PARAMS = {"nap_s": 0.02}


class AgentProcess:
    """One agent in its own process on a port of its own, to be killed and started again."""

    def __init__(self, agent_id: str) -> None:
        self.agent_id = agent_id
        self.port = 0
        self.killed_at: list[float] = []
        self.restarted_at: list[float] = []
        self._process = self._start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill_and_restart(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.killed_at.append(time.monotonic())
        self._process = self._start()
        self.restarted_at.append(time.monotonic())

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "benchmarks.http_agent", self.agent_id, str(self.port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        assert process.stdout is not None
        self.port = int(process.stdout.readline().rpartition(":")[2])
        return process


@contextlib.contextmanager
def fleet() -> Iterator[list[AgentProcess]]:
    agents = [AgentProcess(f"napper-{number}") for number in range(AGENTS)]
    try:
        yield agents
    finally:
        for agent in agents:
            agent.stop()


class Load:
    """Tasks at a steady rate, whatever becomes of them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.latencies_s: list[float] = []
        self.results: list[TaskResult | AicpError] = []

    async def run(self) -> None:
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in range(TASKS):
                await asyncio.sleep(max(0.0, began + number / RATE_PER_S - time.monotonic()))
                tasks.create_task(self._one())

    async def _one(self) -> None:
        began = time.monotonic()
        try:
            result: TaskResult | AicpError = await self._node.router.route_task(Task("nap", PARAMS), wait=True)
        except AicpError as error:
            result = error
        self.latencies_s.append(time.monotonic() - began)
        self.results.append(result)

    @property
    def completed(self) -> int:
        return sum(isinstance(r, TaskResult) and r.status is TaskStatus.COMPLETED for r in self.results)


async def one_run(*, kills: bool) -> tuple[Load, list[AgentProcess]]:
    with fleet() as agents:
        async with Node() as node:
            for agent in agents:
                await node.add_agent(endpoint=agent.endpoint)
            load = Load(node)
            killer = asyncio.create_task(kill_in_turn(agents)) if kills else None
            await load.run()
            if killer is not None:
                killer.cancel()
                await asyncio.gather(killer, return_exceptions=True)
    return load, agents


async def kill_in_turn(agents: list[AgentProcess]) -> None:
    for agent in itertools.cycle(agents):
        await asyncio.sleep(KILL_EVERY_S)
        await asyncio.to_thread(agent.kill_and_restart)


def reactions(load: Load, agents: list[AgentProcess]) -> tuple[list[float], list[float]]:
    """Seconds from each kill to the last attempt lost to it, and from each restart to the first new answer."""
    wall_offset = time.time() - time.monotonic()
    lost, healed = [], []
    attempts = [a for r in load.results if isinstance(r, TaskResult) for a in r.attempts]
    for agent in agents:
        theirs = [(a.ended_at.timestamp() - wall_offset, a.outcome) for a in attempts if a.agent_id == agent.agent_id]
        for killed_at, restarted_at in zip(agent.killed_at, agent.restarted_at, strict=False):
            window = [
                (at, outcome) for at, outcome in theirs if killed_at - 0.1 <= at < killed_at + 3 * KILL_EVERY_S - 1
            ]
            losses = [at - killed_at for at, outcome in window if outcome is not Outcome.SUCCESS]
            answers = [at - restarted_at for at, outcome in window if outcome is Outcome.SUCCESS and at > restarted_at]
            lost.append(max(losses, default=0.0))
            if answers:
                healed.append(min(answers))
    return lost, healed


def main() -> None:
    calm, _ = asyncio.run(one_run(kills=False))
    stormy, agents = asyncio.run(one_run(kills=True))
    lost_s, healed_s = reactions(stormy, agents)
    p99_calm, p99_stormy = quantile(calm.latencies_s, 0.99), quantile(stormy.latencies_s, 0.99)
    rows: list[list[object]] = [
        ["tasks completed, no kills", f"{calm.completed} of {TASKS}", ""],
        [
            "tasks completed, with kills",
            f"{stormy.completed} of {TASKS}",
            f"{sum(len(a.killed_at) for a in agents)} kills",
        ],
        [
            "p50 no kills / with kills",
            f"{_ms(statistics.median(calm.latencies_s))} / {_ms(statistics.median(stormy.latencies_s))}",
            "ms",
        ],
        ["p99 no kills / with kills", f"{_ms(p99_calm)} / {_ms(p99_stormy)}", "ms"],
        ["p99 ratio", p99_stormy / p99_calm, "aim <= 2"],
        [
            "p99.9 no kills / with kills",
            f"{_ms(quantile(calm.latencies_s, 0.999))} / {_ms(quantile(stormy.latencies_s, 0.999))}",
            "ms",
        ],
        ["kill to last lost attempt", statistics.median(lost_s), "s, median"],
        ["restart to first new answer", statistics.median(healed_s), "s, median"],
    ]
    report("flow/failover", ["what", "value", "unit"], rows, ["aiohttp", "msgspec"])


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f}"


if __name__ == "__main__":
    main()
