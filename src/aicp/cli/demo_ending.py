"""Shows how the demo ended: who did what and when, what failed over, what was found, and where it is written."""

import sys
from collections.abc import Iterable

from rich import box
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from aicp.cli.exits import printable
from aicp.demo.files import DemoReport
from aicp.demo.run import DemoResult
from aicp.demo.story import AttemptTold, Step, Timings
from aicp.model.outcome import Outcome

WIDTH_WHEN_PIPED = 110

# Below this width the column of findings would leave no room for time.
_WIDTH_WITH_FINDINGS = 100
_BAR_CELLS_MIN = 8
_BAR_CELLS_MAX = 40
# What the columns beside the bars need.
_OTHER_CELLS = 46
_FINDINGS_CELLS = 31
# As the table's cells are.
_INDENTED = (0, 1)
_LINES_SHOWN_MAX = 3
_LINE_CHARS_MAX = 64


def show_ending(result: DemoResult) -> None:
    """Write it to stdout."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH_WHEN_PIPED, highlight=False)
    console.print()
    console.print(Padding(Text(printable(result.report.summary), "bold"), _INDENTED))
    console.print(_steps(result, console.width))
    console.print(Padding(_facts(result), _INDENTED))


def _steps(result: DemoResult, width: int) -> Table:
    with_findings = width >= _WIDTH_WITH_FINDINGS
    room = width - _OTHER_CELLS - (_FINDINGS_CELLS if with_findings else 0)
    cells = min(_BAR_CELLS_MAX, max(_BAR_CELLS_MIN, room))
    wall_s = result.story.timings.wall_s
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("step", style="bold", no_wrap=True)
    table.add_column("agent", no_wrap=True)
    table.add_column("attempts", justify="right", no_wrap=True)
    table.add_column("time", style="cyan", justify="right", no_wrap=True)
    table.add_column(_scale(wall_s, cells), no_wrap=True)
    if with_findings:
        table.add_column("found", style="dim", no_wrap=True)
    for step in result.story.steps:
        table.add_row(*_row(step, wall_s, cells)[: len(table.columns)])
    return table


def _scale(wall_s: float, cells: int) -> str:
    end = f"{wall_s:.1f} s"
    return f"0{end:>{cells - 1}}"


def _row(step: Step, wall_s: float, cells: int) -> tuple[RenderableType, ...]:
    attempts = len(step.attempts)
    return (
        step.step,
        step.agent_id or "-",
        Text(str(attempts), "yellow" if attempts > 1 else ""),
        f"{step.time_s:.2f} s",
        _bar(step.attempts, wall_s, cells),
        printable(step.found),
    )


def _bar(attempts: Iterable[AttemptTold], wall_s: float, cells: int) -> Text:
    """Each attempt at its place in time, at least one cell wide."""
    bar = Text()
    per_s = cells / max(wall_s, 0.001)
    for attempt in attempts:
        start = max(len(bar), min(cells - 1, int(attempt.began_s * per_s)))
        end = max(start + 1, min(cells, round(attempt.ended_s * per_s)))
        bar.append(" " * (start - len(bar)))
        is_done = attempt.outcome is Outcome.SUCCESS
        bar.append(("█" if is_done else "✗") * (end - start), "green" if is_done else "bold red")
    return bar


def _facts(result: DemoResult) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    told_failover = Text(result.story.failover_sentence, "yellow" if result.story.failover else "")
    table.add_row("failover", told_failover)
    table.add_row("time", _told_time(result.story.timings))
    table.add_row("text", _told_lines(result.report))
    table.add_row("colours", _told_colors(result.report))
    table.add_row("picture", str(result.files.picture))
    table.add_row("report", str(result.files.report))
    return table


def _told_time(timings: Timings) -> str:
    return (
        f"{timings.wall_s:.1f} s from submit to result; one after the other, the steps would have taken "
        f"{timings.sequential_s:.1f} s. Before that, the agents took {timings.startup_s:.1f} s to come up."
    )


def _told_lines(report: DemoReport) -> Text:
    lines = [printable(line["text"]) for line in report.text_lines]
    shown = [
        line if len(line) <= _LINE_CHARS_MAX else f"{line[:_LINE_CHARS_MAX]}…" for line in lines[:_LINES_SHOWN_MAX]
    ]
    more = [Text(f"and {len(lines) - len(shown)} more", "dim")] if len(lines) > len(shown) else []
    return Text("\n").join([*map(Text, shown), *more]) if lines else Text("none", "dim")


def _told_colors(report: DemoReport) -> Columns:
    return Columns(
        [
            Text.assemble(("██ ", color["hex"]), color["name"], (f" {color['share']:.0%}", "dim"))
            for color in report.colors
        ],
        padding=(0, 3),
    )
