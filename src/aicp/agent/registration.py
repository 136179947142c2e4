"""Keeps the agent known to an AICP server: registers, heartbeats, says when it leaves; never gives up while serving."""

import asyncio
import logging
import random
import socket
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec

from aicp import standstill
from aicp.agent.keys import KEY_VARIABLE, find_api_key
from aicp.errors import Fault
from aicp.forks import close_socket_in_child
from aicp.model.agent import AgentAuth, Capability

REQUEST_S_MAX = 5.0
LEAVING_S_MAX = 2.0
BACKOFF_S_MIN = 0.25
BACKOFF_S_MAX = 5.0
BACKOFF_GROWTH = 1.5
HEARTBEAT_S = 5.0
WARNINGS_MAX = 8
HEARTBEAT_S_MIN = 0.02
HEARTBEAT_S_MAX = 300.0
ANSWER_BYTES_MAX = 65_536
REASON_CHARS_MAX = 300

logger = logging.getLogger("aicp.agent")


class Registration(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of `POST /ains/agents`.

    Attributes:
        endpoint: Where the agent is called.
        agent_id: Who it is.
        instance_id: Changes with every start.
        capabilities: What it can do.
        max_concurrent_tasks: Its slots.
        name: What people call it.
        labels: Free key-value pairs.
        auth: What its callers must show.
    """

    endpoint: str
    agent_id: str
    instance_id: str
    capabilities: tuple[Capability, ...]
    max_concurrent_tasks: int = 0
    name: str = ""
    labels: dict[str, str] = {}
    auth: AgentAuth | None = None


class Lease(msgspec.Struct, frozen=True):
    """What the server asks for.

    Attributes:
        heartbeat_every_s: Seconds between heartbeats.
    """

    heartbeat_every_s: float = HEARTBEAT_S


class Leased(msgspec.Struct, frozen=True):
    """Body of the server's answer to a registration or a heartbeat.

    Attributes:
        lease: None when the server keeps none for this agent.
        warnings: Parts of its schemas that the server does not check.
    """

    lease: Lease | None = None
    warnings: tuple[Fault, ...] = ()


class Registrar:
    """One agent's standing with one AICP server.

    Args:
        server_url: Base URL.
        registration: What to tell.
        api_key: The key to show; None to find one (see `find_api_key`).
        on_replaced: Called once when the server says that a newer instance has taken the agent's place.

    Attributes:
        registered: Set while the server knows this instance.
        replaced: True when another instance has taken over: then nothing is undone any more, it is not ours.
    """

    def __init__(
        self, server_url: str, registration: Registration, api_key: str | None, on_replaced: Callable[[], None]
    ) -> None:
        self.registered = asyncio.Event()
        self.replaced = False
        self._agents_url = f"{server_url}/ains/agents"
        self._agent_url = f"{self._agents_url}/{registration.agent_id}"
        self._registration = msgspec.json.encode(registration)
        self._beat = msgspec.json.encode({"instance_id": registration.instance_id})
        self._name = registration.agent_id
        self._api_key = api_key
        self._on_replaced = on_replaced
        self._every_s = HEARTBEAT_S
        self._backoff_s = BACKOFF_S_MIN
        self._trouble = ""
        self._leaving = False
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(socket_factory=_make_socket),
            timeout=aiohttp.ClientTimeout(),
            headers={"Content-Type": "application/json"},
        )

    async def run(self) -> None:
        """Register and heartbeat until cancelled or replaced; whatever goes wrong is tried again within 5 seconds."""
        while not self.replaced:
            wait_s = await (self._heartbeat() if self.registered.is_set() else self._register())
            await asyncio.sleep(wait_s)

    async def announce_leaving(self) -> None:
        """Ask the server to send nothing more; best effort, within 2 seconds."""
        self._leaving = True
        if not self.registered.is_set():
            return
        # A newer instance under the same id would be drained in our place: ask first whose it is.
        status, _ = await self._send("POST", f"{self._agent_url}/heartbeat", self._beat, LEAVING_S_MAX / 2)
        if status == 409:
            self._give_way()
        elif status == 200:
            await self._send("POST", f"{self._agent_url}/drain", self._beat, LEAVING_S_MAX / 2)

    async def leave(self) -> None:
        """Take the agent off the server's list; best effort, within 2 seconds."""
        if self.registered.is_set() and not self.replaced:
            await self._send("DELETE", self._agent_url, None, LEAVING_S_MAX)
            self.registered.clear()

    async def close(self) -> None:
        """Give back the connections."""
        await self._session.close()

    async def _register(self) -> float:
        if self._leaving:
            return self._every_s
        status, body = await self._send("POST", self._agents_url, self._registration)
        if status not in {200, 201}:
            return self._later("register", status, body)
        self.registered.set()
        logger.info("%s is registered with %s", self._name, self._agents_url)
        return self._next_beat(body)

    async def _heartbeat(self) -> float:
        status, body = await self._send("POST", f"{self._agent_url}/heartbeat", self._beat)
        if status == 404:
            self.registered.clear()
            return 0.0
        if status == 409:
            self._give_way()
            return 0.0
        return self._next_beat(body) if status == 200 else self._later("heartbeat", status, body)

    def _give_way(self) -> None:
        if self.replaced:
            return
        self.replaced = True
        self.registered.clear()
        logger.error("%s was replaced: another instance has registered under its id; this one stops", self._name)
        self._on_replaced()

    def _next_beat(self, body: bytes) -> float:
        self._trouble = ""
        self._backoff_s = BACKOFF_S_MIN
        try:
            leased = msgspec.json.decode(body, type=Leased)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            leased = Leased()
        for warning in leased.warnings[:WARNINGS_MAX]:
            logger.warning("%s: %s (at %s)", self._name, warning.message, warning.place)
        if leased.lease is not None:
            self._every_s = min(max(leased.lease.heartbeat_every_s, HEARTBEAT_S_MIN), HEARTBEAT_S_MAX)
        return self._every_s

    def _later(self, what: str, status: int, body: bytes) -> float:
        trouble = _told(status, body)
        if trouble != self._trouble:  # said once, not every five seconds
            logger.warning("%s could not %s at %s: %s; trying on", self._name, what, self._agents_url, trouble)
        self._trouble = trouble
        wait_s = self._backoff_s * random.uniform(0.9, 1.1)
        self._backoff_s = min(self._backoff_s * BACKOFF_GROWTH, BACKOFF_S_MAX)
        return min(wait_s, BACKOFF_S_MAX)

    async def _send(
        self, method: str, url: str, body: bytes | None, bound_s: float = REQUEST_S_MAX
    ) -> tuple[int, bytes]:
        """Status and body; 0 and a sentence when there was no answer."""
        key = find_api_key(self._api_key, self._agents_url)
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        try:
            async with (
                standstill.timeout(bound_s),
                self._session.request(method, url, data=body, headers=headers, allow_redirects=False) as response,
            ):
                return response.status, await response.content.read(ANSWER_BYTES_MAX)
        except TimeoutError:
            return 0, f"no answer within {bound_s:.0f} s".encode()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return 0, str(error).encode("utf-8", "replace")


def _make_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    return close_socket_in_child(socket.socket(*address[:3]))


def _told(status: int, body: bytes) -> str:
    if status == 0:
        return _one_line(body.decode("utf-8", "replace"))
    if status == 401:
        return f"it answered 401; set {KEY_VARIABLE}, or give the API key"
    return _one_line(f"it answered {status} {_detail(body)}")


def _detail(body: bytes) -> str:
    try:
        problem: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    return str(problem.get("detail") or problem.get("title") or "") if isinstance(problem, dict) else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())[:REASON_CHARS_MAX]
