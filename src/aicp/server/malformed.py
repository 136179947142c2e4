"""Where a body is no usable JSON, and what is there: looked for only once it was refused."""

import re

import msgspec

from aicp.model.nesting import NESTING_MAX

LOOKED_AT_BYTES_MAX = 256 * 1024
"""Where it takes a second look to find the place, no more is looked at: that costs a tenth of a second at most."""
NUMBER_CHARS_SOUND = 300
"""No number as short as this, and without an exponent, is too large to be read."""

# It may be cut off, by its own end or by that of the look.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)'
_BRACKETS = re.compile(_STRING + rb"|[\[\]{}]", re.DOTALL)
_NUMBERS = re.compile(_STRING + rb"|-?[0-9][0-9.eE+-]*+", re.DOTALL)
_ESCAPES = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_AT_BYTE = re.compile(r"(?:JSON is malformed: )?(.*) \(byte (\d+)\)", re.DOTALL)


def why_no_json(error: Exception, body: bytes) -> str:
    """What a decoder did not understand, and where: `trailing comma in array (line 1, column 4)`.

    Args:
        error: What it said.
        body: What it was given.
    """
    message, place = _found(str(error), body)
    return f"{message}{_told(place, body)}"


def why_too_deep(body: bytes) -> str:
    """That a body is nested too deep, and where that begins."""
    return f"nested deeper than {NESTING_MAX}{_told(_deepest_place(body), body)}"


def is_nested_too_deep(body: bytes) -> bool:
    """True when the first 256 KiB of a body show that it is nested too deep."""
    return _deepest_place(body) is not None


def _found(message: str, body: bytes) -> tuple[str, int | None]:
    """What is wrong, in a few words, and the byte where it is; None when it was not found."""
    if not body.strip():
        return "it is empty", 0
    if (lone := _lone_surrogate(message, body)) is not None:
        return f"\\{lone[1].decode()} is half a character, without its other half", lone.start()
    if "out of range" in message:
        return "a number that is too large", _place_of_large_number(body)
    if "UTF-8" in message:
        return "bytes that are no UTF-8", _place_of_no_utf8(body)
    if at_byte := _AT_BYTE.fullmatch(message):
        return at_byte[1], int(at_byte[2])
    return "it ends too early", len(body)


def _told(place: int | None, body: bytes) -> str:
    if place is None:
        return ""
    before = body[:place]
    line = before.count(b"\n") + 1
    column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
    return f" (line {line}, column {column})"


def _lone_surrogate(message: str, body: bytes) -> re.Match[bytes] | None:
    """The first one: the decoder stops there, and says that the body ends, or what it is, as the bytes behind are."""
    if "surrogate" not in message and "truncated" not in message:
        return None
    return next((escape for escape in _ESCAPES.finditer(body, 0, LOOKED_AT_BYTES_MAX) if escape[1]), None)


def _place_of_large_number(body: bytes) -> int | None:
    for found in _NUMBERS.finditer(body, 0, LOOKED_AT_BYTES_MAX):
        number = found[0]
        if number[:1] != b'"' and (len(number) > NUMBER_CHARS_SOUND or b"e" in number.lower()):
            try:
                msgspec.json.decode(number)
            except msgspec.DecodeError:
                return found.start()
    return None


def _place_of_no_utf8(body: bytes) -> int | None:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.start
    return None


def _deepest_place(body: bytes) -> int | None:
    """Where the first bracket stands that is one too many."""
    depth = 0
    for found in _BRACKETS.finditer(body, 0, LOOKED_AT_BYTES_MAX):
        bracket = found[0]
        depth += (bracket in b"[{") - (bracket in b"]}") if len(bracket) == 1 else 0
        if depth > NESTING_MAX:
            return found.start()
    return None
