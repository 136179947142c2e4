"""The server itself: alive, what it is, how busy."""

from litestar import MediaType, Router, get

from aicp.model.views import Info, SchedulerStatus
from aicp.server.auth import Scope, needs
from aicp.server.routes.parameters import TheNode
from aicp.version import __version__


@get("/livez", media_type=MediaType.TEXT, opt=needs(Scope.OPEN))
async def livez() -> str:
    """The process answers."""
    return "ok"


@get("/api/info", opt=needs(Scope.ANY_KEY))
async def info(node: TheNode) -> Info:
    """What the server is."""
    return Info("aicp", __version__, node.journal.durable, node.coordinator.unfinished)


@get("/api/scheduler/status", opt=needs(Scope.AGENTS_READ))
async def scheduler_status(node: TheNode) -> SchedulerStatus:
    """Capacity, load and lines."""
    return node.scheduler.status()


status_router = Router("/", route_handlers=[livez, info, scheduler_status], tags=["status"])
