"""Writes data to stdout, as a table for people or as JSON for programs."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

from aicp.cli.exits import PIPE_CLOSED, UNWRITTEN, printable, say
from aicp.model.views import ChainStanding, TaskStanding

WIDTH_WHEN_PIPED = 400
CELL_CHARS_MAX = 1_000


class Format(StrEnum):
    """How data is written."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


Output = Annotated[Format, typer.Option("--output", "-o", help="How data is written to stdout.")]


class Sheet(msgspec.Struct, frozen=True):
    """A table.

    Attributes:
        columns: Their titles.
        rows: A value for each column; None is shown as a dash.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def write(value: Any, output: Format, sheet: Sheet, lines: Sequence[Any] | None = None) -> None:
    """Write data.

    Args:
        value: All of it, for `json`.
        output: Which way.
        sheet: For `table`.
        lines: For `jsonl`, one each; the elements of a list, or the value itself, when left out.
    """
    with _writing():
        _write(value, output, sheet, lines)
        sys.stdout.flush()


def write_plain(text: str) -> None:
    """Write text as it is, for another program."""
    with _writing():
        sys.stdout.write(text)
        sys.stdout.flush()


def facts(**named: Any) -> Sheet:
    """A sheet that shows one thing: a row for each of its facts."""
    return Sheet(("", ""), [(name.replace("_", " "), value) for name, value in named.items()])


def tell_warning(accepted: TaskStanding | ChainStanding) -> dict[str, Any]:
    """Say on stderr that what was accepted will probably be late, if it will; the same as fields of the data."""
    if not accepted.warning:
        return {}
    say(f"Warning: {accepted.warning}")
    return {"expected_s": accepted.expected_s, "warning": accepted.warning}


def seconds(value: float | None) -> str | None:
    """A duration as people read it."""
    return None if value is None else f"{value:.3f} s"


def give_up(error: OSError) -> int:
    """End the writing to stdout that `error` broke off, and return the exit code that tells so."""
    # What is still buffered must not fail once more when the process ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED
    say(f"The output cannot be written: {(error.strerror or str(error)).lower()}.")
    return UNWRITTEN


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise typer.Exit(give_up(error)) from None


def _write(value: Any, output: Format, sheet: Sheet, lines: Sequence[Any] | None) -> None:
    if output is Format.TABLE:
        _write_table(sheet)
    elif output is Format.JSON:
        _write_text(msgspec.json.format(msgspec.json.encode(value), indent=2))
    else:
        for line in _lines(value) if lines is None else lines:
            _write_text(msgspec.json.encode(line))


def _lines(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else [value]


def _write_text(text: bytes) -> None:
    sys.stdout.write(text.decode() + "\n")


def _write_table(sheet: Sheet) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH_WHEN_PIPED)
    has_titles = any(sheet.columns)
    table = Table(box=box.SIMPLE_HEAD if has_titles else None, show_header=has_titles, show_edge=False, pad_edge=False)
    for column in sheet.columns:
        table.add_column(column, overflow="fold")
    for row in sheet.rows:
        table.add_row(*map(_cell, row))
    # Captured, because the console would end the process itself when nobody reads any more.
    with console.capture() as captured:
        console.print(table)
    sys.stdout.write(captured.get())


def _cell(value: Any) -> Any:
    from rich.text import Text

    text = _told(value)
    shown = printable(" ".join(text.split()))[:CELL_CHARS_MAX]
    return Text(shown, style=STYLES.get(shown, ""))


def _told(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, str):
        return value
    if isinstance(value, datetime):
        return value.astimezone().isoformat(sep=" ", timespec="seconds")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return msgspec.json.encode(value).decode()


STYLES = {
    "COMPLETED": "green",
    "FAILED": "red",
    "CANCELLED": "yellow",
    "SKIPPED": "yellow",
    "RUNNING": "cyan",
    "CLOSED": "green",
    "OPEN": "red",
    "HALF_OPEN": "yellow",
    "FORCED_OPEN": "red",
    "UNHEARD": "yellow",
    "OFFLINE": "red",
    "ok": "green",
    "warn": "yellow",
    "fail": "bold red",
}
