"""The fleet's health, its latest failures, and an operator's commands."""

from typing import Annotated

from litestar import Router, get, post
from litestar.params import FromPath, QueryParameter

from aicp.model.views import AgentState, Failure, FleetHealth
from aicp.routing.history import FAILURES_KEPT_MAX
from aicp.server.auth import Scope, needs
from aicp.server.routes.parameters import TheNode

FAILURES_SHOWN = 100


@get("/health", opt=needs(Scope.AGENTS_READ))
async def health(node: TheNode) -> FleetHealth:
    """Every agent's circuits and counters, and the capabilities that have nobody."""
    return node.health()


@get("/failures", opt=needs(Scope.AGENTS_READ))
async def failures(
    node: TheNode,
    limit: Annotated[int, QueryParameter(ge=1, le=FAILURES_KEPT_MAX, description="At most so many.")] = FAILURES_SHOWN,
) -> list[Failure]:
    """The latest attempts that failed, newest first."""
    return node.router.recent_failures(limit)


@post("/reset/{agent_id:str}", status_code=200, opt=needs(Scope.BREAKERS_WRITE))
async def reset(agent_id: FromPath[str], node: TheNode) -> AgentState:
    """Close an agent's circuits, forget that it was set aside, and use it again at once."""
    node.reset_agent(agent_id)
    await node.tell_replicas()
    return AgentState(agent_id, node.board.get_state(agent_id))


circuit_breakers_router = Router(
    "/api/circuit-breaker", route_handlers=[health, failures, reset], tags=["circuit breakers"]
)
