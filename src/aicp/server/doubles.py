"""Keys that stand twice in a JSON object: decoders keep the last one in silence, and who wrote them meant something."""

import json
import json.scanner
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from aicp.errors import Fault
from aicp.model.long_texts import text_of
from aicp.model.pieces import without_long_texts
from aicp.model.reference import place_of

FAULTS_MAX = 100
Trail = tuple[Any, ...]


class _Doubled(dict[str, Any]):
    """An object with the keys that stood in it twice."""

    twice: tuple[str, ...] = ()


def faults_of_doubles(body: bytes) -> list[Fault]:
    """A fault for each key that an object has twice, with its place; at most 100.

    Args:
        body: JSON that was decoded before: UTF-8, and not nested so deep that this could fail.

    Costs some microseconds for a small body, and about as much again as decoding a large one.
    """
    has_doubles = False

    def to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal has_doubles
        value = dict(pairs)
        if len(value) == len(pairs):
            return value
        has_doubles = True
        return _doubled(value, pairs)

    # Numbers stay text: they do not matter here, and none can be too long.
    document = json.loads(body, object_pairs_hook=to_object, parse_int=str, parse_float=str)
    return list(islice(_faults(document, ()), FAULTS_MAX)) if has_doubles else []


def faults_of_large_doubles(body: bytes) -> list[Fault]:
    """As `faults_of_doubles`, for a body that has doubles and is large: in Python's own steps, for a thread.

    Costs about 2 us a value. The scanner in C keeps the interpreter lock for 30 to 60 ms.
    """
    found = _InSteps(_to_object).decode(text_of(without_long_texts(body)))
    faults = list(islice(_faults(found, ()), FAULTS_MAX))
    return faults or [Fault("", "a long key stands more than once in its object; keep one")]


def has_doubles(piece: bytes) -> bool:
    """True when an object in JSON has a key twice."""
    return b"{" in piece and bool(faults_of_doubles(piece))


class _InSteps(json.JSONDecoder):
    """Python's decoder in Python, which gives the interpreter lock to other threads; numbers stay text."""

    def __init__(self, to_object: Callable[[list[tuple[str, Any]]], Any]) -> None:
        super().__init__(object_pairs_hook=to_object, parse_int=str, parse_float=str)
        self.parse_array = json.decoder.JSONArray  # type: ignore[attr-defined]
        self.parse_object = json.decoder.JSONObject  # type: ignore[attr-defined]
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]


def _to_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    return value if len(value) == len(pairs) else _doubled(value, pairs)


def _doubled(value: dict[str, Any], pairs: list[tuple[str, Any]]) -> _Doubled:
    doubled = _Doubled(value)
    doubled.twice = tuple(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
    return doubled


def _faults(value: Any, trail: Trail) -> Iterator[Fault]:
    if isinstance(value, _Doubled):
        for key in value.twice:
            yield Fault(place_of((*trail, key), ""), "stands more than once in its object; keep one")
    for step, inner in _inside(value):
        yield from _faults(inner, (*trail, step))


def _inside(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)
