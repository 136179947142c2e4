"""The command `aicp`: puts the groups together, and turns whatever ends a command into a sentence and an exit code."""

import errno
import importlib
from collections.abc import Sequence
from importlib.util import find_spec
from types import TracebackType
from typing import Annotated

import typer

from aicp.cli import agent, breaker, chain, db, key, scheduler, task
from aicp.cli.dashboard import dashboard
from aicp.cli.doctor import doctor
from aicp.cli.exits import BAD_INPUT, DEFECT, EPILOG, INTERRUPTED, OK, code_of, say
from aicp.cli.output import Format, give_up
from aicp.cli.serve import serve
from aicp.cli.top import top
from aicp.cli.version import version
from aicp.errors import AicpError

_DEMO = "aicp.cli.demo"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
# What the library that checks options puts before the words of the one that reads them.
_PREFIX = "Value error, "


def make_app() -> typer.Typer:
    """Every command; a new group is a module with an `app`, added here."""
    app = typer.Typer(
        name="aicp",
        help="Keeps work going when AI agents fail.",
        epilog=EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    app.callback()(_before_any)
    if find_spec(_DEMO) is not None:
        app.command(epilog=EPILOG)(importlib.import_module(_DEMO).demo)
    app.command(epilog=EPILOG)(serve)
    for name, group in (("chain", chain), ("task", task), ("agent", agent)):
        app.add_typer(group.app, name=name, epilog=EPILOG)
    for name, group in (("breaker", breaker), ("scheduler", scheduler), ("key", key), ("db", db)):
        app.add_typer(group.app, name=name, epilog=EPILOG)
    app.command(epilog=EPILOG)(dashboard)
    app.command(epilog=EPILOG)(top)
    app.command(epilog=EPILOG)(doctor)
    app.command(epilog=EPILOG)(version)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; whatever goes wrong is one sentence on stderr.

    Args:
        arguments: What follows `aicp`; those of the process when None.
    """
    try:
        code = make_app()(args=arguments, prog_name="aicp", standalone_mode=False)
    except typer.TyperException as error:
        return _usage(error)
    except AicpError as error:
        say(error.message)
        return code_of(error)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 - a defect of ours shall not be a traceback in somebody's terminal
        # Help is written by the library.
        return give_up(error) if isinstance(error, OSError) and error.errno in _NO_ROOM else _defect(error)
    return code if isinstance(code, int) else 0


def _tell_version(wanted: bool) -> None:
    if wanted:
        version(Format.TABLE)
        raise typer.Exit(OK)


def _before_any(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="As `aicp version`.")
    ] = False,
) -> None:
    """Takes the options that stand before a command."""


def _defect(error: Exception) -> int:
    say(f"AICP has a defect: {type(error).__name__}: {error}{_place(error.__traceback__)}. Please report it.")
    return DEFECT


def _usage(error: typer.TyperException) -> int:
    told = error.format_message().replace(_PREFIX, "", 1).rstrip(".")
    if not told:
        return BAD_INPUT  # a group without a command: its help was shown
    context = getattr(error, "ctx", None)
    where = f" See `{context.command_path} --help`." if context is not None else ""
    say(f"{told}.{where}")
    return BAD_INPUT


def _place(trace: TracebackType | None) -> str:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" ({trace.tb_frame.f_code.co_filename}:{trace.tb_lineno})"
