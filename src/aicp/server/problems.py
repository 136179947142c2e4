"""Every refusal as RFC 9457 problem+json, and the one table from an error's code to its HTTP status."""

import logging
import math
from typing import Any

import msgspec
from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException, ValidationException

from aicp.errors import AicpError, CapabilityRefused, Fault, Forbidden, InvalidInput, NoCapableAgent, NotFound

PROBLEM_TYPE = "application/problem+json"
FAULTS_TOLD_MAX = 100
PATH_CHARS_TOLD_MAX = 200
BEARER = 'Bearer realm="aicp"'

STATUS_OF_CODE = {
    "invalid_http": 400,
    "invalid_json": 400,
    "access_denied": 401,
    "forbidden": 403,
    "scope_missing": 403,
    "capability_refused": 403,
    "not_owner": 403,
    "origin_refused": 403,
    "not_found": 404,
    "task_not_found": 404,
    "chain_not_found": 404,
    "agent_not_found": 404,
    "key_not_found": 404,
    "method_not_allowed": 405,
    "header_too_slow": 408,
    "body_too_slow": 408,
    "conflict": 409,
    "idempotency_conflict": 409,
    "agent_replaced": 409,
    "body_too_large": 413,
    "media_type_refused": 415,
    "host_refused": 421,
    "invalid_input": 422,
    "invalid_task": 422,
    "invalid_chain": 422,
    "invalid_agent": 422,
    "no_capable_agent": 422,
    "reference_not_found": 422,
    "queue_full": 429,
    "too_many_documents": 429,
    "too_many_readers": 429,
    "too_many_requests": 429,
    "header_too_large": 431,
    "record_damaged": 500,
    "all_agents_failed": 502,
    "attempt_timed_out": 502,
    "routing_error": 502,
    "no_agent_available": 503,
    "circuit_open": 503,
    "server_stopping": 503,
    "too_many_connections": 503,
    "storage_error": 503,
    "settings_error": 503,
    "ownership_lost": 503,
    "newer_version": 503,
    "deadline_exceeded": 504,
}
"""Whatever is not in the table is 500."""

_log = logging.getLogger(__name__)


class Problem(msgspec.Struct, frozen=True, omit_defaults=False):
    """The body of every answer that is an error.

    Attributes:
        type: URN of the kind of problem.
        title: The kind in words; the same for every problem of the kind.
        status: The HTTP status.
        detail: What is wrong here, where, and what to do.
        code: Stable, lower case with underscores.
        retryable: True when the same request may well succeed later.
        retry_after_ms: When, milliseconds; None when nobody knows.
        faults: Each thing wrong with the input and its place: a JSON pointer into the body, or `?name` for a parameter.
        capability: For `no_capable_agent` and `capability_refused`: which.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
    retry_after_ms: int | None = None
    faults: tuple[Fault, ...] | msgspec.UnsetType = msgspec.UNSET
    capability: str | msgspec.UnsetType = msgspec.UNSET


class TooManyReaders(AicpError):
    """Too many read live events already."""

    code = "too_many_readers"
    retryable = True


class ServerStopping(AicpError):
    """The server is stopping: another one, or this one when it is back, takes new work.

    Attributes:
        retry_after_s: When a new submit has a chance.
    """

    code = "server_stopping"
    retryable = True

    def __init__(self, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__()


class TooManyConnections(AicpError):
    """The server has as many connections as it takes: close some, or come back later.

    Attributes:
        retry_after_s: When one more has a chance.
    """

    code = "too_many_connections"
    retryable = True

    def __init__(self, retry_after_s: float) -> None:
        self.retry_after_s = retry_after_s
        super().__init__()


class InvalidHttp(AicpError):
    """What was sent is not an HTTP/1.1 request."""

    code = "invalid_http"


class HeaderTooLarge(AicpError):
    """The request line and the header are longer than 64 KiB together."""

    code = "header_too_large"


class HeaderTooSlow(AicpError):
    """The header did not arrive within 10 s."""

    code = "header_too_slow"
    retryable = True


class InvalidJson(AicpError):
    """The body is not JSON."""

    code = "invalid_json"


class BodyTooSlow(AicpError):
    """The body did not arrive within 30 s."""

    code = "body_too_slow"
    retryable = True


class MediaTypeRefused(AicpError):
    """The body must be sent as application/json, not compressed."""

    code = "media_type_refused"


class HostRefused(AicpError):
    """The Host header does not name this server."""

    code = "host_refused"


class OriginRefused(Forbidden):
    """Pages of another origin may not use this server."""

    code = "origin_refused"


class NotOwner(Forbidden):
    """The agent was registered with another key."""

    code = "not_owner"


class ScopeMissing(Forbidden):
    """The key is valid, but not for this."""

    code = "scope_missing"


class MethodNotAllowed(AicpError):
    """The path does not take this method; `Allow` says which ones it takes."""

    code = "method_not_allowed"


class BodyTooLarge(AicpError):
    """The body is larger than this route takes."""

    code = "body_too_large"


_OF_STATUS: dict[int, tuple[type[AicpError], str]] = {
    404: (NotFound, "There is no route {method} {path}."),
    405: (MethodNotAllowed, "{path} does not take {method}."),
    413: (BodyTooLarge, "The body of {method} {path} is larger than this route takes."),
}
"""What the framework refuses by itself, and how that is told."""


def problem_of(error: AicpError) -> Problem:
    """What a client is told of an error."""
    retry_after_s = getattr(error, "retry_after_s", None)
    return Problem(
        type=f"urn:aicp:problem:{error.code}",
        title=error.default_message().removesuffix("."),
        status=STATUS_OF_CODE.get(error.code, 500),
        detail=error.message,
        code=error.code,
        retryable=error.retryable,
        retry_after_ms=None if retry_after_s is None else math.ceil(retry_after_s * 1000),
        faults=error.faults[:FAULTS_TOLD_MAX] if isinstance(error, InvalidInput) else msgspec.UNSET,
        capability=error.capability if isinstance(error, NoCapableAgent | CapabilityRefused) else msgspec.UNSET,
    )


def answer_error(_request: Request[Any, Any, State], error: AicpError) -> Response[Problem]:
    """Answer an error that AICP raised on purpose."""
    return _respond(problem_of(error))


def answer_refusal(request: Request[Any, Any, State], refusal: HTTPException) -> Response[Problem]:
    """Answer what the framework refused: an unknown route, a method, a parameter, a body."""
    if isinstance(refusal, ValidationException):
        return _respond(problem_of(InvalidInput(_parameter_faults(refusal))))
    if refusal.status_code >= 500:
        return answer_defect(request, refusal)
    if (found := _OF_STATUS.get(refusal.status_code)) is None:
        return _respond(problem_of(InvalidInput(refusal.detail)))
    kind, told = found
    problem = problem_of(kind(told.format(method=request.method, path=_path(request))))
    return _respond(problem, refusal.headers)


def answer_defect(request: Request[Any, Any, State], error: Exception) -> Response[Problem]:
    """Answer what should not have happened: it is logged here and not explained to the client."""
    _log.error("%s %s failed", request.method, _path(request), exc_info=error)
    return _respond(
        Problem(
            type="urn:aicp:problem:internal_error",
            title="Internal error",
            status=500,
            detail="The server failed on this request; its log says why.",
            code="internal_error",
            retryable=False,
        )
    )


def _path(request: Request[Any, Any, State]) -> str:
    return request.url.path[:PATH_CHARS_TOLD_MAX]


def header_fields(problem: Problem) -> dict[str, str]:
    """What the header of the answer says of a problem."""
    fields = {"WWW-Authenticate": BEARER} if problem.status == 401 else {}
    if problem.retry_after_ms is not None:
        fields["Retry-After"] = str(math.ceil(problem.retry_after_ms / 1000))
    return fields


def _respond(problem: Problem, headers: dict[str, str] | None = None) -> Response[Problem]:
    sent = {**(headers or {}), **header_fields(problem)}
    return Response(problem, status_code=problem.status, media_type=PROBLEM_TYPE, headers=sent)


def _parameter_faults(refusal: ValidationException) -> list[Fault]:
    told = refusal.extra if isinstance(refusal.extra, list) else []
    faults = [Fault(f"?{fault.get('key', '')}", str(fault.get("message", ""))) for fault in told]
    return faults or [Fault("", refusal.detail)]
