"""Replicas keep each other informed: once a second, without a task waiting for it, and whatever the database does."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from aicp.errors import StorageError
from aicp.model.event import CircuitChanged
from aicp.model.live import LiveEvent
from aicp.model.notice import Notice, Order
from aicp.ports import News, Ordered, Replica
from aicp.resilience.circuit_breaker import CircuitState
from aicp.runtime.orders import Orders
from aicp.runtime.outbox import Outbox
from aicp.runtime.peers import Peers
from aicp.runtime.sharing import LOOK_EVERY_S, STOP_S_MAX, Sharing
from tests.unit.flow_kit import ECHO, agent, now, virtual
from tests.unit.onlooker_kit import AT
from tests.unit.test_ains import Registry

HERE, THERE = Replica(1, "here"), Replica(2, "there")


class Bulletin:
    """What is told, and what is new; it may be away, or never answer."""

    def __init__(self) -> None:
        self.posted: list[tuple[float, Notice]] = []
        self.news = News()
        self.looked = self.accepted = 0
        self.is_away = self.hangs = False

    async def begin(self) -> None:
        pass

    async def post(self, notice: Notice) -> None:
        await self._answer()
        self.posted.append((now(), notice))

    async def look(self) -> News:
        await self._answer()
        self.looked += 1
        return self.news

    def accept(self) -> None:
        self.accepted += 1
        self.news = News()

    async def until_posted(self, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)

    async def _answer(self) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        if self.is_away:
            raise StorageError("The database does not answer.")


class SlowRecord:
    """Orders on record, each of which takes a second and a half to be written."""

    def __init__(self) -> None:
        self.ordered: list[tuple[str, Order]] = []

    async def record(self, agent_id: str, order: Order) -> int:
        await asyncio.sleep(3 * LOOK_EVERY_S)
        self.ordered.append((agent_id, order))
        return len(self.ordered)

    async def forget(self, agent_id: str) -> None:
        raise AssertionError(agent_id)

    async def load(self) -> Sequence[Ordered]:
        raise AssertionError


class Here(Registry):
    """A replica that shares, with one peer; also who it is with, and who listens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.ains.put(agent("a"))
        self.bulletin = Bulletin()
        self.alive: Sequence[Replica] = (HERE, THERE)
        self.is_sure = self.can_record = True
        self.missed_at: list[float] = []
        self.obeyed: list[Order] = []
        self.outbox = Outbox(self.board, self.scheduler)
        self.record = SlowRecord()
        self.orders = Orders(lambda _agent_id, order: self.obeyed.append(order), self.record)
        peers = Peers(self.ains, self.board, self.scheduler, self.orders)
        peers.listen(self)
        self.sharing = Sharing(self.bulletin, self, self.outbox, peers)

    def relayed(self, event: LiveEvent, tenant: str | None, _body: bytes) -> None:
        raise AssertionError((event, tenant))

    def missed(self) -> None:
        self.missed_at.append(now())

    def when_lost(self, callback: Callable[[], None]) -> None:
        raise AssertionError(callback)

    async def until_news(self, timeout_s: float) -> None:
        raise AssertionError(timeout_s)

    async def begun(self) -> None:
        """Begin, and let what is told to a peer that is new be told."""
        await self.sharing.prepare()
        self.sharing.begin()
        await asyncio.sleep(1.5)
        self.bulletin.posted.clear()
        self.missed_at.clear()


@virtual
async def test_heartbeats_are_told_together_once_a_second_and_nothing_when_there_is_nothing() -> None:
    async with Here() as here:
        await here.begun()
        await asyncio.sleep(3.0)
        assert not here.bulletin.posted
        for _ in range(30):
            here.outbox.heard("a", "one")
            await asyncio.sleep(0.1)
        assert len(here.bulletin.posted) in {2, 3}
        await here.sharing.end()


@virtual
async def test_opening_does_not_wait_for_its_second() -> None:
    async with Here() as here:
        await here.begun()
        await here.fault("a")
        began_at = now()
        here.outbox.notify(CircuitChanged("a", ECHO, CircuitState.OPEN, 1.0, AT))
        await asyncio.sleep(0.25)
        ((told_at, notice),) = here.bulletin.posted
        assert [opening.agent_id for opening in notice.openings] == ["a"]
        assert told_at - began_at < 0.2
        await here.sharing.end()


@virtual
async def test_news_that_cannot_be_taken_in_yet_is_looked_at_again() -> None:
    async with Here() as here:
        await here.begun()
        here.orders.give("a", Order.RESET)
        telling = asyncio.create_task(here.orders.tell())
        await asyncio.sleep(0.2)
        here.bulletin.news = News(orders=(Ordered("a", Order.OPEN, 7),))
        looked, accepted = here.bulletin.looked, here.bulletin.accepted
        await asyncio.sleep(1.5 * LOOK_EVERY_S)
        assert here.bulletin.looked > looked
        assert here.bulletin.accepted == accepted
        assert here.obeyed == [Order.RESET]
        # What the record says after the order given here is on it, holds.
        await asyncio.sleep(3 * LOOK_EVERY_S)
        assert telling.done()
        assert here.record.ordered == [("a", Order.RESET)]
        assert here.obeyed == [Order.RESET, Order.OPEN]
        assert here.bulletin.accepted > accepted
        await here.sharing.end()


@virtual
async def test_readers_hear_of_a_gap_when_the_database_goes_and_when_it_is_back_however_long_that_takes() -> None:
    async with Here() as here:
        await here.begun()
        here.bulletin.is_away = True
        await asyncio.sleep(3600.0)
        assert len(here.missed_at) == 1
        here.bulletin.is_away = False
        await asyncio.sleep(2.0)
        assert len(here.missed_at) == 2
        await here.sharing.end()


@virtual
async def test_what_happens_while_the_database_is_away_is_told_when_it_is_back() -> None:
    async with Here() as here:
        await here.begun()
        here.bulletin.is_away = True
        here.outbox.heard("a", "one")
        here.outbox.relay(LiveEvent("task_ended", AT, task_id="t"), None)
        await asyncio.sleep(60.0)
        here.bulletin.is_away = False
        await asyncio.sleep(3.0)
        told = [notice for _, notice in here.bulletin.posted]
        assert [heard for notice in told for heard in notice.heard] == ["a"]
        assert sum(len(notice.events) + notice.lost for notice in told) == 1
        await here.sharing.end()


@virtual
async def test_at_the_end_the_rest_is_told_and_nothing_goes_on() -> None:
    async with Here() as here:
        await here.begun()
        here.outbox.relay(LiveEvent("task_ended", AT, task_id="t"), None)
        await here.sharing.end()
        assert [len(notice.events) for _, notice in here.bulletin.posted] == [1]
        looked = here.bulletin.looked
        await asyncio.sleep(10.0)
        assert here.bulletin.looked == looked


def test_end_does_not_wait_for_a_database_that_never_answers(caplog: pytest.LogCaptureFixture) -> None:
    @virtual
    async def main() -> None:
        async with Here() as here:
            await here.begun()
            here.bulletin.hangs = True
            here.outbox.heard("a", "one")
            await asyncio.sleep(5.0)
            began_at = now()
            await here.sharing.end()
            assert now() - began_at == pytest.approx(STOP_S_MAX)

    main()
    assert "other replicas are not told the last of what happened here" in caplog.text


@virtual
async def test_alone_a_replica_tells_nothing_until_somebody_comes() -> None:
    async with Here() as here:
        here.alive = (HERE,)
        await here.begun()
        here.succeed(await here.lease())
        here.outbox.heard("a", "one")
        await asyncio.sleep(3.0)
        assert not here.bulletin.posted
        here.alive = (HERE, THERE)
        await asyncio.sleep(3.0)
        assert [notice.health.keys() for _, notice in here.bulletin.posted] == [{"a"}]
        await here.sharing.end()
