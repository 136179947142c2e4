"""The page of the HTTP API and the pages of its reference: the OpenAPI document, written for people.

The page has no script and loads nothing but its own style sheet; it is written once, by templates beside this file.
"""

import json
import re
import shlex
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup, escape

from aicp.server.openapi.schemas import PREFIX, not_null

Document = dict[str, Any]

STYLE = "page.css"
_SHOWN = frozenset({"wait_s", "status"})
_CODE = re.compile(r"`([^`]+)`")


def page(document: Document) -> str:
    """The document as HTML."""
    return _templates().get_template("page.html").render(document=document, routes=_routes_by_tag(document))


@cache
def style() -> bytes:
    """The style sheet of the page."""
    return (files(__package__) / STYLE).read_bytes()


def routes_reference(document: Document) -> str:
    """The routes as a page of the reference, Markdown."""
    return _templates().get_template("routes.md").render(document=document, routes=_routes_by_tag(document))


def errors_reference(errors: Sequence[Any]) -> str:
    """The codes as a page of the reference, Markdown."""
    return _templates().get_template("errors.md").render(errors=errors)


@cache
def _templates() -> Environment:
    """Autoescaped where HTML comes out."""
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=select_autoescape(enabled_extensions=("html",)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        prose=_prose,
        pretty=_pretty,
        component=_component,
        curl=_curl,
        bounds=_bounds,
        rank=_rank,
        cell=_cell,
        breakable=_breakable,
    )
    return environment


def _routes_by_tag(document: Document) -> list[dict[str, Any]]:
    """Each tag with its routes, in the order of the tags, and then of the paths."""
    tags = {tag["name"]: {**tag, "routes": []} for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            route = {"method": method.upper(), "path": path, **operation}
            tags.setdefault(operation["tags"][0], {"name": operation["tags"][0], "description": "", "routes": []})
            tags[operation["tags"][0]]["routes"].append(route)
    return [tag for tag in tags.values() if tag["routes"]]


def _prose(text: str) -> Markup:
    """What stands in backticks as code, and an empty line as the end of a paragraph."""
    told = _CODE.sub(r"<code>\1</code>", str(escape(text)))
    return Markup(told.replace("\n\n", "</p><p>"))  # noqa: S704 - escaped in the line above


def _breakable(path: str) -> Markup:
    """A path that may go on in the next line after each slash."""
    return Markup("/<wbr>").join(path.split("/"))


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|")


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _component(schema: dict[str, Any]) -> str:
    """The name of the component that a schema is; empty when it is none."""
    return str(schema.get("$ref", "")).removeprefix(PREFIX)


def _rank(status: str) -> str:
    """Whether a status is good news."""
    return "good" if status.startswith("2") else "bad"


def _bounds(schema: dict[str, Any]) -> str:
    """What a value must be besides its type, in a few words."""
    told, default, schema = [], schema.get("default"), not_null(schema)
    if "minimum" in schema and "maximum" in schema:
        told.append(f"{_number(schema['minimum'])} to {_number(schema['maximum'])}")
    elif "exclusiveMinimum" in schema:
        told.append(f"more than {_number(schema['exclusiveMinimum'])}, at most {_number(schema['maximum'])}")
    for word, key in (("characters", "Length"), ("entries", "Items"), ("entries", "Properties")):
        least, most = schema.get(f"min{key}"), schema.get(f"max{key}")
        if most is not None:
            told.append(f"{least} to {_number(most)} {word}" if least else f"at most {_number(most)} {word}")
    if default or default is False:
        told.append(f"{json.dumps(default)} if left out")
    return ", ".join(told)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,}"


def _curl(route: dict[str, Any]) -> str:
    """A call of the route that can be pasted into a shell."""
    url, query, headers = route["path"], [], _key_of(route)
    for parameter in route.get("parameters", ()):
        name, example = parameter["name"], parameter.get("example")
        if parameter["in"] == "path":
            url = url.replace("{" + name + "}", str(example))
        elif parameter["in"] == "query" and (parameter["required"] or (route["method"] == "GET" and name in _SHOWN)):
            query.append(f"{name}={example}")
        elif name == "Idempotency-Key":
            headers.append(f'-H "{name}: {example}"')
    target = f'"$AICP_URL{url}{"?" if query else ""}{"&".join(query)}"'
    return " \\\n  ".join([" ".join(["curl", *_options(route), target]), *headers, *_data(route)])


def _key_of(route: dict[str, Any]) -> list[str]:
    return [] if route.get("security") == [] else ['-H "Authorization: Bearer $AICP_API_KEY"']


def _options(route: dict[str, Any]) -> list[str]:
    is_live = any("text/event-stream" in answer.get("content", {}) for answer in route["responses"].values())
    is_plain = route["method"] == "GET" or _needs_body(route)
    return [*([] if is_plain else ["-X", route["method"]]), *(["-N"] if is_live else [])]


def _needs_body(route: dict[str, Any]) -> bool:
    return "requestBody" in route and bool(route["requestBody"]["required"])


def _data(route: dict[str, Any]) -> list[str]:
    if not _needs_body(route):
        return []
    example = route["requestBody"]["content"]["application/json"]["example"]
    return ['-H "Content-Type: application/json"', f"-d {shlex.quote(_pretty(example))}"]
