"""FETCH as an agent does it: the picture comes over HTTP, within bounds of size and time."""

import socket
import time
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    Request,
    UnknownHandler,
)

import msgspec

from aicp.demo.agents.fetch import fetch
from aicp.demo.params import read_params
from aicp.demo.picture import InvalidPicture, check_weight
from aicp.version import __version__

SILENCE_S_MAX = 10.0
DOWNLOAD_S_MAX = 30.0

_PIECE_BYTES = 64 * 1024
# What may stand in a URL as it is; all else, such as letters with accents, is quoted.
_URL_CHARS = "%/:=&?~#+!$,;'@()*[]"
_HEADERS = {"User-Agent": f"aicp-demo/{__version__}", "Accept": "image/*"}
_ADVICE = {401: "it must be public", 403: "it must be public", 404: "check the address", 410: "check the address"}


class PictureNotReached(InvalidPicture):
    """The picture cannot be fetched."""

    code = "picture_not_reached"


class FetchTask(msgspec.Struct, frozen=True):
    """What FETCH is given.

    Attributes:
        url: Where the picture is, http or https.
        name: What the user calls it, for sentences about it; the URL when empty.
    """

    url: str
    name: str = ""


def fetch_url(params: dict[str, Any]) -> dict[str, Any]:
    """Give `{image, original}` of `{url, name?}`.

    Raises:
        InvalidInput: The params or the picture cannot be used, or it cannot be had; the subclass says why.
    """
    task = read_params(params, FetchTask)
    name = task.name or task.url
    return fetch(download(task.url, name), name)


def download(url: str, name: str, *, bound_s: float = DOWNLOAD_S_MAX) -> bytes:
    """The file at a URL; redirects are followed, proxies are not asked.

    Args:
        url: http or https.
        name: What the user calls it, for the sentence when it cannot be had.
        bound_s: How long it may take altogether, seconds.

    Raises:
        PictureNotReached: Nobody answers there, the answer is no file, or it takes too long.
        PictureTooHeavy: It has more than `FILE_BYTES_MAX` bytes; no more than those are read.
    """
    ends_at = time.monotonic() + bound_s
    try:
        request = Request(quote(url, safe=_URL_CHARS), headers=_HEADERS)  # noqa: S310 - the opener knows http(s) alone
        with _opener().open(request, timeout=min(SILENCE_S_MAX, bound_s)) as response:
            return _read(response, name, ends_at)
    except HTTPError as error:
        with error:
            raise PictureNotReached(_why_refused(name, error)) from error
    except (OSError, HTTPException, ValueError) as error:
        raise PictureNotReached(f"{name} {_why_not_reached(error)}") from error


def _opener() -> OpenerDirector:
    """An opener without proxies, FTP and files."""
    opener = OpenerDirector()
    for handler in (HTTPHandler, HTTPSHandler, HTTPRedirectHandler, HTTPErrorProcessor, HTTPDefaultErrorHandler):
        opener.add_handler(handler())
    opener.add_handler(UnknownHandler())
    return opener


def _read(response: HTTPResponse, name: str, ends_at: float) -> bytes:
    announced = response.length
    check_weight(announced or 0, name)
    data = bytearray()
    while announced is None or len(data) < announced:
        piece = response.read1(_PIECE_BYTES)
        if not piece:
            break
        data += piece
        check_weight(len(data), name)
        if time.monotonic() > ends_at:
            raise TimeoutError
    if len(data) < (announced or 0):
        raise ConnectionAbortedError
    return bytes(data)


def _why_refused(name: str, error: HTTPError) -> str:
    advice = _ADVICE.get(error.code, "try again later, or give another address")
    return f"{name} answers {error.code} {error.reason}".rstrip() + f"; {advice}"


def _why_not_reached(error: Exception) -> str:
    reason = error.reason if isinstance(error, URLError) else error
    if isinstance(reason, TimeoutError):
        return "does not send it in time; try again later, or give another address"
    if isinstance(reason, socket.gaierror):
        return "names a host that cannot be found; check the address and the network"
    if isinstance(reason, ConnectionAbortedError | IncompleteRead):
        return "breaks off before its end; try again"
    if isinstance(reason, OSError):
        told = (reason.strerror or str(reason)).lower()
        return f"cannot be reached ({told}); check the address and that its server runs"
    return f"cannot be reached ({reason}); check the address"
