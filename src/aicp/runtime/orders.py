"""What operators order for agents: done here at once, put on record, and done there by whoever reads it."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from aicp.errors import AgentNotFound
from aicp.model.event import AgentChanged, Event
from aicp.model.notice import Order
from aicp.ports import Ordered, StandingOrders
from aicp.runtime.supervision import keep_doing

K = TypeVar("K")

WAITING_MAX = 10_000
DONE_MAX = 10_000
TELL_PAUSE_S = 0.1

Obey = Callable[[str, Order], None]
_REGISTERED = frozenset({"registered", "updated"})
_log = logging.getLogger(__name__)


class Orders:
    """The orders given here, at other replicas and earlier: of those about one subject of an agent, the last holds.

    An observer of its node, so that it hears who registers anew and who is removed. For one event loop.

    Args:
        obey: Does what was ordered, here; raises `AgentNotFound` when that takes an agent that is not here.
        record: Remembers them; None for a node that remembers nothing.
    """

    def __init__(self, obey: Obey, record: StandingOrders | None = None) -> None:
        self._obey = obey
        self._record = record
        self._waiting: dict[tuple[str, str], Order] = {}
        self._gone: set[str] = set()
        self._done: OrderedDict[Ordered, None] = OrderedDict()
        self._recorded: OrderedDict[str, None] = OrderedDict()
        self._telling = asyncio.Lock()

    def give(self, agent_id: str, order: Order) -> None:
        """Do it, and have `tell` put it on record. While 10,000 wait for that, further ones are done here alone.

        Raises:
            AgentNotFound: There is none.
        """
        self._obey(agent_id, order)
        about = agent_id, order.subject
        if self._record is None:
            return
        if about not in self._waiting and len(self._waiting) >= WAITING_MAX:
            told = "'%s' for agent %s holds at this replica alone: order it again when the database answers"
            _log.warning(told, order, agent_id, extra={"agent_id": agent_id})
            return
        self._waiting[about] = order

    def notify(self, event: Event) -> None:
        """Something happened: an agent that registers anew is drained no more, one that is removed is pardoned."""
        if not isinstance(event, AgentChanged):
            return
        if event.change in _REGISTERED:
            self._waiting.pop((event.agent_id, Order.DRAIN.subject), None)
        elif event.change == "removed":
            self._withdraw(event.agent_id)

    async def restore(self) -> None:
        """Do again what is on record; to be called once the agents on record are back.

        Raises:
            StorageError: It could not be read.
        """
        for ordered in await self._record.load() if self._record is not None else ():
            self.take_in(ordered)

    async def keep_telling(self) -> None:
        """Put on record what waits for it, for ever."""
        await keep_doing(self._tell_soon, "orders for agents cannot be recorded")

    async def tell(self) -> None:
        """Put on record what waits for it, one order after the other, so that the last given is the last recorded.

        Raises:
            StorageError: It could not be recorded, and waits for the next call.
        """
        async with self._telling:
            while self._record is not None and (self._gone or self._waiting):
                await (self._forget_one(self._record) if self._gone else self._record_one(self._record))

    def take_in(self, ordered: Ordered) -> bool:
        """Do what is on record, unless it was done already.

        Returns:
            False when one about the same is on its way to the record: look again, then it is clear which is the last.
        """
        if ordered in self._done:
            return True
        if (ordered.agent_id, ordered.order.subject) in self._waiting:
            return False
        self._note(ordered)
        try:
            self._obey(ordered.agent_id, ordered.order)
        except AgentNotFound:
            told, about = "agent %s, for which '%s' was ordered elsewhere, is not here", {"agent_id": ordered.agent_id}
            _log.info(told, ordered.agent_id, ordered.order, extra=about)
        return True

    async def _tell_soon(self) -> None:
        await asyncio.sleep(TELL_PAUSE_S)
        await self.tell()

    async def _record_one(self, record: StandingOrders) -> None:
        about, order = next(iter(self._waiting.items()))
        number = await record.record(about[0], order)
        self._note(Ordered(about[0], order, number))
        # Another one may have been given meanwhile, which is to be recorded as well.
        if self._waiting.get(about) is order:
            del self._waiting[about]

    async def _forget_one(self, record: StandingOrders) -> None:
        agent_id = next(iter(self._gone))
        await record.forget(agent_id)
        self._gone.discard(agent_id)

    def _withdraw(self, agent_id: str) -> None:
        """What was not told of it yet is told to nobody, and what is on record of it is forgotten."""
        waiting = [self._waiting.pop((agent_id, subject), None) for subject in {order.subject for order in Order}]
        # One that waits may be on its way to the record at this moment.
        if agent_id in self._recorded or any(waiting):
            self._recorded.pop(agent_id, None)
            self._gone.add(agent_id)

    def _note(self, ordered: Ordered) -> None:
        _keep(self._done, ordered)
        _keep(self._recorded, ordered.agent_id)


def _keep(known: OrderedDict[K, None], key: K) -> None:
    known[key] = None
    if len(known) > DONE_MAX:
        known.popitem(last=False)
