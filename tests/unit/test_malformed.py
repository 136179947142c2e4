"""Where a body is no usable JSON is told without taking long."""

import time

import msgspec
import pytest

from aicp.server.malformed import LOOKED_AT_BYTES_MAX, why_no_json, why_too_deep

MIB_8 = 8 * 1024 * 1024


def why(body: bytes) -> str:
    with pytest.raises(msgspec.DecodeError) as refused:
        msgspec.json.decode(body)
    return why_no_json(refused.value, body)


def test_place_that_is_far_away_is_not_looked_for() -> None:
    filler = b"0," * (LOOKED_AT_BYTES_MAX // 2 - 4)
    assert why(b"[" + filler + b"1e999]") == f"a number that is too large (line 1, column {len(filler) + 2})"
    assert why(b"[" + filler * 2 + b"1e999]") == "a number that is too large"
    deep = b"[" * 70
    assert why_too_deep(b" " * (LOOKED_AT_BYTES_MAX - 65) + deep).endswith(f"column {LOOKED_AT_BYTES_MAX})")
    assert why_too_deep(b" " * (LOOKED_AT_BYTES_MAX - 64) + deep) == "nested deeper than 64"


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"1e9," * (MIB_8 // 4) + b"1e999]",
        b"[" + b'"\\n",' * (MIB_8 // 5) + b'"\xff"]',
        b'"' + b'\\"' * (MIB_8 // 2),
        b'["' + b'\\"' * (MIB_8 // 2) + b'\\ud800"]',
    ],
)
def test_looking_for_the_place_does_not_take_for_ever(body: bytes) -> None:
    began = time.process_time()
    assert why(body)
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize("filler", [b"[],", b'"[",', b'"\\"",', b'"\\'])
def test_looking_for_the_depth_does_not_take_for_ever(filler: bytes) -> None:
    body = b"[" + filler * (MIB_8 // len(filler)) + b"[" * 70
    began = time.process_time()
    assert why_too_deep(body) == "nested deeper than 64"
    assert time.process_time() - began < 2.0


def test_bracket_in_a_string_that_is_cut_off_by_the_look_does_not_count() -> None:
    body = b'["' + b"[" * LOOKED_AT_BYTES_MAX + b'"' + b",[" * 70
    assert why_too_deep(body) == "nested deeper than 64"
