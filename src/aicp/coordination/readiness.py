"""What of a chain may run now: a pure fold of facts over the chain. Live running, recovery and status use this one.

| a task ended              | its dependents           | the others, `fail_fast` | the others, `continue` |
|---------------------------|--------------------------|-------------------------|------------------------|
| COMPLETED                 | one wait less            | -                       | -                      |
| FAILED, with `on_failure` | one wait less            | -                       | -                      |
| FAILED, without           | SKIPPED, and theirs      | SKIPPED                 | -                      |
| CANCELLED                 | SKIPPED, and theirs      | -                       | -                      |
"""

import copy
from collections.abc import Collection
from typing import Any

from aicp.model.chain import FailurePolicy
from aicp.model.event import ChainCancelled, ChainEnded, Fact, TaskEnded, TaskStarted
from aicp.model.outcome import TaskError
from aicp.model.task import TaskResult, TaskStatus
from aicp.model.validation import ChainGraph


class Readiness:
    """Where a chain stands. Each fact costs its task's edges; a failure at most the whole chain, once.

    Attributes:
        graph: The chain.
        ended: Results by local id.
        end: How the chain ended, once recorded.
    """

    def __init__(self, graph: ChainGraph) -> None:
        self.graph = graph
        self.ended: dict[str, TaskResult] = {}
        self.end: ChainEnded | None = None
        self._cancelled = False
        self._stopped = False
        self._failure: TaskError | None = None
        self._skipped: set[str] = set()
        self._started: set[str] = set()
        self._unmet = {task: len(awaited) for task, awaited in graph.dependencies.items()}

    def snapshot(self) -> "Readiness":
        """Where the chain stands now, for reading: what happens later does not change it."""
        still = copy.copy(self)
        still.ended = dict(self.ended)
        still._skipped, still._started = set(self._skipped), set(self._started)  # noqa: SLF001 - its own class
        return still

    def ready(self) -> list[str]:
        """Every task that may be sent and has not ended, in the order they were written."""
        if self._stopped:
            return []
        return [task for task, unmet in self._unmet.items() if not unmet and self._is_untouched(task)]

    def left_started(self) -> list[str]:
        """Every task that was to be sent once only and has not ended: a later owner cannot know how it went."""
        return [] if self._stopped else [task for task in self._started if task not in self.ended]

    def apply(self, fact: Fact) -> list[str]:
        """Take a fact in; returns the tasks that became ready through it. The second time it changes nothing."""
        if isinstance(fact, TaskEnded):
            return self._task_ended(fact.task, fact.result)
        if isinstance(fact, TaskStarted):
            self._started.add(fact.task)
        elif isinstance(fact, ChainCancelled):
            self._cancelled = self._stopped = True
        elif isinstance(fact, ChainEnded):
            self.end = fact
            self._stopped = True
        return []

    def is_over(self) -> bool:
        """True when nothing is left to run; tasks in flight at a stop have ended by then."""
        return self._stopped or len(self.ended) + len(self._skipped) >= len(self._unmet)

    @property
    def verdict(self) -> tuple[TaskStatus, TaskError | None]:
        """How the chain ends, given that it is over."""
        if self._cancelled:
            return TaskStatus.CANCELLED, None
        return (TaskStatus.FAILED, self._failure) if self._failure else (TaskStatus.COMPLETED, None)

    def status_of_chain(self, in_flight: Collection[str] = ()) -> TaskStatus:
        """PENDING before anything ran, RUNNING, or how it ended."""
        if self.end is not None:
            return self.end.status
        return TaskStatus.RUNNING if self.ended or self._started or in_flight else TaskStatus.PENDING

    @property
    def has_started(self) -> bool:
        """True when the start of a task is on record."""
        return bool(self._started)

    def status_of(self, task: str, in_flight: Collection[str] = ()) -> TaskStatus:
        """Where one task stands; `in_flight` is known to the chain's owner only."""
        if task in self.ended:
            return self.ended[task].status
        if self._cancelled:
            return TaskStatus.CANCELLED
        if task in self._skipped or self._stopped:
            return TaskStatus.SKIPPED
        return TaskStatus.RUNNING if task in in_flight or task in self._started else TaskStatus.PENDING

    def output_of(self, task: str) -> Any:
        """What dependents read: the result, or the default of a task that failed."""
        result = self.ended[task]
        on_failure = self.graph.tasks[task].on_failure
        return on_failure.continue_with if result.status is TaskStatus.FAILED and on_failure else result.result

    def _task_ended(self, task: str, result: TaskResult) -> list[str]:
        if task in self.ended:
            return []
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

    def _release(self, task: str) -> list[str]:
        freed = []
        for dependent in self.graph.dependents[task]:
            self._unmet[dependent] -= 1
            if not self._unmet[dependent] and self._is_untouched(dependent) and not self._stopped:
                freed.append(dependent)
        return freed

    def _is_untouched(self, task: str) -> bool:
        return task not in self.ended and task not in self._skipped and task not in self._started

    def _skip_behind(self, task: str) -> None:
        open_tasks = list(self.graph.dependents[task])
        while open_tasks:
            dependent = open_tasks.pop()
            if dependent not in self._skipped and dependent not in self.ended:
                self._skipped.add(dependent)
                open_tasks.extend(self.graph.dependents[dependent])


def _told(task: str, result: TaskResult) -> str:
    return f"task '{task}' failed: {result.error.message}" if result.error else f"task '{task}' failed"
