"""Long texts in pieces: one call of a C function for a text of 8 MiB keeps the interpreter lock for up to 40 ms."""

import codecs
import re
from collections.abc import Iterator

import msgspec

from aicp.model.giving_way import give_way

LONG_TEXT = 64 * 1024
"""A text of more bytes or characters is decoded and encoded in pieces of this size."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(str).decode
_BACKSLASH = b"\\"
_FIRST_HALF = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}")
_ESCAPE_BYTES = 6
_AT_BYTE = re.compile(r"(.*) \(byte (\d+)\)", re.DOTALL)


def encode_text(text: str) -> bytes:
    """A text as a JSON string.

    Raises:
        UnicodeEncodeError: It has a half of a surrogate pair.
    """
    pieces = (_encode(text[at : at + LONG_TEXT])[1:-1] for at in _begins(len(text)))
    return b"".join((b'"', *pieces, b'"'))


def text_of(utf8: bytes) -> str:
    """What `utf8.decode()` returns.

    Raises:
        UnicodeDecodeError: It is not UTF-8.
    """
    if len(utf8) <= LONG_TEXT:
        return utf8.decode()
    decoder = codecs.getincrementaldecoder("utf-8")()
    pieces = [decoder.decode(utf8[at : at + LONG_TEXT]) for at in _begins(len(utf8))]
    return "".join((*pieces, decoder.decode(b"", final=True)))


def decode_text(body: bytes, begin: int, end: int) -> str:
    """The JSON string that is in `body[begin:end]`, with its quotation marks.

    Raises:
        msgspec.DecodeError: It is not a JSON string; with the byte of `body` where that shows.
        UnicodeDecodeError: It is not UTF-8.
    """
    if end - begin <= LONG_TEXT or body[end - 1 : end] != b'"':
        return _piece(body, begin, end, b"", b"")
    return "".join(_piece(body, at, to, b'"', b'"') for at, to in _cuts(body, begin + 1, end - 1))


def _begins(length: int) -> Iterator[int]:
    """Where the pieces of a text of this length begin."""
    for at in range(0, length, LONG_TEXT):
        if at:
            give_way()
        yield at


def _piece(body: bytes, begin: int, end: int, before: bytes, behind: bytes) -> str:
    try:
        return _decode(b"%b%b%b" % (before, body[begin:end], behind))
    except msgspec.DecodeError as error:
        if (at_byte := _AT_BYTE.fullmatch(str(error))) is None:
            raise
        place = begin + int(at_byte[2]) - len(before)
        raise msgspec.DecodeError(f"{at_byte[1]} (byte {place})") from None


def _cuts(body: bytes, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Where the inside of a JSON string can be cut: between two characters."""
    at = begin
    while at < end:
        to = end if end - at <= LONG_TEXT else _cut(body, at, at + LONG_TEXT)
        yield at, to
        if (at := to) < end:
            give_way()


def _cut(body: bytes, begin: int, place: int) -> int:
    """The last place up to `place` that is neither inside an escape, a surrogate pair nor the bytes of a character."""
    escape = body.rfind(_BACKSLASH, place - _ESCAPE_BYTES, place)
    if escape >= 0 and _begins_escape(body, begin, escape):
        before = escape - _ESCAPE_BYTES
        is_second_half = _FIRST_HALF.match(body, before) is not None and _begins_escape(body, begin, before)
        return before if is_second_half else escape
    while place > begin and body[place] & 0xC0 == 0x80:
        place -= 1
    return place


def _begins_escape(body: bytes, begin: int, backslash: int) -> bool:
    """True when a backslash is not the second one of an escaped backslash."""
    before = body[begin : backslash + 1]
    return (len(before) - len(before.rstrip(_BACKSLASH))) % 2 == 1
