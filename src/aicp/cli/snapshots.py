"""Looks at a server, once or once a second: what `aicp top` shows."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from aicp.errors import AicpError, Forbidden
from aicp.model.task import TaskStatus
from aicp.model.views import FleetHealth, Info, ListedChain, SchedulerStatus

EVERY_S = 1.0
ANSWER_WITHIN_S = 5.0
CHAINS_MAX = 50


class Snapshot(msgspec.Struct, frozen=True):
    """A server at one moment.

    Attributes:
        at: When it was asked, UTC.
        url: Which.
        info: What it is.
        scheduler: Its capacity, load and lines.
        health: Its agents and their circuits.
        chains: Those that run, newest first; None when the key may not see them.
    """

    at: datetime
    url: str
    info: Info
    scheduler: SchedulerStatus
    health: FleetHealth
    chains: list[ListedChain] | None


Show = Callable[[Snapshot], None]
Lament = Callable[[AicpError], None]


async def watch(client: Any, show: Show, lament: Lament) -> None:
    """Look once a second, for ever; a server that was there and is gone is lamented, one that never was is an error."""
    from aicp.client import ServerUnreachable

    was_there = False
    while True:
        try:
            show(await look(client))
            was_there = True
        except ServerUnreachable as error:
            if not was_there:
                raise
            lament(error)
        await asyncio.sleep(EVERY_S)


async def look(client: Any) -> Snapshot:
    """Ask for everything at once."""
    at = datetime.now(UTC)
    info, scheduler, health, chains = await asyncio.gather(
        client.info(), client.scheduler_status(), client.health(), _allowed(_chains(client))
    )
    return Snapshot(at, client.url, info, scheduler, health, chains)


async def _chains(client: Any) -> list[ListedChain]:
    found: list[ListedChain] = (await client.list_chains(status=TaskStatus.RUNNING, limit=CHAINS_MAX)).chains
    return found


async def _allowed(asking: Awaitable[list[ListedChain]]) -> list[ListedChain] | None:
    try:
        return await asking
    except Forbidden:
        return None
