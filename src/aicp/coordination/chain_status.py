"""What people see of a chain: derived from its facts, and what its owner has in flight."""

from collections.abc import Mapping
from datetime import datetime

import msgspec

from aicp.coordination.readiness import Readiness
from aicp.model.duration import seconds_between
from aicp.model.event import ChainSubmitted, Fact, TaskEnded, TaskStarted
from aicp.model.task import Attempt, TaskResult, TaskStatus
from aicp.model.validation import ChainGraph, graph_of
from aicp.model.views import ChainView, TaskView, Timings
from aicp.ports import ChainRecord


class InFlight(msgspec.Struct, frozen=True, gc=False):
    """A task whose end is not on record yet, as its owner knows it.

    Attributes:
        attempts: Those that ended.
        agent_id: Who has it now; None while nobody has.
        since: When the first attempt began, or the present one when it is the first; None before that.
    """

    attempts: tuple[Attempt, ...] = ()
    agent_id: str | None = None
    since: datetime | None = None


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
    seen: set[tuple[type[Fact], str]] = set()
    for fact in record.facts:
        name = (type(fact), fact.task if isinstance(fact, TaskStarted | TaskEnded) else "")
        if name not in seen:
            seen.add(name)
            facts.append(fact)
    return facts


def copied_results(readiness: Readiness) -> list[tuple[str, TaskResult]]:
    """The results that a retry of an ended chain need not make again: COMPLETED, and so is all they were made from."""
    graph, good = readiness.graph, dict[str, TaskResult]()
    waiting = {task: len(awaited) for task, awaited in graph.dependencies.items()}
    free = [task for task, count in waiting.items() if not count]
    while free:
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
        or TaskResult(f"{chain_id}.{task}", wanted.capability, readiness.status_of(task))
        for task, wanted in readiness.graph.tasks.items()
    }


def view_chain(submitted: ChainSubmitted, readiness: Readiness, in_flight: Mapping[str, InFlight]) -> ChainView:
    """What people see; `in_flight` has each task that runs here. Costs its tasks."""
    chain_id, graph, end = submitted.chain_id, readiness.graph, readiness.end
    tasks = {task: view_task(chain_id, task, readiness, in_flight) for task in graph.tasks}
    return ChainView(
        chain_id=chain_id,
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
    return view_result(
        TaskResult(
            task_id=f"{chain_id}.{task}",
            capability=readiness.graph.tasks[task].capability,
            status=readiness.status_of(task, in_flight),
            agent_id=known.agent_id or (known.attempts[-1].agent_id if known.attempts else None),
            attempts=known.attempts,
            started_at=known.since,
        )
    )


def view_result(result: TaskResult) -> TaskView:
    """What people see of a task that ended."""
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
    )


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return round(seconds_between(start, end), 6) if start and end else None
