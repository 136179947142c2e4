"""What one replica does on PostgreSQL, and what two do on the same one: 300 chains at once in each, again and again.

    python -m benchmarks.peers.engines.replicas URL SECONDS

is one replica: it says that it is ready, begins when it is told to, and says how much it did and what that cost.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import asyncpg
import msgspec
import uvloop

from aicp import Node, TaskStatus
from benchmarks.measure import ratio
from benchmarks.peers.engines.by_aicp import SLOTS, add_one, chain_of
from benchmarks.peers.engines.postgres import fresh_postgres
from benchmarks.peers.engines.process import collect_garbage_rarely
from tests.postgres_server import PostgresServer

CHAINS = 300
STEPS = 10
WARM_UP_S = 1.0
MEASURED_S = 4.0
ROUNDS = 5
COMMITS = 200
END_WAIT_S = 30.0


class Share(msgspec.Struct, frozen=True):
    """What one replica did.

    Attributes:
        steps: Recorded.
        seconds: In this time.
        cpu_s: Processor time of its process.
    """

    steps: int
    seconds: float
    cpu_s: float


class Throughput(msgspec.Struct, frozen=True):
    """What some replicas did together.

    Attributes:
        steps_per_s: Recorded.
        replica_cores: Processor time of theirs, a second.
        server_cores: Of PostgreSQL's.
    """

    steps_per_s: float
    replica_cores: float
    server_cores: float


class SideBySide(msgspec.Struct, frozen=True):
    """One replica and two, in turns: medians.

    Attributes:
        one: One.
        two: Two.
        ratio: How much more two did, pair by pair.
        commit_ms: What one commit of one row asks for, on the same server.
    """

    one: Throughput
    two: Throughput
    ratio: float
    commit_ms: float

    def named(self) -> tuple[tuple[str, Throughput], ...]:
        """Both, with what they are called."""
        return ("one replica", self.one), ("two replicas", self.two)


def replicas_side_by_side(rounds: int = ROUNDS) -> SideBySide:
    """One replica, then two, on a server of their own; `rounds` times in turns."""
    with fresh_postgres() as server:
        ones, twos = zip(*((throughput(server, 1), throughput(server, 2)) for _ in range(rounds)), strict=True)
        more = ratio([two.steps_per_s for two in twos], [one.steps_per_s for one in ones])
        return SideBySide(_median(ones), _median(twos), more, asyncio.run(commit_ms(server.url())))


def throughput(server: PostgresServer, replicas: int) -> Throughput:
    """What so many replicas do at the same time."""
    with ExitStack() as scope:
        running = [scope.enter_context(_replica(server.url())) for _ in range(replicas)]
        for process in running:
            _pipe(process.stdout).readline()
        server_s, began = _cpu_of_server_s(server), time.perf_counter()
        for process in running:
            _pipe(process.stdin).write(b"\n")
            _pipe(process.stdin).flush()
        shares = [msgspec.json.decode(_pipe(process.stdout).readline(), type=Share) for process in running]
        seconds = time.perf_counter() - began
        server_cores = (_cpu_of_server_s(server) - server_s) / seconds
    return Throughput(
        sum(share.steps / share.seconds for share in shares),
        sum(share.cpu_s / share.seconds for share in shares),
        server_cores,
    )


async def commit_ms(url: str) -> float:
    """A row written and on disk, from a client that waits for each, p50."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS commits (number int)")
        taken = []
        for number in range(COMMITS):
            began = time.perf_counter()
            await connection.fetch("INSERT INTO commits VALUES ($1)", number)
            taken.append(time.perf_counter() - began)
    finally:
        await connection.close()
    return statistics.median(taken) * 1e3


@contextmanager
def _replica(url: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", __spec__.name, url, str(MEASURED_S)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
            process.wait(END_WAIT_S)
        finally:
            process.kill()


def _median(each: Sequence[Throughput]) -> Throughput:
    return Throughput(*map(statistics.median, zip(*map(msgspec.structs.astuple, each), strict=True)))


def _cpu_of_server_s(server: PostgresServer) -> float:
    """Processor time of its processes; of those that ended, too."""
    of_children = sum(sum(_ticks(pid)[:2]) for pid in server.children)
    return (sum(_ticks(server.pid)) + of_children) / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> list[int]:
    """Of a process: user's and system's, and those of its children that ended."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return [0] * 4
    return [int(number) for number in told.rpartition(")")[2].split()[11:15]]


async def replica(url: str, seconds: float) -> None:
    """Run chains for a while, after a warm-up; tells what that came to."""
    async with Node(database=url) as node:
        await node.add_agent("worker", {"add_one": add_one}, max_concurrent_tasks=SLOTS)
        collect_garbage_rarely()
        await _run_chains(node, WARM_UP_S)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        began, cpu_began = time.perf_counter(), time.process_time()
        steps = await _run_chains(node, seconds)
        share = Share(steps, time.perf_counter() - began, time.process_time() - cpu_began)
        print(msgspec.json.encode(share).decode(), flush=True)


async def _run_chains(node: Node, seconds: float) -> int:
    """So many at any time: who ends begins again, until the time is over; how many steps that were."""
    ends_at = time.perf_counter() + seconds

    async def one_after_the_other() -> int:
        steps = 0
        while time.perf_counter() < ends_at:
            ended = await node.coordinator.execute_chain(chain_of(STEPS))
            assert ended.status is TaskStatus.COMPLETED, ended.error
            steps += STEPS
        return steps

    return sum(await asyncio.gather(*(one_after_the_other() for _ in range(CHAINS))))


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream


if __name__ == "__main__":
    uvloop.run(replica(sys.argv[1], float(sys.argv[2])))
