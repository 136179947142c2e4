"""What changed of a chain since somebody looked, in short: for whoever follows one of thousands of tasks.

What is on record changed with a fact, and facts have places, good at every replica. What only the owner of a chain
knows (a task joined its line, an agent has it, an attempt failed) has none: at each look it is compared with the look
before, and looks have numbers, good while that owner runs the chain. For others all in flight counts as changed.
"""

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from aicp.coordination.chain_status import PART, InFlight, give_way, view_task
from aicp.coordination.readiness import Readiness
from aicp.model.fact import ChainSubmitted, Fact, TaskEnded
from aicp.model.run_id import task_of
from aicp.model.task import TaskStatus
from aicp.model.views import ChainChanges, ShortTask, TaskView

Mark = tuple[int, str | None, int]
"""What of a task in flight can change: the number of its attempt, who has it, and how many attempts ended."""

RUN_BYTES = 4
_PLACE = re.compile(r"([0-9]{1,9})(?:-([0-9a-f]{8})-([0-9]{1,9}))?")


class Place(msgspec.Struct, frozen=True):
    """How much of a chain somebody has seen.

    Attributes:
        facts: How many facts were on record.
        run: Which run of the chain was looked at; empty for its record alone.
        look: The number of the look at what is in flight there.
    """

    facts: int = 0
    run: str = ""
    look: int = 0

    def __str__(self) -> str:
        return f"{self.facts}-{self.run}-{self.look}" if self.run else str(self.facts)


NOWHERE = Place()
"""Of who has seen nothing."""


def parse_place(written: str) -> Place | None:
    """A place as it was told; None when it is none."""
    found = _PLACE.fullmatch(written)
    return Place(int(found[1]), found[2] or "", int(found[3] or 0)) if found else None


class Looks:
    """What was in flight of one run at the last look, and since which look each task is as it is.

    Attributes:
        run: Tells it from other runs.
        last: The number of the last look at which something had changed.
    """

    def __init__(self) -> None:
        self.run = secrets.token_hex(RUN_BYTES)
        self.last = 0
        self._seen: dict[str, tuple[Mark, int]] = {}

    def look(self, now: Mapping[str, Mark]) -> None:
        """Take in what is in flight now. Costs a comparison for each."""
        number, unseen = self.last + 1, (None, 0)
        seen = self._seen
        self._seen = {
            task: before if (before := seen.get(task, unseen))[0] == mark else (mark, number)
            for task, mark in now.items()
        }
        self.last = number

    def changed_since(self, place: Place) -> set[str]:
        """Those in flight that changed since a place; all of them when it is one of another run."""
        since = place.look if place.run == self.run else 0
        return {task for task, (_, look) in self._seen.items() if look > since}


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
    seq: Place,
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
        seq=str(seq),
        edges=graph.edges if is_whole else msgspec.UNSET,
    )


def _shortened(view: TaskView) -> ShortTask:
    return ShortTask(
        view.task_id, view.capability, view.status, view.error, view.agent_id, view.attempts, view.timings,
        view.ready_at, view.started_at, view.ended_at, view.kind, view.phase,
    )  # fmt: skip
