"""Where the name in an agent's URL leads, and whether an agent may live there."""

import asyncio
import socket
from ipaddress import ip_address

from aicp.errors import Fault, InvalidAgent
from aicp.model.endpoint import AddressPolicy, Endpoint, IPAddress

LOOKUP_TIMEOUT_S = 5.0
_PLACE = "/endpoint"


async def check_endpoint(url: str, policy: AddressPolicy) -> None:
    """Refuse an agent that could never be called: look its name up once, and ask the policy about what comes back.

    A name may lead elsewhere a second later, so this only tells early and clearly. What protects is the check of every
    address at the socket that is made for it.

    Args:
        url: The agent's base URL.
        policy: Where agents may live; one allowed address of several is enough, as for a call.

    Raises:
        InvalidAgent: The URL cannot be used, its name leads nowhere within 5 s, or only to addresses that are not
            allowed; the fault names one, and the setting that would allow it.
    """
    endpoint = Endpoint.parse(url, _PLACE)
    addresses = [endpoint.address] if endpoint.address is not None else await _looked_up(endpoint)
    if not any(map(policy.allows, addresses)):
        named = "" if endpoint.address is not None else f"; '{endpoint.host}' leads there"
        raise InvalidAgent([Fault(_PLACE, f"{policy.refusal(addresses[0])}{named}")])


async def _looked_up(endpoint: Endpoint) -> list[IPAddress]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LOOKUP_TIMEOUT_S):
            found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except TimeoutError:
        raise _unknown(endpoint, f"no answer within {LOOKUP_TIMEOUT_S:g} s") from None
    except (OSError, UnicodeError) as error:
        raise _unknown(endpoint, getattr(error, "strerror", None) or str(error)) from error
    if not found:
        raise _unknown(endpoint, "it has no address")
    return [ip_address(socket_address[0]) for *_, socket_address in found]


def _unknown(endpoint: Endpoint, why: str) -> InvalidAgent:
    return InvalidAgent([Fault(_PLACE, f"the name '{endpoint.host}' cannot be looked up: {why[:200]}")])
