"""What the server says of itself: an OpenAPI document for programs, and a page for people."""

from functools import lru_cache

import msgspec
from litestar import Litestar, Response, Router, get, route

from aicp.server.auth import Scope, needs
from aicp.server.methods import SEEN
from aicp.server.openapi.document import openapi_document
from aicp.server.openapi.page import page, style
from aicp.server.static_files import AnyRequest, static_file

POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_PAGE_TYPE = "text/html"
_STYLE_TYPE = "text/css"


@get("/openapi.json", opt=needs(Scope.ANY_KEY), media_type="application/json")
async def document(request: AnyRequest) -> Response[bytes]:
    """This API as an OpenAPI 3.1 document."""
    return Response(_written(request.app)[0], media_type="application/json")


@route("/docs", http_method=SEEN, opt=needs(Scope.OPEN), media_type="text/html")
async def docs(request: AnyRequest) -> Response[bytes]:
    """This API as a page for people, without a script and with nothing from elsewhere."""
    return static_file(request, _written(request.app)[1], _PAGE_TYPE, POLICY)


@route("/docs/page.css", http_method=SEEN, opt=needs(Scope.OPEN), media_type="text/css")
async def docs_style(request: AnyRequest) -> Response[bytes]:
    """The style sheet of that page."""
    return static_file(request, style(), _STYLE_TYPE, POLICY)


documentation_router = Router("/", route_handlers=[document, docs, docs_style], tags=["status"])


@lru_cache(maxsize=1)
def _written(app: Litestar) -> tuple[bytes, bytes]:
    """Document and page of an app, made when somebody first asks: that costs about 50 ms."""
    told = openapi_document(app)
    return msgspec.json.encode(told), page(told).encode()
