"""OPTIONS: which methods a path takes, all of them.

The framework answers for the first handler of a path alone when several have it.
"""

from functools import lru_cache

from litestar import Litestar, Request, Response
from litestar.datastructures import State


async def answer_options(request: Request[object, object, State]) -> Response[None] | None:
    """Answer OPTIONS with the methods of the path; every other method goes its way."""
    if request.method != "OPTIONS":
        return None
    allowed = _methods(request.app)[request.scope["path_template"]]
    return Response(None, status_code=204, headers={"Allow": allowed})


@lru_cache(maxsize=1)
def _methods(app: Litestar) -> dict[str, str]:
    return {route.path_format: ", ".join(sorted(getattr(route, "methods", ()))) for route in app.routes}
