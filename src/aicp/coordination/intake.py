"""What is taken in: it is sound, its key allows it, somebody can do it, and there is room."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

import msgspec

from aicp.coordination.acceptance import Acceptance, check_allowed
from aicp.coordination.chain_ids import ChainIds
from aicp.coordination.forecast import Forecast, forecast
from aicp.errors import Fault, InvalidChain, InvalidInput, InvalidTask, NoCapableAgent
from aicp.model.access import ANYTHING, Grant
from aicp.model.agent import DEFAULT_TENANT
from aicp.model.chain import DEFAULT_CHAIN_DEADLINE_S, ChainSpec
from aicp.model.event import ChainSubmitted, TaskEnded
from aicp.model.run_id import global_id
from aicp.model.task import DEFAULT_TASK_DEADLINE_S, Task, TaskResult
from aicp.model.validation import ChainGraph, check_chain, check_single
from aicp.ports import ChainRecord, Clock, SubmitKey
from aicp.registry.naming import wanted_key
from aicp.routing.failover_router import FailoverRouter
from aicp.scheduling.slices import Steps


class Submit(msgspec.Struct, frozen=True):
    """How something is submitted.

    Attributes:
        tenant: Whose it is.
        key: Makes the submit safe to repeat.
        traceparent: The trace it belongs to; None for one of its own.
        grant: What the API key lets its user submit.
        retry_of: The chain it repeats.
        good: Results of that chain which need not be made again, by local id.
    """

    tenant: str = DEFAULT_TENANT
    key: SubmitKey | None = None
    traceparent: str | None = None
    grant: Grant = ANYTHING
    retry_of: str | None = None
    good: Sequence[tuple[str, TaskResult]] = ()

    @property
    def done(self) -> Collection[str]:
        """Local ids of tasks that are done already."""
        return {task for task, _ in self.good}


class Taken(msgspec.Struct, frozen=True):
    """A chain that is taken in, and not on record yet; its room is reserved, and whoever has this gives it back.

    Attributes:
        record: Its submit, and the results it begins with.
        graph: The same chain.
        wait_s: How long its first tasks are expected to wait at most, seconds.
        unchecked: Tasks whose params take long to check, with the places of the params.
        refusal: The error where they do not fit.
    """

    record: ChainRecord
    graph: ChainGraph
    wait_s: float
    unchecked: tuple[tuple[str, Task], ...] = ()
    refusal: type[InvalidInput] = InvalidChain


class Intake:
    """Checks what is submitted, and makes a chain of it.

    Args:
        router: Knows who offers what, what they want to be given, and how long they would make it wait.
        room: How much is accepted and unfinished.
        ids: For new chains.
        clock: Time.
    """

    def __init__(self, router: FailoverRouter, room: Acceptance, ids: ChainIds, clock: Clock) -> None:
        self._router = router
        self._room = room
        self._ids = ids
        self._clock = clock

    def task(self, task: Task | ChainGraph, submit: Submit) -> Taken:
        """Take in a task on its own, as a chain of one; a graph was checked before.

        Raises:
            InvalidTask: With every fault and its place.
            CapabilityRefused: The key does not allow its capability.
            NoCapableAgent: Nobody has ever offered the capability.
            QueueFull: Too much accepted work is unfinished, or it would wait beyond its deadline.
        """
        graph = task if isinstance(task, ChainGraph) else check_single(task)
        (task,) = graph.spec.tasks
        check_allowed((task,), submit.grant)
        unchecked = self._check_params((("/params", task),), submit.tenant, InvalidTask)
        taken = self._take(graph, submit)
        return msgspec.structs.replace(taken, unchecked=unchecked, refusal=InvalidTask) if unchecked else taken

    def chain(self, spec: ChainSpec | ChainGraph, submit: Submit) -> Taken:
        """Take in a chain; a graph was checked before.

        Raises:
            InvalidChain: With every fault and its place.
            CapabilityRefused: The key does not allow a task's capability.
            NoCapableAgent: A task asks for what nobody has ever offered.
            QueueFull: Too much accepted work is unfinished, or a task would wait beyond its deadline.
        """
        graph = spec if isinstance(spec, ChainGraph) else check_chain(spec)
        check_allowed(graph.spec.tasks, submit.grant)
        unchecked = self._check_params(self._demanding(graph, submit), submit.tenant, InvalidChain)
        taken = self._take(graph, submit)
        return msgspec.structs.replace(taken, unchecked=unchecked) if unchecked else taken

    async def check_rest(self, taken: Taken) -> None:
        """Check the params that were not checked when it was taken in.

        Raises:
            InvalidInput: Of the class `taken.refusal`, with every fault and its place.
            TooManyDocuments: Too many such checks wait.
        """
        tenant = taken.record.submitted.tenant
        found = [(place, task, await self._router.misfit(task, tenant)) for place, task in taken.unchecked]
        if faults := [Fault(place, _fits_nobody(task, misfit)) for place, task, misfit in found if misfit]:
            raise taken.refusal(faults)

    def forecast(self, taken: Taken) -> Steps[Forecast | None] | None:
        """What its submitter must be warned of: it is accepted, and will probably outlast its own deadline.

        None, rather than steps that return it, for a task on its own that will probably not.
        """
        tenant, spec = taken.record.submitted.tenant, taken.graph.spec
        if len(spec.tasks) == 1:
            within_s = min(spec.tasks[0].deadline_s or DEFAULT_TASK_DEADLINE_S, spec.deadline_s or math.inf)
            if taken.wait_s + self._router.usual_s(spec.tasks[0], tenant) <= within_s:
                return None
        done = {fact.task for fact in taken.record.facts if isinstance(fact, TaskEnded)}
        return forecast(taken.graph, done, lambda task, count: self._router.pace(task, tenant, count))

    def give_back(self, taken: Taken) -> None:
        """It is not run here after all."""
        self._room.give_back(len(taken.graph.tasks), taken.record.submitted)

    def _take(self, graph: ChainGraph, submit: Submit) -> Taken:
        self._check_capabilities(graph, submit)
        wait_s = self._check_wait(graph, submit)
        self._room.reserve(graph.spec.tasks, submit.tenant, submit.grant)
        chain_id = self._ids.next()
        submitted = ChainSubmitted(
            chain_id, graph.spec, self._clock.utcnow(), submit.tenant, submit.retry_of, submit.traceparent,
            submit.grant.key_id,
        )  # fmt: skip
        copies = tuple(_copy(result, submitted, task) for task, result in submit.good)
        return Taken(ChainRecord(submitted, copies), graph, wait_s)

    def _check_capabilities(self, graph: ChainGraph, submit: Submit) -> None:
        done = submit.done
        for key in {wanted_key(task.capability): None for task in graph.spec.tasks if task.id not in done}:
            if not self._router.knows(key, submit.tenant):
                raise NoCapableAgent(key, self._router.similar(key, submit.tenant))

    def _demanding(self, graph: ChainGraph, submit: Submit) -> Iterator[tuple[str, Task]]:
        """The tasks that somebody offers only for params of some form, with the places of their params."""
        wanted, done = {task.capability for task in graph.spec.tasks}, submit.done
        demanding = {capability for capability in wanted if self._router.demands_params(capability, submit.tenant)}
        for index, task in enumerate(graph.spec.tasks):
            if task.capability in demanding and task.id not in done:
                yield f"/tasks/{index}/params", task

    def _check_params(
        self, tasks: Iterable[tuple[str, Task]], tenant: str, refusal: type[InvalidInput]
    ) -> tuple[tuple[str, Task], ...]:
        """Refuse params that fit nobody; returns the tasks with params that take long to check."""
        faults: list[Fault] = []
        unchecked: list[tuple[str, Task]] = []
        for place, task in tasks:
            misfit = self._router.misfit_at_once(task, tenant)
            if misfit is None:
                unchecked.append((place, task))
            elif misfit:
                faults.append(Fault(place, _fits_nobody(task, misfit)))
        if faults:
            raise refusal(faults)
        return tuple(unchecked)

    def _check_wait(self, graph: ChainGraph, submit: Submit) -> float:
        """Refuse what would stand in line beyond its deadline as soon as it began; what comes later, nobody knows."""
        done = submit.done
        first = (task for task in graph.spec.tasks if task.id not in done and not graph.dependencies[task.id])
        return self._router.refuse_if_too_late(first, submit.tenant, graph.spec.deadline_s or DEFAULT_CHAIN_DEADLINE_S)


def _fits_nobody(task: Task, misfit: str) -> str:
    return f"fit no agent that offers '{task.capability}': {misfit}"


def _copy(result: TaskResult, submitted: ChainSubmitted, task: str) -> TaskEnded:
    chain_id, late = submitted.chain_id, timedelta()
    if result.ended_at is not None:
        late = max(late, result.ended_at - submitted.at + timedelta(microseconds=1))
    copied = _earlier(result, late) if late else result
    return TaskEnded(chain_id, task, msgspec.structs.replace(copied, task_id=global_id(chain_id, task), charges=()))


def _earlier(result: TaskResult, by: timedelta) -> TaskResult:
    """A result whose end would lie after the submit that copies it, since the wall clock was set back meanwhile."""

    def earlier(at: datetime | None) -> datetime | None:
        return None if at is None else at - by

    replace = msgspec.structs.replace
    attempts = [replace(each, started_at=each.started_at - by, ended_at=each.ended_at - by) for each in result.attempts]
    return replace(
        result, attempts=tuple(attempts), ready_at=earlier(result.ready_at), started_at=earlier(result.started_at),
        ended_at=earlier(result.ended_at),
    )  # fmt: skip
