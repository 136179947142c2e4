"""Draws the table: a panel for each scenario, a line for each policy."""

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.flow.simulated.aims import Table
from benchmarks.flow.simulated.figures import Figures
from benchmarks.flow.simulated.race import AICP, ORACLE

COLUMNS = 3
PANEL_SIZE_IN = (5.4, 3.0)
OURS, KNOWING, OTHERS = "#c2410c", "#475569", "#94a3b8"
MARKS = (("p50_s", "o", "p50"), ("p99_s", "s", "p99"), ("p999_s", "D", "p99.9"))


def draw(path: Path, table: Table, scenarios: Sequence[str], policies: Sequence[str]) -> None:
    """Write the picture as PNG."""
    rows = math.ceil(len(scenarios) / COLUMNS)
    figure = Figure(figsize=(PANEL_SIZE_IN[0] * COLUMNS, PANEL_SIZE_IN[1] * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False, sharey=True)
    for number, axes in enumerate(panels.flat):
        if number < len(scenarios):
            _draw_panel(axes, table, scenarios[number], policies)
        else:
            axes.set_axis_off()
    panels.flat[0].legend(loc="lower right", fontsize=8)
    figure.suptitle("30 unequal agents on virtual time: from submit to result, in seconds; share of tasks done in time")
    figure.savefig(path, dpi=110)


def _draw_panel(axes: Axes, table: Table, scenario: str, policies: Sequence[str]) -> None:
    axes.set_title(scenario, fontsize=10, loc="left")
    axes.set_xscale("log")
    axes.grid(axis="x", which="major", alpha=0.3)
    axes.set_yticks(range(len(policies)), policies, fontsize=8)
    axes.set_ylim(len(policies) - 0.5, -0.5)
    for place, policy in enumerate(policies):
        if (figures := table.get((scenario, policy))) is not None:
            _draw_policy(axes, place, policy, figures, label=place == 0)


def _draw_policy(axes: Axes, place: int, policy: str, figures: Figures, *, label: bool) -> None:
    color = {AICP: OURS, ORACLE: KNOWING}.get(policy, OTHERS)
    axes.plot([figures.p50_s, figures.p999_s], [place, place], color=color, linewidth=1.5, zorder=1)
    for field, marker, told in MARKS:
        axes.scatter(
            getattr(figures, field), place, marker=marker, color=color, s=22, zorder=2, label=told if label else None
        )
    shown = f"{figures.success:.2%}" if figures.failed else "100 %"
    axes.annotate(shown, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color=color)
