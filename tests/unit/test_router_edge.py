"""The public edge of a direct call: which error for which trouble, with what a caller needs to know."""

import asyncio

import pytest

from aicp.errors import (
    AllAgentsFailed,
    DeadlineExceeded,
    InvalidTask,
    NoAgentAvailable,
    NoCapableAgent,
    QueueFull,
)
from aicp.model.outcome import Outcome
from aicp.model.task import TaskStatus
from aicp.registry.leases import Liveness
from aicp.resilience.circuit_breaker import CircuitState
from aicp.scheduling import serving
from aicp.testing.faulty_agents import ScriptedAgent, fault, misconfigured, ok, overloaded, unavailable
from tests.unit.flow_kit import ECHO, Flow, now, task, virtual


class TestNoCapableAgent:
    @virtual
    async def test_what_nobody_has_ever_offered_is_refused_at_once_waiting_or_not(self) -> None:
        async with Flow(ScriptedAgent("a")) as flow:
            for wait in (False, True):
                with pytest.raises(NoCapableAgent, match=r"never\.offered"):
                    await flow.router.route_task(task("never.offered"), wait=wait)
            with pytest.raises(NoCapableAgent):
                await flow.router.route_task(task(f"{ECHO}@2"))

    @virtual
    async def test_what_somebody_offered_once_is_only_not_available(self) -> None:
        async with Flow(ScriptedAgent("a")) as flow:
            flow.scheduler.remove_agent("a")
            with pytest.raises(NoAgentAvailable):
                await flow.router.route_task(task())


class TestInvalidTask:
    @virtual
    async def test_a_task_that_cannot_be_used_is_refused_with_every_fault(self) -> None:
        async with Flow(ScriptedAgent("a")) as flow:
            with pytest.raises(InvalidTask) as raised:
                await flow.router.route_task(task("not a name!", timeout_s=-1.0, depends_on=("x",)))
            assert {fault.place for fault in raised.value.faults} == {"/capability", "/timeout_s", "/depends_on"}
            assert flow.tried() == []


class TestNoAgentAvailable:
    @virtual
    async def test_it_is_raised_at_once_with_the_reason_and_the_earliest_retry(self) -> None:
        async with Flow(ScriptedAgent("a"), ScriptedAgent("b")) as flow:
            flow.board.record_evidence("a", [ECHO] * 5)
            flow.scheduler.set_liveness("b", Liveness.OFFLINE)
            began_at = now()
            with pytest.raises(NoAgentAvailable) as raised:
                await flow.router.route_task(task())
            assert now() == began_at
            assert raised.value.capability == ECHO
            assert raised.value.retry_after_s == pytest.approx(1.0)
            assert set(raised.value.reasons) == {"a: circuit open", "b: offline"}
            assert flow.tried() == []

    @virtual
    async def test_a_retry_at_the_time_it_told_succeeds(self) -> None:
        async with Flow(ScriptedAgent("a", [overloaded(4.0)])) as flow:
            with pytest.raises(NoAgentAvailable) as raised:
                await flow.router.route_task(task())
            await asyncio.sleep(raised.value.retry_after_s)
            assert (await flow.router.route_task(task())).status is TaskStatus.COMPLETED

    @virtual
    async def test_it_names_eight_agents_at_most(self) -> None:
        async with Flow(*(ScriptedAgent(f"a{number}") for number in range(30))) as flow:
            for number in range(30):
                flow.scheduler.drain_agent(f"a{number}")
            with pytest.raises(NoAgentAvailable) as raised:
                await flow.router.route_task(task())
            assert len(raised.value.reasons) == 8

    @virtual
    async def test_a_direct_call_waits_for_busy_agents(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=ok(after_s=30.0))) as flow:
            began_at = now()
            first, second = await asyncio.gather(flow.router.route_task(task()), flow.router.route_task(task()))
            assert first.status is second.status is TaskStatus.COMPLETED
            assert now() - began_at == pytest.approx(60.0)

    @virtual
    async def test_a_direct_call_in_line_hears_when_all_go_out(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=ok(after_s=30.0))) as flow:
            busy = asyncio.create_task(flow.router.route_task(task()))
            await asyncio.sleep(1)
            waiting = asyncio.create_task(flow.router.route_task(task()))
            await asyncio.sleep(1)
            flow.scheduler.drain_agent("a")
            went_out_at = now()
            with pytest.raises(NoAgentAvailable, match="a: draining"):
                await waiting
            assert now() == went_out_at
            assert (await busy).status is TaskStatus.COMPLETED

    @virtual
    async def test_the_only_agent_misconfigured_is_told_as_such(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=misconfigured())) as flow:
            with pytest.raises((AllAgentsFailed, NoAgentAvailable), match="answered 401"):
                await flow.router.route_task(task())
            with pytest.raises(NoAgentAvailable, match="a: set aside as misconfigured"):
                await flow.router.route_task(task())


class TestAcceptedWork:
    @virtual
    async def test_it_waits_for_agents_that_are_out_and_then_runs(self) -> None:
        async with Flow(ScriptedAgent("a")) as flow:
            flow.scheduler.set_liveness("a", Liveness.OFFLINE)
            waiting = asyncio.create_task(flow.router.route_task(task(), wait=True))
            await asyncio.sleep(300)
            assert not waiting.done()
            flow.scheduler.set_liveness("a", Liveness.HEARD)
            assert (await waiting).status is TaskStatus.COMPLETED

    @virtual
    async def test_it_ends_by_its_deadline(self) -> None:
        async with Flow(ScriptedAgent("a")) as flow:
            flow.scheduler.set_liveness("a", Liveness.OFFLINE)
            for deadline_s, expected_s in ((30.0, 30.0), (None, 600.0)):
                began_at = now()
                with pytest.raises(DeadlineExceeded):
                    await flow.router.route_task(task(deadline_s=deadline_s), wait=True)
                assert now() - began_at == pytest.approx(expected_s)

    @virtual
    async def test_with_everybody_dead_it_is_tried_until_somebody_lives(self) -> None:
        agents = [ScriptedAgent("a"), ScriptedAgent("b")]
        async with Flow(*agents) as flow:
            for agent in agents:
                agent.kill()
            waiting = asyncio.create_task(flow.router.route_task(task(), wait=True))
            await asyncio.sleep(200)
            assert not waiting.done()
            agents[1].revive()
            revived_at, result = now(), await waiting
            assert result.agent_id == "b"
            assert now() - revived_at <= 70


class TestAllAgentsFailed:
    @virtual
    async def test_it_carries_what_was_tried_in_order(self) -> None:
        agents = (
            ScriptedAgent("a", otherwise=fault("answered 500")),
            ScriptedAgent("b", otherwise=fault("answered 502")),
        )
        async with Flow(*agents) as flow:
            with pytest.raises(AllAgentsFailed, match="answered 500") as raised:
                await flow.router.route_task(task())
            assert len(raised.value.attempts) == 6
            assert {(each.agent_id, each.reason) for each in raised.value.attempts} == {
                ("a", "answered 500"),
                ("b", "answered 502"),
            }
            assert all(each.outcome == Outcome.AGENT_FAULT for each in raised.value.attempts)
            assert raised.value.task_id == flow.transport.calls[0].call.task_id

    @virtual
    async def test_when_all_go_out_after_a_fault_it_says_what_was_tried(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=fault("answered 500"))) as flow:
            for _ in range(4):
                with pytest.raises(AllAgentsFailed):
                    await flow.router.route_task(task(idempotent=False))
            with pytest.raises(AllAgentsFailed, match="answered 500"):
                await flow.router.route_task(task())
            assert flow.state("a") is not CircuitState.CLOSED


class TestQueueFull:
    @virtual
    async def test_a_full_line_refuses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serving, "WAITING_MAX", 1)
        async with Flow(ScriptedAgent("a", otherwise=ok(after_s=5.0))) as flow:
            calls = [asyncio.create_task(flow.router.route_task(task())) for _ in range(2)]
            await asyncio.sleep(1)
            with pytest.raises(QueueFull, match="waiting") as raised:
                await flow.router.route_task(task())
            assert raised.value.retry_after_s > 0
            assert all(result.status is TaskStatus.COMPLETED for result in await asyncio.gather(*calls))


class TestHealth:
    @virtual
    async def test_it_tells_circuits_counters_and_what_has_nobody(self) -> None:
        good = ScriptedAgent("good", latency_s=0.25)
        dead = ScriptedAgent("dead", otherwise=unavailable(), capabilities=("test.dead",))
        async with Flow(good, dead) as flow:
            await flow.router.route_task(task())
            for _ in range(5):
                with pytest.raises(NoAgentAvailable):
                    await flow.router.route_task(task("test.dead"))
            health = flow.router.health()
            assert (health.total_agents, health.healthy_agents, health.open_circuits) == (2, 1, 1)
            assert health.capabilities_out == ["test.dead"]
            alive, gone = health.agents["good"], health.agents["dead"]
            assert (alive.state, alive.success_count, alive.success_rate) == (CircuitState.CLOSED, 1, 1.0)
            assert alive.latency_ms == pytest.approx(250.0)
            assert (gone.state, gone.failure_count, gone.success_rate) == (CircuitState.OPEN, 5, 0.0)
            assert gone.retry_after_s == pytest.approx(1.0)
            assert gone.backoff_s == 1.0
