"""Large answers as Structs: one call of the converter for 10,000 parts keeps the interpreter lock for some 30 ms."""

from collections.abc import Iterable
from itertools import chain, islice
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec

PARTS = 128
T = TypeVar("T")


def convert_in_pieces(value: Any, kind: type[T]) -> T:
    """What `msgspec.convert` returns, for a thread: a list, and what is wide in a Struct, in several calls.

    Args:
        value: Decoded JSON.
        kind: A Struct or a list.

    Raises:
        msgspec.ValidationError: The value does not have this form.
    """
    if not (isinstance(value, dict) and issubclass(get_origin(kind) or kind, msgspec.Struct)):
        converted: T = _converted(value, kind)
        return converted
    kinds = get_type_hints(kind)
    wide = {name: inner for name, inner in value.items() if name in kinds and _is_wide(inner)}
    narrow = msgspec.convert({**value, **{name: type(inner)() for name, inner in wide.items()}}, kind)
    replaced: T = msgspec.structs.replace(narrow, **{name: _converted(wide[name], kinds[name]) for name in wide})  # type: ignore[type-var]
    return replaced


def _is_wide(value: Any) -> bool:
    return isinstance(value, dict | list) and len(value) > PARTS


def _converted(value: Any, kind: Any) -> Any:
    inner, origin = get_args(kind), get_origin(kind)
    if not _is_wide(value) or origin not in {dict, list, tuple}:
        return msgspec.convert(value, kind)
    if isinstance(value, list):
        one = list[inner[0]]  # type: ignore[valid-type]
        items = chain.from_iterable(msgspec.convert(part, one) for part in _parts(value))
        return tuple(items) if origin is tuple else list(items)
    members: dict[Any, Any] = {}
    for part in _parts(value.items()):
        members.update(msgspec.convert(dict(part), kind))
    return members


def _parts(values: Iterable[Any]) -> Iterable[list[Any]]:
    left = iter(values)
    while part := list(islice(left, PARTS)):
        yield part
