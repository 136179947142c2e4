"""Reads a decoded document as a value, or says of all that is wrong with its form where it is.

A good document costs one conversion. A bad one is taken apart, object by object and entry by entry, down to each value
that is of the wrong type: the conversion itself stops at the first.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from functools import lru_cache
from itertools import islice
from types import UnionType
from typing import Any, get_args, get_origin

import msgspec

from aicp.errors import Fault
from aicp.model.chain import FailurePolicy
from aicp.model.reference import place_of
from aicp.model.task import Priority

ENTRIES_MAX = 1_000
KEY_CHARS_TOLD_MAX = 80
MESSAGE_CHARS_MAX = 200
_CHOICES: dict[str, type[StrEnum]] = {"priority": Priority, "failure_policy": FailurePolicy}
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_PLACED = re.compile(r"(?P<message>.*?)(?: - at (?P<key>`key` in )?`\$(?P<steps>[\w.\[\]]*)`)?", re.DOTALL)
_OF_FIELD = re.compile(r"Object (?P<what>missing required|contains unknown) field `(?P<field>.*)`", re.DOTALL)
_TOLD_OF_FIELD = {"missing required": "is missing", "contains unknown": "is no field here"}


def type_faults(value: Any, kind: Any, place: str) -> Iterator[Fault]:
    """Everything in a decoded value that is of the wrong type, missing or unknown; nothing when the value is good.

    Of a list or of free keys the first 1,000 are looked at; beyond them one that is wrong is told.

    Args:
        value: JSON, as Python has it.
        kind: What it should be: a struct, or what a field of one may be.
        place: Where it stands, as a JSON pointer.
    """
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        inside = _faults_inside(value, kind, place)
        first = next(inside, None)
        yield first or type_fault(error, place)
        yield from inside


def readable_fields(document: Any, kind: type[msgspec.Struct]) -> dict[str, Any]:
    """The fields of an object that can be read as those of a struct, each judged by itself.

    Independent of the faults that were found: a list of faults is cut off at its bound, and what is left of it says
    nothing of the fields that come later.
    """
    if not isinstance(document, dict):
        return {}
    return {
        name: document[name]
        for name, field in _fields(kind).items()
        if name in document and _is_readable(document[name], field.type)
    }


def type_fault(error: msgspec.ValidationError, place: str) -> Fault:
    """What msgspec says of a wrong type, with its place as a JSON pointer under `place`."""
    # It matches whatever it is given.
    found = _PLACED.fullmatch(str(error))
    message, is_key, steps = found.group("message", "key", "steps") if found else (str(error), None, None)
    known, is_dict, _ = (steps or "").partition("[...]")
    where = place + "".join(f"/{field or index}" for field, index in _STEP.findall(known))
    if of_field := _OF_FIELD.fullmatch(message):
        return Fault(place_of_key(of_field["field"], where), _TOLD_OF_FIELD[of_field["what"]])
    told = message[:1].lower() + message[1:MESSAGE_CHARS_MAX]
    if message.startswith("Invalid enum value") and (choices := _CHOICES.get(where.rpartition("/")[2])):
        return Fault(where, f"{told}: choose from {', '.join(choices)}")
    if is_key or is_dict:
        told = f"has a {'key' if is_key else 'value'} that is wrong: {told}"
    return Fault(where, told)


def besides(told: Iterable[Fault], more: Iterable[Fault]) -> list[Fault]:
    """Faults, and those of `more` that lie at none of their places: what could not be read is told once."""
    faults = list(told)
    places = {fault.place for fault in faults}
    return [*faults, *(fault for fault in more if places.isdisjoint(_places_around(fault.place)))]


def place_of_key(key: Any, place: str) -> str:
    """The JSON pointer of a key that anybody may have written, under `place`; a long key is cut off."""
    return place_of((str(key)[:KEY_CHARS_TOLD_MAX],), place)


def _is_readable(value: Any, kind: Any) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


def _faults_inside(value: Any, kind: Any, place: str) -> Iterator[Fault]:
    """What is wrong with the parts of a value; nothing when it has none, or is wrong as a whole."""
    for each in get_args(kind) if isinstance(kind, UnionType) else (kind,):
        if isinstance(value, dict) and isinstance(each, type) and issubclass(each, msgspec.Struct):
            yield from _faults_of_fields(value, each, place)
        elif isinstance(value, dict) and get_origin(each) is dict:
            yield from _faults_of_entries(value.items(), get_args(each)[1], place)
        elif isinstance(value, list) and get_origin(each) is tuple:
            yield from _faults_of_entries(enumerate(value), get_args(each)[0], place)


def _faults_of_fields(value: dict[Any, Any], kind: type[msgspec.Struct], place: str) -> Iterator[Fault]:
    fields = _fields(kind)
    for name, inner in value.items():
        if name in fields:
            yield from type_faults(inner, fields[name].type, place_of_key(name, place))
        elif kind.__struct_config__.forbid_unknown_fields:
            yield Fault(place_of_key(name, place), _TOLD_OF_FIELD["contains unknown"])
    for name, field in fields.items():
        if field.required and name not in value:
            yield Fault(place_of_key(name, place), _TOLD_OF_FIELD["missing required"])


def _faults_of_entries(entries: Iterable[tuple[Any, Any]], kind: Any, place: str) -> Iterator[Fault]:
    for step, inner in islice(entries, ENTRIES_MAX):
        yield from type_faults(inner, kind, place_of_key(step, place))


@lru_cache(maxsize=64)
def _fields(kind: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


def _places_around(place: str) -> Iterator[str]:
    yield place
    while place:
        place = place.rpartition("/")[0]
        yield place
