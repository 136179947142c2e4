"""JSON of heavy values, written in pieces.

Encoding a text of 8 MiB in one call keeps the interpreter lock for up to 40 ms, in whatever thread that is.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Literal

import msgspec

from aicp.model.giving_way import give_way
from aicp.model.long_texts import LONG_TEXT, encode_text

HEAVY_VALUES = 2_000
WIDE = 4_096
_SCALARS = frozenset({int, float, bool, type(None)})
_HOLDERS = frozenset({dict, list, tuple})
Order = Literal["deterministic"] | None


def is_heavy(value: Any) -> bool:
    """True when a value holds some thousand values, or texts of over 64 Ki characters in sum.

    Costs half a microsecond for a small one, and at most some hundred.
    """
    chars, seen = 0, [value]
    for inner in seen:
        kind = inner.__class__
        if kind is str:
            chars += len(inner)
            if chars > LONG_TEXT:
                return True
        elif kind in _HOLDERS:
            if len(seen) + len(inner) > HEAVY_VALUES:
                return True
            seen += inner
            if kind is dict:
                seen += inner.values()
        elif kind not in _SCALARS and isinstance(inner, msgspec.Struct):
            seen += _fields(inner)
    return False


def encode(value: Any, *, order: Order = None) -> bytes:
    """What `msgspec.json.encode` writes; of a heavy value in pieces.

    Raises:
        TypeError: It holds what JSON cannot express; `ValueError` and `RecursionError` likewise.
    """
    return encode_in_pieces(value, order=order) if is_heavy(value) else msgspec.json.encode(value, order=order)


def encode_in_pieces(value: Any, *, order: Order = None) -> bytes:
    """What `msgspec.json.encode` writes, for a thread: long texts and wide objects and lists in several calls.

    Args:
        value: JSON in Python's types, or Structs.
        order: As msgspec's; among wide objects keys are sorted by code point.

    Raises:
        TypeError: It holds what JSON cannot express.
        ValueError: Likewise.
        RecursionError: It is nested too deep.
    """
    return _Writer(order).write(value)


class _Writer:
    """Puts what is long into the place of its value as JSON that is written already."""

    def __init__(self, order: Order) -> None:
        self._encode = msgspec.json.Encoder(order=order).encode
        self._is_sorted = order is not None

    def write(self, value: Any) -> bytes:
        return self._encode(self._lightened(value))

    def _lightened(self, value: Any) -> Any:
        kind = value.__class__
        if kind is str:
            return msgspec.Raw(encode_text(value)) if len(value) > LONG_TEXT else value
        if kind is dict:
            return self._object(value)
        if kind is list or kind is tuple:
            return self._list(value)
        return self._struct(value) if isinstance(value, msgspec.Struct) else value

    def _object(self, value: dict[Any, Any]) -> Any:
        if len(value) > WIDE or any(map(_is_long, value)):
            return msgspec.Raw(self._wide_object(value))
        light = {
            key: inner
            for key, before in value.items()
            if before.__class__ not in _SCALARS and (inner := self._lightened(before)) is not before
        }
        return {**value, **light} if light else value

    def _wide_object(self, value: dict[Any, Any]) -> bytes:
        parts: list[bytes] = []
        for keys in _parts(sorted(value) if self._is_sorted else value):
            if any(_is_long(key) for key in keys):
                parts += [self._member(key, value[key]) for key in keys]
            else:
                parts.append(self._encode({key: self._lightened(value[key]) for key in keys})[1:-1])
        return b"{%b}" % b",".join(parts)

    def _member(self, key: Any, inner: Any) -> bytes:
        if _is_long(key):
            return b"%b:%b" % (encode_text(key), self.write(inner))
        return self._encode({key: self._lightened(inner)})[1:-1]

    def _list(self, value: list[Any] | tuple[Any, ...]) -> Any:
        if len(value) > WIDE:
            parts = (self._encode([self._lightened(inner) for inner in part])[1:-1] for part in _parts(value))
            return msgspec.Raw(b"[%b]" % b",".join(parts))
        if _SCALARS.issuperset(map(type, value)):
            return value
        light = [self._lightened(inner) for inner in value]
        is_same = all(inner is before for inner, before in zip(light, value, strict=True))
        return value if is_same else light

    def _struct(self, value: msgspec.Struct) -> Any:
        names = value.__struct_fields__
        changed = {
            name: light
            for name, before in zip(names, _fields(value), strict=True)
            if (light := self._lightened(before)) is not before
        }
        return msgspec.structs.replace(value, **changed) if changed else value


def _is_long(key: Any) -> bool:
    return key.__class__ is str and len(key) > LONG_TEXT


def _fields(value: msgspec.Struct) -> list[Any]:
    return [getattr(value, name) for name in value.__struct_fields__]


def _parts(values: Iterable[Any]) -> Iterator[list[Any]]:
    left = iter(values)
    while part := list(islice(left, WIDE)):
        yield part
        give_way()
