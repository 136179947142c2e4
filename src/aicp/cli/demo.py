"""`aicp demo`."""

import asyncio
import io
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from aicp.cli.connection import run_to_end
from aicp.cli.exits import OK, say
from aicp.cli.output import Format, Output, Sheet, write

TERMINATED = 128 + signal.SIGTERM
_ENDINGS = (signal.SIGTERM, signal.SIGHUP)
T = TypeVar("T")


def demo(
    image: Annotated[
        str | None, typer.Option(metavar="PATH|URL", help="The picture; without, one made of scikit-image's samples.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it on the dashboard in your browser, and serve on until Ctrl-C.")
    ] = False,
    no_kill: Annotated[bool, typer.Option("--no-kill", help="Let every agent live.")] = False,
    out: Annotated[Path, typer.Option(help="Where the annotated picture and the report go.")] = Path("demo-out"),
    output: Output = Format.TABLE,
) -> None:
    """Analyse a picture with seven agents in their own processes; one is killed on the way, and the job succeeds.

    Needs no server: it brings its own, on a free port. Works without a network. Where no browser can be opened,
    --watch prints the link.
    """
    from aicp.demo.extra import check_extra

    check_extra()
    from aicp.cli.browsing import has_screen
    from aicp.cli.demo_screen import watching

    _prepare_terminal()
    with ExitStack() as drawing:
        # A link is copied: what draws would break it where a line ends.
        tell = drawing.enter_context(watching(plainly=watch and not has_screen()))
        from aicp.cli.demo_page import DemoPage
        from aicp.demo.run import DemoOrder, run_demo

        def show(result: Any) -> None:
            drawing.close()
            _show(result, output)

        page = DemoPage(show) if watch else None
        order = DemoOrder(out, image, kills=not no_kill)
        try:
            result = _run_to_the_end(lambda: run_demo(order, tell, page))
        except KeyboardInterrupt:
            if page is None or not page.has_ended:
                raise
            raise typer.Exit(OK) from None
        show(result)
    say("With --watch it is shown in your browser: make demo ARGS=--watch, or aicp demo --watch.")
    raise typer.Exit(OK)


def _show(result: Any, output: Format) -> None:
    if output is Format.TABLE:
        from aicp.cli.demo_ending import show_ending

        show_ending(result)
    else:
        write(result.report, output, Sheet((), ()))


def _run_to_the_end(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run it; SIGTERM and a closed terminal end it as Ctrl-C does: in order, with every agent's process."""

    async def main() -> T:
        loop = asyncio.get_running_loop()
        running = loop.create_task(work())
        for number in _ENDINGS:
            loop.add_signal_handler(number, running.cancel)
        return await running

    try:
        return run_to_end(main)
    except asyncio.CancelledError:
        say("Terminated; every agent has ended.")
        raise typer.Exit(TERMINATED) from None
    except KeyboardInterrupt:
        say("Interrupted; every agent has ended.")
        raise


def _prepare_terminal() -> None:
    # The story says what happened; the node's own log would write across it.
    logging.getLogger("aicp").addHandler(logging.NullHandler())
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot draw a bar shall not end the demo
