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
    """Show for each capability who offers it, the free slots, the line by priority, its waits, and who was refused."""
    found = ask(lambda client: client.scheduler_status())
    rows = [
        (
            key, each.agents, each.usable, each.free_slots, _by_priority(each.waiting), seconds(each.oldest_wait_s),
            seconds(each.expected_wait_s or None), each.refused,
        )
        for key, each in found.by_capability.items()
    ]  # fmt: skip
    free = f"{found.total_capacity - found.current_load} of {found.total_capacity}"
    whole = ("all", found.agents_count, None, free, found.queue_depth, seconds(found.oldest_wait_s), None, None)
    write(found, output, Sheet(_COLUMNS, [*rows, whole]))


_COLUMNS = (
    "capability", "agents", "usable", "free slots", "waiting (high, normal, low)", "longest wait", "expected wait",
    "refused",
)  # fmt: skip


def _by_priority(waiting: dict[str, int]) -> str:
    whole = sum(waiting.values())
    return f"{whole} ({', '.join(map(str, waiting.values()))})" if whole else "0"
