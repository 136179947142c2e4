"""How much is accepted and unfinished: in all, of each tenant, and with each API key."""

import math
from collections import Counter
from collections.abc import Collection

from aicp.errors import CapabilityRefused, QueueFull
from aicp.model.access import Grant
from aicp.model.event import ChainSubmitted
from aicp.model.task import Task
from aicp.registry.naming import wanted_key
from aicp.routing.failover_router import WAIT_SHARES

RETRY_AFTER_S = 1.0


class Acceptance:
    """Counts tasks from before they are recorded to the end of their chain.

    Args:
        tasks_max: Tasks accepted and unfinished; more are refused.

    Attributes:
        total: Tasks accepted and not ended.
        refused: Submits that were refused for want of room.
    """

    def __init__(self, tasks_max: int) -> None:
        self._tasks_max = tasks_max
        self._of_tenant = Counter[str]()
        self._of_key = Counter[str]()
        self.total = 0
        self.refused = 0

    def of_tenant(self, tenant: str) -> int:
        """Tasks of a tenant that are accepted and not ended."""
        return self._of_tenant[tenant]

    def reserve(self, tasks: Collection[Task], tenant: str, grant: Grant) -> None:
        """Count them as accepted before they are: submits that wait for the journal side by side share the room.

        The last of the room is kept for the more urgent.

        Raises:
            QueueFull: There is no room, of all or of what the key may have; nothing was counted.
        """
        room = math.ceil(self._tasks_max * max(WAIT_SHARES[task.priority] for task in tasks))
        if self.total + len(tasks) > room:
            self._refuse(f"{self.total} accepted tasks are unfinished, at most {room:.0f} of this priority")
        mine = self._of_key[grant.key_id]
        if grant.queue is not None and mine + len(tasks) > grant.queue:
            self._refuse(f"{mine} accepted tasks of key {grant.key_id} are unfinished, at most {grant.queue}")
        self._count(len(tasks), tenant, grant.key_id)

    def take_over(self, size: int, submitted: ChainSubmitted) -> None:
        """Count a chain that was accepted before, even if there is no room."""
        self._count(size, submitted.tenant, submitted.key_id)

    def give_back(self, size: int, submitted: ChainSubmitted) -> None:
        """A chain ended, or was not recorded."""
        self._count(-size, submitted.tenant, submitted.key_id)

    def _count(self, tasks: int, tenant: str, key_id: str) -> None:
        self.total += tasks
        for counter, name in ((self._of_tenant, tenant), (self._of_key, key_id)):
            counter[name] += tasks
            if not counter[name]:
                del counter[name]

    def _refuse(self, told: str) -> None:
        self.refused += 1
        raise QueueFull(f"{told}; submit later.", RETRY_AFTER_S)


def check_allowed(tasks: Collection[Task], grant: Grant) -> None:
    """Refuse tasks for which a key was not made.

    Raises:
        CapabilityRefused: One asks for what the key does not allow.
    """
    if grant.capabilities is None:
        return
    for task in tasks:
        if wanted_key(task.capability) not in grant.capabilities:
            raise CapabilityRefused(task.capability)
