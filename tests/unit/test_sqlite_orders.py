"""What operators ordered for agents, on SQLite."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aicp.errors import StorageError
from aicp.model.notice import Order
from aicp.storage.sqlite_orders import SqliteOrders
from aicp.storage.sqlite_registrations import SqliteRegistrations
from tests.unit.orders_contract import OrdersContract, OrderStores
from tests.unit.sqlite_kit import ask, database, refused, run


class TestSqliteKeepsTheContract(OrdersContract):
    @asynccontextmanager
    async def stores(self) -> AsyncIterator[OrderStores]:
        with tempfile.TemporaryDirectory() as directory:
            file = database(Path(directory) / "a.db")
            await file.open()
            try:
                yield OrderStores(SqliteOrders(file), SqliteRegistrations(file), lambda: SqliteOrders(file))
            finally:
                await file.close()


def test_reset_leaves_no_row(tmp_path: Path) -> None:
    async def main() -> None:
        file = database(tmp_path / "a.db")
        await file.open()
        orders = SqliteOrders(file)
        for order in (Order.OPEN, Order.DISABLE, Order.RESET):
            await orders.record("a", order)
        await file.close()

    run(main())
    assert ask(tmp_path / "a.db", "SELECT count(*) FROM agent_orders") == 0


def test_orders_of_a_closed_database_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        closed = SqliteOrders(database(tmp_path / "a.db"))
        assert "is closed" in await refused(closed.record("a", Order.OPEN), StorageError)
        assert "is closed" in await refused(closed.load(), StorageError)

    run(main())
