"""The engine that checks values against JSON Schemas, in this process or, run as a script, in one of its own.

The engine keeps the interpreter lock until a check is done, in whatever thread that is, and has no steps. What may take
long is therefore checked in another process (`aicp.registry.checks`), which the system ends when it uses too much CPU.
As a script this file imports nothing of AICP, so that the process starts fast.

    request:  length of the schema, length of the value | the schema as JSON | the value as JSON
    answer:   length | why the value does not fit, UTF-8, empty when it does
"""

import signal
import struct
import sys
from collections import OrderedDict
from typing import Any, BinaryIO

import msgspec

REASON_CHARS_MAX = 300
BACKTRACKS_MAX = 5_000
"""Steps back that matching one pattern with look-around or back-references may take; then the value does not fit."""
CPU_S_MAX = 2.0
"""What one check may use in a process of its own, seconds of CPU; then SIGPROF ends the process."""
KEPT_MAX = 64
END_CHARS = 100
_LEFT_OUT = " … "
REQUEST = struct.Struct("<IQ")
ANSWER = struct.Struct("<I")
_NOT_SAID = "does not fit"


def build(schema: Any, *, backtracks: bool = False) -> Any:
    """The engine's validator; patterns match in linear time, or with `backtracks` in a bounded number of steps.

    Raises:
        ValueError: The engine does not take the schema.
    """
    import jsonschema_rs  # noqa: PLC0415 - loaded when the first schema is used

    linear, bounded = jsonschema_rs.RegexOptions, jsonschema_rs.FancyRegexOptions
    options = bounded(backtrack_limit=BACKTRACKS_MAX) if backtracks else linear()
    try:
        return jsonschema_rs.validator_for(schema, pattern_options=options, retriever=_retrieve_nothing)
    except jsonschema_rs.ReferencingError as error:
        raise ValueError(str(error)) from error


def misfit_of(validator: Any, value: Any) -> str:
    """Why a value does not fit, with its place; empty when it does. An error copies what it is about."""
    import jsonschema_rs  # noqa: PLC0415 - loaded when the first schema is used

    try:
        if validator.is_valid(value):
            return ""
        validator.validate(value)
    except jsonschema_rs.ValidationError as error:
        place = "".join(f"/{step}" for step in error.instance_path)
        return _shortened(f"{place}: {error.message}".removeprefix(": "))
    except (TypeError, ValueError) as error:
        return f"is not JSON: {first_line(error)}"
    return _NOT_SAID


def _shortened(told: str) -> str:
    """A reason without the middle of the value in it: what is wrong stands at the end."""
    if len(told) <= REASON_CHARS_MAX:
        return told
    return f"{told[: REASON_CHARS_MAX - len(_LEFT_OUT) - END_CHARS]}{_LEFT_OUT}{told[-END_CHARS:]}"


def first_line(error: Exception) -> str:
    """What happened, without the drawing of the schema that comes after it."""
    return str(error).partition("\n")[0][:REASON_CHARS_MAX]


def answer_requests(requests: BinaryIO, answers: BinaryIO, cpu_s_max: float) -> None:
    """Check what is asked until the requests end; each check has its time of CPU, seconds."""
    validators: OrderedDict[bytes, Any] = OrderedDict()
    while head := requests.read(REQUEST.size):
        schema_bytes, value_bytes = REQUEST.unpack(head)
        schema, value = requests.read(schema_bytes), requests.read(value_bytes)
        signal.setitimer(signal.ITIMER_PROF, cpu_s_max)
        if schema not in validators:
            validators[schema] = build(msgspec.json.decode(schema))
        validators.move_to_end(schema)
        told = misfit_of(validators[schema], msgspec.json.decode(value)).encode("utf-8", "replace")
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(ANSWER.pack(len(told)) + told)
        answers.flush()
        if len(validators) > KEPT_MAX:
            validators.popitem(last=False)


def _retrieve_nothing(uri: str) -> Any:
    raise ValueError(f"{uri} leads outside the schema")


if __name__ == "__main__":
    answer_requests(sys.stdin.buffer, sys.stdout.buffer, float(sys.argv[1]))
