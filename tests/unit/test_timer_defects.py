"""An exception inside AICP in a timer or a probe: what it was about is looked at again."""

import asyncio
from typing import Any

import pytest

from aicp.model.outcome import Outcome
from aicp.model.task import TaskStatus
from aicp.resilience.circuit_breaker import CircuitState
from aicp.testing.faulty_agents import ScriptedAgent
from tests.unit.flow_kit import ECHO, Flow, Stage, agent, task, virtual


class Raising:
    """A function that raises the first times, and then does its work."""

    def __init__(self, function: Any, times: int) -> None:
        self.function = function
        self.left = times

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        if self.left > 0:
            self.left -= 1
            raise LookupError("a defect")
        return self.function(*arguments, **options)


async def open_circuit(flow: Flow) -> None:
    for _ in range(5):
        lease = await flow.lease(task(agents=("a",)))
        flow.scheduler.complete_task(lease, Outcome.AGENT_FAULT, 0.1)
    assert flow.state("a") is CircuitState.OPEN


@pytest.mark.parametrize("times", [1, 3])
@virtual
async def test_an_agent_is_probed_again_after_a_defect_in_its_probe(times: int) -> None:
    async with Flow(ScriptedAgent("a")) as flow:
        flow.board.admit_probe = Raising(flow.board.admit_probe, times)  # type: ignore[method-assign]
        await open_circuit(flow)
        result = await flow.router.route_task(task(), wait=True)
        assert result.status is TaskStatus.COMPLETED


@pytest.mark.parametrize("times", [1, 3])
@virtual
async def test_an_agent_is_looked_at_again_after_a_defect_at_the_end_of_its_wait(times: int) -> None:
    async with Flow(ScriptedAgent("a")) as flow:
        flow.board.needs_probe = Raising(flow.board.needs_probe, times)  # type: ignore[method-assign]
        await open_circuit(flow)
        result = await flow.router.route_task(task(), wait=True)
        assert result.status is TaskStatus.COMPLETED


@virtual
async def test_a_defect_at_the_end_of_one_slot_lease_keeps_no_other() -> None:
    async with Stage(agent("a", slots=2)) as stage:
        first, second = [await stage.lease(task(timeout_s=1.0)) for _ in range(2)]
        leases = stage.scheduler._leases
        leases._on_expiry = Raising(leases._on_expiry, 1)
        await asyncio.sleep(30.0)
        assert first.is_settled or second.is_settled
        for lease in (first, second):
            stage.scheduler.complete_task(lease, Outcome.CANCELLED)
        assert stage.taken("a") == 0
        assert stage.scheduler.keys_of("a") == [ECHO]


@virtual
async def test_a_closed_prober_probes_no_more_after_a_defect() -> None:
    async with Flow(ScriptedAgent("a")) as flow:
        flow.board.admit_probe = Raising(flow.board.admit_probe, 1)  # type: ignore[method-assign]
        await open_circuit(flow)
        async with asyncio.timeout(60):
            while not flow.prober._again:  # noqa: ASYNC110 - time is virtual
                await asyncio.sleep(0.05)
        await flow.prober.close()
        await asyncio.sleep(5.0)
        assert flow.state("a") is CircuitState.OPEN
