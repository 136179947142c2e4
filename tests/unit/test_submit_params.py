"""At submit, params that fit no registered agent are refused, with their place, and nothing runs."""

from typing import Any

import pytest

from aicp.errors import InvalidChain, InvalidTask
from aicp.model.agent import AgentProfile, Capability
from aicp.model.chain import TaskChain
from aicp.model.task import Task, TaskStatus
from aicp.resilience.board import CircuitBoard
from aicp.scheduling.task_scheduler import TaskScheduler
from aicp.testing.faulty_agents import ScriptedAgent
from tests.unit.flow_kit import ECHO, Flow, virtual


def demanding(agent_id: str, field: str) -> ScriptedAgent:
    """An agent that wants a string under `field`."""
    schema: dict[str, Any] = {"type": "object", "required": [field], "properties": {field: {"type": "string"}}}
    agent = ScriptedAgent(agent_id)
    agent.profile = AgentProfile(agent_id, (Capability(ECHO, input_schema=schema),))
    return agent


@virtual
async def test_params_that_fit_nobody_are_refused_at_submit_and_nothing_is_sent() -> None:
    async with Flow(demanding("a", "url"), demanding("b", "path")) as flow:
        with pytest.raises(InvalidTask) as caught:
            await flow.coordinator.submit_task(Task(ECHO, {"name": "x"}))
        assert [fault.place for fault in caught.value.faults] == ["/params"]
        assert flow.tried() == []


@virtual
async def test_params_that_fit_one_of_many_are_accepted_and_go_to_that_one() -> None:
    async with Flow(demanding("a", "url"), demanding("b", "path")) as flow:
        chain_id, _, _ = (await flow.coordinator.submit_task(Task(ECHO, {"path": "/x"}))).partition(".")
        ended = await flow.coordinator.wait_result(chain_id)
        assert ended.status is TaskStatus.COMPLETED
        assert flow.tried() == ["b"]


@virtual
async def test_every_misfit_of_a_chain_is_told_with_its_place() -> None:
    chain = TaskChain("misfits")
    chain.add_task(ECHO, {"url": "fits"})
    chain.add_task(ECHO, {"url": 1})
    chain.add_task(ECHO, {})
    async with Flow(demanding("a", "url")) as flow:
        with pytest.raises(InvalidChain) as caught:
            await flow.coordinator.submit(chain)
        assert [fault.place for fault in caught.value.faults] == ["/tasks/1/params", "/tasks/2/params"]


@virtual
async def test_params_with_references_are_not_judged_before_they_are_resolved() -> None:
    chain = TaskChain("resolved")
    first = chain.add_task(ECHO, {"url": "x"})
    chain.add_task(ECHO, {"url": first.output["url"]})
    agent = demanding("a", "url")
    async with Flow(agent) as flow:
        await flow.coordinator.wait_result(await flow.coordinator.submit(chain))
        assert len(flow.tried()) == 2


@virtual
async def test_a_named_agents_schema_is_the_one_that_counts() -> None:
    async with Flow(demanding("a", "url"), demanding("b", "path")) as flow:
        with pytest.raises(InvalidTask):
            await flow.coordinator.submit_task(Task(ECHO, {"path": "/x"}, agents=("a",)))


def fleet_of(*agents: tuple[str, dict[str, Any] | None]) -> TaskScheduler:
    scheduler = TaskScheduler(CircuitBoard())
    for agent_id, schema in agents:
        scheduler.add_agent(AgentProfile(agent_id, (Capability(ECHO, input_schema=schema),)))
    return scheduler


def wanted(scheduler: TaskScheduler, task: Task | None = None) -> list[Any]:
    return list(scheduler.input_schemas(task or Task(ECHO)))


@virtual
async def test_submit_is_checked_against_each_different_schema_and_not_against_each_agent() -> None:
    scheduler = fleet_of(*((f"a{n}", {"type": "object"}) for n in range(500)), *((f"b{n}", None) for n in range(500)))
    assert wanted(scheduler) == [{"type": "object"}, None]


@virtual
async def test_schema_is_looked_at_until_the_last_agent_that_declares_it_has_gone_or_changed() -> None:
    scheduler = fleet_of(("a", {"type": "object"}), ("b", {"type": "object"}), ("c", None))
    scheduler.remove_agent("a")
    assert wanted(scheduler) == [{"type": "object"}, None]
    scheduler.add_agent(AgentProfile("b", (Capability(ECHO),)))
    assert wanted(scheduler) == [None]
    scheduler.remove_agent("b")
    scheduler.remove_agent("c")
    assert wanted(scheduler) == []


@virtual
async def test_task_that_names_agents_is_checked_against_theirs() -> None:
    scheduler = fleet_of(("a", {"type": "object"}), ("b", None))
    assert wanted(scheduler, Task(ECHO, agents=("b",))) == [None]
    assert wanted(scheduler, Task(ECHO, exclude_agents=("b",))) == [{"type": "object"}]
