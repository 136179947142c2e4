"""Writes the pages of the reference that are made from code.

python -m aicp.server.openapi.reference docs/reference
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from aicp.errors import AicpError
from aicp.runtime.node import Node
from aicp.server.app import make_app
from aicp.server.auth import Keys
from aicp.server.openapi.document import openapi_document
from aicp.server.openapi.page import errors_reference, routes_reference
from aicp.server.problems import STATUS_OF_CODE

FROM_MANY = 6
_BEFORE_THE_ROUTE = frozenset(
    {"invalid_http", "header_too_slow", "header_too_large", "too_many_connections", "not_found", "method_not_allowed"}
)


class ToldError(msgspec.Struct, frozen=True):
    """A row of the page of errors.

    Attributes:
        code: Stable.
        status: Of HTTP.
        retryable: True when the same request may well succeed later.
        title: What it means.
        source: Which routes answer with it, in words.
    """

    code: str
    status: int
    retryable: bool
    title: str
    source: str


def pages() -> dict[str, str]:
    """Each generated page by the name of its file."""
    document = openapi_document(make_app(Node(), Keys("reference")))
    return {"http-routes.md": routes_reference(document), "errors.md": errors_reference(told_errors(document))}


def told_errors(document: Mapping[str, Any]) -> list[ToldError]:
    """Every code that has a status, by status."""
    kinds = {kind.code: kind for kind in _kinds(AicpError) if "code" in vars(kind)}
    routes = _routes_of_codes(document)
    told = [
        ToldError(code, status, kinds[code].retryable, kinds[code].default_message(), _source(code, routes))
        for code, status in STATUS_OF_CODE.items()
    ]
    defect = ToldError("internal_error", 500, False, "A defect: the server's log says why.", "any route")  # noqa: FBT003
    return sorted([*told, defect], key=lambda error: error.status)


def _kinds(kind: type[AicpError]) -> Iterable[type[AicpError]]:
    for inner in kind.__subclasses__():
        yield inner
        yield from _kinds(inner)


def _routes_of_codes(document: Mapping[str, Any]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for code in _codes(operation):
                found.setdefault(code, []).append(f"`{method.upper()} {path}`")
    return found


def _codes(operation: Mapping[str, Any]) -> Iterable[str]:
    for response in operation["responses"].values():
        for content in response.get("content", {}).values():
            for part in content["schema"].get("allOf", ()):
                yield from part.get("properties", {}).get("code", {}).get("enum", ())


def _source(code: str, routes: Mapping[str, list[str]]) -> str:
    if code in _BEFORE_THE_ROUTE:
        return "any request, before its route"
    named = routes.get(code, [])
    if not named:
        return "no route; the Python API raises it"
    return ", ".join(named) if len(named) < FROM_MANY else f"{len(named)} routes"


def main(directory: Path) -> None:
    """Write every page."""
    for name, text in pages().items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
