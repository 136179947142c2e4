"""Order and balance on virtual time: equal agents, hung ones, large chains beside small ones, and priorities."""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable

import pytest

from aicp.errors import QueueFull
from aicp.model.chain import ChainSpec
from aicp.model.outcome import Outcome, Reply
from aicp.model.run_id import chain_of as chain_of_run
from aicp.model.task import Call, Priority, Task, TaskStatus
from aicp.testing.faulty_agents import ScriptedAgent, hang, ok, server_error
from tests.unit.flow_kit import ECHO, Flow, now, task, virtual

SIZE_S = 0.1
SEEDS = [1, 2, 3]


def worker(agent_id: str, draw: random.Random, slots: int = 1, sigma: float = 0.5) -> ScriptedAgent:
    """An agent whose tasks take 0.1 s in the median."""

    async def work(_agent: ScriptedAgent, call: Call) -> Reply:
        await asyncio.sleep(SIZE_S * draw.lognormvariate(0.0, sigma))
        return Reply(Outcome.SUCCESS, call.params)

    return ScriptedAgent(agent_id, otherwise=work, max_concurrent_tasks=slots)


def chain_of(steps: int) -> ChainSpec:
    """Steps one after another."""
    return ChainSpec(tuple(task(id=f"s{n}", depends_on=(f"s{n - 1}",) if n else ()) for n in range(steps)))


def heap_of(tasks: int) -> ChainSpec:
    """Tasks side by side."""
    return ChainSpec(tuple(task(id=f"t{n}") for n in range(tasks)))


async def statuses(flow: Flow, chain_ids: list[str]) -> Counter[TaskStatus]:
    return Counter([(await flow.coordinator.wait(chain_id)).status for chain_id in chain_ids])


class TestAgents:
    @pytest.mark.parametrize("seed", SEEDS)
    @virtual
    async def test_two_equal_agents_share_sequential_tasks_within_60_to_40(self, seed: int) -> None:
        draw = random.Random(seed)
        async with Flow(worker("a", draw, sigma=0.3), worker("b", draw, sigma=0.3), seed=seed) as flow:
            for _ in range(300):
                await flow.router.route_task(task())
            shares = Counter(flow.tried())
            assert max(shares.values()) <= 180, (seed, shares)

    @pytest.mark.parametrize("seed", SEEDS)
    @virtual
    async def test_an_agent_that_never_answers_gets_few_tasks_though_their_timeouts_are_short(self, seed: int) -> None:
        hung = ScriptedAgent("hung", otherwise=hang(), max_concurrent_tasks=4)
        async with Flow(worker("well", random.Random(seed)), hung, seed=seed) as flow:
            for _ in range(60):
                await flow.router.route_task(task(timeout_s=2.0))
            assert flow.tried().count("hung") <= 12, seed

    @virtual
    async def test_an_agent_that_hangs_after_good_days_is_not_fast_and_free_again_after_each_timeout(self) -> None:
        draw = random.Random(1)
        hung = worker("hung", draw, slots=2)
        async with Flow(worker("slow", draw, slots=2), hung) as flow:
            for _ in range(60):
                await flow.router.route_task(task())
            hung._otherwise = hang()
            before = len(hung.calls)
            for _ in range(200):
                await flow.router.route_task(task(timeout_s=2.0))
            assert len(hung.calls) - before <= 10


class TestChains:
    @virtual
    async def test_begun_chains_are_finished_before_new_ones_are_begun(self) -> None:
        draw = random.Random(1)
        async with Flow(*(worker(f"a{n}", draw) for n in range(6)), seed=1) as flow:
            chains, ends = list[str](), list[float]()
            for _ in range(60):
                chains.append(await flow.coordinator.submit(chain_of(10)))
                await asyncio.sleep(0.001)

            async def follow(chain_id: str) -> None:
                assert (await flow.coordinator.wait(chain_id)).status is TaskStatus.COMPLETED
                ends.append(now())

            began = now()
            await asyncio.gather(*map(follow, chains))
            half = began + (now() - began) / 2
            assert sum(at <= half for at in ends) >= 24

    @virtual
    async def test_a_task_that_is_tried_again_goes_before_those_of_newer_chains(self) -> None:
        """It is behind none of the 20 that came while it was with the agent that failed it."""
        bad = ScriptedAgent("bad", otherwise=server_error(after_s=1.0))
        good = ScriptedAgent("good", otherwise=ok(after_s=5.0))
        async with Flow(bad, good) as flow:
            first = await flow.coordinator.submit(ChainSpec((task(id="a", agents=("good",)),)))
            await asyncio.sleep(0.1)
            older = await flow.coordinator.submit(ChainSpec((task(id="a"),)))
            await asyncio.sleep(0.1)
            newer = [await flow.coordinator.submit(ChainSpec((task(id="a", agents=("good",)),))) for _ in range(20)]
            await flow.coordinator.wait(older)
            served = [chain_of_run(each.task_id) for each in flow.seen.started if each.agent_id == "good"]
            assert served[:2] == [first, older]
            assert await statuses(flow, newer) == {TaskStatus.COMPLETED: 20}

    @virtual
    async def test_a_direct_call_is_a_chain_of_one_beside_a_large_one(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=ok(after_s=1.0))) as flow:
            large = await flow.coordinator.submit(heap_of(300))
            await asyncio.sleep(70.5)
            began_at = now()
            await flow.router.route_task(task())
            assert now() - began_at < 2.0
            await flow.coordinator.cancel(large)

    @virtual
    async def test_a_large_chain_does_not_hold_up_small_ones_and_is_done_in_time(self) -> None:
        alone, _ = await self.small_ones(large=0)
        beside, ended = await self.small_ones(large=400)
        assert ended == {TaskStatus.COMPLETED: 1}
        assert quantile(beside, 0.99) <= 1.25 * quantile(alone, 0.99)

    async def small_ones(self, large: int) -> tuple[list[float], Counter[TaskStatus]]:
        """How long chains of 3 took at 80 % of what the agents can do, in seconds; and what became of the large one.

        Its first 64 tasks are due before all others; they are over after a second, which is not counted.
        """
        draw, took = random.Random(7), list[float]()
        async with Flow(*(worker(f"a{n}", draw, slots=4, sigma=0.3) for n in range(4)), seed=7) as flow:
            first_second = now() + 1.0
            begun = [await flow.coordinator.submit(heap_of(large))] if large else []

            async def small() -> None:
                at = now()
                ended = await flow.coordinator.wait(await flow.coordinator.submit(chain_of(3)))
                assert ended.status is TaskStatus.COMPLETED
                if at > first_second:
                    took.append(now() - at)

            async with asyncio.TaskGroup() as group:
                until = now() + 8.0
                while now() < until:
                    await asyncio.sleep(draw.expovariate(0.8 * 16 / (3 * SIZE_S * 1.05)))
                    group.create_task(small())
            return took, await statuses(flow, begun)


class TestPriorities:
    @virtual
    async def test_a_high_one_behind_300_low_ones_is_served_within_two_hand_overs(self) -> None:
        async with Flow(worker("a", random.Random(1), slots=2), seed=1) as flow:
            calls = [asyncio.create_task(flow.router.route_task(one(Priority.LOW))) for _ in range(300)]
            await asyncio.sleep(1.0)
            handed_over = len(flow.tried())
            high = await flow.router.route_task(one(Priority.HIGH))
            order = [started.task_id for started in flow.seen.started]
            assert order.index(high.task_id) - handed_over < 2
            await asyncio.gather(*calls)

    @virtual
    async def test_low_ones_beside_a_full_load_of_normal_ones_are_refused_rather_than_lost(self) -> None:
        draw, ends = random.Random(3), Counter[tuple[Priority, str]]()
        async with Flow(*(worker(f"a{n}", draw, slots=2, sigma=0.3) for n in range(4)), seed=3) as flow:

            async def follow(priority: Priority, call: Awaitable[object]) -> None:
                try:
                    await call
                    ends[priority, "done"] += 1
                except QueueFull:
                    ends[priority, "refused"] += 1
                except Exception as error:  # noqa: BLE001 - which is counted
                    ends[priority, type(error).__name__] += 1

            per_s = 8 / (SIZE_S * 1.05)
            async with asyncio.TaskGroup() as group:
                until = now() + 25.0
                for number in itertools.count():
                    await asyncio.sleep(draw.expovariate(1.2 * per_s))
                    if now() > until:
                        break
                    priority = Priority.NORMAL if number % 6 else Priority.LOW
                    wanted = task(priority=priority, deadline_s=10.0)
                    group.create_task(follow(priority, flow.router.route_task(wanted)))
        lost = {end: count for end, count in ends.items() if end[1] not in {"done", "refused"}}
        assert lost == {}, ends
        assert ends[Priority.LOW, "refused"] > 0, ends


def one(priority: Priority) -> Task:
    return Task(ECHO, {}, priority=priority)


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * len(values))]
