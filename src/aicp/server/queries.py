"""The query of a URL: what no route takes is refused, so that a misspelt filter does not show everything."""

import inspect
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from typing import Annotated, Any, get_args, get_origin

import msgspec
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter
from litestar.types import AnyCallable

from aicp.errors import Fault, InvalidInput
from aicp.server.auth import Guard, Scope, scope_of

NAME_CHARS_TOLD_MAX = 80
FAULTS_MAX = 100
_REQUEST = "request"


class _Parameter(msgspec.Struct, frozen=True):
    """What may stand in the query.

    Attributes:
        is_list: True when it may be repeated.
        choices: The words that it may be; empty for any.
    """

    is_list: bool
    choices: tuple[str, ...]


def path_parameters(handler: BaseRouteHandler) -> list[str]:
    """The names of what stands in the path of a route, in their order."""
    parts = (part for path in handler.paths for part in path.split("/") if part.startswith("{"))
    return list(dict.fromkeys(part[1:-1].partition(":")[0] for part in parts))


def query_name(argument: str, annotation: Any) -> str:
    """What an argument of a route is called in the query: another name where that one is a word of Python."""
    told = (each for each in getattr(annotation, "__metadata__", ()) if isinstance(each, QueryParameter))
    return next((each.name for each in told if each.name), argument)


def query_guard(injected: Collection[str]) -> Guard:
    """The guard that refuses parameters which a route does not take, which stand twice, or are none of a few words.

    Routes that are open to anybody are left alone: who asks whether a server lives may add what it likes.

    Args:
        injected: Names of arguments that the app gives to handlers.
    """
    no_parameters = frozenset({_REQUEST, *injected})

    # By the function: Litestar hands each request a copy of the handler, and every copy would be kept for ever.
    known: dict[AnyCallable, dict[str, _Parameter]] = {}

    def parameters(handler: BaseRouteHandler) -> dict[str, _Parameter]:
        if handler.fn not in known:
            arguments = inspect.signature(handler.fn).parameters.values()
            others = no_parameters.union(path_parameters(handler))
            taken = [argument for argument in arguments if argument.name not in others]
            known[handler.fn] = {
                query_name(argument.name, argument.annotation): _parameter(argument.annotation) for argument in taken
            }
        return known[handler.fn]

    async def check_query(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if not connection.scope["query_string"] or scope_of(handler) is Scope.OPEN:
            return
        given: dict[str, list[str]] = defaultdict(list)
        for name, value in connection.query_params.multi_items():
            given[name].append(value)
        if faults := list(_faults(given, parameters(handler))):
            raise InvalidInput(faults[:FAULTS_MAX])

    return check_query


def _parameter(annotation: Any) -> _Parameter:
    """What `Annotated[…, …]` says, with or without `| None`."""
    kind = annotation.__origin__ if get_origin(annotation) is Annotated else annotation
    kinds = (kind, *get_args(kind))
    choices = next((tuple(each) for each in kinds if isinstance(each, type) and issubclass(each, StrEnum)), ())
    return _Parameter(any(get_origin(each) is list for each in kinds), choices)


def _faults(given: Mapping[str, list[str]], taken: Mapping[str, _Parameter]) -> Iterator[Fault]:
    told = f"it takes {', '.join(sorted(taken))}" if taken else "it takes none"
    for name, values in given.items():
        if (parameter := taken.get(name)) is None:
            yield Fault(_place(name), f"is no parameter of this route; {told}")
        elif len(values) > 1 and not parameter.is_list:
            yield Fault(_place(name), "stands more than once; keep one")
        elif parameter.choices and values[0] not in parameter.choices:
            value = values[0][:NAME_CHARS_TOLD_MAX]
            yield Fault(_place(name), f"'{value}' is none: choose from {', '.join(parameter.choices)}")


def _place(name: str) -> str:
    return f"?{name[:NAME_CHARS_TOLD_MAX]}"
