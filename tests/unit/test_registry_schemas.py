"""Schemas: compiled once, bounded, and never a way out or a way to hang."""

import time
from collections.abc import Iterable
from datetime import date
from typing import Any

import pytest

from aicp.registry import schemas as module
from aicp.registry.schemas import COMPILED_MAX, SCHEMA_BYTES_MAX, Schemas, UnusableSchema

PICTURE = {
    "type": "object",
    "properties": {"url": {"type": "string"}, "faces": {"type": "array", "items": {"type": "integer"}}},
    "required": ["url"],
}


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"not": schema}
    return schema


def test_what_fits_has_no_misfit() -> None:
    assert Schemas().misfit(PICTURE, {"url": "x", "faces": [1, 2]}) == ""


def test_without_a_schema_anything_goes() -> None:
    assert Schemas().misfit(None, object()) == ""


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({}, '"url" is a required property'),
        ({"url": 1}, '/url: 1 is not of type "string"'),
        ({"url": "x", "faces": [1, "two"]}, '/faces/1: "two" is not of type "integer"'),
        ([], '[] is not of type "object"'),
    ],
)
def test_a_misfit_is_told_with_its_place(value: Any, told: str) -> None:
    assert Schemas().misfit(PICTURE, value) == told


def test_a_misfit_is_short_however_large_the_value_is() -> None:
    assert len(Schemas().misfit({"type": "integer"}, "x" * 1_000_000)) <= 300


@pytest.mark.parametrize("value", [{1: 2}, {"a": {1, 2}}, {"a": object()}], ids=["key", "set", "object"])
def test_what_is_no_json_does_not_fit(value: Any) -> None:
    """A handler in this process may return whatever it likes."""
    told = Schemas().misfit({"properties": {"a": {"type": "array"}}}, value)
    assert told.startswith("is no JSON: ")
    assert "\n" not in told


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"type": "string", "pattern": "(["},
        {"$ref": "#/$defs/missing"},
        {"$schema": "https://example.com/my-own-draft"},
        {"const": object()},
        {1: 2},
        nested(5_000),
    ],
    ids=["type", "pattern", "dangling", "draft", "object", "key", "deep"],
)
def test_what_is_no_schema_is_refused_in_one_line(schema: dict[str, Any]) -> None:
    with pytest.raises(UnusableSchema) as refused:
        Schemas().compile(schema)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("target", ["http://127.0.0.1:9/x.json", "file:///etc/passwd", "other.json", "//host/x"])
def test_references_that_lead_outside_are_refused(target: str) -> None:
    for schema in ({"$ref": target}, {"properties": {"a": {"items": [{"$ref": target}]}}}):
        with pytest.raises(UnusableSchema, match="leads outside the schema; inline it under"):
            Schemas().compile(schema)


@pytest.mark.parametrize("keyword", ["$dynamicRef", "$ref"])
def test_no_disguise_makes_a_schema_reach_out(keyword: str) -> None:
    """Nothing listens there: were it fetched, the refusal would speak of a connection."""
    for schema in (
        {"properties": {"enum": {keyword: "http://127.0.0.1:9/x.json"}}},
        {"$id": "http://127.0.0.1:9/", keyword: "x.json"},
    ):
        with pytest.raises(UnusableSchema) as refused:
            Schemas().compile(schema)
        assert "onnect" not in str(refused.value)


def test_references_inside_the_schema_are_fine() -> None:
    schema = {"$defs": {"n": {"type": "integer"}}, "properties": {"a": {"$ref": "#/$defs/n"}}}
    assert Schemas().misfit(schema, {"a": 1}) == ""
    assert Schemas().misfit(schema, {"a": "x"}) == '/a: "x" is not of type "integer"'


def test_data_that_looks_like_a_reference_is_data() -> None:
    assert Schemas().misfit({"enum": [{"$ref": "my.json"}]}, {"$ref": "my.json"}) == ""
    assert Schemas().misfit({"properties": {"$ref": {"type": "string"}}}, {"$ref": "my.json"}) == ""


def test_a_schema_that_holds_itself_ends() -> None:
    assert Schemas().misfit({"$ref": "#"}, {"a": [1]}) == ""


def test_patterns_run_in_linear_time() -> None:
    began = time.process_time()
    assert Schemas().misfit({"type": "string", "pattern": "^(a+)+$"}, "a" * 50_000 + "!")
    assert time.process_time() - began < 2.0


def test_patterns_that_need_more_than_linear_time_are_refused() -> None:
    for pattern in ("(?=a)b", r"(a)\1", "(a{1000}){1000}"):
        with pytest.raises(UnusableSchema):
            Schemas().compile({"type": "string", "pattern": pattern})


def test_a_schema_may_have_64_kib() -> None:
    overhead = len('{"description":""}')
    Schemas().compile({"description": "x" * (SCHEMA_BYTES_MAX - overhead)})
    with pytest.raises(UnusableSchema, match="65537 bytes; at most 65536 are allowed"):
        Schemas().compile({"description": "x" * (SCHEMA_BYTES_MAX - overhead + 1)})


def test_equal_schemas_are_compiled_once() -> None:
    schemas = Schemas()
    one = schemas.compile({"type": "object", "required": ["a"]})
    assert schemas.compile({"required": ["a"], "type": "object"}) is one


def test_compiled_schemas_are_bounded_and_the_least_used_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert COMPILED_MAX == 4_096
    monkeypatch.setattr(module, "COMPILED_MAX", 3)
    schemas = Schemas()
    made = {number: schemas.compile({"const": number}) for number in range(3)}
    schemas.compile({"const": 0})
    schemas.compile({"const": 3})
    assert kept(schemas, made) == [0, 2]


def kept(schemas: Schemas, made: dict[int, module.Validator]) -> Iterable[int]:
    """Which of them are still the same."""
    compiled = set(map(id, schemas._compiled.values()))
    return [number for number, validator in made.items() if id(validator) in compiled]


def test_a_date_is_no_schema() -> None:
    with pytest.raises(UnusableSchema):
        Schemas().compile({"const": date(2026, 1, 1)})
