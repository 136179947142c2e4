"""What goes back over the wire: answers of handlers, refusals, and how they are written."""

import math
from typing import Any

import msgspec
from aiohttp import web

from aicp.model.finite import holds_nan
from aicp.model.wire import ANSWER_BYTES_MAX, AgentError, Answer, Refusal
from aicp.model.writing import encode

MESSAGE_CHARS_MAX = 1_000
_HEADERS = {"Content-Type": "application/json", "Server": "aicp-agent"}
_encoder = msgspec.json.Encoder()


class UnusableAnswer(Exception):
    """The handler returned something that cannot be sent."""


def encode_answer(task_id: str, result: Any) -> bytes:
    """The body of a 200 with a result; for a thread when that is heavy.

    Raises:
        UnusableAnswer: It is no JSON, holds NaN or infinity, or is larger than 16 MiB.
    """
    try:
        body = encode(Answer(task_id, result))
        lossy = b"null" in body and holds_nan(result)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnusableAnswer(f"returned what JSON cannot express: {error}") from error
    if lossy:
        raise UnusableAnswer("returned what JSON cannot express: NaN or infinity")
    if len(body) > ANSWER_BYTES_MAX:
        raise UnusableAnswer(f"returned {len(body)} bytes; at most {ANSWER_BYTES_MAX} may be sent")
    return body


def encode_failure(task_id: str, error: AgentError) -> bytes:
    """The body of a 200 with the agent's own error."""
    return _encoder.encode(Answer(task_id, error=msgspec.structs.replace(error, message=_shown(error.message))))


def encode_refusal(code: str, message: str, retry_after_ms: int | None = None) -> bytes:
    """The body of everything that is no 200."""
    again = msgspec.UNSET if retry_after_ms is None else retry_after_ms
    return _encoder.encode(Refusal(AgentError(code, _shown(message)), again))


def reply(status: int, body: bytes) -> web.Response:
    """A response with a JSON body that is already written."""
    return web.Response(status=status, body=body, headers=_HEADERS)


def refuse(status: int, code: str, message: str, *, retry_after_ms: int | None = None) -> web.Response:
    """A response that says no: why, and when to come again if that helps (in the body and as Retry-After)."""
    response = reply(status, encode_refusal(code, message, retry_after_ms))
    if retry_after_ms is not None:
        response.headers["Retry-After"] = str(math.ceil(retry_after_ms / 1000))
    return response


def _shown(message: str) -> str:
    return message[:MESSAGE_CHARS_MAX].encode("utf-8", "replace").decode("utf-8")
