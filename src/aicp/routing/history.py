"""The latest failures, and why tasks went where they went, in bounded memory."""

import itertools
from collections import OrderedDict, deque
from datetime import datetime

from aicp.model.outcome import Reply
from aicp.model.views import Choice, Failure
from aicp.routing.work import Work
from aicp.scheduling.lease import Lease

FAILURES_KEPT_MAX = 1_000
CHOICES_KEPT_MAX = 10_000


class FailureHistory:
    """The latest 1,000 failures."""

    def __init__(self) -> None:
        self._failures: deque[tuple[str, Failure]] = deque(maxlen=FAILURES_KEPT_MAX)

    def remember(self, work: Work, lease: Lease, reply: Reply, at: datetime) -> None:
        """An attempt failed."""
        failure = Failure(work.task_id, lease.agent.agent_id, lease.key, reply.outcome, reply.reason, at)
        self._failures.appendleft((work.tenant, failure))

    def latest(self, limit: int, tenant: str | None = None) -> list[Failure]:
        """At most `limit`, newest first; of one tenant's tasks, or of all."""
        wanted = (failure for whose, failure in self._failures if tenant in {None, whose})
        return list(itertools.islice(wanted, max(0, limit)))


class ChoiceHistory:
    """Why the attempts of the last 10,000 tasks went where they went."""

    def __init__(self) -> None:
        self._choices: OrderedDict[str, tuple[Choice, ...]] = OrderedDict()

    def remember(self, work: Work) -> None:
        """A task ended."""
        if work.choices:
            self._choices[work.task_id] = tuple(work.choices)
            if len(self._choices) > CHOICES_KEPT_MAX:
                self._choices.popitem(last=False)

    def of(self, task_id: str) -> tuple[Choice, ...]:
        """Of one task; empty when it is not remembered."""
        return self._choices.get(task_id, ())
