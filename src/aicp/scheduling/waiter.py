"""A task that waits for an agent: what it asks for, and what decides its place in the queue."""

import asyncio
import functools
import itertools
import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from aicp.model.agent import DEFAULT_TENANT
from aicp.model.task import DEFAULT_TASK_DEADLINE_S, Task
from aicp.scheduling.fleet import Labels, Seat
from aicp.scheduling.lease import Lease, Unscheduled
from aicp.standstill import TimeLimit

FIRST_TASKS = 64
SCANNED_MAX = 8
SETS_KEPT_MAX = 64


class ChainTurn:
    """How far a chain has come: after its first 64 tasks the rest stands behind the first tasks of other chains.

    Attributes:
        began_at: When its tasks' time began to count, monotonic seconds.
        tasks: How many it has.
        handed_over: How many of its tasks an agent got, or ended otherwise.
    """

    __slots__ = ("began_at", "handed_over", "tasks")

    def __init__(self, began_at: float, tasks: int, handed_over: int = 0) -> None:
        self.began_at = began_at
        self.tasks = tasks
        self.handed_over = handed_over

    @property
    def is_large(self) -> bool:
        """True when its first tasks were handed over."""
        return self.handed_over >= FIRST_TASKS


class Selector(NamedTuple):
    """What a task asks of an agent; tasks that ask for the same wait in one group.

    Attributes:
        agents: The only agents that suit it, empty for any.
        left_out: Agents that do not: excluded by the task, or tried.
        labels: What the agent must carry.
    """

    agents: frozenset[str]
    left_out: frozenset[str]
    labels: Labels

    def suits(self, seat: Seat) -> bool:
        """True when the agent is one of those asked for."""
        agent_id = seat.agent_id
        if agent_id in self.left_out or (self.agents and agent_id not in self.agents):
            return False
        return not self.labels or self.labels <= seat.member.profile.labels.items()


class Waiter:
    """One task in the queue of its capability.

    Attributes:
        task: What it is.
        tenant: Whose.
        since: When it became ready, monotonic seconds.
        due: When it should be done: decides between equals.
        half_at: When it has waited for half of its deadline, and counts among the first tasks of its chain.
        deadline: When it gives up, monotonic seconds.
        limit: The same, moved once when this process stood still meanwhile.
        arrival: Rises with each that joins any queue.
        tried: Agents that it must not go to.
        chain: Its chain; None when it is a chain of one.
        is_begun: True when it was handed over before: its chain has counted it.
        gives_up: True when it leaves rather than waits for agents that are out.
        held_since: From when its patience is counted; None until it was held from an agent for a faster one.
        patient_until: Until when it leaves the last of those alone; 0 before.
        group: Where it waits.
        strand: The tasks of its chain there; None when it stands alone.
        seat_future: Resolved with a lease, or with why there is none.
    """

    __slots__ = (
        "_selector", "arrival", "chain", "deadline", "due", "gives_up", "group", "half_at", "held_since", "is_begun",
        "limit", "patient_until", "seat_future", "since", "strand", "task", "tenant", "tried",
    )  # fmt: skip

    _arrivals = itertools.count()

    def __init__(
        self,
        task: Task,
        ready_at: float,
        deadline: float | TimeLimit = math.inf,
        tried: frozenset[str] = frozenset(),
        *,
        gives_up: bool = False,
        tenant: str = DEFAULT_TENANT,
        chain: ChainTurn | None = None,
        is_begun: bool = False,
    ) -> None:
        deadline_s = task.deadline_s or DEFAULT_TASK_DEADLINE_S
        self.task = task
        self.tenant = tenant
        self.since = ready_at
        self.due = (ready_at if chain is None else chain.began_at) + deadline_s
        self.half_at = ready_at + deadline_s / 2
        self.limit = deadline if isinstance(deadline, TimeLimit) else TimeLimit(ready_at, deadline)
        self.deadline = self.limit.ends_at
        self.arrival = next(self._arrivals)
        self.tried = tried
        self.chain = chain
        self.is_begun = is_begun
        self.gives_up = gives_up
        self.held_since: float | None = None
        self.patient_until = 0.0
        self._selector: Selector | None = None
        self.strand: Any = None
        self.group: Any = None
        self.seat_future: asyncio.Future[Lease | Unscheduled] = asyncio.get_running_loop().create_future()

    @property
    def is_plain(self) -> bool:
        """True when any capable agent suits it."""
        return is_plain(self.task, self.tried)

    @property
    def selector(self) -> Selector | None:
        """What it asks of an agent; None when any capable one suits it. Costs the names in the task, once."""
        if self._selector is None and not self.is_plain:
            task = self.task
            left_out = self.tried.union(task.exclude_agents) if task.exclude_agents else self.tried
            self._selector = Selector(frozenset(task.agents), left_out, frozenset(task.labels.items()))
        return self._selector

    @property
    def place(self) -> tuple[float, int]:
        """Its place among equals: by due time, then by arrival."""
        return self.due, self.arrival

    @property
    def urgency(self) -> tuple[bool, float, int]:
        """Its place among all of its tenant and priority: the first tasks of chains stand before the rest."""
        return bool(self.strand and self.strand.chain.is_large), self.due, self.arrival

    @property
    def is_impatient(self) -> bool:
        """True when it leaves as soon as no agent is left for it."""
        return self.gives_up or bool(self.tried)

    @property
    def is_waiting(self) -> bool:
        """True until it is decided what becomes of it."""
        return not self.seat_future.done()

    def decide(self, end: Lease | Unscheduled) -> None:
        """End its wait, unless that was decided before."""
        if not self.seat_future.done():
            self.seat_future.set_result(end)


def is_plain(task: Task, tried: frozenset[str]) -> bool:
    """True when any capable agent suits a task."""
    return not (tried or task.agents or task.exclude_agents or task.labels)


def suits(seat: Seat, task: Task) -> bool:
    """True when the task may go to this agent, as far as names and labels go."""
    return fitting(task)(seat)


def fitting(task: Task, tried: frozenset[str] = frozenset(), *, is_named: bool = False) -> Callable[[Seat], bool]:
    """Whether a task may go to an agent, as far as names, labels and earlier tries go; cheap for a thousand names.

    Args:
        task: The task.
        tried: Agents that it must not go to.
        is_named: True when only agents are asked about that it names.
    """
    agents: Collection[str] = () if is_named else _as_collection(task.agents)
    excluded, labels = _as_collection(task.exclude_agents), task.labels.items()

    def fits(seat: Seat) -> bool:
        profile = seat.member.profile
        agent_id = profile.agent_id
        if agent_id in tried or agent_id in excluded or (agents and agent_id not in agents):
            return False
        return not labels or labels <= profile.labels.items()

    return fits


def _as_collection(names: tuple[str, ...]) -> Collection[str]:
    """The names of a task, so that a look for one of them is cheap."""
    return names if len(names) <= SCANNED_MAX else _as_set(names)


@functools.lru_cache(maxsize=SETS_KEPT_MAX)
def _as_set(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(names)
