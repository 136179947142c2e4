"""The query of a URL: what no route takes is refused, so that a misspelt filter does not show everything."""

import inspect
from collections import Counter
from collections.abc import Collection
from functools import cache
from typing import Annotated, Any, get_args, get_origin

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from aicp.errors import Fault, InvalidInput
from aicp.server.auth import Guard, Scope, scope_of

NAME_CHARS_TOLD_MAX = 80
FAULTS_MAX = 100
_REQUEST = "request"


def query_guard(injected: Collection[str]) -> Guard:
    """The guard that refuses parameters which a route does not take, or which stand twice.

    Routes that are open to anybody are left alone: who asks whether a server lives may add what it likes.

    Args:
        injected: Names of arguments that the app gives to handlers.
    """
    no_parameters = frozenset({_REQUEST, *injected})

    @cache
    def lists(handler: BaseRouteHandler) -> frozenset[str]:
        taken = inspect.signature(handler.fn).parameters.values()
        return frozenset(parameter.name for parameter in taken if _is_list(parameter.annotation))

    @cache
    def arguments(handler: BaseRouteHandler) -> frozenset[str]:
        return frozenset(inspect.signature(handler.fn).parameters) - no_parameters

    async def check_query(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if not connection.scope["query_string"] or scope_of(handler) is Scope.OPEN:
            return
        given = Counter(name for name, _ in connection.query_params.multi_items())
        taken = sorted(arguments(handler) - connection.path_params.keys())
        if faults := _faults(given, taken, lists(handler)):
            raise InvalidInput(faults[:FAULTS_MAX])

    return check_query


def _is_list(annotation: Any) -> bool:
    """True for `Annotated[list[…], …]` and `Annotated[list[…] | None, …]`: such a parameter may be repeated."""
    kind = annotation.__origin__ if get_origin(annotation) is Annotated else annotation
    return any(get_origin(each) is list for each in (kind, *get_args(kind)))


def _faults(given: Counter[str], taken: list[str], lists: Collection[str]) -> list[Fault]:
    told = f"it takes {', '.join(taken)}" if taken else "it takes none"
    unknown = [Fault(_place(name), f"is no parameter of this route; {told}") for name in given if name not in taken]
    return unknown + [
        Fault(_place(name), "stands more than once; keep one")
        for name, count in given.items()
        if count > 1 and name in taken and name not in lists
    ]


def _place(name: str) -> str:
    return f"?{name[:NAME_CHARS_TOLD_MAX]}"
