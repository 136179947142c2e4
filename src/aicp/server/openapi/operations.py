"""What each route takes and answers besides what its signature says, in one table: a line for each route."""

from collections.abc import Iterable

import msgspec

from aicp.errors import (
    AccessDenied,
    AgentNotFound,
    AgentReplaced,
    AicpError,
    CapabilityRefused,
    ChainNotFound,
    Conflict,
    Forbidden,
    IdempotencyConflict,
    InvalidAgent,
    InvalidChain,
    InvalidInput,
    InvalidTask,
    KeyNotFound,
    NewerVersion,
    NoCapableAgent,
    OwnershipLost,
    QueueFull,
    RecordDamaged,
    SettingsError,
    StorageError,
    TaskNotFound,
)
from aicp.model.document_desk import TooManyDocuments
from aicp.server.auth import Scope
from aicp.server.limits import TooManyRequests
from aicp.server.problems import (
    BodyTooLarge,
    BodyTooSlow,
    HostRefused,
    InvalidJson,
    MediaTypeRefused,
    NotOwner,
    OriginRefused,
    ScopeMissing,
    ServerStopping,
    TooManyReaders,
)

Problems = tuple[type[AicpError], ...]

_SUBMIT: Problems = (CapabilityRefused, NoCapableAgent, IdempotencyConflict, QueueFull, ServerStopping, StorageError)
_BODY: Problems = (InvalidJson, BodyTooSlow, BodyTooLarge, MediaTypeRefused, InvalidInput, TooManyDocuments)
_SUBMIT_HEADERS = ("Idempotency-Key", "traceparent")
_NOT_FOUND: dict[str, type[AicpError]] = {
    "task_id": TaskNotFound,
    "chain_id": ChainNotFound,
    "agent_id": AgentNotFound,
    "key_id": KeyNotFound,
}


class Told(msgspec.Struct, frozen=True):
    """What a route does not say by its signature.

    Attributes:
        body: Component that its body is; empty when it takes none, and refuses any.
        problems: What it may refuse with, besides what every route like it may.
        headers: What it reads of the header.
        content: Media type of an answer that is no JSON.
        needs_body: False when the body may be left out.
    """

    body: str = ""
    problems: Problems = ()
    headers: tuple[str, ...] = ()
    content: str = ""
    needs_body: bool = True


_NOTHING = Told()
_TOLD = {
    "submit_task": Told("Task", (InvalidTask, *_SUBMIT), _SUBMIT_HEADERS),
    "submit_parallel": Told("ParallelTasks", (InvalidChain, *_SUBMIT), _SUBMIT_HEADERS),
    "submit_chain": Told("ChainSpec", (InvalidChain, *_SUBMIT), _SUBMIT_HEADERS),
    "retry_chain": Told("", (InvalidInput, Conflict, NewerVersion, *_SUBMIT), _SUBMIT_HEADERS),
    "cancel_task": Told("", (Conflict, NewerVersion, OwnershipLost, RecordDamaged, StorageError)),
    "cancel_chain": Told("", (OwnershipLost, RecordDamaged, StorageError)),
    "list_tasks": Told("", (StorageError,)),
    "list_chains": Told("", (StorageError,)),
    "show_task": Told("", (NewerVersion, RecordDamaged, StorageError)),
    "show_chain": Told("", (NewerVersion, RecordDamaged, StorageError)),
    "draw_chain": Told("", (NewerVersion, RecordDamaged, StorageError)),
    "explain_task": Told("", (NewerVersion, RecordDamaged, StorageError)),
    "register_agent": Told(
        "Registration",
        (InvalidAgent, Forbidden, CapabilityRefused, NotOwner, Conflict, SettingsError, StorageError),
    ),
    "heartbeat": Told("Heartbeat", (NotOwner, AgentReplaced)),
    "drain_agent": Told("Drain", (NotOwner, StorageError), needs_body=False),
    "remove_agent": Told("", (NotOwner, StorageError)),
    "reset": Told("", (NotOwner, StorageError)),
    "open_circuits": Told("", (NotOwner, StorageError)),
    "disable_circuits": Told("", (NotOwner, StorageError)),
    "create_key": Told("KeyRequest", (Forbidden, Conflict, StorageError)),
    "revoke_key": Told("", (StorageError,)),
    "create_session_code": Told("", (Forbidden, Conflict, StorageError)),
    "open_session": Told("SessionRequest", (AccessDenied, TooManyRequests, Conflict, StorageError)),
    "close_session": Told("", (Conflict, StorageError)),
    "list_audit": Told("", (StorageError,)),
    "document": Told(content="application/json"),
    "events": Told("", (TooManyReaders,), ("Last-Event-ID",), "text/event-stream"),
}


def told_of(name: str) -> Told:
    """What is told of a route by the name of its function."""
    return _TOLD.get(name, _NOTHING)


def problems_of(name: str, scope: Scope, path_parameters: Iterable[str]) -> list[type[AicpError]]:
    """Everything that a route may refuse with: what its kind may, and what it alone may."""
    told = told_of(name)
    kinds: list[type[AicpError]] = [HostRefused, OriginRefused]
    if scope is not Scope.OPEN:
        kinds += [AccessDenied, TooManyRequests, InvalidInput]
    if scope not in {Scope.OPEN, Scope.ANY_KEY}:
        kinds.append(ScopeMissing)
    kinds += [_NOT_FOUND[parameter] for parameter in path_parameters if parameter in _NOT_FOUND]
    kinds += _BODY if told.body else ()
    return list(dict.fromkeys([*kinds, *told.problems]))
