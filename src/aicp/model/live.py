"""A live event: what `GET /api/events` tells of something that happened, without the params and results of tasks."""

import re
from datetime import datetime

import msgspec

from aicp.model.outcome import Outcome, TaskError
from aicp.model.task import TaskStatus

GAP = "gap"
TOLD_KINDS = (
    "chain_submitted",
    "chain_warned",
    "task_started",
    "task_ended",
    "chain_cancelled",
    "chain_ended",
    "attempt_started",
    "attempt_ended",
    "circuit_changed",
    "agent_changed",
    "capability_changed",
)
"""What this version tells, besides gaps."""
TOLD_LATER = (
    "task_phase",
    "task_expanded",
    "template_changed",
    "schedule_changed",
    "schedule_fired",
    "schedule_refused",
    "task_progress",
    "attempt_accepted",
    "question_asked",
    "answer_given",
    "charged",
    "budget_changed",
    "price_changed",
    "channel_changed",
    "webhook_changed",
)
"""What later versions tell. Their replicas may run beside one of this version, which passes on what they tell."""
KINDS = TOLD_KINDS + TOLD_LATER
"""What a live event can be, besides a gap."""
KIND_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""How every kind is written, those of later versions too."""
NEVER_KEPT = frozenset({"task_progress"})
"""Kinds of which only the last one counts: they come often, and would drive what matters out of the events kept."""


class LiveEvent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Something that happened. Fields that say nothing about its kind are left out of the JSON, and None here.

    Attributes:
        kind: One of `KINDS`, or `gap`: events were lost on the way to this reader. A newer server may tell others, too.
        at: UTC; when it happened.
        id: `<boot>-<n>`, to go on after it; it travels beside the JSON. Numbers rise by one within a boot.
        chain_id: The chain it is about.
        task_id: The task, global id.
        capability: What was asked for, or whose circuit.
        agent_id: The agent.
        attempt: Its number, from 1.
        status: How the task or chain ended.
        outcome: How the attempt ended.
        reason: Why, in a sentence.
        error: Why there is no result.
        state: The circuit's new state.
        change: What became of the agent: `registered`, `updated`, `heard`, `unheard`, `offline`, `draining`, `removed`,
            `set_aside`, `restored`.
        is_out: True when the capability lost its last usable agent, False when it has one again.
        waited_s: How long the attempt waited for its agent, seconds.
        elapsed_s: How long the attempt took, seconds.
        retry_after_s: Until the circuit may admit a probe, seconds; None when only an operator can close it.
        name: The chain's.
        total_tasks: How many the chain has.
        retry_of: The chain it repeats.
        expected_s: How long after its submit the last task of the chain would end, seconds, at the present rate.
        warning: The same in a sentence, with what can be done.
        lost: Of a gap: how many events are missing; None when nobody knows.
        replica: Which replica it happened at, where that is another than the one that was asked.
    """

    kind: str
    at: datetime
    id: str = ""
    chain_id: str | None = None
    task_id: str | None = None
    capability: str | None = None
    agent_id: str | None = None
    attempt: int | None = None
    status: TaskStatus | None = None
    outcome: Outcome | None = None
    reason: str | None = None
    error: TaskError | None = None
    state: str | None = None
    change: str | None = None
    is_out: bool | None = None
    waited_s: float | None = None
    elapsed_s: float | None = None
    retry_after_s: float | None = None
    name: str | None = None
    total_tasks: int | None = None
    retry_of: str | None = None
    expected_s: float | None = None
    warning: str | None = None
    lost: int | None = None
    replica: str | None = None
