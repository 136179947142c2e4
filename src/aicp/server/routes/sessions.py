"""Sessions of the dashboard."""

from litestar import Router, delete, post

from aicp.errors import InvalidInput
from aicp.model.access import SessionCode, SessionMade, SessionRequest
from aicp.server.auth import Scope, needs, tell_object
from aicp.server.body import BODY_BYTES_MAX, CallerRequest, read_as, read_document
from aicp.server.routes.parameters import TheSessions


@post("/codes", status_code=201, opt=needs(Scope.ANY_KEY, audited=False))
async def create_session_code(request: CallerRequest, sessions: TheSessions) -> SessionCode:
    """Make a code that a page exchanges for a session of this key: once, within 60 s."""
    return await sessions.make_code(request.auth)


@post("/", status_code=201, opt=needs(Scope.OPEN))
async def open_session(request: CallerRequest, sessions: TheSessions) -> SessionMade:
    """Exchange a code for a session: a key of 12 h at most that may do what the key may that asked for the code."""
    asked = read_as(await read_document(request), SessionRequest, InvalidInput)
    opened = await sessions.open(asked.code, request.client.host if request.client else "")
    # The audit log then names who let the page in, and which key it uses from now on.
    request.scope["user"] = opened.parent
    tell_object(request, opened.key_id)
    return opened.made


@delete("/current", status_code=204, opt=needs(Scope.ANY_KEY))
async def close_session(request: CallerRequest, sessions: TheSessions) -> None:
    """End the session whose key this is, and what goes on under it."""
    await sessions.close(request.auth)
    tell_object(request, request.user.key_id)


sessions_router = Router(
    "/api/sessions",
    route_handlers=[create_session_code, open_session, close_session],
    request_max_body_size=BODY_BYTES_MAX,
    tags=["access"],
)
