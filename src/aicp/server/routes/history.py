"""What happened in the last 15 minutes, as rates over time."""

from typing import Annotated

from litestar import Router, get
from litestar.params import FromQuery, QueryParameter

from aicp.errors import Fault, InvalidInput
from aicp.model.agent import AGENT_ID_PATTERN, AGENT_ID_TOLD
from aicp.model.history import History, HistoryMetric
from aicp.server.answers import Written
from aicp.server.auth import Scope, needs
from aicp.server.body import CallerRequest
from aicp.server.routes.parameters import TheOnlookers, check_capability

AgentId = Annotated[str, QueryParameter(description="Only of this agent.")]
Metric = Annotated[HistoryMetric | None, QueryParameter(description="Only this one.")]


@get("/api/history", opt=needs(Scope.AGENTS_READ))
async def history(
    request: CallerRequest,
    onlookers: TheOnlookers,
    capability: FromQuery[str | None] = None,
    agent_id: AgentId = "",
    metric: Metric = None,
) -> Written[History]:
    """The last 15 minutes of this server in buckets of 5 s, by capability and by agent."""
    if capability is not None:
        check_capability(capability)
    if agent_id and not AGENT_ID_PATTERN.fullmatch(agent_id):
        raise InvalidInput([Fault("?agent_id", f"can be no agent: an id is {AGENT_ID_TOLD}")])
    return Written(await onlookers.history(request.user.sees, capability, agent_id or None, metric))


history_router = Router("/", route_handlers=[history], tags=["events"])
