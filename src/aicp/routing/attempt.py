"""One guarded call: schemas checked, timed, and its lease settled on every path."""

from datetime import datetime

import msgspec

from aicp import standstill
from aicp.errors import OwnershipLost
from aicp.model.event import AttemptEnded, AttemptStarted
from aicp.model.outcome import Outcome, Reply, TaskError
from aicp.model.task import DEFAULT_ATTEMPT_TIMEOUT_S, Attempt, Call
from aicp.model.trace import Subject, subject
from aicp.ports import Clock, Observer, Transport
from aicp.registry.schemas import Schemas
from aicp.routing.defects import Defects
from aicp.routing.work import Work
from aicp.scheduling.lease import Lease
from aicp.scheduling.task_scheduler import TaskScheduler

FAIR_LATENCIES = 4.0
OFF_SCHEMA = "off its schema"
MEASURED_DESPITE = 0.1
"""The share of an attempt for which this process may have stood still, and its duration still says something."""


class Attempts:
    """Makes attempts.

    Args:
        scheduler: Takes the leases back.
        transport: Carries the calls.
        schemas: Checks what goes in and what comes out.
        clock: Time.
        observer: Receives each attempt's start and end; None for none.
        defects: Reports what the transport and the scheduler raise.
    """

    def __init__(
        self,
        scheduler: TaskScheduler,
        transport: Transport,
        schemas: Schemas,
        clock: Clock,
        observer: Observer | None,
        defects: Defects,
    ) -> None:
        self._scheduler = scheduler
        self._transport = transport
        self._schemas = schemas
        self._clock = clock
        self._observer = observer
        self._defects = defects

    async def make(self, work: Work, lease: Lease, *, is_resent: bool = False) -> Reply:
        """Try the leased agent once; however it ends, the lease is settled and the attempt remembered.

        The one exception: where a re-used connection died under the attempt, and the lease has time left, the lease
        stays for the attempt that follows on a fresh connection. The verdict is this agent's alone: what it means for
        the task is the router's.

        Args:
            work: The task.
            lease: Of the agent.
            is_resent: True for that following attempt; it has what is left of the first one's time.

        Raises:
            Exception: A defect of AICP before the call was sent, or after its answer.
        """
        began = self._clock.monotonic()
        began_utc = work.utc(began)
        call = self._call(work, lease, began, is_resent=is_resent)
        before = subject.set(Subject(work.chain_id, work.task_id, lease.agent.agent_id, work.parent))
        work.agent_id, work.since = lease.agent.agent_id, began_utc
        self._tell_start(work, lease, call, began_utc)
        reply = Reply(Outcome.CANCELLED, reason="the caller cancelled", evidence=False)
        try:
            reply = self._weighed(await self._guarded(work, lease, call), work, lease, call)
        except OwnershipLost as lost:
            reply = Reply(Outcome.CANCELLED, reason=lost.message, evidence=False, stale=True)
        except Exception as error:
            reply = Reply(Outcome.CANCELLED, reason=f"a defect of AICP: {type(error).__name__}", evidence=False)
            raise
        finally:
            elapsed_s = self._clock.monotonic() - began
            if is_resent or not reply.resendable or _left_s(lease, began + elapsed_s) <= 0:
                self._settle(work, lease, reply, _measured_s(began, elapsed_s))
            self._remember(work, lease, call, reply, began, began_utc, elapsed_s)
            work.agent_id = None
            subject.reset(before)
        return reply

    def _call(self, work: Work, lease: Lease, now: float, *, is_resent: bool) -> Call:
        work.number += 1
        timeout_s = max(0.001, _left_s(lease, now)) if is_resent else lease.timeout_s
        remaining_s = max(0.001, work.limit.left_s(now))
        work.given_s = min(timeout_s, remaining_s)
        return Call(
            task_id=work.task_id,
            capability=lease.key,
            params=work.task.params,
            attempt=work.number,
            epoch=work.epoch,
            timeout_s=work.given_s,
            remaining_s=remaining_s,
            idempotent=work.task.idempotent,
            parent=work.parent,
            on_fresh_connection=is_resent,
        )

    async def _guarded(self, work: Work, lease: Lease, call: Call) -> Reply:
        declared = lease.seat.declared
        misfit = self._schemas.misfit_at_once(declared.input_schema, call.params)
        if misfit is None:
            misfit = await self._schemas.misfit_elsewhere(declared.input_schema, call.params)
        if misfit:
            return Reply(Outcome.CALLER_FAULT, reason=f"params do not fit: {misfit}", evidence=False, unsent=True)
        if work.announce is not None and (refusal := await self._announced(work, lease)) is not None:
            return refusal
        work.dispatches += 1
        reply = await self._sent(work, lease, call)
        if reply.outcome is not Outcome.SUCCESS:
            return reply
        misfit = self._schemas.misfit_at_once(declared.output_schema, reply.result)
        if misfit is None:
            misfit = await self._schemas.misfit_elsewhere(declared.output_schema, reply.result)
        if misfit:
            return Reply(Outcome.AGENT_FAULT, reason=f"result does not fit: {misfit}", symptom=OFF_SCHEMA)
        return reply

    async def _sent(self, work: Work, lease: Lease, call: Call) -> Reply:
        """The transport's reply. Where it raises, that is local trouble, and the call may have been sent or not."""
        try:
            return await self._transport.invoke(lease.agent, call)
        except Exception as error:  # noqa: BLE001 - a transport that raises is a bug of ours, not the task's
            self._defects.report(f"task {work.task_id}", error)
            return Reply(Outcome.UNAVAILABLE, reason=f"transport: {type(error).__name__}", evidence=False)

    async def _announced(self, work: Work, lease: Lease) -> Reply | None:
        """Ask the owner before the task is sent; why it may not be sent, or None."""
        if work.announce is not None and not await work.announce(work.number, lease.agent.agent_id):
            return Reply(Outcome.CANCELLED, reason="its owner stopped it before it was sent", evidence=False)
        if work.limit.is_over(self._clock.monotonic()):
            return Reply(Outcome.DEADLINE_EXCEEDED, reason="the task's time ran out", evidence=False)
        return None

    def _weighed(self, reply: Reply, work: Work, lease: Lease, call: Call) -> Reply:
        """The transport's verdict in the light of the task: fair time, idempotence, earlier attempts."""
        if reply.timed_out and call.timeout_s < lease.seat.fair_time_s:
            if call.timeout_s < lease.timeout_s and call.remaining_s <= call.timeout_s:
                return Reply(
                    Outcome.DEADLINE_EXCEEDED, reason="the task's time ran out", evidence=False, timed_out=True
                )
            return msgspec.structs.replace(reply, evidence=False)
        if reply.outcome is Outcome.UNAVAILABLE and not reply.repeatable and not work.task.idempotent:
            reply = msgspec.structs.replace(reply, outcome=Outcome.AGENT_FAULT)
        if reply.outcome is Outcome.AGENT_FAULT and reply.evidence and not work.is_new_evidence(lease, reply):
            return msgspec.structs.replace(reply, evidence=False)
        return reply

    def _settle(self, work: Work, lease: Lease, reply: Reply, elapsed_s: float | None) -> None:
        """Give the lease back with the verdict. What the scheduler raises is reported: the task has its answer."""
        try:
            self._scheduler.complete_task(
                lease,
                reply.outcome,
                elapsed_s,
                evidence=reply.evidence,
                doubted=bool(reply.symptom),
                timed_out=reply.timed_out,
                retry_after_s=reply.retry_after_s,
                whole_agent=reply.whole_agent,
                reason=reply.reason,
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, the answer of the agent must not get lost
            self._defects.report(f"task {work.task_id}", error, "the answer counts")

    def _tell_start(self, work: Work, lease: Lease, call: Call, at: datetime) -> None:
        if self._observer is not None:
            waited_s = work.choices[-1].waited_s if work.choices else 0.0
            self._observer.notify(
                AttemptStarted(
                    work.task_id, lease.key, lease.agent.agent_id, call.attempt, at, work.task.priority, waited_s,
                    work.tenant,
                )
            )  # fmt: skip

    def _remember(
        self, work: Work, lease: Lease, call: Call, reply: Reply, began: float, began_utc: datetime, elapsed_s: float
    ) -> None:
        agent_id, ended_utc = lease.agent.agent_id, work.utc(began + elapsed_s)
        work.remember(Attempt(agent_id, call.attempt, reply.outcome, reply.reason, began_utc, ended_utc))
        if self._observer is not None:
            self._observer.notify(
                AttemptEnded(
                    work.task_id, lease.key, agent_id, call.attempt, reply.outcome, reply.reason, elapsed_s, ended_utc,
                    work.tenant,
                )
            )  # fmt: skip


def error_of(reply: Reply) -> TaskError:
    """What a failed task tells of the reply that failed it."""
    return reply.error or TaskError(reply.outcome.lower(), reply.reason)


def _measured_s(began: float, elapsed_s: float) -> float | None:
    """How long the agent took; None where that is unknown, as its answer may have lain unread in a standstill."""
    if elapsed_s <= standstill.KNOWN_FROM_S:
        return elapsed_s
    return elapsed_s if standstill.since(began) <= MEASURED_DESPITE * elapsed_s else None


def _left_s(lease: Lease, now: float) -> float:
    """What is left of the time of an attempt that began when its lease was given."""
    return standstill.TimeLimit(lease.granted_at, lease.granted_at + lease.timeout_s).left_s(now)


def ran_into_its_timeout(work: Work, lease: Lease, reply: Reply) -> bool:
    """True when the work may be longer than the timeout of its capability, rather than the agent hung.

    That is so when the attempt had all of that timeout, and nothing is known of the capability's latency or four times
    that latency reaches the timeout.
    """
    timeout_s = lease.seat.declared.timeout_s or DEFAULT_ATTEMPT_TIMEOUT_S
    usual_s = lease.seat.pool.latency_s
    had_it_all = reply.outcome is Outcome.AGENT_FAULT and reply.timed_out and work.given_s >= timeout_s
    return had_it_all and (not usual_s or FAIR_LATENCIES * usual_s >= timeout_s)
