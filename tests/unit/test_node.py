"""The node: everything wired as it is in use, with agents in this process and scripted ones elsewhere."""

import asyncio
import logging
from typing import Any

import pytest

from aicp import Node, TaskFailed
from aicp.errors import AgentNotFound, AicpError, InvalidAgent, NoAgentAvailable
from aicp.model.agent import AgentAuth
from aicp.model.chain import TaskChain
from aicp.model.event import (
    AgentChanged,
    AttemptEnded,
    CapabilityChanged,
    ChainEnded,
    ChainSubmitted,
    CircuitChanged,
    TaskEnded,
)
from aicp.model.outcome import Outcome
from aicp.model.task import TaskStatus
from aicp.model.wire import AgentDescription
from aicp.resilience.circuit_breaker import BreakerPolicy, CircuitState
from aicp.testing import Trace, VirtualClock, run
from aicp.testing.faulty_agents import ScriptedAgent, ScriptedTransport, fault, misconfigured
from tests.unit.flow_kit import ECHO, Recorder, now, task, virtual

COMPLETED, FAILED = TaskStatus.COMPLETED, TaskStatus.FAILED


class Elsewhere(ScriptedTransport):
    """Scripted agents behind URLs, `http://<agent id>`."""

    async def check(self, endpoint_url: str) -> None:
        """Agents may live anywhere."""

    async def describe(self, endpoint_url: str, auth: AgentAuth | None = None) -> AgentDescription:
        agent_id = endpoint_url.removeprefix("http://")
        scripted = self._agents.get(agent_id)
        if scripted is None:
            raise InvalidAgent(f"The agent at {endpoint_url} does not answer.")
        profile = scripted.profile
        return AgentDescription(agent_id, profile.capabilities, "instance", profile.max_concurrent_tasks)


def node(*agents: ScriptedAgent, breaker: BreakerPolicy | None = None, seed: int = 0) -> Node:
    return Node(clock=VirtualClock(), seed=seed, breaker=breaker, make_remote=lambda: Elsewhere(*agents))


async def echo(params: dict[str, Any]) -> Any:
    await asyncio.sleep(params.get("s", 0.0))
    return params


async def refuse(params: dict[str, Any]) -> Any:
    raise TaskFailed("no_face", "There is no face.")


async def break_down(params: dict[str, Any]) -> Any:
    raise ValueError("no such pixel")


class TestAgents:
    @virtual
    async def test_functions_of_this_process_are_agents(self) -> None:
        async with node() as aicp:
            profile = await aicp.add_agent(
                "eyes", {"image.label": echo, "image.label@2": refuse}, max_concurrent_tasks=4
            )
            assert profile.max_concurrent_tasks == 4
            assert (await aicp.router.route_task(task("image.label", params={"n": 1}))).result == {"n": 1}
            refused = await aicp.router.route_task(task("image.label@2"))
            assert refused.error is not None
            assert refused.error.code == "no_face"

    @virtual
    async def test_agents_elsewhere_say_what_they_are(self) -> None:
        async with node(ScriptedAgent("far", max_concurrent_tasks=3)) as aicp:
            profile = await aicp.add_agent(endpoint="http://far")
            assert (profile.agent_id, profile.max_concurrent_tasks) == ("far", 3)
            assert (await aicp.router.route_task(task(params={"n": 2}))).result == {"n": 2}

    @virtual
    async def test_they_may_be_added_before_the_start(self) -> None:
        aicp = node()
        await aicp.add_agent("eyes", {ECHO: echo})
        async with aicp:
            assert (await aicp.router.route_task(task())).status is COMPLETED

    @virtual
    async def test_what_is_neither_or_both_or_does_not_answer_is_refused(self) -> None:
        async with node() as aicp:
            with pytest.raises(InvalidAgent, match="either handlers"):
                await aicp.add_agent("eyes")
            with pytest.raises(InvalidAgent, match="either handlers"):
                await aicp.add_agent("eyes", {ECHO: echo}, endpoint="http://far")
            with pytest.raises(InvalidAgent, match="does not answer"):
                await aicp.add_agent(endpoint="http://nowhere")
            for wrong in ({}, {"not a name!": echo}, {"x@y": echo}):
                with pytest.raises(InvalidAgent):
                    await aicp.add_agent("eyes", wrong)
            with pytest.raises(InvalidAgent):
                await aicp.add_agent("eyes", {ECHO: echo}, max_concurrent_tasks=0)
            with pytest.raises(InvalidAgent):
                await aicp.add_agent(None, {ECHO: echo})
            assert aicp.ains.agents() == []

    @virtual
    async def test_who_waits_is_served_by_an_agent_added_in_that_moment(self) -> None:
        async with node() as aicp:
            await aicp.add_agent("first", {ECHO: echo})
            aicp.remove_agent("first")
            waiting = asyncio.create_task(aicp.router.route_task(task(), wait=True))
            await asyncio.sleep(5)
            await aicp.add_agent("second", {ECHO: echo})
            assert (await waiting).agent_id == "second"

    @virtual
    async def test_draining_removing_and_resetting_take_effect_at_once(self) -> None:
        async with node() as aicp:
            await aicp.add_agent("eyes", {ECHO: echo})
            aicp.drain_agent("eyes")
            with pytest.raises(NoAgentAvailable, match="draining"):
                await aicp.router.route_task(task())
            await aicp.add_agent("eyes", {ECHO: echo})
            await aicp.router.route_task(task())
            aicp.board.record_evidence("eyes", [ECHO] * 5)
            with pytest.raises(NoAgentAvailable, match="circuit open"):
                await aicp.router.route_task(task())
            aicp.reset_agent("eyes")
            await aicp.router.route_task(task())
            aicp.remove_agent("eyes")
            with pytest.raises(NoAgentAvailable):
                await aicp.router.route_task(task())
            for forgotten in (aicp.drain_agent, aicp.remove_agent, aicp.reset_agent):
                with pytest.raises(AgentNotFound):
                    forgotten("eyes")

    @virtual
    async def test_operators_orders_hold_until_they_are_taken_back(self) -> None:
        async with node() as aicp:
            await aicp.add_agent("eyes", {ECHO: echo})
            aicp.board.force_open("eyes")
            aicp.scheduler.refresh("eyes")
            with pytest.raises(NoAgentAvailable, match="opened by an operator"):
                await aicp.router.route_task(task())
            await asyncio.sleep(3_600)
            assert aicp.router.health().agents["eyes"].state is CircuitState.FORCED_OPEN
            aicp.reset_agent("eyes")
            assert (await aicp.router.route_task(task())).status is COMPLETED

    @virtual
    async def test_a_task_of_a_removed_agent_goes_on(self) -> None:
        async with node() as aicp:
            await aicp.add_agent("eyes", {ECHO: echo})
            running = asyncio.create_task(aicp.router.route_task(task(params={"s": 10})))
            await asyncio.sleep(1)
            aicp.remove_agent("eyes")
            assert (await running).status is COMPLETED


class TestResilience:
    @virtual
    async def test_an_agent_that_dies_is_left_alone_and_used_again_once_it_lives(self) -> None:
        mortal = ScriptedAgent("mortal")
        async with node(mortal) as aicp:
            await aicp.add_agent(endpoint="http://mortal")
            await aicp.add_agent("steady", {ECHO: echo})
            mortal.kill()
            for _ in range(30):
                assert (await aicp.router.route_task(task())).status is COMPLETED
                await asyncio.sleep(1)
            assert aicp.router.health().agents["mortal"].state is CircuitState.OPEN
            mortal.revive()
            await asyncio.sleep(30)
            assert aicp.router.health().agents["mortal"].state is CircuitState.HALF_OPEN
            for _ in range(3):
                await aicp.router.route_task(task(agents=("mortal",)))
            assert aicp.router.health().agents["mortal"].state is CircuitState.CLOSED

    @virtual
    async def test_a_local_agent_that_breaks_down_is_let_in_again_without_a_healthz(self) -> None:
        broken = True

        async def sometimes(params: dict[str, Any]) -> Any:
            return await (break_down if broken else echo)(params)

        async with node() as aicp:
            await aicp.add_agent("eyes", {ECHO: sometimes})
            for _ in range(5):
                with pytest.raises(AicpError, match="no such pixel"):
                    await aicp.router.route_task(task(idempotent=False))
            broken = False
            result = await aicp.router.route_task(task(), wait=True)
            assert result.status is COMPLETED

    @virtual
    async def test_a_capability_without_agents_is_said_loudly_and_so_is_its_return(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        seen = Recorder()
        with caplog.at_level(logging.WARNING, logger="aicp.runtime.node"):
            async with node() as aicp:
                aicp.observe(seen)
                await aicp.add_agent("eyes", {ECHO: echo})
                aicp.drain_agent("eyes")
                assert aicp.router.health().capabilities_out == [ECHO]
                await aicp.add_agent("eyes", {ECHO: echo})
        changes = [(each.capability, each.is_out) for each in seen.events if isinstance(each, CapabilityChanged)]
        assert changes == [(ECHO, True), (ECHO, False)]
        assert [record.getMessage() for record in caplog.records] == [
            f"capability {ECHO} is out: every agent that offers it is",
            f"capability {ECHO} is back",
        ]

    @virtual
    async def test_a_single_agent_that_recovers_is_not_called_out_and_back_with_every_probe(self) -> None:
        seen = Recorder()
        mortal = ScriptedAgent("mortal", max_concurrent_tasks=4)
        async with node(mortal) as aicp:
            await aicp.add_agent(endpoint="http://mortal")
            aicp.observe(seen)
            mortal.kill()
            calls = [asyncio.create_task(aicp.router.route_task(task(), wait=True)) for _ in range(8)]
            await asyncio.sleep(60)
            mortal.revive()
            await asyncio.gather(*calls)
            changes = [each.is_out for each in seen.events if isinstance(each, CapabilityChanged)]
            assert changes == [True, False]

    @virtual
    async def test_circuits_that_move_are_told(self) -> None:
        seen = Recorder()
        async with node(ScriptedAgent("far", [fault()] * 5)) as aicp:
            await aicp.add_agent(endpoint="http://far")
            aicp.observe(seen)
            for _ in range(5):
                with pytest.raises(AicpError):
                    await aicp.router.route_task(task(idempotent=False))
            for _ in range(3):
                await aicp.router.route_task(task(), wait=True)
            moves = [(each.agent_id, each.state) for each in seen.events if isinstance(each, CircuitChanged)]
            assert moves == [("far", "OPEN"), ("far", "HALF_OPEN"), ("far", "CLOSED")]

    @virtual
    async def test_orders_for_circuits_that_were_never_used_are_told_once(self) -> None:
        seen = Recorder()
        async with node(ScriptedAgent("far"), ScriptedAgent("near")) as aicp:
            for name in ("far", "near"):
                await aicp.add_agent(endpoint=f"http://{name}")
            aicp.observe(seen)
            for order in (aicp.open_agent, aicp.open_agent, aicp.disable_agent, aicp.reset_agent, aicp.reset_agent):
                order("far")
            moves = [(each.agent_id, each.state) for each in seen.events if isinstance(each, CircuitChanged)]
            assert moves == [("far", "FORCED_OPEN"), ("far", "DISABLED"), ("far", "CLOSED")]

    @virtual
    async def test_an_agent_that_is_set_aside_and_forgiven_is_told(self) -> None:
        seen = Recorder()
        async with node(ScriptedAgent("far", [misconfigured()])) as aicp:
            await aicp.add_agent(endpoint="http://far")
            aicp.observe(seen)
            with pytest.raises(AicpError):
                await aicp.router.route_task(task())
            aicp.reset_agent("far")
            await aicp.router.route_task(task())
            changes = [(each.change, each.reason) for each in seen.events if isinstance(each, AgentChanged)]
            assert changes == [("set_aside", "answered 401"), ("restored", "")]


class TestChains:
    @virtual
    async def test_a_chain_runs_across_agents(self) -> None:
        async with node(ScriptedAgent("far", [fault()], capabilities=("text.extract",))) as aicp:
            await aicp.add_agent("near", {"image.fetch": echo})
            await aicp.add_agent(endpoint="http://far")
            chain = TaskChain("analysis")
            fetch = chain.add_task("image.fetch", {"image": "bytes"})
            text = chain.add_task("text.extract", {"image": fetch.output["image"]})
            result = await aicp.coordinator.execute_chain(chain)
            assert result.status is COMPLETED
            assert result[text].result == {"image": "bytes"}
            assert [each.outcome for each in result[text].attempts] == [Outcome.AGENT_FAULT, Outcome.SUCCESS]

    @virtual
    async def test_observers_see_a_chain_from_submit_to_end(self) -> None:
        seen = Recorder()
        async with node() as aicp:
            stop = aicp.observe(seen)
            await aicp.add_agent("near", {ECHO: echo})
            await aicp.coordinator.execute_parallel_tasks([task()])
            stop()
            await aicp.coordinator.execute_parallel_tasks([task()])
        kinds = [type(event).__name__ for event in seen.events]
        assert kinds == [
            AgentChanged.__name__,
            ChainSubmitted.__name__,
            "AttemptStarted",
            AttemptEnded.__name__,
            TaskEnded.__name__,
            ChainEnded.__name__,
        ]

    @virtual
    async def test_stopping_leaves_nothing_behind_and_tells_who_waits(self) -> None:
        slow = ScriptedAgent("far", otherwise=fault(after_s=50.0))
        async with node(slow) as aicp:
            await aicp.add_agent(endpoint="http://far")
            chain_id = await aicp.coordinator.submit_task(task())
            waiting = asyncio.create_task(aicp.coordinator.wait_result(chain_id.partition(".")[0]))
            await asyncio.sleep(5)
        with pytest.raises(AicpError, match="stopped"):
            await waiting
        assert slow.under_way.value == 0
        assert len(asyncio.all_tasks()) == 1


def trace_of(seed: int) -> str:
    async def main() -> None:
        agents = [ScriptedAgent(f"far-{number}", [fault()], max_concurrent_tasks=2) for number in range(4)]
        async with node(*agents, seed=seed) as aicp:
            for each in agents:
                await aicp.add_agent(endpoint=f"http://{each.profile.agent_id}")
            results = await aicp.coordinator.execute_parallel_tasks([task() for _ in range(50)])
            assert {result.status for result in results} == {COMPLETED}

    trace = Trace()
    run(main(), trace=trace)
    return trace.digest


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    assert trace_of(1) == trace_of(1) != trace_of(2)


@virtual
async def test_what_the_clock_shows_is_what_people_read() -> None:
    async with node() as aicp:
        await aicp.add_agent("near", {ECHO: echo})
        began_at, began = VirtualClock().utcnow(), now()
        result = await aicp.router.route_task(task(params={"s": 45.0}))
        assert result.ended_at is not None
        assert (result.ended_at - began_at).total_seconds() == now() - began == 45.0
