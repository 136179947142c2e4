"""What other replicas told, taken in: their agents, their heartbeats, their open circuits, their events."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from aicp.model.live import LiveEvent
from aicp.model.notice import Opening, Relayed
from aicp.model.views import AgentHealth
from aicp.ports import News, Posted, Replica
from aicp.resilience.board import CircuitBoard
from aicp.runtime.ains import Ains
from aicp.runtime.orders import Orders
from aicp.runtime.turns import in_turns
from aicp.scheduling.task_scheduler import TaskScheduler

_decode = msgspec.json.Decoder(LiveEvent).decode


class Listener(Protocol):
    """Hears what happened at other replicas."""

    def relayed(self, event: LiveEvent, tenant: str | None, body: bytes) -> None:
        """It happened; `tenant` is whose it is, None for every tenant's.

        `body` is the event in JSON with everything that its replica told, which may be newer and tell more.
        """

    def missed(self) -> None:
        """Something may have happened that nobody will tell."""


class Peers:
    """The other replicas, as they told.

    Args:
        ains: Takes in agents that others registered.
        board: Lets circuits rest that are open elsewhere.
        scheduler: Shares slots.
        orders: Does what an operator ordered elsewhere.
    """

    def __init__(self, ains: Ains, board: CircuitBoard, scheduler: TaskScheduler, orders: Orders) -> None:
        self._ains = ains
        self._board = board
        self._scheduler = scheduler
        self._orders = orders
        self._names: Mapping[int, str] = {}
        self._health: dict[int, dict[str, AgentHealth]] = {}
        self._listeners: tuple[Listener, ...] = ()

    @property
    def health(self) -> Sequence[Mapping[str, AgentHealth]]:
        """How agents fare with each of them."""
        return list(self._health.values())

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Let `listener` hear what happens elsewhere; returns what ends that."""
        self._listeners = (*self._listeners, listener)
        return lambda: self._unlisten(listener)

    def meet(self, alive: Sequence[Replica]) -> bool:
        """Share slots with who is alive now; True when somebody came or went."""
        names = {replica.number: replica.name for replica in alive}
        if names == self._names or not names:
            return False
        self._names = names
        self._health = {number: health for number, health in self._health.items() if number in names}
        self._scheduler.share_slots(len(names))
        self.missed()
        return True

    def expect_news(self) -> None:
        """To be called before the news is read that `take_in` gets."""
        self._ains.expect_news()

    async def take_in(self, news: News) -> bool:
        """Make it so here; False when some of it has to be looked at again, being changed here at this moment."""
        registered = [self._ains.take_in(profile) async for profile in in_turns(news.registered)]
        removed = [self._ains.take_out(agent_id) for agent_id in news.removed]
        obeyed = [self._orders.take_in(ordered) for ordered in news.orders]
        for posted in news.posted:
            self._hear(posted)
        for agent_id in news.removed:
            self._forget(agent_id)
        if news.has_gap:
            self.missed()
        return all(registered) and all(removed) and all(obeyed)

    def missed(self) -> None:
        """Something may have happened elsewhere that nobody told."""
        for listener in self._listeners:
            listener.missed()

    def _hear(self, posted: Posted) -> None:
        notice = posted.notice
        for agent_id, instance_id in notice.heard.items():
            self._ains.heard_elsewhere(agent_id, instance_id)
        for opening in notice.openings:
            self._rest(opening, posted.age_s)
        if posted.replica in self._names:
            self._learn(posted.replica, notice.health)
        for relayed in notice.events:
            self._retell(relayed, self._names.get(posted.replica))
        if notice.lost:
            self.missed()

    def _retell(self, relayed: Relayed, replica: str | None) -> None:
        """Tell of an event as its replica told it, and which one that is."""
        try:
            event = msgspec.structs.replace(_decode(relayed.event), replica=replica)
        except (ValueError, RecursionError):
            self.missed()
            return
        told = bytes(relayed.event)
        body = told if replica is None else b'%b,"replica":%b}' % (told[:-1], msgspec.json.encode(replica))
        for listener in self._listeners:
            listener.relayed(event, relayed.tenant, body)

    def _learn(self, replica: int, health: Mapping[str, AgentHealth]) -> None:
        """How agents fare there, of those that are here: nothing would ever end what is kept of others."""
        known = self._health.setdefault(replica, {})
        known.update({agent: health[agent] for agent in health if self._scheduler.find_member(agent) is not None})

    def _forget(self, agent_id: str) -> None:
        for health in self._health.values():
            health.pop(agent_id, None)

    def _rest(self, opening: Opening, age_s: float) -> None:
        wait_s = opening.wait_s - age_s
        member = self._scheduler.find_member(opening.agent_id)
        if wait_s > 0 and member is not None and opening.capability in member.seats:
            self._board.cool_down_one(opening.agent_id, opening.capability, wait_s)
            self._scheduler.refresh(opening.agent_id)

    def _unlisten(self, listener: Listener) -> None:
        self._listeners = tuple(other for other in self._listeners if other is not listener)
