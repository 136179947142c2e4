"""What every benchmark needs: quantiles, alternating rounds, a table, and a result file that names the machine."""

import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
AIMS = ("what", "aim", "measured", "")
"""Columns of a table of aims."""

NONE = "-"
Row = list[object]


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def alternate(rounds: int, measured: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Measure each in turn, `rounds` times over, after one round that does not count."""
    for measure in measured.values():
        measure()
    values: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(rounds):
        for name, measure in measured.items():
            values[name].append(measure())
    return values


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios, pair by pair: it holds when the machine's speed drifts."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def at_most(what: str, aim: float, value: float | None) -> Row:
    """A row of a table of aims."""
    return [what, aim, NONE if value is None else value, _verdict(is_met=value is not None and value <= aim)]


def at_least(what: str, aim: float, value: float | None) -> Row:
    """A row of a table of aims."""
    return [what, aim, NONE if value is None else value, _verdict(is_met=value is not None and value >= aim)]


def _verdict(*, is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def report(name: str, columns: Sequence[str], rows: Sequence[Sequence[object]], packages: Sequence[str] = ()) -> None:
    """Print the table and write it to results/<name>.json with versions and machine."""
    cells = [list(columns), *[[_shown(cell) for cell in row] for row in rows]]
    widths = [max(len(row[index]) for row in cells) for index in range(len(columns))]
    print(f"\n{name} ({_machine()})")
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    RESULTS.mkdir(exist_ok=True)
    measured = {
        "benchmark": name,
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": {package: version(package) for package in packages},
        "columns": list(columns),
        "rows": [list(row) for row in rows],
    }
    path = RESULTS / f"{name.replace('/', '_')}.json"
    path.write_text(json.dumps(measured, indent=1, default=str) + "\n", encoding="utf-8")


def _machine() -> str:
    python = f"CPython {sys.version.split()[0]}"
    return f"{python}, {os.cpu_count()} cores, {_processor()}, {platform.system()} {platform.release()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _shown(cell: object) -> str:
    if not isinstance(cell, float):
        return str(cell)
    return f"{cell:.3g}" if abs(cell) < 1000 else f"{cell:.0f}"
