"""One request to the server and its answer; what is safe to send again is sent again, a bounded number of times."""

import asyncio
import io
import math
import random
import re
import socket
from collections.abc import AsyncGenerator, Iterator, Mapping
from http import HTTPStatus
from http.client import HTTPException, IncompleteRead
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from yarl import URL

from aicp import standstill
from aicp.client.connector import PatientConnector
from aicp.client.problems import Problem, ServerRefused, ServerUnreachable, error_of, read_problem
from aicp.client.unreached import reason_of
from aicp.errors import AicpError, InvalidInput, SettingsError
from aicp.forks import HomeProcess, close_socket_in_child
from aicp.model.document_desk import DocumentDesk
from aicp.model.finite import holds_nan
from aicp.model.wire import KEY_HEADER
from aicp.model.writing import encode
from aicp.version import __version__

CONNECT_TIMEOUT_S = 5.0
# Below the 75 s after which the server closes a connection that nobody uses.
KEEP_ALIVE_S = 30.0
# Three times the silence after which a stream of events says that it lives.
STREAM_SILENCE_S_MAX = 45.0
CONNECTIONS_MAX = 100
ANSWER_BYTES_MAX = 256 * 1024 * 1024
# aiohttp warns of bytes longer than this; a stream it sends piece by piece.
BYTES_SENT_WHOLE_MAX = 1024 * 1024
BACKOFF_FIRST_S = 0.25
BACKOFF_FACTOR = 2.0
BACKOFF_MAX_S = 8.0
RETRY_AFTER_MAX_S = 30.0
_TRY_AGAIN = frozenset({429, 503})
_KEY = re.compile(r"[!-~]+")


class Trouble(Exception):
    """The request did not succeed, and may be sent again after `wait_s` (None for the backoff)."""

    def __init__(self, error: AicpError, wait_s: float | None = None) -> None:
        super().__init__()
        self.error = error
        self.wait_s = wait_s


class Exchange:
    """Sends requests to one server.

    Args:
        url: Base URL of the server.
        api_key: Sent with every request; None for none.
        timeout_s: How long one answer may take, seconds, besides what a request itself asks to wait.
        retries_max: How often a request that found no answer, or 429 or 503, is sent again.

    Raises:
        SettingsError: The URL or the key cannot be used.

    Attributes:
        documents: Where large bodies are written and large answers are read.
    """

    def __init__(self, url: str, api_key: str | None, *, timeout_s: float, retries_max: int) -> None:
        self.url = _checked_url(url)
        self._timeout_s = timeout_s
        self._retries_max = retries_max
        self._headers = {"Accept": "application/json", "User-Agent": f"aicp-client/{__version__}"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {_checked_key(api_key)}"
        self._session: aiohttp.ClientSession | None = None
        self.documents = DocumentDesk()
        self._home = HomeProcess("This client")

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | list[str]] | None = None,
        body: Any = msgspec.UNSET,
        key: str | None = None,
        patience_s: float = 0.0,
    ) -> bytes:
        """Send a request that may safely be sent twice, and return the body of its answer.

        Args:
            method: Of HTTP.
            path: Below the base URL, quoted.
            query: Parameters.
            body: Sent as JSON unless it is UNSET.
            key: The `Idempotency-Key`.
            patience_s: How long the server was asked to wait before it answers.

        Raises:
            AicpError: The error that the server told, by its code.
            ServerUnreachable: It gave no usable answer, however often it was asked.
        """
        target = URL(self.url + path, encoded=True).update_query(query or {})
        headers = {} if key is None else {KEY_HEADER: key}
        data = None if body is msgspec.UNSET else await self.documents.write(body, lambda: _encode(body))
        for backoff_s in self.backoffs():
            try:
                return await self._once(method, target, headers, data, self._timeout_s + patience_s)
            except Trouble as trouble:
                await self.wait_after(trouble, backoff_s)
        raise AssertionError("the last backoff is infinite")

    async def lines(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> AsyncGenerator[str, None]:
        """The lines of an answer without an end, as they come; to be closed.

        Raises:
            AicpError: The error that the server told, by its code.
            ServerRefused: A line is longer than 128 KiB.
            Trouble: It may be asked again.
        """
        target = URL(self.url + path, encoded=True).update_query(query)
        timeout = aiohttp.ClientTimeout(connect=CONNECT_TIMEOUT_S, sock_read=STREAM_SILENCE_S_MAX)
        try:
            async with self._opened().get(target, headers=headers, timeout=timeout, allow_redirects=False) as response:
                if response.status != HTTPStatus.OK:
                    raise self._refusal(response, await self._read(response))
                async for line in _lines(response):
                    yield line.decode("utf-8", "replace").rstrip("\r\n")
        except TimeoutError as error:
            told = f"{self.url} said nothing for {STREAM_SILENCE_S_MAX:.0f} s."
            raise Trouble(ServerUnreachable(told)) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Trouble(self._unreachable(error)) from error

    async def wait_after(self, trouble: Trouble, backoff_s: float) -> None:
        """Wait before it is tried again.

        Raises:
            AicpError: It was tried often enough, or the wait would be too long.
        """
        wait_s = backoff_s if trouble.wait_s is None else trouble.wait_s
        if wait_s > RETRY_AFTER_MAX_S or backoff_s == math.inf:
            raise trouble.error from trouble.__cause__
        await asyncio.sleep(wait_s)

    async def close(self) -> None:
        """Give back every connection and thread; a later request opens new ones."""
        if self._home.is_left:
            return
        self.documents.close()
        if self._session is not None:
            await self._session.close()
            self._session = None

    def backoffs(self) -> Iterator[float]:
        """A wait after each failure; infinite after the last."""
        wait_s = BACKOFF_FIRST_S
        for _ in range(self._retries_max):
            yield wait_s * random.uniform(0.9, 1.1)
            wait_s = min(wait_s * BACKOFF_FACTOR, BACKOFF_MAX_S)
        yield math.inf

    async def _once(
        self, method: str, target: URL, headers: Mapping[str, str], data: bytes | None, timeout_s: float
    ) -> bytes:
        sent = {**headers, "Content-Type": "application/json"} if data is not None else headers
        # A stream cannot be read twice: each sending has its own.
        stream = io.BytesIO(data) if data is not None and len(data) > BYTES_SENT_WHOLE_MAX else data
        try:
            async with (
                standstill.timeout(timeout_s),
                self._opened().request(method, target, headers=sent, data=stream, allow_redirects=False) as response,
            ):
                body = await self._read(response)
        except TimeoutError as error:
            raise Trouble(ServerUnreachable(f"{self.url} did not answer within {timeout_s:.0f} s.")) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Trouble(self._unreachable(error)) from error
        if 200 <= response.status < 300:
            return body
        raise self._refusal(response, body)

    def _opened(self) -> aiohttp.ClientSession:
        self._home.require()
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=PatientConnector(
                    limit=CONNECTIONS_MAX, keepalive_timeout=KEEP_ALIVE_S, socket_factory=_make_socket
                ),
                timeout=aiohttp.ClientTimeout(connect=CONNECT_TIMEOUT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
            )
        return self._session

    def _refusal(self, response: aiohttp.ClientResponse, body: bytes) -> AicpError | Trouble:
        problem = read_problem(response.status, body, self.url)
        refusal = error_of(problem, response.status)
        if response.status in _TRY_AGAIN:
            return Trouble(refusal, _wait_s(problem, response.headers.get("Retry-After")))
        return refusal

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        received = bytearray()
        async for chunk in response.content.iter_any():
            received += chunk
            if len(received) > ANSWER_BYTES_MAX:
                told = f"The answer of {self.url} is larger than {ANSWER_BYTES_MAX >> 20} MiB."
                raise Trouble(ServerUnreachable(told, "ask for less at once"))
        return bytes(received)

    def _unreachable(self, error: Exception) -> ServerUnreachable:
        reason = reason_of(_plain(error), self.url)
        return ServerUnreachable(f"{self.url} cannot be reached: {reason.told}.", reason.advice)


async def _lines(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    while True:
        try:
            line = await response.content.readline()
        except ValueError as error:
            told = f"What answers at {response.url.origin()} sends lines that are too long for events."
            raise ServerRefused(told, response.status) from error
        if not line:
            return
        yield line


WAIT_MS_MAX = 10**9
"""What a server may ask for at most, milliseconds; so long a wait ends the request."""


def _make_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    return close_socket_in_child(socket.socket(*address[:3]))


def _wait_s(problem: Problem, retry_after: str | None) -> float | None:
    if problem.retry_after_ms is not None:
        # Bounded first: an integer of JSON may be larger than any float.
        return min(max(problem.retry_after_ms, 0), WAIT_MS_MAX) / 1000
    return float(retry_after) if retry_after is not None and retry_after.isdecimal() else None


def _encode(body: Any) -> bytes:
    """The JSON of a body; for a thread when that is heavy."""
    try:
        encoded = encode(body)
        # They become null in silence, and that means something else: no limit, or for ever.
        lossy = b"null" in encoded and holds_nan(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"it is not JSON: {error}") from error
    if lossy:
        raise InvalidInput("it is not JSON: NaN and infinity are no numbers there")
    return encoded


def _plain(error: Exception) -> Exception:
    """What Python's own libraries would have raised where the HTTP library raised this."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return socket.gaierror()
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return ConnectionResetError()
    if isinstance(error, aiohttp.ClientPayloadError):
        return IncompleteRead(b"")
    if isinstance(error, aiohttp.ClientResponseError):
        return HTTPException()
    return OSError(*error.args) if isinstance(error, aiohttp.ClientOSError) else error


def _checked_url(url: str) -> str:
    if not _is_sound(url):
        # What holds a name may hold a password, and errors end up in logs.
        told = "" if "@" in str(url) else f", not '{url}'"
        raise SettingsError(f"The server's URL must look like http://127.0.0.1:8420{told}; set AICP_URL.")
    return url.rstrip("/")


def _is_sound(url: object) -> bool:
    if not isinstance(url, str):
        return False
    try:
        parts, host = urlsplit(url), URL(url, encoded=True).raw_host or ""
        # Refuses what the look-up of a name could not be asked for.
        host.encode("idna")
        sound = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return sound and not (parts.query or parts.fragment) and parts.username is None


def _checked_key(api_key: str) -> str:
    if not (isinstance(api_key, str) and _KEY.fullmatch(api_key)):
        raise SettingsError("The API key must be one word of printable ASCII characters; set AICP_API_KEY.")
    return api_key
