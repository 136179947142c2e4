"""A chain of thousands of tasks: taken over, listed, retried, viewed and cut off in slices, with the same outcome."""

import asyncio
from datetime import timedelta

import pytest

from aicp.coordination import listing as listing_module
from aicp.coordination import run
from aicp.coordination.chain_status import PART, fold
from aicp.coordination.listing import TASKS_AT_ONCE_MAX, Listing, TaskQuery
from aicp.coordination.readiness import Readiness
from aicp.coordination.run import CUT_OFF_AT_ONCE, STARTED_AT_ONCE
from aicp.coordination.telling import TOLD_AT_ONCE
from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.event import ChainEnded, ChainSubmitted, Fact, TaskEnded
from aicp.model.run_id import global_id
from aicp.model.task import Task, TaskResult, TaskStatus
from aicp.model.validation import check_chain
from aicp.ports import ChainRecord, Clock
from aicp.routing.work import Work
from aicp.scheduling.waiting_line import WaitingLine
from aicp.storage.memory import MemoryJournal
from aicp.testing import VirtualClock
from aicp.testing.faulty_agents import ScriptedAgent, hang, task_failed
from tests.unit.flow_kit import ECHO, Flow, Recorder, counted_in_turns, virtual

COUNT = 5 * PART
LEFT = 20
CHAIN = "a" * 32
SPEC = ChainSpec(tuple(Task(ECHO, id=f"t{number}") for number in range(COUNT)))
COMPLETED = TaskStatus.COMPLETED
MOST_IN_A_TURN = 2 * PART
"""Parts of a chain end and begin in the same turn where nothing waits between them."""


def submitted(clock: Clock) -> ChainSubmitted:
    return ChainSubmitted(CHAIN, SPEC, clock.utcnow() - timedelta(seconds=10))


def ends(clock: Clock, count: int) -> tuple[Fact, ...]:
    now = clock.utcnow() - timedelta(seconds=5)
    return tuple(
        TaskEnded(CHAIN, name, TaskResult(global_id(CHAIN, name), ECHO, COMPLETED, {"n": number}, ended_at=now))
        for number, name in ((number, f"t{number}") for number in range(count))
    )


def agent() -> ScriptedAgent:
    return ScriptedAgent("a", max_concurrent_tasks=LEFT)


async def journal_with(clock: Clock, count: int, *more: Fact) -> MemoryJournal:
    """A journal whose chain an earlier process left after so many of its tasks."""
    journal = MemoryJournal(clock=clock)
    await journal.submit(submitted(clock), None, (*ends(clock, count), *more))
    return journal


@virtual
async def test_a_chain_that_is_taken_over_is_folded_in_slices_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await journal_with(VirtualClock(), COUNT - LEFT)
    applied = counted_in_turns(monkeypatch, Readiness, "apply")
    async with Flow(agent(), journal=journal) as flow:
        result = await flow.coordinator.wait_result(CHAIN)
        assert result.status is COMPLETED
        assert len(flow.transport.calls) == LEFT
    calls, most = applied()
    assert calls >= COUNT
    assert most <= MOST_IN_A_TURN


@pytest.mark.parametrize("count", [COUNT - LEFT, COUNT])
@virtual
async def test_a_chain_is_listed_in_slices(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = VirtualClock()
    end = [ChainEnded(CHAIN, COMPLETED, clock.utcnow(), None)] if count == COUNT else []
    listing = Listing(await journal_with(clock, count, *end), {})
    applied = counted_in_turns(monkeypatch, Readiness, "apply")
    viewed = counted_in_turns(monkeypatch, listing_module, "view_task")
    page = await listing.tasks(TaskQuery(status=COMPLETED, limit=COUNT))
    assert [task.task_id for task in page.tasks] == [f"{CHAIN}.t{number}" for number in range(count)]
    calls, most = applied()
    assert calls == count + len(end)
    assert most <= MOST_IN_A_TURN
    assert viewed() == (COUNT, TASKS_AT_ONCE_MAX)


@virtual
async def test_a_retry_of_a_large_chain_copies_what_is_good_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = VirtualClock()
    journal = await journal_with(clock, COUNT - LEFT, ChainEnded(CHAIN, TaskStatus.FAILED, clock.utcnow(), None))
    async with Flow(agent(), journal=journal) as flow:
        applied = counted_in_turns(monkeypatch, Readiness, "apply")
        retried = await flow.coordinator.retry(CHAIN)
        result = await flow.coordinator.wait_result(retried)
        assert result.status is COMPLETED
        assert len(flow.transport.calls) == LEFT
        assert result.tasks["t7"].result == {"n": 7}
    assert applied()[1] <= MOST_IN_A_TURN


@virtual
async def test_twins_are_changed_by_their_own_facts_only() -> None:
    record = ChainRecord(submitted(VirtualClock()), ends(VirtualClock(), 3))
    spec = ChainSpec((Task(ECHO, id="a"), Task(ECHO, id="b", depends_on=("a",))))
    one = fold(ChainRecord(ChainSubmitted(CHAIN, spec, record.submitted.at), ()), check_chain(spec))
    other = one.twin()
    first = TaskEnded(CHAIN, "a", TaskResult(global_id(CHAIN, "a"), ECHO, COMPLETED))
    assert other.apply(first) == ["b"]
    assert (one.ready(), other.ready()) == (["a"], ["b"])
    assert one.apply(first) == ["b"]


@virtual
async def test_of_tasks_in_flight_nothing_is_made_before_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    made = counted_in_turns(monkeypatch, run, "_known_of")
    async with Flow(ScriptedAgent("a", otherwise=hang())) as flow:
        chain_id = await flow.coordinator.submit(ChainSpec(SPEC.tasks[:100]))
        await asyncio.sleep(1.0)
        in_flight = flow.coordinator._runs[chain_id].in_flight()
        assert made() == (0, 0)
        assert (len(in_flight), "t99" in in_flight, "t100" in in_flight) == (100, True, False)
        assert in_flight["t0"].agent_id == "a"
        assert in_flight["t99"].agent_id is None
        assert dict(in_flight) == in_flight
        view = await flow.coordinator.view(chain_id)
        assert {task.status for task in view.tasks.values()} == {TaskStatus.RUNNING}
        await flow.coordinator.cancel(chain_id)


@pytest.mark.parametrize("how", ["cancelled", "out of time", "failed fast"])
@virtual
async def test_a_crowd_of_tasks_is_cut_off_and_told_of_in_slices(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off = counted_in_turns(monkeypatch, WaitingLine, "leave")
    ended = counted_in_turns(monkeypatch, Work, "ended")
    told = counted_in_turns(monkeypatch, Recorder, "notify")
    # It has one agent, which never answers; the one that fails asks for the other.
    failing = Task("test.fail", id="failing", deadline_s=300.0)
    tasks = SPEC.tasks if how != "failed fast" else (*SPEC.tasks, failing)
    deadline_s = 50.0 if how == "out of time" else None
    fails = ScriptedAgent("b", otherwise=task_failed("no"), latency_s=10.0, capabilities=("test.fail",))
    async with Flow(ScriptedAgent("a", otherwise=hang()), fails) as flow:
        spec = ChainSpec(tasks, failure_policy=FailurePolicy.FAIL_FAST, deadline_s=deadline_s)
        chain_id = await flow.coordinator.submit(spec)
        await asyncio.sleep(1.0)
        if how == "cancelled":
            await flow.coordinator.cancel(chain_id)
        result = await flow.coordinator.wait_result(chain_id)
        await asyncio.sleep(1.0)
        assert result.status is (TaskStatus.CANCELLED if how == "cancelled" else TaskStatus.FAILED)
        assert {task.status for name, task in result.tasks.items() if name != "failing"} == {TaskStatus.CANCELLED}
        facts = [event for event in flow.seen.events if isinstance(event, TaskEnded | ChainEnded)]
        assert isinstance(facts[-1], ChainEnded)
        assert len(facts) == len(tasks) + 1
        assert flow.coordinator.unfinished == 0
        assert flow.scheduler.status().queue_depth == 0
    assert cut_off()[0] >= COUNT - 1
    assert cut_off()[1] <= CUT_OFF_AT_ONCE + 1
    assert ended()[1] <= 2 * CUT_OFF_AT_ONCE + 1
    assert told()[1] <= TOLD_AT_ONCE + STARTED_AT_ONCE


@virtual
async def test_what_a_retry_copies_is_told_before_what_becomes_of_it() -> None:
    clock = VirtualClock()
    journal = await journal_with(clock, COUNT - LEFT, ChainEnded(CHAIN, TaskStatus.FAILED, clock.utcnow(), None))
    async with Flow(agent(), journal=journal) as flow:
        retried = await flow.coordinator.retry(CHAIN)
        await flow.coordinator.wait_result(retried)
        await asyncio.sleep(0.1)
        facts = [event for event in flow.seen.events if isinstance(event, ChainSubmitted | TaskEnded | ChainEnded)]
    assert isinstance(facts[0], ChainSubmitted)
    ended = [fact.task for fact in facts if isinstance(fact, TaskEnded)]
    assert set(ended[: COUNT - LEFT]) == {f"t{number}" for number in range(COUNT - LEFT)}
    assert isinstance(facts[-1], ChainEnded)
