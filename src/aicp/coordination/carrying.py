"""Carries a task to its end even where the router or the scheduler raises: a defect must not strand its chain."""

import asyncio
from collections.abc import Callable

from aicp.errors import OwnershipLost, StorageError
from aicp.model.outcome import TaskError
from aicp.model.task import TaskResult, TaskStatus
from aicp.ports import Clock
from aicp.resilience.backoff import Backoff
from aicp.routing.defects import Defects
from aicp.routing.failover_router import FailoverRouter
from aicp.routing.work import Work

DEFECT_BACKOFF = Backoff(first_s=1.0, factor=2.0, max_s=60.0, jitter=0.1)
OUTCOME_UNKNOWN = TaskError(
    "outcome_unknown",
    "it was sent and must not be sent twice, and the process that waited for it ended: whether it was done is unknown",
)
INTERNAL_ERROR = "internal_error"


class Carrier:
    """Asks the router again after a defect, with backoff, until the deadline of the task.

    Args:
        router: Carries tasks.
        clock: Time.
        defects: Reports what the router raises.
        uniform: Chance, for the waits.
    """

    def __init__(
        self, router: FailoverRouter, clock: Clock, defects: Defects, uniform: Callable[[float, float], float]
    ) -> None:
        self._router = router
        self._clock = clock
        self._defects = defects
        self._uniform = uniform

    async def carry(self, work: Work) -> TaskResult:
        """The result of a task. Attempts go on counting where the defect stopped them.

        Raises:
            OwnershipLost: The chain has another owner.
            StorageError: The journal refused.
        """
        wait_s = 0.0
        while True:
            try:
                return await self._router.route(work)
            except (OwnershipLost, StorageError):
                raise
            except Exception as error:  # noqa: BLE001 - whatever it is, it is logged and the task goes on
                self._defects.report(f"task {work.task_id}", error)
                work.agent_id = None
                if (ended := self._given_up(work, error)) is not None:
                    return ended
            wait_s = DEFECT_BACKOFF.after(wait_s)
            left_s = work.deadline - self._clock.monotonic()
            await asyncio.sleep(min(DEFECT_BACKOFF.jittered(wait_s, self._uniform), left_s))

    def _given_up(self, work: Work, error: Exception) -> TaskResult | None:
        """The end of a task that must not be sent again, or whose time is over; None to go on."""
        now = self._clock.monotonic()
        if not work.task.idempotent and work.dispatches:
            return work.ended(TaskStatus.FAILED, work.utc(now), error=OUTCOME_UNKNOWN)
        if now < work.deadline:
            return None
        told = f"a defect of AICP ({type(error).__name__}) kept this task from running; the server's log has the cause"
        return work.ended(TaskStatus.FAILED, work.utc(now), error=TaskError(INTERNAL_ERROR, told))
