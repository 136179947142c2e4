"""AICP against other ways to choose an agent, and against an oracle, on a simulated fleet of 30 unequal agents.

Every policy sees the same arrivals, sizes and faults. Those that bind early send a task as soon as it arrives, and it
queues inside the agent; the others keep it until an agent has a free slot. All of them try again elsewhere, at once,
until the deadline (six attempts that may have executed something; refusals are free), and give each attempt the same
time. AICP is the real node with only the wire to the agents scripted. Aims are printed beside what was reached. So they
are for situations in which AICP has no rival: equal agents, a shared backend that is down, bad tasks, large chains.

    python -m benchmarks.flow.policies [--quick] [--scenario NAME]... [--policy NAME]... [--worst N] [--workers N]
    python -m benchmarks.flow.policies --situation NAME|all...
"""

import argparse
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed

from benchmarks.flow.simulated.aims import Table, aims
from benchmarks.flow.simulated.figures import Figures, story, sum_up, worst
from benchmarks.flow.simulated.plot import draw
from benchmarks.flow.simulated.race import POLICIES, race
from benchmarks.flow.simulated.scenarios import scenarios
from benchmarks.flow.simulated.situations import SITUATIONS, judge
from benchmarks.measure import AIMS, RESULTS, Row, report

AGENTS = 30
AGENTS_WHEN_QUICK = 6
ALL = "all"
LEFT_OUT_WHEN_QUICK = {"random", "round robin", "least outstanding", "original score"}
Raced = tuple[Figures, list[str]]

_COLUMNS = (
    "scenario", "policy", "tasks", "p50 s", "p99 s", "p99.9 s", "success", "failed", "high ok", "high p99 s",
    "wasted agent-s",
)  # fmt: skip
_TAIL_COLUMNS = (
    "scenario", "policy", "in line s", "lost s", "in agent's queue s", "at work s", "size s", "speed", "lost attempts",
)  # fmt: skip


def run_one(scenario: str, policy: str, agents: int, stories: int) -> Raced:
    """One race, in a process of the pool."""
    records = race(scenarios()[scenario](agents), policy)
    return sum_up(records), [story(record) for record in worst(records, stories)]


def run_all(pairs: Sequence[tuple[str, str]], agents: int, stories: int, workers: int) -> dict[tuple[str, str], Raced]:
    with ProcessPoolExecutor(workers) as pool:
        running: dict[Future[Raced], tuple[str, str]] = {
            pool.submit(run_one, scenario, policy, agents, stories): (scenario, policy) for scenario, policy in pairs
        }
        for number, future in enumerate(as_completed(running), start=1):
            future.result()
            print(f"{number} of {len(pairs)} raced: {', '.join(running[future])}", file=sys.stderr, flush=True)
        return {pair: future.result() for future, pair in running.items()}


def judge_all(names: Sequence[str], workers: int) -> None:
    """Run the situations, and report their aims."""
    judged: list[Row] = []
    with ProcessPoolExecutor(workers) as pool:
        for name, found in zip(names, pool.map(judge, names), strict=True):
            print(f"judged: {name}", file=sys.stderr, flush=True)
            judged.extend(found)
    report("flow/policies_situations", AIMS, judged, ["msgspec"])


def rows(table: Table) -> Iterable[list[object]]:
    for (scenario, policy), figures in table.items():
        yield [
            scenario, policy, figures.tasks, figures.p50_s, figures.p99_s, figures.p999_s, f"{figures.success:.3%}",
            figures.failed, f"{figures.high_success:.3%}", figures.high_p99_s, figures.wasted_s,
        ]  # fmt: skip


def tail_rows(table: Table) -> Iterable[list[object]]:
    return ([scenario, policy, *figures.tail] for (scenario, policy), figures in table.items())


def tell(raced: dict[tuple[str, str], Raced], *, with_aims: bool) -> Table:
    table = {pair: figures for pair, (figures, _) in raced.items()}
    report("flow/policies", _COLUMNS, list(rows(table)), ["msgspec"])
    report("flow/policies_tail", _TAIL_COLUMNS, list(tail_rows(table)), ["msgspec"])
    for (scenario, policy), (_, stories) in raced.items():
        for line in stories:
            print(f"{scenario}, {policy}: {line}")
    if with_aims:
        judged = [row for aim in aims() if (row := aim.row(table)) is not None]
        report("flow/policies_aims", ("AICP", "figure", "aim", "verdict"), judged, ["msgspec"])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description="AICP against other policies on a simulated fleet.")
    parser.add_argument(
        "--quick", action="store_true", help="six agents, half of the policies: a smoke test, without aims"
    )
    parser.add_argument("--scenario", action="append", choices=list(scenarios()), help="only this one; may be repeated")
    parser.add_argument(
        "--situation", action="append", choices=[*SITUATIONS, ALL], help="no race, but this one; may be repeated"
    )
    parser.add_argument("--policy", action="append", choices=list(POLICIES), help="only this one; may be repeated")
    parser.add_argument("--worst", type=int, default=0, help="tell the stories of so many of the slowest tasks")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    asked = parser.parse_args()
    if not (asked.scenario or asked.quick):
        chosen = asked.situation or [ALL]
        judge_all(list(SITUATIONS) if ALL in chosen else chosen, asked.workers)
    if asked.situation:
        return
    names = asked.scenario or list(scenarios())
    policies = asked.policy or [name for name in POLICIES if not (asked.quick and name in LEFT_OUT_WHEN_QUICK)]
    pairs = [(scenario, policy) for scenario in names for policy in policies]
    raced = run_all(pairs, AGENTS_WHEN_QUICK if asked.quick else AGENTS, asked.worst, asked.workers)
    table = tell(raced, with_aims=not asked.quick)
    RESULTS.mkdir(exist_ok=True)
    draw(RESULTS / "policies.png", table, names, policies)


if __name__ == "__main__":
    main()
