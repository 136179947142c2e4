"""What the server says of itself: an OpenAPI document for programs, and a page for people."""

import hashlib
from functools import lru_cache

import msgspec
from litestar import Litestar, Request, Response, Router, get, route
from litestar.datastructures import State

from aicp.server.auth import Scope, needs
from aicp.server.methods import SEEN
from aicp.server.openapi.document import openapi_document
from aicp.server.openapi.page import page, style

POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE_TYPE = "text/html"
_STYLE_TYPE = "text/css"

AnyRequest = Request[object, object, State]


@get("/openapi.json", opt=needs(Scope.ANY_KEY), media_type="application/json")
async def document(request: AnyRequest) -> Response[bytes]:
    """This API as an OpenAPI 3.1 document."""
    return Response(_written(request.app)[0], media_type="application/json")


@route("/docs", http_method=SEEN, opt=needs(Scope.OPEN), media_type="text/html")
async def docs(request: AnyRequest) -> Response[bytes]:
    """This API as a page for people, without a script and with nothing from elsewhere."""
    return _static(request, _written(request.app)[1], _PAGE_TYPE)


@route("/docs/page.css", http_method=SEEN, opt=needs(Scope.OPEN), media_type="text/css")
async def docs_style(request: AnyRequest) -> Response[bytes]:
    """The style sheet of that page."""
    return _static(request, style(), _STYLE_TYPE)


documentation_router = Router("/", route_handlers=[document, docs, docs_style], tags=["status"])


@lru_cache(maxsize=1)
def _written(app: Litestar) -> tuple[bytes, bytes]:
    """Document and page of an app, made when somebody first asks: that costs about 50 ms."""
    told = openapi_document(app)
    return msgspec.json.encode(told), page(told).encode()


def _static(request: AnyRequest, content: bytes, media_type: str) -> Response[bytes]:
    """A file that browsers keep, and ask whether it is still the same."""
    tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Security-Policy": POLICY}
    if request.headers.get("if-none-match") == tag:
        return Response(b"", status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)
