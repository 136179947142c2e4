"""The dashboard: a page of files from this package that speaks the public API with the reader's own key."""

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from litestar import Response, Router, get, route
from litestar.exceptions import NotFoundException
from litestar.params import FromPath
from litestar.response import Redirect

from aicp.server.auth import Scope, needs
from aicp.server.methods import SEEN
from aicp.server.static_files import AnyRequest, static_file

HOME = "/dashboard/"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
    "txt": "text/plain",
}


@get("/", opt=needs(Scope.OPEN))
async def front_door(request: AnyRequest) -> Redirect:
    """Where a browser goes that was given the server's address alone."""
    if "text/html" not in request.headers.get("accept", ""):
        raise NotFoundException
    return Redirect(HOME)


@route("/dashboard", http_method=SEEN, opt=needs(Scope.OPEN), media_type="text/html")
async def dashboard(request: AnyRequest) -> Response[bytes] | Redirect:
    """The dashboard, for a browser: a page that asks for a key and shows the fleet, its runs and its failures."""
    if not request.scope["raw_path"].endswith(b"/"):
        return Redirect(HOME)
    return _file(request, "index.html")


@route("/dashboard/{file:path}", http_method=SEEN, opt=needs(Scope.OPEN))
async def dashboard_file(request: AnyRequest, file: FromPath[Path]) -> Response[bytes]:
    """A file of that page."""
    return _file(request, file.as_posix().lstrip("/"))


dashboard_router = Router("/", route_handlers=[front_door, dashboard, dashboard_file], include_in_schema=False)


def _file(request: AnyRequest, name: str) -> Response[bytes]:
    content = _contents().get(name)
    if content is None:
        raise NotFoundException
    return static_file(request, content, _TYPES[name.rpartition(".")[2]], POLICY)


@cache
def _contents() -> dict[str, bytes]:
    """Every file of the page by its path, read when somebody first asks: about 180 KB."""
    return dict(_read(files("aicp") / "dashboard", ""))


def _read(folder: Traversable, path: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            found += _read(entry, f"{path}{entry.name}/")
        elif entry.name.rpartition(".")[2] in _TYPES:
            found.append((f"{path}{entry.name}", entry.read_bytes()))
    return found
