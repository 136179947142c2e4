"""Keys that stand twice in a JSON object: decoders keep the last one in silence, and who wrote them meant something."""

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

from aicp.errors import Fault
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
        doubled = _Doubled(value)
        doubled.twice = tuple(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        return doubled

    # Numbers stay text: they do not matter here, and none can be too long.
    document = json.loads(body, object_pairs_hook=to_object, parse_int=str, parse_float=str)
    return list(islice(_faults(document, ()), FAULTS_MAX)) if has_doubles else []


def has_doubles(piece: bytes) -> bool:
    """True when an object in JSON has a key twice."""
    return b"{" in piece and bool(faults_of_doubles(piece))


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
