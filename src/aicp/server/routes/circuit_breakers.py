"""The fleet's health, its latest failures, and an operator's commands."""

from typing import Annotated

from litestar import Router, get, post
from litestar.params import FromPath, QueryParameter

from aicp.model.views import AgentState, Failure, FleetHealth
from aicp.routing.history import FAILURES_KEPT_MAX
from aicp.server.answers import Written
from aicp.server.auth import Scope, needs
from aicp.server.body import CallerRequest
from aicp.server.ownership import operated_agent
from aicp.server.routes.parameters import TheNode

FAILURES_SHOWN = 100


@get("/health", opt=needs(Scope.AGENTS_READ))
async def health(request: CallerRequest, node: TheNode) -> Written[FleetHealth]:
    """Every agent's circuits and counters, and the capabilities that have nobody."""
    return Written(await node.write_health(request.user.sees))


@get("/failures", opt=needs(Scope.AGENTS_READ))
async def failures(
    request: CallerRequest,
    node: TheNode,
    limit: Annotated[int, QueryParameter(ge=1, le=FAILURES_KEPT_MAX, description="At most so many.")] = FAILURES_SHOWN,
) -> list[Failure]:
    """The latest attempts that failed, newest first."""
    return node.router.recent_failures(limit, request.user.sees)


@post("/reset/{agent_id:str}", status_code=200, opt=needs(Scope.BREAKERS_WRITE))
async def reset(request: CallerRequest, agent_id: FromPath[str], node: TheNode) -> AgentState:
    """Close an agent's circuits, forget that it was set aside, and use it again at once."""
    operated_agent(node, request.user, agent_id)
    node.reset_agent(agent_id)
    await node.tell_replicas()
    return AgentState(agent_id, node.board.get_state(agent_id))


@post("/open/{agent_id:str}", status_code=200, opt=needs(Scope.BREAKERS_WRITE))
async def open_circuits(request: CallerRequest, agent_id: FromPath[str], node: TheNode) -> AgentState:
    """Open an agent's circuits by hand: it gets no task until they are reset or disabled."""
    operated_agent(node, request.user, agent_id)
    node.open_agent(agent_id)
    await node.tell_replicas()
    return AgentState(agent_id, node.board.get_state(agent_id))


@post("/disable/{agent_id:str}", status_code=200, opt=needs(Scope.BREAKERS_WRITE))
async def disable_circuits(request: CallerRequest, agent_id: FromPath[str], node: TheNode) -> AgentState:
    """Disable an agent's circuits: it gets tasks whatever becomes of them, until they are reset or opened."""
    operated_agent(node, request.user, agent_id)
    node.disable_agent(agent_id)
    await node.tell_replicas()
    return AgentState(agent_id, node.board.get_state(agent_id))


circuit_breakers_router = Router(
    "/api/circuit-breaker",
    route_handlers=[health, failures, reset, open_circuits, disable_circuits],
    tags=["circuit breakers"],
)
