"""Who may do what: keys, scopes, and the guards that every route passes."""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import Any

import msgspec
from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from aicp.errors import AccessDenied
from aicp.model.agent import DEFAULT_TENANT
from aicp.server.problems import HostRefused, ScopeMissing

Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]

_SCOPE = "aicp_scope"
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class Scope(StrEnum):
    """What a key allows. `OPEN` and `ANY_KEY` are no scopes of keys but what a route asks for: nothing, or any key."""

    OPEN = "open"
    ANY_KEY = "any_key"
    TASKS_SUBMIT = "tasks:submit"
    TASKS_READ = "tasks:read"
    TASKS_CANCEL = "tasks:cancel"
    AGENTS_READ = "agents:read"
    AGENTS_WRITE = "agents:write"
    BREAKERS_WRITE = "breakers:write"
    METRICS_READ = "metrics:read"
    ADMIN = "admin"


class Caller(msgspec.Struct, frozen=True):
    """Who sent a request, as its key says.

    Attributes:
        tenant: Whose objects it sees and makes.
        scopes: What it may do; `ADMIN` is everything.
    """

    tenant: str = DEFAULT_TENANT
    scopes: frozenset[Scope] = frozenset({Scope.ADMIN})

    def may(self, scope: Scope) -> bool:
        """True when the caller may use a route that asks for `scope`."""
        return scope in {Scope.OPEN, Scope.ANY_KEY} or not self.scopes.isdisjoint({scope, Scope.ADMIN})


class Keys:
    """The keys a server knows; it keeps only their SHA-256.

    Args:
        admin_key: Opens everything.
    """

    def __init__(self, admin_key: str) -> None:
        self._admin_digest = _digest(admin_key)

    def find(self, key: str) -> Caller | None:
        """Whose key it is; takes as long for a wrong one as for a right one."""
        return Caller() if hmac.compare_digest(_digest(key), self._admin_digest) else None


class UnscopedRoute(Exception):
    """A route was written without saying who may use it; the server does not start with one."""


def needs(scope: Scope) -> dict[str, Any]:
    """What a route says as its `opt`: who may use it."""
    return {_SCOPE: scope}


def scope_of(handler: BaseRouteHandler) -> Scope:
    """Who may use a route. OPTIONS handlers are the framework's own; they tell methods, to any key."""
    return Scope(handler.opt.get(_SCOPE, Scope.ANY_KEY))


def key_guard(keys: Keys) -> Guard:
    """The guard that lets through who has a key for the route's scope; `request.user` is then the `Caller`.

    An open route lets everybody through, and has a user only when there is a key that is right.
    """

    async def check_key(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        scope = scope_of(handler)
        caller = keys.find(_bearer(connection))
        if scope is Scope.OPEN:
            connection.scope["user"] = caller
            return
        if caller is None:
            raise AccessDenied
        if not caller.may(scope):
            raise ScopeMissing(f"This needs a key with the scope '{scope}'.")
        connection.scope["user"] = caller

    return check_key


def host_guard(hosts: frozenset[str]) -> Guard:
    """The guard that refuses a Host header naming somebody else: a page in a browser that had its name rebound."""

    async def check_host(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        named = connection.headers.get("host", "")
        if _without_port(named) not in hosts:
            raise HostRefused(f"The Host header '{named[:80]}' does not name this server; use {min(hosts)}.")

    return check_host


def loopback_hosts(bound_host: str) -> frozenset[str]:
    """The names under which a server bound to loopback may be called."""
    return _LOOPBACK_NAMES | {f"[{bound_host}]" if ":" in bound_host else bound_host.lower()}


def check_scopes(app: Litestar) -> None:
    """Make sure that every route says who may use it.

    Raises:
        UnscopedRoute: One does not.
    """
    for path, handler in declared_routes(app):
        if _SCOPE not in handler.opt:
            raise UnscopedRoute(f"{path} declares no scope; give it opt=needs(Scope.…)")


def declared_routes(app: Litestar) -> Iterable[tuple[str, BaseRouteHandler]]:
    """Every route with its path, without the OPTIONS that the framework adds."""
    for route in app.routes:
        handlers = getattr(route, "route_handlers", None) or [getattr(route, "route_handler", None)]
        for handler in handlers:
            if handler is not None and getattr(handler, "http_methods", None) != {"OPTIONS"}:
                yield route.path, handler


def _bearer(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    kind, _, key = connection.headers.get("authorization", "").partition(" ")
    return key.strip() if kind.lower() == "bearer" else ""


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
