"""Turns a server's problem+json back into the error that AICP would have raised here."""

from collections.abc import Callable

import msgspec

from aicp.errors import (
    AccessDenied,
    AgentNotFound,
    AgentReplaced,
    AicpError,
    CapabilityRefused,
    ChainNotFound,
    Conflict,
    Fault,
    Forbidden,
    IdempotencyConflict,
    InvalidAgent,
    InvalidChain,
    InvalidInput,
    InvalidTask,
    KeyNotFound,
    NewerVersion,
    NoCapableAgent,
    NotFound,
    QueueFull,
    StorageError,
    TaskNotFound,
)

DETAIL_CHARS_MAX = 2_000
PROBLEM_BYTES_MAX = 1024 * 1024
"""A larger body is not read as a problem: it is decoded in one call, on the loop."""


class ServerUnreachable(AicpError):
    """The server did not answer.

    Attributes:
        advice: What to do, as the message says it too; empty when nothing is known but to start it or to wait.
    """

    code = "server_unreachable"
    retryable = True

    def __init__(self, message: str, advice: str = "") -> None:
        self.advice = advice
        super().__init__(f"{message} {advice[0].upper()}{advice[1:]}." if advice else message)


class ClientClosed(AicpError):
    """The client is closed; make another one."""

    code = "client_closed"


class ServerRefused(AicpError):
    """The server refused the request with a problem that has no class of its own here.

    Attributes:
        status: The HTTP status.
        problem_code: What the server calls it; empty when it did not say.
    """

    code = "server_refused"

    def __init__(self, message: str, status: int, problem_code: str = "") -> None:
        self.status = status
        self.problem_code = problem_code
        super().__init__(message)


class Problem(msgspec.Struct, frozen=True):
    """The body of a refusal.

    Attributes:
        detail: What is wrong, where, and what to do.
        code: Stable; what decides which error this is.
        retry_after_ms: When to come again, milliseconds.
        faults: Each thing wrong with the input.
        capability: For `no_capable_agent` and `capability_refused`.
    """

    detail: str = ""
    code: str = ""
    retry_after_ms: int | None = None
    faults: tuple[Fault, ...] = ()
    capability: str = ""


def read_problem(status: int, body: bytes, url: str) -> Problem:
    """The problem in the body of a refusal by the server at `url`; what cannot be read is told by its status."""
    try:
        problem = msgspec.json.decode(body if len(body) <= PROBLEM_BYTES_MAX else b"", type=Problem)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        problem = Problem()
    if problem.detail and problem.code:
        return problem
    return msgspec.structs.replace(problem, detail=_told_by_status(status, url))


def error_of(problem: Problem, status: int) -> AicpError:
    """The error that a problem is."""
    make = _MAKERS.get(problem.code)
    if make is not None:
        return make(problem)
    message = problem.detail[:DETAIL_CHARS_MAX]
    if status in {401, 403}:
        return AccessDenied(message) if status == 401 else Forbidden(message)
    if status == 404 and problem.code:
        return NotFound(message)
    return ServerRefused(message, status, problem.code)


def _told_by_status(status: int, url: str) -> str:
    # A proxy before the server may answer for it while it is away, but refuses nothing in its place.
    if status >= 500:
        return f"{url} answered {status}."
    return f"What answers at {url} is no AICP server: it said {status}; look at the URL (AICP_URL)."


def _with_detail(kind: type[AicpError]) -> Callable[[Problem], AicpError]:
    return lambda problem: kind(problem.detail[:DETAIL_CHARS_MAX])


def _with_faults(kind: type[InvalidInput]) -> Callable[[Problem], AicpError]:
    return lambda problem: kind(problem.faults or problem.detail[:DETAIL_CHARS_MAX])


def _queue_full(problem: Problem) -> AicpError:
    return QueueFull(problem.detail[:DETAIL_CHARS_MAX], (problem.retry_after_ms or 0) / 1000)


_MAKERS: dict[str, Callable[[Problem], AicpError]] = {
    **{
        kind.code: _with_detail(kind)
        for kind in (
            AccessDenied,
            AgentNotFound,
            AgentReplaced,
            ChainNotFound,
            Conflict,
            IdempotencyConflict,
            KeyNotFound,
            NewerVersion,
            StorageError,
            TaskNotFound,
        )
    },
    **{kind.code: _with_faults(kind) for kind in (InvalidAgent, InvalidChain, InvalidInput, InvalidTask)},
    CapabilityRefused.code: lambda problem: CapabilityRefused(problem.capability),
    NoCapableAgent.code: lambda problem: NoCapableAgent(problem.capability, message=problem.detail[:DETAIL_CHARS_MAX]),
    QueueFull.code: _queue_full,
}
