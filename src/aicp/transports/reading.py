"""What an agent answers, read within bounds."""

import aiohttp

from aicp.transports.connector import current_dial
from aicp.transports.replies import TOO_LARGE
from aicp.transports.sending import JSON

REFUSAL_BYTES_MAX = 64 * 1024
_KIND_CHARS_MAX = 100


class Unusable(Exception):
    """The answer breaks the contract; the message says how.

    Attributes:
        symptom: As in `Reply`.
    """

    def __init__(self, message: str, *, symptom: str = "") -> None:
        self.symptom = symptom
        super().__init__(message)


def begun(response: aiohttp.ClientResponse) -> aiohttp.ClientResponse:
    """Note on the call's dial that the head of an answer has arrived."""
    current_dial.get().answering = True
    return response


def let_go(response: aiohttp.ClientResponse) -> None:
    """Give the connection back, or end it when there was more to come."""
    if response.connection is not None:
        current_dial.get().abort()
    response.release()


async def read_json(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The body of an answer in JSON.

    Raises:
        Unusable: It is not JSON, is compressed or larger than `bytes_max`.
    """
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind != JSON and not kind.endswith("+json"):
        raise Unusable(f"answer is '{kind[:_KIND_CHARS_MAX]}', not {JSON}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Unusable("answer is compressed, which was not asked for")
    return await _read(response, bytes_max)


async def read_refusal(response: aiohttp.ClientResponse) -> tuple[int, str | None, bytes]:
    """The status, the Retry-After header and a short body; a long or broken one is taken for none."""
    try:
        body = await _read(response, REFUSAL_BYTES_MAX)
    except (Unusable, aiohttp.ClientError):
        body = b""
    return response.status, response.headers.get("Retry-After"), body


async def _read(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    declared = response.content_length
    if declared is not None and declared <= bytes_max:
        return await response.content.read()
    received = bytearray()
    if declared is None:
        async for chunk in response.content.iter_any():
            received += chunk
            if len(received) > bytes_max:
                break
        else:
            return bytes(received)
    raise Unusable(f"answer is larger than {bytes_max >> 10} KiB", symptom=TOO_LARGE)
