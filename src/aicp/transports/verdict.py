"""What an HTTP answer, or the lack of one, means: section 1 of the semantics as pure functions."""

import errno
import socket
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
import msgspec

from aicp.model.nesting import NESTING_MAX, is_too_deep
from aicp.model.outcome import Outcome, Reply, TaskError
from aicp.model.pieces import VALUES_MAX, decode_in_pieces, holds_more_values, is_large
from aicp.model.task import Call
from aicp.model.wire import STALE_TOKEN, AgentError, Answer, Refusal
from aicp.transports.connector import Dial
from aicp.transports.replies import (
    TOO_LARGE,
    fault,
    late,
    local_trouble,
    misconfigured,
    one_line,
    refusal,
    unavailable,
)

RETRY_AFTER_S_MAX = 300.0
RETRY_AFTER_S_MIN = 0.05
REQUEST_TIMEOUT = 408

_AGENT_IS_CLOSED_TO_US = frozenset({401, 403, 407})
_CAPABILITY_IS_NOT_THERE = frozenset({404, 405, 406, 415, 501})
_TOO_MANY = f"answer holds more than {VALUES_MAX:,} values"
_TOO_DEEP = f"answer is nested deeper than {NESTING_MAX}"
_FULL = frozenset({425, 429})
_ALIVE = frozenset({404, 405, 501})
_MAY_PASS = frozenset({502, 503, 504})

# What the machine itself has run out of.
_OUR_OWN_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})

DEAD_CONNECTION = Reply(Outcome.AGENT_FAULT, reason="a re-used connection closed before the answer", evidence=False)
"""A re-used connection died before the first byte of the answer: the call may have been executed, or not."""

_answers = msgspec.json.Decoder(Answer)
_refusals = msgspec.json.Decoder(Refusal)


def of_answer(body: bytes, call: Call) -> Reply:
    """The verdict on the body of a 200."""
    try:
        answer = _decoded(body)
    except (ValueError, RecursionError) as error:
        is_too_large = isinstance(error, _TooManyValues | RecursionError)
        return fault(_why_not_decoded(error), symptom=TOO_LARGE if is_too_large else "")
    if answer.task_id != call.task_id:
        return fault("answer is for another task")
    if isinstance(answer.error, AgentError):
        return refusal(answer.error)
    if answer.result is msgspec.UNSET:
        return fault("answer has neither result nor error")
    if is_too_deep(answer.result, body):
        return fault(_TOO_DEEP, symptom=TOO_LARGE)
    return Reply(Outcome.SUCCESS, answer.result)


def of_status(status: int, retry_after: str | None, body: bytes, now: datetime) -> Reply:
    """The verdict on any other status.

    Args:
        status: 100 to 999, not 200.
        retry_after: The header, None when there was none.
        body: The beginning of it, at most; for what the agent says of the reason.
        now: UTC, for a `retry_after` that is a date.
    """
    told = _read_refusal(body)
    outcome = _outcome_of(status, told, has_hint=retry_after is not None)
    error = told.error.as_task_error() if isinstance(told.error, AgentError) else None
    # Who is set aside is shown with the reason to everybody it serves: what it says may be about one tenant's task.
    words = "" if error is None or outcome is Outcome.MISCONFIGURED else error.message
    reason = f"answered {status}: {words}" if words else f"answered {status}"
    return Reply(
        outcome,
        error=error,
        reason=one_line(reason),
        retry_after_s=_retry_after_s(told, retry_after, now) if outcome is Outcome.OVERLOADED else None,
        repeatable=outcome in {Outcome.OVERLOADED, Outcome.MISCONFIGURED},
        whole_agent=_concerns_whole_agent(outcome, status),
        stale=outcome is Outcome.CANCELLED,
        symptom=_symptom(status, error),
        transient=status in _MAY_PASS,
    )


def of_probe(status: int, retry_after: str | None, body: bytes, now: datetime) -> Reply:
    """The verdict on an answer to `GET /healthz`: an agent that has no such path is alive nevertheless."""
    if status in _ALIVE or 200 <= status < 300:
        return Reply(Outcome.SUCCESS)
    return of_status(status, retry_after, body, now)


def of_exception(error: Exception, dial: Dial, timeout_s: float) -> Reply:
    """The verdict on a call that ended without an answer; `dial` tells how far it had come."""
    if dial.connected:
        return _of_broken_talk(error, dial, timeout_s)
    if dial.refusal and not dial.dialled:
        return misconfigured(dial.refusal)
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return _of_lookup(error)
    if not dial.dialled:
        return local_trouble(_why_not_dialled(error, timeout_s))
    if isinstance(error, OSError) and error.errno in _OUR_OWN_SHORTAGES:
        return local_trouble(f"cannot connect: {error.strerror}")
    return unavailable(_why_not_connected(error, timeout_s), timed_out=_is_time_of_call_over(error))


def _decoded(body: bytes) -> Answer:
    if not is_large(body):
        return _answers.decode(body)
    if holds_more_values(body):
        raise _TooManyValues
    return msgspec.convert(decode_in_pieces(body, levels_max=NESTING_MAX + 1), Answer)


class _TooManyValues(ValueError):
    pass


def _why_not_decoded(error: Exception) -> str:
    if isinstance(error, _TooManyValues):
        return _TOO_MANY
    if isinstance(error, RecursionError):
        return _TOO_DEEP
    if isinstance(error, msgspec.ValidationError):
        return f"answer has not the agreed form: {error}"
    return "answer is not JSON"


def _outcome_of(status: int, told: Refusal, *, has_hint: bool) -> Outcome:
    if status in _FULL:
        return Outcome.OVERLOADED
    if status == 503:
        is_full = has_hint or told.retry_after_ms is not msgspec.UNSET
        return Outcome.OVERLOADED if is_full else Outcome.UNAVAILABLE
    if status == 409 and isinstance(told.error, AgentError) and told.error.code == STALE_TOKEN:
        return Outcome.CANCELLED
    if status in _AGENT_IS_CLOSED_TO_US or status in _CAPABILITY_IS_NOT_THERE or 300 <= status < 400:
        return Outcome.MISCONFIGURED
    if 400 <= status < 500 and status != REQUEST_TIMEOUT:
        return Outcome.CALLER_FAULT
    return Outcome.AGENT_FAULT


def _concerns_whole_agent(outcome: Outcome, status: int) -> bool:
    if outcome is Outcome.MISCONFIGURED:
        return status not in _CAPABILITY_IS_NOT_THERE
    return outcome in {Outcome.OVERLOADED, Outcome.UNAVAILABLE}


def _symptom(status: int, error: TaskError | None) -> str:
    """Status and error code, for comparison with other agents; empty unless a living agent answered with a fault."""
    if status < 500 and status != REQUEST_TIMEOUT:
        return ""
    return f"{status} {error.code}" if error is not None else str(status)


def _read_refusal(body: bytes) -> Refusal:
    try:
        return _refusals.decode(body)
    except (ValueError, RecursionError):
        return Refusal()


def _retry_after_s(told: Refusal, header: str | None, now: datetime) -> float | None:
    if told.retry_after_ms is not msgspec.UNSET:
        # Bounded first: an integer of JSON may be larger than any float.
        return min(max(told.retry_after_ms, RETRY_AFTER_S_MIN * 1000), RETRY_AFTER_S_MAX * 1000) / 1000
    seconds = _header_s(header, now)
    return None if seconds is None else min(max(seconds, RETRY_AFTER_S_MIN), RETRY_AFTER_S_MAX)


def _header_s(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After asks for, as a number or as a date; None when it is neither."""
    if header is None:
        return None
    if header.isascii() and header.isdecimal():
        # A number of thousands of digits would only be told to be too long.
        return float(header[:9])
    try:
        when = parsedate_to_datetime(header)
        return (when.replace(tzinfo=when.tzinfo or UTC) - now).total_seconds()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def _of_lookup(error: aiohttp.ClientConnectorDNSError) -> Reply:
    cause = error.os_error
    if isinstance(cause, socket.gaierror) and cause.errno in _NO_SUCH_NAME:
        return unavailable(f"there is no host '{error.host}'")
    return local_trouble(f"cannot look up '{error.host}': {cause.strerror or cause}")


def _why_not_dialled(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no free connection or no answer from the resolver within {timeout_s:.3g} s"
    return _named(error)


def _why_not_connected(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no connection within {timeout_s:.3g} s"
    if isinstance(error, aiohttp.ClientSSLError):
        return f"TLS failed: {error.os_error}"
    if isinstance(error, ConnectionRefusedError) or getattr(error, "errno", None) == errno.ECONNREFUSED:
        return "connection refused"
    if isinstance(error, OSError):
        return f"cannot connect: {error.strerror or error}"
    return f"cannot connect: {_named(error)}"


def _is_time_of_call_over(error: Exception) -> bool:
    """True when the call's own time is over, rather than that for connecting."""
    return isinstance(error, TimeoutError) and not isinstance(error, aiohttp.ConnectionTimeoutError)


def _of_broken_talk(error: Exception, dial: Dial, timeout_s: float) -> Reply:
    if isinstance(error, TimeoutError):
        return late("answer not complete" if dial.answering else "no answer", timeout_s)
    if _died_idle(error, dial):
        return DEAD_CONNECTION
    if isinstance(error, aiohttp.ClientPayloadError):
        return fault("answer was cut off")
    if isinstance(error, aiohttp.ClientResponseError):
        return fault(f"answer is not HTTP: {error.message}")
    if isinstance(error, aiohttp.ClientConnectionError | OSError):
        return fault("connection closed in the answer" if dial.answering else "connection closed before the answer")
    return local_trouble(_named(error))


def _died_idle(error: Exception, dial: Dial) -> bool:
    """True when a re-used connection ended without one byte of an answer: it was dead before the call."""
    if dial.dialled or dial.answering:
        return False
    if isinstance(error, aiohttp.ServerDisconnectedError):
        # Otherwise the message is the half of an answer that had arrived.
        return isinstance(error.message, str)
    return isinstance(error, aiohttp.ClientOSError | aiohttp.ClientConnectionResetError)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
