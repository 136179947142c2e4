"""Events: what is observed of agents, circuits and attempts, and every fact once it is recorded.

An event that is lost harms nothing.
"""

from datetime import datetime

import msgspec

from aicp.model.agent import DEFAULT_TENANT
from aicp.model.fact import (
    AnswerGiven,
    AttemptAccepted,
    ChainCancelled,
    ChainEnded,
    ChainStopped,
    ChainSubmitted,
    Fact,
    QuestionAsked,
    TaskEnded,
    TaskExpanded,
    TaskStarted,
)
from aicp.model.outcome import Outcome
from aicp.model.task import Priority

__all__ = [
    "AgentChanged",
    "AnswerGiven",
    "AttemptAccepted",
    "AttemptEnded",
    "AttemptStarted",
    "CapabilityChanged",
    "ChainCancelled",
    "ChainEnded",
    "ChainStopped",
    "ChainSubmitted",
    "ChainWarned",
    "CircuitChanged",
    "Event",
    "Fact",
    "JournalCommitted",
    "QuestionAsked",
    "RowDamaged",
    "TaskEnded",
    "TaskExpanded",
    "TaskStarted",
]


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
