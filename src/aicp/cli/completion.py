"""Completes ids and names on the command line by asking the server, where it answers at once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aicp.cli.connection import ask
from aicp.model.access import GRANTABLE
from aicp.model.views import SchedulerStatus

ANSWER_WITHIN_S = 1.0
SHOWN_MAX = 100


def agent_ids(incomplete: str) -> list[str]:
    """Ids of agents that begin so."""
    return _begun(incomplete, _of_agents)


def capabilities(incomplete: str) -> list[str]:
    """Capabilities on offer that begin so."""
    return _begun(incomplete, _of_capabilities)


def chain_ids(incomplete: str) -> list[str]:
    """Ids of the newest chains that begin so."""
    return _begun(incomplete, _of_chains)


def task_ids(incomplete: str) -> list[str]:
    """Global ids of the newest tasks that begin so."""
    return _begun(incomplete, _of_tasks)


def key_ids(incomplete: str) -> list[str]:
    """Ids of keys that begin so and are not revoked."""
    return _begun(incomplete, _of_keys)


def scopes(incomplete: str) -> list[str]:
    """Scopes that a key may be given and that begin so."""
    return [scope for scope in GRANTABLE if scope.startswith(incomplete)]


async def _of_agents(client: Any) -> Iterable[str]:
    return [agent.agent_id for agent in await client.agents()]


async def _of_capabilities(client: Any) -> Iterable[str]:
    status: SchedulerStatus = await client.scheduler_status()
    return status.by_capability


async def _of_chains(client: Any) -> Iterable[str]:
    return [chain.chain_id for chain in (await client.list_chains(limit=SHOWN_MAX)).chains]


async def _of_tasks(client: Any) -> Iterable[str]:
    return [task.task_id for task in (await client.list_tasks(limit=SHOWN_MAX)).tasks]


async def _of_keys(client: Any) -> Iterable[str]:
    return [key.key_id for key in await client.list_keys() if key.revoked_at is None]


def _begun(incomplete: str, work: Callable[[Any], Awaitable[Iterable[str]]]) -> list[str]:
    async def bounded(client: Any) -> Iterable[str]:
        async with asyncio.timeout(ANSWER_WITHIN_S):
            return await work(client)

    try:
        names = ask(bounded, retries_max=0, timeout_s=ANSWER_WITHIN_S)
    except Exception:  # noqa: BLE001 - a shell that completes a word has no place for a sentence
        return []
    return [name for name in names if name.startswith(incomplete)][:SHOWN_MAX]
