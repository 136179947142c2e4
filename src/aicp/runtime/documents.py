"""Reads a JSON, YAML or TOML file into JSON values, strictly, and remembers on which line each value began.

Strict means: at most 8 MiB, nested at most 64 deep, no key twice in an object, no value that JSON has not, and in YAML
no aliases and no tags that make other objects. YAML is read as version 1.2 has it: dates, yes, no and on are text.
"""

import json
import math
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import yaml

from aicp.errors import SettingsError
from aicp.model.nesting import NESTING_MAX
from aicp.model.text import INT_DIGITS_MAX, has_half_characters

FILE_BYTES_MAX = 8 * 1024 * 1024
SUFFIXES = (".json", ".yaml", ".yml", ".toml")


class Document(msgspec.Struct, frozen=True):
    """A file's content.

    Attributes:
        path: The file.
        value: JSON value.
        text: As it was read.
    """

    path: Path
    value: Any
    text: str

    def lines(self) -> dict[str, int]:
        """The line, from 1, on which each value began, by JSON pointer; empty where that cannot be told: in TOML.

        Reads the text again, so ask once, when there are faults.
        """
        if self.path.suffix.lower() != ".toml":
            with suppress(_Unusable, yaml.YAMLError):
                return _YamlReader(self.text, self.path).read().lines
        return {}


def read_document(path: Path) -> Document:
    """Read a file; its suffix says what it is.

    Raises:
        SettingsError: It cannot be read or is not what its suffix says; one sentence with the line where that is known.
    """
    text = _read_text(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise SettingsError(f"{path} must end in one of {', '.join(SUFFIXES)}, so that it is known what it is.")
    try:
        if suffix == ".json":
            value = _read_json(text, path)
        elif suffix == ".toml":
            value = _read_toml(text, path)
        else:
            value = _read_yaml(text, path)
    except _Unusable as error:
        raise SettingsError(str(error)) from None
    return Document(path, value, text)


class _Unusable(ValueError):
    """Says what is wrong with the text, where, and what to do."""


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except (OSError, ValueError) as error:
        told = getattr(error, "strerror", None) or str(error)
        raise SettingsError(f"{path} cannot be read: {told.lower()}.") from error
    if len(content) > FILE_BYTES_MAX:
        raise SettingsError(f"{path} is larger than {FILE_BYTES_MAX >> 20} MiB, which is the most that is read.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path} is not UTF-8 text (byte {error.start}).") from error


def _read_json(text: str, path: Path) -> Any:
    try:
        value = json.loads(text, object_pairs_hook=_object_of, parse_constant=_refuse_constant)
    except RecursionError:
        raise _Unusable(_too_deep(path)) from None
    except json.JSONDecodeError as error:
        raise _Unusable(f"{path} is not JSON: {_lowered(error.msg)} (line {error.lineno}).") from None
    except ValueError as error:
        raise _Unusable(f"{path} cannot be used: {error}.") from None
    return _checked(value, path)


def _read_toml(text: str, path: Path) -> Any:
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise _Unusable(_too_deep(path)) from None
    except ValueError as error:
        raise _Unusable(f"{path} is not TOML: {_lowered(str(error))}.") from None
    return _checked(value, path)


def _read_yaml(text: str, path: Path) -> Any:
    try:
        return _YamlReader(text, path).read().value
    except yaml.YAMLError as error:
        told = _told(error)
        if _DEPTH in told:
            raise _Unusable(f"{path} cannot be used: {told.replace(_DEPTH, _DEEPER)}.") from None
        raise _Unusable(f"{path} is not YAML: {told}.") from None


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key '{twice[:80]}' stands twice in one object")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _checked(value: Any, path: Path) -> Any:
    level = [value]
    for _ in range(NESTING_MAX):
        level = [inner for outer in level for inner in _inside(outer, path)]
    if any(isinstance(deepest, dict | list) for deepest in level):
        raise _Unusable(_too_deep(path))
    return value


def _inside(value: Any, path: Path) -> Iterable[Any]:
    if isinstance(value, dict):
        return (*value, *value.values())
    if isinstance(value, list):
        return value
    if told := _misfit(value):
        raise _Unusable(f"{path} cannot be used: {told}.")
    return ()


def _misfit(value: Any) -> str:
    """Why a value that is neither object nor list is not one of JSON; empty when it is."""
    if isinstance(value, str):
        return f"{value[:80]!a} holds half a character" if has_half_characters(value) else ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"{value} is no JSON number"
    if isinstance(value, int):
        return "" if -_INT_END < value < _INT_END else f"it holds a number of more than {INT_DIGITS_MAX:,} digits"
    return "" if value is None else f"{value} has no form in JSON; write it in quotes"


class _Frame:
    """An object or list that is being read."""

    def __init__(self, pointer: str, value: dict[str, Any] | list[Any]) -> None:
        self.pointer = pointer
        self.value = value
        self.key: str | None = None

    def is_awaiting_key(self) -> bool:
        return isinstance(self.value, dict) and self.key is None

    def place(self) -> str:
        """The pointer to the value that comes next."""
        step = self.key if isinstance(self.value, dict) else str(len(self.value))
        return f"{self.pointer}/{(step or '').replace('~', '~0').replace('/', '~1')}"

    def put(self, value: Any) -> None:
        if isinstance(self.value, list):
            self.value.append(value)
        else:
            self.value[self.key or ""] = value
            self.key = None


class _YamlReader:
    """Builds a value from YAML's events: nothing is shared, nothing recurses, every value has its line."""

    def __init__(self, text: str, path: Path) -> None:
        self._text = text
        self._path = path
        self._open: list[_Frame] = []
        self.value: Any = None
        self.lines: dict[str, int] = {"": 1}

    def read(self) -> "_YamlReader":
        documents = 0
        for event in yaml.parse(self._text, Loader=_LOADER):
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._refuse(event, "a second document begins; one file holds one")
            elif isinstance(event, yaml.NodeEvent):
                self._take(event)
            elif isinstance(event, yaml.CollectionEndEvent):
                self._open.pop()
        return self

    def _take(self, event: yaml.NodeEvent) -> None:
        frame = self._open[-1] if self._open else None
        if isinstance(event, yaml.AliasEvent):
            self._refuse(event, "an alias is not taken: write the value out, or put text that begins with * in quotes")
        elif frame is not None and frame.is_awaiting_key():
            frame.key = self._key(event, frame)
        elif isinstance(event, yaml.ScalarEvent):
            self._put(event, self._scalar(event))
        elif isinstance(event, yaml.CollectionStartEvent):
            self._begin(event)

    def _key(self, event: yaml.NodeEvent, frame: _Frame) -> str:
        key = self._scalar(event) if isinstance(event, yaml.ScalarEvent) else None
        if not isinstance(key, str):
            self._refuse(event, "a key must be text; put it in quotes")
        if key in frame.value:
            self._refuse(event, f"the key '{key[:80]}' stands twice in one object")
        return key

    def _begin(self, event: yaml.CollectionStartEvent) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in {None, "!", _TAG + ("map" if is_mapping else "seq")}:
            self._refuse(event, _NO_TAGS)
        if len(self._open) >= NESTING_MAX:
            self._refuse(event, _DEEPER)
        value: dict[str, Any] | list[Any] = {} if is_mapping else []
        self._open.append(_Frame(self._put(event, value), value))

    def _put(self, event: yaml.NodeEvent, value: Any) -> str:
        pointer = ""
        if self._open:
            pointer = self._open[-1].place()
            self._open[-1].put(value)
        else:
            self.value = value
        self.lines[pointer] = _line(event)
        return pointer

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        kind = _kind_of(event)
        if kind not in _READERS:
            self._refuse(event, _NO_TAGS)
        try:
            value = _READERS[kind](event.value)
        except (ValueError, KeyError):
            self._refuse(event, f"'{event.value[:80]}' is no {kind}; put text in quotes")
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(event, f"{event.value} is no JSON number")
        if told := _misfit(value):
            self._refuse(event, told)
        return value

    def _refuse(self, event: yaml.Event, told: str) -> NoReturn:
        raise _Unusable(f"{self._path} cannot be used: {told} (line {_line(event)}).")


_TAG = "tag:yaml.org,2002:"
_INT_END = 10**INT_DIGITS_MAX
# Neither is repeated: a secret that begins with * or ! looks like one.
_DEEPER = f"it is nested deeper than {NESTING_MAX}"
# What the parser says of it where it sees it first; older versions of PyYAML leave it to the reader.
_DEPTH = "exceeded maximum nesting depth"
_NO_TAGS = "a tag is not taken: put text that begins with ! in quotes"
# The same loader in C, where libyaml is there: some fifty times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# What text without quotes means: the core schema of YAML 1.2, so that yes, no, on and 1:30 stay text.
_PLAIN = (
    ("null", re.compile(r"null|Null|NULL|~|")),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE")),
    ("int", re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")),
    ("float", re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")),
    ("float", re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")),
)
_BASES = {"0o": 8, "0x": 16}
_READERS: dict[str, Callable[[str], Any]] = {
    "null": lambda _: None,
    "bool": lambda text: {"true": True, "false": False}[text.lower()],
    "int": lambda text: int(text, _BASES.get(text[:2], 10)),
    "float": lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    "str": str,
}


def _kind_of(event: yaml.ScalarEvent) -> str:
    if event.tag is not None and event.tag != "!":
        return str(event.tag).removeprefix(_TAG)
    if not event.implicit[0]:
        return "str"
    return next((kind for kind, pattern in _PLAIN if pattern.fullmatch(event.value)), "str")


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark is not None else 1


def _too_deep(path: Path) -> str:
    return f"{path} cannot be used: {_DEEPER}."


def _told(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    told = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
    return f"{told} (line {mark.line + 1})" if mark is not None else str(told)


def _lowered(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
