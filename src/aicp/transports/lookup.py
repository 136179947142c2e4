"""Where the name in an agent's URL leads, and whether an agent may live there."""

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

from aicp import standstill
from aicp.errors import Fault, InvalidAgent
from aicp.model.endpoint import AddressPolicy, Endpoint, IPAddress

LOOKUP_TIMEOUT_S = 5.0
LOOKUPS_AT_ONCE = 4
_PLACE = "/endpoint"


class EndpointCheck:
    """Refuses agents that could never be called: looks their names up once, and asks the policy about what comes back.

    A name may lead elsewhere a second later, so this only tells early and clearly. What protects is the check of every
    address at the socket that is made for it. Names are looked up in threads of their own: whoever registers names
    that a resolver never answers holds up other registrations, and no call.

    Args:
        policy: Where agents may live; one allowed address of several is enough, as for a call.
    """

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._threads: ThreadPoolExecutor | None = None

    async def check(self, url: str) -> None:
        """Refuse an agent's base URL at which none may live.

        Raises:
            InvalidAgent: The URL cannot be used, its name leads nowhere within 5 s, or only to addresses that are not
                allowed; the fault names one, and the setting that would allow it.
        """
        endpoint = Endpoint.parse(url, _PLACE)
        addresses = [endpoint.address] if endpoint.address is not None else await self._looked_up(endpoint)
        if not any(map(self._policy.allows, addresses)):
            named = "" if endpoint.address is not None else f"; '{endpoint.host}' leads there"
            raise InvalidAgent([Fault(_PLACE, f"{self._policy.refusal(addresses[0])}{named}")])

    def close(self) -> None:
        """Wait for no look-up any more."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    async def _looked_up(self, endpoint: Endpoint) -> list[IPAddress]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="aicp look-up")
        loop = asyncio.get_running_loop()
        try:
            async with standstill.timeout(LOOKUP_TIMEOUT_S):
                return await loop.run_in_executor(self._threads, _addresses_of, endpoint.host, endpoint.port)
        except TimeoutError:
            raise _unknown(endpoint, f"no answer within {LOOKUP_TIMEOUT_S:g} s") from None
        except (OSError, UnicodeError, RuntimeError) as error:
            # The last is what threads say that were told to end.
            raise _unknown(endpoint, getattr(error, "strerror", None) or str(error)) from error


def _addresses_of(host: str, port: int) -> list[IPAddress]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if not found:
        raise OSError("it has no address")
    return [ip_address(socket_address[0]) for *_, socket_address in found]


def _unknown(endpoint: Endpoint, why: str) -> InvalidAgent:
    return InvalidAgent([Fault(_PLACE, f"the name '{endpoint.host}' cannot be looked up: {why[:200]}")])
