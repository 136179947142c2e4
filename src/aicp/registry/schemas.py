"""Whether params and results fit what an agent declared (JSON Schema)."""

import json
from collections import OrderedDict
from typing import Any, Protocol

import msgspec

SCHEMA_BYTES_MAX = 64 * 1024
COMPILED_MAX = 4_096
REASON_CHARS_MAX = 300
_HOLD_DATA = frozenset({"const", "default", "enum", "examples"})


class Validator(Protocol):
    """A compiled schema."""

    def misfit(self, value: Any) -> str:
        """Why the value does not fit, with its place; empty when it does."""


class UnusableSchema(ValueError):
    """The schema cannot be used."""


class Schemas:
    """Compiles each distinct schema once; bounded, the least recently used goes first.

    Remote references are refused and patterns run in linear time, so no schema can reach out or hang a check.
    """

    def __init__(self) -> None:
        self._compiled: OrderedDict[bytes, Validator] = OrderedDict()
        self._known: OrderedDict[int, tuple[dict[str, Any], Validator]] = OrderedDict()

    def misfit(self, schema: dict[str, Any] | None, value: Any) -> str:
        """Why the value does not fit the schema; empty when it does, or when there is none.

        A schema that was seen before is known by its identity: it is an agent's, and those never change.
        """
        if schema is None:
            return ""
        known = self._known.get(id(schema))
        return (known[1] if known is not None else self._get_to_know(schema)).misfit(value)

    def compile(self, schema: dict[str, Any]) -> Validator:
        """The validator of a schema.

        Raises:
            UnusableSchema: Too large, not a schema, or with references that lead elsewhere.
        """
        digest = _written(schema)
        if digest in self._compiled:
            self._compiled.move_to_end(digest)
            return self._compiled[digest]
        if len(digest) > SCHEMA_BYTES_MAX:
            raise UnusableSchema(f"the schema has {len(digest)} bytes; at most {SCHEMA_BYTES_MAX} are allowed")
        self._compiled[digest] = _compile(schema)
        if len(self._compiled) > COMPILED_MAX:
            self._compiled.popitem(last=False)
        return self._compiled[digest]

    def _get_to_know(self, schema: dict[str, Any]) -> Validator:
        """Remember whose validator it is; the schema is kept too, so that nobody else gets its identity."""
        validator = self.compile(schema)
        self._known[id(schema)] = (schema, validator)
        if len(self._known) > COMPILED_MAX:
            self._known.popitem(last=False)
        return validator


class _JsonSchema:
    def __init__(self, validator: Any) -> None:
        self._validator = validator

    def misfit(self, value: Any) -> str:
        try:
            if self._validator.is_valid(value):
                return ""
            first = next(iter(self._validator.iter_errors(value)))
        except (TypeError, ValueError) as error:
            return f"is no JSON: {_first_line(error)}"
        place = "".join(f"/{step}" for step in first.instance_path)
        return f"{place}: {first.message}".removeprefix(": ")[:REASON_CHARS_MAX]


def _written(schema: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(schema, order="deterministic")
    except (TypeError, ValueError, RecursionError) as error:
        raise UnusableSchema(f"the schema is no JSON: {_first_line(error)}") from error


def _compile(schema: dict[str, Any]) -> Validator:
    import jsonschema_rs  # noqa: PLC0415 - loaded when the first schema is used

    _refuse_remote_references(schema)
    try:
        options = jsonschema_rs.RegexOptions()
        return _JsonSchema(jsonschema_rs.validator_for(schema, pattern_options=options, retriever=_retrieve_nothing))
    except (ValueError, jsonschema_rs.ReferencingError) as error:
        raise UnusableSchema(f"the schema cannot be used: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """What happened, without the drawing of the schema that comes after it."""
    return str(error).partition("\n")[0][:REASON_CHARS_MAX]


def _refuse_remote_references(schema: dict[str, Any]) -> None:
    open_values: list[Any] = [schema]
    while open_values:
        value = open_values.pop()
        if isinstance(value, dict):
            target = value.get("$ref", "#")
            if isinstance(target, str) and not target.startswith("#"):
                raise UnusableSchema(f"$ref {json.dumps(target[:80])} leads outside the schema; inline it under $defs")
            open_values.extend(inner for key, inner in value.items() if key not in _HOLD_DATA)
        elif isinstance(value, list):
            open_values.extend(value)


def _retrieve_nothing(uri: str) -> Any:
    raise ValueError(f"{uri} leads outside the schema")
