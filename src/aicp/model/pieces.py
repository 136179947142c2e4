"""JSON in pieces: what is too large to be decoded, or counted, by one call of a C function.

A decoder written in C keeps the interpreter lock until it is done, in whatever thread it runs: 200,000 small values are
20 ms for which an event loop of the process stands still. Here the bytes are cut at commas, each piece is decoded by
itself inside the brackets that are open around it, and what it holds is put where it belongs:

    [1,2,{"a":[3,4,     decoded as    [1,2,{"a":[3,4]}]
    5],"b":6},7]        decoded as    [{"<open>":[5],"b":6},7]      and merged along what was open

A text of over 64 KiB is left out of its piece, and put in again once it was decoded in pieces of its own.

Between two pieces the thread gives way to others. Costs about 0.3 us a bracket or string more than one call.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from aicp.model.giving_way import give_way
from aicp.model.long_texts import LONG_TEXT, decode_text
from aicp.model.nesting import NESTING_MAX

VALUES_MAX = 200_000
LARGE_BYTES = 256 * 1024
LARGE_VALUES = 10_000
PIECE_BYTES = 64 * 1024
PIECE_MARKS = 4_096

_COUNTED_BYTES = 1024 * 1024
_BACKSLASH = ord("\\")
_IN_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_MARK = re.compile(rb'["\[\]{}]')
_CLOSER_BEHIND = re.compile(rb"[ \t\r\n]*+[\]}]")
_SPACES = b" \t\r\n"
_NO_VALUES = frozenset({b"", b"[", b"{"})
_AT_BYTE = re.compile(r"(.*) \(byte (\d+)\)", re.DOTALL)
# Drawn anew in each process: these stand in the place of something else, and no document may hold them.
_OPEN_KEY = f"aicp: open {secrets.token_hex(16)}"
_OPEN_DICT = b'{"%b":' % _OPEN_KEY.encode()
_LONG = f"aicp: long {secrets.token_hex(16)} "
_LONG_DIGITS = 8


def values_at_most(body: bytes) -> int:
    """An upper bound of the number of values in JSON: separators and brackets are counted, inside strings too."""
    return 1 + body.count(b",") + body.count(b"[") + body.count(b"{")


def is_large(body: bytes) -> bool:
    """True when it takes long to decode a body: it is over 256 KiB, or may hold over 10,000 values.

    Costs next to nothing below 10,000 bytes: they hold no more values.
    """
    size = len(body)
    return size >= LARGE_VALUES and (size > LARGE_BYTES or values_at_most(body) > LARGE_VALUES)


def holds_more_values(body: bytes, values_max: int = VALUES_MAX) -> bool:
    """True when JSON holds more than so many values.

    Keys of objects do not count, objects and lists do, empty ones twice. For a thread: a large body takes up
    to a second, in short steps.
    """
    if len(body) < values_max:
        return False
    bound = 1
    for at in range(0, len(body), _COUNTED_BYTES):
        bound += sum(body.count(mark, at, at + _COUNTED_BYTES) for mark in (b",", b"[", b"{"))
        if bound > values_max:
            return _counts_more(body, values_max)
        give_way()
    return False


def without_long_texts(body: bytes) -> bytes:
    """JSON with a digest in the place of each text of over 64 KiB; for a thread.

    Texts that are written alike stay alike, others stay different.
    """
    parts, begin, at = [], 0, 0
    while (quote := body.find(b'"', at)) >= 0:
        at = _end_of_string(body, quote)
        if at - quote > LONG_TEXT:
            parts += [body[begin:quote], b'"%b"' % hashlib.sha256(memoryview(body)[quote:at]).hexdigest().encode()]
            begin = at
    return b"".join((*parts, body[begin:])) if parts else body


class DoubledKey(ValueError):
    """An object has a key twice."""


def decode_in_pieces(
    body: bytes, has_doubles: Callable[[bytes], bool] | None = None, *, levels_max: int = NESTING_MAX
) -> Any:
    """Decode JSON as `msgspec.json.decode` does, in pieces of about 64 KiB and some thousand values.

    Args:
        body: UTF-8.
        levels_max: How deep objects and lists may be nested.
        has_doubles: True when an object of the piece that it is given has a key twice; None keeps the last.

    Raises:
        DoubledKey: A key stands twice; only with `has_doubles`.
        msgspec.DecodeError: It is not JSON; with the byte where that shows.
        RecursionError: It is nested deeper than `levels_max`.
    """
    return _Pieces(body, has_doubles, levels_max).decode()


def _counts_more(body: bytes, values_max: int) -> bool:
    count, at = 1, 0
    while True:
        quote = body.find(b'"', at)
        end = len(body) if quote < 0 else quote
        for begin in range(at, end, _COUNTED_BYTES):
            stop = min(end, begin + _COUNTED_BYTES)
            count += sum(body.count(mark, begin, stop) for mark in (b",", b"[", b"{"))
        if count > values_max or quote < 0:
            return count > values_max
        at = _end_of_string(body, quote)


def _end_of_string(body: bytes, quote: int) -> int:
    """The byte behind the string that begins at `quote`; the end of the body when it is not closed."""
    end = body.find(b'"', quote + 1)
    if end < 0 or body[end - 1] != _BACKSLASH:
        return end + 1 or len(body)
    return _end_of_escaped(body, quote + 1)


def _end_of_escaped(body: bytes, at: int) -> int:
    while (found := _IN_STRING.match(body, at, at + PIECE_BYTES)) is not None and found.end() > at:
        at = found.end()
        if body[at : at + 1] == b'"':
            return at + 1
        give_way()
    return len(body)


class _Open:
    """An object or list that is open where a piece ends.

    Attributes:
        is_object: True for an object.
        key: Where in the body the last string in it stands: of what is open inside an object, that is its key.
        value: What was decoded of it.
    """

    __slots__ = ("is_object", "key", "value")

    def __init__(self, *, is_object: bool) -> None:
        self.is_object = is_object
        self.key = (0, 0)
        self.value: Any = None


class _Pieces:
    """Cuts one body, and puts together what its pieces were decoded to."""

    def __init__(self, body: bytes, has_doubles: Callable[[bytes], bool] | None, levels_max: int) -> None:
        self._body = body
        self._levels_max = levels_max
        self._has_doubles = has_doubles
        self._begin = 0
        self._long: list[tuple[int, int]] = []
        self._open: list[_Open] = []
        self._root: Any = None

    def decode(self) -> Any:
        """The whole value."""
        for opened, text in self.cut():
            doubled, part = self._completed(self._decoded(opened, text))
            doubled |= self._has_doubles is not None and self._has_doubles(text)
            if opened:
                doubled |= _merge([each.value for each in opened], part)
            else:
                self._root = part
            if doubled and self._has_doubles is not None:
                raise DoubledKey
            self._find_open()
        return self._root

    def cut(self) -> Iterator[tuple[list[_Open], bytes]]:
        """Each piece with what was open where it begins."""
        opened: list[_Open] = []
        for end in self._ends():
            text = self._shortened(end)
            if self._begin and _CLOSER_BEHIND.match(self._body, self._begin):
                raise msgspec.DecodeError(f"JSON is malformed: trailing comma (byte {self._begin})")
            if end < len(self._body):
                # A comma without a value before it would be cut away unseen.
                if text.rstrip(_SPACES)[-1:] in _NO_VALUES:
                    raise msgspec.DecodeError(f"JSON is malformed: invalid character (byte {end})")
                text += _tails(self._open)
            yield opened, _heads(opened) + text
            if end < len(self._body):
                give_way()
            self._begin, self._long, opened = end + 1, [], list(self._open)

    def _ends(self) -> Iterator[int]:
        """Where the pieces end: at commas, and at the end of the body."""
        body, at, marks, begin = self._body, 0, 0, 0
        while at < len(body):
            found = _MARK.search(body, at, at + PIECE_BYTES)
            gap_end = found.start() if found else min(len(body), at + PIECE_BYTES)
            if self._open and (marks >= PIECE_MARKS or gap_end - begin >= PIECE_BYTES):
                comma = body.find(b",", at, gap_end)
                if comma >= 0:
                    yield comma
                    begin, marks = comma + 1, 0
            marks += 1
            at = self._pass(found) if found else gap_end
        yield len(body)

    def _pass(self, found: re.Match[bytes]) -> int:
        """Note a bracket or string; gives the byte behind it."""
        at, mark = found.start(), found[0]
        if mark == b'"':
            end = _end_of_string(self._body, at)
            if self._open:
                self._open[-1].key = (at, end)
            if end - at > LONG_TEXT:
                self._long.append((at, end))
            return end
        if mark in b"[{":
            if len(self._open) >= self._levels_max:
                raise RecursionError
            self._open.append(_Open(is_object=mark == b"{"))
        elif self._open:
            self._open.pop()
        return at + 1

    def _decoded(self, opened: list[_Open], text: bytes) -> Any:
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as error:
            if (at_byte := _AT_BYTE.fullmatch(str(error))) is None:
                raise
            place = self._place_of(self._begin + int(at_byte[2]) - len(_heads(opened)))
            raise msgspec.DecodeError(f"{at_byte[1]} (byte {min(place, len(self._body))})") from None

    def _shortened(self, end: int) -> bytes:
        """A piece up to `end`, with a short text in the place of each long one."""
        if not self._long:
            return self._body[self._begin : end]
        parts, at = [], self._begin
        for number, (begin, behind) in enumerate(self._long):
            parts += [self._body[at:begin], b'"%b"' % _stand_in(number).encode()]
            at = behind
        return b"".join((*parts, self._body[at:end]))

    def _place_of(self, place: int) -> int:
        """Where in the body a place is that was found in a shortened piece."""
        for begin, behind in self._long:
            if place > begin:
                place += behind - begin - len(_stand_in(0)) - 2
        return place

    def _completed(self, part: Any) -> tuple[bool, Any]:
        """A piece with its long texts again; and whether a key stands twice in an object then."""
        if not self._long:
            return False, part
        texts = {_stand_in(number): decode_text(self._body, *place) for number, place in enumerate(self._long)}
        return _put_in(part, texts)

    def _find_open(self) -> None:
        """The value of each object and list that is open now."""
        value = self._root
        for number, each in enumerate(self._open):
            if number:
                outer = self._open[number - 1]
                value = value[decode_text(self._body, *outer.key)] if outer.is_object else value[-1]
            each.value = value


def _stand_in(number: int) -> str:
    return f"{_LONG}{number:0{_LONG_DIGITS}}"


def _put_in(part: Any, texts: dict[str, str]) -> tuple[bool, Any]:
    """Put texts into the places of what stands in for them; True when two keys of an object are the same then."""
    root, doubled = [part], False
    holders: list[Any] = [root]
    for holder in holders:
        if isinstance(holder, dict):
            items = [(texts.get(key, key), inner) for key, inner in holder.items()]
            count = len(holder)
            holder.clear()
            holder.update(items)
            doubled |= len(holder) < count
        for key, inner in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
            if isinstance(inner, str):
                holder[key] = texts.get(inner, inner)
            elif isinstance(inner, dict | list):
                holders.append(inner)
    return doubled, root[0]


def _heads(opened: list[_Open]) -> bytes:
    if not opened:
        return b""
    outer = [_OPEN_DICT if each.is_object else b"[" for each in opened[:-1]]
    return b"".join([*outer, b"{" if opened[-1].is_object else b"["])


def _tails(opened: list[_Open]) -> bytes:
    return b"".join(b"}" if each.is_object else b"]" for each in reversed(opened))


def _merge(values: list[Any], part: Any) -> bool:
    """Put a piece into the values that were open when it began, outermost first; True when a key was there before."""
    doubled = False
    for depth, value in enumerate(values):
        inner = None
        if isinstance(value, list):
            value.extend(part[1:] if depth < len(values) - 1 else part)
            inner = part[0] if part else None
        else:
            inner = part.pop(_OPEN_KEY, None)
            doubled |= not value.keys().isdisjoint(part)
            value.update(part)
        part = inner
    return doubled
