"""Draws the demo while it runs, on stderr: live on a terminal, as plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from aicp.cli.exits import say
from aicp.demo.cast import CAPABILITIES, CAST
from aicp.demo.progress import (
    AgentKilled,
    AgentRegistered,
    AgentStarted,
    AttemptFailed,
    Progress,
    StepEnded,
    StepStarted,
)
from aicp.model.task import TaskStatus

Tell = Callable[[Progress], None]

_FRAMES_PER_S = 12
# What becomes of an agent, and how it is marked.
_EXPECTED, _STARTED, _READY, _DEAD = ("○", "dim"), ("○", "yellow"), ("●", "green"), ("✗", "bold red")


@contextmanager
def watching(*, plainly: bool = False) -> Iterator[Tell]:
    """What the demo tells is drawn until the block ends; the live picture is wiped then."""
    if plainly or not sys.stderr.isatty():
        yield _say_plainly
        return
    screen = Screen()
    console = Console(stderr=True)
    with Live(
        console=console, get_renderable=screen.render, refresh_per_second=_FRAMES_PER_S, transient=True, screen=False
    ):
        yield screen.tell


class Screen:
    """The demo as it stands: a row for each step, with the agents that can do it."""

    def __init__(self) -> None:
        self._began_at = time.monotonic()
        self._note = "seven agents start, each in a process of its own"
        self._rows = {step: _Row(step) for step in CAPABILITIES}
        self._row_of = {part.agent_id: self._rows[part.step] for part in CAST}

    def tell(self, progress: Progress) -> None:
        """Something happened."""
        match progress:
            case AgentStarted(agent_id=agent_id):
                self._row_of[agent_id].marks[agent_id] = _STARTED
            case AgentRegistered(agent_id=agent_id):
                self._row_of[agent_id].marks[agent_id] = _READY
            case AgentKilled(agent_id=agent_id):
                self._row_of[agent_id].lose(agent_id, "killed")
            case AttemptFailed():
                self._rows[progress.step].lose(progress.agent_id, "failed")
            case StepStarted():
                self._rows[progress.step].start(progress.agent_id)
                self._note = "the chain runs, every task over HTTP"
            case StepEnded():
                self._rows[progress.step].end(progress.status)

    def render(self) -> Group:
        """A frame."""
        took = f"{time.monotonic() - self._began_at:.1f} s"
        title = Text.assemble(("AICP demo", "bold"), "  ", (took, "cyan"), "  ", (self._note, "dim"))
        rows = Table.grid(padding=(0, 2))
        for row in self._rows.values():
            rows.add_row(*row.cells())
        return Group(title, Text(), rows)


class _Row:
    """One step of the chain."""

    def __init__(self, step: str) -> None:
        # Every agent is there from the start: the thread that draws reads while the demo writes.
        self.marks = {part.agent_id: _EXPECTED for part in CAST if part.step == step}
        self._step = step
        self._agent_id = ""
        self._status = TaskStatus.PENDING
        self._began_at = 0.0
        self._took_s = 0.0
        self._note = self._trouble = Text()
        self._spinner = Spinner("dots", style="cyan")

    def start(self, agent_id: str) -> None:
        if self._status is TaskStatus.PENDING:
            self._began_at = time.monotonic()
        else:
            self._note = Text.assemble(self._trouble, (f", {agent_id} took over", "green"))
        self._agent_id, self._status = agent_id, TaskStatus.RUNNING

    def lose(self, agent_id: str, how: str) -> None:
        """An agent that was killed is marked dead; that its attempt then fails is no second trouble."""
        if how == "killed":
            self.marks[agent_id] = _DEAD
        elif self.marks[agent_id] is _DEAD:
            return
        self._note = self._trouble = Text(how, "red")

    def end(self, status: TaskStatus) -> None:
        self._took_s, self._status = self._time_s(), status

    def cells(self) -> tuple[Text | Spinner, ...]:
        took = Text("" if self._status is TaskStatus.PENDING else f"{self._time_s():.1f} s", "cyan", justify="right")
        return self._progress(), Text(self._step, "bold"), self._told_agents(), took, self._note

    def _time_s(self) -> float:
        return self._took_s if self._status.is_terminal or not self._began_at else time.monotonic() - self._began_at

    def _progress(self) -> Text | Spinner:
        match self._status:
            case TaskStatus.RUNNING:
                return self._spinner
            case TaskStatus.COMPLETED:
                return Text("✔", "green")
            case TaskStatus.PENDING:
                return Text("·", "dim")
            case _:
                return Text("✗", "red")

    def _told_agents(self) -> Text:
        return Text("  ").join(
            Text.assemble(mark, f" {agent_id}", style="" if agent_id == self._agent_id else "dim")
            for agent_id, mark in self.marks.items()
        )


def _say_plainly(progress: Progress) -> None:
    match progress:
        case AgentStarted(agent_id=agent_id, pid=pid):
            say(f"{agent_id} starts (pid {pid})")
        case AgentRegistered(agent_id=agent_id):
            say(f"{agent_id} has registered")
        case StepStarted(step=step, agent_id=agent_id, attempt=attempt):
            say(f"{step}: {agent_id} begins{f', attempt {attempt}' if attempt > 1 else ''}")
        case AgentKilled(step=step, agent_id=agent_id, pid=pid):
            say(f"{step}: {agent_id} (pid {pid}) is killed at its work with SIGKILL")
        case AttemptFailed(step=step, agent_id=agent_id, reason=reason):
            say(f"{step}: {agent_id} failed: {reason}")
        case StepEnded(step=step, status=status):
            say(f"{step}: {status}")
