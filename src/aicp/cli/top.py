"""`aicp top`."""

import sys

import typer

from aicp.cli.connection import ask
from aicp.cli.exits import OK, say
from aicp.cli.output import Format, Output, Sheet, write
from aicp.cli.snapshots import ANSWER_WITHIN_S, Lament, Show, Snapshot, look, watch
from aicp.errors import AicpError


def top(output: Output = Format.TABLE) -> None:
    """Watch agents, circuits, lines and chains, a look a second, until Ctrl-C, which is no failure.

    A server that goes away is told, and looked for until it is back. Written elsewhere than to a terminal, the table
    is that of one look; `-o json` is one look, too, and `-o jsonl` one a second.
    """
    try:
        if output is Format.JSONL:
            _watch(_write_line, _say_gone)
        elif output is Format.TABLE and sys.stdout.isatty():
            _draw()
        else:
            snapshot = ask(look)
            write(snapshot, output, _sheet(snapshot))
    except KeyboardInterrupt:
        raise typer.Exit(OK) from None


def _watch(show: Show, lament: Lament) -> None:
    ask(lambda client: watch(client, show, lament), retries_max=0, timeout_s=ANSWER_WITHIN_S)


def _draw() -> None:
    from aicp.cli.top_screen import drawing

    with drawing() as (show, lament):
        _watch(show, lament)


def _write_line(snapshot: Snapshot) -> None:
    write(snapshot, Format.JSONL, Sheet((), ()))


def _say_gone(error: AicpError) -> None:
    say(f"{error.message} Looking on.")


def _sheet(snapshot: Snapshot) -> Sheet:
    from aicp.cli.top_rows import COLUMNS, agent_rows

    return Sheet(COLUMNS, agent_rows(snapshot.health))
