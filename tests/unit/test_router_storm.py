"""Nothing leaks: cancellation at any moment, agents that heal, probes that hang, crash or are cancelled."""

import asyncio
import contextlib
import random

import pytest

from aicp.errors import AllAgentsFailed, RoutingError
from aicp.model.outcome import Outcome
from aicp.model.task import TaskResult, TaskStatus
from aicp.resilience.circuit_breaker import CircuitState
from aicp.testing.faulty_agents import (
    ScriptedAgent,
    Step,
    caller_fault,
    fault,
    hang,
    ok,
    overloaded,
    unavailable,
)
from tests.unit.flow_kit import Flow, no_answer, now, task, virtual

GOOD: list[Step] = [ok(), ok(after_s=0.5)]
BAD: list[Step] = [fault(), fault(after_s=0.3), hang(), overloaded(), unavailable(), no_answer(), caller_fault()]


def unreliable(draw: random.Random, count: int, slots: int = 4) -> list[ScriptedAgent]:
    return [
        ScriptedAgent(f"a{number}", draw.choices(GOOD + BAD, k=3_000), max_concurrent_tasks=slots, otherwise=ok())
        for number in range(count)
    ]


class TestCancellationStorm:
    @pytest.mark.parametrize("seed", range(4))
    @virtual
    async def test_a_thousand_calls_cancelled_at_random_moments_leave_nothing_taken(self, seed: int) -> None:
        draw = random.Random(seed)
        agents = unreliable(draw, 8)
        async with Flow(*agents, seed=seed) as flow:

            async def storm(number: int) -> None:
                await asyncio.sleep(draw.uniform(0, 20))
                with contextlib.suppress(RoutingError, TimeoutError):
                    async with asyncio.timeout(draw.choice([0.0, 0.0, 0.001, 0.01, 0.3, 3.0, 30.0])):
                        await flow.router.route_task(task(timeout_s=5.0), wait=number % 3 == 0)

            async with asyncio.TaskGroup() as group:
                for number in range(1_000):
                    group.create_task(storm(number))
            await asyncio.sleep(0)
            assert flow.left_over() == {}
            assert all(agent.under_way.value == 0 for agent in agents)
            assert flow.scheduler.expired_leases == 0

            for agent in agents:
                flow.transport.add(ScriptedAgent(agent.profile.agent_id, max_concurrent_tasks=4))
            results = await asyncio.gather(*(flow.router.route_task(task(), wait=True) for _ in range(100)))
            assert all(result.status is TaskStatus.COMPLETED for result in results)

    @virtual
    async def test_cancelled_at_every_turn_of_the_loop_a_call_leaves_nothing_taken(self) -> None:
        for turns in range(40):
            agents = ScriptedAgent("a", [fault(after_s=0.0)]), ScriptedAgent("b", [ok(after_s=0.0)])
            async with Flow(*agents) as flow:
                calls = [asyncio.create_task(flow.router.route_task(task())) for _ in range(4)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for call in calls:
                    call.cancel()
                await asyncio.gather(*calls, return_exceptions=True)
                assert flow.left_over() == {}
                assert (await flow.router.route_task(task(), wait=True)).status is TaskStatus.COMPLETED

    @virtual
    async def test_an_observer_that_raises_fails_no_task(self) -> None:
        class Furious:
            def notify(self, event: object) -> None:
                raise RuntimeError("an observer must not raise")

        async with Flow(ScriptedAgent("a", [fault()]), observer=Furious()) as flow:
            assert (await flow.router.route_task(task())).status is TaskStatus.COMPLETED
            results = await flow.coordinator.execute_parallel_tasks([task(), task()])
            assert [result.status for result in results] == [TaskStatus.COMPLETED] * 2


class TestHealing:
    @virtual
    async def test_an_agent_that_died_and_came_back_gets_work_again_without_costing_a_task(self) -> None:
        mortal, steady = ScriptedAgent("mortal"), ScriptedAgent("steady")
        async with Flow(mortal, steady) as flow:
            results: list[TaskResult] = []

            async def client() -> None:
                while now() < ends_at:
                    results.append(await flow.router.route_task(task()))
                    await asyncio.sleep(0.05)

            ends_at = now() + 120
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(client())
                await asyncio.sleep(20)
                mortal.kill()
                killed_at = now()
                await asyncio.sleep(40)
                mortal.revive()
                revived_at = now()
            assert all(result.status is TaskStatus.COMPLETED for result in results)
            failed = [each.agent_id for each in flow.seen.ended if each.outcome is not Outcome.SUCCESS]
            assert failed.count("mortal") <= 6
            served_at = [call.began_at for call in mortal.calls]
            assert not [moment for moment in served_at if killed_at < moment < revived_at]
            first_again = min(moment for moment in served_at if moment >= revived_at)
            assert first_again - revived_at <= 27
            assert flow.state("mortal") is CircuitState.CLOSED

    @virtual
    async def test_the_only_agent_back_from_the_dead_serves_who_waited(self) -> None:
        lonely = ScriptedAgent("lonely")
        async with Flow(lonely) as flow:
            lonely.kill()
            waiting = [asyncio.create_task(flow.router.route_task(task(), wait=True)) for _ in range(10)]
            await asyncio.sleep(100)
            lonely.revive()
            results = await asyncio.gather(*waiting)
            assert all(result.status is TaskStatus.COMPLETED for result in results)

    @virtual
    async def test_a_dead_agent_costs_no_task_while_it_stays_dead(self) -> None:
        dead, steady = ScriptedAgent("dead"), ScriptedAgent("steady")
        async with Flow(dead, steady) as flow:
            dead.kill()
            for _ in range(600):
                await flow.router.route_task(task())
                await asyncio.sleep(1)
            attempts = [each for each in flow.seen.ended if each.agent_id == "dead"]
            assert len(attempts) == 5
            assert dead.probes >= 5


class TestHalfOpenAttempts:
    """The real attempts that close a circuit again."""

    async def open_circuit(self, flow: Flow) -> None:
        for _ in range(5):
            with pytest.raises(AllAgentsFailed):
                await flow.router.route_task(task(idempotent=False))
        assert flow.state("a") is CircuitState.OPEN

    @virtual
    async def test_one_that_hangs_frees_its_place_by_its_timeout(self) -> None:
        async with Flow(ScriptedAgent("a", [*[fault()] * 5, no_answer()], max_concurrent_tasks=4)) as flow:
            await self.open_circuit(flow)
            with pytest.raises(AllAgentsFailed):
                await flow.router.route_task(task(idempotent=False), wait=True)
            assert flow.state("a") is CircuitState.OPEN
            result = await flow.router.route_task(task(), wait=True)
            assert result.status is TaskStatus.COMPLETED

    @virtual
    async def test_one_whose_transport_never_returns_is_lost_and_the_next_may_go(self) -> None:
        async with Flow(ScriptedAgent("a", [fault()] * 5)) as flow:
            await self.open_circuit(flow)
            flow.scheduler.drain_agent("a")
            flow.scheduler.add_agent(flow.scheduler.member("a").profile)
            await asyncio.sleep(2)
            lost = await flow.lease(task(timeout_s=10.0))
            began_at, result = now(), await flow.router.route_task(task(), wait=True)
            assert result.status is TaskStatus.COMPLETED
            assert now() - began_at <= 17
            flow.complete(lost, Outcome.SUCCESS)

    @virtual
    async def test_one_that_crashes_opens_the_circuit_again_and_its_place_is_free(self) -> None:
        async with Flow(ScriptedAgent("a", [fault()] * 6)) as flow:
            await self.open_circuit(flow)
            with pytest.raises(AllAgentsFailed):
                await flow.router.route_task(task(idempotent=False), wait=True)
            assert flow.state("a") is CircuitState.OPEN
            for _ in range(3):
                await flow.router.route_task(task(), wait=True)
            assert flow.state("a") is CircuitState.CLOSED

    @virtual
    async def test_three_successes_close_it(self) -> None:
        async with Flow(ScriptedAgent("a", [fault()] * 5)) as flow:
            await self.open_circuit(flow)
            states = []
            for _ in range(3):
                await flow.router.route_task(task(), wait=True)
                states.append(flow.state("a"))
            assert states == [CircuitState.HALF_OPEN, CircuitState.HALF_OPEN, CircuitState.CLOSED]
