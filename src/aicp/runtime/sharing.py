"""Keeps replicas of one mind: what happens at one is told to the others, and what they tell is taken in, each second.

    what happens here -> outbox -> bulletin -> peers -> agents, circuits, slots and live events here

No task waits for it. While the database does not answer, every replica goes on with what it knows.
"""

import asyncio
import logging

from aicp.errors import AicpError
from aicp.model.notice import Notice
from aicp.ports import Bulletin, Replicas
from aicp.runtime.outbox import Outbox
from aicp.runtime.peers import Peers
from aicp.runtime.supervision import keep_doing

TELL_EVERY_S = 1.0
TELL_PAUSE_S = 0.1
LOOK_EVERY_S = 0.5
STOP_S_MAX = 2.0

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
            asyncio.create_task(
                keep_doing(self._look, "what other replicas tell cannot be read", turned=self._peers.missed),
                name="news",
            ),
            asyncio.create_task(keep_doing(self._tell, "other replicas cannot be told"), name="notices"),
        ]

    async def end(self) -> None:
        """Look no more, and tell what was not told yet, for two seconds at most."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        try:
            async with asyncio.timeout(STOP_S_MAX):
                await self._post(self._outbox.take_all())
        except (AicpError, TimeoutError) as error:
            _log.warning("other replicas are not told the last of what happened here: %s", error)

    async def _look(self) -> None:
        if self._peers.meet(self._replicas.alive):
            self._outbox.is_alone = len(self._replicas.alive) <= 1
            self._outbox.touch_all()
        self._peers.expect_news()
        news = await self._bulletin.look()
        if await self._peers.take_in(news):
            self._bulletin.accept()
        for agent_id in news.removed:
            self._outbox.forget(agent_id)
        await self._bulletin.until_posted(LOOK_EVERY_S)

    async def _tell(self) -> None:
        await asyncio.sleep(TELL_PAUSE_S)
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
