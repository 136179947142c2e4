"""What several routes take: the node, who waits on it, who looks on, who may come in, and how long to wait."""

from typing import Annotated, NamedTuple

from litestar.di import NamedDependency
from litestar.params import QueryParameter

from aicp.errors import Fault, InvalidInput, NotFound
from aicp.model.task import Phase, TaskStatus
from aicp.model.validation import is_capability_ref
from aicp.runtime.node import Node
from aicp.runtime.onlookers import Onlookers
from aicp.server.auditing import Auditing
from aicp.server.auth import Keys
from aicp.server.sessions import Sessions
from aicp.server.waits import Waits

WAIT_S_MAX = 60
LISTED_MAX = 1_000
LISTED = 100


class NodeAndWaits(NamedTuple):
    """Both as one dependency: of several, Litestar resolves each in a task of its own."""

    node: Node
    waits: Waits


TheNode = NamedDependency[Node]
TheNodeAndWaits = NamedDependency[NodeAndWaits]
TheOnlookers = NamedDependency[Onlookers]
TheKeys = NamedDependency[Keys]
TheSessions = NamedDependency[Sessions]
TheAuditing = NamedDependency[Auditing]
WaitS = Annotated[
    float,
    QueryParameter(ge=0, le=WAIT_S_MAX, description="Answer once it has ended, or after so many seconds; 0 at once."),
]
SubmitWaitS = Annotated[
    float,
    QueryParameter(
        ge=0, le=WAIT_S_MAX,
        description="Answer once it has ended, or after so many seconds, with where it stands; 0 once it is accepted.",
    ),
]  # fmt: skip
Status = Annotated[TaskStatus | None, QueryParameter(description="Only those that stand here.")]
InPhase = Annotated[Phase | None, QueryParameter(description="Only those in this phase.")]
ListLimit = Annotated[int, QueryParameter(ge=1, le=LISTED_MAX, description="At most so many.")]
ListCursor = Annotated[str, QueryParameter(description="`next_cursor` of the page before; empty for the first.")]


def check_capability(capability: str) -> None:
    """Refuse what no capability can be called.

    Raises:
        InvalidInput: It is neither `name` nor `name@major`.
    """
    if not is_capability_ref(capability):
        told = f"'{capability[:80]}' must be a dotted name like image.label or image.label@2"
        raise InvalidInput([Fault("?capability", told)])


def cursor_fault(error: NotFound) -> InvalidInput:
    """What is wrong with a cursor whose place in the list is not there, or not the caller's, or forgotten by now."""
    return InvalidInput([Fault("?cursor", f"{error.message.removesuffix('.')}: begin again without a cursor")])
