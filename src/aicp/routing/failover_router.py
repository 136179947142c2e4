"""The router: lease, attempt, complete; then return, or go on elsewhere.

A task is sent again only when that is safe: the outcome says that nothing was executed, or the task is idempotent. Each
round goes to distinct agents; retries take tokens from the capability's budget; OVERLOADED costs nothing.
"""

import asyncio
import contextlib
import math
import random
from collections import OrderedDict
from collections.abc import Iterable
from typing import NoReturn

from aicp.errors import (
    AllAgentsFailed,
    AttemptTimedOut,
    DeadlineExceeded,
    NoAgentAvailable,
    NoCapableAgent,
    QueueFull,
    RoutingError,
)
from aicp.forks import HomeProcess
from aicp.model.agent import DEFAULT_TENANT
from aicp.model.outcome import Outcome, Reply, TaskError
from aicp.model.reference import Reference, scan
from aicp.model.task import DEFAULT_TASK_DEADLINE_S, Priority, Task, TaskResult, TaskStatus
from aicp.model.validation import check_task
from aicp.model.views import Choice, Failure, FleetHealth, Outlook
from aicp.ports import Clock, Observer, SystemClock, Transport
from aicp.registry.naming import wanted_key
from aicp.registry.schemas import Schemas
from aicp.resilience.backoff import Backoff
from aicp.resilience.board import CircuitBoard
from aicp.routing.attempt import Attempts, error_of, ran_into_its_timeout
from aicp.routing.defects import Defects
from aicp.routing.health import fleet_health
from aicp.routing.history import ChoiceHistory, FailureHistory
from aicp.routing.outage_runs import OutageRuns
from aicp.routing.retry_queue import RetryQueue
from aicp.routing.telling import made_safe
from aicp.routing.work import ALIKE_ROUNDS_MAX, Work
from aicp.scheduling.lease import Lease, Unscheduled
from aicp.scheduling.pace import Pace
from aicp.scheduling.roster import NOBODY
from aicp.scheduling.slices import Steps, at_once
from aicp.scheduling.task_scheduler import TaskScheduler

REAL_ATTEMPTS_MAX = 6
DISPATCHES_MAX = 30
FULL_TIMEOUTS_MAX = 2
BUDGETS_MAX = 10_000
RETRY_AFTER_MIN_S = 1.0
WAIT_SHARES = {Priority.HIGH: 1.0, Priority.NORMAL: 0.85, Priority.LOW: 0.7}
BACKOFF_STEPS_MAX = 12
_BROKE = frozenset({Outcome.AGENT_FAULT, Outcome.UNAVAILABLE})
_COST_NO_ATTEMPT = frozenset({Outcome.OVERLOADED, Outcome.UNAVAILABLE})
_NOTHING_WAS_EXECUTED = frozenset({Outcome.OVERLOADED, Outcome.UNAVAILABLE, Outcome.MISCONFIGURED})


class FailoverRouter:
    """Carries one task to an answer across agents that fail.

    Args:
        scheduler: Says who and when.
        transport: Carries calls.
        board: The circuits, for health and second opinions.
        schemas: Checks params and results against what agents declare.
        clock: Time.
        rng: Chance, for backoff.
        observer: Told of attempts.

    Attributes:
        defects: Exceptions out of parts of AICP, which must raise none.
    """

    def __init__(
        self,
        scheduler: TaskScheduler,
        transport: Transport,
        board: CircuitBoard,
        *,
        schemas: Schemas | None = None,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        observer: Observer | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._board = board
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._backoff = Backoff()
        self._retry_queues: OrderedDict[str, RetryQueue] = OrderedDict()
        self._history = FailureHistory()
        self._choices = ChoiceHistory()
        self._outages = OutageRuns(board.doubt_threshold)
        self._starts_no_more = False
        self._home = HomeProcess("This router")
        self.defects = Defects()
        self._schemas = schemas or Schemas()
        self._attempts = Attempts(scheduler, transport, self._schemas, self._clock, made_safe(observer), self.defects)

    async def route_task(self, task: Task, *, wait: bool = False) -> TaskResult:
        """Send a task to the best agent, failing over until it has an answer.

        Args:
            task: What is wanted; not part of a chain.
            wait: True to wait for agents that are out until the task's deadline; busy ones are always waited for.

        Returns:
            COMPLETED with the result; or FAILED when the agent itself said no (`error.code` is the agent's) or the
            params fit nobody.

        Raises:
            InvalidTask: The task cannot be used.
            NoCapableAgent: Nobody has ever offered the capability.
            NoAgentAvailable: Every capable agent is out, and `wait` is False.
            AllAgentsFailed: Tried, and failed.
            DeadlineExceeded: Its time ran out.
            QueueFull: Too many tasks are waiting, or it would wait beyond its deadline.
        """
        check_task(task)
        if not self._scheduler.knows(task.capability):
            raise NoCapableAgent(task.capability, self.similar(task.capability))
        self.refuse_if_too_late([task])
        now = self._clock.monotonic()
        task_id = f"{self._rng.getrandbits(128):032x}.task"
        work = Work(
            task,
            task_id,
            ready_at=now,
            ready_at_utc=self._clock.utcnow(),
            deadline=now + (task.deadline_s or DEFAULT_TASK_DEADLINE_S),
            accepted=wait,
        )
        result = await self.route(work)
        if result.error is not None and (error := self._as_error(work, result.error)) is not None:
            raise error
        return result

    async def route(self, work: Work) -> TaskResult:
        """Carry work to its end; whatever goes wrong is a result, except the caller's own cancellation.

        Raises:
            ForkedProcess: This process was forked from the one that made the router.
        """
        self._home.require()
        self._retries(work.task.capability).deposit()
        while True:
            asked_at = self._clock.monotonic()
            lease = await self._scheduler.schedule_task(
                work.task, ready_at=work.asks_from, deadline=work.limit, tried=work.tried, wait=work.accepted,
                tenant=work.tenant, chain=work.chain, is_begun=work.dispatches > 0,
            )  # fmt: skip
            if self._starts_no_more:
                await self._stay(lease)
            if isinstance(lease, Lease):
                reply = await self._attempt(work, lease, lease.granted_at - asked_at)
                ended = await self._go_on_after(work, lease, reply)
            else:
                ended = await self._go_on_without(work, lease)
            if ended is not None:
                self._learn_from(work, ended)
                return ended

    def close(self) -> None:
        """End the process that checks large values; a later check begins another one."""
        self._schemas.close()

    def start_no_more(self) -> None:
        """From now on no attempt starts: work that would begin one stays where it is until it is cancelled."""
        self._starts_no_more = True

    def knows(self, capability: str, tenant: str = DEFAULT_TENANT) -> bool:
        """True when somebody, present or gone, offered `name` or `name@major` to the tenant."""
        return self._scheduler.knows(capability, tenant)

    def similar(self, capability: str, tenant: str = DEFAULT_TENANT) -> str:
        """A capability that the tenant can use and that is spelled like this one; empty when none is.

        A single slip is found among any number of names, more than one among the first 5,000. Takes a few milliseconds.
        """
        return self._scheduler.similar(capability, tenant)

    def refuse_if_too_late(
        self, tasks: Iterable[Task], tenant: str = DEFAULT_TENANT, within_s: float = math.inf
    ) -> float:
        """Refuse work that would stand in line beyond its deadline: better now than when its time is over.

        Low priority is refused first: it may wait for 70 % of its deadline, normal for 85 %, high for all
        of it. Costs one estimate for each capability and priority.

        Returns:
            The longest wait that is expected of any of them, seconds.

        Raises:
            QueueFull: With the time after which it may be tried again; nothing was changed but a counter.
        """
        seen: dict[tuple[str, Priority], float] = {}
        for task in tasks:
            what = task.capability, task.priority
            wait_s = seen.get(what)
            if wait_s is None:
                wait_s = seen[what] = self._scheduler.expected_wait_s(task, tenant)
            patience_s = min(within_s, task.deadline_s or DEFAULT_TASK_DEADLINE_S) * WAIT_SHARES[task.priority]
            if wait_s > patience_s:
                self._scheduler.refuse(task, tenant)
                raise QueueFull(
                    f"'{task.capability}' would wait {wait_s:.3g} s in line; at {task.priority} priority and with this "
                    f"deadline it is taken in up to {patience_s:.3g} s.",
                    max(RETRY_AFTER_MIN_S, wait_s - patience_s),
                )
        return max(seen.values(), default=0.0)

    def pace(self, task: Task, tenant: str = DEFAULT_TENANT, count: int = 1) -> Pace | None:
        """How soon so many such tasks would be served if they came now; None when that is unknown."""
        return self._scheduler.pace(task, tenant, count)

    def usual_s(self, task: Task, tenant: str = DEFAULT_TENANT) -> float:
        """How long such a task takes once it has an agent, seconds; 0 when that is unknown."""
        return self._scheduler.usual_s(task, tenant)

    def demands_params(self, capability: str, tenant: str = DEFAULT_TENANT) -> bool:
        """True when somebody who offers it declares what its params must be."""
        return any(schema is not None for schema in self._scheduler.input_schemas(Task(capability), tenant))

    def misfit_at_once(self, task: Task, tenant: str = DEFAULT_TENANT) -> str | None:
        """Why the literal params of a task fit no agent it may go to; empty when they fit one, or there is none now.

        Params with references are not literal: they are checked when they are resolved. Costs a check for each
        different schema until one fits; None when a check may take more than some milliseconds.
        """
        told = ""
        for schema in self._scheduler.input_schemas(task, tenant):
            misfit = self._schemas.misfit_at_once(schema, task.params)
            if not misfit:
                return misfit
            told = told or misfit
        return told if told and not _has_references(task) else ""

    async def misfit(self, task: Task, tenant: str = DEFAULT_TENANT) -> str:
        """As `misfit_at_once`, however long it takes: long checks are made in another process.

        Raises:
            TooManyDocuments: Too many checks wait.
        """
        told = ""
        for schema in self._scheduler.input_schemas(task, tenant):
            misfit = self._schemas.misfit_at_once(schema, task.params)
            if misfit is None:
                misfit = await self._schemas.misfit_elsewhere(schema, task.params, waits=False)
            if not misfit:
                return ""
            told = told or misfit
        return told if told and not _has_references(task) else ""

    def health(self, tenant: str | None = None) -> FleetHealth:
        """Every agent's circuits and counters, and the capabilities that have nobody.

        Args:
            tenant: Only agents that serve it; None for all.
        """
        return at_once(self.read_health(tenant))

    def read_health(self, tenant: str | None = None) -> Steps[FleetHealth]:
        """As `health`, in steps of a hundred agents."""
        return fleet_health(self._scheduler, self._board, tenant)

    def recent_failures(self, limit: int = 100, tenant: str | None = None) -> list[Failure]:
        """The latest attempts that failed, newest first; at most 1,000 are remembered.

        Args:
            limit: At most so many.
            tenant: Only those of its tasks; None for all.
        """
        return self._history.latest(limit, tenant)

    def choices(self, task_id: str) -> tuple[Choice, ...]:
        """Why each attempt of a task that ended went where it went; the last 10,000 tasks are remembered."""
        return self._choices.of(task_id)

    def outlook(self, task: Task, tenant: str = DEFAULT_TENANT, tried: frozenset[str] = NOBODY) -> Outlook:
        """Who could do a task now, who could not and why, and where it stands in line."""
        return self._scheduler.explain(task, tenant, tried)

    async def read_outlook(self, task: Task, tenant: str = DEFAULT_TENANT, tried: frozenset[str] = NOBODY) -> Outlook:
        """As `outlook`, in slices: other work of the loop goes on meanwhile."""
        return await self._scheduler.read_explanation(task, tenant, tried)

    async def _stay(self, lease: Lease | Unscheduled) -> NoReturn:
        if isinstance(lease, Lease):
            self._scheduler.complete_task(lease, Outcome.CANCELLED, evidence=False)
        while True:
            await asyncio.Event().wait()

    async def _attempt(self, work: Work, lease: Lease, waited_s: float) -> Reply:
        """One attempt; and where a re-used connection died under it, one more on a fresh connection.

        The attempt that found the connection dead costs neither one of the six real attempts nor a retry token: at most
        one goes before each real attempt.
        """
        try:
            work.choose(lease, waited_s)
            reply = await self._attempts.make(work, lease)
            if not reply.resendable or lease.is_settled:
                return reply
            self._history.remember(work, lease, reply, self._clock.utcnow())
            lease.begin_again()
            return await self._attempts.make(work, lease, is_resent=True)
        finally:
            self._give_back(work, lease)

    def _give_back(self, work: Work, lease: Lease) -> None:
        """Settle a lease that a defect left unsettled: it must not keep its slot."""
        if lease.is_settled:
            return
        try:
            self._scheduler.complete_task(lease, Outcome.CANCELLED, evidence=False)
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer of the agent must not get lost
            self.defects.report(f"task {work.task_id}", error, "the lease ends by itself")

    async def _go_on_after(self, work: Work, lease: Lease, reply: Reply) -> TaskResult | None:
        """What a reply means for its task: the end of it, or None to go on elsewhere."""
        if reply.outcome is Outcome.SUCCESS:
            return self._succeeded(work, reply)
        self._history.remember(work, lease, reply, self._clock.utcnow())
        if reply.unsent:
            work.leave_out(lease.agent.agent_id)
            return None if self._scheduler.has_candidate(work.task, work.tenant) else self._failed(work, reply)
        work.tried |= {lease.agent.agent_id}
        work.is_lost = reply.stale
        if work.refusal is not None:
            return self._failed(work, work.refusal[1])
        if reply.outcome is Outcome.CALLER_FAULT:
            return self._refused(work, lease, reply)
        if not _fails_over(work.task, reply):
            return self._failed(work, reply)
        return await self._fail_over(work, lease, reply)

    async def _fail_over(self, work: Work, lease: Lease, reply: Reply) -> TaskResult | None:
        if reply.outcome not in _COST_NO_ATTEMPT:
            work.real_attempts += 1
            work.compare(lease, reply)
        work.full_timeouts += ran_into_its_timeout(work, lease, reply)
        if work.full_timeouts >= FULL_TIMEOUTS_MAX:
            return self._ended(work, _timed_out(work, lease))
        if self._is_given_up(work, lease):
            return self._ended(work, _all_failed(work))
        await self._pay(work, reply)
        return None

    def _is_given_up(self, work: Work, lease: Lease) -> bool:
        """True when another attempt is not allowed, or would fail like those before it."""
        if work.real_attempts >= REAL_ATTEMPTS_MAX or (work.dispatches >= DISPATCHES_MAX and not work.accepted):
            return True
        if work.alike < ALIKE_ROUNDS_MAX:
            return False
        return not self._scheduler.has_candidate_besides(work.task, lease.agent.agent_id, work.tenant)

    async def _go_on_without(self, work: Work, refusal: Unscheduled) -> TaskResult | None:
        """What it means that there is no lease: the end, or None to look again."""
        if work.refusal is not None:
            return self._failed(work, work.refusal[1])
        if refusal is Unscheduled.DEADLINE:
            return self._ended(work, _deadline_exceeded(work))
        if refusal is Unscheduled.ALL_REFUSE:
            return self._refused_by_all(work)
        if refusal is Unscheduled.LINE_FULL:
            return self._ended(work, TaskError(QueueFull.code, refusal.value))
        if refusal is Unscheduled.NOBODY_ELSE:
            return await self._begin_round(work)
        code = AllAgentsFailed.code if work.real_attempts else NoAgentAvailable.code
        return self._ended(work, TaskError(code, refusal.value))

    def _refused_by_all(self, work: Work) -> TaskResult:
        work.is_refused = True
        reasons = "; ".join(self._scheduler.refusals(work.task, work.tenant))
        return self._ended(work, TaskError(AllAgentsFailed.code, f"{Unscheduled.ALL_REFUSE.value} ({reasons})"))

    async def _begin_round(self, work: Work) -> TaskResult | None:
        """Everybody usable was tried: wait, longer each time, then all may be tried again."""
        if not work.accepted and all(attempt.outcome is not Outcome.AGENT_FAULT for attempt in work.attempts):
            return self._ended(work, TaskError(NoAgentAvailable.code, "nobody answers"))
        work.rounds += 1
        work.tried = frozenset()
        await self._sleep(work, self._growing_wait_s(work.rounds))
        work.stand_behind(self._clock.monotonic())
        return None

    def _succeeded(self, work: Work, reply: Reply) -> TaskResult:
        by = work.attempts[-1]
        if work.refusal is not None:
            work.blame(work.refusal[0].agent.agent_id)
        return work.ended(TaskStatus.COMPLETED, by.ended_at, result=reply.result)

    def _learn_from(self, work: Work, ended: TaskResult) -> None:
        """Remember how a task went, and judge its agents. What that raises is reported: the task has its end."""
        try:
            self._choices.remember(work)
            if ended.status is TaskStatus.COMPLETED and work.refusal is not None:
                self._count_against(work.refusal[0])
            if work.held or self._outages:
                self._judge_doubts(work, ended)
        except Exception as error:  # noqa: BLE001 - whatever it is, the task must not be sent again for it
            self.defects.report(f"task {work.task_id}", error, "held failures are dropped")

    def _judge_doubts(self, work: Work, ended: TaskResult) -> None:
        """Decide about the failures that were held: the agents' fault, the task's, or still in doubt."""
        if ended.status is TaskStatus.COMPLETED:
            if self._outages:
                self._outages.forget(work)
            for agent_id, lease in work.held.items():
                if agent_id != ended.agent_id:
                    self._count_against(lease)
        elif work.failed_alike_everywhere:
            self._drop(work)

    def _drop(self, work: Work) -> None:
        """All agents failed it alike, so its circuits forget it, until so many tasks in a row say that all are out."""
        is_outage = self._outages.count(work)
        for agent_id, lease in work.held.items():
            if lease.seat.member.is_gone:
                continue
            self._board.retract_doubt(agent_id, lease.key, lease.permit)
            if is_outage:
                self._board.trip(agent_id, lease.key, lease.permit)
                self._scheduler.refresh(agent_id)

    def _count_against(self, lease: Lease) -> None:
        """Another agent did the task, so the agent was at fault: its circuit counts it, unless it has moved since.

        An agent that left has no circuit: one of the same id that came later is another agent.
        """
        if lease.seat.member.is_gone:
            return
        agent_id = lease.agent.agent_id
        self._board.record_evidence(agent_id, [lease.key], since=lease.permit)
        self._scheduler.refresh(agent_id)

    def _refused(self, work: Work, lease: Lease, reply: Reply) -> TaskResult | None:
        """The agent refused the params: another one is asked about them once, if that is safe."""
        if not work.task.idempotent or not self._scheduler.has_another(work.task, work.tried, work.tenant):
            return self._failed(work, reply)
        work.refusal = (lease, reply)
        return None

    def _failed(self, work: Work, reply: Reply) -> TaskResult:
        status = TaskStatus.CANCELLED if reply.outcome is Outcome.CANCELLED else TaskStatus.FAILED
        return work.ended(status, work.utc(self._clock.monotonic()), error=error_of(reply))

    def _ended(self, work: Work, error: TaskError) -> TaskResult:
        return work.ended(TaskStatus.FAILED, work.utc(self._clock.monotonic()), error=error)

    async def _pay(self, work: Work, reply: Reply) -> None:
        """A retry takes a token, and without one the task waits for it; after many dispatches it waits besides."""
        if reply.outcome is not Outcome.OVERLOADED:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(work.deadline - self._clock.monotonic()):
                    await self._retries(work.task.capability).withdraw()
        if work.dispatches >= DISPATCHES_MAX:
            await self._sleep(work, self._growing_wait_s(work.dispatches - DISPATCHES_MAX + 1))

    def _growing_wait_s(self, step: int) -> float:
        wait_s = 0.0
        for _ in range(min(step, BACKOFF_STEPS_MAX)):
            wait_s = self._backoff.after(wait_s)
        return self._backoff.jittered(wait_s, self._rng.uniform)

    async def _sleep(self, work: Work, wait_s: float) -> None:
        await asyncio.sleep(max(0.0, min(wait_s, work.deadline - self._clock.monotonic())))

    def _retries(self, capability: str) -> RetryQueue:
        key = wanted_key(capability)
        queue = self._retry_queues.get(key)
        if queue is None:
            queue = self._retry_queues[key] = RetryQueue(self._clock.monotonic)
            if len(self._retry_queues) > BUDGETS_MAX:
                self._retry_queues.popitem(last=False)
        return queue

    def _as_error(self, work: Work, error: TaskError) -> RoutingError | None:
        """The exception a direct call raises instead of a FAILED result; None when the agent itself said no."""
        if work.attempts and work.attempts[-1].outcome is Outcome.TASK_FAILED:
            return None
        if error.code == NoAgentAvailable.code:
            outage = self._scheduler.outage(work.task, work.tenant)
            tried = [f"{attempt.agent_id}: {attempt.reason}" for attempt in work.attempts]
            return NoAgentAvailable(work.task.capability, outage.retry_after_s, [*outage.reasons, *tried])
        if error.code == DeadlineExceeded.code:
            return DeadlineExceeded(f"Task {work.task_id}: {error.message}")
        if error.code == QueueFull.code:
            return QueueFull(error.message, 1.0)
        return _as_failure(work, error)


def _has_references(task: Task) -> bool:
    return any(isinstance(found, Reference) for _, found in scan(task.params))


def _fails_over(task: Task, reply: Reply) -> bool:
    if reply.outcome is Outcome.AGENT_FAULT:
        return task.idempotent or reply.repeatable
    return reply.outcome in _NOTHING_WAS_EXECUTED


def _as_failure(work: Work, error: TaskError) -> AllAgentsFailed | None:
    told = f"Task {work.task_id}: {error.message}."
    if work.is_refused:
        return AllAgentsFailed(work.task_id, work.attempts, told)
    if error.code == AttemptTimedOut.code:
        return AttemptTimedOut(work.task_id, work.attempts, told)
    # Whatever an agent that failed says of it in its own words, it failed.
    broke = work.refusal is None and bool(work.attempts) and work.attempts[-1].outcome in _BROKE
    return AllAgentsFailed(work.task_id, work.attempts) if broke or error.code == AllAgentsFailed.code else None


def _all_failed(work: Work) -> TaskError:
    told = "; ".join(f"{attempt.agent_id}: {attempt.reason}" for attempt in work.attempts[-REAL_ATTEMPTS_MAX:])
    return TaskError(AllAgentsFailed.code, f"failed at every agent tried ({told})")


def _timed_out(work: Work, lease: Lease) -> TaskError:
    agents = ", ".join(
        dict.fromkeys(attempt.agent_id for attempt in work.attempts if attempt.agent_id in work.timed_out)
    )
    return TaskError(
        AttemptTimedOut.code,
        f"{work.full_timeouts} attempts ran into the timeout of {lease.timeout_s:.3g} s ({agents}); if the work takes "
        f"longer than that, declare a larger timeout_s with the capability '{lease.key}' when its agent registers",
    )


def _deadline_exceeded(work: Work) -> TaskError:
    told = f"no agent answered '{work.task.capability}' in time"
    if work.attempts:
        count = "1 attempt" if work.dispatches == 1 else f"{work.dispatches} attempts"
        told += f" after {count}, the last: {work.attempts[-1].reason}"
    return TaskError(DeadlineExceeded.code, told)
