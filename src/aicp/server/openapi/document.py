"""The OpenAPI 3.1 document of a server, made from its routes."""

import http
from collections import defaultdict
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Any, get_args, get_origin

from litestar import Litestar
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter

from aicp.errors import AicpError
from aicp.model.access import KeyRequest, SessionRequest
from aicp.model.agent import AGENT_ID_PATTERN, Registration
from aicp.model.chain import ChainSpec
from aicp.model.live import KIND_PATTERN, KINDS, LiveEvent
from aicp.model.run_id import CHAIN_ID_PATTERN, RUN_ID_PATTERN, TASK_ID_PATTERN
from aicp.server.answers import Written
from aicp.server.auth import Scope, declared_routes, scope_of
from aicp.server.openapi.examples import BODIES, PARAMETERS, example_of
from aicp.server.openapi.operations import problems_of, told_of
from aicp.server.openapi.schemas import (
    CAPABILITY_REF,
    Schema,
    add_kinds_of_task,
    parameter_schema,
    reference_to,
    schemas_of,
)
from aicp.server.problems import PROBLEM_TYPE, STATUS_OF_CODE, Problem
from aicp.server.queries import path_parameters
from aicp.server.routes.agents import Drain, Heartbeat
from aicp.version import __version__

OPENAPI_VERSION = "3.1.0"
BEARER = "bearer"
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
TAGS = {
    "tasks": "One task, or several side by side: submit, follow, list, explain, cancel.",
    "chains": "Tasks that wait for one another: submit, follow, draw, cancel, do again.",
    "agents": "AINS, the registry: agents register, send heartbeats, are found, leave.",
    "circuit breakers": "How well the agents do, what failed lately, and an operator's commands.",
    "events": "What happens, as it happens, and what happened lately.",
    "access": "Keys that open this API, sessions of the dashboard, and who changed what with them.",
    "status": "The server itself: alive, ready, busy, measured.",
}
INTRODUCTION = (
    "AICP sends each task to the best healthy agent, fails over when one breaks, and carries chains of tasks to a "
    "recorded end. Bodies are JSON. Names that end in `_s` are seconds, in `_ms` milliseconds, in `_at` times in RFC "
    "3339, UTC. Answers may gain fields: ignore those you do not know.\n\n"
    "Every answer that is no success is `application/problem+json` (RFC 9457) with a stable `code`. Before a request "
    "reaches its route the connection may be told `invalid_http` (400), `header_too_slow` or `body_too_slow` (408), "
    "`header_too_large` (431) or `too_many_connections` (503); a path that is none is `not_found` (404), a method that "
    "a path does not take `method_not_allowed` (405)."
)
_HEADERS: dict[str, tuple[str, Schema]] = {
    "Idempotency-Key": (
        "Makes it safe to send this again: same key and body, same answer, for 7 days.",
        {"type": "string", "pattern": "^[!-~](?:[ -~]{0,254}[!-~])?$"},
    ),
    "traceparent": ("The W3C trace that this belongs to.", {"type": "string"}),
    "Last-Event-ID": ("Go on after this event.", {"type": "string"}),
}
_INFO = {
    "title": "AICP",
    "version": __version__,
    "summary": "Work goes on when AI agents fail.",
    "description": INTRODUCTION,
    "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
}
_PATH = {
    "task_id": "Global id of a task, `<chain id>.<local id>`; of an item or round of it, `.<number>` follows.",
    "chain_id": "Id of a chain.",
    "agent_id": "Id of an agent.",
    "key_id": "Id of a key; not its secret.",
}
_PATH_SCHEMAS: dict[str, Schema] = {
    "task_id": {"pattern": f"^{RUN_ID_PATTERN.pattern}$"},
    "chain_id": {"pattern": f"^{CHAIN_ID_PATTERN.pattern}$"},
}
_TIME_OR_EMPTY: Schema = {"anyOf": [{"format": "date-time"}, {"maxLength": 0}]}
_QUERY: dict[str, Schema] = {
    "capability": CAPABILITY_REF,
    "chain_id": {"pattern": f"^(?:{TASK_ID_PATTERN.pattern})?$"},
    "agent_id": {"pattern": f"^(?:{AGENT_ID_PATTERN.pattern})?$"},
    "from": _TIME_OR_EMPTY,
    "to": _TIME_OR_EMPTY,
    "kind": {
        "type": "array",
        "items": {"type": "string", "pattern": f"^{KIND_PATTERN.pattern}$", "examples": list(KINDS)},
    },
    "label": {"items": {"type": "string", "pattern": "^[^=]+=."}, "uniqueItems": True},
}
_QUERY_TOLD = {"capability": "`name` or `name@major`."}
_BODY_KINDS = (ChainSpec, Registration, Heartbeat, Drain, KeyRequest, SessionRequest, LiveEvent, Problem)


def openapi_document(app: Litestar) -> dict[str, Any]:
    """The document of an app; the same routes give the same document, with its paths in their order."""
    routes = sorted(_routes(app), key=lambda route: (route[0], METHODS.index(route[1])))
    kinds = {kind for _, _, handler in routes for kind in _answer_kinds(handler)}
    ordered = sorted(kinds, key=str)
    answers, components = schemas_of([*ordered, *_BODY_KINDS])
    add_kinds_of_task(components)
    schema_of = dict(zip(ordered, answers, strict=False))
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for path, method, handler in routes:
        paths[path][method.lower()] = _operation(handler, schema_of)
    return {
        "openapi": OPENAPI_VERSION,
        "info": _INFO,
        "servers": [{"url": "/", "description": "This server."}],
        "security": [{BEARER: []}],
        "tags": [{"name": name, "description": told} for name, told in TAGS.items()],
        "paths": dict(paths),
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                BEARER: {"type": "http", "scheme": "bearer", "description": "A key of this server: `Bearer <key>`."}
            },
        },
    }


def _routes(app: Litestar) -> Iterator[tuple[str, str, HTTPRouteHandler]]:
    for path, handler in declared_routes(app):
        # What is for browsers alone is no part of the API.
        if isinstance(handler, HTTPRouteHandler) and handler.resolve_include_in_schema():
            # HEAD is the same operation, and an operation has one name.
            for method in handler.http_methods.difference({"HEAD"}):
                yield path.replace(":str", ""), str(method), handler


def _operation(handler: HTTPRouteHandler, schema_of: dict[Any, Schema]) -> dict[str, Any]:
    scope, told = scope_of(handler), told_of(handler.handler_name)
    summary, _, more = (handler.fn.__doc__ or handler.handler_name).strip().partition("\n")
    operation: dict[str, Any] = {
        "operationId": handler.handler_name,
        "tags": sorted(handler.resolve_tags()),
        "summary": summary.rstrip("."),
        "description": " ".join([*more.split(), _needs(scope)]),
        "x-scope": scope,
        "parameters": list(_parameters(handler, told.headers)),
        "responses": _responses(handler, scope, schema_of, told.content),
    }
    if scope is Scope.OPEN:
        operation["security"] = []
    if told.body:
        content = {"schema": reference_to(told.body), "example": BODIES[told.body]}
        operation["requestBody"] = {"required": told.needs_body, "content": {"application/json": content}}
    return {key: value for key, value in operation.items() if value or key == "security"}


def _needs(scope: Scope) -> str:
    if scope is Scope.OPEN:
        return "Open to everybody: no key."
    return "Any key." if scope is Scope.ANY_KEY else f"A key with the scope `{scope}`."


def _parameters(handler: HTTPRouteHandler, headers: Iterable[str]) -> Iterable[dict[str, Any]]:
    for name, field in handler.parsed_fn_signature.parameters.items():
        told = field.kwarg_definition
        if name in path_parameters(handler):
            schema = {"type": "string", "minLength": 1, **_PATH_SCHEMAS.get(name, {})}
            yield _parameter(name, "path", schema, _PATH.get(name, ""), required=True)
        elif isinstance(told, QueryParameter):
            yield _query_parameter(told.name or name, field.annotation, field.default, told)
    for name in headers:
        description, schema = _HEADERS[name]
        yield _parameter(name, "header", schema, description)


def _query_parameter(name: str, kind: Any, default: Any, told: QueryParameter) -> dict[str, Any]:
    bounds = {"minimum": told.ge, "maximum": told.le, "default": default}
    schema = parameter_schema(kind, {key: value for key, value in bounds.items() if isinstance(value, int | float)})
    schema |= _QUERY.get(name, {}) | (told.schema_extra or {})
    parameter = _parameter(name, "query", schema, told.description or _QUERY_TOLD.get(name, ""))
    # The one list that has commas in it; the others are repeated.
    return {**parameter, "style": "form", "explode": False} if name == "kind" else parameter


def _parameter(name: str, place: str, schema: Schema, description: str, *, required: bool = False) -> dict[str, Any]:
    told: dict[str, Any] = {"name": name, "in": place, "required": required, "schema": schema}
    if description:
        told["description"] = description
    if name in PARAMETERS:
        told["example"] = PARAMETERS[name]
    return told


def _responses(
    handler: HTTPRouteHandler, scope: Scope, schema_of: dict[Any, Schema], content: str
) -> dict[str, dict[str, Any]]:
    responses = {str(handler.status_code): _success(handler, schema_of, content)}
    if handler.handler_name == "readyz":
        responses["503"] = {"description": "Not ready.", "content": {"text/plain": {"schema": {"type": "string"}}}}
    by_status: dict[int, list[type[AicpError]]] = defaultdict(list)
    for kind in problems_of(handler.handler_name, scope, path_parameters(handler)):
        by_status[STATUS_OF_CODE[kind.code]].append(kind)
    for status, kinds in sorted(by_status.items()):
        responses[str(status)] = _refusal(status, kinds)
    return responses


def _success(handler: HTTPRouteHandler, schema_of: dict[Any, Schema], content: str) -> dict[str, Any]:
    told: dict[str, Any] = {"description": http.HTTPStatus(handler.status_code).phrase}
    if kinds := _answer_kinds(handler):
        schemas = [schema_of[kind] for kind in kinds]
        told["content"] = {"application/json": {"schema": {"anyOf": schemas} if len(schemas) > 1 else schemas[0]}}
        if (example := _example(kinds[0])) is not None:
            told["content"]["application/json"]["example"] = example
    elif content:
        told["content"] = {content: {"schema": {} if content.endswith("json") else {"type": "string"}}}
    elif handler.status_code != http.HTTPStatus.NO_CONTENT:
        told["content"] = {_media_type(handler): {"schema": {"type": "string"}}}
    return told


def _media_type(handler: HTTPRouteHandler) -> str:
    return str(getattr(handler.media_type, "value", handler.media_type) or "text/plain")


def _example(kind: Any) -> Any:
    if get_origin(kind) is list:
        example = example_of(*get_args(kind))
        return None if example is None else [example]
    return example_of(kind)


def _refusal(status: int, kinds: list[type[AicpError]]) -> dict[str, Any]:
    codes = sorted(kind.code for kind in kinds)
    told = " ".join(f"`{kind.code}`: {kind.default_message()}" for kind in sorted(kinds, key=lambda kind: kind.code))
    exact = {"type": "object", "properties": {"code": {"enum": codes}, "status": {"const": status}}}
    response: dict[str, Any] = {
        "description": told,
        "content": {PROBLEM_TYPE: {"schema": {"allOf": [reference_to("Problem"), exact]}}},
    }
    if status in {429, 503}:
        description = "Seconds after which it may be tried again; left out when nobody knows."
        response["headers"] = {"Retry-After": {"description": description, "schema": {"type": "string"}}}
    if status == 401:
        response["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return response


def _answer_kinds(handler: HTTPRouteHandler) -> tuple[Any, ...]:
    """What it answers as JSON, any of these; none when it answers something else, or nothing."""
    kind = handler.parsed_fn_signature.return_type.annotation
    if get_origin(kind) is Written:
        kind = get_args(kind)[0]
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    return kinds if all(get_origin(each) is list or hasattr(each, "__struct_fields__") for each in kinds) else ()
