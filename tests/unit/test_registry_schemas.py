"""Schemas: compiled once, bounded, and never a way out or a way to hang."""

import time
from collections.abc import Iterable
from datetime import date
from typing import Any

import pytest

from aicp.model.agent import SCHEMA_BYTES_MAX
from aicp.registry import schemas as module
from aicp.registry.schemas import COMPILED_MAX, Schemas, UnusableSchema

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
    assert told.startswith("is not JSON: ")
    assert "\n" not in told


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nonsense"},
        {"$ref": "#/$defs/missing"},
        {"$schema": "https://example.com/my-own-draft"},
        {"const": object()},
        {1: 2},
        nested(5_000),
    ],
    ids=["type", "dangling", "draft", "object", "key", "deep"],
)
def test_what_is_no_schema_is_refused_in_one_line(schema: dict[str, Any]) -> None:
    with pytest.raises(UnusableSchema) as refused:
        Schemas().compile(schema)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("target", ["http://127.0.0.1:9/x.json", "file:///etc/passwd", "other.json", "//host/x"])
def test_references_that_lead_outside_are_refused(target: str) -> None:
    for schema in ({"$ref": target}, {"properties": {"a": {"items": [{"$ref": target}]}}}):
        with pytest.raises(UnusableSchema, match="leads outside the schema; copy what it names under"):
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


@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a+)+(?=b)$", r"^(a|aa)+\1$", "(?!.*zz)^(a*)*b"])
def test_a_pattern_never_hangs_a_check(pattern: str) -> None:
    schemas, schema = Schemas(), {"items": {"type": "string", "pattern": pattern}}
    began = time.process_time()
    for value in (["a" * 50_000 + "!"], ["a" * 990 + "!"], ["a" * 100 + "!"] * 99, ["a!"] * 100_000):
        schemas.misfit(schema, value)
    assert time.process_time() - began < 2.0


ZOD_EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        (ZOD_EMAIL, "ada@example.com", "ada..l@example.com"),
        (r"^(?=.*\d)(?=.*[a-z]).{8,}$", "abcdefg1", "abcdefgh"),
        (r"(?<!un)known", "known", "unknown"),
        (r"^(['\"]).*\1$", "'a'", "'a\""),
    ],
)
def test_look_around_and_back_references_are_checked(pattern: str, good: str, bad: str) -> None:
    schemas, schema = Schemas(), {"type": "string", "pattern": pattern}
    assert schemas.compile(schema).left_out == ()
    assert schemas.misfit(schema, good) == ""
    assert "does not match" in schemas.misfit(schema, bad)


def test_a_value_that_may_cost_too_much_is_checked_without_such_patterns() -> None:
    schemas, schema = Schemas(), {"type": "string", "maxLength": 5_000, "pattern": ZOD_EMAIL}
    assert schemas.misfit(schema, "a" * 900 + "@example.com") == ""
    assert schemas.misfit(schema, "a" * 900)
    assert schemas.misfit(schema, "a" * 4_000) == ""
    assert schemas.misfit(schema, "a" * 6_000), "the other keywords hold"


@pytest.mark.parametrize("pattern", ["([", r"[\w-\.]+", "(a{1000}){1000}{1000}", r"[\uD83C-\uDBFF]"])
def test_a_pattern_that_cannot_be_taken_is_left_out_and_said(pattern: str) -> None:
    schema = {
        "type": "object",
        "properties": {"pattern": {"type": "string", "pattern": pattern}},
        "patternProperties": {pattern: {"type": "integer"}, "^n_": {"type": "integer"}},
    }
    validator = Schemas().compile(schema)
    places = {fault.place for fault in validator.left_out}
    assert len(places) == 2
    assert "/properties/pattern/pattern" in places
    assert all("is not checked" in fault.message for fault in validator.left_out)
    assert validator.misfit({"pattern": "anything"}) == ""
    assert validator.misfit({"pattern": 1})
    assert validator.misfit({"n_a": "x"})
    assert schema["properties"] == {"pattern": {"type": "string", "pattern": pattern}}, "the agent's own is unchanged"


@pytest.mark.parametrize(
    "schema",
    [
        {"$id": "https://x.test/s.json", "$ref": "https://x.test/s.json#/$defs/n", "$defs": {"n": {"type": "integer"}}},
        {"$id": "https://x.test/s.json", "$ref": "s.json#/$defs/n", "$defs": {"n": {"type": "integer"}}},
        {"$schema": "https://spec.openapis.org/oas/3.1/dialect/base", "type": "integer", "discriminator": {}},
        {"$schema": "https://spec.openapis.org/oas/3.1/dialect/2024-11-10", "type": "integer", "nullable": True},
        {"allOf": [True, {"type": "integer"}]},
    ],
    ids=["own id", "relative to its id", "OpenAPI", "OpenAPI with a date", "true inside"],
)
def test_what_tools_generate_is_taken(schema: dict[str, Any]) -> None:
    assert Schemas().misfit(schema, 1) == ""
    assert Schemas().misfit(schema, "x")


def test_boolean_schemas_mean_anything_and_nothing() -> None:
    anything, nothing = True, False
    assert Schemas().misfit(anything, {"a": 1}) == ""
    assert Schemas().misfit(nothing, {"a": 1})


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ({"$ref": "#/components/schemas/Pet"}, "copy it under $defs as '#/$defs/Pet'"),
        ({"properties": {"a": {"$ref": "#/components/schemas/Pet"}}}, "at /properties/a names a part"),
        ({"properties": {"a": {"$ref": "Pet.json"}}}, "copy what it names under $defs"),
        ({"$schema": "https://example.com/mine"}, "its $schema is unknown; leave $schema out"),
        ({"properties": {"a": {"type": "any"}}}, "at /properties/a/type"),
    ],
)
def test_a_refusal_gives_the_true_reason_and_what_to_do(schema: dict[str, Any], told: str) -> None:
    with pytest.raises(UnusableSchema) as refused:
        Schemas().compile(schema)
    assert told in str(refused.value)


def test_a_schema_may_have_256_kib() -> None:
    overhead = len('{"description":""}')
    Schemas().compile({"description": "x" * (SCHEMA_BYTES_MAX - overhead)})
    with pytest.raises(UnusableSchema, match="262145 bytes; at most 262144 are allowed"):
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


def test_the_text_of_compiled_schemas_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMPILED_BYTES_MAX", 300)
    schemas = Schemas()
    made = {number: schemas.compile({"const": number, "description": "x" * 80}) for number in range(6)}
    assert kept(schemas, made) == [4, 5]


@pytest.mark.parametrize("wrong", [7, [[7]], {"a": "x"}])
def test_first_fault_of_a_large_value_is_found_wherever_it_is(wrong: object) -> None:
    schemas = Schemas()
    schema: dict[str, Any] = {
        "properties": {"l": {"items": {"properties": {"a": {"type": "integer"}}, "type": "object"}}}
    }
    rows: list[object] = [{"a": n} for n in range(5_000)]
    for place in (0, 3, 4_000):
        value = {"l": [*rows[:place], wrong, *rows[place:]]}
        assert schemas.misfit(schema, value).startswith(f"/l/{place}")
    assert "is not of type" in schemas.misfit({"properties": {"l": {"type": "string"}}}, {"l": rows})
    assert "has more than 4999 items" in schemas.misfit({"properties": {"l": {"maxItems": 4_999}}}, {"l": rows})
