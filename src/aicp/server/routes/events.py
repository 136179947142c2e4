"""What happens, as it happens."""

from typing import Annotated

from litestar import Router, get
from litestar.params import QueryParameter
from litestar.types import ASGIApp

from aicp.errors import Fault, InvalidInput
from aicp.model.live import KINDS
from aicp.server.auth import Scope, needs
from aicp.server.body import CallerRequest
from aicp.server.problems import TooManyReaders
from aicp.server.routes.parameters import TheOnlookers
from aicp.server.stream import EventStream

LAST_ID_HEADER = "last-event-id"

ChainId = Annotated[str, QueryParameter(description="Only events of this chain.")]
AgentId = Annotated[str, QueryParameter(description="Only events about this agent.")]
Kind = Annotated[str, QueryParameter(description="Only events of these kinds, with commas between them.")]


@get("/api/events", opt=needs(Scope.TASKS_READ))
async def events(
    request: CallerRequest, onlookers: TheOnlookers, chain_id: ChainId = "", agent_id: AgentId = "", kind: Kind = ""
) -> ASGIApp:
    """What happens to one's own tasks, chains and agents, as Server-Sent Events; `Last-Event-ID` goes on after it."""
    kinds = _kinds(kind)
    after = request.headers.get(LAST_ID_HEADER)
    reader = onlookers.read(request.user.sees, chain_id=chain_id, agent_id=agent_id, kinds=kinds, after=after)
    if reader is None:
        raise TooManyReaders("Too many read live events already: close some, or come back later.")
    return EventStream(reader, request.auth.ended)


events_router = Router("/", route_handlers=[events], tags=["events"])


def _kinds(told: str) -> frozenset[str]:
    kinds = frozenset(told.split(",")) if told else frozenset[str]()
    if unknown := sorted(kinds.difference(KINDS)):
        raise InvalidInput([Fault("?kind", f"'{unknown[0][:80]}' is none: choose from {', '.join(KINDS)}")])
    return kinds
