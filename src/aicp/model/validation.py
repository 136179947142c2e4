"""Checks a chain whole before anything of it runs, and reports every fault at once with its place."""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import Any

import msgspec

from aicp.errors import Fault, InvalidChain, InvalidTask
from aicp.model.agent import AGENT_ID_PATTERN, AGENT_ID_TOLD, CAPABILITY_CHARS_MAX, CAPABILITY_PATTERN
from aicp.model.chain import ChainSpec, single_chain
from aicp.model.labels import label_faults
from aicp.model.reading import besides, readable_fields, type_fault, type_faults
from aicp.model.reference import RESULT_KEY, Reference, place_of, scan
from aicp.model.run_id import TASK_ID_PATTERN
from aicp.model.task import DEADLINE_S_MAX, OnFailure, Priority, Task
from aicp.model.text import kind_of, why_not_plain

__all__ = [
    "CAPABILITY_REF_CHARS_MAX",
    "EDGES_MAX",
    "FAULTS_MAX",
    "LIST_MAX",
    "NAME_CHARS_MAX",
    "TASKS_MAX",
    "ChainGraph",
    "Draft",
    "check_chain",
    "check_single",
    "check_task",
    "check_tasks",
    "draft_chain",
    "graph_of",
    "is_capability_ref",
    "parse_chain",
    "parse_task",
    "type_fault",
    "with_faults_of_chain",
]

TASKS_MAX = 10_000
TASKS_AT_ONCE = 500
EDGES_MAX = 50_000
NAME_CHARS_MAX = 256
LIST_MAX = 1_000
MAJOR_CHARS_MAX = 6
CAPABILITY_REF_CHARS_MAX = CAPABILITY_CHARS_MAX + 1 + MAJOR_CHARS_MAX
FAULTS_MAX = 1_000
GUESSES_MAX = 8
CHARS_SHOWN_MAX = 80
CYCLES_MAX = 8
CYCLE_SHOWN_MAX = 16
_PRIORITIES = tuple(Priority)


class ChainGraph(msgspec.Struct, frozen=True):
    """A chain that was checked, with its edges both ways.

    Attributes:
        spec: The chain.
        tasks: By local id, in the order they were written.
        dependencies: For each task, whom it waits for.
        dependents: For each task, who waits for it.
    """

    spec: ChainSpec
    tasks: dict[str, Task]
    dependencies: dict[str, tuple[str, ...]]
    dependents: dict[str, tuple[str, ...]]

    @property
    def edges(self) -> list[tuple[str, str]]:
        """Every (task, dependent)."""
        return [(task, dependent) for task, dependents in self.dependents.items() for dependent in dependents]


class Draft(msgspec.Struct, frozen=True):
    """What could be read of a chain document.

    Attributes:
        spec: The chain; of what could not be read, as if it had been left out.
        faults: What that was, at most 1,000; none when everything was read.
    """

    spec: ChainSpec
    faults: list[Fault]


def parse_chain(document: Any) -> ChainSpec:
    """Turn a decoded JSON or YAML document into a chain.

    Raises:
        InvalidChain: Fields are missing, unknown or of the wrong type; with whatever else is wrong with the chain.
    """
    draft = draft_chain(document)
    if draft.faults:
        raise InvalidChain(with_faults_of_chain(draft.faults, draft.spec))
    return draft.spec


def draft_chain(document: Any) -> Draft:
    """As much of a decoded document as can be read as a chain.

    Raises:
        InvalidChain: It is no object, or has too many tasks to look at them.
    """
    if not isinstance(document, dict):
        raise InvalidChain("must be an object with 'tasks'")
    tasks = document.get("tasks")
    if isinstance(tasks, list) and len(tasks) > TASKS_MAX:
        raise InvalidChain([_too_many_tasks(len(tasks))])
    try:
        if not isinstance(tasks, list) or len(tasks) <= TASKS_AT_ONCE:
            return Draft(msgspec.convert(document, ChainSpec), [])
        # In parts: one conversion of ten thousand tasks holds every thread of the process.
        header = msgspec.convert({**document, "tasks": []}, ChainSpec)
        parts = (tasks[at : at + TASKS_AT_ONCE] for at in range(0, len(tasks), TASKS_AT_ONCE))
        read = tuple(task for part in parts for task in msgspec.convert(part, tuple[Task, ...]))
        return Draft(msgspec.structs.replace(header, tasks=read), [])
    except msgspec.ValidationError:
        return _draft_of_bad(document)


def parse_task(document: Any) -> Task:
    """Turn a decoded document into a task that stands on its own.

    Raises:
        InvalidTask: Fields are missing, unknown or of the wrong type; with whatever else is wrong with the task.
    """
    try:
        return msgspec.convert(document, Task)
    except msgspec.ValidationError:
        faults = list(islice(type_faults(document, Task, ""), FAULTS_MAX))
        raise InvalidTask(_at_most(besides(faults, _faults_of_single(_task_of_bad(document))))) from None


def with_faults_of_chain(told: Iterable[Fault], spec: ChainSpec) -> list[Fault]:
    """Faults that were found, and what else is wrong with a chain, of which those parts are left out; at most 1,000."""
    found = list(islice(told, FAULTS_MAX))
    return found if len(found) == FAULTS_MAX else _at_most(besides(found, _examined(spec)[1]))


def check_chain(spec: ChainSpec) -> ChainGraph:
    """Check a chain whole: ids, edges, references, cycles, limits.

    Linear in tasks, edges and the size of the params: 10,000 small tasks take about 50 ms.

    Raises:
        InvalidChain: With every fault and its place, at most 1,000 of them.
    """
    if not isinstance(spec, ChainSpec):
        raise InvalidChain(f"must be a TaskChain or ChainSpec, not {kind_of(spec)}")
    check_tasks(spec.tasks)
    if len(spec.tasks) > TASKS_MAX:
        raise InvalidChain([_too_many_tasks(len(spec.tasks))])
    graph, faults = _examined(spec)
    if faults:
        raise InvalidChain(faults)
    return graph


def graph_of(spec: ChainSpec) -> ChainGraph:
    """The graph of a chain that was checked before; several times as fast as checking it again."""
    return graph_with(spec, dependencies_of(spec.tasks))


def dependencies_of(tasks: Iterable[Task]) -> dict[str, tuple[str, ...]]:
    """Whom each of some tasks waits for; of tasks that were checked before."""
    return {task.id: tuple(dict.fromkeys(_awaited(task))) for task in tasks}


def graph_with(spec: ChainSpec, dependencies: dict[str, tuple[str, ...]]) -> ChainGraph:
    """The graph of a chain that was checked before, whose dependencies are known."""
    return ChainGraph(spec, {task.id: task for task in spec.tasks}, dependencies, _turned_around(dependencies))


def check_task(task: Task) -> None:
    """Check a task that stands on its own; also one that was made in Python, where nothing checks types.

    Raises:
        InvalidTask: With every fault and its place, at most 1,000 of them.
    """
    if not isinstance(task, Task):
        raise InvalidTask(f"must be a Task, not {kind_of(task)}: write Task('image.label', {{…}})")
    if faults := list(islice(_faults_of_single(task), FAULTS_MAX)):
        raise InvalidTask(faults)


def check_single(task: Task) -> ChainGraph:
    """Check a task that stands on its own, and give the chain of one that it is.

    Raises:
        InvalidTask: As `check_task` does.
    """
    check_task(task)
    return graph_of(single_chain(task))


def check_tasks(tasks: Sequence[Task]) -> None:
    """Check that these are tasks.

    Raises:
        InvalidChain: With the place of each that is not.
    """
    if isinstance(tasks, Task | str | bytes) or not isinstance(tasks, Sequence):
        raise InvalidChain(f"must be a list of Task, not {kind_of(tasks)}")
    faults = [
        Fault(f"/tasks/{index}", f"must be a Task, not {kind_of(task)}: write Task('image.label', {{…}})")
        for index, task in enumerate(tasks)
        if not isinstance(task, Task)
    ]
    if faults:
        raise InvalidChain(faults[:FAULTS_MAX])


def _draft_of_bad(document: dict[Any, Any]) -> Draft:
    header = {**document, "tasks": []}
    faults = list(islice(type_faults(header, ChainSpec, ""), FAULTS_MAX))
    sound = readable_fields(header, ChainSpec)
    raw_tasks = document.get("tasks")
    if not isinstance(raw_tasks, list):
        no_list = Fault("/tasks", "must be a list of tasks")
        return Draft(msgspec.convert(sound, ChainSpec), [*faults[: FAULTS_MAX - 1], no_list])
    tasks = []
    for index, raw in enumerate(raw_tasks):
        if len(faults) >= FAULTS_MAX:
            # Whatever else is wrong would not be reported.
            break
        faults += islice(type_faults(raw, Task, f"/tasks/{index}"), FAULTS_MAX - len(faults))
        tasks.append(_task_of_bad(raw))
    return Draft(msgspec.convert({**sound, "tasks": tasks}, ChainSpec), faults)


def _task_of_bad(raw: Any) -> Task:
    """A task without those of its fields that cannot be read."""
    return msgspec.convert({"capability": "", **readable_fields(raw, Task)}, Task)


def _examined(spec: ChainSpec) -> tuple[ChainGraph, list[Fault]]:
    """The graph of a chain, as far as it is sound, and what is wrong with it; at most 1,000 faults, and circles."""
    names = _Names(spec.tasks)
    dependencies: dict[str, tuple[str, ...]] = {}
    faults = list(islice(_faults(spec, names, dependencies), FAULTS_MAX))
    dependents = _turned_around(dependencies)
    if len(dependencies) == len(names.tasks):
        # Else too much was wrong to look at every task, and who is stuck cannot be told.
        faults.extend(_cycle_faults(dependencies, dependents))
    return ChainGraph(spec, names.tasks, dependencies, dependents), faults


def _at_most(faults: list[Fault]) -> list[Fault]:
    return faults[:FAULTS_MAX]


class _Names:
    """The tasks of a chain by local id, and a few guesses at what a wrong id was meant to be."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self.tasks: dict[str, Task] = {}
        for task in tasks:
            self.tasks.setdefault(task.id, task)
        self._guesses_left = GUESSES_MAX

    def guess(self, name: str) -> str:
        """The end of a sentence; empty when nothing is close, or after some guesses, which are slow."""
        self._guesses_left -= 1
        if self._guesses_left < 0:
            return ""
        close = difflib.get_close_matches(name[:CHARS_SHOWN_MAX], list(islice(self.tasks, LIST_MAX)), n=1)
        return f"; did you mean '{close[0]}'?" if close else ""


def _faults(spec: ChainSpec, names: _Names, dependencies: dict[str, tuple[str, ...]]) -> Iterator[Fault]:
    """What is wrong with a chain, and on the way who waits for whom."""
    yield from _faults_of_chain(spec)
    edges = 0
    for index, task in enumerate(spec.tasks):
        place = f"/tasks/{index}"
        if not _has_right_types(task):
            yield from _faults_of_types(task, place)
            continue
        if task.id in dependencies:
            yield Fault(f"{place}/id", f"{_shown(task.id)} is the id of an earlier task")
        elif not TASK_ID_PATTERN.fullmatch(task.id):
            yield Fault(f"{place}/id", f"{_shown(task.id)} must be 1 to 64 of A-Z a-z 0-9 _ -")
        yield from _faults_of_task(task, place)
        awaited: dict[str, None] = {}
        yield from _faults_of_edges(task, place, names, awaited)
        edges += len(awaited)
        if edges > EDGES_MAX:
            yield Fault("/tasks", f"wait for one another over more than {EDGES_MAX} edges")
            return
        dependencies.setdefault(task.id, tuple(awaited))


def _faults_of_chain(spec: ChainSpec) -> Iterator[Fault]:
    header: dict[str, Any] = {field: getattr(spec, field) for field in spec.__struct_fields__} | {"tasks": []}
    if faults := list(type_faults(header, ChainSpec, "")):
        yield from faults
        return
    if not spec.tasks:
        yield Fault("/tasks", "is empty; a chain has at least one task")
    if len(spec.name) > NAME_CHARS_MAX:
        yield Fault("/name", f"is longer than {NAME_CHARS_MAX} characters")
    elif told := why_not_plain(spec.name):
        yield Fault("/name", told)
    if not _is_span(spec.deadline_s):
        yield _span_fault("/deadline_s")


def _faults_of_single(task: Task) -> Iterator[Fault]:
    if not _has_right_types(task):
        yield from _faults_of_types(task, "")
        return
    yield from _faults_of_task(task, "")
    for field, value in (("depends_on", task.depends_on), ("on_failure", task.on_failure), ("id", task.id)):
        if value:
            yield Fault(f"/{field}", "has a meaning only inside a chain")
    for trail, found in scan(task.params):
        told = found if isinstance(found, str) else "refers to a result, which has a meaning only inside a chain"
        yield Fault(place_of(trail, "/params"), told)


def _has_right_types(task: Task) -> bool:
    """True when each field holds what it is declared to hold: a Struct made in Python checks nothing.

    Costs half a microsecond, so that tasks read from JSON, where the types are right, can be asked too.
    """
    return (
        isinstance(task.params, dict)
        and isinstance(task.capability, str)
        and isinstance(task.id, str)
        and (task.timeout_s is None or _is_number(task.timeout_s))
        and (task.deadline_s is None or _is_number(task.deadline_s))
        and isinstance(task.idempotent, bool)
        and (task.on_failure is None or isinstance(task.on_failure, OnFailure))
        and task.priority in _PRIORITIES
        and not ((task.labels or task.agents or task.exclude_agents or task.depends_on) and _has_wrong_names(task))
    )


def _has_wrong_names(task: Task) -> bool:
    lists = (task.agents, task.exclude_agents, task.depends_on)
    if not isinstance(task.labels, dict) or not all(isinstance(names, tuple | list) for names in lists):
        return True
    words = chain.from_iterable((*lists, task.labels, task.labels.values()))
    return not all(isinstance(word, str) for word in words)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _faults_of_types(task: Task, place: str) -> Iterator[Fault]:
    """What is wrong with a task of wrong types, as for one that came in JSON."""
    as_json = {field: getattr(task, field) for field in task.__struct_fields__}
    faults = list(type_faults(as_json, Task, place))
    yield from faults or [Fault(f"{place}/on_failure", "must be an OnFailure, like OnFailure(continue_with=None)")]


def _faults_of_task(task: Task, place: str) -> Iterator[Fault]:
    if not is_capability_ref(task.capability):
        told = "must be a dotted name like image.label or image.label@2"
        yield Fault(f"{place}/capability", f"{_shown(task.capability)} {told}")
    if not _is_span(task.timeout_s):
        yield _span_fault(f"{place}/timeout_s")
    if not _is_span(task.deadline_s):
        yield _span_fault(f"{place}/deadline_s")
    if task.labels or task.agents or task.exclude_agents:
        yield from label_faults(task.labels, f"{place}/labels")
        yield from _faults_of_agents(task.agents, f"{place}/agents")
        yield from _faults_of_agents(task.exclude_agents, f"{place}/exclude_agents")


def _faults_of_agents(agents: Sequence[str], place: str) -> Iterator[Fault]:
    if len(agents) > LIST_MAX:
        yield Fault(place, f"has more than {LIST_MAX} entries")
        return
    for index, agent_id in enumerate(agents):
        if not AGENT_ID_PATTERN.fullmatch(agent_id):
            yield Fault(f"{place}/{index}", f"{_shown(agent_id)} can be no agent: an id is {AGENT_ID_TOLD}")


def _faults_of_edges(task: Task, place: str, names: _Names, awaited: dict[str, None]) -> Iterator[Fault]:
    """Fill in whom a task waits for, and tell what cannot be waited for."""
    for index, name in enumerate(task.depends_on):
        if name in names.tasks and name != task.id:
            awaited[name] = None
        else:
            yield Fault(f"{place}/depends_on/{index}", _why_not(name, task, names))
    for trail, found in scan(task.params):
        if isinstance(found, str):
            yield Fault(place_of(trail, f"{place}/params"), found)
        elif found.task_id in names.tasks and found.task_id != task.id:
            awaited[found.task_id] = None
        else:
            yield Fault(place_of((*trail, RESULT_KEY), f"{place}/params"), _why_not(found.task_id, task, names))


def _awaited(task: Task) -> Iterator[str]:
    yield from task.depends_on
    for _, found in scan(task.params):
        if isinstance(found, Reference):
            yield found.task_id


def _why_not(name: str, task: Task, names: _Names) -> str:
    if name == task.id:
        return f"{_shown(name)} waits for itself"
    return f"there is no task {_shown(name)}{names.guess(name)}"


def is_capability_ref(text: str) -> bool:
    """True for `name` and `name@major`."""
    return len(text) <= CAPABILITY_REF_CHARS_MAX and _is_short_capability_ref(text)


@lru_cache(maxsize=1_024)
def _is_short_capability_ref(text: str) -> bool:
    """Cached: a chain names few capabilities many times."""
    name, at, major = text.partition("@")
    sound_major = not at or (major.isascii() and major.isdecimal() and len(major) <= MAJOR_CHARS_MAX)
    return sound_major and len(name) <= CAPABILITY_CHARS_MAX and CAPABILITY_PATTERN.fullmatch(name) is not None


def _shown(text: str) -> str:
    """What somebody wrote, in quotes and fit to be printed."""
    return repr(text[:CHARS_SHOWN_MAX])


def _is_span(seconds: float | None) -> bool:
    return seconds is None or 0 < seconds <= DEADLINE_S_MAX


def _span_fault(place: str) -> Fault:
    return Fault(place, f"must be more than 0 and at most {DEADLINE_S_MAX:.0f} seconds")


def _too_many_tasks(count: int) -> Fault:
    return Fault("/tasks", f"has {count} tasks; at most {TASKS_MAX} fit in a chain")


def _turned_around(dependencies: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    dependents: dict[str, list[str]] = {}
    for task, awaited in dependencies.items():
        for name in awaited:
            dependents.setdefault(name, []).append(task)
    return {task: tuple(dependents.get(task, ())) for task in dependencies}


def _is_written_in_order(dependencies: Mapping[str, Sequence[str]]) -> bool:
    """True when everybody comes after those they wait for, as people write chains: then nobody waits in a circle."""
    earlier: set[str] = set()
    for task, awaited in dependencies.items():
        if not earlier.issuperset(awaited):
            return False
        earlier.add(task)
    return True


def _cycle_faults(
    dependencies: Mapping[str, Sequence[str]], dependents: Mapping[str, Sequence[str]]
) -> Iterator[Fault]:
    """Take away whoever waits for nobody until none is left; what stays waits in a circle (Kahn)."""
    if _is_written_in_order(dependencies):
        return
    waiting = {task: len(awaited) for task, awaited in dependencies.items()}
    free = [task for task, count in waiting.items() if not count]
    for _ in range(CYCLES_MAX):
        _take_away(free, waiting, dependents)
        if not waiting:
            return
        circle = _walk_back(waiting, dependencies)
        yield Fault("/tasks", f"wait for one another in a circle: {_drawn(circle)}")
        # Opened here, it hides no other circle.
        free = [circle[0]]


def _take_away(free: list[str], waiting: dict[str, int], dependents: Mapping[str, Sequence[str]]) -> None:
    while free:
        task = free.pop()
        del waiting[task]
        for dependent in dependents[task]:
            if dependent in waiting:
                waiting[dependent] -= 1
                if not waiting[dependent]:
                    free.append(dependent)


def _walk_back(stuck: Mapping[str, int], dependencies: Mapping[str, Sequence[str]]) -> list[str]:
    """One circle among those who are stuck, in the order in which they would have to run."""
    path: dict[str, None] = {}
    task = next(iter(stuck))
    while task not in path:
        path[task] = None
        task = next(name for name in dependencies[task] if name in stuck)
    walked = list(path)
    circle = walked[walked.index(task) :]
    return [task, *reversed(circle)]


def _drawn(circle: Sequence[str]) -> str:
    if len(circle) <= CYCLE_SHOWN_MAX:
        return " -> ".join(circle)
    half = CYCLE_SHOWN_MAX // 2
    between = f"({len(circle) - 2 * half} more)"
    return " -> ".join([*circle[:half], between, *circle[-half:]])
