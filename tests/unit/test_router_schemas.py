"""What agents declare is kept: params that do not fit are not sent, results that do not fit are the agent's fault."""

import asyncio
from typing import Any

import msgspec
import pytest

from aicp.errors import AllAgentsFailed, DeadlineExceeded, NoAgentAvailable
from aicp.model.agent import AgentProfile, Capability
from aicp.model.outcome import Outcome
from aicp.model.task import TaskStatus
from aicp.testing.faulty_agents import ScriptedAgent, caller_fault, fault, ok, overloaded
from tests.unit.flow_kit import ECHO, Flow, measured, now, task, virtual

NEEDS_URL = {"type": "object", "required": ["url"]}
NEEDS_NUMBER = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
URL, NUMBER = {"url": "x"}, {"n": 1}


def declaring(agent: ScriptedAgent, **schemas: Any) -> AgentProfile:
    return msgspec.structs.replace(agent.profile, capabilities=(Capability(ECHO, **schemas),))


async def flow_of(flow: Flow, **input_schemas: dict[str, Any] | None) -> None:
    """Register each agent with an input schema."""
    for agent_id, schema in input_schemas.items():
        profile = flow.scheduler.member(agent_id).profile
        declared = Capability(ECHO, input_schema=schema)
        flow.scheduler.add_agent(msgspec.structs.replace(profile, capabilities=(declared,)))


def two() -> tuple[ScriptedAgent, ScriptedAgent]:
    return ScriptedAgent("a"), ScriptedAgent("b")


class TestParams:
    @virtual
    async def test_params_that_fit_are_sent(self) -> None:
        async with Flow(ScriptedAgent("a")) as flow:
            await flow_of(flow, a=NEEDS_URL)
            assert (await flow.router.route_task(task(params=URL))).result == URL

    @virtual
    async def test_params_that_do_not_fit_are_not_sent_and_another_agent_is_tried(self) -> None:
        for _ in range(2):
            async with Flow(*two()) as flow:
                await flow_of(flow, a=NEEDS_NUMBER, b=NEEDS_URL)
                for params, agent_id in ((URL, "b"), (NUMBER, "a")) * 5:
                    result = await flow.router.route_task(task(params=params))
                    assert result.status is TaskStatus.COMPLETED
                    assert result.agent_id == agent_id
                assert len(flow.tried()) == 10

    @virtual
    async def test_params_that_fit_nobody_are_the_callers_fault(self) -> None:
        async with Flow(*two()) as flow:
            await flow_of(flow, a=NEEDS_NUMBER, b=NEEDS_URL)
            for wait in (False, True):
                began_at, result = now(), await flow.router.route_task(task(params={}), wait=wait)
                assert result.status is TaskStatus.FAILED
                assert result.error is not None
                assert result.error.code == "caller_fault"
                assert "params do not fit" in result.error.message
                assert now() == began_at
            assert flow.tried() == []

    @virtual
    async def test_a_misfit_teaches_nothing_and_costs_no_attempt_and_no_token(self) -> None:
        async with Flow(*two()) as flow:
            await flow_of(flow, a=NEEDS_NUMBER, b=NEEDS_NUMBER)
            for _ in range(10):
                await flow.router.route_task(task(params=URL))
            assert flow.board.get_metrics("a") == flow.board.get_metrics("b") == {}
            assert flow.scheduler.member("a").failures == 0

    @virtual
    async def test_what_must_not_be_sent_twice_tries_the_next_since_nothing_was_sent(self) -> None:
        async with Flow(*two()) as flow:
            await flow_of(flow, a=NEEDS_NUMBER)
            for _ in range(5):
                result = await flow.router.route_task(task(params=URL, idempotent=False))
                assert result.agent_id == "b"

    @virtual
    async def test_accepted_work_waits_for_the_agent_it_fits_while_that_one_is_out(self) -> None:
        async with Flow(*two()) as flow:
            await flow_of(flow, a=NEEDS_NUMBER)
            flow.scheduler.drain_agent("b")
            routing = asyncio.create_task(flow.router.route_task(task(params=URL), wait=True))
            await asyncio.sleep(100)
            assert not routing.done()
            flow.scheduler.add_agent(flow.scheduler.member("b").profile)
            back_at, result = now(), await routing
            assert result.status is TaskStatus.COMPLETED
            assert now() - back_at < 0.1

    @virtual
    async def test_a_direct_call_is_told_that_the_agent_it_fits_is_out(self) -> None:
        async with Flow(*two()) as flow:
            await flow_of(flow, a=NEEDS_NUMBER)
            flow.scheduler.drain_agent("b")
            with pytest.raises(NoAgentAvailable, match="b: draining"):
                await flow.router.route_task(task(params=URL))

    @virtual
    async def test_a_direct_call_waits_for_the_agent_it_fits_while_that_one_is_busy(self) -> None:
        a, b = ScriptedAgent("a"), ScriptedAgent("b", [ok(after_s=30.0)])
        async with Flow(a, b) as flow:
            await flow_of(flow, a=NEEDS_NUMBER)
            busy = asyncio.create_task(flow.router.route_task(task(params=URL)))
            await asyncio.sleep(1)
            result = await flow.router.route_task(task(params=URL))
            assert result.agent_id == "b"
            await busy

    @virtual
    async def test_a_misfit_and_a_refusal_are_no_reason_to_give_up_on_who_fits(self) -> None:
        a, b = ScriptedAgent("a"), ScriptedAgent("b", [overloaded(5.0)])
        async with Flow(a, b) as flow:
            await flow_of(flow, a=NEEDS_NUMBER)
            result = await flow.router.route_task(task(params=URL), wait=True)
            assert result.status is TaskStatus.COMPLETED
            assert result.agent_id == "b"

    @virtual
    async def test_waiting_for_who_fits_ends_at_the_deadline(self) -> None:
        async with Flow(*two()) as flow:
            await flow_of(flow, a=NEEDS_NUMBER)
            flow.scheduler.drain_agent("b")
            with pytest.raises(DeadlineExceeded):
                await flow.router.route_task(task(params=URL, deadline_s=20.0), wait=True)

    @virtual
    async def test_a_misfit_is_no_second_opinion(self) -> None:
        agents = ScriptedAgent("a", otherwise=caller_fault()), ScriptedAgent("b"), ScriptedAgent("c")
        async with Flow(*agents) as flow:
            await flow_of(flow, b=NEEDS_NUMBER)
            for agent_id, latency_s in (("a", 0.001), ("b", 0.01), ("c", 10.0)):
                measured(flow.scheduler.member(agent_id).seats[ECHO], latency_s)
                flow.scheduler.refresh(agent_id)
            result = await flow.router.route_task(task(params=URL))
            assert result.status is TaskStatus.COMPLETED
            assert flow.tried() == ["a", "c"]
            assert flow.board.get_metrics("a")[ECHO].failures == 1


class TestResults:
    @virtual
    async def test_a_result_that_does_not_fit_is_the_agents_fault_and_another_is_tried(self) -> None:
        a, b = ScriptedAgent("a", otherwise=ok(result={"n": "one"})), ScriptedAgent("b", otherwise=ok(result=NUMBER))
        async with Flow(a, b) as flow:
            for agent in (a, b):
                flow.scheduler.add_agent(declaring(agent, output_schema=NEEDS_NUMBER))
            for _ in range(5):
                result = await flow.router.route_task(task())
                assert result.result == NUMBER
            outcomes = {each.outcome for each in flow.seen.ended if each.agent_id == "a"}
            assert outcomes == {Outcome.AGENT_FAULT}
            assert flow.board.get_metrics("a")[ECHO].failures > 0

    @virtual
    async def test_what_must_not_be_sent_twice_is_not(self) -> None:
        a = ScriptedAgent("a", otherwise=ok(result={"n": "one"}))
        async with Flow(a) as flow:
            flow.scheduler.add_agent(declaring(a, output_schema=NEEDS_NUMBER))
            with pytest.raises(AllAgentsFailed, match="result does not fit"):
                await flow.router.route_task(task(idempotent=False))
            assert flow.tried() == ["a"]

    @virtual
    async def test_a_result_that_no_agent_makes_fit_may_be_the_tasks_fault(self) -> None:
        agents = [ScriptedAgent(name, otherwise=ok(result={"n": "one"})) for name in ("a", "b")]
        async with Flow(*agents) as flow:
            for each in agents:
                flow.scheduler.add_agent(declaring(each, output_schema=NEEDS_NUMBER))
            for _ in range(5):
                with pytest.raises(AllAgentsFailed):
                    await flow.router.route_task(task())
            circuits = [flow.board.get_metrics(name)[ECHO] for name in ("a", "b")]
            assert [(each.failures, each.doubts_in_row) for each in circuits] == [(0, 0), (0, 0)]

    @virtual
    async def test_what_is_no_result_is_not_checked(self) -> None:
        a, b = ScriptedAgent("a", otherwise=fault("answered 500")), ScriptedAgent("b", otherwise=ok(result=NUMBER))
        async with Flow(a, b) as flow:
            for agent in (a, b):
                flow.scheduler.add_agent(declaring(agent, output_schema=NEEDS_NUMBER))
            for _ in range(5):
                await flow.router.route_task(task())
            assert {each.reason for each in flow.seen.ended if each.agent_id == "a"} == {"answered 500"}
