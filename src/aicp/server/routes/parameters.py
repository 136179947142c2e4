"""What several routes take: the node, who waits on it, who looks on, who may come in, and how long to wait."""

from datetime import UTC, datetime
from typing import Annotated, NamedTuple

from litestar.di import NamedDependency
from litestar.params import QueryParameter

from aicp.errors import Fault, InvalidInput, NotFound
from aicp.model.task import Phase, TaskStatus
from aicp.model.validation import NAME_CHARS_MAX, is_capability_ref
from aicp.runtime.node import Node
from aicp.runtime.onlookers import Onlookers
from aicp.server.auditing import Auditing
from aicp.server.auth import Keys
from aicp.server.sessions import Sessions
from aicp.server.waits import Waits

WAIT_S_MAX = 60
LISTED_MAX = 1_000
LISTED = 100
TIME_EXAMPLE = "2026-01-02T03:04:05Z"
TIME_FORM = f"RFC 3339 with a zone, like {TIME_EXAMPLE}"


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
NamePrefix = Annotated[
    str,
    QueryParameter(
        schema_extra={"maxLength": NAME_CHARS_MAX}, description="Only those whose name begins so; empty for all."
    ),
]
SubmittedFrom = Annotated[
    str, QueryParameter(name="from", description=f"Only those submitted at this time or later, {TIME_FORM}.")
]
SubmittedTo = Annotated[
    str, QueryParameter(name="to", description=f"Only those submitted before this time, {TIME_FORM}.")
]
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


def check_name_prefix(name: str) -> None:
    """Refuse what no name can begin with.

    Raises:
        InvalidInput: It is longer than a name may be.
    """
    if len(name) > NAME_CHARS_MAX:
        raise InvalidInput([Fault("?name", f"is longer than {NAME_CHARS_MAX} characters, and so is no name")])


def times_between(submitted_from: str, submitted_to: str) -> tuple[datetime | None, datetime | None]:
    """Two times as they stand in a query; None for an empty one.

    Raises:
        InvalidInput: One is no time, or has no zone; or none lies between them.
    """
    told = {"?from": submitted_from, "?to": submitted_to}
    if faults := [Fault(place, fault) for place, text in told.items() if (fault := _time_fault(text))]:
        raise InvalidInput(faults)
    first, last = (_time_of(text) if text else None for text in told.values())
    if first is not None and last is not None and first >= last:
        raise InvalidInput([Fault("?to", "must be later than ?from; nothing is submitted between them")])
    return first, last


def _time_fault(text: str) -> str:
    """What is wrong with a time; nothing for none."""
    try:
        is_whole = not text or _time_of(text) is not None
    except (ValueError, OverflowError):
        return f"'{text[:40]}' is no time: write it like {TIME_EXAMPLE}, and a + as %2B"
    return "" if is_whole else f"'{text[:40]}' has no zone: end it with Z for UTC, like {TIME_EXAMPLE}"


def _time_of(text: str) -> datetime | None:
    """A time, UTC; None for one without a zone."""
    at = datetime.fromisoformat(text)
    return None if at.tzinfo is None else at.astimezone(UTC)


def cursor_fault(error: NotFound) -> InvalidInput:
    """What is wrong with a cursor whose place in the list is not there, or not the caller's, or forgotten by now."""
    return InvalidInput([Fault("?cursor", f"{error.message.removesuffix('.')}: begin again without a cursor")])
