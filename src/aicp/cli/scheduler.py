"""`aicp scheduler …`."""

import typer

from aicp.cli.connection import ask
from aicp.cli.output import Format, Output, Sheet, seconds, write

app = typer.Typer(help="Capacity, load and lines.", no_args_is_help=True)


@app.callback()
def scheduler() -> None:
    """Capacity, load and lines."""


@app.command()
def status(output: Output = Format.TABLE) -> None:
    """Show for each capability who offers it, who is free, and how many tasks wait."""
    found = ask(lambda client: client.scheduler_status())
    whole = (
        "all",
        found.agents_count,
        None,
        f"{found.total_capacity - found.current_load} of {found.total_capacity} slots",
        found.queue_depth,
        seconds(found.oldest_wait_s),
    )
    rows = [
        (key, each.agents, each.usable, each.free, each.queue_depth, seconds(each.oldest_wait_s))
        for key, each in found.by_capability.items()
    ]
    write(found, output, Sheet(("capability", "agents", "usable", "free", "waiting", "longest wait"), [*rows, whole]))
