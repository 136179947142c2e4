"""Whether accepted work will probably end within its deadlines, at the rate at which agents work now."""

import heapq
import math
from collections.abc import Callable, Collection

import msgspec

from aicp.model.chain import DEFAULT_CHAIN_DEADLINE_S
from aicp.model.task import DEFAULT_TASK_DEADLINE_S, Priority, Task
from aicp.model.validation import ChainGraph
from aicp.scheduling.pace import Pace
from aicp.scheduling.slices import Steps

TASKS_A_STEP = 250
_UNKNOWN = Pace(0.0, 0.0, 0.0, 1.0)
_BY_URGENCY = tuple(Priority)

_Kind = tuple[str, Priority]


class Forecast(msgspec.Struct, frozen=True, gc=False):
    """Accepted work that will probably outlast its own deadline.

    Attributes:
        expected_s: How long after the submit its last task would end, seconds, at the present rate.
        warning: The same in a sentence, with what can be done.
    """

    expected_s: float
    warning: str


def forecast(
    graph: ChainGraph, done: Collection[str], pace: Callable[[Task, int], Pace | None]
) -> Steps[Forecast | None]:
    """What a submit must be warned of; None when all of it will probably end in time, or nothing is known.

    A task ends as long after its start as its capability usually takes, and starts when its turn has come and its
    dependencies have ended. What is not known counts as nothing: neither failures, nor work that comes later.

    Costs one estimate for each capability and priority; where their sum is beyond a deadline, also a look at each
    task, in steps.

    Args:
        graph: What was submitted.
        done: Local ids of tasks that need not run.
        pace: How soon so many tasks like this one would be served; None when that is unknown.
    """
    kinds, within_s, patience_s = dict[_Kind, list[Task]](), graph.spec.deadline_s or DEFAULT_CHAIN_DEADLINE_S, math.inf
    for task in graph.spec.tasks:
        if task.id not in done:
            kinds.setdefault((task.capability, task.priority), []).append(task)
            patience_s = min(patience_s, _patience_s(task))
    paces = _paces(kinds, pace)
    if sum(_one_by_one_s(each, len(kinds[kind])) for kind, each in paces.items()) <= min(within_s, patience_s):
        return None
    if len(graph.tasks) > TASKS_A_STEP:
        yield
    course = _Course(graph, done, paces, within_s)
    yield from course.run()
    return course.forecast()


class _Course:
    """The tasks of a chain in the order in which they would start."""

    def __init__(self, graph: ChainGraph, done: Collection[str], paces: dict[_Kind, Pace], within_s: float) -> None:
        self._graph = graph
        self._done = done
        self._paces = paces
        self._within_s = within_s
        self._next_at = {kind: pace.first_s for kind, pace in paces.items()}
        self._ends_s = 0.0
        self._late: list[Task] = []

    def run(self) -> Steps[None]:
        dependencies, dependents = self._graph.dependencies, self._graph.dependents
        awaited = {name: len(names) for name, names in dependencies.items()}
        ready_s = dict.fromkeys(awaited, 0.0)
        numbers = {name: number for number, name in enumerate(awaited)}
        ready = [(0.0, number, name) for name, number in numbers.items() if not awaited[name]]
        if len(ready) > TASKS_A_STEP:
            yield
        for looked_at in range(1, len(awaited) + 1):
            at, _, name = heapq.heappop(ready)
            ends_s = self._end_of(name, at)
            for dependent in dependents[name]:
                ready_s[dependent] = max(ready_s[dependent], ends_s)
                awaited[dependent] -= 1
                if not awaited[dependent]:
                    heapq.heappush(ready, (ready_s[dependent], numbers[dependent], dependent))
            if not looked_at % TASKS_A_STEP:
                yield

    def forecast(self) -> Forecast | None:
        if not self._late:
            return None
        late, total = self._late[0], len(self._graph.tasks) - len(self._done)
        if total == 1:
            patience_s = min(self._within_s, _patience_s(late))
            beyond = f"longer than its deadline of {_told(patience_s)} s"
        else:
            beyond = f"and {len(self._late)} of {total} tasks would not end within their deadline"
        return Forecast(
            round(self._ends_s, 6),
            f"At the present rate this takes about {_told(self._ends_s)} s, {beyond}: raise deadline_s, or add agents "
            f"for '{late.capability}'.",
        )

    def _end_of(self, name: str, ready_s: float) -> float:
        """When a task ends that became ready then, in seconds from the submit; it takes its turn."""
        if name in self._done:
            return 0.0
        task = self._graph.tasks[name]
        kind = task.capability, task.priority
        pace = self._paces[kind]
        # What was idle meanwhile has every slot free.
        turn_s = max(self._next_at[kind], ready_s - pace.each_s * (pace.slots - 1))
        self._next_at[kind] = turn_s + pace.each_s
        ends_s = max(ready_s, turn_s) + pace.task_s
        self._ends_s = max(self._ends_s, ends_s)
        if ends_s - ready_s > _patience_s(task) or ends_s > self._within_s:
            self._late.append(task)
        return ends_s


def _paces(kinds: dict[_Kind, list[Task]], pace: Callable[[Task, int], Pace | None]) -> dict[_Kind, Pace]:
    """The pace of each capability and priority; the less urgent tasks of a capability go behind the others."""
    paces: dict[_Kind, Pace] = {}
    ahead_s: dict[str, float] = {}
    for kind in sorted(kinds, key=_urgency) if len(kinds) > 1 else kinds:
        tasks, (capability, _) = kinds[kind], kind
        found, ahead = pace(tasks[0], len(tasks)) or _UNKNOWN, ahead_s.get(capability, 0.0)
        paces[kind] = msgspec.structs.replace(found, first_s=found.first_s + ahead) if ahead else found
        ahead_s[capability] = ahead + found.each_s * len(tasks)
    return paces


def _urgency(kind: _Kind) -> int:
    return _BY_URGENCY.index(kind[1])


def _one_by_one_s(pace: Pace, count: int) -> float:
    """How long so many tasks take at most."""
    return max(0.0, pace.first_s) + count * (pace.each_s + pace.task_s)


def _told(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 100 else f"{seconds:.3g}"


def _patience_s(task: Task) -> float:
    return task.deadline_s or DEFAULT_TASK_DEADLINE_S
