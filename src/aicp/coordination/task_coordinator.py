"""The coordinator: accepts chains, runs them, tells where they stand."""

import asyncio
import functools
import logging
import random
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from aicp.coordination.chain_status import fold, results_of, view_chain
from aicp.coordination.readiness import Readiness
from aicp.coordination.run import ChainRun
from aicp.errors import (
    AicpError,
    ChainNotFound,
    Fault,
    InvalidChain,
    InvalidTask,
    NoCapableAgent,
    QueueFull,
    TaskNotFound,
)
from aicp.model.agent import DEFAULT_TENANT
from aicp.model.chain import ChainResult, ChainSpec, FailurePolicy, TaskChain
from aicp.model.event import ChainSubmitted
from aicp.model.task import Attempt, Task, TaskResult
from aicp.model.validation import ChainGraph, check_chain, check_task
from aicp.model.views import ChainView
from aicp.ports import ChainQuery, ChainRecord, ChainSummary, Clock, Journal, Observer, SubmitKey, SystemClock
from aicp.registry.naming import wanted_key
from aicp.routing.failover_router import FailoverRouter
from aicp.routing.telling import made_safe

ACCEPTED_MAX = 100_000
CLAIMED_AT_ONCE = 200
SINGLE_TASK = "task"
PARALLEL_NAME = "parallel tasks"
RETRY_AFTER_S = 1.0
_log = logging.getLogger(__name__)
T = TypeVar("T")


class TaskCoordinator:
    """Runs chains of tasks to their recorded end.

        async with TaskCoordinator(router, journal) as coordinator:
            outcome = await coordinator.execute_chain(chain)

    Args:
        router: Carries tasks.
        journal: Records them.
        clock: Time.
        rng: For ids of chains.
        observer: Told of every fact once it is recorded.
        accepted_max: Tasks accepted and unfinished; more are refused.
    """

    def __init__(
        self,
        router: FailoverRouter,
        journal: Journal,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        observer: Observer | None = None,
        accepted_max: int = ACCEPTED_MAX,
    ) -> None:
        self._router = router
        self._journal = journal
        self._clock = clock or SystemClock()
        self._rng = rng or random.SystemRandom()
        self._observer = made_safe(observer)
        self._accepted_max = accepted_max
        self._runs: dict[str, ChainRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._unstoppable: set[asyncio.Task[Any]] = set()
        self._accepted = 0

    async def __aenter__(self) -> Self:
        """Open the journal and go on with what it has unfinished."""
        await self._journal.open()
        while records := await self._journal.claim(CLAIMED_AT_ONCE):
            for record in records:
                self._accepted += len(record.submitted.spec.tasks)
                self._begin(record.submitted, fold(record), record.epoch)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop every chain where it is and close the journal; what is recorded stays so."""
        await asyncio.gather(*self._unstoppable, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._journal.close()

    async def execute_chain(self, chain: TaskChain | ChainSpec) -> ChainResult:
        """Submit a chain and wait for its end, whatever that is: look at its `status`.

        Raises:
            InvalidChain: With every fault and its place; nothing ran.
            NoCapableAgent: A task asks for what nobody has ever offered; nothing ran.
            QueueFull: Too much accepted work is unfinished; nothing ran.
        """
        return await self.wait_result(await self.submit(chain))

    async def execute_parallel_tasks(self, tasks: Sequence[Task]) -> list[TaskResult]:
        """Run tasks side by side, each to its own end: one that fails does not touch the others.

        Returns:
            A result for each task, in their order.

        Raises:
            InvalidChain: A task cannot be used; nothing ran.
            NoCapableAgent: A task asks for what nobody has ever offered; nothing ran.
            QueueFull: Too much accepted work is unfinished; nothing ran.
        """
        if not tasks:
            return []
        spec = parallel_chain(tasks)
        ended = await self.wait_result(await self.submit(spec))
        return [ended.tasks[task.id] for task in spec.tasks]

    async def submit(
        self,
        chain: TaskChain | ChainSpec,
        *,
        tenant: str = DEFAULT_TENANT,
        key: SubmitKey | None = None,
        retry_of: str | None = None,
    ) -> str:
        """Accept a chain: when this returns its id, it is recorded and will run to its end.

        What is on record runs, even if whoever submits it leaves before that is confirmed.

        Args:
            chain: What to run.
            tenant: Whose it is.
            key: Makes the submit safe to repeat; the same key and body give the same id.
            retry_of: The chain it repeats.

        Raises:
            InvalidChain: With every fault and its place.
            NoCapableAgent: A task asks for what nobody has ever offered.
            QueueFull: Too much accepted work is unfinished.
            IdempotencyConflict: The key was used with another body.
        """
        graph = check_chain(chain.freeze() if isinstance(chain, TaskChain) else chain)
        self._check_capabilities(graph)
        self._check_params(graph)
        self._reserve(len(graph.tasks))
        submitted = ChainSubmitted(self._new_id(), graph.spec, self._clock.utcnow(), tenant, retry_of)
        return await self._to_its_end(self._accept(submitted, graph, key))

    async def submit_task(self, task: Task, *, tenant: str = DEFAULT_TENANT, key: SubmitKey | None = None) -> str:
        """Accept a task on its own, as a chain of one, and return its global id.

        Raises:
            InvalidTask: With every fault and its place.
            NoCapableAgent: Nobody has ever offered the capability.
            QueueFull: Too much accepted work is unfinished.
            IdempotencyConflict: The key was used with another body.
        """
        check_task(task)
        if misfit := self._router.misfit(task):
            raise InvalidTask([Fault("/params", _fits_nobody(task, misfit))])
        chain_id = await self.submit(single_chain(task), tenant=tenant, key=key)
        return f"{chain_id}.{SINGLE_TASK}"

    async def cancel(self, chain_id: str) -> None:
        """Cancel a chain: once this returns no attempt starts any more. A chain that ended stays as it is.

        It is cancelled even if whoever asks leaves before that is on record.

        Raises:
            ChainNotFound: There is none.
        """
        run = self._runs.get(chain_id)
        if run is not None:
            await self._to_its_end(run.cancel())
        else:
            await self._read(chain_id)

    async def view(self, chain_id: str) -> ChainView:
        """Where a chain stands, from its recorded facts.

        Raises:
            ChainNotFound: There is none.
        """
        run = self._runs.get(chain_id)
        in_flight: dict[str, tuple[Attempt, ...]] = run.in_flight() if run is not None else {}
        return view_chain(await self._read(chain_id), in_flight)

    async def tenant_of(self, chain_id: str) -> str:
        """Whose it is.

        Raises:
            ChainNotFound: There is none.
        """
        return (await self._read(chain_id)).submitted.tenant

    async def wait(self, chain_id: str, timeout_s: float | None = None) -> ChainView:
        """Where a chain stands once it ended, or after `timeout_s` seconds.

        Raises:
            ChainNotFound: There is none.
        """
        run = self._runs.get(chain_id)
        if run is not None:
            await _wait_at_most(run.is_recorded, timeout_s)
        return await self.view(chain_id)

    async def wait_result(self, chain_id: str) -> ChainResult:
        """How a chain ended.

        Raises:
            ChainNotFound: There is none.
            AicpError: The coordinator stopped before it ended.
        """
        run = self._runs.get(chain_id)
        if run is not None:
            await run.is_recorded.wait()
            readiness, end = run.readiness, run.end
        else:
            readiness = fold(await self._read(chain_id))
            end = readiness.end
        if end is None:
            raise AicpError(f"Chain {chain_id} has not ended: this coordinator stopped.")
        name = readiness.graph.spec.name
        return ChainResult(chain_id, name, end.status, results_of(chain_id, readiness), end.error)

    async def list_chains(self, query: ChainQuery) -> list[ChainSummary]:
        """Newest first, one page."""
        return list(await self._journal.list_chains(query))

    @property
    def unfinished(self) -> int:
        """Tasks accepted and not ended."""
        return self._accepted

    async def _accept(self, submitted: ChainSubmitted, graph: ChainGraph, key: SubmitKey | None) -> str:
        try:
            chain_id = await self._journal.submit(submitted, key)
        except BaseException:
            self._accepted -= len(graph.tasks)
            raise
        if chain_id == submitted.chain_id:
            self._tell(submitted)
            self._begin(submitted, Readiness(graph), epoch=1)
        else:
            self._accepted -= len(graph.tasks)
        return chain_id

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what must not stop half-way, such as a record and what follows from it, even if the caller leaves."""
        task = asyncio.create_task(work)
        self._unstoppable.add(task)
        task.add_done_callback(self._unstoppable.discard)
        return await asyncio.shield(task)

    def _begin(self, submitted: ChainSubmitted, readiness: Readiness, epoch: int) -> None:
        run = ChainRun(submitted, readiness, epoch, self._router, self._journal, self._clock, self._observer)
        self._runs[run.chain_id] = run
        task = asyncio.create_task(run.run(), name=f"chain {run.chain_id}")
        self._tasks.add(task)
        task.add_done_callback(functools.partial(self._stopped, run))

    def _stopped(self, run: ChainRun, task: asyncio.Task[None]) -> None:
        """A chain runs here no more; one that was cancelled before it began never ran a line of its own."""
        self._tasks.discard(task)
        del self._runs[run.chain_id]
        self._accepted -= run.size
        run.is_recorded.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("chain %s stopped without an end", run.chain_id, exc_info=error)

    def _check_capabilities(self, graph: ChainGraph) -> None:
        for key in {wanted_key(task.capability): None for task in graph.spec.tasks}:
            if not self._router.knows(key):
                raise NoCapableAgent(key)

    def _check_params(self, graph: ChainGraph) -> None:
        wanted = {task.capability for task in graph.spec.tasks}
        demanding = {capability for capability in wanted if self._router.demands_params(capability)}
        faults = [
            Fault(f"/tasks/{index}/params", _fits_nobody(task, misfit))
            for index, task in enumerate(graph.spec.tasks)
            if task.capability in demanding and (misfit := self._router.misfit(task))
        ]
        if faults:
            raise InvalidChain(faults)

    def _reserve(self, tasks: int) -> None:
        """Count them as accepted before they are: submits that wait for the journal side by side share the room."""
        if self._accepted + tasks > self._accepted_max:
            message = f"{self._accepted} accepted tasks are unfinished, at most {self._accepted_max}; submit later."
            raise QueueFull(message, RETRY_AFTER_S)
        self._accepted += tasks

    def _new_id(self) -> str:
        """Sorts by time, and nobody guesses it."""
        millis = int(self._clock.utcnow().timestamp() * 1000)
        return f"{millis:012x}{self._rng.getrandbits(80):020x}"

    async def _read(self, chain_id: str) -> ChainRecord:
        record = await self._journal.read(chain_id)
        if record is None:
            raise ChainNotFound(f"There is no chain '{chain_id[:80]}'.")
        return record

    def _tell(self, submitted: ChainSubmitted) -> None:
        if self._observer is not None:
            self._observer.notify(submitted)


def _fits_nobody(task: Task, misfit: str) -> str:
    return f"fit no agent that offers '{task.capability}': {misfit}"


def single_chain(task: Task) -> ChainSpec:
    """The chain that a task on its own is."""
    return ChainSpec((_with_id(task, SINGLE_TASK),))


def parallel_chain(tasks: Sequence[Task]) -> ChainSpec:
    """The chain that tasks side by side are."""
    named = tuple(_with_id(task, task.id or f"task-{number}") for number, task in enumerate(tasks, 1))
    return ChainSpec(named, name=PARALLEL_NAME, failure_policy=FailurePolicy.CONTINUE)


def split_task_id(task_id: str) -> tuple[str, str]:
    """The chain id and local id of a global task id.

    Raises:
        TaskNotFound: It cannot be one.
    """
    chain_id, dot, local_id = task_id.partition(".")
    if not (chain_id and dot and local_id):
        raise TaskNotFound(f"There is no task '{task_id[:160]}'; a task id looks like <chain>.<task>.")
    return chain_id, local_id


def _with_id(task: Task, local_id: str) -> Task:
    return msgspec.structs.replace(task, id=local_id)


async def _wait_at_most(event: asyncio.Event, timeout_s: float | None) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return
