"""Customers: each has a chain submitted, again and again until that is acknowledged, and waits for its end.

Each question goes to any server that is up: with several, the one that answers is seldom the one that runs the chain.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from aicp.client import Client, ServerUnreachable
from aicp.errors import IdempotencyConflict, StorageError
from aicp.model.chain import ChainSpec
from aicp.model.task import TaskStatus
from aicp.model.validation import parse_chain
from aicp.model.views import ChainView
from tests.chaos.agent_process import CAPABILITY
from tests.chaos.history import Ordered

LOST = "lost"
ASK_AGAIN_S = 0.05
WAIT_S = 10.0
DEADLINE_S = 86_400.0
TASKS_MIN, TASKS_MAX = 10, 50
AWAITED = (0, 1, 1, 1, 2, 3)
WORK_MS_MAX = 40
LARGE_BYTES = 70_000
LARGE_SHARE = 0.02
ONCE_SHARE = 0.15
UNREAD_SHARE = 0.2
CANCELLED_SHARE = 0.05
CANCEL_AFTER_S_MAX = 2.0
LOOK_AFTER_S_MAX = 1.5

T = TypeVar("T")


def draw_chain(draw: random.Random, name: str) -> ChainSpec:
    """10 to 50 tasks, each behind some of the ten before it; most read what those they wait for have made."""
    tasks: list[dict[str, Any]] = []
    for number in range(draw.randint(TASKS_MIN, TASKS_MAX)):
        before = [task["id"] for task in tasks[-10:]]
        tasks.append(_draw_task(draw, f"t{number}", draw.sample(before, min(len(before), draw.choice(AWAITED)))))
    return parse_chain({"name": name, "tasks": tasks})


def _draw_task(draw: random.Random, task: str, awaited: list[str]) -> dict[str, Any]:
    unread = [name for name in awaited if draw.random() < UNREAD_SHARE]
    read = {name: {"$result": name, "path": "/execution"} for name in awaited if name not in unread}
    size = LARGE_BYTES if draw.random() < LARGE_SHARE else 0
    params = {"given": read, "work_ms": draw.randint(0, WORK_MS_MAX), "size": size}
    drawn = {"id": task, "capability": CAPABILITY, "params": params, "depends_on": unread, "deadline_s": DEADLINE_S}
    if draw.random() < ONCE_SHARE:
        return {**drawn, "idempotent": False, "on_failure": {"continue": {"execution": LOST}}}
    return drawn


class Street:
    """Where customers find a server that is up.

    Args:
        clients: One for each server.
        ups: Set while that one is up.
        draw: Chance.

    Attributes:
        clients: One for each server.
        refusals: What was said of the database by servers that could not use it.
        failures: What was said of servers that did not answer.
    """

    def __init__(self, clients: Sequence[Client], ups: Sequence[asyncio.Event], draw: random.Random) -> None:
        self.clients = clients
        self.refusals: list[str] = []
        self.failures: list[str] = []
        self._doors = list(zip(clients, ups, strict=True))
        self._draw = draw

    async def ask(self, question: Callable[[Client], Awaitable[T]]) -> T:
        """Ask one server after the other, again and again, until one answers.

        Raises:
            AicpError: It was refused, for another reason than the database.
        """
        while True:
            client, up = self._draw.choice([door for door in self._doors if door[1].is_set()] or self._doors)
            await up.wait()
            try:
                return await question(client)
            except ServerUnreachable as error:
                self.failures.append(error.message)
            except StorageError as error:
                self.refusals.append(error.message)
            await asyncio.sleep(ASK_AGAIN_S)


class Customer:
    """Orders one chain.

    Args:
        street: Where the servers are.
        draw: Chance, of its own.
        order: What to order, and where to note what comes of it.
    """

    def __init__(self, street: Street, draw: random.Random, order: Ordered) -> None:
        self._street = street
        self._draw = draw
        self._order = order

    async def shop(self) -> None:
        """Submit it, look at it once on its way, maybe cancel it, and wait for its end."""
        chain_id = await self.submit()
        if self._draw.random() < CANCELLED_SHARE:
            await asyncio.sleep(self._draw.uniform(0, CANCEL_AFTER_S_MAX))
            await self._cancel(chain_id)
        else:
            await asyncio.sleep(self._draw.uniform(0, LOOK_AFTER_S_MAX))
            await self._look(chain_id, 0.0)
        while not (view := await self._look(chain_id, WAIT_S)).status.is_terminal:
            pass
        self._order.status = view.status

    async def submit(self) -> str:
        """Submit it, as often as it takes; what comes late is a repeat for the server."""
        order = self._order
        chain_id = await self._street.ask(lambda client: client.submit_chain(order.spec, key=order.key))
        order.chain_ids.add(chain_id)
        return chain_id

    async def is_refused_something_else(self) -> bool:
        """True when the key is of no use for another chain."""
        spec = draw_chain(self._draw, f"not {self._order.key}")
        try:
            await self._street.ask(lambda client: client.submit_chain(spec, key=self._order.key))
        except IdempotencyConflict:
            return True
        return False

    async def _cancel(self, chain_id: str) -> None:
        standing = await self._street.ask(lambda client: client.cancel_chain(chain_id))
        if standing.status is TaskStatus.CANCELLED:
            self._order.cancelled_at = time.monotonic()

    async def _look(self, chain_id: str, wait_s: float) -> ChainView:
        view = await self._street.ask(lambda client: client.get_chain(chain_id, wait_s=wait_s))
        for task, seen in view.tasks.items():
            if seen.status.is_terminal:
                result = seen.result["execution"] if seen.status is TaskStatus.COMPLETED else ""
                self._order.seen.setdefault(task, set()).add((seen.status.value, result))
        return view
