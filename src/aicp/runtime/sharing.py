"""Keeps replicas of one mind: what happens at one is told to the others, and what they tell is taken in, each second.

    what happens here -> outbox -> bulletin -> peers -> agents, circuits, slots and live events here

No task waits for it. While the database does not answer, every replica goes on with what it knows.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aicp.errors import AicpError, StorageError
from aicp.model.notice import Notice, Order
from aicp.ports import Bulletin, Ordered, Replicas
from aicp.runtime.outbox import Outbox
from aicp.runtime.peers import Peers

TELL_EVERY_S = 1.0
TELL_PAUSE_S = 0.1
LOOK_EVERY_S = 0.5
STOP_S_MAX = 2.0
ORDERS_MAX = 10_000

Step = Callable[[], Awaitable[None]]
_log = logging.getLogger(__name__)


class Sharing:
    """This replica's part in it, from `begin` to `end`. For one event loop.

    Args:
        bulletin: Where replicas tell each other.
        replicas: Who they are.
        outbox: What there is to tell.
        peers: Take in what was told.
    """

    def __init__(self, bulletin: Bulletin, replicas: Replicas, outbox: Outbox, peers: Peers) -> None:
        self._bulletin = bulletin
        self._replicas = replicas
        self._outbox = outbox
        self._peers = peers
        self._orders: dict[tuple[str, Order], None] = {}
        self._told_all_at = 0.0
        self._work: list[asyncio.Task[None]] = []

    async def prepare(self) -> None:
        """What happens from now on is news; to be called before the agents on record are read.

        Raises:
            StorageError: The database could not be asked.
        """
        await self._bulletin.begin()

    def begin(self) -> None:
        """Look and tell from now on."""
        self._work = [
            asyncio.create_task(self._go_on(self._look, "what other replicas tell cannot be read"), name="news"),
            asyncio.create_task(self._go_on(self._tell, "other replicas cannot be told"), name="notices"),
        ]

    async def end(self) -> None:
        """Look no more, and tell what was not told yet, for two seconds at most."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await self.tell_orders()
                await self._post(self._outbox.take_all())
        except (AicpError, TimeoutError) as error:
            _log.warning("other replicas are not told the last of what happened here: %s", error)

    def order(self, agent_id: str, order: Order) -> None:
        """An operator ordered something, which was done here: the others shall do it as well."""
        if len(self._orders) < ORDERS_MAX:
            self._orders[agent_id, order] = None

    async def tell_orders(self) -> None:
        """Put on record what was ordered here. What this raises for is tried again every second.

        Raises:
            StorageError: It could not be recorded.
        """
        for agent_id, order in list(self._orders):
            number = await self._bulletin.order(agent_id, order)
            self._peers.obey_once(Ordered(agent_id, order, number), is_done=True)
            self._orders.pop((agent_id, order), None)

    async def _look(self) -> None:
        if self._peers.meet(self._replicas.alive):
            self._outbox.is_alone = len(self._replicas.alive) <= 1
            self._outbox.touch_all()
        self._peers.expect_news()
        if self._peers.take_in(await self._bulletin.look()):
            self._bulletin.accept()
        await self._bulletin.until_posted(LOOK_EVERY_S)

    async def _tell(self) -> None:
        await asyncio.sleep(TELL_PAUSE_S)
        await self.tell_orders()
        now = asyncio.get_running_loop().time()
        if self._outbox.is_urgent or now - self._told_all_at >= TELL_EVERY_S:
            self._told_all_at = now
            await self._post(self._outbox.take_all())
        elif self._outbox.has_events:
            await self._post(self._outbox.take_events())

    async def _post(self, notice: Notice) -> None:
        if self._outbox.is_alone or notice.is_empty:
            return
        try:
            await self._bulletin.post(notice)
        except BaseException:
            self._outbox.put_back(notice)
            raise

    async def _go_on(self, step: Step, trouble: str) -> None:
        """Take a step again and again; what goes wrong is said once, until it goes well again."""
        is_well = True
        while True:
            try:
                await step()
                is_well = True
            except Exception as error:  # noqa: BLE001 - supervised: whatever it is, it is logged and the loop goes on
                if is_well:
                    _log.warning("%s, trying on: %s", trouble, error, exc_info=not isinstance(error, StorageError))
                is_well = False
                self._peers.missed()
                await asyncio.sleep(TELL_EVERY_S)
