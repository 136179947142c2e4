"""Paths that lead to a route by accident: the framework passes over what stands between two slashes."""

from typing import Any
from urllib.parse import unquote

from litestar.connection import ASGIConnection
from litestar.exceptions import NotFoundException
from litestar.handlers import BaseRouteHandler


async def path_guard(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
    """Refuse a path in which an id may be empty: in `/api/tasks//explain` the next word would be taken for it.

    Slashes that are too many in front, as a base URL with one at its end makes them, and paths without an id are left
    alone.

    Raises:
        NotFoundException: It is one.
    """
    # The path itself has lost them by now.
    if connection.path_params and "//" in unquote(connection.scope["raw_path"].decode("latin-1")).lstrip("/"):
        raise NotFoundException
