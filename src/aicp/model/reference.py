"""References from one task's params to another's result: `{"$result": "fetch", "path": "/image"}`.

The path is a JSON pointer (RFC 6901) into the result; absent or empty it means the whole result.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar

import msgspec

from aicp.errors import AicpError, InvalidTask
from aicp.model.nesting import NESTING_MAX
from aicp.model.text import has_half_characters, kind_of

RESULT_KEY = "$result"
PATH_KEY = "path"
PATH_CHARS_SHOWN = 256

Trail = tuple[Any, ...]
"""The keys and indexes that lead from the params to a value."""

_STRING = frozenset({str})
_PLAIN = frozenset({str, int, bool, type(None)})
_HOLDERS = (dict, list, tuple)
_LONE_TILDE = re.compile(r"~(?![01])")
_INDEX = re.compile(r"0|[1-9][0-9]{0,17}")


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

    def __str__(self) -> str:
        """Refuse to become a part of a text: the text would hold this object's name in place of the result.

        Raises:
            InvalidTask: Always.
        """
        raise InvalidTask(
            f"the output of task '{self.task_id[:64]}' cannot be a part of a text, because it is not known before the "
            "chain runs; give it as a value of its own, such as {'text': task.output}"
        )

    def __format__(self, format_spec: str) -> str:
        """As `str`."""
        return str(self)

    # Python would take __getitem__ for a sequence's and step from 0 for ever.
    __iter__: ClassVar[None] = None

    def __getitem__(self, key: str | int) -> "Reference":
        """The same reference, one step deeper."""
        step = str(key).replace("~", "~0").replace("/", "~1")
        return Reference(self.task_id, f"{self.path}/{step}")

    def as_json(self) -> dict[str, str]:
        """The form it has in a chain document."""
        return {RESULT_KEY: self.task_id, PATH_KEY: self.path} if self.path else {RESULT_KEY: self.task_id}


class ChainTask(msgspec.Struct, frozen=True):
    """A task that was added to a `TaskChain`.

    Attributes:
        id: Its local id.
    """

    id: str

    @property
    def output(self) -> Reference:
        """Its result, for the params of a later task; index it to go deeper."""
        return Reference(self.id)

    def __str__(self) -> str:
        """Refuse to become a part of a text, as its output does.

        Raises:
            InvalidTask: Always.
        """
        return str(self.output)

    def __format__(self, format_spec: str) -> str:
        """As `str`."""
        return str(self)


def freeze(params: Any) -> Any:
    """A deep copy of params in which every `Reference` has its JSON form, and every tuple is a list.

    What lies deeper than 64 is not looked at: the check of the chain refuses it.
    """
    return _frozen(params, 0)


def scan(params: Any) -> Iterator[tuple[Trail, Reference | str]]:
    """Every reference in params, and what is wrong with them, each with the keys that lead there.

    Wrong is a malformed reference, what is nested deeper than 64, and what JSON has no word for. The shallow comes
    first. Linear in the size of the params.
    """
    found: list[tuple[Any, Trail]] = [(params, ())]
    # Grows while it is walked through: first come, first looked into.
    for value, trail in found:
        if len(trail) > NESTING_MAX:
            yield trail, f"is nested deeper than {NESTING_MAX}"
            continue
        if isinstance(value, dict):
            if RESULT_KEY in value:
                yield _parse(value, trail)
                continue
            if not _STRING.issuperset(map(type, value)):
                yield from _key_faults(value, trail)
        for key, inner in _items(value):
            if inner.__class__ in _PLAIN:
                continue
            if isinstance(inner, _HOLDERS):
                found.append((inner, (*trail, key)))
            elif told := _misfit(inner):
                yield (*trail, key), told


def place_of(trail: Trail, place: str) -> str:
    """The JSON pointer of what the keys lead to, under `place`."""
    return place + "".join(f"/{_escape(str(key))}" for key in trail)


def substitute(params: Any, result_of: Callable[[str], Any]) -> Any:
    """Params with every reference replaced by what it points at.

    Objects and arrays of the params are new; what is put in is the result itself, not a copy.

    Args:
        params: As `scan` found them free of faults.
        result_of: Gives the result (or the `on_failure` default) of a local task id.

    Raises:
        PointsNowhere: A path has no such place in its result.
    """
    if isinstance(params, dict):
        if RESULT_KEY in params:
            return look_up(result_of(params[RESULT_KEY]), Reference(params[RESULT_KEY], params.get(PATH_KEY, "")))
        return {key: _filled(value, result_of) for key, value in params.items()}
    if isinstance(params, list | tuple):
        return [_filled(value, result_of) for value in params]
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
        elif isinstance(value, list) and _INDEX.fullmatch(step) and int(step) < len(value):
            value = value[int(step)]
        else:
            message = f"'{reference.path[:PATH_CHARS_SHOWN]}' is nowhere in the result of '{reference.task_id}'."
            raise PointsNowhere(message)
    return value


def _filled(value: Any, result_of: Callable[[str], Any]) -> Any:
    return substitute(value, result_of) if isinstance(value, _HOLDERS) else value


def _frozen(params: Any, depth: int) -> Any:
    if isinstance(params, Reference):
        return params.as_json()
    if depth > NESTING_MAX:
        return params
    if isinstance(params, Mapping):
        return {key: _frozen(value, depth + 1) for key, value in params.items()}
    if isinstance(params, list | tuple):
        return [_frozen(value, depth + 1) for value in params]
    return params


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    return value.items() if isinstance(value, dict) else enumerate(value)


def _key_faults(value: dict[Any, Any], trail: Trail) -> Iterator[tuple[Trail, str]]:
    for key in value:
        if not isinstance(key, str):
            yield (*trail, key), f"has a key that is no string but {type(key).__name__}; put it in quotes"


def _misfit(value: Any) -> str:
    """Why a value is no plain JSON; empty when it is."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"is {value}, which JSON does not have"
    if isinstance(value, str | int):
        return ""
    if isinstance(value, Reference):
        return "is a reference as Python has it; build the chain with TaskChain, or write reference.as_json()"
    if isinstance(value, ChainTask):
        return "is a task; write task.output, or task.output['field'], to refer to its result"
    return f"is {kind_of(value)}, which JSON does not have; write it as a string or a number"


def _steps(path: str) -> list[str]:
    return [step.replace("~1", "/").replace("~0", "~") for step in path.split("/")[1:]]


def _parse(value: dict[Any, Any], trail: Trail) -> tuple[Trail, Reference | str]:
    task_id, path = value[RESULT_KEY], value.get(PATH_KEY, "")
    if not isinstance(task_id, str):
        return (*trail, RESULT_KEY), "must be the id of a task, a string"
    if not isinstance(path, str) or not _is_pointer(path):
        return (*trail, PATH_KEY), "must be a JSON pointer: empty, or starting with '/'; '~' is written '~0'"
    if len(value) > 1 + (PATH_KEY in value):
        unknown = min(str(key) for key in value if key not in (RESULT_KEY, PATH_KEY))
        return trail, f"a reference has only '$result' and 'path', not '{unknown[:80]}'"
    return trail, Reference(task_id, path)


def _is_pointer(path: str) -> bool:
    if has_half_characters(path):
        return False
    return not path or (path[0] == "/" and ("~" not in path or not _LONE_TILDE.search(path)))


def _escape(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
