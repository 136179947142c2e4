"""Tenants, priorities and choosy tasks on an unequal fleet that breaks: who is served when, checked at every service.

The real board, scheduler, prober and router on virtual time; everything is drawn from one seed.
"""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import msgspec

from aicp.errors import QueueFull
from aicp.model.task import Priority, Task
from aicp.routing.work import Work
from aicp.scheduling.lease import Lease
from aicp.scheduling.turns import STRIDES, Order
from aicp.scheduling.waiter import Waiter
from aicp.scheduling.waiting_line import WaitingLine
from aicp.testing import Trace, run
from tests.simulation.fleet_under_fire import Moody, well
from tests.unit.flow_kit import ECHO, Flow, now

AGENTS = 24
RUSH_S = 25.0
DEADLINE_S = 30.0
SIZE_MEAN = 2.5 / 1.5
GPU = {"gpu": "yes"}
CHOOSY = 0.1
SHARES = {"acme": 0.3, "bolt": 0.3, "coil": 0.4}

Disaster = Callable[[list[Moody], random.Random], Awaitable[None]]


class Rush(msgspec.Struct):
    """What came of a run.

    Attributes:
        seed: Everything was drawn from it.
        trace: Digest of every callback and timer.
        asked: How many tasks came.
        ends: How they ended, by tenant and name.
        by_priority: How they ended, by priority and name.
        waits: The longest that a plain task of each tenant waited, other than at low priority, seconds.
        out_of_turn: Services that broke the order.
        left_over: Slots, leases, probes and waiting tasks at the end; empty when nothing leaked.
        expired_leases: How many attempts had to be given up on.
        held: How often somebody was held for a faster agent.
    """

    seed: int
    trace: str = ""
    asked: int = 0
    ends: dict[str, Counter[str]] = msgspec.field(default_factory=lambda: defaultdict(Counter))
    by_priority: dict[str, Counter[str]] = msgspec.field(default_factory=lambda: defaultdict(Counter))
    waits: dict[str, float] = msgspec.field(default_factory=lambda: defaultdict(float))
    out_of_turn: list[str] = []
    left_over: dict[str, Any] = {}
    expired_leases: int = 0
    held: int = 0

    @property
    def total(self) -> Counter[str]:
        """How tasks ended."""
        return sum(self.ends.values(), Counter[str]())


class RushHour:
    """One run.

    Args:
        seed: For everything.
        load: Of what the fleet can do.
        disaster: What happens to the agents, besides nothing.
        shares: Of the load, by tenant.
        deadline_s: Of every task.
        priorities: Of tasks.
    """

    def __init__(
        self,
        seed: int,
        load: float,
        disaster: Disaster,
        shares: Mapping[str, float] = SHARES,
        deadline_s: float = DEADLINE_S,
        priorities: Sequence[Priority] = tuple(Priority),
    ) -> None:
        self.rush = Rush(seed)
        self._draw = random.Random(seed)
        self._agents = [self._agent(number) for number in range(AGENTS)]
        capacity = sum(each.profile.max_concurrent_tasks / (each.latency_s * SIZE_MEAN) for each in self._agents)
        self._tasks_per_s = load * capacity
        self._disaster = disaster
        self._shares = shares
        self._deadline_s = deadline_s
        self._priorities = priorities

    def run(self) -> Rush:
        """From the first task to the last, and what it came to."""
        trace = Trace()
        with served_under_watch(self.rush):
            run(self._main(), seed=self.rush.seed, trace=trace)
        self.rush.trace = trace.digest
        return self.rush

    def _agent(self, number: int) -> Moody:
        """Two in three serve everybody, and each is 1 to 4 times as slow as the fastest could be."""
        agent = Moody(f"agent-{number:02}", random.Random(self._draw.random()))
        agent.latency_s = 0.2 * self._draw.uniform(1.0, 4.0)
        owner = ("acme", "bolt")[number % 2]
        agent.profile = msgspec.structs.replace(
            agent.profile,
            max_concurrent_tasks=self._draw.randint(1, 4),
            tenant=owner,
            shared=number % 3 != 0,
            labels=GPU if number % 4 == 1 else {},
        )
        return agent

    async def _main(self) -> None:
        async with Flow(*self._agents, seed=self.rush.seed) as flow:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._until_it_is_over())
                await self._load(flow, group)
            self.rush.left_over = flow.left_over()
            self.rush.expired_leases = flow.scheduler.expired_leases

    async def _until_it_is_over(self) -> None:
        await self._disaster(self._agents, self._draw)
        for agent in self._agents:
            agent.revive()
            agent.mood = well

    async def _load(self, flow: Flow, group: asyncio.TaskGroup) -> None:
        ends_at, tenants = now() + RUSH_S, list(self._shares)
        weights = list(self._shares.values())
        while now() < ends_at:
            await asyncio.sleep(self._draw.expovariate(self._tasks_per_s))
            (tenant,) = self._draw.choices(tenants, weights)
            self.rush.asked += 1
            group.create_task(self._carry(flow, tenant, self._task()))

    def _task(self) -> Task:
        draw, options = self._draw, dict[str, Any]()
        if draw.random() < CHOOSY:
            options = draw.choice([{"labels": GPU}, {"exclude_agents": ("agent-01", "agent-02")}])
        return Task(ECHO, {}, priority=draw.choice(self._priorities), deadline_s=self._deadline_s, **options)

    async def _carry(self, flow: Flow, tenant: str, task: Task) -> None:
        ended = await self._end_of(flow, tenant, task)
        self.rush.ends[tenant][ended] += 1
        self.rush.by_priority[task.priority][ended] += 1

    async def _end_of(self, flow: Flow, tenant: str, task: Task) -> str:
        try:
            flow.router.refuse_if_too_late([task], tenant)
        except QueueFull:
            return "refused"
        task_id, began_at, utc = f"{self.rush.asked:032x}.task", now(), flow.clock.utcnow()
        deadline = began_at + self._deadline_s
        work = Work(task, task_id, ready_at=began_at, ready_at_utc=utc, deadline=deadline, tenant=tenant)
        result = await flow.router.route(work)
        return result.status if result.error is None else result.error.code


@contextmanager
def served_under_watch(rush: Rush) -> Iterator[None]:
    """Check at every service that nobody goes before whom it must not."""
    serve = WaitingLine.serve

    def watched(line: WaitingLine, waiter: Waiter, lease: Lease) -> None:
        if waiter.is_plain:
            rivals = [each for each in line if lease.seat.pool.tenant in {None, each.tenant}]
            rush.out_of_turn.extend(faults_of(waiter, rivals, lease.seat.pool.order))
            if waiter.task.priority is not Priority.LOW:
                rush.waits[waiter.tenant] = max(rush.waits[waiter.tenant], now() - waiter.since)
            rush.held += waiter.held_since is not None
        serve(line, waiter, lease)

    with mock.patch.object(WaitingLine, "serve", watched):
        yield


def faults_of(served: Waiter, rivals: list[Waiter], order: Order) -> Iterator[str]:
    """Which plain task was passed over and must not be: the next of its priority and tenant, or of another priority."""
    priority = served.task.priority
    due = {each: (order.priorities.pass_of(each), STRIDES[each]) for each in Priority}
    for each in rivals:
        is_alike = (each.task.priority, each.tenant) == (priority, served.tenant)
        if each.is_plain and is_alike and each.place < served.place:
            yield f"{now():.3f}: a later one of {served.tenant} at {priority}"
        if each.is_plain and due[each.task.priority] < due[priority]:
            yield f"{now():.3f}: {priority} before {each.task.priority} that has waited {now() - each.since:.3f} s"
