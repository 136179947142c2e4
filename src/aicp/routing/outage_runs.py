"""Runs of tasks that failed alike at every agent: a backend that the agents share may be down."""

from collections import OrderedDict

from aicp.registry.naming import wanted_key
from aicp.routing.work import Work

RUNS_MAX = 10_000


class OutageRuns:
    """Counts, for each capability of a tenant, tasks in a row that every agent failed alike.

    Args:
        threshold: So many in a row, without a success of the capability between them, are an outage.
    """

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._runs: OrderedDict[tuple[str, str], int] = OrderedDict()

    def __len__(self) -> int:
        """How many runs are counted now."""
        return len(self._runs)

    def count(self, work: Work) -> bool:
        """Count one more; True when that makes an outage, which begins the run anew."""
        key = _key_of(work)
        run = self._runs.pop(key, 0) + 1
        if run >= self._threshold:
            return True
        self._runs[key] = run
        if len(self._runs) > RUNS_MAX:
            self._runs.popitem(last=False)
        return False

    def forget(self, work: Work) -> None:
        """End the run of a capability that succeeded."""
        self._runs.pop(_key_of(work), None)


def _key_of(work: Work) -> tuple[str, str]:
    return wanted_key(work.task.capability), work.tenant
