"""What every `StandingOrders` must keep, as tests: subclass `OrdersContract` and say how to make them."""

import abc
import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec

from aicp.model.agent import AgentProfile, Capability
from aicp.model.notice import Order
from aicp.ports import Ordered, Registrations, StandingOrders

OPEN, DISABLE, RESET, DRAIN = Order.OPEN, Order.DISABLE, Order.RESET, Order.DRAIN
BOUND_S = 60.0


class OrderStores(msgspec.Struct, frozen=True):
    """What is put to the test, open.

    Attributes:
        orders: The orders.
        registrations: The agents on record.
        again: The orders as another process finds them, or this one after a restart.
    """

    orders: StandingOrders
    registrations: Registrations
    again: Callable[[], StandingOrders]

    async def register(self, *agent_ids: str) -> None:
        """Put agents on record, or put them there anew."""
        for agent_id in agent_ids:
            await self.registrations.save(AgentProfile(agent_id, (Capability("image.label"),)))

    async def give(self, *orders: tuple[str, Order]) -> None:
        """Put these on record, one after the other."""
        for agent_id, order in orders:
            await self.orders.record(agent_id, order)


def _rule(check: Callable[[Any, OrderStores], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
    """A test of fresh stores. Not `functools.wraps`: pytest would look for a fixture called `stores`."""

    def test(self: "OrdersContract") -> None:
        async def main() -> None:
            async with asyncio.timeout(BOUND_S), self.stores() as stores:
                await check(self, stores)

        asyncio.run(main())

    test.__name__, test.__qualname__, test.__doc__ = check.__name__, check.__qualname__, check.__doc__
    return test


async def _standing(orders: StandingOrders) -> list[tuple[str, Order]]:
    return [(ordered.agent_id, ordered.order) for ordered in await orders.load()]


class OrdersContract(abc.ABC):
    """Rules of the port `StandingOrders`, one per test."""

    @abc.abstractmethod
    def stores(self) -> AbstractAsyncContextManager[OrderStores]:
        """Fresh stores, open; whatever they took is given back at the end."""

    @_rule
    async def test_of_the_orders_about_one_subject_of_an_agent_the_last_holds(self, stores: OrderStores) -> None:
        """Also in another process."""
        await stores.register("a", "B")
        await stores.give(("a", OPEN), ("B", OPEN), ("a", DRAIN), ("a", DISABLE))
        for orders in (stores.orders, stores.again()):
            assert await _standing(orders) == [("B", OPEN), ("a", DISABLE), ("a", DRAIN)]

    @_rule
    async def test_reset_leaves_nothing_to_do_but_a_drain(self, stores: OrderStores) -> None:
        """A fresh start has no circuit to reset."""
        await stores.register("a", "b")
        await stores.give(("a", OPEN), ("a", DRAIN), ("a", RESET), ("b", RESET))
        assert await _standing(stores.orders) == [("a", DRAIN)]

    @_rule
    async def test_agent_that_registers_anew_is_drained_no_more(self, stores: OrderStores) -> None:
        """What holds for its circuits stays."""
        await stores.register("a", "b")
        await stores.give(("a", OPEN), ("a", DRAIN), ("b", DRAIN))
        await stores.register("a")
        assert await _standing(stores.orders) == [("a", OPEN), ("b", DRAIN)]

    @_rule
    async def test_agent_that_is_forgotten_is_pardoned(self, stores: OrderStores) -> None:
        """Also when one of its id comes again."""
        await stores.register("a", "b")
        await stores.give(("a", OPEN), ("a", DRAIN), ("b", OPEN))
        await stores.registrations.forget("a")
        await stores.register("a")
        assert await _standing(stores.orders) == [("b", OPEN)]

    @_rule
    async def test_of_an_agent_that_is_not_on_record_what_is_about_circuits_holds_until_it_is_forgotten(
        self, stores: OrderStores
    ) -> None:
        """It comes from a file, or is a callable: whoever adds it anew ends a drain."""
        await stores.give(("a", OPEN), ("a", DRAIN), ("b", DISABLE))
        assert await _standing(stores.orders) == [("a", OPEN), ("b", DISABLE)]
        await stores.orders.forget("a")
        await stores.orders.forget("nobody")
        assert await _standing(stores.again()) == [("b", DISABLE)]

    @_rule
    async def test_numbers_tell_orders_with_the_same_words_apart(self, stores: OrderStores) -> None:
        """Whether another order came in between or not."""
        orders = (OPEN, OPEN, RESET, OPEN)
        numbers = [await stores.orders.record("a", order) for order in orders]
        assert len({Ordered("a", *told) for told in zip(orders, numbers, strict=True)}) == len(orders)
