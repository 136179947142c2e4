"""What operators ordered for agents, on PostgreSQL, where another replica may have registered the agent anew."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from aicp.model.notice import Order
from aicp.storage.postgres_orders import PostgresOrders
from aicp.storage.postgres_registrations import PostgresRegistrations
from tests.integration.postgres_kit import database, run, shared_server
from tests.unit.orders_contract import OrdersContract, OrderStores


@asynccontextmanager
async def order_stores() -> AsyncIterator[OrderStores]:
    url = shared_server().fresh_url()
    one, two = database(url), database(url)
    await one.open()
    await two.open()
    try:
        yield OrderStores(PostgresOrders(one), PostgresRegistrations(one), lambda: PostgresOrders(two))
    finally:
        await two.close()
        await one.close()


class TestPostgresKeepsTheContract(OrdersContract):
    def stores(self) -> AbstractAsyncContextManager[OrderStores]:
        return order_stores()


def test_orders_for_an_agent_that_is_on_record_at_another_replica_are_not_forgotten_by_one_that_lost_its_own() -> None:
    async def main() -> None:
        async with order_stores() as stores:
            await stores.register("a")
            await stores.give(("a", Order.OPEN))
            await stores.again().forget("a")
            assert [ordered.order for ordered in await stores.orders.load()] == [Order.OPEN]

    run(main())
