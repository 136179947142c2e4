"""How an attempt can end.

| outcome           | evidence against the circuit | fails over                       |
|-------------------|------------------------------|----------------------------------|
| SUCCESS           | clears                       | -                                |
| TASK_FAILED       | none                         | no                               |
| CALLER_FAULT      | none                         | no                               |
| OVERLOADED        | none; the agent cools down   | yes, at no cost                  |
| UNAVAILABLE       | yes, every circuit           | yes, nothing was executed        |
| AGENT_FAULT       | yes                          | if the task is idempotent        |
| MISCONFIGURED     | none; the agent is set aside | yes                              |
| DEADLINE_EXCEEDED | none                         | no                               |
| CANCELLED         | none                         | no                               |
"""

from enum import StrEnum
from typing import Any

import msgspec


class Outcome(StrEnum):
    """The verdict on one attempt; the table is on top of this file."""

    SUCCESS = "SUCCESS"
    TASK_FAILED = "TASK_FAILED"
    CALLER_FAULT = "CALLER_FAULT"
    OVERLOADED = "OVERLOADED"
    UNAVAILABLE = "UNAVAILABLE"
    AGENT_FAULT = "AGENT_FAULT"
    MISCONFIGURED = "MISCONFIGURED"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"


class TaskError(msgspec.Struct, frozen=True, gc=False):
    """Why a task has no result.

    Attributes:
        code: Stable, lower case with underscores: the agent's own for TASK_FAILED, else one of AICP's.
        message: A sentence for a person.
    """

    code: str
    message: str


class Reply(msgspec.Struct, frozen=True, gc=False):
    """What a transport makes of one call to an agent: never an exception, always one of these.

    Attributes:
        outcome: The verdict.
        result: The agent's result (JSON) on SUCCESS.
        error: The agent's own error on TASK_FAILED, or what describes any other failure.
        reason: Why, in a short sentence; empty on SUCCESS.
        retry_after_s: OVERLOADED: how long the agent asked to be left alone, seconds; None when it did not say.
        repeatable: True when doing it again elsewhere is safe even if the task is not idempotent: surely not executed,
            or the agent itself said so.
        whole_agent: True when the verdict is about the agent rather than about this capability of it.
        evidence: False for local trouble (own pool, own DNS, own shutdown) that says nothing about the agent.
        timed_out: True when it is an AGENT_FAULT because no answer came within the call's `timeout_s`.
        unsent: True when nothing was sent because the params do not fit what the agent declares.
        resendable: True when a re-used connection closed before the first byte of an answer and the task is idempotent:
            it may go to the same agent once more, on a fresh connection and as an attempt of its own.
        stale: True when the agent refused an older fencing token: ownership of the task was lost.
        symptom: How a living agent failed in time: its status, error code or exception type, for comparison with other
            agents. Such a failure may be the task's fault. Empty for every other failure.
        transient: True when the agent says that a repeat may succeed (`error.retryable`, 502, 503, 504).
    """

    outcome: Outcome
    result: Any = None
    error: TaskError | None = None
    reason: str = ""
    retry_after_s: float | None = None
    repeatable: bool = False
    whole_agent: bool = False
    evidence: bool = True
    timed_out: bool = False
    unsent: bool = False
    resendable: bool = False
    stale: bool = False
    symptom: str = ""
    transient: bool = False
