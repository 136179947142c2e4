"""Storms over replicas on PostgreSQL: the database killed, out of reach, slow or cut, a replica paused, all restarted.

Each strike ends when every server has taken an order again by itself, and those orders have been served.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from signal import SIGKILL

from aicp.client import ServerUnreachable
from aicp.errors import StorageError
from tests.chaos.load import Customer
from tests.chaos.postgres_deployment import LEASE_S, PostgresDeployment
from tests.chaos.server_process import BOUND_S
from tests.chaos.siege import Siege, Storm
from tests.chaos.way_process import CLAIMS, ENDS_OF_TASKS

CALM_S_MAX = 0.5
GONE_S_MAX = 1.0
SWALLOWED_S = 10.0
SLOW_S = 5.0
DELAY_S = 0.05
TRY_EVERY_S = 0.02
CUT_WAIT_S = 3.0


class Pause:
    """Pauses a replica for longer than its lease: what it owns is taken over, and then it goes on.

    Attributes:
        longer_s: Than the lease, at least and at most.
    """

    longer_s = (1.5, 3.0)

    async def strike(self, siege: Siege) -> None:
        place = siege.draw.randrange(len(siege.deployment.servers))
        server = siege.deployment.servers[place]
        await siege.until_agents_work()
        with siege.struck():
            server.pause()
            await asyncio.sleep(LEASE_S + siege.draw.uniform(*self.longer_s))
            server.go_on()
        await serve_again(siege)


class PostgresKilled:
    """Kills PostgreSQL with -9, all its processes, and starts it again.

    Args:
        deployment: What is under siege.
    """

    def __init__(self, deployment: PostgresDeployment) -> None:
        self._database = deployment.database

    async def strike(self, siege: Siege) -> None:
        await siege.until_agents_work()
        await asyncio.sleep(siege.draw.uniform(0.0, CALM_S_MAX))
        with siege.struck():
            await asyncio.to_thread(self._database.stop, SIGKILL)
            await asyncio.sleep(siege.draw.uniform(0.0, GONE_S_MAX))
            await asyncio.to_thread(self._database.start)
        await serve_again(siege, back_at=time.monotonic())


class Blackhole:
    """Lets nothing pass between replicas and the database, and says nothing, as a firewall does.

    Args:
        deployment: With ways.
        span_s: For how long.
        everyone: False to cut off one of the replicas, and leave the others.
    """

    def __init__(self, deployment: PostgresDeployment, span_s: float = SWALLOWED_S, *, everyone: bool = True) -> None:
        self._ways = deployment.ways
        self._span_s = span_s
        self._everyone = everyone

    async def strike(self, siege: Siege) -> None:
        await siege.until_agents_work()
        ways = self._ways if self._everyone else [siege.draw.choice(self._ways)]
        with siege.struck():
            for way in ways:
                way.swallow(everything=True)
            await asyncio.sleep(self._span_s)
            for way in ways:
                way.swallow(everything=False)
        await serve_again(siege, back_at=time.monotonic())


class Slow:
    """Takes 50 ms more in each direction, for some seconds. That is no strike: nothing may be done twice.

    Args:
        deployment: With ways.
    """

    def __init__(self, deployment: PostgresDeployment) -> None:
        self._ways = deployment.ways

    async def strike(self, siege: Siege) -> None:
        for way in self._ways:
            way.slow_down(DELAY_S)
        await asyncio.sleep(SLOW_S)
        await serve_again(siege)
        for way in self._ways:
            way.slow_down(0.0)


class CutMidCommit:
    """Cuts a connection when something is on its way to be recorded: it arrives, or it does not; no answer comes.

    Args:
        deployment: With ways.

    Attributes:
        cuts: How often it did.
    """

    def __init__(self, deployment: PostgresDeployment) -> None:
        self._ways = deployment.ways
        self.cuts = 0

    async def strike(self, siege: Siege) -> None:
        way = siege.draw.choice(self._ways)
        known = way.cuts
        what = siege.draw.choice((ENDS_OF_TASKS, ENDS_OF_TASKS, CLAIMS))
        with siege.struck():
            way.cut_at(what, arrives=siege.draw.random() < 0.5)
            await _passed(CUT_WAIT_S, lambda: way.cuts > known)
        self.cuts += way.cuts - known
        await serve_again(siege, back_at=time.monotonic())


class InTurn:
    """One storm after the other."""

    def __init__(self, *storms: Storm) -> None:
        self._storms = itertools.cycle(storms)

    async def strike(self, siege: Siege) -> None:
        await next(self._storms).strike(siege)


class RollingRestart:
    """Restarts the servers one after the other, as an operator does who upgrades them."""

    async def strike(self, siege: Siege) -> None:
        for place, server in enumerate(siege.deployment.servers):
            await siege.until_agents_work()
            with siege.struck():
                code = await asyncio.to_thread(server.stop)
            assert code == 0, f"told to stop, it ended with {code}: {server.told()}"
            siege.start(place)
            await siege.until_up(place)


async def _passed(bound_s: float, holds: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + bound_s
    while not holds() and time.monotonic() < give_up_at:  # noqa: ASYNC110 - another process, which has to be asked
        await asyncio.sleep(TRY_EVERY_S)


async def serve_again(siege: Siege, back_at: float | None = None) -> None:
    """Every server takes an order; when the database was away, note how long that took since it is back."""
    places = range(len(siege.deployment.servers))
    customers = await asyncio.gather(*(_take_order(siege, place) for place in places))
    if back_at is not None:
        siege.backs_s.append(time.monotonic() - back_at)
    await asyncio.gather(*(customer.shop() for customer in customers))


async def _take_order(siege: Siege, place: int) -> Customer:
    customer, order = siege.next_customer(), siege.orders[-1]
    async with asyncio.timeout(BOUND_S):
        while not order.chain_ids:
            try:
                order.chain_ids.add(await siege.street.clients[place].submit_chain(order.spec, key=order.key))
            except (ServerUnreachable, StorageError):
                await asyncio.sleep(TRY_EVERY_S)
    return customer
