"""The steps of a chain: followed to its end, written as tables, told in a sentence."""

import sys

import typer

from aicp.cli.connection import ask
from aicp.cli.exits import OK, WORK_FAILED, say
from aicp.cli.output import Format, Sheet, seconds, tell_warning, write, write_plain
from aicp.cli.progress import follow
from aicp.cli.waits import waiting_for
from aicp.client import Client
from aicp.coordination.timeline import TimelineEntry, timeline
from aicp.model.chain import ChainSpec
from aicp.model.duration import seconds_between
from aicp.model.task import TaskStatus
from aicp.model.views import ChainView, TaskView

BAR_CHARS = 40


def run_at_server(spec: ChainSpec) -> ChainView:
    """Submit a chain to the server and follow it to its end; interrupted, it goes on there."""
    accepted = ask(lambda client: client.accept_chain(spec))
    say(f"Chain {accepted.chain_id} is accepted.")
    tell_warning(accepted)
    return follow_at_server(accepted.chain_id)


def follow_at_server(chain_id: str) -> ChainView:
    """Follow a chain of the server to its end; interrupted, it goes on there."""
    with waiting_for("chain", chain_id):
        return ask(lambda client: _follow(client, chain_id))


def write_steps(view: ChainView, output: Format) -> None:
    """Write every task of a chain: who did it, in how many attempts, how long it took."""
    rows = [_row(name, task) for name, task in view.tasks.items()]
    columns = ("task", "capability", "status", "agent", "attempts", "time", "error")
    write(view, output, Sheet(columns, rows), list(view.tasks.values()))


def write_timeline(view: ChainView) -> None:
    """Write every attempt, by its start, with a bar that shows when it ran; nothing when there was none."""
    entries = timeline(view)
    if not entries:
        return
    span_s = max(entry.begins_s + entry.takes_s for entry in entries)
    write_plain("\n")
    rows = [_timeline_row(entry, span_s) for entry in entries]
    write(entries, Format.TABLE, Sheet(("from", "took", "task", "attempt", "agent", "outcome", ""), rows))


def exit_with(view: ChainView) -> typer.Exit:
    """How a command ends that waited for a chain: 0 when it completed."""
    return typer.Exit(OK if view.status is TaskStatus.COMPLETED else WORK_FAILED)


def tell_standing(view: ChainView) -> None:
    """Say on stderr where a chain stands."""
    ended = "" if view.ended_at is None else f" after {seconds_between(view.started_at, view.ended_at):.3f} s"
    why = f": {view.error.message.removesuffix('.')}" if view.error else ""
    say(f"Chain {view.chain_id} is {view.status}{ended}, {view.completed_tasks} of {view.total_tasks} tasks{why}.")


async def _follow(client: Client, chain_id: str) -> ChainView:
    async def capabilities_out() -> list[str]:
        return (await client.health()).capabilities_out

    return await follow(lambda wait_s: client.get_chain(chain_id, wait_s=wait_s), capabilities_out)


def _timeline_row(entry: TimelineEntry, span_s: float) -> tuple[object, ...]:
    is_copied = entry.begins_s + entry.takes_s < 0
    begins = "before" if is_copied else seconds(entry.begins_s)
    bar = "" if is_copied else _bar(entry.begins_s, entry.takes_s, span_s)
    return begins, seconds(entry.takes_s), entry.task, entry.number, entry.agent_id, entry.outcome, bar


def _bar(begins_s: float, takes_s: float, span_s: float) -> str:
    """A row of the timeline: the whole span, and in it the time of one attempt, a character wide at least."""
    full, empty = ("\N{FULL BLOCK}", "\N{MIDDLE DOT}") if "utf" in (sys.stdout.encoding or "").lower() else "#."
    per_s = BAR_CHARS / span_s if span_s > 0 else 0.0
    first = min(max(0, int(begins_s * per_s)), BAR_CHARS - 1)
    last = min(max(first + 1, round((begins_s + takes_s) * per_s)), BAR_CHARS)
    return empty * first + full * (last - first) + empty * (BAR_CHARS - last)


def _row(name: str, task: TaskView) -> tuple[object, ...]:
    told = task.error.message if task.error else None
    taken = seconds(task.timings.total_s)
    return name, task.capability, task.status, task.agent_id, len(task.attempts), taken, told
