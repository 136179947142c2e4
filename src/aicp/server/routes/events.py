"""What happens, as it happens."""

from typing import Annotated

from litestar import Router, get
from litestar.params import QueryParameter
from litestar.types import ASGIApp

from aicp.errors import Fault, InvalidInput
from aicp.model.agent import AGENT_ID_PATTERN, AGENT_ID_TOLD
from aicp.model.live import KIND_PATTERN
from aicp.model.run_id import TASK_ID_PATTERN
from aicp.server.auth import Scope, needs
from aicp.server.body import CallerRequest
from aicp.server.problems import TooManyReaders
from aicp.server.routes.parameters import TheOnlookers
from aicp.server.stream import EventStream

LAST_ID_HEADER = "last-event-id"
KEEPALIVE_S_MIN, KEEPALIVE_S_MAX = 2, 15

ChainId = Annotated[str, QueryParameter(description="Only events of this chain.")]
AgentId = Annotated[str, QueryParameter(description="Only events about this agent.")]
Kind = Annotated[str, QueryParameter(description="Only events of these kinds, with commas between them.")]

KeepaliveS = Annotated[
    float,
    QueryParameter(
        ge=KEEPALIVE_S_MIN, le=KEEPALIVE_S_MAX,
        description="An id without data comes after so many seconds of quiet: whoever hears nothing longer is cut off.",
    ),
]  # fmt: skip


@get("/api/events", opt=needs(Scope.TASKS_READ))
async def events(
    request: CallerRequest,
    onlookers: TheOnlookers,
    chain_id: ChainId = "",
    agent_id: AgentId = "",
    kind: Kind = "",
    keepalive_s: KeepaliveS = KEEPALIVE_S_MAX,
) -> ASGIApp:
    """What happens to one's own tasks, chains and agents, as Server-Sent Events; `Last-Event-ID` goes on after it."""
    _check_ids(chain_id, agent_id)
    kinds = _kinds(kind)
    after = request.headers.get(LAST_ID_HEADER)
    reader = onlookers.read(request.user.sees, chain_id=chain_id, agent_id=agent_id, kinds=kinds, after=after)
    if reader is None:
        raise TooManyReaders("Too many read live events already: close some, or come back later.")
    return EventStream(reader, request.auth.ended, keepalive_s)


events_router = Router("/", route_handlers=[events], tags=["events"])


def _check_ids(chain_id: str, agent_id: str) -> None:
    """Refuse what can be no id: of that nothing would ever be told."""
    faults = []
    if chain_id and not TASK_ID_PATTERN.fullmatch(chain_id):
        faults.append(Fault("?chain_id", "can be no chain: an id is 1 to 64 of A-Z a-z 0-9 _ -"))
    if agent_id and not AGENT_ID_PATTERN.fullmatch(agent_id):
        faults.append(Fault("?agent_id", f"can be no agent: an id is {AGENT_ID_TOLD}"))
    if faults:
        raise InvalidInput(faults)


def _kinds(told: str) -> frozenset[str]:
    """Which kinds are asked for. One that this version does not know is no error: a newer replica may tell it."""
    kinds = frozenset(told.split(",")) if told else frozenset[str]()
    for kind in sorted(kinds):
        if not KIND_PATTERN.fullmatch(kind):
            raise InvalidInput([Fault("?kind", f"'{kind[:80]}' can be no kind: write it like task_ended")])
    return kinds
