"""Chains: several tasks and who waits for whom, as plain data."""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from aicp.errors import Fault, InvalidChain, InvalidTask
from aicp.model.outcome import TaskError
from aicp.model.reference import ChainTask, freeze
from aicp.model.task import OnFailure, Task, TaskResult, TaskStatus

DEFAULT_CHAIN_DEADLINE_S = 86_400.0
SINGLE_TASK = "task"
PARALLEL_NAME = "parallel tasks"


class FailurePolicy(StrEnum):
    """What a failed task does to the others of its chain.

    `fail_fast`: running ones are CANCELLED, those not started SKIPPED. `continue`: only its dependents are SKIPPED.
    """

    FAIL_FAST = "fail_fast"
    CONTINUE = "continue"


class ChainSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A chain as it is submitted and recorded: the same value from Python, JSON and YAML.

    Attributes:
        tasks: In the order they were written; at most 10,000.
        name: What people call it.
        deadline_s: Seconds from submit to the end; None for a day.
        failure_policy: What a failed task does to the others.
    """

    tasks: tuple[Task, ...]
    name: str = ""
    deadline_s: float | None = None
    failure_policy: FailurePolicy = FailurePolicy.FAIL_FAST


def single_chain(task: Task) -> ChainSpec:
    """The chain that a task on its own is; its local id is `task`."""
    return ChainSpec((msgspec.structs.replace(task, id=SINGLE_TASK),))


def parallel_chain(tasks: Sequence[Task]) -> ChainSpec:
    """The chain that tasks side by side are, each to its own end; one without an id is called `task-1` or so."""
    named = (msgspec.structs.replace(task, id=task.id or f"task-{number}") for number, task in enumerate(tasks, 1))
    return ChainSpec(tuple(named), name=PARALLEL_NAME, failure_policy=FailurePolicy.CONTINUE)


class TaskChain:
    """Builds a chain in Python.

        chain = TaskChain("image analysis")
        fetch = chain.add_task("image.fetch", {"url": url})
        label = chain.add_task("image.label", {"image": fetch.output})

    Whoever refers to an output waits for it; everything else runs in parallel. Nothing but the types of options is
    checked before `freeze()` is handed to a coordinator, which then reports all faults at once.

    Args:
        name: What people call it.
        deadline_s: Seconds from submit to the end; None for a day.
        failure_policy: What a failed task does to the others.

    Raises:
        InvalidChain: The failure policy is unknown.
    """

    def __init__(
        self,
        name: str = "",
        *,
        deadline_s: float | None = None,
        failure_policy: FailurePolicy | str = FailurePolicy.FAIL_FAST,
    ) -> None:
        self._name = name
        self._deadline_s = deadline_s
        self._failure_policy = _policy_of(failure_policy)
        self._tasks: dict[str, Task] = {}
        self._numbers: dict[str, int] = {}

    def add_task(
        self,
        capability: str,
        params: dict[str, Any] | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the name it has in JSON
        depends_on: Iterable[ChainTask | str] | ChainTask = (),
        on_failure: OnFailure | None = None,
        **options: Any,
    ) -> ChainTask:
        """Add a task and get a handle to its output.

        Args:
            capability: `name` or `name@major`.
            params: JSON object; values may be outputs of earlier tasks.
            id: Local id; made from the capability when left out (`fetch`, `fetch-2`, …).
            depends_on: Tasks to wait for without reading them.
            on_failure: Default for dependents when it fails; None lets it fail the chain.
            **options: Any other field of `Task`: `priority`, `timeout_s`, `deadline_s`, `idempotent`, `labels`, …

        Raises:
            InvalidChain: A task with this id was added before.
            InvalidTask: A parameter is unknown or of the wrong type.
        """
        local_id = id or self._fresh_id(capability)
        if local_id in self._tasks:
            place = f"/tasks/{len(self._tasks)}/id"
            raise InvalidChain([Fault(place, f"'{local_id}' is the id of an earlier task; give this one another id")])
        named = [depends_on] if isinstance(depends_on, ChainTask | str) else depends_on
        awaited = [task.id if isinstance(task, ChainTask) else task for task in named]
        fields = {"capability": capability, "id": local_id, "depends_on": awaited, "on_failure": on_failure, **options}
        try:
            # As JSON would be: what it freezes into is the same value, whichever way it was written.
            task = msgspec.convert(fields, Task)
        except msgspec.ValidationError as error:
            raise InvalidTask(f"task '{local_id}': {error}") from None
        self._tasks[local_id] = msgspec.structs.replace(task, params=freeze(params or {}))
        return ChainTask(local_id)

    def freeze(self) -> ChainSpec:
        """The chain as a value."""
        return ChainSpec(tuple(self._tasks.values()), self._name, self._deadline_s, self._failure_policy)

    def _fresh_id(self, capability: str) -> str:
        stem = capability.partition("@")[0].rpartition(".")[2][:56] or "task"
        if stem not in self._tasks:
            return stem
        number = self._numbers.get(stem, 1) + 1
        while f"{stem}-{number}" in self._tasks:
            number += 1
        # Where the next one begins to look: ten thousand of a kind are named in one go.
        self._numbers[stem] = number
        return f"{stem}-{number}"


def _policy_of(name: FailurePolicy | str) -> FailurePolicy:
    try:
        return FailurePolicy(name)
    except ValueError:
        choices = ", ".join(FailurePolicy)
        raise InvalidChain([Fault("/failure_policy", f"{name!r} is unknown: choose from {choices}")]) from None


class ChainResult(msgspec.Struct, frozen=True):
    """How a chain stands or ended.

    Attributes:
        chain_id: Its id.
        name: What people call it.
        status: COMPLETED, FAILED or CANCELLED once ended; RUNNING or PENDING before.
        tasks: Result of each ended task by local id.
        error: Why it failed; None when it did not.
    """

    chain_id: str
    name: str
    status: TaskStatus
    tasks: dict[str, TaskResult]
    error: TaskError | None = None

    def __getitem__(self, task: ChainTask | str) -> TaskResult:
        """The result of one of its tasks."""
        return self.tasks[task.id if isinstance(task, ChainTask) else task]
