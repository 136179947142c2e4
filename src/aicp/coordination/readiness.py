"""What of a chain may run now: a pure fold of facts over the chain. Live running, recovery and status use this one.

| a task ended              | its dependents           | the others, `fail_fast` | the others, `continue` |
|---------------------------|--------------------------|-------------------------|------------------------|
| COMPLETED                 | one wait less            | -                       | -                      |
| FAILED, with `on_failure` | one wait less            | -                       | -                      |
| FAILED, without           | SKIPPED, and theirs      | SKIPPED                 | -                      |
| CANCELLED                 | SKIPPED, and theirs      | -                       | -                      |

| another fact      | what it changes                                                                                  |
|-------------------|--------------------------------------------------------------------------------------------------|
| `TaskStarted`     | the run is RUNNING; if it is not idempotent, it is never ready again                             |
| `TaskExpanded`    | the task is RUNNING, and its items are ready in its place                                        |
| `AttemptAccepted` | the run is RUNNING in phase `accepted`, and not ready: a later owner asks the agent for it       |
| `QuestionAsked`   | the run is in phase `input_required`, until it has the answers to all questions of its attempt   |
| `AnswerGiven`     | the question is answered; a second answer changes nothing                                        |
| `TaskEnded`       | of an item or round: kept; whether its task has ended is a fact of the task                      |
| `ChainStopped`    | nothing else starts; the chain ends as this fact says                                            |
| `ChainCancelled`  | nothing else starts; the chain ends CANCELLED, whatever else stopped it                          |
| `ChainEnded`      | the chain has ended as this fact says                                                            |

An attempt with a higher number takes the place of the one before: what was accepted and asked under a lower number no
longer counts. Facts that come twice change nothing.
"""

import copy
from collections.abc import Callable, Collection, Mapping
from typing import Any

from aicp.coordination.open_runs import OpenRuns
from aicp.model.chain import FailurePolicy
from aicp.model.fact import (
    AnswerGiven,
    AttemptAccepted,
    ChainCancelled,
    ChainEnded,
    ChainStopped,
    Fact,
    QuestionAsked,
    TaskEnded,
    TaskExpanded,
    TaskStarted,
)
from aicp.model.outcome import TaskError
from aicp.model.run_id import run_in_chain, run_of, task_of
from aicp.model.task import Phase, TaskResult, TaskStatus
from aicp.model.validation import ChainGraph


class Readiness:
    """Where a chain stands. Each fact costs its task's edges; a failure at most the whole chain, once.

    Attributes:
        graph: The chain.
        ended: Results by local id.
        ended_runs: Results of items and rounds, by the local id of their task and their number.
        items: How many items each expanded task has, by local id.
        open_runs: What is on record of runs that have not ended.
        end: How the chain ended, once recorded.
    """

    def __init__(self, graph: ChainGraph) -> None:
        self.graph = graph
        self.ended: dict[str, TaskResult] = {}
        self.ended_runs: dict[str, dict[int, TaskResult]] = {}
        self.items: dict[str, int] = {}
        self.open_runs = OpenRuns()
        self.end: ChainEnded | None = None
        self._cancelled = False
        self._stopped = False
        self._stop: ChainStopped | None = None
        self._failure: TaskError | None = None
        self._skipped: set[str] = set()
        self._unmet = {task: len(awaited) for task, awaited in graph.dependencies.items()}

    def snapshot(self) -> "Readiness":
        """Where the chain stands now, for reading: what happens later does not change it."""
        still = copy.copy(self)
        still.ended, still.items = dict(self.ended), dict(self.items)
        still.ended_runs = {task: dict(ended) for task, ended in self.ended_runs.items()}
        still.open_runs = self.open_runs.snapshot()
        still._skipped = set(self._skipped)  # noqa: SLF001 - its own class
        return still

    def twin(self) -> "Readiness":
        """Another one that stands where this one does; neither is changed by the facts that the other takes in."""
        twin = self.snapshot()
        twin._unmet = dict(self._unmet)  # noqa: SLF001 - its own class
        return twin

    def ready(self) -> list[str]:
        """Every run that may be sent and has not ended, in the order in which its task was written."""
        if self._stopped:
            return []
        ready = []
        for task, unmet in self._unmet.items():
            if not unmet and self._is_untouched(task):
                ready.extend(self._ready_items(task) if task in self.items else [task])
        return ready

    def left_started(self) -> list[str]:
        """Every run that was to be sent once only and has not ended: a later owner cannot know how it went.

        Not among them is one that its agent accepted: that can be asked for it.
        """
        return [] if self._stopped else [run for run in self.open_runs.started() if not self._is_idempotent(run)]

    def attached(self) -> list[AttemptAccepted]:
        """Every attempt that an agent has accepted and that has not ended: a later owner asks the agent for it."""
        return [] if self._stopped else self.open_runs.accepted()

    def apply(self, fact: Fact) -> list[str]:
        """Take a fact in; returns the runs that became ready through it. The second time it changes nothing."""
        if isinstance(fact, TaskEnded):
            return self._run_ended(fact.task, fact.result)
        if isinstance(fact, TaskExpanded):
            return self._task_expanded(fact)
        if (fold := _FOLDS.get(type(fact))) is not None:
            fold(self, fact)
        return []

    def is_over(self) -> bool:
        """True when nothing is left to run; tasks in flight at a stop have ended by then."""
        return self._stopped or len(self.ended) + len(self._skipped) >= len(self._unmet)

    @property
    def verdict(self) -> tuple[TaskStatus, TaskError | None]:
        """How the chain ends, given that it is over."""
        if self._cancelled:
            return TaskStatus.CANCELLED, None
        if self._stop is not None:
            return self._stop.status, self._stop.error
        return (TaskStatus.FAILED, self._failure) if self._failure else (TaskStatus.COMPLETED, None)

    def status_of_chain(self, in_flight: Collection[str] = ()) -> TaskStatus:
        """PENDING before anything ran, RUNNING, or how it ended."""
        if self.end is not None:
            return self.end.status
        return TaskStatus.RUNNING if self.ended or self.has_started or in_flight else TaskStatus.PENDING

    @property
    def has_started(self) -> bool:
        """True when something of a task that has not ended is on record."""
        return bool(self.open_runs or self.items or self.ended_runs)

    def status_of(self, task: str, in_flight: Collection[str] = ()) -> TaskStatus:
        """Where one task stands; `in_flight` is known to the chain's owner only."""
        if task in self.ended:
            return self.ended[task].status
        if self._cancelled:
            return TaskStatus.CANCELLED
        if task in self._skipped or self._stopped:
            return TaskStatus.SKIPPED
        return TaskStatus.RUNNING if task in in_flight or self._is_begun(task) else TaskStatus.PENDING

    def phase_of(self, task: str) -> Phase | None:
        """What a task waits for, as far as the record says; None for one that has ended, or waits for an agent."""
        if task in self.ended or task in self._skipped or self._stopped:
            return None
        return Phase.WAITING if self._unmet[task] else self.open_runs.phase_of(task)

    def attempts_on_record(self, run: str) -> int:
        """The highest number of an attempt of a run on record: the numbers of later ones go on from there."""
        opened = self.open_runs.runs.get(run)
        return 0 if opened is None else opened.number

    def output_of(self, task: str) -> Any:
        """What dependents read: the result, or the default of a task that failed."""
        result = self.ended[task]
        on_failure = self.graph.tasks[task].on_failure
        return on_failure.continue_with if result.status is TaskStatus.FAILED and on_failure else result.result

    def _run_ended(self, run: str, result: TaskResult) -> list[str]:
        if run not in self._unmet:
            self.ended_runs.setdefault(task_of(run), {}).setdefault(int(run_in_chain(run)), result)
            self.open_runs.end(run)
            return []
        if run in self.ended:
            return []
        if self.open_runs.runs:
            self.open_runs.end(run)
        return self._task_ended(run, result)

    def _task_ended(self, task: str, result: TaskResult) -> list[str]:
        self.ended[task] = result
        self._skipped.discard(task)
        if result.status is TaskStatus.COMPLETED:
            return self._release(task)
        if result.status is TaskStatus.FAILED:
            if self.graph.tasks[task].on_failure is not None:
                return self._release(task)
            self._failure = self._failure or TaskError("task_failed", _told(task, result))
            self._stopped |= self.graph.spec.failure_policy is FailurePolicy.FAIL_FAST
        self._skip_behind(task)
        return []

    def _task_expanded(self, fact: TaskExpanded) -> list[str]:
        if fact.task in self.items:
            return []
        self.items[fact.task] = fact.count
        return [] if self._stopped or not self._is_untouched(fact.task) else self._ready_items(fact.task)

    def _chain_cancelled(self, _fact: ChainCancelled) -> None:
        self._cancelled = self._stopped = True

    def _chain_stopped(self, fact: ChainStopped) -> None:
        self._stop = self._stop or fact
        self._stopped = True

    def _chain_ended(self, fact: ChainEnded) -> None:
        self.end = fact
        self._stopped = True

    def _begun(self, fact: TaskStarted | AttemptAccepted | QuestionAsked | AnswerGiven) -> None:
        if not self._has_ended(fact.task):
            self.open_runs.apply(fact)

    def _release(self, task: str) -> list[str]:
        freed = []
        for dependent in self.graph.dependents[task]:
            self._unmet[dependent] -= 1
            if not self._unmet[dependent] and self._is_untouched(dependent) and not self._stopped:
                freed.append(dependent)
        return freed

    def _is_untouched(self, task: str) -> bool:
        return task not in self.ended and task not in self._skipped and self._may_be_sent(task)

    def _may_be_sent(self, run: str) -> bool:
        """False when a later owner must not send it: it is at its agent, or was to be sent once only."""
        opened = self.open_runs.runs.get(run)
        return opened is None or (opened.accepted is None and not (opened.is_started and not self._is_idempotent(run)))

    def _ready_items(self, task: str) -> list[str]:
        ended: Mapping[int, TaskResult] = self.ended_runs.get(task, {})
        runs = (run_of(task, index) for index in range(self.items[task]) if index not in ended)
        return [run for run in runs if self._may_be_sent(run)]

    def _is_idempotent(self, run: str) -> bool:
        return self.graph.tasks[task_of(run)].idempotent

    def _is_begun(self, task: str) -> bool:
        return task in self.items or task in self.ended_runs or self.open_runs.has_any_of(task)

    def _has_ended(self, run: str) -> bool:
        task = task_of(run)
        if task in self.ended:
            return True
        return task != run and int(run_in_chain(run)) in self.ended_runs.get(task, {})

    def _skip_behind(self, task: str) -> None:
        open_tasks = list(self.graph.dependents[task])
        while open_tasks:
            dependent = open_tasks.pop()
            if dependent not in self._skipped and dependent not in self.ended:
                self._skipped.add(dependent)
                open_tasks.extend(self.graph.dependents[dependent])


_FOLDS: dict[type, Callable[[Readiness, Any], None]] = {
    TaskStarted: Readiness._begun,  # noqa: SLF001 - its own class
    AttemptAccepted: Readiness._begun,  # noqa: SLF001
    QuestionAsked: Readiness._begun,  # noqa: SLF001
    AnswerGiven: Readiness._begun,  # noqa: SLF001
    ChainCancelled: Readiness._chain_cancelled,  # noqa: SLF001
    ChainStopped: Readiness._chain_stopped,  # noqa: SLF001
    ChainEnded: Readiness._chain_ended,  # noqa: SLF001
}


def _told(task: str, result: TaskResult) -> str:
    return f"task '{task}' failed: {result.error.message}" if result.error else f"task '{task}' failed"
