"""`aicp db …`."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from aicp.cli.exits import OK, WORK_FAILED, say
from aicp.cli.output import Format, Output, facts, write

app = typer.Typer(help="The database: bring it up to date, check it, copy it, put a copy back.", no_args_is_help=True)

Database = Annotated[
    str | None,
    typer.Option(metavar="URL", help="Which; without, AICP_DATABASE_URL, else aicp.db in the data directory."),
]


@app.command()
def upgrade(database: Database = None, output: Output = Format.TABLE) -> None:
    """Bring the database to the schema of this AICP, or make it; a server that uses a SQLite file must be stopped."""
    from aicp.runtime import databases

    with _working("upgrading"):
        upgraded = databases.upgrade(database)
    write(_plain(upgraded), output, facts(**_plain(upgraded)))


@app.command()
def check(database: Database = None, output: Output = Format.TABLE) -> None:
    """Read the whole database and say whether it is sound, also while a server uses it."""
    from aicp.runtime import databases

    with _working("checking"):
        checked = databases.check(database)
    counts = {name.replace(" ", "_"): count for name, count in checked.counts.items()}
    told = {"is_sound": checked.is_sound, **_plain(checked), "counts": counts}
    shown = {name: value for name, value in told.items() if name != "counts"}
    write(told, output, facts(**shown | counts | _in_words(told)))
    if not checked.is_sound:
        place = told.get("path") or told.get("place")
        say(f"The database {place} is not sound: {checked.problems[0]}.")
    raise typer.Exit(OK if checked.is_sound else WORK_FAILED)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The copy to make; it must not be there yet.")],
    database: Database = None,
    output: Output = Format.TABLE,
) -> None:
    """Copy the database into one file, as of one moment, also while a server uses it; PostgreSQL's with pg_dump."""
    from aicp.runtime import databases

    with _working("copying") as tell:
        backed_up = databases.backup(database, file, tell)
    write(_plain(backed_up), output, facts(**_plain(backed_up)))


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="The copy to put in the database's place.")],
    database: Database = None,
    output: Output = Format.TABLE,
) -> None:
    """Put a copy in the place of the database and keep what was there; servers that use it must be stopped."""
    from aicp.runtime import databases

    with _working("restoring"):
        restored = databases.restore(database, file)
    told = _plain(restored)
    write(told, output, facts(**told))
    if restored.kept is not None:
        what = "The database that was there is kept as" if "path" in told else "What was there is kept in the schema"
        say(f"{what} {restored.kept}.")


@app.command()
def salvage(database: Database = None, output: Output = Format.TABLE) -> None:
    """Go on with what can be read of a damaged SQLite file and keep the file; its server must be stopped."""
    from aicp.runtime import databases

    with _working("salvaging"):
        salvaged = databases.salvage(database)
    told = _plain(salvaged)
    counts = {name.replace(" ", "_"): count for name, count in salvaged.counts.items()}
    shown = {name: value for name, value in told.items() if name != "counts"}
    write({**told, "counts": counts}, output, facts(**shown | counts | _in_words(told)))
    say(f"The damaged database is kept as {salvaged.kept}. What was given up: {salvaged.lost}.")


def _in_words(told: dict[str, Any]) -> dict[str, str]:
    """What a check found wrong or noteworthy, for the table."""
    return {name: "; ".join(told[name]) for name in ("problems", "notes") if name in told}


def _plain(value: msgspec.Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value, enc_hook=_path_as_text)
    return plain


def _path_as_text(value: Any) -> str:
    # A name that is not UTF-8 has no exact form in JSON.
    return os.fsencode(value).decode(errors="replace")


@contextmanager
def _working(told: str) -> Iterator[Callable[[int, int], None]]:
    """Show on stderr, when somebody looks, that the command is at work, for how long, and how far it says it is."""
    if not sys.stderr.isatty():
        yield lambda _, __: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(told, total=None)
        yield lambda done, pages: progress.update(bar, completed=done, total=pages)
