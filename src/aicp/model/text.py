"""What may stand in the texts that people give to things: they end up in terminals, logs and databases."""

import re

CONTROLS = r"\x00-\x1f\x7f-\x9f\u2028\u2029"
"""Inside of a pattern's brackets: what moves a terminal's cursor, ends a line, or cannot be kept by a database."""
INT_DIGITS_MAX = 4_300
"""Python neither reads nor writes longer integers (`sys.get_int_max_str_digits`)."""
_CONTROL = re.compile(rf"[{CONTROLS}\ud800-\udfff]")
_HALF = re.compile(r"[\ud800-\udfff]")


def why_not_plain(text: str) -> str:
    """What is wrong with a name, label or id that may be any text: a control character; empty when nothing is.

    So are the halves of characters that Python's strings may hold, and UTF-8 cannot.
    """
    found = _CONTROL.search(text)
    return f"has a control character, {found[0]!a}; leave it out" if found else ""


def has_half_characters(text: str) -> bool:
    """True when a string has surrogates, which Python's strings may hold and UTF-8 cannot.

    Costs some nanoseconds for ASCII.
    """
    return not text.isascii() and _HALF.search(text) is not None


def kind_of(value: object) -> str:
    """What a value is, with its article: `a str`, `an object`."""
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"
