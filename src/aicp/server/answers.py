"""Answers of any size: heavy ones are written in a thread, and no answer is handed to its connection in one piece."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from litestar import Request, Response
from litestar.response.base import ASGIResponse
from litestar.status_codes import HTTP_200_OK
from litestar.types import Receive, Scope, Send

from aicp.model.document_desk import DocumentDesk
from aicp.model.writing import is_heavy

PIECE_BYTES = 64 * 1024
T = TypeVar("T")
Headers = list[tuple[bytes, bytes]]


async def send_json(send: Send, status: int, parts: Sequence[bytes], headers: Headers | None = None) -> None:
    """Answer with JSON; between any two pieces of about 64 KiB everybody else has a turn.

    Args:
        send: ASGI's.
        status: HTTP status.
        parts: The document, in its order.
        headers: Others than its type and length.
    """
    length = sum(map(len, parts))
    said = [(b"content-type", b"application/json"), (b"content-length", b"%d" % length), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": said})
    sent = 0
    for piece in _pieces(parts):
        sent += len(piece)
        await send({"type": "http.response.body", "body": piece, "more_body": sent < length})
        if sent < length:
            await asyncio.sleep(0)


def _pieces(parts: Sequence[bytes]) -> Iterator[bytes]:
    for part in parts:
        if len(part) <= PIECE_BYTES:
            yield part
        else:
            yield from (part[at : at + PIECE_BYTES] for at in range(0, len(part), PIECE_BYTES))


class Answer(Response[T]):
    """What the framework answers with: a view that is heavy is written by the server's threads for documents."""

    def to_asgi_response(  # type: ignore[override] # an ASGI application, which is all that is asked of it
        self, app: Any, request: Request[Any, Any, Any], **told: Any
    ) -> "ASGIResponse | _Heavy":
        """The answer as an ASGI application."""
        if isinstance(self.content, str | bytes) or not is_heavy(self.content):
            return super().to_asgi_response(app, request, **told)
        headers = {**(told.get("headers") or {}), **self.headers}
        status = self.status_code or told.get("status_code") or HTTP_200_OK
        return _Heavy(request.app.state.documents, self.content, status, headers)


class Written(Response[T]):
    """A view of this kind that is written already.

    Args:
        parts: Its JSON, in pieces.
    """

    def __init__(self, parts: Sequence[bytes]) -> None:
        super().__init__(content=None)  # type: ignore[arg-type] # its kind is said for the API's description only
        self._parts = parts

    def to_asgi_response(  # type: ignore[override] # an ASGI application, which is all that is asked of it
        self, **told: Any
    ) -> "_InParts":
        """The answer as an ASGI application."""
        return _InParts(self._parts, told.get("status_code") or HTTP_200_OK)


class _Heavy:
    def __init__(self, documents: DocumentDesk, view: Any, status: int, headers: Mapping[str, str]) -> None:
        self._documents = documents
        self._view = view
        self._status = status
        self._headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        body = await self._documents.encode(self._view)
        await send_json(send, self._status, [body], self._headers)


class _InParts:
    def __init__(self, parts: Sequence[bytes], status: int) -> None:
        self._parts = parts
        self._status = status

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send_json(send, self._status, self._parts)
