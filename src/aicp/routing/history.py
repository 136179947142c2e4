"""The latest failures, in bounded memory."""

import itertools
from collections import deque
from datetime import datetime

import msgspec

from aicp.model.outcome import Outcome, Reply
from aicp.routing.work import Work
from aicp.scheduling.lease import Lease

FAILURES_KEPT_MAX = 1_000


class Failure(msgspec.Struct, frozen=True):
    """An attempt that failed.

    Attributes:
        task_id: Global id.
        agent_id: Who was tried.
        capability: For what.
        outcome: How it ended.
        reason: Why.
        timestamp: UTC.
    """

    task_id: str
    agent_id: str
    capability: str
    outcome: Outcome
    reason: str
    timestamp: datetime


class FailureHistory:
    """The latest 1,000 failures."""

    def __init__(self) -> None:
        self._failures: deque[Failure] = deque(maxlen=FAILURES_KEPT_MAX)

    def remember(self, work: Work, lease: Lease, reply: Reply, at: datetime) -> None:
        """An attempt failed."""
        failure = Failure(work.task_id, lease.agent.agent_id, lease.key, reply.outcome, reply.reason, at)
        self._failures.appendleft(failure)

    def latest(self, limit: int) -> list[Failure]:
        """At most `limit`, newest first."""
        return list(itertools.islice(self._failures, max(0, limit)))
