"""What a server that stops says to who brings it new work."""

from typing import Any

from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler

from aicp.runtime.node import Node
from aicp.server.auth import Guard, Scope, scope_of
from aicp.server.problems import ServerStopping

RETRY_AFTER_S = 1.0


def drain_guard(node: Node) -> Guard:
    """The guard that refuses submits and retries while the node drains; everything else is answered to the end."""

    async def check_draining(_connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        if node.is_draining and scope_of(handler) is Scope.TASKS_SUBMIT:
            raise ServerStopping(RETRY_AFTER_S)

    return check_draining
