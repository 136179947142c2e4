"""What operators order holds everywhere, and of what they order about one thing, the last."""

import asyncio

import pytest

from aicp.errors import AgentNotFound, StorageError
from aicp.model.notice import Notice, Order
from aicp.ports import News, Ordered
from aicp.runtime.orders import WAITING_MAX, Orders
from tests.unit.flow_kit import virtual

OPEN, RESET, DRAIN = Order.OPEN, Order.RESET, Order.DRAIN


class Record:
    """A bulletin of orders: each takes a second to be written, and refuses while it is away."""

    def __init__(self) -> None:
        self.written: list[Ordered] = []
        self.is_away = False

    async def order(self, agent_id: str, order: Order) -> int:
        # On record from here on; the answer takes its time.
        self.written.append(Ordered(agent_id, order, len(self.written) + 1))
        number = len(self.written)
        await asyncio.sleep(1.0)
        if self.is_away:
            self.written.pop()
            raise StorageError("The database does not answer.")
        return number

    @property
    def told(self) -> list[tuple[str, Order]]:
        return [(ordered.agent_id, ordered.order) for ordered in self.written]

    async def begin(self) -> None:
        raise AssertionError

    async def post(self, notice: Notice) -> None:
        raise AssertionError(notice)

    async def look(self) -> News:
        raise AssertionError

    def accept(self) -> None:
        raise AssertionError

    async def until_posted(self, timeout_s: float) -> None:
        raise AssertionError(timeout_s)


class Place:
    """A replica where orders are done."""

    def __init__(self, *, absent: str = "") -> None:
        self.record = Record()
        self.absent = absent
        self.done: list[tuple[str, Order]] = []
        self.orders = Orders(self._obey, self.record)

    def _obey(self, agent_id: str, order: Order) -> None:
        if agent_id == self.absent:
            raise AgentNotFound(f"There is no agent '{agent_id}'.")
        self.done.append((agent_id, order))


@virtual
async def test_order_is_done_at_once_and_put_on_record_once() -> None:
    place = Place()
    place.orders.give("a", OPEN)
    assert place.done == [("a", OPEN)]
    await place.orders.tell()
    await place.orders.tell()
    assert place.record.told == [("a", OPEN)]


@virtual
async def test_order_for_an_agent_that_is_not_here_is_refused_and_not_told() -> None:
    place = Place(absent="a")
    with pytest.raises(AgentNotFound):
        place.orders.give("a", OPEN)
    await place.orders.tell()
    assert place.record.told == []


@virtual
async def test_order_that_could_not_be_recorded_is_recorded_by_the_next_call() -> None:
    place = Place()
    place.orders.give("a", OPEN)
    place.record.is_away = True
    with pytest.raises(StorageError):
        await place.orders.tell()
    place.record.is_away = False
    await place.orders.tell()
    assert place.record.told == [("a", OPEN)]


@virtual
async def test_of_several_given_while_the_record_was_away_the_last_is_the_last_recorded() -> None:
    place = Place()
    for order in (OPEN, RESET, DRAIN, OPEN):
        place.orders.give("a", order)
    await place.orders.tell()
    assert [order for order in place.record.told if order != ("a", DRAIN)][-1] == ("a", OPEN)
    assert ("a", DRAIN) in place.record.told


@virtual
async def test_two_who_tell_at_once_leave_the_last_order_as_the_last_on_record() -> None:
    place = Place()
    place.orders.give("a", OPEN)
    first = asyncio.create_task(place.orders.tell())
    await asyncio.sleep(0.5)
    place.orders.give("a", RESET)
    await asyncio.gather(first, place.orders.tell())
    assert place.record.told == [("a", OPEN), ("a", RESET)]


@virtual
async def test_own_order_read_from_the_record_does_not_undo_a_later_one() -> None:
    place = Place()
    place.orders.give("a", OPEN)
    telling = asyncio.create_task(place.orders.tell())
    await asyncio.sleep(0.5)
    place.orders.give("a", RESET)
    assert not place.orders.take_in(place.record.written[0])
    await telling
    assert all(place.orders.take_in(ordered) for ordered in place.record.written)
    assert place.done == [("a", OPEN), ("a", RESET)]


@virtual
async def test_order_of_elsewhere_is_done_once_and_one_about_something_else_holds_up_nothing() -> None:
    place = Place()
    place.orders.give("a", DRAIN)
    elsewhere = Ordered("a", OPEN, 7)
    assert place.orders.take_in(elsewhere)
    assert place.orders.take_in(elsewhere)
    assert place.done == [("a", DRAIN), ("a", OPEN)]


@virtual
async def test_order_of_elsewhere_for_an_agent_that_is_not_here_is_settled() -> None:
    place = Place(absent="a")
    assert place.orders.take_in(Ordered("a", OPEN, 7))
    assert place.done == []


@virtual
async def test_what_was_ordered_for_an_agent_that_is_gone_is_told_to_nobody() -> None:
    place = Place()
    for order in (OPEN, DRAIN):
        place.orders.give("a", order)
        place.orders.give("b", order)
    place.orders.withdraw("a")
    await place.orders.tell()
    assert {agent_id for agent_id, _ in place.record.told} == {"b"}


def test_one_order_too_many_for_the_record_is_done_here_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    @virtual
    async def main() -> None:
        place = Place()
        for number in range(WAITING_MAX + 1):
            place.orders.give(f"a{number}", OPEN)
        assert len(place.done) == WAITING_MAX + 1
        # One that is waiting already can still be changed.
        place.orders.give("a0", RESET)

    main()
    (said,) = [record.getMessage() for record in caplog.records]
    assert (
        said == f"'open' for agent a{WAITING_MAX} holds at this replica alone: order it again when the database answers"
    )
