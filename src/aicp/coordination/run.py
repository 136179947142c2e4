"""One chain on its way: decided in memory, recorded, and only then acted upon."""

import asyncio
import logging
import math
from collections.abc import Iterable, Sequence

import msgspec

from aicp.coordination.readiness import Readiness
from aicp.errors import AicpError
from aicp.model.chain import DEFAULT_CHAIN_DEADLINE_S
from aicp.model.event import ChainCancelled, ChainEnded, ChainSubmitted, Fact, TaskEnded
from aicp.model.outcome import TaskError
from aicp.model.reference import PointsNowhere, substitute
from aicp.model.task import DEFAULT_TASK_DEADLINE_S, Attempt, Task, TaskResult, TaskStatus
from aicp.ports import Clock, Journal, Observer
from aicp.routing.failover_router import FailoverRouter
from aicp.routing.work import Work

DEADLINE_TOLERANCE_S = 0.001
_TIME_RAN_OUT = TaskError("deadline_exceeded", "the chain's time ran out")
_log = logging.getLogger(__name__)


class _OwnershipLost(Exception):
    """An agent knows a newer fencing token of one of the tasks."""


class ChainRun:
    """Runs one chain: each task starts the moment what it waits for is recorded; no level barriers.

    Attributes:
        readiness: Where it stands, decided facts included: ahead of the record by what is being written.
        end: How it ended, once that is on record.
        is_recorded: Set when its end is on record, or when this run of it ended without one.

    Args:
        submitted: The chain.
        readiness: Where it stands.
        epoch: Of its owner.
        router: Carries its tasks.
        journal: Records its facts.
        clock: Time.
        observer: Told of its facts, after they are recorded.
    """

    def __init__(
        self,
        submitted: ChainSubmitted,
        readiness: Readiness,
        epoch: int,
        router: FailoverRouter,
        journal: Journal,
        clock: Clock,
        observer: Observer | None,
    ) -> None:
        self._submitted = submitted
        self.readiness = readiness
        self._epoch = epoch
        self._router = router
        self._journal = journal
        self._clock = clock
        self._observer = observer
        self._works: dict[str, Work] = {}
        self._runners: dict[str, asyncio.Task[None]] = {}
        self._deadline = math.inf
        self.is_recorded = asyncio.Event()
        self.end: ChainEnded | None = None

    @property
    def chain_id(self) -> str:
        """Its id."""
        return self._submitted.chain_id

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self._submitted.tenant

    @property
    def size(self) -> int:
        """How many tasks it has."""
        return len(self.readiness.graph.tasks)

    def in_flight(self) -> dict[str, tuple[Attempt, ...]]:
        """The attempts so far of each task that runs."""
        return {task: tuple(work.attempts) for task, work in self._works.items()}

    async def run(self) -> None:
        """Run it to its recorded end."""
        now, spec = self._clock.monotonic(), self._submitted.spec
        age_s = max(0.0, (self._clock.utcnow() - self._submitted.at).total_seconds())
        self._deadline = now + (spec.deadline_s or DEFAULT_CHAIN_DEADLINE_S) - age_s
        try:
            async with asyncio.TaskGroup() as group:
                expiry = asyncio.get_running_loop().call_later(
                    max(0.0, self._deadline - now), lambda: group.create_task(self._expire())
                )
                try:
                    async with asyncio.TaskGroup() as tasks:
                        self._start(self.readiness.ready(), tasks)
                finally:
                    expiry.cancel()
        except* _OwnershipLost:
            _log.warning("chain %s belongs to another owner now: dropped here, nothing recorded", self.chain_id)
        finally:
            self.is_recorded.set()

    async def cancel(self) -> None:
        """Make the cancel a fact: from now on no attempt starts, running ones are cut off.

        Raises:
            AicpError: The chain stopped here before its end was on record.
        """
        await self._stop([ChainCancelled(self.chain_id, self._clock.utcnow())])
        await self.is_recorded.wait()
        if self.end is None:
            raise AicpError(f"Chain {self.chain_id} stopped before its end was on record; cancel it again.")

    async def _expire(self) -> None:
        """Its time ran out."""
        await self._stop([ChainEnded(self.chain_id, TaskStatus.FAILED, self._clock.utcnow(), _TIME_RAN_OUT)])

    async def _stop(self, facts: list[Fact]) -> None:
        """Record why it ends and that everything in flight is cancelled, then cut that off."""
        if self.readiness.is_over():
            return
        cut_off = self._cut_off_facts("the chain was stopped")
        self._decide([*facts, *cut_off])
        if not isinstance(facts[-1], ChainEnded):
            facts.append(self._end_fact())
        try:
            await self._record([*cut_off, *facts])
        finally:
            self._cancel_runners(fact.task for fact in cut_off)

    def _start(self, ready: Iterable[str], tasks: asyncio.TaskGroup) -> None:
        for task in ready:
            self._runners[task] = tasks.create_task(self._follow(task, tasks))

    async def _follow(self, task: str, tasks: asyncio.TaskGroup) -> None:
        """Run a task, then one that became ready through it, and so on; the others get runners of their own."""
        runner = self._runners[task]
        while not self.readiness.is_over():
            try:
                result = await self._run_task(task)
            finally:
                self._works.pop(task, None)
                self._runners.pop(task, None)
            ready = await self._end_task(task, result)
            if not ready:
                return
            task = ready.pop()
            self._runners[task] = runner
            self._start(ready, tasks)
        # It was stopped between the moment this task became ready and now: nothing of it starts any more.
        self._runners.pop(task, None)

    async def _run_task(self, local_id: str) -> TaskResult:
        task = self.readiness.graph.tasks[local_id]
        work = self._works[local_id] = self._work(task)
        if task.params and self.readiness.graph.dependencies[local_id]:
            try:
                params = substitute(task.params, self.readiness.output_of)
            except PointsNowhere as error:
                return work.ended(TaskStatus.FAILED, self._clock.utcnow(), error=TaskError(error.code, error.message))
            work.task = msgspec.structs.replace(task, params=params)
        result = await self._router.route(work)
        if work.is_lost:
            raise _OwnershipLost
        return result

    def _work(self, task: Task) -> Work:
        now = self._clock.monotonic()
        deadline = min(now + (task.deadline_s or DEFAULT_TASK_DEADLINE_S), self._deadline)
        return Work(
            task,
            f"{self.chain_id}.{task.id}",
            ready_at=now,
            ready_at_utc=self._clock.utcnow(),
            deadline=deadline,
            epoch=self._epoch,
        )

    async def _end_task(self, task: str, result: TaskResult) -> list[str]:
        """Decide what the end of a task means, record it, and only then return who may start."""
        if self.readiness.is_over():
            return []
        facts: list[Fact] = [TaskEnded(self.chain_id, task, result)]
        ready = self._decide(facts)
        if not self.readiness.is_over():
            await self._record(facts)
            return [] if self.readiness.is_over() else ready
        cut_off = self._cut_off_facts(f"task '{task}' failed")
        self._decide(cut_off)
        await self._record([*facts, *cut_off, self._end_fact()])
        self._cancel_runners(fact.task for fact in cut_off)
        return []

    def _decide(self, facts: Sequence[Fact]) -> list[str]:
        return [task for fact in facts for task in self.readiness.apply(fact)]

    async def _record(self, facts: Sequence[Fact]) -> None:
        await self._journal.append(facts, self._epoch)
        if isinstance(facts[-1], ChainEnded):
            self.readiness.apply(facts[-1])
            self.end = facts[-1]
            self.is_recorded.set()
        if self._observer is not None:
            for fact in facts:
                self._observer.notify(fact)

    def _end_fact(self) -> ChainEnded:
        status, error = self.readiness.verdict
        if status is TaskStatus.FAILED and self._clock.monotonic() > self._deadline - DEADLINE_TOLERANCE_S:
            # Its last tasks share its deadline: whichever timer is first, it is the chain's time that ran out.
            error = _TIME_RAN_OUT
        return ChainEnded(self.chain_id, status, self._clock.utcnow(), error)

    def _cut_off_facts(self, why: str) -> list[TaskEnded]:
        now, error = self._clock.utcnow(), TaskError("cancelled", f"cut off: {why}")
        return [
            TaskEnded(self.chain_id, task, work.ended(TaskStatus.CANCELLED, now, error=error))
            for task, work in self._works.items()
        ]

    def _cancel_runners(self, tasks: Iterable[str]) -> None:
        for task in tasks:
            if (runner := self._runners.get(task)) is not None:
                runner.cancel()
