"""What is recorded (facts) and what is observed (events, of which facts are the durable part).

Facts rebuild a chain: fold them over its spec and you know where it stands. Events only tell; losing one harms nobody.
"""

from datetime import datetime

import msgspec

from aicp.model.agent import DEFAULT_TENANT
from aicp.model.chain import ChainSpec
from aicp.model.outcome import Outcome, TaskError
from aicp.model.task import Priority, TaskResult, TaskStatus


class ChainSubmitted(msgspec.Struct, frozen=True, tag_field="kind", tag="chain_submitted"):
    """Fact: somebody's chain was accepted.

    Attributes:
        chain_id: Its id.
        spec: What it is.
        at: UTC.
        tenant: Whose it is.
        retry_of: The chain it repeats, or None.
        traceparent: The trace of whoever submitted it, or None for one of its own.
        key_id: Of the API key it was submitted with; empty for none.
    """

    chain_id: str
    spec: ChainSpec
    at: datetime
    tenant: str = DEFAULT_TENANT
    retry_of: str | None = None
    traceparent: str | None = None
    key_id: str = ""


class ChainWarned(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="chain_warned"):
    """Event: a chain was accepted that will probably outlast its own deadline.

    Attributes:
        chain_id: Its id.
        expected_s: How long after the submit its last task would end, seconds, at the present rate.
        warning: The same in a sentence, with what can be done.
        at: UTC.
        tenant: Whose it is.
    """

    chain_id: str
    expected_s: float
    warning: str
    at: datetime
    tenant: str = DEFAULT_TENANT


class TaskStarted(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="task_started"):
    """Fact, only for tasks that are not idempotent: it is about to be sent, and never will be again.

    Attributes:
        chain_id: Its chain.
        task: Its local id.
        at: UTC.
    """

    chain_id: str
    task: str
    at: datetime


class TaskEnded(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="task_ended"):
    """Fact: a task reached its end.

    Attributes:
        chain_id: Its chain.
        task: Its local id.
        result: How.
    """

    chain_id: str
    task: str
    result: TaskResult


class ChainCancelled(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="chain_cancelled"):
    """Fact: somebody cancelled it; no attempt starts from now on.

    Attributes:
        chain_id: Its id.
        at: UTC.
    """

    chain_id: str
    at: datetime


class ChainEnded(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="chain_ended"):
    """Fact: nothing of it will run any more.

    Attributes:
        chain_id: Its id.
        status: COMPLETED, FAILED or CANCELLED.
        at: UTC.
        error: Why it failed.
    """

    chain_id: str
    status: TaskStatus
    at: datetime
    error: TaskError | None = None


class AttemptStarted(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="attempt_started"):
    """Event: a task was handed to an agent.

    Attributes:
        task_id: Global id.
        capability: What was asked for.
        agent_id: Who got it.
        number: Rises from 1.
        at: UTC.
        priority: The task's place in line.
        waited_s: From when it asked for an agent until it had one, seconds.
        tenant: Whose task it is.
    """

    task_id: str
    capability: str
    agent_id: str
    number: int
    at: datetime
    priority: Priority = Priority.NORMAL
    waited_s: float = 0.0
    tenant: str = DEFAULT_TENANT


class AttemptEnded(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="attempt_ended"):
    """Event: the verdict on an attempt.

    Attributes:
        task_id: Global id.
        capability: What was asked for.
        agent_id: Who had it.
        number: Rises from 1.
        outcome: How it ended.
        reason: Why.
        elapsed_s: Seconds.
        at: UTC.
        tenant: Whose task it is.
    """

    task_id: str
    capability: str
    agent_id: str
    number: int
    outcome: Outcome
    reason: str
    elapsed_s: float
    at: datetime
    tenant: str = DEFAULT_TENANT


class CircuitChanged(msgspec.Struct, frozen=True, tag_field="kind", tag="circuit_changed"):
    """Event: a breaker changed its state.

    Attributes:
        agent_id: Whose circuit.
        capability: For what.
        state: The new state.
        retry_after_s: Seconds until it may admit a probe; 0 when it admits.
        at: UTC.
        tenant: Whose agent it is; None for one that serves every tenant.
    """

    agent_id: str
    capability: str
    state: str
    retry_after_s: float
    at: datetime
    tenant: str | None = None


class AgentChanged(msgspec.Struct, frozen=True, tag_field="kind", tag="agent_changed"):
    """Event: the directory's view of an agent changed.

    Attributes:
        agent_id: Who.
        change: `registered`, `updated`, `heard`, `unheard`, `offline`, `draining`, `removed`, `set_aside` (it turned
            out to be misconfigured), `restored` (that was forgotten).
        at: UTC.
        tenant: Whose agent it is; None for one that serves every tenant.
        capability: For `set_aside`: the only one it is about; empty for all of the agent.
        reason: For `set_aside`: what showed it.
    """

    agent_id: str
    change: str
    at: datetime
    tenant: str | None = None
    capability: str = ""
    reason: str = ""


class CapabilityChanged(msgspec.Struct, frozen=True, tag_field="kind", tag="capability_changed"):
    """Event: a capability lost its last usable agent, or has one again.

    Attributes:
        capability: Its key.
        is_out: True when nobody may be used for it.
        at: UTC.
        tenant: Whose agents it is about; None for those that serve every tenant.
    """

    capability: str
    is_out: bool
    at: datetime
    tenant: str | None = None


class JournalCommitted(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="journal_committed"):
    """Event: the journal has put down, or failed to put down, what was ready for the disk.

    Attributes:
        elapsed_s: How long the transaction took, seconds.
        writes: How many submits and appends shared it.
    """

    elapsed_s: float
    writes: int


class RowDamaged(msgspec.Struct, frozen=True, gc=False, tag_field="kind", tag="row_damaged"):
    """Event: a row of the database is not what was written, and is not used.

    Attributes:
        table: Of the row.
        row: Its key, for people.
        why: What is wrong with it.
    """

    table: str
    row: str
    why: str


Fact = ChainSubmitted | TaskStarted | TaskEnded | ChainCancelled | ChainEnded
Event = (
    Fact
    | ChainWarned
    | AttemptStarted
    | AttemptEnded
    | CircuitChanged
    | AgentChanged
    | CapabilityChanged
    | JournalCommitted
    | RowDamaged
)
