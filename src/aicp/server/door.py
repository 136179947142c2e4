"""What every request passes on its way in and every answer on its way out, whatever route it takes or misses."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from aicp.model.access import EVERY_TENANT
from aicp.server.auditing import Auditing
from aicp.server.auth import holder_of, is_audited, object_of
from aicp.server.connections import refuse
from aicp.server.draining import RETRY_AFTER_S
from aicp.server.problems import ServerStopping

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    b"content-security-policy": CONTENT_POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-resource-policy": b"same-origin",
    b"cache-control": b"no-store",
}
"""On every answer that does not say otherwise itself: no page of elsewhere can use, frame or keep it."""

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Any, Any, Any], Awaitable[None]]

_REFUSED = frozenset({401, 403})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_CALLERS_FAULT = 400
_NO_ANSWER = 500
_WHITE_SPACE = b" \t"
"""Around a header's value it is not a part of it (RFC 9110, section 5.5); the HTTP parser leaves what stands behind."""


class Door:
    """Outermost part of every request: trims header values, adds security headers, returns quotas, has changes audited.

    Args:
        app: The routes.
        auditing: Told of what was changed or refused; None for nobody.
    """

    def __init__(self, app: ASGIApp, auditing: Auditing | None = None) -> None:
        self._app = app
        self._auditing = auditing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["headers"] = [(name, value.strip(_WHITE_SPACE)) for name, value in scope["headers"]]
        status, has_begun = _NO_ANSWER, False

        async def send_on(message: Message) -> None:
            nonlocal status, has_begun
            if message["type"] == "http.response.start":
                status, has_begun = message["status"], True
                message["headers"] = _with_security(message["headers"])
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        except asyncio.CancelledError:
            # The server has stopped and waits no longer: for a body that does not come, or an answer nobody takes.
            if not has_begun:
                await refuse(ServerStopping(RETRY_AFTER_S), send_on)
        finally:
            if (holder := holder_of(scope)) is not None:
                holder.usage.leave()
            if self._auditing is not None:
                _audit(self._auditing, scope, status)


def _with_security(headers: Any) -> list[tuple[bytes, bytes]]:
    said = list(headers)
    names = {name.lower() for name, _ in said}
    return said + [(name, value) for name, value in HEADERS.items() if name not in names]


def _audit(auditing: Auditing, scope: Scope, status: int) -> None:
    handler = scope.get("route_handler")
    if handler is None:
        return
    caller = scope.get("user")
    key_id, tenant = ("", "") if caller is None else (caller.key_id, caller.sees or EVERY_TENANT)
    action = getattr(handler, "handler_name", "")
    is_change = scope["method"] not in _READING and is_audited(handler)
    if status in _REFUSED or (is_change and status >= _NO_ANSWER):
        auditing.refused(key_id, tenant, action, status)
    elif is_change and status < _CALLERS_FAULT:
        auditing.changed(key_id, tenant, action, object_of(scope), status)
