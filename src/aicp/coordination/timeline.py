"""What happened in a chain, and when: its attempts in the order in which they began."""

from datetime import datetime

import msgspec

from aicp.model.duration import seconds_between
from aicp.model.outcome import Outcome
from aicp.model.views import ChainView


class TimelineEntry(msgspec.Struct, frozen=True):
    """One attempt at a task of a chain.

    Attributes:
        task: Its local id.
        number: Of the attempt, from 1.
        agent_id: Who was tried.
        outcome: How it ended.
        reason: Why; empty on SUCCESS.
        started_at: UTC.
        ended_at: UTC.
        begins_s: Seconds from the submit of the chain to its start; negative when a retry copied its result.
        takes_s: Seconds it took.
    """

    task: str
    number: int
    agent_id: str
    outcome: Outcome
    reason: str
    started_at: datetime
    ended_at: datetime
    begins_s: float
    takes_s: float


def timeline(view: ChainView) -> list[TimelineEntry]:
    """Every attempt that a view tells of, by its start; results that a retry copied bring theirs along."""
    entries = [
        TimelineEntry(
            task=task,
            number=attempt.number,
            agent_id=attempt.agent_id,
            outcome=attempt.outcome,
            reason=attempt.reason,
            started_at=attempt.started_at,
            ended_at=attempt.ended_at,
            begins_s=(attempt.started_at - view.started_at).total_seconds(),
            takes_s=seconds_between(attempt.started_at, attempt.ended_at),
        )
        for task, of_task in view.tasks.items()
        for attempt in of_task.attempts
    ]
    return sorted(entries, key=lambda entry: (entry.started_at, entry.ended_at, entry.task))
