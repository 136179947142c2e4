"""JSON Schemas that agents declare: compiled once, and checked against params and results.

A schema is taken as far as it can be: a pattern that the regular expression engine does not know is left out and
reported, a reference may name the schema's own `$id`, and OpenAPI's dialect is read as the draft that it extends.
"""

import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from typing import Any, Protocol

import msgspec

from aicp.errors import Fault
from aicp.model.agent import SCHEMA_BYTES_MAX, Schema
from aicp.model.reference import place_of
from aicp.registry.checks import CheckProcess, Checks, NoCheckProcess, TooCostly
from aicp.registry.costs import weighs_at_most, weight_max
from aicp.registry.engine import CPU_S_MAX, build, first_line, misfit_of

COMPILED_MAX = 4_096
COMPILED_BYTES_MAX = 64 * 1024 * 1024
SHOWN_CHARS_MAX = 80
THOROUGH_COST_MAX = 1_000_000
"""Sum of the squared lengths of the strings in a value, times such patterns: about 5 ms at worst. A value that may cost
more is checked without these patterns."""
THOROUGH_VALUES_MAX = 5_000

_OPENAPI_DIALECTS = "https://spec.openapis.org/oas/"
_HOLD_DATA = frozenset({"const", "default", "enum", "examples"})
_HOLD_NAMED_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_NOT_COMPILED = "the schema cannot be used"
_log = logging.getLogger("aicp.registry")


class Validator(Protocol):
    """A compiled schema.

    Attributes:
        left_out: Keywords that are not checked, with their places in the schema and the reason.
        size: Bytes of the schema as JSON.
        weight_max: What a value may weigh that is checked on the loop.
        is_given_up: True once a check took so long that heavier values are not checked any more.
    """

    left_out: tuple[Fault, ...]
    size: int
    weight_max: int
    is_given_up: bool

    def misfit(self, value: Any) -> str:
        """Why the value does not fit, with its place; empty when it does. Keeps the interpreter lock."""

    def misfit_in(self, process: CheckProcess, value: Any) -> str:
        """The same, found by another process.

        Raises:
            TooCostly: It takes too long.
            NoCheckProcess: There is no such process.
        """


class UnusableSchema(ValueError):
    """The schema cannot be used."""


class Schemas:
    """Compiles each distinct schema once; bounded in number and bytes, the least recently used goes first.

    Remote references are refused and patterns match in bounded time, so a schema cannot reach out or hang a check.

    Args:
        checks: Where long checks are made; one of its own by default.
    """

    def __init__(self, checks: Checks | None = None) -> None:
        self._compiled: OrderedDict[bytes, Validator] = OrderedDict()
        self._known: OrderedDict[int, tuple[Schema, Validator]] = OrderedDict()
        self._bytes = 0
        self._checks = checks or Checks()

    def misfit(self, schema: Schema | None, value: Any) -> str:
        """Why the value does not fit the schema; empty when it does, or when there is none. However long it takes."""
        return "" if schema is None or schema is True else self.compile(schema).misfit(value)

    def misfit_at_once(self, schema: Schema | None, value: Any) -> str | None:
        """As `misfit`, where that takes some milliseconds at most; None where it may take longer."""
        if schema is None or schema is True:
            return ""
        known = self._known.get(id(schema))
        validator = self.compile(schema) if known is None else known[1]
        return validator.misfit(value) if weighs_at_most(value, validator.weight_max) else None

    async def misfit_elsewhere(self, schema: Schema | None, value: Any, *, waits: bool = True) -> str:
        """As `misfit`, in another process, while the loop goes on.

        A check that takes more than 2 s of CPU is given up: the value passes, and so do later ones that are too heavy
        to be checked at once.

        Raises:
            TooManyDocuments: Too many checks wait, and `waits` is False.
        """
        if schema is None or schema is True:
            return ""
        validator = self.compile(schema)
        return "" if validator.is_given_up else await self._checks.run(partial(_found, validator, value), waits=waits)

    def close(self) -> None:
        """End the process; a later check begins another one."""
        self._checks.close()

    def compile(self, schema: Schema) -> Validator:
        """The validator of a schema.

        A schema that was seen before is known by its identity: it is an agent's, and those never change.

        Raises:
            UnusableSchema: Too large, not a schema, or with references that lead elsewhere.
        """
        known = self._known.get(id(schema))
        if known is not None:
            return known[1]
        validator = self._compiled_as_text(_written(schema), schema)
        # The schema is kept as well, so that its identity stays its own.
        self._known[id(schema)] = (schema, validator)
        if len(self._known) > COMPILED_MAX:
            self._known.popitem(last=False)
        return validator

    def _compiled_as_text(self, text: bytes, schema: Schema) -> Validator:
        digest = sha256(text).digest()
        if (found := self._compiled.get(digest)) is not None:
            self._compiled.move_to_end(digest)
            return found
        if len(text) > SCHEMA_BYTES_MAX:
            raise UnusableSchema(f"the schema has {len(text)} bytes; at most {SCHEMA_BYTES_MAX} are allowed")
        compiled = self._compiled[digest] = _compile(schema, len(text))
        self._bytes += compiled.size
        while len(self._compiled) > COMPILED_MAX or self._bytes > COMPILED_BYTES_MAX:
            self._bytes -= self._compiled.popitem(last=False)[1].size
        return compiled


class _JsonSchema:
    """A schema with patterns that match in linear time, which is nearly every schema."""

    def __init__(self, schema: Schema, size: int, left_out: tuple[Fault, ...] = ()) -> None:
        self._schema = schema
        self._validator = build(schema)
        self._is_valid: Callable[[Any], bool] = self._validator.is_valid
        self.size = size
        self.left_out = left_out
        self.weight_max = weight_max(schema)
        self.is_given_up = False

    def misfit(self, value: Any) -> str:
        try:
            if self._is_valid(value):
                return ""
        except (TypeError, ValueError):
            pass  # said with the reason below
        return misfit_of(self._validator, value)

    def misfit_in(self, process: CheckProcess, value: Any) -> str:
        return process.misfit(self._schema, value)


class _ThoroughSchema:
    """A schema that has patterns with look-around or back-references too.

    Args:
        plain: Checks all but these patterns.
        thorough: The engine's validator with them.
        patterns: How many they are.
    """

    def __init__(self, plain: _JsonSchema, thorough: Any, patterns: int) -> None:
        self._plain = plain
        self._thorough = thorough
        self._cost_max = THOROUGH_COST_MAX // patterns
        self.size = plain.size
        self.left_out = plain.left_out
        self.weight_max = plain.weight_max
        self.is_given_up = False

    def misfit(self, value: Any) -> str:
        return self._plain.misfit(value) or self._misfit_of_patterns(value)

    def misfit_in(self, process: CheckProcess, value: Any) -> str:
        return self._plain.misfit_in(process, value) or self._misfit_of_patterns(value)

    def _misfit_of_patterns(self, value: Any) -> str:
        return misfit_of(self._thorough, value) if _is_cheap_to_match(value, self._cost_max) else ""


def _found(validator: Validator, value: Any, process: CheckProcess) -> str:
    """What a check finds, for the thread of the checks."""
    try:
        return "" if validator.is_given_up else validator.misfit_in(process, value)
    except TooCostly:
        validator.is_given_up = True
        _log.warning("schema check given up: cpu_s=%.0f schema_bytes=%d; large values pass", CPU_S_MAX, validator.size)
        return ""
    except NoCheckProcess:
        _log.warning("schema check in this process: no other process can be started")
        return validator.misfit(value)


def _is_cheap_to_match(value: Any, cost_max: int) -> bool:
    """True when the strings in a value are so few and short that no pattern takes long."""
    cost, seen = 0, [value]
    for inner in seen:
        if isinstance(inner, str):
            cost += len(inner) ** 2
        elif isinstance(inner, dict):
            seen.extend(inner)
            seen.extend(inner.values())
        elif isinstance(inner, list | tuple):
            seen.extend(inner)
        if cost > cost_max or len(seen) > THOROUGH_VALUES_MAX:
            return False
    return True


def _written(schema: Schema) -> bytes:
    try:
        return msgspec.json.encode(schema, order="deterministic")
    except (TypeError, ValueError, RecursionError) as error:
        raise UnusableSchema(f"the schema is not JSON: {first_line(error)}") from error


def _compile(schema: Schema, size: int) -> Validator:
    schema = _without_openapi_dialect(schema)
    try:
        return _JsonSchema(schema, size)
    except ValueError as error:
        patterns = _Patterns(schema)
        if not patterns.are_special:
            raise UnusableSchema(_why(schema, error)) from error
    plain = patterns.without(patterns.unknown | patterns.backtracking)
    try:
        validator = _JsonSchema(plain, size, patterns.left_out())
        if not patterns.backtracking:
            return validator
        thorough = build(patterns.without(patterns.unknown), backtracks=True)
    except ValueError as error:
        raise UnusableSchema(_why(plain, error)) from error
    return _ThoroughSchema(validator, thorough, len(patterns.backtracking))


class _Patterns:
    """The regular expressions of a schema that the linear engine does not take.

    Attributes:
        backtracking: Those that the bounded engine takes.
        unknown: Those that neither takes.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._places = list(_patterns_in(schema))
        special = {pattern for _, pattern in self._places if not _is_taken(pattern, backtracks=False)}
        self.backtracking = {pattern for pattern in special if _is_taken(pattern, backtracks=True)}
        self.unknown = special - self.backtracking

    @property
    def are_special(self) -> bool:
        """True when there are any."""
        return bool(self.backtracking or self.unknown)

    def left_out(self) -> tuple[Fault, ...]:
        """The unknown ones with their places."""
        return tuple(
            Fault(place, f"the pattern {_shown(pattern)} is not checked: its syntax is not supported")
            for place, pattern in self._places
            if pattern in self.unknown
        )

    def without(self, patterns: set[str]) -> Schema:
        """A copy of the schema without some patterns."""
        copy: Schema = msgspec.json.decode(msgspec.json.encode(self._schema))
        for _, inner in list(_schemas_in(copy)):
            if inner.get("pattern") in patterns:
                del inner["pattern"]
            if isinstance(named := inner.get("patternProperties"), dict):
                inner["patternProperties"] = {name: each for name, each in named.items() if name not in patterns}
        return copy


def _patterns_in(schema: Schema) -> Iterator[tuple[str, str]]:
    """Every pattern with its place in the schema."""
    for trail, inner in _schemas_in(schema):
        if isinstance(pattern := inner.get("pattern"), str):
            yield place_of((*trail, "pattern"), ""), pattern
        if isinstance(named := inner.get("patternProperties"), dict):
            for name in named:
                yield place_of((*trail, "patternProperties", name), ""), name


def _is_taken(pattern: str, *, backtracks: bool) -> bool:
    try:
        build({"pattern": pattern}, backtracks=backtracks)
    except ValueError:
        return False
    return True


def _without_openapi_dialect(schema: Schema) -> Schema:
    """OpenAPI 3.1 extends draft 2020-12 by keywords that check nothing."""
    if isinstance(schema, dict) and str(schema.get("$schema", "")).startswith(_OPENAPI_DIALECTS):
        return {key: value for key, value in schema.items() if key != "$schema"}
    return schema


def _why(schema: Schema, error: ValueError) -> str:
    """The true reason for a refusal, with advice."""
    if told := _reason_for_references(schema):
        return told
    place = "".join(f"/{step}" for step in getattr(error, "instance_path", ()))
    where = f"{_NOT_COMPILED} at {place}" if place else _NOT_COMPILED
    if "meta-schema" in str(error):
        return f"{where}: its $schema is unknown; leave $schema out, or name a published draft of JSON Schema"
    return f"{where}: {first_line(error)}"


def _reason_for_references(schema: Schema) -> str:
    """Why the first reference that leads nowhere does so; empty when none is found that does.

    References relative to an `$id` are the engine's to judge.
    """
    has_ids = any("$id" in inner for _, inner in _schemas_in(schema))
    for trail, inner in _schemas_in(schema):
        target = inner.get("$ref")
        if not isinstance(target, str):
            continue
        address, _, fragment = target.partition("#")
        shown = f"$ref {_shown(target)} at {place_of(trail, '') or '/'}"
        if address and not has_ids:
            return f"{shown} leads outside the schema; copy what it names under $defs, and refer to '#/$defs/…'"
        if not address and fragment.startswith("/") and "%" not in fragment and not _leads_somewhere(schema, fragment):
            name = fragment.rpartition("/")[2][:SHOWN_CHARS_MAX]
            return f"{shown} names a part that the schema does not have; copy it under $defs as '#/$defs/{name}'"
    return ""


def _leads_somewhere(schema: Schema, pointer: str) -> bool:
    value: Any = schema
    for step in pointer.split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            return False
    return True


def _schemas_in(schema: Any) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Every object of a schema that may hold keywords, with the keys that lead to it."""
    found: list[tuple[tuple[Any, ...], Any, bool]] = [((), schema, True)]
    while found:
        trail, value, holds_keywords = found.pop()
        if isinstance(value, dict):
            if holds_keywords:
                yield trail, value
            found.extend(
                ((*trail, key), inner, not (holds_keywords and key in _HOLD_NAMED_SCHEMAS))
                for key, inner in value.items()
                if not (holds_keywords and key in _HOLD_DATA)
            )
        elif isinstance(value, list):
            found.extend(((*trail, index), inner, True) for index, inner in enumerate(value))


def _shown(text: str) -> str:
    return json.dumps(text[:SHOWN_CHARS_MAX])
