"""What operators order holds everywhere, and of what they order about one thing, the last."""

import asyncio

import pytest

from aicp.errors import AgentNotFound, StorageError
from aicp.model.event import AgentChanged
from aicp.model.notice import Order
from aicp.ports import Ordered
from aicp.runtime.orders import TELL_PAUSE_S, WAITING_MAX, Orders
from tests.unit.flow_kit import virtual
from tests.unit.onlooker_kit import AT

OPEN, RESET, DRAIN = Order.OPEN, Order.RESET, Order.DRAIN


class Record:
    """Orders on record: each takes a second to be written, and is refused while it is away."""

    def __init__(self) -> None:
        self.written: list[Ordered] = []
        self.forgotten: list[str] = []
        self.is_away = False

    async def record(self, agent_id: str, order: Order) -> int:
        # On record from here on; the answer takes its time.
        self.written.append(Ordered(agent_id, order, len(self.written) + 1))
        number = len(self.written)
        await asyncio.sleep(1.0)
        if self.is_away:
            self.written.pop()
            raise StorageError("The database does not answer.")
        return number

    async def forget(self, agent_id: str) -> None:
        await asyncio.sleep(1.0)
        if self.is_away:
            raise StorageError("The database does not answer.")
        self.forgotten.append(agent_id)
        self.written = [ordered for ordered in self.written if ordered.agent_id != agent_id]

    async def load(self) -> list[Ordered]:
        return list(self.written)

    @property
    def told(self) -> list[tuple[str, Order]]:
        return [(ordered.agent_id, ordered.order) for ordered in self.written]


class Place:
    """A replica where orders are done."""

    def __init__(self, *, absent: str = "", record: Record | None = None) -> None:
        self.record = record or Record()
        self.absent = absent
        self.done: list[tuple[str, Order]] = []
        self.orders = Orders(self._obey, self.record)

    def _obey(self, agent_id: str, order: Order) -> None:
        if agent_id == self.absent:
            raise AgentNotFound(f"There is no agent '{agent_id}'.")
        self.done.append((agent_id, order))

    def hears(self, agent_id: str, change: str) -> None:
        self.orders.notify(AgentChanged(agent_id, change, AT, None))


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
    place.hears("a", "removed")
    await place.orders.tell()
    assert {agent_id for agent_id, _ in place.record.told} == {"b"}


@virtual
async def test_what_is_on_record_for_an_agent_that_is_gone_is_forgotten_as_soon_as_that_is_possible() -> None:
    place = Place()
    for agent_id in ("a", "b"):
        place.orders.give(agent_id, OPEN)
    await place.orders.tell()
    place.record.is_away = True
    place.hears("a", "removed")
    place.hears("nobody", "removed")
    with pytest.raises(StorageError):
        await place.orders.tell()
    place.record.is_away = False
    place.orders.give("a", OPEN)
    await place.orders.tell()
    assert place.record.forgotten == ["a"]
    assert place.record.told == [("b", OPEN), ("a", OPEN)]


@virtual
async def test_agent_removed_while_its_order_is_on_its_way_to_the_record_leaves_none_there() -> None:
    place = Place()
    place.orders.give("a", OPEN)
    telling = asyncio.create_task(place.orders.tell())
    await asyncio.sleep(0.5)
    place.hears("a", "removed")
    await telling
    assert place.record.told == []


@virtual
async def test_agent_that_registers_anew_is_not_drained_by_what_waits_for_the_record() -> None:
    place = Place()
    for order in (DRAIN, OPEN):
        place.orders.give("a", order)
    place.hears("a", "heard")
    place.hears("a", "updated")
    await place.orders.tell()
    assert place.record.told == [("a", OPEN)]


@virtual
async def test_what_is_on_record_is_done_at_the_next_start_once_and_may_be_forgotten_there() -> None:
    first = Place()
    first.orders.give("a", OPEN)
    first.orders.give("b", DRAIN)
    await first.orders.tell()
    place = Place(record=first.record)
    await place.orders.restore()
    assert place.done == [("a", OPEN), ("b", DRAIN)]
    assert all(place.orders.take_in(ordered) for ordered in place.record.written)
    await place.orders.tell()
    assert place.done == place.record.told == [("a", OPEN), ("b", DRAIN)]
    place.hears("a", "removed")
    await place.orders.tell()
    assert place.record.told == [("b", DRAIN)]


@virtual
async def test_without_being_asked_it_is_recorded_a_moment_later_however_long_the_record_is_away() -> None:
    place = Place()
    telling = asyncio.create_task(place.orders.keep_telling())
    place.record.is_away = True
    place.orders.give("a", OPEN)
    await asyncio.sleep(60.0)
    assert place.record.told == []
    place.record.is_away = False
    await asyncio.sleep(4.0)
    assert place.record.told == [("a", OPEN)]
    place.orders.give("b", OPEN)
    await asyncio.sleep(1.5 * TELL_PAUSE_S)
    assert place.record.told[1:] == [("b", OPEN)]
    telling.cancel()


@virtual
async def test_node_that_remembers_nothing_does_what_is_ordered_and_keeps_nothing() -> None:
    done: list[tuple[str, Order]] = []
    orders = Orders(lambda agent_id, order: done.append((agent_id, order)))
    orders.give("a", OPEN)
    orders.notify(AgentChanged("a", "removed", AT, None))
    await orders.restore()
    await orders.tell()
    assert done == [("a", OPEN)]


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
