"""`aicp serve` under load: tasks a second from the submit over HTTP to the recorded result, through real HTTP agents.

Client, server and two agents are processes of their own on this machine. So many tasks are in flight at any time: who
has a result submits the next task; or, in sets, who has the results of the 16 tasks that went in one request. Beside
it the same job on Celery and on Taskiq with Redis, which writes every command to its disk: a task is sent, a worker
calls the same agents over HTTP, the result is fetched. Systems take turns; each begins afresh in each round, and
figures are medians over the rounds.

Aims: at least 5 times the tasks a second of either queue; p50 with one in flight at most 5 ms.
Needs `pip install -e '.[engines]'`.

    python -m benchmarks.flow.server [--quick] [--system NAME]... [--rounds N]
"""

import argparse
import asyncio
import itertools
import os
import statistics
import sys
import tempfile
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from aicp import Task, TaskStatus
from aicp.client import Client
from benchmarks.flow.queues.calls import AGENTS_VARIABLE, REDIS_VARIABLE, SLOTS
from benchmarks.measure import AIMS, NONE, Row, at_least, at_most, quantile, ratio, report
from benchmarks.peers.engines.postgres import fresh_postgres
from benchmarks.processes import AgentProcess, fleet, register, serving
from benchmarks.redis_server import fresh_redis, running

IN_FLIGHT = (1, 16, 256)
SET = 16
PARAMS = {"text": "what a small task sends", "n": 7}
ROUNDS = 3
MEASURED_S = 5.0
WARM_UP_S = 1.0
RESULT_WAIT_S = 60.0
LOOK_EVERY_S = 0.002
REQUESTS_A_CLIENT = 64
WORKERS = 4


class Load(msgspec.Struct, frozen=True):
    """What one system did with so many tasks in flight.

    Attributes:
        tasks_per_s: Done.
        p50_ms: From the submit until the result was here.
        p99_ms: The same.
    """

    tasks_per_s: float
    p50_ms: float
    p99_ms: float


Ask = Callable[[], Awaitable[int]]
"""Has a task done, or several that go in one request; returns how many."""

Measured = dict[int, Load]
System = Callable[[Path, Sequence[AgentProcess], float], Measured]


async def keep_in_flight(asks: Sequence[Ask], seconds: float) -> list[float]:
    """Each has one task done after the other for so long; how long each task took, seconds."""
    ends_at = time.perf_counter() + seconds
    taken: list[float] = []

    async def one_after_the_other(ask: Ask) -> None:
        while (began := time.perf_counter()) < ends_at:
            count = await ask()
            taken.extend([time.perf_counter() - began] * count)

    await asyncio.gather(*map(one_after_the_other, asks))
    return taken


async def load(asks: Sequence[Ask], seconds: float) -> Load:
    await keep_in_flight(asks, min(WARM_UP_S, seconds))
    began = time.perf_counter()
    taken = await keep_in_flight(asks, seconds)
    return load_of(taken, time.perf_counter() - began)


def load_of(taken: Sequence[float], seconds: float) -> Load:
    return Load(len(taken) / seconds, quantile(taken, 0.5) * 1e3, quantile(taken, 0.99) * 1e3)


def by_aicp(
    directory: Path, agents: Sequence[AgentProcess], seconds: float, *, postgres: bool = False, in_sets: bool = False
) -> Measured:
    """`aicp serve`, and its own client; tasks one by one, or in sets that go in one request and are waited for."""
    with ExitStack() as scope:
        database = scope.enter_context(fresh_postgres()).url() if postgres else None
        server = scope.enter_context(serving(directory / "aicp", database))
        server.start()
        uvloop.run(register(server, agents))
        return uvloop.run((ask_for_sets if in_sets else ask_aicp)(server.url, server.key, seconds))


async def ask_for_sets(url: str, key: str, seconds: float) -> Measured:
    async with Client(url, key) as client:

        async def ask() -> int:
            view = await client.run_parallel([Task("echo", PARAMS) for _ in range(SET)], timeout_s=RESULT_WAIT_S)
            assert view.completed_tasks == SET, view.error
            return SET

        return {count: await load([ask] * (count // SET), seconds) for count in IN_FLIGHT if count >= SET}


async def ask_aicp(url: str, key: str, seconds: float) -> Measured:
    async with AsyncExitStack() as scope:
        count = -(-max(IN_FLIGHT) // REQUESTS_A_CLIENT)
        clients = [await scope.enter_async_context(Client(url, key)) for _ in range(count)]

        async def ask(client: Client) -> int:
            view = await client.run_task(Task("echo", PARAMS), timeout_s=RESULT_WAIT_S)
            assert view.status is TaskStatus.COMPLETED, view.error
            assert view.result == PARAMS, view.result
            return 1

        asks = [partial(ask, clients[number // REQUESTS_A_CLIENT]) for number in range(max(IN_FLIGHT))]
        return {count: await load(asks[:count], seconds) for count in IN_FLIGHT}


@contextmanager
def workers_of_taskiq() -> Iterator[Any]:
    """Two processes, each with as many calls at a time as an agent has slots."""
    where = "benchmarks.flow.queues.taskiq_app"
    few = ["--workers", "2", "--max-async-tasks", str(SLOTS), "--ack-type", "when_saved", "--log-level", "ERROR"]
    with running([sys.executable, "-m", "taskiq", "worker", f"{where}:broker", *few]):
        yield imported_anew(where)


def by_taskiq(directory: Path, agents: Sequence[AgentProcess], seconds: float) -> Measured:
    """Taskiq."""
    with redis_for(directory, agents), workers_of_taskiq() as app:
        return uvloop.run(ask_taskiq(app, seconds))


async def ask_taskiq(app: Any, seconds: float) -> Measured:
    await app.broker.startup()

    async def ask() -> int:
        sent = await app.call_task.kiq(uuid.uuid4().hex, PARAMS)
        # Left to itself it looks for a result five times a second.
        result = await sent.wait_result(check_interval=LOOK_EVERY_S, timeout=RESULT_WAIT_S)
        assert result.return_value == PARAMS, result
        return 1

    try:
        await ask()
        return {count: await load([ask] * count, seconds) for count in IN_FLIGHT}
    finally:
        await app.broker.shutdown()


def by_celery(directory: Path, agents: Sequence[AgentProcess], seconds: float) -> Measured:
    """Celery, with a pool of processes; its client waits for the oldest of those in flight."""
    where = "benchmarks.flow.queues.celery_app"
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
    command = [sys.executable, "-m", "celery", "--app", where, "worker", "--concurrency", str(WORKERS), *quiet]
    with redis_for(directory, agents), running(command):
        app = imported_anew(where)
        app.call_task.delay("warm-up", PARAMS).get(timeout=RESULT_WAIT_S)
        return {count: load_celery(app, count, seconds) for count in IN_FLIGHT}


def load_celery(app: Any, in_flight: int, seconds: float) -> Load:
    window_of_celery(app, in_flight, min(WARM_UP_S, seconds))
    began = time.perf_counter()
    taken = window_of_celery(app, in_flight, seconds)
    return load_of(taken, time.perf_counter() - began)


def window_of_celery(app: Any, in_flight: int, seconds: float) -> list[float]:
    ends_at, sent, taken = time.perf_counter() + seconds, deque[tuple[float, Any]](), list[float]()
    while True:
        while len(sent) < in_flight and (began := time.perf_counter()) < ends_at:
            sent.append((began, app.call_task.delay(uuid.uuid4().hex, PARAMS)))
        if not sent:
            return taken
        began, result = sent.popleft()
        assert result.get(timeout=RESULT_WAIT_S) == PARAMS
        taken.append(time.perf_counter() - began)


def imported_anew(where: str) -> Any:
    """A module that reads its environment when it is imported: each round has a Redis of its own."""
    sys.modules.pop(where, None)
    return import_module(where)


@contextmanager
def redis_for(directory: Path, agents: Sequence[AgentProcess]) -> Iterator[None]:
    """A broker, and an environment that tells of it and of the agents."""
    with fresh_redis(directory) as socket:
        os.environ[REDIS_VARIABLE] = str(socket)
        os.environ[AGENTS_VARIABLE] = " ".join(agent.endpoint for agent in agents)
        yield


OURS: Mapping[str, System] = {
    "AICP, SQLite": by_aicp,
    "AICP, PostgreSQL": partial(by_aicp, postgres=True),
    f"AICP, SQLite, sets of {SET}": partial(by_aicp, in_sets=True),
    f"AICP, PostgreSQL, sets of {SET}": partial(by_aicp, postgres=True, in_sets=True),
}
QUEUES: Mapping[str, System] = {"Taskiq, Redis": by_taskiq, "Celery, Redis": by_celery}
SYSTEMS = {**OURS, **QUEUES}


def measure_system(name: str, seconds: float) -> Measured:
    with tempfile.TemporaryDirectory(prefix="bench-server-", ignore_cleanup_errors=True) as scratch, fleet() as agents:
        return SYSTEMS[name](Path(scratch), agents, seconds)


def median_of(loads: Sequence[Load]) -> Load:
    return Load(*map(statistics.median, zip(*map(msgspec.structs.astuple, loads), strict=True)))


Loads = Mapping[str, Mapping[int, Sequence[Load]]]
"""By system and by how many were in flight, those of all rounds."""


def rows_of(loads: Loads) -> list[Row]:
    rows: list[Row] = []
    for in_flight, (name, of_name) in itertools.product(IN_FLIGHT, loads.items()):
        if not of_name[in_flight]:
            continue
        middle = median_of(of_name[in_flight])
        more = [times(loads, name, queue, in_flight) or NONE for queue in QUEUES]
        rows.append([in_flight, name, middle.tasks_per_s, middle.p50_ms, middle.p99_ms, *more])
    return rows


def times(loads: Loads, name: str, queue: str, in_flight: int) -> float | None:
    """How many times the tasks a second of a queue, round by round; None where there is nothing to compare."""
    if name not in OURS or not {name, queue} <= loads.keys() or not loads[name][in_flight]:
        return None
    return ratio(*([load.tasks_per_s for load in loads[each][in_flight]] for each in (name, queue)))


def aims(loads: Loads) -> list[Row]:
    ours = [name for name in OURS if name in loads]
    return [
        *(
            at_most(f"{name}: p50 with one in flight, ms", 5.0, median_of(loads[name][1]).p50_ms)
            for name in ours
            if loads[name][1]
        ),
        *(
            at_least(f"{name}: tasks/s, times {queue}'s, {in_flight} in flight", 5.0, more)
            for name, queue, in_flight in itertools.product(ours, QUEUES, IN_FLIGHT)
            if (more := times(loads, name, queue, in_flight)) is not None
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Tasks a second over HTTP, through real agents.")
    parser.add_argument("--quick", action="store_true", help="one short round: a smoke test")
    parser.add_argument("--system", action="append", choices=SYSTEMS, help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    rounds, seconds = (1, 1.0) if asked.quick else (asked.rounds, MEASURED_S)
    loads: dict[str, dict[int, list[Load]]] = {
        name: {count: [] for count in IN_FLIGHT} for name in asked.system or SYSTEMS
    }
    for number, (name, of_name) in itertools.product(range(1, rounds + 1), loads.items()):
        print(f"round {number}: {name}", flush=True)
        for count, found in measure_system(name, seconds).items():
            of_name[count].append(found)
    columns = ["in flight", "system", "tasks/s", "p50 ms", "p99 ms", *(f"x {queue}" for queue in QUEUES)]
    packages = ["aiohttp", "litestar", "msgspec", "uvicorn"]
    report("flow/server", columns, rows_of(loads), packages)
    if not asked.quick:
        report("flow/server_aims", AIMS, aims(loads), packages)


if __name__ == "__main__":
    main()
