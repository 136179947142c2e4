"""Draws `aicp top` on a terminal of any size."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live
from rich.table import Table
from rich.text import Text

from aicp.cli.exits import printable
from aicp.cli.output import STYLES
from aicp.cli.snapshots import Lament, Show, Snapshot
from aicp.cli.top_rows import COLUMNS, agent_rows
from aicp.errors import AicpError
from aicp.model.views import ListedChain, SchedulerStatus

# What goes first when a terminal is too narrow for all of it, and how wide it must be for it to stay.
_NEEDS_WIDTH = {"heard": 60, "latency": 70, "success": 80, "out because": 50}
_CHAINS_SHOWN = 5
_LINES_SHOWN = 5
_ROWS_MIN = 3


class Screen:
    """The last look, and since when the server is gone."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._trouble = ""
        self._gone_at = 0.0

    def show(self, snapshot: Snapshot) -> None:
        """The server told."""
        self._snapshot, self._trouble = snapshot, ""

    def lament(self, error: AicpError) -> None:
        """The server did not answer."""
        if not self._trouble:
            self._gone_at = time.monotonic()
        self._trouble = error.message

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """What stands on the screen: as much of it as fits."""
        snapshot = self._snapshot
        if snapshot is None:
            yield Text("looking …", style="dim")
            return
        head = [*_headlines(snapshot, options.max_width), *self._gone(), *_outages(snapshot)]
        below = [*_lines(snapshot.scheduler), *_chains(snapshot.chains or ())]
        rows = max(_ROWS_MIN, options.size.height - len(head) - len(below) - 5)
        yield Group(*head, Text(), _agents(snapshot, rows, options.max_width), *below)

    def _gone(self) -> list[Text]:
        if not self._trouble:
            return []
        told = f"gone for {time.monotonic() - self._gone_at:.0f} s: {self._trouble} Looking on."
        return [_line(told, "bold red")]


@contextmanager
def drawing() -> Iterator[tuple[Show, Lament]]:
    """A screen of its own until the block ends; gives what shows a look, and what laments that there is none."""
    screen = Screen()
    with Live(screen, console=Console(), screen=True, auto_refresh=False, vertical_overflow="crop") as live:

        def show(snapshot: Snapshot) -> None:
            screen.show(snapshot)
            live.refresh()

        def lament(error: AicpError) -> None:
            screen.lament(error)
            live.refresh()

        yield show, lament


def _headlines(snapshot: Snapshot, width: int) -> list[Text]:
    """The server in figures, in as few lines as fit."""
    info, scheduler, health = snapshot.info, snapshot.scheduler, snapshot.health
    figures = [
        snapshot.url,
        f"{snapshot.at.astimezone():%H:%M:%S}",
        f"{health.healthy_agents} of {health.total_agents} agents well",
        f"{scheduler.current_load} of {scheduler.total_capacity} slots busy",
        f"{scheduler.queue_depth} in line",
        f"{info.unfinished_tasks} unfinished",
        f"{_counted(health.open_circuits, 'circuit')} open",
        f"{health.half_open_circuits} half open",
    ]
    lines = [figures[0]]
    for figure in figures[1:]:
        longer = f"{lines[-1]}  {figure}"
        lines[-1:] = [longer] if len(longer) <= width else [lines[-1], figure]
    return [_line(line, "bold") for line in lines]


def _outages(snapshot: Snapshot) -> list[Text]:
    out = snapshot.health.capabilities_out
    return [_line(f"nobody for: {', '.join(out)}", "bold red")] if out else []


def _agents(snapshot: Snapshot, rows_max: int, width: int) -> Table:
    shown = [index for index, name in enumerate(COLUMNS) if width >= _NEEDS_WIDTH.get(name, 0)]
    table = Table(box=None, pad_edge=False, expand=True, header_style="dim")
    for index in shown:
        table.add_column(COLUMNS[index], no_wrap=True, overflow="ellipsis")
    rows = agent_rows(snapshot.health)
    for row in rows[:rows_max]:
        table.add_row(*(_cell(row[index]) for index in shown))
    if len(rows) > rows_max:
        table.add_row(Text(f"… {len(rows) - rows_max} more", style="dim"))
    return table


def _lines(scheduler: SchedulerStatus) -> list[Text]:
    """The longest lines."""
    waiting = [entry for entry in scheduler.by_capability.items() if entry[1].queue_depth]
    longest = sorted(waiting, key=lambda entry: (-entry[1].queue_depth, entry[0]))[:_LINES_SHOWN]
    told = [
        _line(
            f"  {key}: {line.queue_depth} in line, the first for {line.oldest_wait_s:.1f} s, "
            f"{_counted(line.usable, 'agent')}"
        )
        for key, line in longest
    ]
    return [Text(), _line("lines", "dim"), *told] if told else []


def _chains(chains: Sequence[ListedChain]) -> list[Text]:
    """The chains that run, the newest first."""
    told = [
        _line(
            f"  {chain.started_at.astimezone():%H:%M:%S}  {chain.chain_id}  {_counted(chain.total_tasks, 'task')}  "
            f"{chain.name}"
        )
        for chain in chains[:_CHAINS_SHOWN]
    ]
    more = [_line(f"  … {len(chains) - len(told)} more", "dim")] if len(chains) > len(told) else []
    return [Text(), _line("chains that run", "dim"), *told, *more] if told else []


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _cell(value: str | None) -> Text:
    text = printable(value or "-")
    return Text(text, style=STYLES.get(text, ""))


def _line(told: str, style: str = "") -> Text:
    return Text(printable(told), style=style, no_wrap=True, overflow="ellipsis")
