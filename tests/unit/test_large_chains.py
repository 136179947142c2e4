"""A chain of thousands of tasks: taken over, listed, retried and looked at in slices, with the same outcome."""

import asyncio
from datetime import timedelta

import pytest

from aicp.coordination import run
from aicp.coordination.chain_status import PART, fold
from aicp.coordination.listing import Listing, TaskQuery
from aicp.coordination.readiness import Readiness
from aicp.model.chain import ChainSpec
from aicp.model.event import ChainEnded, ChainSubmitted, Fact, TaskEnded
from aicp.model.run_id import global_id
from aicp.model.task import Task, TaskResult, TaskStatus
from aicp.model.validation import check_chain
from aicp.ports import ChainRecord, Clock
from aicp.storage.memory import MemoryJournal
from aicp.testing import VirtualClock
from aicp.testing.faulty_agents import ScriptedAgent, hang
from tests.unit.flow_kit import ECHO, Flow, counted_in_turns, virtual

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
    page = await listing.tasks(TaskQuery(status=COMPLETED, limit=COUNT))
    assert [task.task_id for task in page.tasks] == [f"{CHAIN}.t{number}" for number in range(count)]
    calls, most = applied()
    assert calls == count + len(end)
    assert most <= MOST_IN_A_TURN


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
