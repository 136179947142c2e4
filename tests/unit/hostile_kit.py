"""What the fuzz tests of parsers share: hostile values, and documents in which one value is replaced by such."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from aicp.errors import AicpError

SEED = 20261130
NUMBERS = (
    "1e400", "-1e400", "1e-400", "-0", "9" * 30, "9" * 400, "-" + "9" * 400, "18446744073709551616", "0.5", "true",
    "null", "[]", "{}", '"x"', '"\\ud800"', "NaN", "-Infinity", "[" * 5_000, "[" * 200 + "]" * 200, "9" * 5_000,
    "-1", "0", '""', '"\\u0000"', '"/' + "9" * 5_000 + '"', "1e308", "9007199254740993", "1.5e1", "[[]]", "[null, 1]",
)  # fmt: skip
"""Values as JSON, YAML and TOML may have them, and some that none has."""
DATES = (
    "Fri, 31 Dec 2026 23:59:99999999999999999999 GMT", "Fri, 31 Dec 99999 23:59:59 GMT",
    "Mon, 01 Jan 0001 00:00:00 +2359", "Fri, 31 Dec 9999 23:59:59 -2359", "Fri, 31 Dec 2026 23:59:59 +99999999999999",
    "", "-5", "nan", "1e400", "9" * 5_000, "١٢", "²",
)  # fmt: skip
TIMES = (
    '"9999-12-31T23:59:59.999999-23:59"', '"0001-01-01T00:00:00+23:59"', '"2026-11-30T00:00:00"',
    '"2026-11-30T00:00:00.5Z"', '"2026-02-30T00:00:00Z"', '"9999-12-31T23:59:60Z"', '"x"', "0", "1e300",
)  # fmt: skip
"""Times as JSON."""
ANY_TEXT = st.text(st.characters(codec=None), max_size=20)
bounded = settings(max_examples=150, deadline=None, database=None)


def found_or_refused(read: Callable[..., Any], *arguments: Any) -> Any:
    """What a parser makes of its arguments, None for its own refusal; anything else is raised."""
    try:
        return read(*arguments)
    except AicpError as error:
        refusal = error
    assert str(refusal)
    return None


def values_in_place(document: Any) -> Iterator[Callable[[str], str]]:
    """For each value inside a document, at whatever depth: makes the JSON of it with that value replaced by a text."""
    mark = "\x00here\x00"
    quoted = json.dumps(mark)
    for marked in _marked(document, mark):
        yield partial(_put, json.dumps(marked), quoted)


def hostile_json(document: Any, *more: str) -> st.SearchStrategy[bytes]:
    """The document with one value replaced by a hostile one, cut off, or with a byte that is another."""
    whole = json.dumps(document).encode()
    replaced = st.builds(
        lambda put, raw: put(raw).encode("utf-8", "surrogatepass"),
        st.sampled_from(list(values_in_place(document))),
        st.one_of(st.sampled_from((*NUMBERS, *more)), ANY_TEXT.map(json.dumps)),
    )
    cut = st.integers(0, len(whole)).map(lambda at: whole[:at])
    flipped = st.builds(
        lambda at, byte: whole[:at] + bytes([byte]) + whole[at + 1 :],
        st.integers(0, len(whole) - 1),
        st.integers(0, 255),
    )
    return st.one_of(replaced, replaced, cut, flipped, st.binary(max_size=40))


def _put(text: str, mark: str, raw: str) -> str:
    return text.replace(mark, raw, 1)


def _marked(value: Any, mark: str) -> Iterator[Any]:
    yield mark
    if isinstance(value, dict):
        for key, inner in value.items():
            for marked in _marked(inner, mark):
                yield {**value, key: marked}
            yield {**value, mark: inner}
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            for marked in _marked(inner, mark):
                yield [*value[:at], marked, *value[at + 1 :]]
