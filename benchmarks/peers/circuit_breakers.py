"""AICP's circuit breaker beside seven others: what they cost, and what they get right.

Aims: decorator at most 3.5 times a bare await without timing and 6 with latency and rates; a permit refused in 0.5 µs,
a refusal raised in 3 µs; 1,000 concurrent tasks at most 1.15 times bare; 1.5 KiB a breaker, 0 bytes a rejection; right
on all six points.
Needs `pip install 'aicp[bench]'`.
"""

import asyncio
import gc
from typing import Any

from benchmarks.measure import report
from benchmarks.peers.breakers.by_aicp import Aicp, TimedAicp
from benchmarks.peers.breakers.by_aiobreaker import Aiobreaker
from benchmarks.peers.breakers.by_circuitbreaker import Circuitbreaker
from benchmarks.peers.breakers.by_hyx import Hyx
from benchmarks.peers.breakers.by_interlock import Interlock
from benchmarks.peers.breakers.by_purgatory import Purgatory
from benchmarks.peers.breakers.by_pybreaker import Pybreaker
from benchmarks.peers.breakers.by_pyfailsafe import Pyfailsafe
from benchmarks.peers.breakers.costs import MEASURES, Bare, Cost, Wrapper, bytes_per_breaker, bytes_per_rejection, costs
from benchmarks.peers.breakers.experiments import EXPERIMENTS, find_out
from benchmarks.peers.breakers.peer import Case, Peer

OURS = (Aicp(), TimedAicp())
THEIRS = (Aiobreaker(), Circuitbreaker(), Hyx(), Interlock(), Purgatory(), Pybreaker(), Pyfailsafe())
PEERS: tuple[Peer[Any], ...] = (*OURS, *THEIRS)
PACKAGES = sorted({peer.package for peer in PEERS})
NONE = "-"

Costs = dict[Case, dict[str, Cost]]
Kept = tuple[float, float]
Row = list[object]


def cost_row(name: str, measured: Costs, kept: Kept | None, note: str) -> Row:
    row: Row = [name]
    for case in MEASURES:
        cost = measured[case].get(name)
        row += [cost.ns, cost.times_bare] if cost else [NONE, NONE]
    return [*row, *(kept or (NONE, NONE)), note]


def told(peer: Peer[Any]) -> str:
    lacking = [f"no {case.value}: {reason}" for case, reason in peer.lacks.items()]
    return "; ".join([peer.note, *lacking] if peer.note else lacking)


def cost_columns() -> list[str]:
    short = {Case.DECORATOR: "decorator", Case.PERMIT: "permit", Case.RAISING: "raise", Case.REFUSAL: "refuse"}
    columns = ["library"]
    for case in MEASURES:
        name = short.get(case, "1,000 tasks")
        columns += [f"{name} ns", "x bare"]
    return [*columns, "bytes", "kept a rejection", "notes"]


async def correctness() -> list[Row]:
    rows: list[Row] = []
    for peer in [OURS[0], *THEIRS]:
        findings = [await find_out(experiment, peer) for experiment in EXPERIMENTS.values()]
        cells = [f"{'yes' if finding.right else 'no'}: {finding.seen}" for finding in findings]
        rows.append([peer.name, sum(finding.right for finding in findings), *cells, peer.caveat])
    return rows


def aims(measured: Costs, kept: dict[str, Kept]) -> list[Row]:
    plain, timed = (peer.name for peer in OURS)
    checked = [
        ("decorator without timing, x bare", 3.5, measured[Case.DECORATOR][plain].times_bare),
        ("decorator with latency and rates, x bare", 6.0, measured[Case.DECORATOR][timed].times_bare),
        ("permit refused, µs", 0.5, measured[Case.REFUSAL][plain].ns / 1e3),
        ("refusal raised, µs", 3.0, measured[Case.RAISING][plain].ns / 1e3),
        ("1,000 tasks, x bare", 1.15, measured[Case.TASKS][plain].times_bare),
        ("bytes a breaker", 1.5 * 1024, kept[plain][0]),
        ("bytes kept a rejection", 0.0, kept[plain][1]),
    ]
    return [[what, aim, value, "met" if value <= aim else "MISSED"] for what, aim, value in checked]


def main() -> None:
    gc.freeze()
    kept = {peer.name: (bytes_per_breaker(peer), bytes_per_rejection(peer)) for peer in PEERS}
    measured = {case: costs(case, [Wrapper(), *PEERS]) for case in MEASURES}
    rows = [cost_row(name, measured, None, "") for name in (Bare.name, Wrapper.name)]
    rows += [cost_row(peer.name, measured, kept[peer.name], told(peer)) for peer in PEERS]
    report("peers/circuit_breakers", cost_columns(), rows, PACKAGES)
    columns = ["library", "right of 6", *EXPERIMENTS, "notes"]
    report("peers/circuit_breakers_correctness", columns, asyncio.run(correctness()), PACKAGES)
    report("peers/circuit_breakers_aims", ["what", "aim", "measured", ""], aims(measured, kept), PACKAGES)


if __name__ == "__main__":
    main()
