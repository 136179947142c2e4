"""Reads a call from an HTTP request, or says in one sentence why it cannot be read."""

import re
import time
from collections.abc import Mapping

import msgspec
from aiohttp import ClientError, web

from aicp import standstill
from aicp.agent.answers import refuse
from aicp.agent.fencing import Token, parse_token
from aicp.agent.handler import NEVER
from aicp.model.nesting import NESTING_MAX
from aicp.model.pieces import VALUES_MAX, decode_in_pieces, holds_more_values, is_large
from aicp.model.task import DEADLINE_S_MAX
from aicp.model.validation import type_fault
from aicp.model.wire import DEADLINE_HEADER, FENCING_HEADER, KEY_HEADER, PARAMS_BYTES_MAX, Invocation

BODY_S_MAX = 60.0
KEY_CHARS_MAX = 256
READERS_SPARE = 64
READER_RETRY_MS = 100
_MILLISECONDS = re.compile(r"[0-9]{1,15}")
_decoder = msgspec.json.Decoder(Invocation)


class CallHeaders(msgspec.Struct, frozen=True):
    """What the headers of a call say.

    Attributes:
        key: The idempotency key, None when it was not sent.
        limit: When the caller stops waiting; infinite when it did not say.
        fencing_token: As sent, or None.
        token: The same, comparable.
    """

    key: str | None
    limit: standstill.TimeLimit
    fencing_token: str | None
    token: Token | None


def read_headers(headers: Mapping[str, str]) -> CallHeaders | web.Response:
    """Check the call's headers: 400 for a malformed one."""
    remaining_ms = headers.get(DEADLINE_HEADER)
    if remaining_ms is not None and not _MILLISECONDS.fullmatch(remaining_ms):
        return refuse(400, "invalid_deadline", f"{DEADLINE_HEADER} must be whole milliseconds, such as 1500")
    fencing_token = headers.get(FENCING_HEADER)
    token = None if fencing_token is None else parse_token(fencing_token)
    if fencing_token is not None and token is None:
        return refuse(400, "invalid_token", f"{FENCING_HEADER} must be <epoch>.<attempt>, such as 3.1")
    now, left_s = time.monotonic(), NEVER if remaining_ms is None else min(int(remaining_ms) / 1000, DEADLINE_S_MAX)
    return CallHeaders(headers.get(KEY_HEADER), standstill.TimeLimit(now, now + left_s), fencing_token, token)


def read_invocation(body: bytes, key: str | None) -> Invocation | web.Response:
    """Check the call's body: 400 when it is no JSON, 422 with the place of a wrong type or of a wrong id."""
    try:
        invocation = _decoded(body)
    except msgspec.ValidationError as error:
        fault = type_fault(error, "")
        return refuse(422, "invalid_input", f"{fault.place}: {fault.message}".removeprefix(": "))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return refuse(400, "invalid_json", f"the body must be JSON: {error}")
    if not 0 < len(invocation.task_id) <= KEY_CHARS_MAX:
        return refuse(422, "invalid_input", f"/task_id: must have 1 to {KEY_CHARS_MAX} characters")
    if invocation.attempt < 1:
        return refuse(422, "invalid_input", "/attempt: must be 1 or more")
    if key is not None and key != invocation.task_id:
        return refuse(422, "invalid_input", f"/task_id: must be the same as the header {KEY_HEADER}")
    return invocation


def _decoded(body: bytes) -> Invocation:
    if not is_large(body):
        return _decoder.decode(body)
    if holds_more_values(body):
        raise msgspec.ValidationError(f"Must hold at most {VALUES_MAX:,} values - at `$.params`")
    return msgspec.convert(decode_in_pieces(body, levels_max=NESTING_MAX + 1), Invocation)


class BodyReader:
    """Reads bodies whole, a bounded number at a time and of bounded size.

    Args:
        slots: How many executions may run at once; a few more bodies than that are read at the same time.
    """

    def __init__(self, slots: int) -> None:
        self._readers_max = slots + READERS_SPARE
        self._readers = 0

    async def read(self, request: web.BaseRequest) -> bytes | web.Response:
        """The body; or 415 for what is not plain JSON, 413 above 16 MiB, 408 after a minute, 429 when too many come."""
        refusal = _refuse_by_headers(request)
        if refusal is not None:
            return refusal
        if request.content.is_eof():  # the usual case: it came in one piece with the headers
            return _checked(request.content.read_nowait())
        if self._readers >= self._readers_max:
            return refuse(429, "full", "too many calls arrive at once", retry_after_ms=READER_RETRY_MS)
        self._readers += 1
        try:
            return await _read_slowly(request)
        finally:
            self._readers -= 1


def _refuse_by_headers(request: web.BaseRequest) -> web.Response | None:
    if request.content_type != "application/json":
        return refuse(415, "unsupported_media_type", "the body must be JSON: send Content-Type: application/json")
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        return refuse(415, "unsupported_encoding", "compressed bodies are not read: send it without Content-Encoding")
    if (request.content_length or 0) > PARAMS_BYTES_MAX:
        return _too_large()
    return None


async def _read_slowly(request: web.BaseRequest) -> bytes | web.Response:
    try:
        async with standstill.timeout(BODY_S_MAX):
            if request.headers.get("Expect", "").lower() == "100-continue":
                await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.writer.output_size = 0
            return await _gather(request)
    except TimeoutError:
        return refuse(408, "body_timeout", f"the body did not arrive within {BODY_S_MAX:.0f} seconds")
    except (ClientError, web.RequestPayloadError) as error:
        return refuse(400, "invalid_body", f"the body broke off: {error}")


async def _gather(request: web.BaseRequest) -> bytes | web.Response:
    body = bytearray()
    while piece := await request.content.readany():
        body += piece
        if len(body) > PARAMS_BYTES_MAX:
            return _too_large()
    return bytes(body)


def _checked(body: bytes) -> bytes | web.Response:
    return body if len(body) <= PARAMS_BYTES_MAX else _too_large()


def _too_large() -> web.Response:
    return refuse(413, "too_large", f"the body is larger than {PARAMS_BYTES_MAX} bytes")
