"""References from one task's params to another's result: `{"$result": "fetch", "path": "/image"}`.

The path is a JSON pointer (RFC 6901) into the result; absent or empty it means the whole result.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from aicp.errors import AicpError, Fault

RESULT_KEY = "$result"
PATH_KEY = "path"
NESTING_MAX = 64


class PointsNowhere(AicpError):
    """A reference points at nothing in the result it names."""

    code = "reference_not_found"


class Reference(msgspec.Struct, frozen=True):
    """A place in the result of another task of the same chain.

    Index it to go deeper: `label.output["faces"][0]`.

    Attributes:
        task_id: The local id of the task whose result is meant.
        path: JSON pointer into it; empty for the whole.
    """

    task_id: str
    path: str = ""

    def __getitem__(self, key: str | int) -> "Reference":
        """The same reference, one step deeper."""
        step = str(key).replace("~", "~0").replace("/", "~1")
        return Reference(self.task_id, f"{self.path}/{step}")

    def as_json(self) -> dict[str, str]:
        """The form it has in a chain document."""
        return {RESULT_KEY: self.task_id, PATH_KEY: self.path} if self.path else {RESULT_KEY: self.task_id}


def freeze(params: Any) -> Any:
    """A deep copy of params in which every `Reference` has its JSON form."""
    if isinstance(params, Reference):
        return params.as_json()
    if isinstance(params, Mapping):
        return {key: freeze(value) for key, value in params.items()}
    if isinstance(params, list | tuple):
        return [freeze(value) for value in params]
    return params


def scan(params: Any, place: str) -> Iterator[Reference | Fault]:
    """Every reference in params, and a fault for each that is malformed or nested deeper than 64."""
    open_values: list[tuple[Any, str, int]] = [(params, place, 0)]
    while open_values:
        value, where, depth = open_values.pop()
        if depth > NESTING_MAX:
            yield Fault(where, f"is nested deeper than {NESTING_MAX}")
        elif isinstance(value, dict):
            if RESULT_KEY in value:
                yield _parse(value, where)
                continue
            for key, inner in value.items():
                if isinstance(inner, dict | list):
                    open_values.append((inner, f"{where}/{_escape(key)}", depth + 1))
        elif isinstance(value, list):
            for index, inner in enumerate(value):
                if isinstance(inner, dict | list):
                    open_values.append((inner, f"{where}/{index}", depth + 1))


def substitute(params: Any, result_of: Callable[[str], Any]) -> Any:
    """Params with every reference replaced by what it points at.

    Values without a reference are shared, not copied.

    Args:
        params: As `scan` found them free of faults.
        result_of: Gives the result (or the `on_failure` default) of a local task id.

    Raises:
        PointsNowhere: A path has no such place in its result.
    """
    if isinstance(params, dict):
        if RESULT_KEY in params:
            return look_up(result_of(params[RESULT_KEY]), Reference(params[RESULT_KEY], params.get(PATH_KEY, "")))
        return {key: substitute(v, result_of) if isinstance(v, dict | list) else v for key, v in params.items()}
    if isinstance(params, list):
        return [substitute(value, result_of) for value in params]
    return params


def look_up(result: Any, reference: Reference) -> Any:
    """What a reference points at in a result.

    Raises:
        PointsNowhere: There is no such place.
    """
    value = result
    for step in _steps(reference.path):
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            raise PointsNowhere(f"'{reference.path}' is nowhere in the result of '{reference.task_id}'.")
    return value


def _steps(path: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]


def _parse(value: dict[str, Any], where: str) -> Reference | Fault:
    task_id, path = value[RESULT_KEY], value.get(PATH_KEY, "")
    if not isinstance(task_id, str):
        return Fault(f"{where}/{RESULT_KEY}", "must be the id of a task, a string")
    if not isinstance(path, str) or (path and not path.startswith("/")):
        return Fault(f"{where}/{PATH_KEY}", "must be a JSON pointer: empty, or starting with '/'")
    if unknown := value.keys() - {RESULT_KEY, PATH_KEY}:
        return Fault(where, f"a reference has only '$result' and 'path', not '{min(map(str, unknown))}'")
    return Reference(task_id, path)


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
