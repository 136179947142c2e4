"""Storms over a deployment while customers have chains in flight, and the verdict on what became of it all."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import msgspec

from aicp.client import Client
from aicp.client.client import RETRIES_MAX
from aicp.model.event import ChainEnded, TaskEnded
from aicp.model.task import TaskStatus
from aicp.ports import ChainQuery, ChainRecord
from tests.chaos.agent_process import FLEET, fleet
from tests.chaos.deployment import Deployment
from tests.chaos.door_process import door_to
from tests.chaos.executions import read_executions
from tests.chaos.history import History, Ordered, Strike
from tests.chaos.load import Customer, Street, draw_chain
from tests.chaos.server_process import BOUND_S, wait_until
from tests.chaos.verdict import breaches

CUSTOMERS = 100
STARTING_SHARE, STARTED_SHARE = 0.2, 0.3
ALIVE_S_MAX = 0.5
STARTED_ASKED_EVERY_S = 0.02
STALLED_S_MAX = 90.0
BREACHES_SHOWN = 20
PAGE = 500

Tell = Callable[[str], None]


class Plan(msgspec.Struct, frozen=True):
    """How hard it shall be.

    Attributes:
        strikes: How often the storm strikes.
        seed: For every draw of chance; what time makes of it differs from run to run.
        customers: How many chains are in flight at any moment.
        one_door: True when customers know one address, behind which a balancer has the servers, and a request that
            fails though the client tried again is a breach; else they know each server, and which of them are up.
    """

    strikes: int
    seed: int
    customers: int = CUSTOMERS
    one_door: bool = False


class Outcome(msgspec.Struct, frozen=True):
    """What came of a siege.

    Attributes:
        figures: For people.
        refusals: What was said of the database by servers that could not use it.
        failures: What was said of servers that did not answer.
        backs_s: How long the last server took to be back by itself, each time the database was.
        breaches: Promises that were broken, and whatever else must not be.
    """

    figures: dict[str, int | float]
    refusals: list[str]
    failures: list[str]
    backs_s: list[float]
    breaches: list[str]


class Siege:
    """What storms may touch.

    Attributes:
        deployment: What is under siege.
        draw: Chance.
        strikes: Those so far.
        backs_s: How long servers took to be back by themselves, each time the database was.
        street: Where customers ask; set once the servers are up.
        orders: Of all customers so far.
        noted: Figures of the storm's own.
        broken: What the storm itself found broken.
        book: Where agents write down what they execute.
    """

    street: Street

    def __init__(self, deployment: Deployment, draw: random.Random, book: Path) -> None:
        self.book = book
        self.deployment = deployment
        self.draw = draw
        self.strikes: list[Strike] = []
        self.backs_s: list[float] = []
        self.orders: list[Ordered] = []
        self.noted = Counter[str]()
        self.broken: list[str] = []
        self.customers: list[Customer] = []
        self._ups = [asyncio.Event() for _ in deployment.servers]
        self._starts: dict[int, asyncio.Task[None]] = {}

    def start(self, place: int) -> None:
        """Start a server; customers go there once it serves."""
        self._ups[place].clear()
        self.deployment.servers[place].start()
        self._starts[place] = self._group.create_task(self._come_up(place))

    async def until_up(self, place: int) -> None:
        """Return when a server that was started serves."""
        await self._ups[place].wait()

    async def until_agents_are_known(self) -> None:
        """Return when every server knows all agents: those that were not told learn of it from the others."""
        for server in self.deployment.servers:
            async with asyncio.timeout(BOUND_S), Client(server.url, server.key) as client:
                while len(await client.agents()) < len(FLEET):  # noqa: ASYNC110 - known at another process
                    await asyncio.sleep(STARTED_ASKED_EVERY_S)

    async def until_agents_work(self) -> None:
        """Return when agents wrote down something more."""
        known = self.book.stat().st_size
        await asyncio.to_thread(wait_until, lambda: self.book.stat().st_size > known, "agents work")

    def kill(self, place: int) -> None:
        """Kill a server with -9."""
        server = self.deployment.servers[place]
        assert server.is_alive(), f"the server ended by itself: {server.told()}"
        self._starts.pop(place).cancel()
        self._ups[place].clear()
        with self.struck():
            server.kill()

    @contextmanager
    def struck(self) -> Iterator[None]:
        """What happens inside is a strike: what is in flight may have to be done again."""
        at = time.monotonic()
        try:
            yield
        finally:
            self.strikes.append(Strike(at, time.monotonic(), datetime.now(UTC)))

    def next_customer(self) -> Customer:
        """Somebody new, with a chain of 10 to 50 tasks."""
        draw = random.Random(self.draw.random())
        key = f"order-{len(self.orders)}"
        self.orders.append(Ordered(key, draw_chain(draw, key)))
        self.customers.append(Customer(self.street, draw, self.orders[-1]))
        return self.customers[-1]

    @asynccontextmanager
    async def opened(self, *, one_door: bool) -> AsyncIterator[None]:
        """All servers up and the street open."""
        async with asyncio.TaskGroup() as self._group, AsyncExitStack() as stack:
            for place in range(len(self._ups)):
                # One after the other: the first makes the key that they share.
                self.start(place)
                await self.until_up(place)
            self.street = await self._street(stack, one_door=one_door)
            yield

    async def history(self) -> History:
        """Everything that is known; the servers are down."""
        records: dict[str, ChainRecord] = {}
        async with self.deployment.journal() as journal:
            before: str | None = None
            while page := await journal.list_chains(ChainQuery(limit=PAGE, before=before)):
                for summary in page:
                    record = await journal.read(summary.chain_id)
                    assert record is not None
                    records[summary.chain_id] = record
                before = page[-1].chain_id
        return History(self.orders, self.strikes, read_executions(self.book), records)

    async def _street(self, stack: AsyncExitStack, *, one_door: bool) -> Street:
        servers = self.deployment.servers
        ups, retries = self._ups, 0
        urls = [server.url for server in servers]
        if one_door:
            urls = [stack.enter_context(door_to([server.port for server in servers]))]
            ups, retries = [asyncio.Event()], RETRIES_MAX
            ups[0].set()
        clients = [await stack.enter_async_context(Client(url, servers[0].key, retries_max=retries)) for url in urls]
        return Street(clients, ups, random.Random(self.draw.random()))

    async def _come_up(self, place: int) -> None:
        server = self.deployment.servers[place]
        async with asyncio.timeout(BOUND_S):
            while not server.has_started():  # noqa: ASYNC110 - another process, which tells it in a file
                await asyncio.sleep(STARTED_ASKED_EVERY_S)
        self._ups[place].set()


class Storm(Protocol):
    """What happens to a deployment."""

    async def strike(self, siege: Siege) -> None:
        """Do it once, and return when it is over."""


class KillNine:
    """Kills a server with -9 and starts it again: soon after its start, its first answer, or work."""

    async def strike(self, siege: Siege) -> None:
        place, moment = siege.draw.randrange(len(siege.deployment.servers)), siege.draw.random()
        if moment >= STARTING_SHARE:
            await siege.until_up(place)
        if moment >= STARTING_SHARE + STARTED_SHARE:
            await siege.until_agents_work()
        await asyncio.sleep(siege.draw.uniform(0.0, ALIVE_S_MAX))
        siege.kill(place)
        await self.start_again(siege, place)

    async def start_again(self, siege: Siege, place: int) -> None:
        """Start a server that was killed."""
        siege.start(place)


def besiege(deployment: Deployment, directory: Path, plan: Plan, storm: Storm, tell: Tell) -> Outcome:
    """Strike as often as planned, then let every chain end, stop the servers, and judge.

    Raises:
        TimeoutError: After the last strike some chains did not end, and for 90 s no agent had anything to do.
    """
    return asyncio.run(_besiege(deployment, directory / "executions.jsonl", plan, storm, tell))


async def _besiege(deployment: Deployment, book: Path, plan: Plan, storm: Storm, tell: Tell) -> Outcome:
    began = time.monotonic()
    siege = Siege(deployment, random.Random(plan.seed), book)
    async with siege.opened(one_door=plan.one_door):
        with fleet(deployment.told, book):
            await siege.until_agents_are_known()
            await _weather(siege, plan, storm, tell)
            lasted_s = time.monotonic() - began
            unruly = await _repeat_all(siege)
    codes = [server.stop() for server in deployment.servers]
    history = await siege.history()
    problems = await asyncio.to_thread(deployment.problems)
    found = [*_misbehaviour(deployment, codes, problems), *unruly, *siege.broken, *breaches(history)]
    if plan.one_door:
        found += [f"a request failed: {told}" for told in (*siege.street.failures, *siege.street.refusals)]
    figures = {**_figures(history), **siege.noted, "seconds": round(lasted_s, 1)}
    if siege.backs_s:
        figures["seconds from the database's return to that of the last server at most"] = round(max(siege.backs_s), 2)
    street = siege.street
    return Outcome(figures, street.refusals, street.failures, siege.backs_s, found[:BREACHES_SHOWN])


async def _weather(siege: Siege, plan: Plan, storm: Storm, tell: Tell) -> None:
    """The storm, and then peace until every customer is served."""
    is_over = asyncio.Event()
    async with asyncio.timeout(None) as patience, asyncio.TaskGroup() as group:
        customers = [group.create_task(_shop(siege, is_over)) for _ in range(plan.customers)]
        for number in range(plan.strikes):
            await storm.strike(siege)
            tell(f"strike {number + 1} of {plan.strikes}, {len(siege.orders)} chains so far")
        for place in range(len(siege.deployment.servers)):
            await siege.until_up(place)
        is_over.set()
        await _until_served(siege, customers, patience)


async def _until_served(siege: Siege, customers: Sequence[asyncio.Task[None]], patience: asyncio.Timeout) -> None:
    """A slow machine takes its time, and one that stands still has lost something."""
    size, waiting = -1, set(customers)
    while waiting:
        if siege.book.stat().st_size > size:
            size = siege.book.stat().st_size
            patience.reschedule(asyncio.get_running_loop().time() + STALLED_S_MAX)
        _, waiting = await asyncio.wait(waiting, timeout=1.0)


async def _shop(siege: Siege, is_over: asyncio.Event) -> None:
    """One chain after the other, as long as the storm lasts."""
    while not is_over.is_set():
        await siege.next_customer().shop()


async def _repeat_all(siege: Siege) -> list[str]:
    """Every customer sends its order again, and something else under the same key."""
    limit = asyncio.Semaphore(CUSTOMERS)

    async def repeat(customer: Customer, order: Ordered) -> str:
        async with limit:
            await customer.submit()
            return "" if await customer.is_refused_something_else() else f"{order.key}: its key was taken for another"

    told = await asyncio.gather(*(repeat(*pair) for pair in zip(siege.customers, siege.orders, strict=True)))
    return [each for each in told if each]


def _misbehaviour(deployment: Deployment, codes: Sequence[int], problems: Sequence[str]) -> list[str]:
    found = [f"a server that was told to stop ended with {code}" for code in codes if code]
    found += [f"the database: {problem}" for problem in problems]
    for server in deployment.servers:
        log = server.log.read_text(encoding="utf-8").splitlines()
        found += [f"the log of a server: {line}" for line in log if " ERROR " in line or "Traceback" in line]
    return found


def _figures(history: History) -> dict[str, int | float]:
    times = Counter(execution.key for execution in history.executions)
    ends = [fact for record in history.records.values() for fact in record.facts if isinstance(fact, TaskEnded)]
    statuses = Counter(end.result.status for end in ends)
    return {
        "strikes": len(history.strikes),
        "chains": len(history.records),
        "chains cancelled": sum(order.status is TaskStatus.CANCELLED for order in history.orders),
        "tasks": sum(len(order.spec.tasks) for order in history.orders),
        "tasks completed": statuses[TaskStatus.COMPLETED],
        "tasks of unknown outcome": statuses[TaskStatus.FAILED],
        "executions": len(history.executions),
        "tasks executed more than once": sum(count > 1 for count in times.values()),
        "executions of one task at most": max(times.values()),
        "seconds from submit to end at most": round(max(map(_lasted_s, history.records.values())), 1),
        "highest epoch": max(record.epoch for record in history.records.values()),
    }


def _lasted_s(record: ChainRecord) -> float:
    ends = [fact.at for fact in record.facts if isinstance(fact, ChainEnded)]
    return max(((at - record.submitted.at).total_seconds() for at in ends), default=0.0)
