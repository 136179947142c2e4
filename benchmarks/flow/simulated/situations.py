"""Situations in which AICP has no rival: each is a short run of a whole node, judged by a few aims.

What an oracle would do is known without a race: it keeps no agent idle, sends nothing to the broken, and blames nobody
for a bad task.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import NamedTuple

import msgspec

from aicp import Node
from aicp.errors import AicpError, QueueFull
from aicp.model.agent import AgentAuth
from aicp.model.chain import ChainSpec
from aicp.model.event import AttemptStarted, CircuitChanged, Event
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call, Priority, Task, TaskStatus
from aicp.model.wire import AgentDescription
from aicp.resilience.circuit_breaker import CircuitState
from aicp.testing import VirtualClock, run, running_loop
from aicp.testing.faulty_agents import ScriptedAgent, ScriptedTransport, Step, hang, ok, server_error
from benchmarks.measure import Row, at_least, at_most, quantile

WORK = "test.echo"
SIZE_S = 0.1
SIGMA = 0.3
MEAN_S = SIZE_S * 1.046
STEPS_MAX = 50_000_000
SEED = 1


class Opening(NamedTuple):
    """A circuit that changed its state."""

    at_s: float
    agent_id: str
    state: str


class Seen:
    """What a node told of its attempts and circuits."""

    def __init__(self) -> None:
        self.started: list[AttemptStarted] = []
        self.changes: list[Opening] = []

    def notify(self, event: Event) -> None:
        """Remember it."""
        if isinstance(event, AttemptStarted):
            self.started.append(event)
        elif isinstance(event, CircuitChanged):
            self.changes.append(Opening(elapsed_s(), event.agent_id, event.state))

    def openings(self, from_s: float = 0.0) -> int:
        """How often a circuit opened from that time on."""
        return sum(change.state == CircuitState.OPEN and change.at_s >= from_s for change in self.changes)

    def attempts(self, agent_id: str) -> int:
        """How many tasks an agent was given."""
        return sum(event.agent_id == agent_id for event in self.started)


class Wire(ScriptedTransport):
    """Scripted agents as if they lived elsewhere."""

    async def check(self, endpoint_url: str) -> None:
        """Agents may live anywhere."""

    async def describe(self, endpoint_url: str, auth: AgentAuth | None = None) -> AgentDescription:
        """Nobody asks."""
        raise NotImplementedError(f"scripted agents are registered whole, {endpoint_url} too, auth {auth}")


class Fleet(NamedTuple):
    """A node that runs, and what it told."""

    node: Node
    seen: Seen

    async def route(self, wanted: Task) -> bool:
        """True when a direct call, which waits, is done."""
        try:
            result = await self.node.router.route_task(wanted, wait=True)
        except AicpError:
            return False
        return result.status is TaskStatus.COMPLETED

    async def ends(self, spec: ChainSpec) -> TaskStatus:
        """How a chain ends that is submitted now."""
        coordinator = self.node.coordinator
        return (await coordinator.wait(await coordinator.submit(spec))).status


@asynccontextmanager
async def fleet_of(*agents: ScriptedAgent, seed: int = SEED) -> AsyncIterator[Fleet]:
    """A node with these agents."""
    node, seen = Node(clock=VirtualClock(), seed=seed, make_remote=lambda: Wire(*agents)), Seen()
    for port, agent in enumerate(agents, start=10_000):
        node.ains.put(msgspec.structs.replace(agent.profile, endpoint=f"http://127.0.0.1:{port}"))
    node.observe(seen)
    async with node:
        yield Fleet(node, seen)


def elapsed_s() -> float:
    """Seconds since the start of the run."""
    return running_loop().time() - running_loop().start_s


def workers(count: int, draw: random.Random, slots: int = 1) -> list[ScriptedAgent]:
    """Equal agents whose tasks take 0.1 s in the median."""

    async def work(_agent: ScriptedAgent, call: Call) -> Reply:
        await asyncio.sleep(SIZE_S * draw.lognormvariate(0.0, SIGMA))
        return Reply(Outcome.SUCCESS, call.params)

    return [ScriptedAgent(f"a{n}", otherwise=work, max_concurrent_tasks=slots) for n in range(count)]


def choosing(is_bad: Callable[[Call], bool]) -> Step:
    """Answer 500 where the call, or the time, is bad; else succeed."""
    good, bad = ok(), server_error(500, after_s=0.005)

    async def step(agent: ScriptedAgent, call: Call) -> Reply:
        return await (bad if is_bad(call) else good)(agent, call)

    return step


async def arrivals(per_s: float, until_s: float, draw: random.Random, come: Callable[[int], Awaitable[object]]) -> None:
    """Let `come(number)` begin again and again by chance, whatever becomes of those before; wait for all."""
    async with asyncio.TaskGroup() as under_way:
        for number in itertools.count():
            if elapsed_s() >= until_s:
                return
            under_way.create_task(_quietly(come(number)))
            await asyncio.sleep(draw.expovariate(per_s))


async def _quietly(coming: Awaitable[object]) -> None:
    await coming


def side_by_side(tasks: int, deadline_s: float | None = None) -> ChainSpec:
    """A chain of tasks that do not wait for one another."""
    return ChainSpec(tuple(Task(WORK, id=f"t{n}", deadline_s=deadline_s) for n in range(tasks)))


def in_turn(steps: int) -> ChainSpec:
    """A chain of steps one after another."""
    return ChainSpec(tuple(Task(WORK, id=f"s{n}", depends_on=(f"s{n - 1}",) if n else ()) for n in range(steps)))


async def equal_agents() -> list[Row]:
    """Two equal agents, 300 tasks one after the other; who is told by the oracle is never waited for."""
    async with fleet_of(*workers(2, random.Random(SEED))) as fleet:
        calls_s = list[float]()
        for _ in range(300):
            began_s = elapsed_s()
            await fleet.route(Task(WORK))
            calls_s.append(elapsed_s() - began_s)
        busier = max(fleet.seen.attempts("a0"), fleet.seen.attempts("a1"))
    draw = random.Random(SEED)
    worked_s = sum(SIZE_S * draw.lognormvariate(0.0, SIGMA) for _ in calls_s)
    told = "two equal agents, 300 sequential tasks"
    return [
        at_most(f"{told}: the busier one's", 180, busier),
        at_most(f"{told}: latency, of the work alone", 1.02, sum(calls_s) / worked_s),
    ]


async def never_answers() -> list[Row]:
    """Beside a good agent one that never answered; no task waits for it longer than 2 s."""
    hung = ScriptedAgent("hung", otherwise=hang(), max_concurrent_tasks=4)
    async with fleet_of(*workers(1, random.Random(SEED)), hung) as fleet:
        done = [await fleet.route(Task(WORK, timeout_s=2.0)) for _ in range(60)]
    return [
        at_most("an agent that never answers, timeout_s 2: tasks of 60 that it gets", 12, fleet.seen.attempts("hung")),
        at_most("the same: tasks lost", 0, done.count(False)),
    ]


async def shared_backend(agents: int, down_for_s: float, per_s: float, closed_within_s: float) -> list[Row]:
    """The backend that all agents share is down from 20 s on, for so long."""
    down_s, up_s = 20.0, 20.0 + down_for_s
    step = choosing(lambda _call: down_s <= elapsed_s() < up_s)
    fleet_agents = [
        ScriptedAgent(f"a{n}", otherwise=step, latency_s=0.05, max_concurrent_tasks=8) for n in range(agents)
    ]
    done = list[bool]()
    async with fleet_of(*fleet_agents) as fleet:

        async def come(_number: int) -> None:
            done.append(await fleet.route(Task(WORK, deadline_s=120.0)))

        await arrivals(per_s, up_s + 37.0, random.Random(SEED), come)
        states = {fleet.node.board.get_state(agent.profile.agent_id, WORK) for agent in fleet_agents}
    closed = [change.at_s for change in fleet.seen.changes if change.state == CircuitState.CLOSED]
    under_way_s = 0.01
    told = f"shared backend down {down_for_s:g} s, agents: {agents}"
    return [
        at_most(f"{told}: share of accepted tasks lost", 0.01, done.count(False) / len(done)),
        at_most(
            f"{told}: all circuits closed, s after",
            closed_within_s,
            closed[-1] - up_s if states == {"CLOSED"} else None,
        ),
        at_most(f"{told}: openings after its return", 0, fleet.seen.openings(up_s + under_way_s)),
    ]


async def black_hole() -> list[Row]:
    """One of four agents answers 500 at once, for ten minutes; 10 tasks a second."""
    hole = ScriptedAgent("hole", otherwise=server_error(500, after_s=0.001), max_concurrent_tasks=4)
    good = [ScriptedAgent(f"a{n}", latency_s=0.2, max_concurrent_tasks=4) for n in range(3)]
    done = list[bool]()
    async with fleet_of(hole, *good) as fleet:

        async def come(_number: int) -> None:
            done.append(await fleet.route(Task(WORK, deadline_s=120.0)))

        await arrivals(10.0, 600.0, random.Random(SEED), come)
    first = sum(event.agent_id == "hole" and event.number == 1 for event in fleet.seen.started)
    return [
        at_most(f"black hole, 10 min: tasks of {len(done):,} that see it first", 40, first),
        at_most("the same: tasks lost", 0, done.count(False)),
    ]


async def poison(agents: int) -> list[Row]:
    """Bad tasks, 19 in a row and one good one between, 20 times over; then 20 in a row."""
    step = choosing(lambda call: call.params["bad"])
    picky = [ScriptedAgent(f"a{n}", otherwise=step, max_concurrent_tasks=4) for n in range(agents)]
    good_done = list[bool]()
    async with fleet_of(*picky) as fleet:
        for _ in range(20):
            await asyncio.gather(*(fleet.route(Task(WORK, {"bad": True})) for _ in range(19)))
            good_done.append(await fleet.route(Task(WORK, {"bad": False})))
        before = fleet.seen.openings()
        await asyncio.gather(*(fleet.route(Task(WORK, {"bad": True})) for _ in range(20)))
        opened = fleet.seen.openings() - before
    told = f"poison, {agents} agent{'s' if agents > 1 else ''}"
    return [
        at_most(f"{told}: openings by 19 bad tasks and a good one, 20 times", 0, before),
        at_most(f"{told}: good tasks lost", 0, good_done.count(False)),
        at_least(f"{told}: openings by 20 bad tasks in a row", 1, opened),
    ]


async def poison_among_good() -> list[Row]:
    """One task in twenty is bad; three agents, 50 tasks a second for a minute."""
    draw, ended = random.Random(SEED), Counter[tuple[bool, bool]]()
    step = choosing(lambda call: call.params["bad"])
    picky = [ScriptedAgent(f"a{n}", otherwise=step, latency_s=0.05, max_concurrent_tasks=4) for n in range(3)]
    async with fleet_of(*picky) as fleet:

        async def come(_number: int) -> None:
            bad = draw.random() < 0.05
            ended[bad, await fleet.route(Task(WORK, {"bad": bad}, deadline_s=120.0))] += 1

        await arrivals(50.0, 60.0, draw, come)
    return [
        at_most(f"{ended[True, False]} bad tasks among {ended[False, True]:,}: good ones lost", 0, ended[False, False]),
        at_most("the same: circuits that opened", 0, fleet.seen.openings()),
    ]


async def bad_row_beside_good(agents: int) -> list[Row]:
    """20 bad tasks at once, accepted, in the midst of 10 good ones a second."""
    step = choosing(lambda call: call.params["bad"])
    picky = [ScriptedAgent(f"a{n}", otherwise=step, max_concurrent_tasks=4) for n in range(agents)]
    good_s, lost = list[float](), 0
    async with fleet_of(*picky) as fleet:

        async def bad_ones() -> None:
            await asyncio.sleep(5.0)
            await asyncio.gather(*(fleet.route(Task(WORK, {"bad": True})) for _ in range(20)))

        async def come(_number: int) -> None:
            nonlocal lost
            began_s = elapsed_s()
            lost += not await fleet.route(Task(WORK, {"bad": False}))
            good_s.append(elapsed_s() - began_s)

        bad = asyncio.create_task(bad_ones())
        await arrivals(10.0, 60.0, random.Random(SEED), come)
        await bad
    told = f"20 bad tasks at once, {agents} agent{'s' if agents > 1 else ''}"
    return [
        at_most(f"{told}: longest that a good one takes, s (first wait + 0.5)", 1.6, max(good_s)),
        at_most(f"{told}: good ones lost", 0, lost),
    ]


async def high_behind_low() -> list[Row]:
    """300 low tasks, and a second later one high."""
    async with fleet_of(*workers(1, random.Random(SEED), slots=2)) as fleet:
        calls = [asyncio.create_task(fleet.route(Task(WORK, priority=Priority.LOW))) for _ in range(300)]
        await asyncio.sleep(1.0)
        handed_over = len(fleet.seen.started)
        await fleet.route(Task(WORK, priority=Priority.HIGH))
        place = [event.priority for event in fleet.seen.started].index(Priority.HIGH)
        await asyncio.gather(*calls)
    return [at_most("1 high behind 300 low: hand-overs until it is served", 2, place - handed_over + 1)]


async def low_beside_normal() -> list[Row]:
    """Normal tasks for all that the agents can do, and low ones for a fifth more, with deadlines of 10 s."""
    draw, ends, refused = random.Random(SEED), Counter[tuple[Priority, TaskStatus]](), Counter[Priority]()
    per_s = 8 / MEAN_S
    async with fleet_of(*workers(4, draw, slots=2)) as fleet:

        async def come(number: int) -> None:
            priority = Priority.NORMAL if number % 6 else Priority.LOW
            spec = ChainSpec((Task(WORK, id="a", priority=priority, deadline_s=10.0),))
            try:
                ends[priority, await fleet.ends(spec)] += 1
            except QueueFull:
                refused[priority] += 1

        await arrivals(1.2 * per_s, 60.0, draw, come)
    accepted = sum(ends.values())
    lost = accepted - sum(count for (_, status), count in ends.items() if status is TaskStatus.COMPLETED)
    told = "low at 20 % beside normal at 100 %"
    return [
        at_most(f"{told}: of {accepted:,} accepted, failed", 0, lost),
        at_least(f"{told}: low ones refused at submit", 1, refused[Priority.LOW]),
        at_most(f"{told}: share of those refused that are normal", 0.1, refused[Priority.NORMAL] / refused.total()),
    ]


class Small(NamedTuple):
    """What became of chains of 3: of each when it was submitted and how long it took; and of the large one."""

    calm_s: list[float]
    failed: int
    large_s: float


async def small_ones(large: int, until_s: float, calm_until_s: float, deadline_s: float) -> Small:
    """Chains of 3 at 80 % of what the agents can do, beside one chain of so many tasks side by side."""
    draw, calm_s, ends, from_s = random.Random(SEED), list[float](), list[TaskStatus](), elapsed_s()
    async with fleet_of(*workers(4, draw, slots=8)) as fleet:

        async def come(_number: int) -> None:
            at_s = elapsed_s()
            ends.append(await fleet.ends(in_turn(3)))
            if at_s > from_s + 2.0 and elapsed_s() < from_s + calm_until_s:
                calm_s.append(elapsed_s() - at_s)

        async def large_one() -> float:
            if large:
                ends.append(await fleet.ends(side_by_side(large, deadline_s)))
            return elapsed_s() - from_s

        running = asyncio.create_task(large_one())
        await arrivals(0.8 * 32 / (3 * MEAN_S), from_s + until_s, draw, come)
        large_s = await running
    return Small(calm_s, sum(status is not TaskStatus.COMPLETED for status in ends), large_s)


async def large_beside_small() -> list[Row]:
    """A chain of 10,000 beside chains of 3 at 80 %; it is urgent after half of its deadline, 40 s."""
    beside = await small_ones(10_000, 45.0, 40.0, 80.0)
    told = "chain of 10,000 beside chains of 3 at 80 %"
    alone = await small_ones(0, 40.0, 40.0, 80.0)
    ratio = quantile(beside.calm_s, 0.99) / quantile(alone.calm_s, 0.99)
    return [
        at_most(f"{told}: accepted chains that failed", 0, beside.failed),
        at_most(f"{told}: p99 of the small ones until it is urgent, of alone", 1.25, ratio),
        at_most(f"{told}: the large one is done, s (deadline 80)", 80.0, beside.large_s),
    ]


async def begun_chains() -> list[Row]:
    """60 chains of 10 steps at 6 agents, submitted 1 ms apart."""
    ends = list[float]()
    async with fleet_of(*workers(6, random.Random(SEED))) as fleet:

        async def come(number: int) -> None:
            await asyncio.sleep(number / 1_000)
            await fleet.ends(in_turn(10))
            ends.append(elapsed_s())

        await asyncio.gather(*map(come, range(60)))
    half_s = max(ends) / 2
    return [at_least("60 chains of 10 steps: complete at half of the time", 24, sum(at_s <= half_s for at_s in ends))]


Situation = Callable[[], Awaitable[list[Row]]]

SITUATIONS: dict[str, Situation] = {
    "equal agents": equal_agents,
    "never answers": never_answers,
    "shared backend": partial(shared_backend, 2, 3.0, 60.0, 5.0),
    "long outage": partial(shared_backend, 1, 60.0, 20.0, 5.5),
    "black hole": black_hole,
    "poison, 1 agent": partial(poison, 1),
    "poison, 2 agents": partial(poison, 2),
    "poison, 3 agents": partial(poison, 3),
    "20 bad, 1 agent": partial(bad_row_beside_good, 1),
    "20 bad, 2 agents": partial(bad_row_beside_good, 2),
    "20 bad, 3 agents": partial(bad_row_beside_good, 3),
    "poison among good": poison_among_good,
    "high behind low": high_behind_low,
    "low beside normal": low_beside_normal,
    "large beside small": large_beside_small,
    "begun chains": begun_chains,
}
"""By name; the aims are those of each row."""


def judge(name: str) -> list[Row]:
    """Run one on virtual time: its rows of figures beside aims."""

    async def judged() -> list[Row]:
        return await SITUATIONS[name]()

    return run(judged(), seed=SEED, steps_max=STEPS_MAX)
