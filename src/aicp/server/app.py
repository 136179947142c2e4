"""Puts the routes together: guards in front, one shape for every error behind."""

from collections.abc import Sequence
from typing import Any

from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import HTTPException

from aicp.errors import AicpError
from aicp.runtime.node import Node
from aicp.runtime.onlookers import Onlookers
from aicp.server.answers import Answer
from aicp.server.auditing import Auditing
from aicp.server.auth import Guard, Keys, check_scopes, host_guard, in_turn, key_guard, origin_guard
from aicp.server.body import BODY_BYTES_MAX, body_guard
from aicp.server.draining import drain_guard
from aicp.server.methods import answer_options
from aicp.server.paths import path_guard
from aicp.server.problems import answer_defect, answer_error, answer_refusal
from aicp.server.queries import query_guard
from aicp.server.routes.agents import agents_router
from aicp.server.routes.chains import chains_router
from aicp.server.routes.circuit_breakers import circuit_breakers_router
from aicp.server.routes.dashboard import dashboard_router
from aicp.server.routes.documentation import documentation_router
from aicp.server.routes.events import events_router
from aicp.server.routes.history import history_router
from aicp.server.routes.keys import keys_router
from aicp.server.routes.parameters import NodeAndWaits
from aicp.server.routes.sessions import sessions_router
from aicp.server.routes.status import status_router
from aicp.server.routes.tasks import tasks_router
from aicp.server.sessions import Sessions
from aicp.server.waits import Waits

ROUTERS = (
    agents_router,
    chains_router,
    tasks_router,
    circuit_breakers_router,
    events_router,
    history_router,
    status_router,
    documentation_router,
    dashboard_router,
    keys_router,
    sessions_router,
)


def make_app(
    node: Node,
    keys: Keys,
    *,
    hosts: frozenset[str] | None = None,
    scheme: str = "http",
    waits: Waits | None = None,
    onlookers: Onlookers | None = None,
    auditing: Auditing | None = None,
    routers: Sequence[Router] = ROUTERS,
) -> Litestar:
    """The HTTP API of a node that runs.

    Args:
        node: Does the work.
        keys: Who may ask for it.
        hosts: The names that a Host header may have; None for any (others than this machine come to it).
        scheme: `https` where its own pages are opened so, by itself or by a proxy in front of it.
        waits: Observes the node so that `wait_s` ends with a task; without one, waits only end with their time.
        onlookers: Metrics and live events; without one, of nothing.
        auditing: Writes down who changed what; without one, it is not asked to.
        routers: The routes.

    Raises:
        UnscopedRoute: A route does not say who may use it.
    """
    dependencies = {
        "node": _provide(node),
        "node_and_waits": _provide(NodeAndWaits(node, waits or Waits())),
        "onlookers": _provide(onlookers or Onlookers(node)),
        "keys": _provide(keys),
        "sessions": _provide(Sessions(keys)),
        "auditing": _provide(auditing or Auditing(node.stores.audit_log, 0)),
    }
    guards = [entry_guard(node, keys, hosts=hosts, scheme=scheme), path_guard, query_guard(dependencies), body_guard]
    app = Litestar(
        route_handlers=routers,
        before_request=answer_options,
        guards=[in_turn(guards)],
        dependencies=dependencies,
        exception_handlers={AicpError: answer_error, HTTPException: answer_refusal, Exception: answer_defect},
        request_max_body_size=BODY_BYTES_MAX,
        response_class=Answer,
        openapi_config=None,
        logging_config=None,
        state=State({"documents": node.documents}),
    )
    check_scopes(app)
    return app


def entry_guard(node: Node, keys: Keys, *, hosts: frozenset[str] | None = None, scheme: str = "http") -> Guard:
    """What a request passes on its way to any route; arguments are those of `make_app`."""
    guards = [origin_guard(scheme), key_guard(keys), drain_guard(node)]
    return in_turn(guards if hosts is None else [host_guard(hosts), *guards])


def _provide(value: Any) -> Provide:
    return Provide(lambda: value, sync_to_thread=False)
