"""A shorter way for the requests of which there are many: submits, and looks at one task or chain.

    request -> [ guards -> handler -> JSON ]           what is written plainly, and asked for all day
            -> the framework, which does the same      everything else

Guards, handlers and errors are the framework's routes' own. Left out is what these few need nothing of: finding their
parameters and dependencies at run time, copies for each guard, objects for each answer. That took longer than the work.
"""

import re
from collections.abc import Callable
from typing import Any

from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from aicp.errors import AicpError
from aicp.model.document_desk import DocumentDesk
from aicp.model.run_id import is_id
from aicp.server.answers import send_json
from aicp.server.auth import Guard, declared_routes
from aicp.server.problems import answer_defect, answer_error, answer_refusal
from aicp.server.routes.parameters import WAIT_S_MAX, NodeAndWaits

TAKEN = frozenset({"submit_task", "submit_parallel", "submit_chain", "show_task", "show_chain"})
"""The handlers that are reached this way: each takes a request, the id in its path if there is one, and `wait_s`."""

_WAIT = re.compile(rb"wait_s=([0-9]{1,2}(?:\.[0-9]{1,6})?)")


class Express:
    """An ASGI app in front of the framework's.

    Args:
        app: The framework's, with all routes.
        guard: What every request passes; the query it need not look at.
        node_and_waits: What the handlers work with.
    """

    def __init__(self, app: Litestar, guard: Guard, node_and_waits: NodeAndWaits) -> None:
        self._app = app
        self._guard = guard
        self._node_and_waits = node_and_waits
        self._documents: DocumentDesk = app.state.documents
        self._submits: dict[str, HTTPRouteHandler] = {}
        self._looks: dict[str, HTTPRouteHandler] = {}
        for path, handler in declared_routes(app):
            if isinstance(handler, HTTPRouteHandler) and handler.handler_name in TAKEN:
                place, has_id, _ = path.partition("/{")
                (self._looks if has_id else self._submits)[place] = handler

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one request."""
        handler, ids = self._find(scope) if scope["type"] == "http" else (None, {})
        wait_s = None if handler is None else _plain_wait_s(scope["query_string"])
        if handler is None or wait_s is None:
            await self._app(scope, receive, send)
            return
        # Whoever stands behind and in front looks for these where the framework leaves them.
        scope.update(app=self._app, litestar_app=self._app, route_handler=handler, path_params=ids)
        request = Request[Any, Any, Any](scope, receive, send)
        try:
            await self._guard(request, handler)
            view = await handler.fn(request, *ids.values(), self._node_and_waits, wait_s)
            body = await self._documents.encode(view)
        except Exception as error:  # noqa: BLE001 - as the framework does: every error has its answer
            response = _answering(error)(request, error)
            await response.to_asgi_response(app=None, request=request)(scope, receive, send)
            return
        await send_json(send, handler.status_code, (body,))

    def _find(self, scope: Any) -> tuple[HTTPRouteHandler | None, dict[str, str]]:
        """The handler of a request, and the id in its path."""
        if scope["method"] == "POST":
            return self._submits.get(scope["path"]), {}
        place, _, name = scope["path"].rpartition("/")
        if scope["method"] != "GET" or place not in self._looks or not is_id(name):
            return None, {}
        return self._looks[place], {"id": name}


def _answering(error: Exception) -> Callable[..., Response[Any]]:
    if isinstance(error, AicpError):
        return answer_error
    return answer_refusal if isinstance(error, HTTPException) else answer_defect


def _plain_wait_s(query: bytes) -> float | None:
    """What a query asks to wait, seconds; None when it says anything else."""
    if not query:
        return 0.0
    found = _WAIT.fullmatch(query)
    wait_s = float(found[1]) if found else None
    return wait_s if wait_s is not None and wait_s <= WAIT_S_MAX else None
