"""One task on its way: what was tried and what is left."""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec

from aicp.model.agent import DEFAULT_TENANT
from aicp.model.outcome import Outcome, Reply, TaskError
from aicp.model.run_id import chain_of
from aicp.model.task import Attempt, Task, TaskResult, TaskStatus
from aicp.model.views import Choice
from aicp.scheduling.lease import Lease
from aicp.scheduling.waiter import ChainTurn
from aicp.standstill import TimeLimit

Announce = Callable[[int, str], Awaitable[bool]]
ATTEMPTS_KEPT_MAX = 30
ALIKE_ROUNDS_MAX = 3


class Work:
    """One task on its way. The router writes it, its owner reads `attempts` when it is cut off.

    Attributes:
        task: What is wanted, params resolved.
        task_id: Global id.
        tenant: Whose it is.
        epoch: Of the owner.
        ready_at: When it could first have run, monotonic seconds.
        ready_at_utc: The same for people.
        limit: When its time is over; moved once when this process stood still meanwhile.
        accepted: True when it waits for agents that are out; False for a direct call that rather comes back.
        attempts: What was tried; the last 30.
        choices: Why each went where it went; the last 30.
        agent_id: Who has it now; None between attempts.
        since: When the last attempt began, UTC.
        number: Of the last attempt.
        dispatches: How often it was sent; an attempt whose agent would not take the params is not.
        real_attempts: Of those, how many count against the limit.
        tried: Agents of this round.
        asks_from: From when its place in line counts, monotonic seconds: `ready_at`, or the begin of a round after
            failures that may be its own.
        rounds: Rounds that began after every usable agent had been tried.
        held: The lease of the first doubted failure at each agent, in the last generation of its circuit, by agent id.
        timed_out: Agents whose circuit counted a timeout of this task.
        given_s: How long the last attempt could take, seconds.
        full_timeouts: Attempts that had all of their capability's timeout, where the work may need longer.
        symptoms: How each agent that had it failed last, by agent id; empty where that is beyond doubt.
        alike: How often in a row the same agent failed it with the same symptom.
        refusal: The first agent's CALLER_FAULT, while a second opinion is asked.
        announce: Asked right before each send, with the attempt's number and its agent; False keeps it from being
            sent. None when there is nothing to ask.
        parent: Trace context of whoever submitted it; None for the chain's own trace.
        chain: How far its chain has come, which decides its place in the queue; None for a task of its own.
        is_lost: True when an agent knows a newer fencing token: another owner has the task.
        is_refused: True when every agent that offers the capability answered that it does not do it.
    """

    __slots__ = (
        "_last_fault", "accepted", "agent_id", "alike", "announce", "asks_from", "attempts", "chain", "choices",
        "dispatches", "epoch", "full_timeouts", "given_s", "held", "is_lost", "is_refused", "limit", "number", "parent",
        "ready_at", "ready_at_utc", "real_attempts", "refusal", "rounds", "since", "symptoms", "task", "task_id",
        "tenant", "timed_out", "tried",
    )  # fmt: skip

    def __init__(
        self,
        task: Task,
        task_id: str,
        *,
        ready_at: float,
        ready_at_utc: datetime,
        deadline: float,
        tenant: str = DEFAULT_TENANT,
        epoch: int = 1,
        accepted: bool = True,
        announce: Announce | None = None,
        parent: str | None = None,
        chain: ChainTurn | None = None,
    ) -> None:
        self.task = task
        self.task_id = task_id
        self.tenant = tenant
        self.epoch = epoch
        self.ready_at = self.asks_from = ready_at
        self.ready_at_utc = ready_at_utc
        self.limit = TimeLimit(ready_at, deadline)
        self.accepted = accepted
        self.announce = announce
        self.parent = parent
        self.chain = chain
        self.attempts: list[Attempt] = []
        self.choices: list[Choice] = []
        self.agent_id: str | None = None
        self.since: datetime | None = None
        self.number = 0
        self.dispatches = 0
        self.real_attempts = 0
        self.rounds = 0
        self.tried: frozenset[str] = frozenset()
        self.held: dict[str, Lease] = {}
        self.timed_out: frozenset[str] = frozenset()
        self.full_timeouts = 0
        self.given_s = 0.0
        self.symptoms: dict[str, str] = {}
        self.alike = 0
        self._last_fault: tuple[str, str] | None = None
        self.refusal: tuple[Lease, Reply] | None = None
        self.is_lost = self.is_refused = False

    @property
    def deadline(self) -> float:
        """When its time is over, monotonic seconds."""
        return self.limit.ends_at

    @property
    def chain_id(self) -> str:
        """The chain it is part of."""
        return chain_of(self.task_id)

    def is_new_evidence(self, lease: Lease, reply: Reply) -> bool:
        """Remember a fault; False when this task's doubted failure or timeout has already counted at this circuit."""
        agent_id = lease.agent.agent_id
        if reply.symptom:
            is_new = not _is_same_circuit(self.held.get(agent_id), lease)
            if is_new:
                self.held[agent_id] = lease
            return is_new
        if not reply.timed_out:
            return True
        is_new = agent_id not in self.timed_out
        self.timed_out |= {agent_id}
        return is_new

    def compare(self, lease: Lease, reply: Reply) -> None:
        """Remember how it failed, and count failures at the same agent that are alike."""
        self.symptoms[lease.agent.agent_id] = reply.symptom
        fault = (lease.agent.agent_id, reply.symptom) if reply.symptom and not reply.transient else None
        self.alike = 0 if fault is None else 1 + (self.alike if fault == self._last_fault else 0)
        self._last_fault = fault

    def stand_behind(self, now: float) -> None:
        """Let its next round stand behind the tasks that wait, where a failure may be its own, and out of its chain.

        Else bad tasks, which came earlier, would be all that is tried when a circuit admits a probe.
        """
        if any(self.symptoms.values()):
            self.asks_from, self.chain = now, None

    @property
    def failed_alike_everywhere(self) -> bool:
        """True when every agent that had it, two or more, failed it with the same symptom."""
        symptoms = set(self.symptoms.values())
        return len(self.symptoms) > 1 and len(symptoms) == 1 and symptoms != {""}

    def utc(self, at_s: float) -> datetime:
        """What the wall clock shows at `at_s`, monotonic seconds, if nobody sets it from when the task became ready.

        Every time that is reported of the task comes from here, so that no duration is negative or too long.
        """
        return self.ready_at_utc + timedelta(0, at_s - self.ready_at)

    def leave_out(self, agent_id: str) -> None:
        """Its params do not fit what this agent declares: it shall not go there again."""
        self.task = msgspec.structs.replace(self.task, exclude_agents=(*self.task.exclude_agents, agent_id))

    def choose(self, lease: Lease, waited_s: float) -> None:
        """It got a lease for its next attempt."""
        seat, pool = lease.seat, lease.seat.pool
        choice = Choice(
            attempt=self.number + 1,
            agent_id=lease.agent.agent_id,
            shared=pool.tenant is None,
            waited_s=waited_s,
            estimate_s=seat.latency_s or pool.latency_s or None,
            free=pool.free,
            usable=pool.usable,
            agents=len(pool.seats),
        )
        self.choices.append(choice)
        if len(self.choices) > ATTEMPTS_KEPT_MAX:
            del self.choices[0]

    def remember(self, attempt: Attempt) -> None:
        """An attempt ended."""
        self.attempts.append(attempt)
        if len(self.attempts) > ATTEMPTS_KEPT_MAX:
            del self.attempts[0]

    def ended(
        self, status: TaskStatus, at: datetime, *, result: Any = None, error: TaskError | None = None
    ) -> TaskResult:
        """The result of the task, with all that is known of its way."""
        first, last = (self.attempts[0], self.attempts[-1]) if self.attempts else (None, None)
        return TaskResult(
            task_id=self.task_id,
            capability=self.task.capability,
            status=status,
            result=result,
            error=error,
            agent_id=last.agent_id if last else None,
            attempts=tuple(self.attempts),
            ready_at=self.ready_at_utc,
            started_at=first.started_at if first else None,
            ended_at=at,
        )

    def blame(self, agent_id: str) -> None:
        """A second opinion showed that an agent's no was its own fault."""
        for index, attempt in enumerate(self.attempts):
            if attempt.agent_id == agent_id and attempt.outcome is Outcome.CALLER_FAULT:
                self.attempts[index] = Attempt(
                    agent_id, attempt.number, Outcome.AGENT_FAULT, attempt.reason, attempt.started_at, attempt.ended_at
                )


def _is_same_circuit(held: Lease | None, lease: Lease) -> bool:
    """True when both were given by the same generation of the circuit of the same registered agent."""
    return held is not None and held.permit == lease.permit and held.seat.member is lease.seat.member
