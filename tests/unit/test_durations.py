"""Durations are those of the monotonic clock, whatever the wall clock is set to meanwhile."""

import asyncio
from datetime import timedelta

import pytest

from aicp.coordination.progress import Progress
from aicp.coordination.timeline import timeline
from aicp.model.chain import ChainSpec
from aicp.model.event import AttemptEnded, ChainEnded
from aicp.model.task import Task, TaskStatus
from aicp.model.views import ChainView
from aicp.ports import ChainQuery
from aicp.storage.memory import MemoryJournal
from aicp.testing.faulty_agents import ScriptedAgent, Step, fault, ok, task_failed
from tests.unit.flow_kit import ECHO, Flow, virtual

TWO_HOURS_S = 7_200.0
STEPS = pytest.mark.parametrize("step_s", [TWO_HOURS_S, -TWO_HOURS_S, 30 * 86_400.0, -30 * 86_400.0])


def two_in_a_row(deadline_s: float | None = None) -> ChainSpec:
    return ChainSpec((Task(ECHO, id="a"), Task(ECHO, id="b", depends_on=("a",))), deadline_s=deadline_s)


def slow(*script: Step, agent_id: str = "eyes") -> ScriptedAgent:
    return ScriptedAgent(agent_id, script, otherwise=ok(after_s=5.0))


def durations(view: ChainView) -> list[float | None]:
    found: list[float | None] = []
    for task in view.tasks.values():
        assert task.timings is not None
        found += [task.timings.queued_s, task.timings.running_s, task.timings.total_s]
    return found


@STEPS
@virtual
async def test_a_wall_clock_set_during_an_attempt_changes_no_duration(step_s: float) -> None:
    async with Flow(slow()) as flow:
        chain_id = await flow.coordinator.submit(two_in_a_row())
        await asyncio.sleep(2)
        flow.clock.shift_wall(step_s)
        view = await flow.coordinator.wait(chain_id)
        assert durations(view) == pytest.approx([0, 5, 5, 0, 5, 5])
        assert view.ended_at is not None
        assert (view.ended_at - view.started_at).total_seconds() == pytest.approx(10)
        assert [each.begins_s for each in timeline(view)] == pytest.approx([0, 5])
        assert [each.takes_s for each in timeline(view)] == pytest.approx([5, 5])
        (listed,) = (await flow.coordinator.list_chains(ChainQuery())).chains
        assert listed.ended_at == view.ended_at
        ended = [event for event in flow.seen.events if isinstance(event, AttemptEnded | ChainEnded)]
        assert all(event.at <= view.ended_at for event in ended)


@STEPS
@virtual
async def test_a_direct_call_and_a_failover_keep_their_durations(step_s: float) -> None:
    async with Flow(slow(fault(after_s=3.0), agent_id="a"), slow(fault(after_s=3.0), agent_id="b")) as flow:
        asked = asyncio.create_task(flow.router.route_task(Task(ECHO)))
        await asyncio.sleep(1)
        flow.clock.shift_wall(step_s)
        result = await asked
        assert result.ready_at is not None
        assert result.ended_at is not None
        took = [(each.ended_at - each.started_at).total_seconds() for each in result.attempts]
        assert took == pytest.approx([3, 3, 5])
        assert 11 <= (result.ended_at - result.ready_at).total_seconds() < 20


@STEPS
@virtual
async def test_a_chain_that_is_recovered_goes_on_from_its_last_recorded_time(step_s: float) -> None:
    journal = MemoryJournal()
    async with Flow(slow(), journal=journal) as flow:
        chain_id = await flow.coordinator.submit(two_in_a_row())
        await asyncio.sleep(7)
    after = Flow(slow(), journal=journal)
    after.clock.shift_wall(step_s if step_s < 0 else 100.0)
    async with after as flow:
        view = await flow.coordinator.wait(chain_id)
    assert view.status is TaskStatus.COMPLETED
    assert all(each is not None and 0 <= each <= 200 for each in durations(view))
    assert all(each.takes_s >= 0 and each.begins_s >= 0 for each in timeline(view))


@virtual
async def test_results_that_a_retry_copies_end_before_its_submit() -> None:
    async with Flow(slow(ok(after_s=5.0), task_failed(after_s=5.0))) as flow:
        first = await flow.coordinator.submit(two_in_a_row())
        assert (await flow.coordinator.wait(first)).status is TaskStatus.FAILED
        flow.clock.shift_wall(-TWO_HOURS_S)
        again = await flow.coordinator.retry(first)
        view = await flow.coordinator.wait(again)
        assert view.status is TaskStatus.COMPLETED
        assert view.ended_at is not None
        assert (view.ended_at - view.started_at).total_seconds() < 60
        assert durations(view)[:3] == pytest.approx([0, 5, 5])
        copied = view.tasks["a"]
        assert copied.ended_at is not None
        assert copied.ended_at <= view.started_at


@virtual
async def test_a_step_of_the_clock_is_no_part_of_a_deadline_after_a_restart() -> None:
    journal = MemoryJournal()
    async with Flow(slow(ok(after_s=50.0)), journal=journal) as flow:
        progress = Progress(flow.clock)
        await progress.look()
        chain_id = await flow.coordinator.submit(two_in_a_row(deadline_s=600.0))
        await asyncio.sleep(30)
        flow.clock.shift_wall(TWO_HOURS_S)
        await asyncio.sleep(1)
        await progress.look()
        assert progress.stepped_since(flow.clock.utcnow() - timedelta(seconds=TWO_HOURS_S + 20)) > timedelta(hours=1.9)
    restarted = Flow(slow(ok(after_s=50.0)), journal=journal, progress=progress)
    restarted.clock.shift_wall(TWO_HOURS_S)
    async with restarted as flow:
        assert (await flow.coordinator.wait(chain_id)).status is TaskStatus.COMPLETED
