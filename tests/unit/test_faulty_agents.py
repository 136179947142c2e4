"""The test kit is tested: scripted agents keep the contract, do what their script says and take virtual time."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aicp.model.outcome import Outcome, Reply
from aicp.testing import faulty_agents as kit
from aicp.testing.faulty_agents import ScriptedAgent, ScriptedTransport, Step
from aicp.testing.gauge import Gauge
from aicp.testing.transport_contract import Subject, TransportContract, call
from aicp.testing.virtual_time import run as run_virtually


class TestScriptedTransportKeepsTheContract(TransportContract):
    def run(self, main: Coroutine[Any, Any, None]) -> None:
        run_virtually(main)

    @asynccontextmanager
    async def subject(self) -> AsyncIterator[Subject]:
        echoing, missing = ScriptedAgent("echoing"), ScriptedAgent("missing")
        failing = ScriptedAgent("failing", otherwise=kit.fault())
        hanging = ScriptedAgent("hanging", otherwise=kit.hang())
        transport = ScriptedTransport(echoing, failing, hanging)
        yield Subject(transport, echoing.profile, failing.profile, hanging.profile, missing.profile, hanging.under_way)


def invoke(agent: ScriptedAgent, *, timeout_s: float = 60.0) -> tuple[Reply, float]:
    async def main() -> tuple[Reply, float]:
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        reply = await ScriptedTransport(agent).invoke(agent.profile, call(params={"n": 1}, timeout_s=timeout_s))
        return reply, round(loop.time() - began_at, 6)

    return run_virtually(main())


@pytest.mark.parametrize(
    ("step", "outcome", "took_s"),
    [
        (kit.ok(), Outcome.SUCCESS, 0.01),
        (kit.ok(2.5), Outcome.SUCCESS, 2.5),
        (kit.slow(100), Outcome.SUCCESS, 1.0),
        (kit.hang(), Outcome.AGENT_FAULT, 60.0),
        (kit.crash(3.0), Outcome.AGENT_FAULT, 3.0),
        (kit.fault(after_s=0.2), Outcome.AGENT_FAULT, 0.2),
        (kit.retryable_error(), Outcome.AGENT_FAULT, 0.01),
        (kit.task_failed(), Outcome.TASK_FAILED, 0.01),
        (kit.caller_fault(), Outcome.CALLER_FAULT, 0.01),
        (kit.overloaded(1.5), Outcome.OVERLOADED, 0.0),
        (kit.unavailable(), Outcome.UNAVAILABLE, 0.0),
        (kit.local_trouble(), Outcome.UNAVAILABLE, 0.0),
        (kit.misconfigured(), Outcome.MISCONFIGURED, 0.0),
        (kit.stale(), Outcome.CANCELLED, 0.0),
    ],
)
def test_each_step_ends_as_it_says_and_when_it_says(step: Step, outcome: Outcome, took_s: float) -> None:
    reply, took = invoke(ScriptedAgent("a", [step]))
    assert reply.outcome is outcome
    assert took == took_s
    assert bool(reply.reason) is (outcome is not Outcome.SUCCESS)


def test_script_is_followed_by_what_the_agent_does_otherwise() -> None:
    agent = ScriptedAgent("a", [kit.fault(), kit.ok(result="second")], otherwise=kit.task_failed())

    async def main() -> list[Outcome]:
        return [(await agent.invoke(call(f"c.{n}"))).outcome for n in range(4)]

    outcomes = run_virtually(main())
    assert outcomes == [Outcome.AGENT_FAULT, Outcome.SUCCESS, Outcome.TASK_FAILED, Outcome.TASK_FAILED]
    assert [recorded.call.task_id for recorded in agent.calls] == ["c.0", "c.1", "c.2", "c.3"]


def test_crash_takes_every_call_under_way_with_it_until_the_agent_is_revived() -> None:
    agent = ScriptedAgent("a", [kit.ok(10.0), kit.crash(1.0)])

    async def main() -> list[Reply]:
        both = await asyncio.gather(agent.invoke(call("c.1")), agent.invoke(call("c.2")))
        refused = await agent.invoke(call("c.3"))
        agent.revive()
        return [*both, refused, await agent.invoke(call("c.4"))]

    lost, crashed, refused, healed = run_virtually(main())
    assert lost.reason == crashed.reason == "connection closed before the answer"
    assert refused.outcome is Outcome.UNAVAILABLE
    assert healed.outcome is Outcome.SUCCESS
    assert agent.under_way.highest == 2


def test_calls_of_all_agents_are_told_in_order() -> None:
    a, b = ScriptedAgent("a"), ScriptedAgent("b")
    transport = ScriptedTransport(a)
    transport.add(b)

    async def main() -> None:
        for agent in (b, a, b):
            await transport.invoke(agent.profile, call())

    run_virtually(main())
    assert [recorded.agent_id for recorded in transport.calls] == ["b", "a", "b"]


def test_gauge_that_does_not_get_there_says_where_it_stood() -> None:
    gauge = Gauge()
    gauge.change(2)
    with pytest.raises(AssertionError, match="stood at 2"):
        run_virtually(gauge.reaches(3, within_s=60.0))
