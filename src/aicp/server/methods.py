"""Methods besides the one that a route is for: HEAD where it helps, and OPTIONS, which tells all that a path takes.

Of OPTIONS the framework answers for the first handler of a path alone when several have it.
"""

from functools import lru_cache

from litestar import HttpMethod, Litestar, Request, Response
from litestar.datastructures import State

SEEN = (HttpMethod.GET, HttpMethod.HEAD)
"""Of a route that is open to everybody: whoever balances load, or follows links, asks by HEAD whether it is there."""


async def answer_options(request: Request[object, object, State]) -> Response[None] | None:
    """Answer OPTIONS with the methods of the path; every other method goes its way."""
    if request.method != "OPTIONS":
        return None
    allowed = _methods(request.app)[request.scope["path_template"]]
    return Response(None, status_code=204, headers={"Allow": allowed})


@lru_cache(maxsize=1)
def _methods(app: Litestar) -> dict[str, str]:
    return {route.path_format: ", ".join(sorted(getattr(route, "methods", ()))) for route in app.routes}
