"""What people see of a chain: derived from its facts, and what its owner has in flight."""

from collections.abc import Mapping
from datetime import datetime

from aicp.coordination.readiness import Readiness
from aicp.model.task import Attempt, TaskResult, TaskStatus
from aicp.model.validation import check_chain
from aicp.model.views import ChainView, TaskView, Timings
from aicp.ports import ChainRecord


def fold(record: ChainRecord) -> Readiness:
    """Where a recorded chain stands."""
    readiness = Readiness(check_chain(record.submitted.spec))
    for fact in record.facts:
        readiness.apply(fact)
    return readiness


def results_of(chain_id: str, readiness: Readiness) -> dict[str, TaskResult]:
    """How each task of an ended chain ended, those that never ran included."""
    return {
        task: readiness.ended.get(task)
        or TaskResult(f"{chain_id}.{task}", wanted.capability, readiness.status_of(task))
        for task, wanted in readiness.graph.tasks.items()
    }


def view_chain(record: ChainRecord, in_flight: Mapping[str, tuple[Attempt, ...]]) -> ChainView:
    """What people see; `in_flight` has the attempts so far of each task that runs here."""
    readiness = fold(record)
    chain_id, graph, end = record.submitted.chain_id, readiness.graph, readiness.end
    tasks = {task: _view_task(f"{chain_id}.{task}", task, readiness, in_flight) for task in graph.tasks}
    return ChainView(
        chain_id=chain_id,
        name=graph.spec.name,
        status=readiness.status_of_chain(in_flight),
        total_tasks=len(tasks),
        completed_tasks=sum(view.status is TaskStatus.COMPLETED for view in tasks.values()),
        tasks=tasks,
        edges=graph.edges,
        error=end.error if end else None,
        started_at=record.submitted.at,
        ended_at=end.at if end else None,
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


def _view_task(task_id: str, task: str, readiness: Readiness, in_flight: Mapping[str, tuple[Attempt, ...]]) -> TaskView:
    if task in readiness.ended:
        return view_result(readiness.ended[task])
    attempts = in_flight.get(task, ())
    return view_result(
        TaskResult(
            task_id=task_id,
            capability=readiness.graph.tasks[task].capability,
            status=readiness.status_of(task, in_flight),
            agent_id=attempts[-1].agent_id if attempts else None,
            attempts=attempts,
            started_at=attempts[0].started_at if attempts else None,
        )
    )


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return round((end - start).total_seconds(), 6) if start and end else None
