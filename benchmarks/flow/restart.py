"""`aicp serve` on SQLite with 10,000 pending tasks, killed with -9 and started again.

From the start of the process to the first accepted submit over HTTP, beside what a fresh process of the same round
takes to import the same modules and does nothing else; and until every task that was pending has ended at its agents,
which are real HTTP servers. While tasks are submitted the agents are stopped (SIGSTOP), so that all are pending, the
first of them in flight; they go on when the server is dead.

Aim: the first submit accepted within the imports + 0.4 s.

    python -m benchmarks.flow.restart [--quick] [--rounds N]
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from aicp import TaskChain
from aicp.client import Client
from aicp.model.chain import ChainSpec
from aicp.model.views import ChainView
from benchmarks.measure import ratio, report
from benchmarks.processes import AgentProcess, Server, fleet, register, serving

ROUNDS = 3
SIZES = {1: 1_000, 10: 300, 50: 40, 1_000: 4}
SIZES_WHEN_QUICK = {1: 100, 10: 30, 50: 4, 400: 1}
LANES = 10
SUBMITTERS = 8
TOLERANCE_S = 0.4
END_WAIT_S = 300.0
ENTRY_THAT_TELLS = (
    "-c",
    """
import json, sys, threading
from aicp.cli.main import main
def tell():
    sys.stdin.readline()
    print(json.dumps(list(sys.modules)), flush=True)
threading.Thread(target=tell, daemon=True).start()
main(sys.argv[1:])
""",
)
IMPORT_ALL = """
import contextlib, importlib, json, sys
for name in json.load(open(sys.argv[1])):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
print("imported", flush=True)
"""


class Restart(msgspec.Struct, frozen=True):
    """What one round came to, in seconds.

    Attributes:
        imports: A fresh process that imports what the server imports.
        empty: A start on an empty database, to its first accepted submit.
        accepted: The start after the kill, to the same.
        ended: That start, until all that was pending had ended.
    """

    imports: float
    empty: float
    accepted: float
    ended: float


def lanes(size: int) -> ChainSpec:
    """A chain of so many tasks in ten lanes, each task after the one before it in its lane."""
    chain = TaskChain(f"{size} tasks")
    for number in range(size):
        before = [f"t{number - LANES}"] if number >= LANES else []
        chain.add_task("echo", {"n": number}, id=f"t{number}", depends_on=before)
    return chain.freeze()


async def submit_all(server: Server, sizes: dict[int, int]) -> list[str]:
    specs = [spec for size, count in sizes.items() for spec in [lanes(size)] * count]
    limit = asyncio.Semaphore(SUBMITTERS)

    async def submit(client: Client, spec: ChainSpec) -> str:
        async with limit:
            return await client.submit_chain(spec)

    async with Client(server.url, server.key) as client:
        return await asyncio.gather(*(submit(client, spec) for spec in specs))


async def wait_for_all(server: Server, chains: Sequence[str]) -> list[ChainView]:
    """How these chains ended. It asks for the largest first, and meanwhile for nothing else, so as not to disturb."""
    async with asyncio.timeout(END_WAIT_S), Client(server.url, server.key) as client:
        return [await client.wait_chain(chain_id) for chain_id in reversed(chains)]


def modules_of_server(scratch: Path) -> Path:
    """A file with the name of each module a restarted server has loaded when it accepts a submit, in that order."""
    with fleet() as agents, serving(scratch / "modules") as server:
        kill_at_work(server, agents, {1: 1})
        server.start_and_submit(ENTRY_THAT_TELLS)
        names = [name for name in server.modules() if name != "__main__"]
    path = scratch / "modules.json"
    path.write_text(json.dumps(names), encoding="utf-8")
    return path


def import_all(modules: Path) -> float:
    """Seconds from the start of a process until it has imported them."""
    began = time.perf_counter()
    command = [sys.executable, "-c", IMPORT_ALL, str(modules)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "imported\n"
        return time.perf_counter() - began


def kill_at_work(server: Server, agents: Sequence[AgentProcess], sizes: dict[int, int]) -> list[str]:
    """Start it, give it this work while its agents stand still, and kill it; the agents go on. Ids of the chains."""
    server.start()
    asyncio.run(register(server, agents))
    for agent in agents:
        agent.stand_still()
    chains = asyncio.run(submit_all(server, sizes))
    server.kill()
    for agent in agents:
        agent.go_on()
    return chains


def start_empty(directory: Path, agents: Sequence[AgentProcess]) -> float:
    """Seconds to the first accepted submit of a server that has agents and no work."""
    with serving(directory) as server:
        kill_at_work(server, agents, {})
        return server.start_and_submit()


def restart(directory: Path, agents: Sequence[AgentProcess], sizes: dict[int, int]) -> tuple[float, float]:
    """Seconds from the start after the kill to the first accepted submit, and until all have ended."""
    with serving(directory) as server:
        chains = kill_at_work(server, agents, sizes)
        began_at = datetime.now(UTC)
        accepted_s = server.start_and_submit()
        ended = asyncio.run(wait_for_all(server, chains))
        done = sum(chain.completed_tasks for chain in ended)
        assert done == tasks_in(sizes), f"{done} of {tasks_in(sizes)} tasks are COMPLETED"
        ended_at = max(chain.ended_at for chain in ended if chain.ended_at is not None)
        return accepted_s, (ended_at - began_at).total_seconds()


def tasks_in(sizes: dict[int, int]) -> int:
    return sum(size * count for size, count in sizes.items())


def run_round(scratch: Path, modules: Path, sizes: dict[int, int]) -> Restart:
    imports_s = import_all(modules)
    with fleet() as agents:
        empty_s = start_empty(scratch / "empty", agents)
        return Restart(imports_s, empty_s, *restart(scratch / "full", agents, sizes))


def rows_of(restarts: Sequence[Restart], sizes: dict[int, int]) -> list[list[object]]:
    pending = tasks_in(sizes)
    over = [each.accepted - each.imports for each in restarts]
    times = ratio([each.accepted for each in restarts], [each.imports for each in restarts])
    return [
        row("a process that imports the same modules", [each.imports for each in restarts]),
        row("start without work, to the first accepted submit", [each.empty for each in restarts]),
        row(f"start with {pending} pending, to the first accepted submit", [each.accepted for each in restarts]),
        [*row("that start beyond the imports", over), TOLERANCE_S, verdict(over), f"{times:.2f} times the imports"],
        row(f"that start, until all {pending} had ended", [each.ended for each in restarts]),
        ["tasks ended each second since that start", *spread([pending / each.ended for each in restarts])],
    ]


def row(what: str, values: Sequence[float]) -> list[object]:
    return [what, *spread(values)]


def spread(values: Sequence[float]) -> list[object]:
    return [statistics.median(values), min(values), max(values)]


def verdict(over: Sequence[float]) -> str:
    return "met" if statistics.median(over) <= TOLERANCE_S else "MISSED"


def main() -> None:
    parser = argparse.ArgumentParser(description="How soon a killed server accepts again, and is through with it all.")
    parser.add_argument("--quick", action="store_true", help="one round with 1,000 pending tasks: a smoke test")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    sizes, rounds = (SIZES_WHEN_QUICK, 1) if asked.quick else (SIZES, asked.rounds)
    with tempfile.TemporaryDirectory(prefix="bench-restart-") as scratch:
        modules = modules_of_server(Path(scratch))
        import_all(modules)
        restarts = []
        for number in range(rounds):
            directory = Path(scratch, str(number))
            directory.mkdir()
            restarts.append(run_round(directory, modules, sizes))
    columns = ["what", "median s", "min", "max", "aim", "", "notes"]
    rows = [[*cells, *[""] * (len(columns) - len(cells))] for cells in rows_of(restarts, sizes)]
    report("flow/restart", columns, rows, ["msgspec", "uvicorn"])


if __name__ == "__main__":
    main()
