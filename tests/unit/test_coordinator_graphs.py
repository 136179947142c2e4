"""Large graphs: every task starts exactly when a plain reading of the graph says, and nothing is quadratic."""

import asyncio
import random
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.event import ChainEnded, TaskEnded
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call, OnFailure, Task, TaskStatus
from aicp.testing import run
from aicp.testing.faulty_agents import ScriptedAgent, Step
from tests.unit.flow_kit import ECHO, Flow, now, virtual
from tests.unit.journal_kit import WatchedJournal

COMPLETED, FAILED, SKIPPED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.SKIPPED
NODES = 1_000


def working() -> Step:
    """Work for as long as the params say, and fail if they say so."""

    async def step(_agent: ScriptedAgent, call: Call) -> Reply:
        await asyncio.sleep(call.params["s"])
        return Reply(Outcome.TASK_FAILED if call.params["fails"] else Outcome.SUCCESS, call.params["s"])

    return step


def worker(slots: int) -> ScriptedAgent:
    return ScriptedAgent("a", otherwise=working(), max_concurrent_tasks=slots)


def random_graph(draw: random.Random, size: int, failure_rate: float = 0.0) -> tuple[Task, ...]:
    tasks = []
    for number in range(size):
        near = range(max(0, number - 50), number)
        awaited = draw.sample(near, k=min(len(near), draw.choice([0, 1, 1, 2, 3, 5])))
        fails = draw.random() < failure_rate
        default = OnFailure(None) if draw.random() < 0.3 else None
        params = {"s": draw.choice([0.0, 0.5, 1.0, 7.25]), "fails": fails}
        waits_for = tuple(f"t{each}" for each in awaited)
        tasks.append(Task(ECHO, params, id=f"t{number}", depends_on=waits_for, on_failure=default))
    draw.shuffle(tasks)
    return tuple(tasks)


def plain_reading(tasks: tuple[Task, ...]) -> dict[str, tuple[TaskStatus, float]]:
    """How each task ends under `continue`, and when it starts, with as many agents as anybody could want."""
    by_id = {task.id: task for task in tasks}
    known: dict[str, tuple[TaskStatus, float]] = {}
    ended_at: dict[str, float] = {}
    for name in sorted(by_id, key=lambda each: int(each[1:])):
        task = by_id[name]
        usable = all(_is_usable(by_id[each], known[each][0]) for each in task.depends_on)
        starts_at = max((ended_at[each] for each in task.depends_on), default=0.0) if usable else 0.0
        ended_at[name] = starts_at + task.params["s"]
        known[name] = ((FAILED if task.params["fails"] else COMPLETED) if usable else SKIPPED, starts_at)
    return known


def _is_usable(task: Task, status: TaskStatus) -> bool:
    return status is COMPLETED or (status is FAILED and task.on_failure is not None)


@settings(max_examples=8, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.05]))
def test_a_thousand_tasks_start_exactly_when_a_plain_reading_says(seed: int, failure_rate: float) -> None:
    tasks = random_graph(random.Random(seed), NODES, failure_rate)
    expected = plain_reading(tasks)

    async def main() -> None:
        journal = WatchedJournal()
        async with Flow(worker(NODES), journal=journal) as flow:
            began_at = now()
            result = await flow.coordinator.execute_chain(ChainSpec(tasks, failure_policy=FailurePolicy.CONTINUE))
            assert {name: each.status for name, each in result.tasks.items()} == {
                name: status for name, (status, _) in expected.items()
            }
            started = {call.call.task_id.partition(".")[2]: call.began_at - began_at for call in flow.transport.calls}
            assert started == pytest.approx(
                {name: starts_at for name, (status, starts_at) in expected.items() if status is not SKIPPED}
            )
            facts = journal.of(result.chain_id)
            assert sum(isinstance(fact, TaskEnded) for fact in facts) == len(started)
            assert [fact for fact in facts if isinstance(fact, ChainEnded)] == [facts[-1]]

    run(main())


@pytest.mark.parametrize("slots", [1, 3, 40])
@virtual
async def test_with_few_slots_every_edge_is_still_kept_and_nothing_is_lost(slots: int) -> None:
    tasks = random_graph(random.Random(slots), NODES)
    async with Flow(worker(slots)) as flow:
        spec = ChainSpec(tuple(_patient(each) for each in tasks))
        result = await flow.coordinator.execute_chain(spec)
        assert result.status is COMPLETED
        began = {call.call.task_id.partition(".")[2]: call.began_at for call in flow.transport.calls}
        assert len(began) == len(flow.transport.calls) == NODES
        for each in tasks:
            earliest = max((began[awaited] + _seconds(tasks, awaited) for awaited in each.depends_on), default=0.0)
            assert began[each.id] >= earliest - 1e-6


def _patient(task: Task) -> Task:
    return Task(task.capability, task.params, id=task.id, depends_on=task.depends_on, deadline_s=1e6)


def _seconds(tasks: tuple[Task, ...], name: str) -> float:
    return next(float(each.params["s"]) for each in tasks if each.id == name)


def line(size: int) -> tuple[Task, ...]:
    """Each waits for the one before."""
    work = {"s": 0.0, "fails": False}
    return tuple(Task(ECHO, work, id=f"t{n}", depends_on=(f"t{n - 1}",) if n else ()) for n in range(size))


def fan(size: int) -> tuple[Task, ...]:
    """One, then many side by side, then one that waits for all."""
    work = {"s": 0.0, "fails": False}
    many = tuple(Task(ECHO, work, id=f"t{n}", depends_on=("first",)) for n in range(size - 2))
    return (
        Task(ECHO, work, id="first"),
        *many,
        Task(ECHO, work, id="last", depends_on=tuple(each.id for each in many)),
    )


@pytest.mark.parametrize("shape", [line, fan])
@virtual
async def test_ten_thousand_tasks_in_a_line_or_a_fan_complete_in_seconds(shape: object) -> None:
    assert callable(shape)
    async with Flow(worker(10_000)) as flow:
        began_s = time.process_time()
        result = await flow.coordinator.execute_chain(ChainSpec(shape(10_000)))
        assert result.status is COMPLETED
        assert len(result.tasks) == 10_000
        assert time.process_time() - began_s < 30


@virtual
async def test_a_failure_in_front_of_ten_thousand_skips_them_all_at_once() -> None:
    tasks = fan(10_000)
    failing = (Task(ECHO, {"s": 0.0, "fails": True}, id="first"), *tasks[1:])
    async with Flow(worker(10_000)) as flow:
        for policy in FailurePolicy:
            result = await flow.coordinator.execute_chain(ChainSpec(failing, failure_policy=policy))
            assert result.status is FAILED
            assert sum(each.status is SKIPPED for each in result.tasks.values()) == 9_999
