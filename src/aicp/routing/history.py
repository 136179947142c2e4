"""The latest failures, in bounded memory."""

import itertools
from collections import deque
from datetime import datetime

from aicp.model.outcome import Reply
from aicp.model.views import Failure
from aicp.routing.work import Work
from aicp.scheduling.lease import Lease

FAILURES_KEPT_MAX = 1_000


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
