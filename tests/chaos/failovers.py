"""Storms over replicas on PostgreSQL: a standby takes over, somebody locks rows and tables, the server stands still."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from signal import SIGKILL

import asyncpg

from tests.chaos.load import Customer
from tests.chaos.outages import serve_again
from tests.chaos.postgres_deployment import PostgresDeployment
from tests.chaos.siege import Siege

GONE_S_MAX = 1.0
LOCKED_S = 6.0
TABLE_LOCKED_S_MAX = 3.0
STILL_S = (2.0, 8.0)
ORDER_EVERY_S = 0.05
ROWS = "SELECT FROM chains WHERE ended_at IS NULL ORDER BY random() LIMIT 3 FOR UPDATE"
TABLES = "LOCK TABLE chains, facts, submit_keys"


class Failover:
    """Lets a standby take over; the server it followed was killed, or stands still with its connections open.

    What is acknowledged is on both disks (`synchronous_standby_names`), so that nothing of it is lost. The address
    moves: connections there are lead to the old server until its end.

    Args:
        deployment: With ways.
    """

    def __init__(self, deployment: PostgresDeployment) -> None:
        self._deployment = deployment
        deployment.stand_by()

    async def strike(self, siege: Siege) -> None:
        await siege.until_agents_work()
        old = self._deployment.database
        stands_still = siege.draw.random() < 0.5
        with siege.struck():
            await asyncio.to_thread(old.pause if stands_still else lambda: old.stop(SIGKILL))
            await asyncio.sleep(siege.draw.uniform(0.0, GONE_S_MAX))
            await asyncio.to_thread(self._deployment.fail_over)
        await serve_again(siege, back_at=time.monotonic())
        await asyncio.to_thread(old.stop, SIGKILL)
        await asyncio.to_thread(self._deployment.stand_by)


class Locked:
    """Locks rows of some chains for 6 s, as somebody with psql does, while others submit; then tables, for a moment.

    That is no strike: nothing may be done twice, and no submit is refused for a lock on the rows of other chains.

    Args:
        deployment: Whose database is locked.

    Attributes:
        orders: Submits while rows were locked.
        refused: Those of them that were refused.
    """

    def __init__(self, deployment: PostgresDeployment) -> None:
        self._deployment = deployment
        self.orders = 0
        self.refused: list[str] = []
        self._customers: list[Customer] = []

    async def strike(self, siege: Siege) -> None:
        await siege.until_agents_work()
        async with self._locked(ROWS):
            over_at = time.monotonic() + LOCKED_S
            while time.monotonic() < over_at:
                await self._order_at_each(siege)
                await asyncio.sleep(ORDER_EVERY_S)
        async with self._locked(TABLES):
            await asyncio.sleep(siege.draw.uniform(0.0, TABLE_LOCKED_S_MAX))
        await serve_again(siege)
        await asyncio.gather(*(customer.shop() for customer in self._customers))
        self._customers.clear()
        assert not self.refused, f"{len(self.refused)} of {self.orders} submits were refused: {self.refused[:3]}"

    async def _order_at_each(self, siege: Siege) -> None:
        for client in siege.street.clients:
            self._customers.append(siege.next_customer())
            order = siege.orders[-1]
            self.orders += 1
            try:
                order.chain_ids.add(await client.submit_chain(order.spec, key=order.key))
            except Exception as error:  # noqa: BLE001 - whatever it is, this submit was refused
                self.refused.append(repr(error))

    @asynccontextmanager
    async def _locked(self, sql: str) -> AsyncIterator[None]:
        connection = await asyncpg.connect(self._deployment.database.url())
        try:
            async with connection.transaction():
                await connection.execute(sql)
                yield
        finally:
            await connection.close()


class DatabasePaused:
    """Stops all processes of PostgreSQL where they are, for some seconds: connections stay, nothing is answered.

    Args:
        deployment: Whose database.
    """

    def __init__(self, deployment: PostgresDeployment) -> None:
        self._deployment = deployment

    async def strike(self, siege: Siege) -> None:
        await siege.until_agents_work()
        with siege.struck():
            self._deployment.database.pause()
            try:
                await asyncio.sleep(siege.draw.uniform(*STILL_S))
            finally:
                self._deployment.database.go_on()
        await serve_again(siege, back_at=time.monotonic())
