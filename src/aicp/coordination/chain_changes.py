"""What changed of a chain since somebody looked, in short: for whoever follows one of thousands of tasks.

What is on record changed with a fact, and facts have places. What only the owner of a chain knows (a task joined its
line, an agent has it, an attempt failed) has none: it is compared with what was last told, and counts as changed at the
place that the record has reached then. A place is good at every replica.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from aicp.coordination.chain_status import PART, InFlight, give_way, view_task
from aicp.coordination.readiness import Readiness
from aicp.model.fact import ChainSubmitted, Fact, TaskEnded
from aicp.model.run_id import task_of
from aicp.model.task import TaskStatus
from aicp.model.views import ChainChanges, ShortTask, TaskView

Mark = tuple[int, str | None, int]
"""What of a task in flight can change: the number of its attempt, who has it, and how many attempts ended."""


class Marks:
    """What was last told of the tasks in flight of one run, and at which place of the record that was new."""

    def __init__(self) -> None:
        self._marks: dict[str, Mark] = {}
        self._places: dict[str, int] = {}

    def changed(self, now: Mapping[str, Mark], place: int, since: int) -> Iterator[str]:
        """Those that changed without a fact, at `since` or later.

        Args:
            now: Of each task in flight.
            place: That the record has reached.
            since: As whoever asks was told before.
        """
        self._places = {task: self._place(task, mark, place) for task, mark in now.items()}
        self._marks = dict(now)
        return (task for task, changed_at in self._places.items() if changed_at >= since)

    def _place(self, task: str, mark: Mark, place: int) -> int:
        return self._places[task] if self._marks.get(task) == mark else place


def changed_by(facts: Sequence[Fact], standing: Readiness) -> set[str]:
    """The tasks that read otherwise through these facts, which `standing` has taken in. Costs the edges of those.

    When the chain is over through them, so is every task that has not ended.
    """
    changed: set[str] = set()
    for fact in facts:
        if task := task_of(getattr(fact, "task", "")):
            changed.add(task)
            if isinstance(fact, TaskEnded):
                _add_dependents(task, standing, changed)
    if facts and standing.is_over():
        changed.update(task for task in standing.graph.tasks if task not in standing.ended)
    return changed


def _add_dependents(task: str, standing: Readiness, changed: set[str]) -> None:
    """Who waited for a task: ready now, or skipped, and then all that waited for them."""
    behind = list(standing.graph.dependents[task])
    while behind:
        dependent = behind.pop()
        if standing.status_of(dependent) is TaskStatus.SKIPPED and dependent not in changed:
            behind.extend(standing.graph.dependents[dependent])
        changed.add(dependent)


async def changes_in_parts(
    submitted: ChainSubmitted,
    standing: Readiness,
    in_flight: Mapping[str, InFlight],
    names: Iterable[str] | None,
    seq: int,
) -> ChainChanges:
    """What people see of these tasks; of all and the edges for None. The loop has its turn every 200 tasks."""
    graph, end, is_whole = standing.graph, standing.end, names is None
    told = list(graph.tasks if names is None else names)
    still = standing.snapshot() if len(told) > PART else standing
    tasks: dict[str, ShortTask] = {}
    for first in range(0, len(told), PART):
        for task in told[first : first + PART]:
            tasks[task] = _shortened(view_task(submitted.chain_id, task, still, in_flight))
        await give_way(len(told))
    return ChainChanges(
        chain_id=submitted.chain_id,
        name=graph.spec.name,
        status=still.status_of_chain(in_flight),
        total_tasks=len(graph.tasks),
        completed_tasks=sum(result.status is TaskStatus.COMPLETED for result in still.ended.values()),
        tasks=tasks,
        error=end.error if end else None,
        started_at=submitted.at,
        ended_at=end.at if end else None,
        retry_of=submitted.retry_of,
        seq=seq,
        edges=graph.edges if is_whole else msgspec.UNSET,
    )


def _shortened(view: TaskView) -> ShortTask:
    return ShortTask(
        view.task_id, view.capability, view.status, view.error, view.agent_id, view.attempts, view.timings,
        view.ready_at, view.started_at, view.ended_at, view.kind, view.phase,
    )  # fmt: skip
