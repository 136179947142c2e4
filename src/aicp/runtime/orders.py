"""What operators order for agents: done here at once, put on record for the other replicas, and done for them here."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable

from aicp.errors import AgentNotFound
from aicp.model.notice import Order
from aicp.ports import Bulletin, Ordered

WAITING_MAX = 10_000
DONE_MAX = 10_000

Obey = Callable[[str, Order], None]
_log = logging.getLogger(__name__)


class Orders:
    """The orders of this replica and of the others: of those about one subject of an agent, the last one holds.

    For one event loop.

    Args:
        obey: Does what was ordered, here.
        bulletin: Has the record; None for a node that has no other replicas.
    """

    def __init__(self, obey: Obey, bulletin: Bulletin | None = None) -> None:
        self._obey = obey
        self._bulletin = bulletin
        self._waiting: dict[tuple[str, str], Order] = {}
        self._done: OrderedDict[Ordered, None] = OrderedDict()
        self._telling = asyncio.Lock()

    def give(self, agent_id: str, order: Order) -> None:
        """Do it, and have `tell` put it on record. While 10,000 wait for that, further ones are done here alone.

        Raises:
            AgentNotFound: There is none.
        """
        self._obey(agent_id, order)
        about = agent_id, order.subject
        if self._bulletin is None:
            return
        if about not in self._waiting and len(self._waiting) >= WAITING_MAX:
            told = "'%s' for agent %s holds at this replica alone: order it again when the database answers"
            _log.warning(told, order, agent_id)
            return
        self._waiting[about] = order

    def withdraw(self, agent_id: str) -> None:
        """The agent was removed: what was not told of it yet is told to nobody."""
        for subject in {order.subject for order in Order}:
            self._waiting.pop((agent_id, subject), None)

    async def tell(self) -> None:
        """Put on record what waits for it, one order after the other, so that the last given is the last recorded.

        Raises:
            StorageError: It could not be recorded, and waits for the next call.
        """
        async with self._telling:
            while self._bulletin is not None and self._waiting:
                about, order = next(iter(self._waiting.items()))
                number = await self._bulletin.order(about[0], order)
                self._note(Ordered(about[0], order, number))
                # Another one may have been given meanwhile, which is to be recorded as well.
                if self._waiting.get(about) is order:
                    del self._waiting[about]

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
            _log.info("agent %s, for which '%s' was ordered elsewhere, is not here", ordered.agent_id, ordered.order)
        return True

    def _note(self, ordered: Ordered) -> None:
        self._done[ordered] = None
        if len(self._done) > DONE_MAX:
            self._done.popitem(last=False)
