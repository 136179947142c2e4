"""The coordinator: accepts chains, runs them, tells where they stand."""

import asyncio
import functools
import logging
import math
import os
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from aicp.coordination.acceptance import Acceptance
from aicp.coordination.carrying import INTERNAL_ERROR, Carrier
from aicp.coordination.chain_changes import NOWHERE, Place, changed_by, changes_in_parts
from aicp.coordination.chain_ids import ChainIds
from aicp.coordination.chain_status import (
    PART,
    InFlight,
    copied_results,
    facts_once,
    fold,
    fold_in_parts,
    graph_in_parts,
    results_of,
    view_in_parts,
    view_task,
)
from aicp.coordination.forecast import Forecast
from aicp.coordination.intake import Intake, Submit, Taken
from aicp.coordination.listing import Listing, TaskQuery
from aicp.coordination.progress import Progress
from aicp.coordination.readiness import Readiness
from aicp.coordination.recovery import LOOK_EVERY_S, Recovery, has_ended
from aicp.coordination.retention import DEFAULT_RETENTION_S, Retention
from aicp.coordination.run import ChainRun, latest_time
from aicp.coordination.stranding import StrandedChain, Stranding
from aicp.errors import (
    AicpError,
    CapabilityRefused,
    ChainNotFound,
    Conflict,
    InvalidChain,
    InvalidTask,
    NewerVersion,
    NoCapableAgent,
    OwnershipLost,
    QueueFull,
    StorageError,
    TaskNotFound,
)
from aicp.forks import HomeProcess
from aicp.model.access import ANYTHING, Grant
from aicp.model.agent import DEFAULT_TENANT
from aicp.model.chain import DEFAULT_CHAIN_DEADLINE_S, SINGLE_TASK, ChainResult, ChainSpec, TaskChain, parallel_chain
from aicp.model.duration import seconds_between
from aicp.model.event import ChainEnded, ChainSubmitted, ChainWarned, Fact
from aicp.model.outcome import TaskError
from aicp.model.request import cancel_request
from aicp.model.run_id import chain_of, global_id, parse_run_id
from aicp.model.task import Task, TaskResult, TaskStatus
from aicp.model.validation import ChainGraph, check_tasks
from aicp.model.views import ChainChanges, ChainPage, ChainView, Explanation, TaskPage, TaskView
from aicp.ports import ChainQuery, ChainRecord, ChainSummary, Clock, Journal, Observer, Replicas, SubmitKey, SystemClock
from aicp.routing.failover_router import FailoverRouter
from aicp.routing.telling import made_safe
from aicp.scheduling.slices import in_slices

ACCEPTED_MAX = 100_000
CANCEL_WAIT_S = 5.0
SURE_ASKED_EVERY_S = 0.05
GRAPHS_KEPT_MAX = 16
STOP_WAIT_S = 10.0
_REFUSALS = (InvalidChain, InvalidTask, CapabilityRefused, NoCapableAgent, QueueFull)
_log = logging.getLogger(__name__)
T = TypeVar("T")


class TaskCoordinator:
    """Runs chains of tasks to their recorded end.

        async with TaskCoordinator(router, journal) as coordinator:
            outcome = await coordinator.execute_chain(chain)

    Attributes:
        defects: Exceptions out of its parts, which must raise none.

    Args:
        router: Carries tasks.
        journal: Records them.
        clock: Time.
        rng: Chance, for ids of chains and for waits; without one, ids are nobody's to guess.
        observer: Told of every fact once it is recorded.
        accepted_max: Tasks accepted and unfinished; more are refused.
        retention_s: How long a chain is remembered after its end, seconds.
        replicas: Who shares the journal; None for nobody.
        progress: Compares the clocks, for whatever is deleted by age; None for one that keeps its state in memory.
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
        retention_s: float = DEFAULT_RETENTION_S,
        replicas: Replicas | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._router = router
        self._journal = journal
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._observer = made_safe(observer)
        self._runs: dict[str, ChainRun] = {}
        self._replicas = replicas
        self._with_room: set[ChainRun] = set()
        self._tasks: dict[ChainRun, asyncio.Task[None]] = {}
        self._unstoppable: set[asyncio.Task[Any]] = set()
        self._cancelling: set[str] = set()
        self._accepted = Acceptance(accepted_max)
        ids = ChainIds(self._clock, rng.randbytes if rng is not None else os.urandom)
        self._intake = Intake(router, self._accepted, ids, self._clock)
        self._graphs: OrderedDict[str, ChainGraph] = OrderedDict()
        self._listing = Listing(journal, self._runs)
        self.defects = router.defects
        self._carrier = Carrier(router, self._clock, self.defects, self._rng.uniform)
        self._stranding = Stranding(self._resume, self._clock, self.defects, self._rng.uniform)
        self._recovery = Recovery(journal, self._take_over, replicas, self._cancel_soon, self._stranding, self.defects)
        self._progress = progress or Progress(self._clock)
        self._retention = Retention(journal, self._progress, retention_s)
        self._caring: list[asyncio.Task[None]] = []
        self._home = HomeProcess("This coordinator")

    async def __aenter__(self) -> Self:
        """Open the journal, and go on with what it has unfinished: behind this, while submits are accepted."""
        self._home.require()
        await self._journal.open()
        await self._retention.begin()
        if self._replicas is not None:
            self._replicas.when_lost(self._let_go)
        self._caring = [
            asyncio.create_task(self._recovery.keep_on(), name="recovery of chains"),
            asyncio.create_task(self._retention.keep_on(), name="retention of chains"),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop every chain where it is and close the journal; what is recorded stays so."""
        if self._home.is_left:
            return
        await _cancelled(self._caring)
        self._recovery.stop()
        for run in self._runs.values():
            run.stop_trying()
        if self._unstoppable:
            await asyncio.wait(self._unstoppable, timeout=STOP_WAIT_S)
        await _cancelled([*self._unstoppable, *self._tasks.values()])
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
        check_tasks(tasks)
        if not tasks:
            return []
        spec = parallel_chain(tasks)
        ended = await self.wait_result(await self.submit(spec))
        return [ended.tasks[task.id] for task in spec.tasks]

    async def submit(
        self,
        chain: TaskChain | ChainSpec | ChainGraph,
        *,
        tenant: str = DEFAULT_TENANT,
        key: SubmitKey | None = None,
        retry_of: str | None = None,
        traceparent: str | None = None,
        grant: Grant = ANYTHING,
    ) -> str:
        """Accept a chain: when this returns its id, it is recorded and will run to its end.

        What is on record runs, even if whoever submits it leaves before that is confirmed.

        Args:
            chain: What to run; a graph, as `check_chain` gives it, is not checked again.
            tenant: Whose it is.
            key: Makes the submit safe to repeat; the same key and body give the same id.
            retry_of: The chain it repeats.
            traceparent: The trace it belongs to, as `parse_traceparent` gives it; None for one of its own.
            grant: What the API key lets its user submit.

        Raises:
            InvalidChain: With every fault and its place.
            CapabilityRefused: The key does not allow a task's capability.
            NoCapableAgent: A task asks for what nobody has ever offered.
            QueueFull: Too much accepted work is unfinished.
            IdempotencyConflict: The key was used with another body.
        """
        spec = chain.freeze() if isinstance(chain, TaskChain) else chain
        submit = Submit(tenant, key, traceparent, grant, retry_of)
        return await self._accept(key, lambda: self._intake.chain(spec, submit))

    async def submit_task(
        self,
        task: Task | ChainGraph,
        *,
        tenant: str = DEFAULT_TENANT,
        key: SubmitKey | None = None,
        traceparent: str | None = None,
        grant: Grant = ANYTHING,
    ) -> str:
        """Accept a task on its own, as a chain of one, and return its global id; arguments are those of `submit`.

        Raises:
            InvalidTask: With every fault and its place.
            CapabilityRefused: The key does not allow its capability.
            NoCapableAgent: Nobody has ever offered the capability.
            QueueFull: Too much accepted work is unfinished.
            IdempotencyConflict: The key was used with another body.
        """
        submit = Submit(tenant, key, traceparent, grant)
        return global_id(await self._accept(key, lambda: self._intake.task(task, submit)), SINGLE_TASK)

    async def retry(
        self,
        chain_id: str,
        *,
        tenant: str | None = None,
        key: SubmitKey | None = None,
        traceparent: str | None = None,
        grant: Grant = ANYTHING,
    ) -> str:
        """Accept a chain again as a new one, and return its id: results that are good already are copied.

        Good is a COMPLETED result whose task waited for nothing but tasks with good results; everything else is done
        again.

        Args:
            chain_id: Of a chain that ended.
            tenant: Whose it must be; None for anybody's.
            key: Makes the retry safe to repeat.
            traceparent: The trace that the new one belongs to; None for one of its own.
            grant: What the API key lets its user submit; every task of the chain counts, copied or not.

        Raises:
            ChainNotFound: There is none of this tenant.
            Conflict: It has not ended.
            CapabilityRefused: The key does not allow a task's capability.
            NoCapableAgent: A task asks for what nobody has ever offered.
            QueueFull: Too much accepted work is unfinished.
            IdempotencyConflict: The key was used with another body.
        """
        if (known := await self._known(key)) is not None:
            return known
        record = await self._read(chain_id, tenant)
        if not has_ended(record):
            raise Conflict(f"Chain {chain_id} has not ended: wait for its end, or cancel it, and then retry it.")
        submitted = record.submitted
        folded = await self._folded(record)
        good = await in_slices(copied_results(folded))
        submit = Submit(submitted.tenant, key, traceparent, grant, chain_id, good)
        return await self._to_its_end(self._submit(self._intake.chain(folded.graph, submit), key))

    async def cancel(self, chain_id: str, tenant: str | None = None) -> None:
        """Cancel a chain: once this returns no attempt starts any more. A chain that ended stays as it is.

        It is cancelled even if whoever asks leaves before that is on record. One that another replica runs is cancelled
        by that one, or by who takes it over: if that takes more than 5 s, this returns before, and it will happen.

        Raises:
            ChainNotFound: There is none, or it is not of the tenant that was named.
        """
        self._home.require()
        try:
            if self._replicas is not None and self._running(chain_id, tenant) is None:
                await self._ask_to_cancel(chain_id, tenant)
            elif (run := await self._run_of(chain_id, tenant)) is not None:
                await self._to_its_end(run.cancel())
        except NewerVersion:
            # Without its facts: whoever can read them cancels it.
            await self._journal.ask(cancel_request(chain_id))

    async def cancel_task(self, task_id: str, tenant: str | None = None) -> TaskStatus:
        """Cancel a task that was submitted on its own, as `cancel` does; returns where it stands then.

        Raises:
            Conflict: It is part of a chain of several tasks, and has not ended.
            TaskNotFound: There is none, or it is not of the tenant that was named.
        """
        status = await self._task_status(task_id, tenant)
        chain_id = chain_of(task_id)
        if not status.is_terminal and (await self._summary(chain_id, tenant)).total_tasks > 1:
            raise Conflict(f"Task {task_id} is part of a chain: cancel the chain {chain_id}.")
        await self.cancel(chain_id)
        return await self._task_status(task_id, tenant)

    async def view(self, chain_id: str, tenant: str | None = None) -> ChainView:
        """Where a chain stands, from its recorded facts. Costs its tasks.

        Raises:
            ChainNotFound: There is none, or it is not of the tenant that was named.
        """
        run = self._running(chain_id, tenant)
        if run is not None:
            return await view_in_parts(run.submitted, run.standing, run.in_flight())
        record = await self._read(chain_id, tenant)
        return await view_in_parts(record.submitted, await self._folded(record), {})

    async def changes(self, chain_id: str, since: Place = NOWHERE, tenant: str | None = None) -> ChainChanges:
        """A chain in short, and those of its tasks that changed since an earlier answer.

        Costs those of a chain that runs here, else its tasks.

        Args:
            chain_id: Its id.
            since: `seq` of that answer; every task is told when the record has not reached it.
            tenant: Whose it must be; None for anybody's.

        Raises:
            ChainNotFound: There is none, or it is not of the tenant that was named.
        """
        run = self._running(chain_id, tenant)
        if run is not None:
            names, reached = run.changed_since(since)
            return await changes_in_parts(run.submitted, run.standing, run.in_flight(), names, reached)
        record = await self._read(chain_id, tenant)
        facts, standing = facts_once(record), await self._folded(record)
        names = changed_by(facts[since.facts :], standing) if 0 < since.facts <= len(facts) else None
        return await changes_in_parts(record.submitted, standing, {}, names, Place(len(facts)))

    async def status_of(self, chain_id: str, tenant: str | None = None) -> TaskStatus:
        """Where a chain stands; of one whose facts only a newer version reads, what its row says.

        Raises:
            ChainNotFound: There is none, or it is not of the tenant that was named.
        """
        try:
            return (await self.view(chain_id, tenant)).status
        except NewerVersion:
            return (await self._summary(chain_id, tenant)).status

    async def view_task(self, task_id: str, tenant: str | None = None) -> TaskView:
        """Where one task stands, by its global id, from the recorded facts of its chain.

        Raises:
            TaskNotFound: There is none, or it is not of the tenant that was named.
        """
        chain_id, local_id = split_task_id(task_id)
        try:
            standing, in_flight = await self._standing(chain_id, tenant)
        except ChainNotFound:
            raise _no_task(task_id) from None
        if local_id not in standing.graph.tasks:
            raise _no_task(task_id)
        return view_task(chain_id, local_id, standing, in_flight)

    async def explain(self, task_id: str, tenant: str | None = None) -> Explanation:
        """Why a task went where it went, and who could do it now.

        Raises:
            TaskNotFound: There is none, or it is not of the tenant that was named.
        """
        view = await self.view_task(task_id, tenant)
        chain_id, local_id = split_task_id(task_id)
        run = self._runs.get(chain_id)
        work = run.work_of(local_id) if run is not None else None
        if work is None:
            submitted = (await self._read(chain_id)).submitted
            task = next(task for task in submitted.spec.tasks if task.id == local_id)
            choices, outlook = self._router.choices(task_id), await self._router.read_outlook(task, submitted.tenant)
        else:
            task, choices = work.task, tuple(work.choices)
            outlook = await self._router.read_outlook(task, work.tenant, work.tried)
        return Explanation(task_id, task.capability, task.priority, view.status, choices, view.attempts, outlook)

    async def watch(self, chain_id: str) -> AsyncIterator[Fact]:
        """Every fact of a chain, its submit first: those on record, then each as it is recorded, until its end.

        Any number may watch, as slowly as they like: a watcher holds a place in what its chain remembers anyway.

        Raises:
            ChainNotFound: There is none.
            AicpError: The coordinator stopped before it ended.
        """
        self._home.require()
        told = 0
        while True:
            run = self._runs.get(chain_id)
            facts = run.watch() if run is not None else self._recorded(chain_id)
            place = 0
            async for fact in facts:
                place += 1
                if place <= told:
                    continue
                told = place
                yield fact
                if isinstance(fact, ChainEnded):
                    return
            await self._recovery.until_looked_again()

    async def tenant_of(self, chain_id: str) -> str:
        """Whose it is.

        Raises:
            ChainNotFound: There is none.
        """
        run = self._runs.get(chain_id)
        return run.tenant if run is not None else (await self._read(chain_id)).submitted.tenant

    async def wait(self, chain_id: str, timeout_s: float | None = None) -> ChainView:
        """Where a chain stands once it ended, or after `timeout_s` seconds.

        Raises:
            ChainNotFound: There is none.
        """
        self._home.require()
        await _at_most(timeout_s, self._until_it_stopped(chain_id))
        return await self.view(chain_id)

    async def wait_result(self, chain_id: str) -> ChainResult:
        """How a chain ended.

        Raises:
            ChainNotFound: There is none.
            AicpError: The coordinator stopped before it ended.
        """
        self._home.require()
        standing = await self._ended(chain_id)
        if (end := standing.end) is None:
            raise AicpError(f"Chain {chain_id} has not ended: this coordinator stopped.")
        name = standing.graph.spec.name
        return ChainResult(chain_id, name, end.status, results_of(chain_id, standing), end.error)

    async def list_chains(self, query: ChainQuery) -> ChainPage:
        """Newest first, one page, where each stands now.

        Raises:
            ChainNotFound: `query.before` is no chain of the tenant, or is forgotten.
        """
        return await self._listing.chains(query)

    async def list_tasks(self, query: TaskQuery) -> TaskPage:
        """Newest chain first, one page. It may have fewer than were asked for, and yet another one behind it.

        Raises:
            ChainNotFound: The chain of `query.after` is none of the tenant, or is forgotten.
            TaskNotFound: `query.after` is no task of it.
        """
        return await self._listing.tasks(query)

    def running(self, chain_id: str) -> ChainSubmitted | None:
        """What was submitted as a chain that runs here, until its end was told; None for any other."""
        run = self._runs.get(chain_id)
        return run.submitted if run is not None else None

    def expected(self, chain_id: str) -> Forecast | None:
        """What a submit was warned of: at the rate of then, it will probably outlast its own deadline.

        None for any other chain, and for one that ended or that this coordinator did not accept.
        """
        run = self._runs.get(chain_id)
        return run.expected if run is not None else None

    @property
    def refused(self) -> int:
        """Submits that were refused since too much accepted work was unfinished."""
        return self._accepted.refused

    @property
    def is_recording(self) -> bool:
        """True while what was submitted, cancelled or done is not on record yet; costs a look at every chain."""
        return bool(self._unstoppable) or any(run.is_recording for run in self._runs.values())

    @property
    def unfinished(self) -> int:
        """Tasks accepted and not ended."""
        return self._accepted.total

    def unfinished_of(self, tenant: str) -> int:
        """Tasks of a tenant that are accepted and not ended."""
        return self._accepted.of_tenant(tenant)

    async def _accept(self, key: SubmitKey | None, take: Callable[[], Taken]) -> str:
        """Take something in and record it; a repeat is answered whatever is true of agents, rights and room by now.

        The journal itself finds a repeat, so that only what is refused has to be looked up.
        """
        self._home.require()
        try:
            taken = take()
            return await self._to_its_end(self._submit(taken, key))
        except _REFUSALS:
            if (known := await self._known(key)) is None:
                raise
            return known

    async def _known(self, key: SubmitKey | None) -> str | None:
        """The chain that was submitted with a key."""
        return None if key is None else await self._journal.find(key)

    async def _submit(self, taken: Taken, key: SubmitKey | None) -> str:
        """Record a new chain and begin it; whatever keeps it from running gives its room back."""
        submitted = taken.record.submitted
        try:
            if taken.unchecked:
                await self._intake.check_rest(taken)
            steps = self._intake.forecast(taken)
            expected = None if steps is None else await in_slices(steps)
            chain_id = await self._submit_or_find(taken.record, key)
        except BaseException:
            self._intake.give_back(taken)
            raise
        if chain_id != submitted.chain_id:
            self._intake.give_back(taken)
            return chain_id
        self._begin(taken.record, await self._folding(taken.record, taken.graph))
        self._tell_of_submit(taken.record)
        if expected is not None:
            self._warn(submitted, expected)
        return chain_id

    def _tell_of_submit(self, record: ChainRecord) -> None:
        """Tell of its submit and of the results that it begins with, before all that becomes of it."""
        run, facts = self._runs.get(record.submitted.chain_id), (record.submitted, *record.facts)
        if run is not None:
            run.tell(facts)
        elif self._observer is not None:
            for fact in facts:
                self._observer.notify(fact)

    def _warn(self, submitted: ChainSubmitted, expected: Forecast) -> None:
        """Remember, and publish, that a chain will probably outlast its deadline."""
        if (run := self._runs.get(submitted.chain_id)) is not None:
            run.expected = expected
        if self._observer is not None:
            at = self._clock.utcnow()
            chain_id, tenant = submitted.chain_id, submitted.tenant
            self._observer.notify(ChainWarned(chain_id, expected.expected_s, expected.warning, at, tenant))

    async def _submit_or_find(self, record: ChainRecord, key: SubmitKey | None) -> str:
        """Record it; when that failed, look whether only the answer got lost: what is on record runs."""
        chain_id = record.submitted.chain_id
        try:
            return await self._journal.submit(record.submitted, key, record.facts)
        except StorageError as failed:
            try:
                found = await self._journal.read(chain_id)
            except StorageError:
                self._recovery.doubt(chain_id)
                raise failed from None
            if found is None:
                raise
            return chain_id

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do what must not stop half-way, such as a record and what follows from it, even if the caller leaves."""
        task = asyncio.create_task(work)
        self._unstoppable.add(task)
        task.add_done_callback(self._unstoppable.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise

    async def _take_over(self, record: ChainRecord) -> None:
        """Go on with a chain that an earlier owner left; accepted, it takes its room even if there is none.

        One that runs here already was claimed since an answer got lost. Its run may record nothing more, and ends.
        """
        standing = await self._folding(record)
        running = self._runs.get(record.submitted.chain_id)
        if running is not None:
            if running.epoch >= record.epoch:
                return
            self._tasks[running].cancel()
        self._accepted.take_over(len(record.submitted.spec.tasks), record.submitted)
        self._begin(record, standing)

    async def _folding(self, record: ChainRecord, graph: ChainGraph | None = None) -> Callable[[], Readiness]:
        """Where a chain stands, which calling this gives; of a large one it is found in parts, and a defect is kept."""
        if len(record.facts) + len(record.submitted.spec.tasks) <= PART:
            return lambda: fold(record, graph)
        folding = asyncio.Future[Readiness]()
        try:
            folding.set_result(await fold_in_parts(record, graph or await graph_in_parts(record.submitted.spec)))
        except Exception as error:  # noqa: BLE001 - whoever begins the chain reports it
            folding.set_exception(error)
        return folding.result

    def _begin(
        self, record: ChainRecord, standing: Callable[[], Readiness], attempts: Mapping[str, int] | None = None
    ) -> None:
        """Run a chain that takes its room already; one that cannot be begun for a defect is looked at again."""
        try:
            self._begin_run(record, standing(), attempts)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged and the chain goes on later
            self._strand(record.submitted, record.epoch, error, self._deadline_of(record.submitted), attempts or {})

    def _begin_run(self, record: ChainRecord, standing: Readiness, attempts: Mapping[str, int] | None) -> None:
        run = ChainRun(
            record, standing, self._carrier, self._journal, self._clock, self._observer, self._rng.uniform,
            self._until_sure if self._replicas is not None else None, self._progress.stepped_since, attempts,
            self._over,
        )  # fmt: skip
        self._runs[run.chain_id] = run
        self._with_room.add(run)
        task = asyncio.create_task(run.run(), name=f"chain {run.chain_id}")
        self._tasks[run] = task
        task.add_done_callback(functools.partial(self._stopped, run))

    def _stopped(self, run: ChainRun, task: asyncio.Task[None]) -> None:
        """A chain runs here no more; one that was cancelled before it began never ran a line of its own."""
        del self._tasks[run]
        was_replaced = self._runs.get(run.chain_id) is not run
        if not was_replaced:
            del self._runs[run.chain_id]
        run.be_over()
        error = None if task.cancelled() or run.end is not None or was_replaced else task.exception() or run.stopped_by
        if isinstance(error, Exception):
            deadline = run.deadline if run.deadline < math.inf else self._deadline_of(run.submitted)
            self._with_room.discard(run)
            self._strand(run.submitted, run.epoch, error, deadline, run.attempts_made)
            return
        self._stranding.forget(run.chain_id)
        self._give_back_room(run)

    def _over(self, run: ChainRun) -> None:
        """Give its room back before those that wait for its end wake, as they may submit again at once."""
        if run.stopped_by is None:
            self._give_back_room(run)

    def _give_back_room(self, run: ChainRun) -> None:
        if run in self._with_room:
            self._with_room.remove(run)
            self._accepted.give_back(run.size, run.submitted)

    def _strand(
        self, submitted: ChainSubmitted, epoch: int, error: Exception, deadline: float, attempts: Mapping[str, int]
    ) -> None:
        """A chain stopped here without an end: it is looked at again, and keeps its room until then."""
        if not isinstance(error, StorageError):
            self.defects.report(f"chain {submitted.chain_id}", error)
        is_hopeless = self._clock.monotonic() >= deadline
        self._stranding.add(StrandedChain(submitted, epoch, deadline, attempts, is_hopeless))

    async def _resume(self, chain: StrandedChain) -> None:
        """Go on with a stranded chain from its record, as recovery does; without its time, record that it failed."""
        record = await self._journal.read(chain.submitted.chain_id)
        if record is None or has_ended(record) or record.epoch != chain.epoch:
            self._let_stranded_go(chain)
            if record is not None and has_ended(record) and self._observer is not None:
                self._observer.notify(record.facts[-1])
        elif chain.is_hopeless:
            await self._fail(record)
            self._let_stranded_go(chain)
        else:
            self._begin(record, await self._folding(record), chain.attempts)

    def _let_stranded_go(self, chain: StrandedChain) -> None:
        self._stranding.forget(chain.submitted.chain_id)
        self._accepted.give_back(len(chain.submitted.spec.tasks), chain.submitted)

    async def _fail(self, record: ChainRecord) -> None:
        """Record the end of a chain that a defect keeps from ending by itself."""
        at = max(latest_time([record.submitted, *record.facts]), self._clock.utcnow())
        told = "a defect of AICP kept this chain from going on until its time ran out; the server's log has the cause"
        end = ChainEnded(record.submitted.chain_id, TaskStatus.FAILED, at, TaskError(INTERNAL_ERROR, told))
        await self._journal.append([end], record.epoch)
        if self._observer is not None:
            self._observer.notify(end)

    def _deadline_of(self, submitted: ChainSubmitted) -> float:
        """When the time of a chain that was never begun is over, monotonic seconds."""
        passed_s = seconds_between(submitted.at, self._clock.utcnow() - self._progress.stepped_since(submitted.at))
        return self._clock.monotonic() - passed_s + (submitted.spec.deadline_s or DEFAULT_CHAIN_DEADLINE_S)

    def _running(self, chain_id: str, tenant: str | None = None) -> ChainRun | None:
        run = self._runs.get(chain_id)
        if run is not None and tenant not in {None, run.tenant}:
            raise _no_chain(chain_id)
        return run

    async def _run_of(self, chain_id: str, tenant: str | None = None) -> ChainRun | None:
        """The run of a chain, once recovery has begun it; None when it has ended.

        Raises:
            ChainNotFound: There is none of this tenant.
            OwnershipLost: It has not ended, and does not run here.
            AicpError: The coordinator stopped.
        """
        may_come = True
        while (run := self._running(chain_id, tenant)) is None:
            if has_ended(await self._read(chain_id, tenant)):
                return None
            if not may_come:
                raise OwnershipLost(f"Chain {chain_id} has not ended, and does not run here; try again later.")
            may_come = await self._recovery.until_looked_again()
        return run

    async def _until_it_stopped(self, chain_id: str) -> None:
        """Return when it has ended; or, where nobody shares the record, when it stopped here without an end."""
        while True:
            try:
                run = await self._run_of(chain_id)
            except OwnershipLost:
                await asyncio.sleep(LOOK_EVERY_S)
                continue
            if run is None:
                return
            await run.is_recorded.wait()
            was_replaced = self._runs.get(chain_id) not in {None, run}
            goes_on = self._replicas is not None or was_replaced or run.stopped_by is not None
            if run.end is not None or not goes_on:
                return
            # A run that stopped is taken away in the next turn of the loop.
            await asyncio.sleep(0)

    async def _ended(self, chain_id: str) -> Readiness:
        """Where a chain stands when it has ended, or stopped here for good."""
        run = self._runs.get(chain_id)
        await self._until_it_stopped(chain_id)
        if run is not None and run.end is not None:
            return run.standing
        record = await self._read(chain_id)
        return await self._folded(record)

    async def _ask_to_cancel(self, chain_id: str, tenant: str | None) -> None:
        if not has_ended(await self._read(chain_id, tenant)) and await self._journal.ask(cancel_request(chain_id)):
            await _at_most(CANCEL_WAIT_S, self._until_it_stopped(chain_id))

    async def _until_sure(self) -> None:
        """Wait while others may already have taken over what this replica owns."""
        while self._replicas is not None and not self._replicas.is_sure:  # noqa: ASYNC110 - the lease has no event
            await asyncio.sleep(SURE_ASKED_EVERY_S)

    def _cancel_soon(self, chain_id: str) -> None:
        """Somebody asked another replica; asked again every second until it has happened."""
        run = self._runs.get(chain_id)
        if run is None or chain_id in self._cancelling:
            return
        self._cancelling.add(chain_id)
        task = asyncio.create_task(run.cancel(), name=f"cancel chain {chain_id}")
        self._unstoppable.add(task)
        task.add_done_callback(functools.partial(self._cancelled, chain_id))

    def _cancelled(self, chain_id: str, task: asyncio.Task[None]) -> None:
        self._unstoppable.discard(task)
        self._cancelling.discard(chain_id)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("chain %s could not be cancelled yet: %s", chain_id, error)

    def _let_go(self) -> None:
        """This replica was declared dead: everything it ran has another owner, and stops here at once."""
        _log.warning("this replica was declared dead: %d chains have other owners now", len(self._runs))
        for task in self._tasks.values():
            task.cancel()

    async def _standing(self, chain_id: str, tenant: str | None) -> tuple[Readiness, Mapping[str, InFlight]]:
        run = self._running(chain_id, tenant)
        if run is not None:
            return run.standing, run.in_flight()
        record = await self._read(chain_id, tenant)
        return await self._folded(record), {}

    async def _recorded(self, chain_id: str) -> AsyncIterator[Fact]:
        for fact in facts_once(await self._read(chain_id)):
            yield fact

    async def _folded(self, record: ChainRecord) -> Readiness:
        """Where a recorded chain stands."""
        return await fold_in_parts(record, await self._graph(record))

    async def _graph(self, record: ChainRecord) -> ChainGraph:
        """The graph of a recorded chain; the last 16 are kept."""
        chain_id = record.submitted.chain_id
        graph = self._graphs.get(chain_id)
        if graph is None:
            graph = self._graphs[chain_id] = await graph_in_parts(record.submitted.spec)
            if len(self._graphs) > GRAPHS_KEPT_MAX:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(chain_id)
        return graph

    async def _read(self, chain_id: str, tenant: str | None = None) -> ChainRecord:
        try:
            record = await self._journal.read(chain_id)
        except NewerVersion:
            await self._summary(chain_id, tenant)
            raise
        if record is None or tenant not in {None, record.submitted.tenant}:
            raise _no_chain(chain_id)
        return record

    async def _task_status(self, task_id: str, tenant: str | None) -> TaskStatus:
        """Where a task stands; one whose facts only a newer version reads stands where its chain does."""
        try:
            return (await self.view_task(task_id, tenant)).status
        except NewerVersion:
            return (await self._summary(chain_of(task_id), tenant)).status

    async def _summary(self, chain_id: str, tenant: str | None) -> ChainSummary:
        summary = await self._journal.summary(chain_id)
        if summary is None or tenant not in {None, summary.tenant}:
            raise _no_chain(chain_id)
        return summary


def split_task_id(task_id: str) -> tuple[str, str]:
    """The chain, and the id inside the chain, of a task or of an item or round of one.

    Raises:
        TaskNotFound: It cannot be one.
    """
    if (found := parse_run_id(task_id)) is None:
        raise TaskNotFound(f"There is no task '{task_id[:160]}'; a task id looks like <chain>.<task>.")
    return found.chain_id, found.run


def _no_chain(chain_id: str) -> ChainNotFound:
    return ChainNotFound(f"There is no chain '{chain_id[:80]}'.")


def _no_task(task_id: str) -> TaskNotFound:
    return TaskNotFound(f"There is no task '{task_id[:160]}'.")


async def _at_most(timeout_s: float | None, waiting: Coroutine[Any, Any, None]) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await waiting
    except TimeoutError:
        return


async def _cancelled(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _log_failure(task: asyncio.Task[Any]) -> None:
    """Log why a record failed whose caller has left."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("could not be recorded, and the caller has left: %s", error)
