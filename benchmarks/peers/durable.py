"""AICP's durable chains beside other engines: DBOS, LangGraph, Prefect, Celery, Procrastinate, and Dask, not durable.

Steps do next to nothing. In each round each engine runs in a fresh process on an empty directory, one at a time, and
warms up; figures are medians over the rounds. An engine that would need minutes is asked for less, as its size says,
and nothing is counted up to what was not run. For the ratios AICP does the same work, of the same size, right after
each engine, on the same kind of database; they are medians of those pairs. PostgreSQL is a server of its own for each.

Aims on SQLite: a chain of 3 in 3 ms (p50); 1,000 steps/s one after the other; 10,000 steps/s in 300 chains; fan-out of
1,000 and join in 100 ms; 3 x 100 ms in 104 ms; a DAG of 10,000 checked in 50 ms and run in 1.5 s; the event loop never
kept for more than 5 ms while every commit takes 20 ms. On PostgreSQL: a chain of 3 in 4 ms; 600 steps/s one after the
other; 8,000 in 300 chains; two replicas do 1.3 times as much as one.
Needs `pip install -e '.[engines]'`.

    python -m benchmarks.peers.durable [--quick] [--engine NAME]... [--rounds N]
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

from benchmarks.measure import AIMS, NONE, Row, at_least, at_most, ratio, report
from benchmarks.peers.engines.engine import Case, Sizes
from benchmarks.peers.engines.process import Report
from benchmarks.peers.engines.processes import measure_engine
from benchmarks.peers.engines.replicas import replicas_side_by_side
from benchmarks.peers.engines.slow_disk import SLOWLY, absences, validation_ms
from benchmarks.peers.engines.workloads import Finding

OURS = "aicp"
OURS_ON_POSTGRES = "aicp_on_postgres"
ON_POSTGRES = (OURS_ON_POSTGRES, "dbos_on_postgres", "procrastinate")
ENGINES = (OURS, "aicp_in_memory", "dbos", "langgraph", "prefect", "celery", "dask", *ON_POSTGRES)
ROUNDS = 3
QUICK = Sizes(chains=20, sequential=50, steps=2, width=100, naps=3, layers=5, columns=20)
IN_MS = (Case.CHAIN, Case.FAN_OUT, Case.NAPS, Case.DAG)
FSYNCS = 200
BLOCK = b"x" * 4096
COLUMNS = ("what", "engine", "size", "median", "min", "max", "unit", "x AICP's time", "notes")


class Measured(NamedTuple):
    """One engine in one round.

    Attributes:
        engine: What it came to.
        ours: What AICP came to, with the same work right after it.
    """

    engine: Report
    ours: Report


Rounds = dict[str, list[Measured]]


def run_rounds(engines: Sequence[str], rounds: int, sizes: Sizes) -> Rounds:
    measured: Rounds = {name: [] for name in engines}
    for number in range(1, rounds + 1):
        for name in engines:
            print(f"round {number}: {name}", flush=True)
            measured[name].append(measure_pair(name, sizes))
    return measured


def measure_pair(name: str, sizes: Sizes) -> Measured:
    theirs = measure_engine(name, sizes)
    ours = OURS_ON_POSTGRES if name in ON_POSTGRES else OURS
    return Measured(theirs, theirs if name == ours or not theirs.findings else measure_engine(ours, theirs.sizes))


def shown(case: Case, finding: Finding) -> float:
    return finding.seconds * 1e3 if case in IN_MS else finding.steps / finding.seconds


def found(reports: Sequence[Report], case: Case) -> list[Finding]:
    return [report.findings[case] for report in reports if case in report.findings]


def note(reports: Sequence[Report], case: Case) -> str:
    sentences = [report.notes[case] for report in reports if case in report.notes]
    return "; ".join(dict.fromkeys(sentences or [report.problem for report in reports if report.problem]))


def times_ours(rounds: Sequence[Measured], case: Case) -> object:
    both = [(theirs.findings[case], ours.findings[case]) for theirs, ours in rounds if case in theirs.findings]
    return ratio(*([each.seconds for each in side] for side in zip(*both, strict=True))) if both else NONE


def rows_of(case: Case, measured: Rounds) -> list[Row]:
    rows: list[Row] = []
    for rounds in measured.values():
        reports = [each.engine for each in rounds]
        findings = found(reports, case)
        figures = [shown(case, finding) for finding in findings]
        told: Row = [statistics.median(figures), min(figures), max(figures)] if figures else [NONE] * 3
        size = findings[0].size if findings else NONE
        unit = "ms" if case in IN_MS else "steps/s"
        rows.append([case.value, reports[0].name, size, *told, unit, times_ours(rounds, case), note(reports, case)])
    return rows


def record_rows(measured: Rounds) -> list[Row]:
    firsts = [rounds[0].engine for rounds in measured.values()]
    return [[first.name, versions_of(first), first.record or NONE, first.problem] for first in firsts]


def versions_of(report: Report) -> str:
    return ", ".join(map(" ".join, zip(report.packages, report.versions, strict=True))) or NONE


def fsync_ms() -> float:
    """What the disk asks for a block of its own, p50: no durable engine can be faster than that, step by step."""
    with tempfile.TemporaryFile() as file:
        taken = []
        for _ in range(FSYNCS):
            began = time.perf_counter()
            os.write(file.fileno(), BLOCK)
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e3


def medians(reports: Sequence[Report]) -> dict[Case, float]:
    by_case = {case: [shown(case, finding) for finding in found(reports, case)] for case in Case}
    return {case: statistics.median(figures) for case, figures in by_case.items() if figures}


def aims(ours: Sequence[Report]) -> list[Row]:
    """Each aim, and what it was judged by; other figures that explain them have none."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        kept = pool.submit(absences).result()
        plain = pool.submit(partial(validation_ms, reads=False)).result()
        reading = pool.submit(partial(validation_ms, reads=True)).result()
    median = medians(ours)
    rows: list[Row] = [
        at_most("chain of 3, p50, ms", 3.0, median.get(Case.CHAIN)),
        at_least("steps one after the other, steps/s", 1_000.0, median.get(Case.SEQUENTIAL)),
        at_least("300 chains at once, steps/s", 10_000.0, median.get(Case.CHAINS_300)),
        at_most("fan-out of 1,000 and join, ms", 100.0, median.get(Case.FAN_OUT)),
        at_most("3 x 100 ms side by side, p50, ms", 104.0, median.get(Case.NAPS)),
        at_most("DAG of 10,000 checked, ms", 50.0, plain),
        ["the same, each task reading two results, ms", NONE, reading, ""],
        at_most("DAG of 10,000 run, ms", 1_500.0, median.get(Case.DAG)),
    ]
    for meanwhile, absence in kept.items():
        what = f"event loop kept, {meanwhile}: longest of half a second, median, ms"
        rows += [
            at_most(what, 5.0, absence.usual_ms) if meanwhile == SLOWLY else [what, NONE, absence.usual_ms, ""],
            [f"event loop kept, {meanwhile}: longest of all, ms", NONE, absence.worst_ms, ""],
        ]
    return [*rows, ["fsync of 4 KiB on this disk, p50, ms", NONE, fsync_ms(), ""]]


def aims_on_postgres(ours: Sequence[Report]) -> list[Row]:
    """The same for PostgreSQL, with one replica and two."""
    median, shares = medians(ours), replicas_side_by_side()
    return [
        at_most("chain of 3, p50, ms", 4.0, median.get(Case.CHAIN)),
        at_least("steps one after the other, steps/s", 600.0, median.get(Case.SEQUENTIAL)),
        at_least("300 chains at once, steps/s", 8_000.0, median.get(Case.CHAINS_300)),
        at_least("two replicas, of what one does", 1.3, shares.ratio),
        *([f"{words}, steps/s", NONE, each.steps_per_s, ""] for words, each in shares.named()),
        *([f"{words}, cores used by replicas", NONE, each.replica_cores, ""] for words, each in shares.named()),
        *([f"{words}, cores used by PostgreSQL", NONE, each.server_cores, ""] for words, each in shares.named()),
        ["round trip with one commit of one row, p50, ms", NONE, shares.commit_ms, ""],
        ["fsync of 4 KiB on this disk, p50, ms", NONE, fsync_ms(), ""],
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="AICP's durable chains beside other engines.")
    parser.add_argument("--quick", action="store_true", help="one round of small sizes: a smoke test, without aims")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="only this one; may be repeated")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    rounds, sizes = (1, QUICK) if asked.quick else (asked.rounds, Sizes())
    measured = run_rounds(asked.engine or ENGINES, rounds, sizes)
    rows = [row for case in Case for row in rows_of(case, measured)]
    report("peers/durable_records", ["engine", "versions", "what survives a crash", "notes"], record_rows(measured))
    report("peers/durable", COLUMNS, rows, ["msgspec"])
    if OURS in measured and not asked.quick:
        ours = [each.engine for each in measured[OURS]]
        report("peers/durable_aims", AIMS, aims(ours), ["msgspec"])
    if OURS_ON_POSTGRES in measured and not asked.quick:
        ours = [each.engine for each in measured[OURS_ON_POSTGRES]]
        report("peers/durable_aims_postgres", AIMS, aims_on_postgres(ours), ["msgspec", "asyncpg"])


if __name__ == "__main__":
    main()
