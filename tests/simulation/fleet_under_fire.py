"""A fleet of unequal agents that crash, hang, crawl and flap, and the work that has to get through all the same.

Everything is drawn from one seed, and runs on virtual time: the real board, scheduler, prober, router and coordinator.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from aicp.errors import AicpError, AllAgentsFailed, DeadlineExceeded, NoAgentAvailable
from aicp.model.agent import Capability
from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.event import AttemptEnded, ChainEnded, ChainSubmitted, TaskEnded
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call, Priority, Task
from aicp.testing import Trace, run
from aicp.testing.faulty_agents import ScriptedAgent, fault, hang, overloaded
from tests.unit.flow_kit import ECHO, Flow, now

AGENTS = 20
ATTEMPT_TIMEOUT_S = 5.0
DEADLINE_S = 120.0
LOAD_S = 200.0
QUIET_S = 60.0

Mood = Callable[["Moody", Call], Awaitable[Reply]]


class Report(msgspec.Struct):
    """What came of a run.

    Attributes:
        seed: Everything was drawn from it.
        trace: Digest of every callback and timer.
        ends: How direct calls ended, by name.
        chains: How accepted chains ended.
        outcomes: How attempts ended.
        executed_twice: Ids of tasks that must not be, and were.
        served_late: Calls of each agent in the last rush, with more tasks at once than the fleet has slots.
        left_over: Slots, leases, probes and waiting tasks at the end; empty when nothing leaked.
        expired_leases: How many attempts had to be given up on.
        out_at_end: Agents that may not be used, long after the fire.
        ended_wrongly: Chains without exactly one end on record, or with a task that ended twice.
    """

    seed: int
    trace: str = ""
    ends: Counter[str] = msgspec.field(default_factory=Counter)
    chains: Counter[str] = msgspec.field(default_factory=Counter)
    outcomes: Counter[str] = msgspec.field(default_factory=Counter)
    executed_twice: list[str] = []
    served_late: dict[str, int] = {}
    left_over: dict[str, Any] = {}
    expired_leases: int = 0
    out_at_end: list[str] = []
    ended_wrongly: list[str] = []


class Moody(ScriptedAgent):
    """An agent that does as its mood is; it remembers which tasks it has done."""

    def __init__(self, agent_id: str, draw: random.Random) -> None:
        super().__init__(
            agent_id,
            otherwise=self._as_mood_is,
            latency_s=draw.choice([0.02, 0.05, 0.1, 0.3]) * draw.uniform(0.7, 1.5),
            max_concurrent_tasks=draw.randint(1, 6),
        )
        declared = Capability(ECHO, timeout_s=ATTEMPT_TIMEOUT_S)
        self.profile = msgspec.structs.replace(self.profile, capabilities=(declared,))
        self.draw = draw
        self.done: Counter[str] = Counter()
        self.mood: Mood = well

    async def _as_mood_is(self, _agent: ScriptedAgent, call: Call) -> Reply:
        return await self.mood(self, call)

    async def work(self, call: Call, factor: float = 1.0) -> Reply:
        """Take a heavy-tailed while, and then it is done."""
        await asyncio.sleep(min(self.latency_s * factor * self.draw.paretovariate(2.5), 60.0))
        self.done[call.task_id] += 1
        return Reply(Outcome.SUCCESS, call.params)


async def well(agent: Moody, call: Call) -> Reply:
    return await agent.work(call)


async def crawling(agent: Moody, call: Call) -> Reply:
    return await agent.work(call, factor=10.0)


async def hanging(agent: Moody, call: Call) -> Reply:
    return await hang()(agent, call)


async def failing(agent: Moody, call: Call) -> Reply:
    return await fault(after_s=agent.latency_s)(agent, call)


async def refusing(agent: Moody, call: Call) -> Reply:
    return await overloaded(agent.draw.choice([None, 0.5]))(agent, call)


async def forgetful(agent: Moody, call: Call) -> Reply:
    """The work is done and the answer lost."""
    await agent.work(call)
    return Reply(Outcome.AGENT_FAULT, reason="reset in the middle of the answer")


async def suffer(agent: Moody, ends_at: float) -> None:
    """One trouble after another, with good times in between."""
    draw = agent.draw
    while now() < ends_at:
        await asyncio.sleep(draw.uniform(5.0, 60.0))
        trouble_s = draw.uniform(3.0, 40.0)
        match draw.choice(["crash", "flap", "mood", "mood", "mood"]):
            case "crash":
                agent.kill()
                await asyncio.sleep(trouble_s)
            case "flap":
                await flap(agent, trouble_s)
            case _:
                agent.mood = draw.choice([crawling, hanging, failing, refusing, forgetful])
                await asyncio.sleep(trouble_s)
        agent.revive()
        agent.mood = well


async def flap(agent: Moody, trouble_s: float) -> None:
    ends_at = now() + trouble_s
    while now() < ends_at:
        agent.kill()
        await asyncio.sleep(agent.draw.uniform(0.1, 3.0))
        agent.revive()
        await asyncio.sleep(agent.draw.uniform(0.1, 3.0))


class Fire:
    """One run.

    Args:
        seed: For everything.
        tasks_per_s: Direct calls; a fifth as many chains come besides.
        disaster: What happens to the agents until the quiet time, besides nothing.
    """

    def __init__(
        self, seed: int, tasks_per_s: float, disaster: Callable[[list[Moody], random.Random], Awaitable[None]]
    ) -> None:
        self.report = Report(seed)
        self._draw = random.Random(seed)
        self._agents = [Moody(f"agent-{n:02}", random.Random(self._draw.random())) for n in range(AGENTS)]
        self._tasks_per_s = tasks_per_s
        self._disaster = disaster
        self._direct: list[str] = []

    def run(self) -> Report:
        """From the first task to the last, and what it came to."""
        trace = Trace()
        run(self._main(), seed=self.report.seed, trace=trace)
        self.report.trace = trace.digest
        return self.report

    async def _main(self) -> None:
        async with Flow(*self._agents, seed=self.report.seed) as flow:
            async with asyncio.TaskGroup() as group:
                disaster = group.create_task(self._end_disaster())
                async with asyncio.TaskGroup() as calls:
                    await self._load(flow, calls, LOAD_S)
                await disaster
            async with asyncio.TaskGroup() as calls:
                await self._load(flow, calls, QUIET_S)
            rush_at = now()
            async with asyncio.TaskGroup() as calls:
                for agent in self._agents:
                    calls.create_task(self._call_by_name(flow, agent.profile.agent_id))
                    for _ in range(agent.profile.max_concurrent_tasks):
                        calls.create_task(self._call(flow))
            self._conclude(flow, rush_at)

    async def _end_disaster(self) -> None:
        await self._disaster(self._agents, self._draw)
        for agent in self._agents:
            agent.revive()
            agent.mood = well

    async def _load(self, flow: Flow, calls: asyncio.TaskGroup, seconds: float) -> None:
        ends_at = now() + seconds
        while now() < ends_at:
            await asyncio.sleep(self._draw.expovariate(self._tasks_per_s))
            calls.create_task(self._call(flow))
            if self._draw.random() < 0.2:
                calls.create_task(self._chain(flow))

    def _task(self, **options: Any) -> Task:
        priority = self._draw.choice(list(Priority))
        return Task(ECHO, {"n": 1}, priority=priority, deadline_s=DEADLINE_S, **options)

    async def _call(self, flow: Flow) -> None:
        """A direct call; some must not be sent twice, some are cancelled, most wait."""
        task = self._task(idempotent=self._draw.random() < 0.8)
        patience_s = self._draw.uniform(0.0, 1.0) if self._draw.random() < 0.03 else None
        try:
            async with asyncio.timeout(patience_s):
                result = await flow.router.route_task(task, wait=self._draw.random() < 0.7)
            self.report.ends[result.status] += 1
        except TimeoutError:
            self.report.ends["cancelled"] += 1
        except (AllAgentsFailed, NoAgentAvailable, DeadlineExceeded) as error:
            self.report.ends[error.code if task.idempotent else f"once: {error.code}"] += 1

    async def _call_by_name(self, flow: Flow, agent_id: str) -> None:
        """A slow agent may be passed over even in a rush, for faster ones to come; one that is named may not."""
        result = await flow.router.route_task(Task(ECHO, {"n": 1}, agents=(agent_id,)), wait=True)
        self.report.ends[result.status] += 1

    async def _chain(self, flow: Flow) -> None:
        """A diamond, accepted and waited for; a few are cancelled."""
        tasks = [self._named("a"), self._named("b", "a"), self._named("c", "a"), self._named("d", "b", "c")]
        policy = self._draw.choice(list(FailurePolicy))
        chain_id = await flow.coordinator.submit(ChainSpec(tuple(tasks), failure_policy=policy))
        if self._draw.random() < 0.05:
            await asyncio.sleep(self._draw.uniform(0.0, 0.5))
            await flow.coordinator.cancel(chain_id)
        try:
            self.report.chains[(await flow.coordinator.wait_result(chain_id)).status] += 1
        except AicpError:
            self.report.chains["lost"] += 1

    def _named(self, name: str, *awaited: str) -> Task:
        return msgspec.structs.replace(self._task(), id=name, depends_on=awaited)

    def _conclude(self, flow: Flow, rush_at: float) -> None:
        report = self.report
        report.left_over = flow.left_over()
        report.expired_leases = flow.scheduler.expired_leases
        report.outcomes.update(event.outcome for event in flow.seen.events if isinstance(event, AttemptEnded))
        health = flow.router.health().agents
        report.out_at_end = [
            name for name, each in health.items() if any(c.why_out for c in each.capabilities.values())
        ]
        report.served_late = {
            each.profile.agent_id: sum(call.began_at >= rush_at for call in each.calls) for each in self._agents
        }
        report.executed_twice = self._executed_twice()
        report.ended_wrongly = _ended_wrongly(flow)

    def _executed_twice(self) -> list[str]:
        once = {each.call.task_id for agent in self._agents for each in agent.calls if not each.call.idempotent}
        done: Counter[str] = Counter()
        for agent in self._agents:
            done.update(agent.done)
        return [task_id for task_id in once if done[task_id] > 1]


def _ended_wrongly(flow: Flow) -> list[str]:
    submitted = {event.chain_id for event in flow.seen.events if isinstance(event, ChainSubmitted)}
    ends = Counter(event.chain_id for event in flow.seen.events if isinstance(event, ChainEnded))
    tasks = Counter((event.chain_id, event.task) for event in flow.seen.events if isinstance(event, TaskEnded))
    wrong = {chain_id for chain_id in submitted if ends[chain_id] != 1}
    return sorted(wrong | {chain_id for (chain_id, _), count in tasks.items() if count != 1})
