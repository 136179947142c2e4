"""One chain on its way: decided in memory, recorded, and only then acted upon."""

import asyncio
import functools
import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta

import msgspec

from aicp import standstill
from aicp.coordination.carrying import OUTCOME_UNKNOWN, Carrier
from aicp.coordination.chain_changes import Looks, Mark, Place, changed_by
from aicp.coordination.chain_status import InFlight, facts_once
from aicp.coordination.forecast import Forecast
from aicp.coordination.readiness import Readiness
from aicp.coordination.recorder import Recorder
from aicp.coordination.telling import Telling
from aicp.errors import AicpError, OwnershipLost, StorageError
from aicp.model.chain import DEFAULT_CHAIN_DEADLINE_S
from aicp.model.event import ChainCancelled, ChainEnded, Fact, TaskEnded, TaskStarted
from aicp.model.outcome import TaskError
from aicp.model.reference import PointsNowhere, substitute
from aicp.model.run_id import global_id
from aicp.model.task import DEFAULT_TASK_DEADLINE_S, Phase, Task, TaskResult, TaskStatus
from aicp.model.trace import Subject, subject
from aicp.ports import ChainRecord, Clock, Journal, Observer
from aicp.routing.work import Work
from aicp.scheduling.slices import Slices
from aicp.scheduling.waiter import ChainTurn
from aicp.standstill import TimeLimit

DEADLINE_TOLERANCE_S = 0.001
TIMES_AT_ONCE = 500
STARTED_AT_ONCE = 16
CUT_OFF_AT_ONCE = 64
_STALE = TaskError("stale_token", "the agent says that this task has a newer owner, and it has none")
_TIME_RAN_OUT = TaskError("deadline_exceeded", "the chain's time ran out")
_log = logging.getLogger(__name__)


def _not_stepped(_at: datetime) -> timedelta:
    return timedelta()


class ChainRun:
    """Runs one chain: each task starts the moment what it waits for is recorded; no level barriers.

    Attributes:
        submitted: The chain.
        readiness: Where it stands, decided facts included: ahead of the record by what is being written.
        standing: Where it stands on record.
        end: How it ended, once that is on record.
        attempts_made: How many attempts were made of tasks whose end did not come on record here, by local id.
        stopped_by: What ended this run before the chain's end was on record, when that was neither a newer owner nor
            its own coordinator.
        expected: What its submit was warned of; None when it will probably end in time.
        is_recorded: Set when its end is on record, or when this run of it ended without one.

    Args:
        record: The chain and its facts.
        standing: The same, folded; kept, and changed by what is recorded.
        carrier: Carries its tasks.
        journal: Records its facts.
        clock: Time.
        observer: Told of its facts, after they are recorded.
        uniform: Chance, for the waits of the recorder.
        until_sure: Returns when nobody else can have taken the chain over; None when there is nobody else.
        stepped_since: How far the wall clock is known to have been set forward since something was recorded.
        attempts_made: Those of an earlier run of this owner, whose numbers this one goes on from.
        on_over: Called once, with this, right before `is_recorded` is set: waiters wake after it.
    """

    def __init__(
        self,
        record: ChainRecord,
        standing: Readiness,
        carrier: Carrier,
        journal: Journal,
        clock: Clock,
        observer: Observer | None,
        uniform: Callable[[float, float], float] = random.uniform,
        until_sure: Callable[[], Awaitable[None]] | None = None,
        stepped_since: Callable[[datetime], timedelta] = _not_stepped,
        attempts_made: Mapping[str, int] | None = None,
        on_over: "Callable[[ChainRun], None] | None" = None,
    ) -> None:
        self.submitted = record.submitted
        self.readiness = standing.twin()
        self.standing = standing
        self._facts = facts_once(record)
        self._epoch = record.epoch
        self._carrier = carrier
        self._until_sure = until_sure
        self._stepped_since = stepped_since
        self._clock = clock
        self._telling = Telling(observer)
        self._slices = Slices()
        self._recorder = Recorder(self.chain_id, journal, record.epoch, self._on_record, uniform)
        self._works: dict[str, Work] = {}
        self._runners: dict[str, asyncio.Task[None]] = {}
        self._ending: dict[str, InFlight] = {}
        self._began, self._began_utc = clock.monotonic(), record.submitted.at
        self._ready_since: dict[str, datetime] = {}
        self._limit = TimeLimit(self._began, math.inf)
        self._news: asyncio.Event | None = None
        self._looks: Looks | None = None
        self.is_recorded = asyncio.Event()
        self._on_over = on_over
        self.end: ChainEnded | None = None
        self.attempts_made = dict(attempts_made or {})
        self.stopped_by: Exception | None = None
        self.expected: Forecast | None = None

    @property
    def epoch(self) -> int:
        """Of its owner, as whom it records and sends."""
        return self._epoch

    @property
    def chain_id(self) -> str:
        """Its id."""
        return self.submitted.chain_id

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.submitted.tenant

    @property
    def size(self) -> int:
        """How many tasks it has."""
        return len(self.readiness.graph.tasks)

    @property
    def status(self) -> TaskStatus:
        """Where it stands on record, and RUNNING once anything of it is in flight."""
        return self.standing.status_of_chain(self._works or self._ending)

    def work_of(self, task: str) -> Work | None:
        """A task on its way; None when it is not."""
        return self._works.get(task)

    @property
    def deadline(self) -> float:
        """When its time is over, monotonic seconds; infinite before it ran."""
        return self._limit.ends_at

    def in_flight(self) -> Mapping[str, InFlight]:
        """What is known of each task that runs now, or whose end is not on record yet; found out as it is looked up."""
        return _UnderWay(dict(self._ending), dict(self._works))

    def changed_since(self, place: Place) -> tuple[set[str] | None, Place]:
        """The tasks that changed since a place, None for all, and the place that is reached.

        Costs those, and a look at each task in flight.
        """
        # What nobody follows remembers no looks.
        self._looks = self._looks or Looks()
        now: dict[str, Mark] = {task: _mark_of(work) for task, work in self._works.items()}
        now |= {task: (-1, None, len(known.attempts)) for task, known in self._ending.items()}
        self._looks.look(now)
        reached = Place(len(self._facts), self._looks.run, self._looks.last)
        if not 0 < place.facts <= reached.facts:
            return None, reached
        return self._looks.changed_since(place) | changed_by(self._facts[place.facts :], self.standing), reached

    @property
    def has_running(self) -> bool:
        """True when a task of it reads RUNNING, as far as that is known without looking at each."""
        return bool(self._works or self._ending or self.standing.has_started)

    @property
    def is_recording(self) -> bool:
        """True while the end of a task of it is not on record yet."""
        return bool(self._ending)

    async def run(self) -> None:
        """Run it to its recorded end."""
        subject.set(Subject(self.chain_id, traceparent=self.submitted.traceparent))
        try:
            self._begin_time()
            async with asyncio.TaskGroup() as group:
                expiry = standstill.call_after(
                    self._limit, self._limit.ends_at - self._began, lambda: group.create_task(self._expire())
                )
                try:
                    async with asyncio.TaskGroup() as tasks:
                        await self._begin(tasks)
                    await self._recorder.drained()
                finally:
                    expiry.cancel()
        except* OwnershipLost:
            _log.warning("chain %s belongs to another owner now: dropped here, nothing recorded", self.chain_id)
        except* StorageError as refused:
            self.stopped_by = _first_of(refused)
            _log.warning("chain %s stays as it is on record: %s", self.chain_id, self.stopped_by)
        except* Exception as defects:  # noqa: BLE001 - the coordinator reports it, and looks at the chain again
            self.stopped_by = _first_of(defects)
        finally:
            await self._recorder.close()
            self.be_over()
            self._wake_watchers()
            self._slices.close()
            # Until all is told, this run is known by its id to those that are told.
            await self._telling.done()

    async def cancel(self) -> None:
        """Make the cancel a fact: from now on no attempt starts, running ones are cut off.

        Raises:
            AicpError: The chain stopped here before its end was on record.
        """
        await self._stop([ChainCancelled(self.chain_id, self._now_utc())])
        await self.is_recorded.wait()
        if self.end is None:
            raise AicpError(f"Chain {self.chain_id} stopped before its end was on record; cancel it again.")

    def be_over(self) -> None:
        """Wake those that wait for the end; again is harmless."""
        if self.is_recorded.is_set():
            return
        if self._on_over is not None:
            self._on_over(self)
        self.is_recorded.set()

    def tell(self, facts: Sequence[Fact]) -> None:
        """Tell its observer of facts that were recorded with its submit."""
        self._telling.tell(facts)

    def stop_trying(self) -> None:
        """What cannot be recorded now is not tried again: the coordinator stops."""
        self._recorder.stop_trying()

    async def watch(self) -> AsyncIterator[Fact]:
        """Every fact on record, its submit first, then each as it is recorded, until its end or the end of this run.

        A watcher holds a place in the facts of the run, and nothing else: it may be as slow as it likes.
        """
        place = 0
        while True:
            while place < len(self._facts):
                yield self._facts[place]
                place += 1
            if self.is_recorded.is_set():
                return
            self._news = self._news or asyncio.Event()
            await self._news.wait()

    def _begin_time(self) -> None:
        """Its times go on from the last one on record, whatever the wall clock was set to since."""
        latest = latest_time(self._facts)
        self._began = self._clock.monotonic()
        self._began_utc = max(latest, self._clock.utcnow() - self._stepped_since(latest))
        allowed_s = self.submitted.spec.deadline_s or DEFAULT_CHAIN_DEADLINE_S
        submitted_at = self._moment(self.submitted.at)
        self._limit = TimeLimit(self._began, submitted_at + allowed_s)
        self._turn = ChainTurn(submitted_at, self.size, len(self.readiness.ended))

    def _now_utc(self) -> datetime:
        """The wall clock as it would be if nobody set it while the chain runs: its times are no further apart."""
        return self._began_utc + timedelta(seconds=self._clock.monotonic() - self._began)

    def _moment(self, at: datetime) -> float:
        """When something of the record was, monotonic seconds; not later than when this run began."""
        return self._began - max(0.0, (self._began_utc - at).total_seconds())

    async def _begin(self, tasks: asyncio.TaskGroup) -> None:
        """Settle what an earlier owner left half done, and start what may run."""
        if left := self.readiness.left_started():
            now = self._now_utc()
            self._ready_since = await self._recorded_ready_times(left)
            ends = [self._work(task).ended(TaskStatus.FAILED, now, error=OUTCOME_UNKNOWN) for task in left]
            await self._settle([TaskEnded(self.chain_id, *each) for each in zip(left, ends, strict=True)])
        elif self.standing.is_over() and self.end is None:
            await self._recorder.record([self._end_fact()])
        self._ready_since = await self._recorded_ready_times(self.readiness.ready())
        # Anew: it may have been stopped meanwhile.
        self._start(self.readiness.ready(), tasks)

    async def _recorded_ready_times(self, tasks: Sequence[str]) -> dict[str, datetime]:
        times: dict[str, datetime] = {}
        for at in range(0, len(tasks), TIMES_AT_ONCE):
            times.update((task, self._recorded_ready(task)) for task in tasks[at : at + TIMES_AT_ONCE])
            if at + TIMES_AT_ONCE < len(tasks):
                await asyncio.sleep(0)
        return times

    def _recorded_ready(self, task: str) -> datetime:
        """The later of its submit and the last end it waited for."""
        awaited = (self.readiness.ended[name].ended_at for name in self.readiness.graph.dependencies[task])
        return max([self.submitted.at, *(at for at in awaited if at is not None)])

    async def _expire(self) -> None:
        """Its time ran out."""
        await self._stop([ChainEnded(self.chain_id, TaskStatus.FAILED, self._now_utc(), _TIME_RAN_OUT)])

    async def _stop(self, facts: list[Fact]) -> None:
        """Record why it ends and that everything in flight is cancelled, then cut that off."""
        if self.readiness.is_over():
            return
        self._decide(facts)
        cut_off = await self._cut_off("the chain was stopped")
        if not isinstance(facts[-1], ChainEnded):
            facts.append(self._end_fact())
        try:
            await self._recorder.record([*cut_off, *facts])
        finally:
            self._cancel_runners(fact.task for fact in cut_off)

    def _start(self, ready: Sequence[str], tasks: asyncio.TaskGroup) -> None:
        """Start the first, and the others a few a turn: ten thousand at once would hold the loop for half a second."""
        for task in ready[:STARTED_AT_ONCE]:
            self._runners[task] = tasks.create_task(self._follow(task, tasks))
        if len(ready) > STARTED_AT_ONCE:
            tasks.create_task(self._start_others(ready[STARTED_AT_ONCE:], tasks))

    async def _start_others(self, ready: Sequence[str], tasks: asyncio.TaskGroup) -> None:
        for first in range(0, len(ready), STARTED_AT_ONCE):
            await asyncio.sleep(0)
            if self.readiness.is_over():
                return
            for task in ready[first : first + STARTED_AT_ONCE]:
                self._runners[task] = tasks.create_task(self._follow(task, tasks))

    async def _follow(self, task: str, tasks: asyncio.TaskGroup) -> None:
        """Run a task, then one that became ready through it, and so on; the others get runners of their own."""
        runner = self._runners[task]
        while not self.readiness.is_over():
            ready = await self._carry_out(task)
            if not ready:
                return
            task = ready.pop()
            self._runners[task] = runner
            self._start(ready, tasks)
        # It was stopped between the moment this task became ready and now: nothing of it starts any more.
        self._runners.pop(task, None)

    async def _carry_out(self, task: str) -> list[str]:
        """Run a task and record its end; returns who may start. When that fails, its attempts stay counted."""
        work = self._work(task)
        try:
            self._works[task] = work
            try:
                result = await self._run_task(task, work)
            finally:
                self._works.pop(task, None)
                self._runners.pop(task, None)
            return await self._end_task(task, result)
        except BaseException:
            self.attempts_made[task] = work.number
            raise

    async def _run_task(self, local_id: str, work: Work) -> TaskResult:
        task = self.readiness.graph.tasks[local_id]
        if task.params and self.readiness.graph.dependencies[local_id]:
            try:
                params = substitute(task.params, self.readiness.output_of)
            except PointsNowhere as error:
                return work.ended(TaskStatus.FAILED, self._now_utc(), error=TaskError(error.code, error.message))
            work.task = msgspec.structs.replace(task, params=params)
        result = await self._carrier.carry(work)
        # Whose the chain is, its record knows: it refuses this when the agent was right, and takes it when it was not.
        return msgspec.structs.replace(result, status=TaskStatus.FAILED, error=_STALE) if work.is_lost else result

    def _work(self, local_id: str) -> Work:
        task = self.readiness.graph.tasks[local_id]
        ready_at, ready_at_utc = self._ready(local_id)
        deadline = min(ready_at + (task.deadline_s or DEFAULT_TASK_DEADLINE_S), self._limit.ends_at)
        task_id = global_id(self.chain_id, local_id)
        work = Work(
            task,
            task_id,
            ready_at=ready_at,
            ready_at_utc=ready_at_utc,
            deadline=deadline,
            tenant=self.tenant,
            epoch=self._epoch,
            announce=functools.partial(self._announce, task) if self._until_sure or not task.idempotent else None,
            parent=self.submitted.traceparent,
            chain=self._turn,
        )
        # Numbers of attempts go on from the highest on record, so that no two facts have one name.
        work.number = max(self.attempts_made.pop(local_id, 0), self.readiness.attempts_on_record(local_id))
        return work

    def _ready(self, task: str) -> tuple[float, datetime]:
        """Since when it could run: now, or, of what was ready when this run began, as the record says."""
        since = self._ready_since.pop(task, None)
        if since is None:
            return self._clock.monotonic(), self._now_utc()
        return self._moment(since), since

    async def _announce(self, task: Task, number: int, agent_id: str) -> bool:
        """A task is about to be sent; False when it shall not be. What may be sent once only goes on record before."""
        if self._until_sure is not None:
            await self._until_sure()
        if self.readiness.is_over():
            # The end is decided and on its way to the record, whose last fact it must be.
            return False
        if task.idempotent:
            return True
        fact = TaskStarted(self.chain_id, task.id, self._now_utc(), number, agent_id)
        self._decide([fact])
        try:
            await self._recorder.record([fact])
        except StorageError:
            return False
        return not self.readiness.is_over()

    async def _end_task(self, task: str, result: TaskResult) -> list[str]:
        """Decide what the end of a task means, record it, and only then return who may start."""
        if self.readiness.is_over():
            return []
        self._ending[task] = InFlight(result.attempts, None, result.started_at)
        try:
            return await self._settle([TaskEnded(self.chain_id, task, result)])
        finally:
            del self._ending[task]

    async def _settle(self, ends: Sequence[TaskEnded]) -> list[str]:
        """Decide what ends of tasks mean, for the whole chain as well, record it, and return who may start."""
        ready = self._decide(ends)
        if not self.readiness.is_over():
            await self._recorder.record(ends)
            return [] if self.readiness.is_over() else ready
        cut_off = await self._cut_off(f"task '{ends[0].task}' failed")
        await self._recorder.record([*ends, *cut_off, self._end_fact()])
        self._cancel_runners(fact.task for fact in cut_off)
        return []

    def _decide(self, facts: Iterable[Fact]) -> list[str]:
        return [task for fact in facts for task in self.readiness.apply(fact)]

    def _on_record(self, facts: Sequence[Fact]) -> None:
        for fact in facts:
            self.standing.apply(fact)
        self._facts.extend(facts)
        last = facts[-1]
        if isinstance(last, ChainEnded):
            self.readiness.apply(last)
            self.end = last
            self.be_over()
        self._telling.tell(facts)
        self._wake_watchers()

    def _wake_watchers(self) -> None:
        if self._news is not None:
            self._news.set()
            self._news = None

    def _end_fact(self) -> ChainEnded:
        status, error = self.readiness.verdict
        if status is TaskStatus.FAILED and self._clock.monotonic() > self._limit.ends_at - DEADLINE_TOLERANCE_S:
            # Its last tasks share its deadline: whichever timer is first, it is the chain's time that ran out.
            error = _TIME_RAN_OUT
        return ChainEnded(self.chain_id, status, self._now_utc(), error)

    async def _cut_off(self, why: str) -> list[TaskEnded]:
        """Decide that all that is under way ends, now that nothing begins or ends by itself any more."""
        now, error = self._now_utc(), TaskError("cancelled", f"cut off: {why}")
        works = list(self._works.items())
        ends: list[TaskEnded] = []
        for first in range(0, len(works), CUT_OFF_AT_ONCE):
            if first:
                await asyncio.sleep(0)
            some = [
                TaskEnded(self.chain_id, task, work.ended(TaskStatus.CANCELLED, now, error=error))
                for task, work in works[first : first + CUT_OFF_AT_ONCE]
            ]
            self._decide(some)
            ends += some
        return ends

    def _cancel_runners(self, tasks: Iterable[str]) -> None:
        self._slices.run("cut off", self._cancel_each(list(tasks)))

    def _cancel_each(self, tasks: Sequence[str]) -> Iterator[None]:
        for number, task in enumerate(tasks, 1):
            if (runner := self._runners.get(task)) is not None:
                runner.cancel()
            if not number % CUT_OFF_AT_ONCE:
                yield


def _first_of(group: BaseExceptionGroup[Exception]) -> Exception:
    first: Exception | BaseExceptionGroup[Exception] = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first


def latest_time(facts: Iterable[Fact]) -> datetime:
    """The last time that is recorded of a chain."""
    return max(at for fact in facts if (at := _time_of(fact)) is not None)


def _time_of(fact: Fact) -> datetime | None:
    return fact.result.ended_at if isinstance(fact, TaskEnded) else fact.at


class _UnderWay(Mapping[str, InFlight]):
    """Tasks in flight; of thousands that wait for agents nothing is made before somebody looks."""

    def __init__(self, ending: dict[str, InFlight], works: dict[str, Work]) -> None:
        self._ending = ending
        self._works = works

    def __getitem__(self, task: str) -> InFlight:
        work = self._works.get(task)
        return self._ending[task] if work is None else _known_of(work)

    def __iter__(self) -> Iterator[str]:
        return iter({**self._ending, **self._works})

    def __len__(self) -> int:
        return len(self._works) + sum(task not in self._works for task in self._ending)

    def __contains__(self, task: object) -> bool:
        return task in self._works or task in self._ending


def _mark_of(work: Work) -> Mark:
    return work.number, work.agent_id, len(work.attempts)


def _known_of(work: Work) -> InFlight:
    began = work.attempts[0].started_at if work.attempts else work.since
    phase = Phase.IN_LINE if work.agent_id is None else Phase.AT_AGENT
    return InFlight(tuple(work.attempts), work.agent_id, began, phase)
