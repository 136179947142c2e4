"""Who may do what: the guards that every route passes, and what a route says of itself to them."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, cast

from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from aicp.errors import AccessDenied
from aicp.model.access import EVERY_TENANT, Scope
from aicp.server.keys import Caller, KeyHolder, Keys
from aicp.server.problems import HostRefused, OriginRefused, ScopeMissing

__all__ = [
    "Caller",
    "Guard",
    "KeyHolder",
    "Keys",
    "Scope",
    "UnscopedRoute",
    "check_may_wait",
    "check_scopes",
    "declared_routes",
    "holder_of",
    "host_guard",
    "is_audited",
    "key_guard",
    "loopback_hosts",
    "needs",
    "object_of",
    "origin_guard",
    "scope_of",
    "tell_object",
]

Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]

_SCOPE = "aicp_scope"
_EVERY_TENANT = "aicp_every_tenant"
_AUDITED = "aicp_audited"
_OBJECT = "aicp_object"
_HOLDER = "auth"
_SEVERAL = "There are several different Authorization headers: send one."
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})


class UnscopedRoute(Exception):
    """A route was written without saying who may use it; the server does not start with one."""


def needs(scope: Scope, *, every_tenant: bool = False, audited: bool = True) -> dict[str, Any]:
    """What a route says as its `opt`: who may use it.

    Args:
        scope: What the key must allow.
        every_tenant: True when it tells of the whole server, and so a key of one tenant is not enough.
        audited: False for a route that changes nothing worth remembering, though its method might.
    """
    return {_SCOPE: scope, _EVERY_TENANT: every_tenant, _AUDITED: audited}


def scope_of(handler: BaseRouteHandler) -> Scope:
    """Who may use a route. OPTIONS handlers are the framework's own; they tell methods, to any key."""
    return Scope(handler.opt.get(_SCOPE, Scope.ANY_KEY))


def is_audited(handler: BaseRouteHandler) -> bool:
    """True when what a route changed is to be remembered."""
    return bool(handler.opt.get(_AUDITED, True))


def check_may_wait(caller: Caller, wait_s: float) -> None:
    """Refuse a submit that would be answered with a result to a key that may not read one; before anything is accepted.

    Raises:
        ScopeMissing: It is one.
    """
    if wait_s and not caller.may(Scope.TASKS_READ):
        raise ScopeMissing(f"A submit with wait_s needs a key with the scope '{Scope.TASKS_READ}' as well.")


def tell_object(connection: ASGIConnection[Any, Any, Any, Any], object_id: str) -> None:
    """Say what a request made, for the audit log; without this it is what the path names."""
    _ours(connection)[_OBJECT] = object_id


def object_of(scope: Mapping[str, Any]) -> str:
    """What a request was about; empty when it named nothing."""
    told = scope.get(_OBJECT) or next(iter(scope.get("path_params", {}).values()), "")
    return str(told)


def holder_of(scope: Mapping[str, Any]) -> KeyHolder | None:
    """The key whose limits a request counts against; None when it came no further than to the guards."""
    holder = scope.get(_HOLDER)
    return holder if isinstance(holder, KeyHolder) else None


def key_guard(keys: Keys) -> Guard:
    """The guard that lets through who has a key for the route's scope, and room under the key's limits.

    `request.user` is then the `Caller`, and `request.auth` the `KeyHolder`. An open route lets everybody through, and
    has a user only when there is a key that is right.
    """

    async def check_key(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        scope = scope_of(handler)
        holder = keys.find(_bearer(connection))
        if scope is Scope.OPEN:
            connection.scope["user"] = holder and holder.caller
            return
        if holder is None:
            raise AccessDenied(_SEVERAL if len(_shown(connection)) > 1 else None)
        connection.scope["user"] = caller = holder.caller
        holder.usage.enter()
        _ours(connection)[_HOLDER] = holder
        if not caller.may(scope):
            raise ScopeMissing(f"This needs a key with the scope '{scope}'.")
        if handler.opt.get(_EVERY_TENANT) and caller.sees is not None:
            raise ScopeMissing(f"This tells of the whole server, and needs a key of every tenant ('{EVERY_TENANT}').")

    return check_key


def origin_guard(scheme: str) -> Guard:
    """The guard that refuses a page of another origin which makes a browser send a request here.

    Programs that are no browser send no Origin, and neither does a browser that opens a page of this server.

    Args:
        scheme: Under which this server's own pages are opened, `http` or `https`.
    """

    async def check_origin(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        own = f"{scheme}://{connection.headers.get('host', '')}".lower()
        for origin in connection.headers.getall("origin", []):
            if origin.lower() != own:
                raise OriginRefused(f"Pages of '{origin[:80]}' may not use this server; its own are at {own[:80]}.")

    return check_origin


def host_guard(hosts: frozenset[str]) -> Guard:
    """The guard that refuses a Host header naming somebody else: a page in a browser that had its name rebound."""

    async def check_host(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        for named in connection.headers.getall("host", [""]):
            if _without_port(named) not in hosts:
                raise HostRefused(f"The Host header '{named[:80]}' does not name this server; use {min(hosts)}.")

    return check_host


def in_turn(guards: Sequence[Guard]) -> Guard:
    """One guard for several: Litestar copies the route's handler for each guard of each request."""

    async def check_all(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        for guard in guards:
            await guard(connection, handler)

    return check_all


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
    """Every route with its path, without the OPTIONS that the framework adds; always in the same order."""
    for route in app.routes:
        handlers = [*getattr(route, "route_handlers", ()), getattr(route, "route_handler", None)]
        declared = [
            handler
            for handler in handlers
            if handler is not None and getattr(handler, "http_methods", None) != {"OPTIONS"}
        ]
        # The framework keeps those of one path in a set.
        for handler in sorted(declared, key=lambda handler: handler.handler_name):
            yield route.path, handler


def _ours(connection: ASGIConnection[Any, Any, Any, Any]) -> dict[str, Any]:
    """What goes along with a request, to hold keys of ours as well."""
    return cast("dict[str, Any]", connection.scope)


def _bearer(connection: ASGIConnection[Any, Any, Any, Any]) -> str:
    """The key that is shown; empty for none, and for several: nobody knows which one is meant."""
    shown = _shown(connection)
    kind, _, key = shown.pop().partition(" ") if len(shown) == 1 else ("", "", "")
    return key.strip() if kind.lower() == "bearer" else ""


def _shown(connection: ASGIConnection[Any, Any, Any, Any]) -> set[str]:
    return set(connection.headers.getall("authorization", []))


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdecimal() else host.lower()
