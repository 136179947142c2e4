"""Reads the body of a request: JSON only, bounded in size and depth, every fault with its place.

How long it may take is the connection's business.
"""

import hashlib
from collections.abc import Callable
from contextlib import aclosing
from itertools import islice
from typing import Any, TypeVar

import msgspec
from litestar import Request
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.exceptions import InternalServerException
from litestar.handlers import BaseRouteHandler

from aicp.errors import Fault, InvalidInput
from aicp.model.agent import SCHEMAS_BYTES_MAX
from aicp.model.document_desk import DocumentDesk
from aicp.model.nesting import is_too_deep
from aicp.model.pieces import VALUES_MAX, DoubledKey, decode_in_pieces, holds_more_values, is_large, values_at_most
from aicp.model.reading import type_faults
from aicp.model.validation import ChainGraph
from aicp.model.wire import KEY_HEADER
from aicp.model.writing import encode
from aicp.ports import SubmitKey
from aicp.server.auth import Caller, KeyHolder
from aicp.server.doubles import faults_of_doubles, faults_of_large_doubles, has_doubles
from aicp.server.malformed import is_nested_too_deep, why_no_json, why_too_deep
from aicp.server.openapi.operations import told_of
from aicp.server.problems import FAULTS_TOLD_MAX, InvalidJson, MediaTypeRefused

BODY_BYTES_MAX = 1024 * 1024
REGISTRATION_BYTES_MAX = SCHEMAS_BYTES_MAX + BODY_BYTES_MAX
CHAIN_BYTES_MAX = 8 * 1024 * 1024
NOTHING_BYTES_MAX = 64
KEY_CHARS_MAX = 256
FAULTS_ON_THE_LOOP = 250

CallerRequest = Request[Caller, KeyHolder, State]
T = TypeVar("T")


async def body_guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Refuse a body that a route does not take: whoever sends one means something by it.

    A GET may bring what it likes: nothing reads it.

    Raises:
        InvalidInput: There is one, and it is not `{}`, which some clients send with everything.
    """
    if not isinstance(connection, Request) or connection.method in _READING or told_of(handler.handler_name).body:
        return
    announced = connection.content_length or 0
    if announced > NOTHING_BYTES_MAX or not _is_nothing(await _beginning(connection)):
        raise InvalidInput("this route takes no body: send none, or {}")


async def read_document(request: CallerRequest) -> Any:
    """The JSON value in the body of a request; its route bounds its size.

    A large one is read off the loop.

    Raises:
        TooManyDocuments: It is large, and so many large ones are read that it has to come later.
        MediaTypeRefused: It is not sent as JSON.
        InvalidJson: It is cut off, not JSON, holds numbers that JSON has not, or is nested deeper than 64; with the
            place.
        InvalidInput: A key stands twice in an object, or it holds more than 200,000 values.
    """
    body = await _json_body(request)
    return await desk_of(request).read(body, lambda: _document_of(body))


async def read_submit(
    request: CallerRequest, parse: Callable[[Any], T], parse_and_check: Callable[[Any], ChainGraph]
) -> tuple[T | ChainGraph, SubmitKey | None]:
    """What a body asks for, and what makes its submit safe to repeat.

    Args:
        request: Its body is a JSON document.
        parse: Makes of a small document what it asks for; it is checked when it is taken in.
        parse_and_check: Does the same with a large one and checks it, off the loop.

    Raises:
        AicpError: As `read_document` does; the document cannot be used; or there are too many large ones.
    """
    body = await _json_body(request)
    # Of a small one, too, each value may be a fault, and a fault costs more than a hundred values that are good.
    is_off_the_loop = is_large(body) or values_at_most(body) > FAULTS_ON_THE_LOOP

    def read() -> tuple[T | ChainGraph, SubmitKey | None]:
        document = _document_of(body)
        wanted = parse_and_check(document) if is_off_the_loop else parse(document)
        return wanted, submit_key(request, document)

    return await desk_of(request).run(len(body), read) if is_off_the_loop else read()


def desk_of(request: Request[Any, Any, Any]) -> DocumentDesk:
    """Where this server works on large documents."""
    desk: DocumentDesk = request.app.state.documents
    return desk


async def read_document_if_any(request: CallerRequest) -> Any:
    """As `read_document`, of a route that needs no body; an empty object when there is none.

    Raises:
        AicpError: As `read_document` does.
    """
    return {} if _is_nothing(await _read(request)) else await read_document(request)


def read_as(document: Any, kind: type[T], refusal: type[InvalidInput]) -> T:
    """A decoded body as a value.

    Raises:
        InvalidInput: Of the class `refusal`: fields are missing, unknown or of the wrong type; every one is told.
    """
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError:
        raise refusal(list(islice(type_faults(document, kind, ""), FAULTS_TOLD_MAX))) from None


def submit_key(request: CallerRequest, document: Any) -> SubmitKey | None:
    """What makes this submit safe to repeat: the `Idempotency-Key` with a digest of route and body.

    Raises:
        InvalidInput: The header cannot be used.
    """
    keys = set(request.headers.getall(KEY_HEADER, []))
    if not keys:
        return None
    if len(keys) > 1:
        raise InvalidInput([Fault(KEY_HEADER, "is there more than once, and not the same; keep one")])
    (key,) = keys
    if not (0 < len(key) <= KEY_CHARS_MAX and key.isascii() and key.isprintable()):
        raise InvalidInput([Fault(KEY_HEADER, f"must be 1 to {KEY_CHARS_MAX} printable ASCII characters")])
    canonical = encode([request.scope["path"], document], order="deterministic")
    return SubmitKey(request.user.tenant, key, hashlib.sha256(canonical).digest())


_JSON = "application/json"
_UTF_8 = frozenset({"utf-8", "utf8"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_NOTHING = frozenset({b"", b"{}"})
_CUT_OFF = "The body was cut off."


async def _json_body(request: CallerRequest) -> bytes:
    _check_media_type(request)
    return await _read(request)


def _document_of(body: bytes) -> Any:
    """The value of a body; in a thread when it is large."""
    large = is_large(body)
    if large and is_nested_too_deep(body):
        raise InvalidJson(f"The body is {why_too_deep(body)}.")
    if large and holds_more_values(body):
        told = f"holds more than {VALUES_MAX:,} values, the most that a document may hold: split it, or pass references"
        raise InvalidInput([Fault("", told)])
    try:
        document = decode_in_pieces(body, has_doubles) if large else msgspec.json.decode(body)
    except RecursionError:
        raise InvalidJson(f"The body is {why_too_deep(body)}.") from None
    except DoubledKey:
        raise InvalidInput(faults_of_large_doubles(body)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidJson(f"The body is not usable JSON: {why_no_json(error, body)}.") from None
    if not large and is_too_deep(document, body):
        raise InvalidJson(f"The body is {why_too_deep(body)}.")
    if not large and (doubles := faults_of_doubles(body)):
        raise InvalidInput(doubles)
    return document


def _check_media_type(request: CallerRequest) -> None:
    kind, _, parameters = request.headers.get("content-type", "").lower().partition(";")
    if kind.strip() != _JSON:
        raise MediaTypeRefused(f"The body must be sent with Content-Type: {_JSON}, not '{kind.strip()[:80]}'.")
    if parameters and (other := _other_charset(parameters)):
        raise MediaTypeRefused(f"JSON is sent in UTF-8, not in '{other[:80]}'.")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise MediaTypeRefused("Compressed bodies are not taken; send it as it is.")


def _other_charset(parameters: str) -> str:
    """The charset that a Content-Type names behind its first `;`, in lower case; empty when that is UTF-8, or none."""
    for parameter in parameters.split(";"):
        name, _, charset = (part.strip() for part in parameter.partition("="))
        if name == "charset" and charset.strip('"') not in _UTF_8:
            return charset
    return ""


def _is_nothing(body: bytes) -> bool:
    return b"".join(body.split()) in _NOTHING


async def _beginning(request: Request[Any, Any, Any]) -> bytes:
    """The body of a request, or as much of it as shows that there is one."""
    body = b""
    try:
        async with aclosing(request.stream()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) > NOTHING_BYTES_MAX:
                    break
    except InternalServerException:
        raise InvalidJson(_CUT_OFF) from None
    return body


async def _read(request: CallerRequest) -> bytes:
    try:
        return await request.body()
    except InternalServerException:
        raise InvalidJson(_CUT_OFF) from None
