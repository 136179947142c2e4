"""Keys that open the API, and who changed what with them."""

from litestar import Router, get, post
from litestar.params import FromPath

from aicp.errors import Fault, InvalidInput
from aicp.model.access import ApiKey, AuditPage, CurrentKey, KeyList, KeyMade, KeyRequest
from aicp.server.auth import Scope, needs, tell_object
from aicp.server.body import BODY_BYTES_MAX, CallerRequest, read_as, read_document
from aicp.server.keys import current_key
from aicp.server.routes.parameters import LISTED, ListCursor, ListLimit, TheAuditing, TheKeys, TheNode

NUMBER_DIGITS_MAX = 18


@post("/keys", status_code=201, opt=needs(Scope.ADMIN))
async def create_key(request: CallerRequest, keys: TheKeys) -> KeyMade:
    """Make a key; its secret is told here, and never again."""
    made = await keys.create(read_as(await read_document(request), KeyRequest, InvalidInput), request.user)
    tell_object(request, made.key.key_id)
    return made


@get("/keys", opt=needs(Scope.ADMIN))
async def list_keys(request: CallerRequest, keys: TheKeys) -> KeyList:
    """Every key, oldest first, those that ended in the last 30 days included."""
    return KeyList(keys.list(request.user))


@get("/keys/current", opt=needs(Scope.ANY_KEY))
async def show_current_key(request: CallerRequest) -> CurrentKey:
    """What the key of this request may do."""
    return current_key(request.auth)


@post("/keys/{key_id:str}/revoke", status_code=200, opt=needs(Scope.ADMIN))
async def revoke_key(request: CallerRequest, key_id: FromPath[str], keys: TheKeys) -> ApiKey:
    """Have a key open nothing any more, and end what goes on under it."""
    return await keys.revoke(key_id, request.user)


@get("/audit", opt=needs(Scope.ADMIN))
async def list_audit(
    request: CallerRequest,
    node: TheNode,
    auditing: TheAuditing,
    limit: ListLimit = LISTED,
    cursor: ListCursor = "",
) -> AuditPage:
    """Who changed what, newest first; what happened before this was asked is in it."""
    await auditing.flush()
    found = await node.stores.audit_log.page(request.user.sees, limit + 1, _number(cursor))
    records = list(found[:limit])
    return AuditPage(records, str(records[-1].number) if len(found) > limit else None)


keys_router = Router(
    "/api",
    route_handlers=[create_key, list_keys, show_current_key, revoke_key, list_audit],
    request_max_body_size=BODY_BYTES_MAX,
    tags=["access"],
)


def _number(cursor: str) -> int | None:
    if not cursor:
        return None
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= NUMBER_DIGITS_MAX):
        raise InvalidInput([Fault("?cursor", "is none that a page gave: begin again without a cursor")])
    return int(cursor)
