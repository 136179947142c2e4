"""The OpenAPI document is whole and sound: every route, every body, every example, and a page without a script."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from litestar.handlers import HTTPRouteHandler

from aicp.runtime.node import Node
from aicp.server import Keys, make_app
from aicp.server.auth import Scope, declared_routes, scope_of
from aicp.server.openapi.document import openapi_document
from aicp.server.openapi.page import page, style
from aicp.server.problems import STATUS_OF_CODE

APP = make_app(Node(), Keys("k"))
DOCUMENT = openapi_document(APP)
# What refuses a request before it is the route's.
BEFORE_THE_ROUTE = {"invalid_http", "header_too_slow", "header_too_large", "too_many_connections", "not_found"}
BEFORE_THE_ROUTE |= {"method_not_allowed"}
# What a call of Python raises that waits for a result, and no submit answers with.
OF_PYTHON = {"reference_not_found", "all_agents_failed", "routing_error", "no_agent_available", "circuit_open"}
OF_PYTHON |= {"deadline_exceeded", "attempt_timed_out"}


def operations() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def handlers() -> list[HTTPRouteHandler]:
    """Of the API: the dashboard's files are none of it."""
    declared = [handler for _, handler in declared_routes(APP) if isinstance(handler, HTTPRouteHandler)]
    return [handler for handler in declared if handler.resolve_include_in_schema()]


def inside(value: Any) -> Iterator[Any]:
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from inside(inner)


def examples() -> Iterator[tuple[str, Any, Any]]:
    """Each example with the schema it stands beside."""
    for name, operation in operations():
        for value in inside(operation):
            if isinstance(value, dict) and "example" in value and "schema" in value:
                yield name, value["schema"], value["example"]


def test_every_route_is_told_once() -> None:
    told = [operation["operationId"] for _, operation in operations()]
    assert sorted(told) == sorted(handler.handler_name for handler in handlers())


def test_every_reference_leads_to_a_component() -> None:
    references = {value["$ref"] for value in inside(DOCUMENT) if isinstance(value, dict) and "$ref" in value}
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert references <= known


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_every_component_is_a_schema_with_every_field_explained(name: str) -> None:
    component = DOCUMENT["components"]["schemas"][name]
    jsonschema_rs.meta.validate(component)
    assert component["description"]
    unexplained = [field for field, schema in component.get("properties", {}).items() if not schema.get("description")]
    assert not unexplained


@pytest.mark.parametrize(
    ("name", "schema", "example"), list(examples()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_example_fits_its_schema(name: str, schema: Any, example: Any) -> None:
    whole = {**schema, "components": DOCUMENT["components"]}
    jsonschema_rs.validator_for(whole).validate(example)


def test_every_answer_that_is_json_has_an_example() -> None:
    without = [
        name
        for name, operation in operations()
        for response in operation["responses"].values()
        for media, content in response.get("content", {}).items()
        if media == "application/json" and "$ref" in content["schema"] and "example" not in content
    ]
    assert not without


@pytest.mark.parametrize("handler", handlers(), ids=lambda handler: handler.handler_name)
def test_route_that_reads_a_body_or_a_key_says_so(handler: HTTPRouteHandler) -> None:
    operation = next(told for _, told in operations() if told["operationId"] == handler.handler_name)
    used = set(handler.fn.__code__.co_names)
    headers = {parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "header"}
    needed = operation.get("requestBody", {}).get("required")
    if "read_submit" in used:
        used |= {"read_document", "submit_key"}
    assert (needed is True, needed is False) == ("read_document" in used, "read_document_if_any" in used)
    assert ("Idempotency-Key" in headers) == ("submit_key" in used)
    assert ("traceparent" in headers) == ("parse_traceparent" in used)


@pytest.mark.parametrize("handler", handlers(), ids=lambda handler: handler.handler_name)
def test_route_names_its_scope_and_whether_it_is_open(handler: HTTPRouteHandler) -> None:
    operation = next(told for _, told in operations() if told["operationId"] == handler.handler_name)
    scope = scope_of(handler)
    assert operation["x-scope"] == scope
    assert (operation.get("security") == []) == (scope is Scope.OPEN)
    assert scope in {Scope.OPEN, Scope.ANY_KEY} or f"`{scope}`" in operation["description"]


def test_registering_may_be_refused_for_what_the_key_does_not_name() -> None:
    [operation] = [each for name, each in operations() if name == "POST /ains/agents"]
    assert "`capability_refused`" in operation["responses"]["403"]["description"]


def test_every_code_is_answered_by_a_route_or_known_not_to_be() -> None:
    told = {
        code
        for value in inside(DOCUMENT["paths"])
        if isinstance(value, dict) and isinstance(value.get("code"), dict)
        for code in value["code"].get("enum", ())
    }
    assert told | BEFORE_THE_ROUTE | OF_PYTHON == STATUS_OF_CODE.keys()
    assert not told & (BEFORE_THE_ROUTE | OF_PYTHON)


def test_page_shows_every_route_and_schema_and_every_link_in_it_leads_somewhere() -> None:
    written = page(DOCUMENT)
    anchors = set(re.findall(r'id="([^"]+)"', written))
    assert {operation["operationId"] for _, operation in operations()} <= anchors
    assert {f"schema-{name}" for name in DOCUMENT["components"]["schemas"]} <= anchors
    assert set(re.findall(r'href="#([^"]+)"', written)) <= anchors


def test_page_has_no_script_no_inline_style_and_nothing_from_elsewhere() -> None:
    written = page(DOCUMENT)
    assert not re.search(
        r"<script|<style|\sstyle=|\son\w+=|<img|<iframe|<link(?! rel=\"stylesheet\" href=\"/docs/)", written
    )
    assert not re.search(r"https?:|url\(|@import", style().decode())


def test_page_escapes_what_the_document_says() -> None:
    document = json.loads(json.dumps(DOCUMENT))
    document["paths"]["/api/info"]["get"]["summary"] = "<script>alert(1)</script> `<b>`"
    written = page(document)
    assert "<script>" not in written
    assert "<code>&lt;b&gt;</code>" in written
