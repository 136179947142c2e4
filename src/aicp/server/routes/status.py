"""The server itself: alive, what it is, how busy."""

from litestar import MediaType, Response, Router, get, route

from aicp.model.views import Info, SchedulerStatus
from aicp.runtime.onlookers import METRICS_TYPE
from aicp.server.auth import Scope, needs
from aicp.server.body import CallerRequest
from aicp.server.methods import SEEN
from aicp.server.routes.parameters import TheNode, TheOnlookers
from aicp.version import __version__


@route("/livez", http_method=SEEN, media_type=MediaType.TEXT, opt=needs(Scope.OPEN))
async def livez() -> str:
    """The process answers."""
    return "ok"


@route("/readyz", http_method=SEEN, media_type=MediaType.TEXT, opt=needs(Scope.OPEN))
async def readyz(request: CallerRequest, node: TheNode) -> Response[str]:
    """The journal is open, and work is accepted; 503 while it is not, and who has a key is told why."""
    if node.is_ready:
        return Response("ready", status_code=200)
    why = f": {'; '.join(node.why_unready)}" if request.scope.get("user") else ""
    return Response(f"unready{why}", status_code=503)


@get("/api/info", opt=needs(Scope.ANY_KEY))
async def info(request: CallerRequest, node: TheNode) -> Info:
    """What the server is."""
    stores, sees = node.stores, request.user.sees
    unfinished = node.coordinator.unfinished if sees is None else node.coordinator.unfinished_of(sees)
    return Info("aicp", __version__, stores.journal.durable, unfinished, stores.kind)


@get("/api/scheduler/status", opt=needs(Scope.AGENTS_READ))
async def scheduler_status(request: CallerRequest, node: TheNode) -> SchedulerStatus:
    """Capacity, load and lines."""
    return await node.scheduler.read_status(request.user.sees)


@get("/metrics", opt=needs(Scope.METRICS_READ, every_tenant=True))
async def metrics(onlookers: TheOnlookers) -> Response[bytes]:
    """What Prometheus reads, in its text format."""
    return Response(await onlookers.metrics(), headers={"Content-Type": METRICS_TYPE})


status_router = Router("/", route_handlers=[livez, readyz, info, scheduler_status, metrics], tags=["status"])
