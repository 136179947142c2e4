"""What people see of a chain: derived from its facts, and what its owner has in flight."""

import asyncio
from collections.abc import Mapping
from datetime import datetime

import msgspec

from aicp.coordination.readiness import Readiness
from aicp.model.chain import ChainSpec
from aicp.model.duration import seconds_between
from aicp.model.fact import ChainSubmitted, Fact, FactName
from aicp.model.run_id import global_id
from aicp.model.task import Attempt, Phase, TaskResult, TaskStatus
from aicp.model.validation import ChainGraph, dependencies_of, graph_of, graph_with
from aicp.model.views import ChainView, TaskView, Timings
from aicp.ports import ChainRecord
from aicp.scheduling.slices import Steps


class InFlight(msgspec.Struct, frozen=True, gc=False):
    """A task whose end is not on record yet, as its owner knows it.

    Attributes:
        attempts: Those that ended.
        agent_id: Who has it now; None while nobody has.
        since: When the first attempt began, or the present one when it is the first; None before that.
        phase: Whether it waits for an agent or is at one; None when it does neither.
    """

    attempts: tuple[Attempt, ...] = ()
    agent_id: str | None = None
    since: datetime | None = None
    phase: Phase | None = None


PART = 200
NOT_BEGUN = InFlight()


def fold(record: ChainRecord, graph: ChainGraph | None = None) -> Readiness:
    """Where a recorded chain stands; its graph is made when it is not at hand."""
    readiness = Readiness(graph or graph_of(record.submitted.spec))
    for fact in record.facts:
        readiness.apply(fact)
    return readiness


def facts_once(record: ChainRecord) -> list[Fact]:
    """Every fact of a chain, its submit first; those recorded twice, since an answer got lost, the first time only."""
    facts: list[Fact] = [record.submitted]
    seen: set[FactName] = set()
    for fact in record.facts:
        if (name := fact.name) not in seen:
            seen.add(name)
            facts.append(fact)
    return facts


def copied_results(readiness: Readiness) -> Steps[list[tuple[str, TaskResult]]]:
    """The results that a retry of an ended chain need not make again: COMPLETED, and so is all they were made from.

    A step looks at two hundred tasks.
    """
    graph, good = readiness.graph, dict[str, TaskResult]()
    waiting = {task: len(awaited) for task, awaited in graph.dependencies.items()}
    free = [task for task, count in waiting.items() if not count]
    looks = 0
    while free:
        looks += 1
        if not looks % PART:
            yield
        task = free.pop()
        result = readiness.ended.get(task)
        if result is None or result.status is not TaskStatus.COMPLETED:
            continue
        good[task] = result
        for dependent in graph.dependents[task]:
            waiting[dependent] -= 1
            if not waiting[dependent]:
                free.append(dependent)
    return list(good.items())


def results_of(chain_id: str, readiness: Readiness) -> dict[str, TaskResult]:
    """How each task of an ended chain ended, those that never ran included."""
    return {
        task: readiness.ended.get(task)
        or TaskResult(global_id(chain_id, task), wanted.capability, readiness.status_of(task))
        for task, wanted in readiness.graph.tasks.items()
    }


async def graph_in_parts(spec: ChainSpec) -> ChainGraph:
    """The graph of a chain that was checked before; the loop has its turn every 200 tasks."""
    dependencies: dict[str, tuple[str, ...]] = {}
    for first in range(0, len(spec.tasks), PART):
        dependencies.update(dependencies_of(spec.tasks[first : first + PART]))
        await give_way(len(spec.tasks))
    return graph_with(spec, dependencies)


async def fold_in_parts(record: ChainRecord, graph: ChainGraph) -> Readiness:
    """As `fold`; the loop has its turn every 200 facts."""
    readiness = Readiness(graph)
    for first in range(0, len(record.facts), PART):
        for fact in record.facts[first : first + PART]:
            readiness.apply(fact)
        await give_way(len(record.facts))
    return readiness


async def view_in_parts(
    submitted: ChainSubmitted, readiness: Readiness, in_flight: Mapping[str, InFlight]
) -> ChainView:
    """What people see of this moment; `in_flight` has what runs here. The loop has its turn every 200 tasks."""
    names = list(readiness.graph.tasks)
    standing = readiness.snapshot() if len(names) > PART else readiness
    tasks: dict[str, TaskView] = {}
    for first in range(0, len(names), PART):
        for task in names[first : first + PART]:
            tasks[task] = view_task(submitted.chain_id, task, standing, in_flight)
        await give_way(len(names))
    return _view(submitted, standing, in_flight, tasks)


async def give_way(count: int) -> None:
    """Let others have their turn, where there is more than one part."""
    if count > PART:
        await asyncio.sleep(0)


def _view(
    submitted: ChainSubmitted, readiness: Readiness, in_flight: Mapping[str, InFlight], tasks: dict[str, TaskView]
) -> ChainView:
    graph, end = readiness.graph, readiness.end
    return ChainView(
        chain_id=submitted.chain_id,
        name=graph.spec.name,
        status=readiness.status_of_chain(in_flight),
        total_tasks=len(tasks),
        completed_tasks=sum(view.status is TaskStatus.COMPLETED for view in tasks.values()),
        tasks=tasks,
        edges=graph.edges,
        error=end.error if end else None,
        started_at=submitted.at,
        ended_at=end.at if end else None,
        retry_of=submitted.retry_of,
    )


def view_task(chain_id: str, task: str, readiness: Readiness, in_flight: Mapping[str, InFlight]) -> TaskView:
    """What people see of one task of a chain, by its local id."""
    if task in readiness.ended:
        return view_result(readiness.ended[task])
    known = in_flight.get(task, NOT_BEGUN)
    result = TaskResult(
        task_id=global_id(chain_id, task),
        capability=readiness.graph.tasks[task].capability,
        status=readiness.status_of(task, in_flight),
        agent_id=known.agent_id or (known.attempts[-1].agent_id if known.attempts else None),
        attempts=known.attempts,
        started_at=known.since,
    )
    return view_result(result, readiness.phase_of(task) or known.phase)


def view_result(result: TaskResult, phase: Phase | None = None) -> TaskView:
    """What people see of a task: all that its result says, and what it waits for."""
    return TaskView(
        task_id=result.task_id,
        capability=result.capability,
        status=result.status,
        result=result.result,
        error=result.error,
        agent_id=result.agent_id,
        attempts=result.attempts,
        timings=Timings(
            queued_s=_seconds(result.ready_at, result.started_at),
            running_s=_seconds(result.started_at, result.ended_at),
            total_s=_seconds(result.ready_at, result.ended_at),
        ),
        ready_at=result.ready_at,
        started_at=result.started_at,
        ended_at=result.ended_at,
        phase=phase,
    )


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return round(seconds_between(start, end), 6) if start and end else None
