"""What `aicp task list` and `aicp chain list` show: the newest first, from as many pages as it takes."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, NamedTuple, TypeVar

import typer

from aicp.cli.connection import ask
from aicp.cli.exits import say
from aicp.cli.output import Format, Sheet, seconds, write
from aicp.cli.progress import waiting
from aicp.model.duration import seconds_between
from aicp.model.task import Phase, TaskStatus
from aicp.model.views import ListedChain, ListedTask

PAGE_MAX = 1_000
Limit = Annotated[int, typer.Option("--limit", min=1, help="Show at most so many, the newest.")]
Status = Annotated[
    TaskStatus | None, typer.Option("--status", case_sensitive=False, help="Only those that stand here.")
]
LIMIT = 50
TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]
"""How a time may be written."""
T = TypeVar("T")
Page = tuple[Sequence[T], str | None]


class ChainFilters(NamedTuple):
    """Which chains to show; the names are those of `Client.list_chains`."""

    status: TaskStatus | None
    name: str | None
    submitted_from: datetime | None
    submitted_to: datetime | None


def show_tasks(
    status: TaskStatus | None, phase: Phase | None, capability: str | None, limit: int, output: Format
) -> None:
    """Write the newest tasks."""

    async def page(client: Any, count: int, cursor: str | None) -> Page[ListedTask]:
        found = await client.list_tasks(status=status, phase=phase, capability=capability, limit=count, cursor=cursor)
        return found.tasks, found.next_cursor

    tasks = _newest("tasks", page, limit)
    columns = ("task", "capability", "status", "agent", "attempts", "time", "submitted", "error")
    write(tasks, output, Sheet(columns, [_task_row(task) for task in tasks]))


def show_chains(filters: ChainFilters, limit: int, output: Format) -> None:
    """Write the newest chains."""

    async def page(client: Any, count: int, cursor: str | None) -> Page[ListedChain]:
        found = await client.list_chains(**filters._asdict(), limit=count, cursor=cursor)
        return found.chains, found.next_cursor

    chains = _newest("chains", page, limit)
    columns = ("chain", "name", "status", "tasks", "time", "submitted", "retry of")
    write(chains, output, Sheet(columns, [_chain_row(chain) for chain in chains]))


def _newest(kind: str, page: Callable[[Any, int, str | None], Awaitable[Page[T]]], limit: int) -> list[T]:
    async def collect(client: Any) -> Page[T]:
        found: list[T] = []
        cursor: str | None = None
        while True:
            more, cursor = await page(client, min(limit - len(found), PAGE_MAX), cursor)
            found += more
            if cursor is None or len(found) >= limit:
                return found, cursor

    with waiting(f"looking through the {kind}"):
        newest, cursor = ask(collect)
    if cursor is not None:
        say(f"There may be more {kind}; --limit shows more than {limit}.")
    return list(newest)


def _task_row(task: ListedTask) -> tuple[object, ...]:
    told = f"{task.error.code}: {task.error.message}" if task.error else None
    taken = seconds(task.timings.total_s)
    tried = len(task.attempts)
    return task.task_id, task.capability, task.status, task.agent_id, tried, taken, task.submitted_at, told


def _chain_row(chain: ListedChain) -> tuple[object, ...]:
    taken = None if chain.ended_at is None else seconds(seconds_between(chain.started_at, chain.ended_at))
    return chain.chain_id, chain.name, chain.status, chain.total_tasks, taken, chain.started_at, chain.retry_of
