"""Checks a chain whole before anything of it runs, and reports every fault at once with its place."""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from aicp.errors import Fault, InvalidChain, InvalidTask
from aicp.model.agent import CAPABILITY_CHARS_MAX, CAPABILITY_PATTERN
from aicp.model.chain import ChainSpec
from aicp.model.reference import Reference, scan
from aicp.model.task import DEADLINE_S_MAX, TASK_ID_PATTERN, Task

TASKS_MAX = 10_000
EDGES_MAX = 50_000
NAME_CHARS_MAX = 256
LIST_MAX = 1_000
CHAIN_FIELDS = frozenset({"tasks", "name", "deadline_s", "failure_policy"})


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


def parse_chain(document: Any) -> ChainSpec:
    """Turn a decoded JSON or YAML document into a chain.

    Raises:
        InvalidChain: Fields are missing, unknown or of the wrong type; every such task is told at once.
    """
    if not isinstance(document, dict):
        raise InvalidChain("must be an object with 'tasks'")
    faults = [Fault(f"/{key}", "is no field of a chain") for key in document if key not in CHAIN_FIELDS]
    raw_tasks = document.get("tasks")
    if not isinstance(raw_tasks, list):
        raise InvalidChain([*faults, Fault("/tasks", "must be a list of tasks")])
    if len(raw_tasks) > TASKS_MAX:
        raise InvalidChain([Fault("/tasks", f"has {len(raw_tasks)} tasks; at most {TASKS_MAX} fit in a chain")])
    tasks: list[Task] = []
    for index, raw in enumerate(raw_tasks):
        try:
            tasks.append(msgspec.convert(raw, Task))
        except msgspec.ValidationError as error:
            faults.append(type_fault(error, f"/tasks/{index}"))
    rest = {key: value for key, value in document.items() if key in CHAIN_FIELDS and key != "tasks"}
    try:
        header = msgspec.convert({**rest, "tasks": []}, ChainSpec)
    except msgspec.ValidationError as error:
        faults.append(type_fault(error, ""))
    if faults:
        raise InvalidChain(faults)
    return ChainSpec(tuple(tasks), header.name, header.deadline_s, header.failure_policy)


def check_chain(spec: ChainSpec) -> ChainGraph:
    """Check a chain whole: ids, edges, references, cycles, limits.

    Linear in tasks, edges and the size of the params.

    Raises:
        InvalidChain: With every fault and its place.
    """
    faults = list(_faults_of_chain(spec))
    tasks: dict[str, Task] = {}
    for index, task in enumerate(spec.tasks):
        if task.id in tasks:
            faults.append(Fault(f"/tasks/{index}/id", f"'{task.id}' is the id of an earlier task"))
        tasks.setdefault(task.id, task)
    dependencies: dict[str, tuple[str, ...]] = {}
    for index, task in enumerate(spec.tasks):
        faults.extend(_faults_of_task(task, f"/tasks/{index}", in_chain=True))
        awaited, unknown = _dependencies(task, f"/tasks/{index}", tasks)
        faults.extend(unknown)
        dependencies.setdefault(task.id, awaited)
    if sum(map(len, dependencies.values())) > EDGES_MAX:
        faults.append(Fault("/tasks", f"wait for one another over more than {EDGES_MAX} edges"))
    dependents = _turned_around(dependencies)
    if cycle := _find_cycle(dependencies, dependents):
        faults.append(Fault("/tasks", f"wait for one another in a circle: {' -> '.join(cycle)}"))
    if faults:
        raise InvalidChain(faults)
    return ChainGraph(spec, tasks, dependencies, dependents)


def check_task(task: Task) -> None:
    """Check a task that stands on its own.

    Raises:
        InvalidTask: With every fault and its place.
    """
    faults = list(_faults_of_task(task, "", in_chain=False))
    for field, value in (("depends_on", task.depends_on), ("on_failure", task.on_failure), ("id", task.id)):
        if value:
            faults.append(Fault(f"/{field}", "has a meaning only inside a chain"))
    if faults:
        raise InvalidTask(faults)


def type_fault(error: msgspec.ValidationError, place: str) -> Fault:
    """What msgspec says of a wrong type, with its place as a JSON pointer under `place`."""
    message, _, path = str(error).partition(" - at `")
    steps = path.rstrip("`").removeprefix("$").replace("[...]", "/*").replace("[", ".").replace("]", "")
    return Fault(place + steps.replace(".", "/"), message[0].lower() + message[1:])


def _faults_of_chain(spec: ChainSpec) -> Iterator[Fault]:
    if not spec.tasks:
        yield Fault("/tasks", "is empty; a chain has at least one task")
    if len(spec.tasks) > TASKS_MAX:
        yield Fault("/tasks", f"has {len(spec.tasks)} tasks; at most {TASKS_MAX} fit in a chain")
    if len(spec.name) > NAME_CHARS_MAX:
        yield Fault("/name", f"is longer than {NAME_CHARS_MAX} characters")
    yield from _seconds_faults("/deadline_s", spec.deadline_s)


def _faults_of_task(task: Task, place: str, *, in_chain: bool) -> Iterator[Fault]:
    if in_chain and not TASK_ID_PATTERN.fullmatch(task.id):
        yield Fault(f"{place}/id", f"'{task.id[:80]}' must be 1 to 64 of A-Z a-z 0-9 _ -")
    if not is_capability_ref(task.capability):
        yield Fault(
            f"{place}/capability", f"'{task.capability[:80]}' must be a dotted name like image.label or image.label@2"
        )
    yield from _seconds_faults(f"{place}/timeout_s", task.timeout_s)
    yield from _seconds_faults(f"{place}/deadline_s", task.deadline_s)
    for field in ("labels", "agents", "exclude_agents"):
        if len(getattr(task, field)) > LIST_MAX:
            yield Fault(f"{place}/{field}", f"has more than {LIST_MAX} entries")


def is_capability_ref(text: str) -> bool:
    """True for `name` and `name@major`."""
    name, at, major = text.partition("@")
    sound_major = not at or (major.isascii() and major.isdecimal() and len(major) < 7)
    return sound_major and len(name) <= CAPABILITY_CHARS_MAX and CAPABILITY_PATTERN.fullmatch(name) is not None


def _seconds_faults(place: str, seconds: float | None) -> Iterator[Fault]:
    if seconds is not None and not (math.isfinite(seconds) and 0 < seconds <= DEADLINE_S_MAX):
        yield Fault(place, f"must be more than 0 and at most {DEADLINE_S_MAX:.0f} seconds")


def _dependencies(task: Task, place: str, tasks: Mapping[str, Task]) -> tuple[tuple[str, ...], list[Fault]]:
    awaited: dict[str, None] = {}
    faults: list[Fault] = []
    for index, name in enumerate(task.depends_on):
        _await(name, task, f"{place}/depends_on/{index}", tasks, awaited, faults)
    for found in scan(task.params, f"{place}/params"):
        if isinstance(found, Reference):
            _await(found.task_id, task, f"{place}/params", tasks, awaited, faults)
        else:
            faults.append(found)
    return tuple(awaited), faults


def _await(
    name: str, task: Task, place: str, tasks: Mapping[str, Task], awaited: dict[str, None], faults: list[Fault]
) -> None:
    if name == task.id:
        faults.append(Fault(place, f"'{name}' waits for itself"))
    elif name not in tasks:
        faults.append(Fault(place, f"there is no task '{name[:80]}'{_guess(name, tasks)}"))
    else:
        awaited[name] = None


def _guess(name: str, tasks: Mapping[str, Task]) -> str:
    close = difflib.get_close_matches(name[:80], list(tasks)[:LIST_MAX], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _turned_around(dependencies: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    dependents: dict[str, list[str]] = {task: [] for task in dependencies}
    for task, awaited in dependencies.items():
        for name in awaited:
            dependents[name].append(task)
    return {task: tuple(names) for task, names in dependents.items()}


def _find_cycle(dependencies: Mapping[str, Sequence[str]], dependents: Mapping[str, Sequence[str]]) -> list[str]:
    """Take away whoever waits for nobody until none is left; what stays waits in a circle (Kahn)."""
    waiting = {task: len(awaited) for task, awaited in dependencies.items()}
    free = [task for task, count in waiting.items() if count == 0]
    while free:
        task = free.pop()
        del waiting[task]
        for dependent in dependents[task]:
            waiting[dependent] -= 1
            if waiting[dependent] == 0:
                free.append(dependent)
    return _walk_back(waiting, dependencies) if waiting else []


def _walk_back(stuck: Mapping[str, int], dependencies: Mapping[str, Sequence[str]]) -> list[str]:
    path: dict[str, None] = {}
    task = next(iter(stuck))
    while task not in path:
        path[task] = None
        task = next(name for name in dependencies[task] if name in stuck)
    walked = list(path)
    circle = walked[walked.index(task) :]
    return [task, *reversed(circle)]
