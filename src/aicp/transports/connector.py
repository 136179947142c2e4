"""Connections to agents: each address is checked where it is connected, and each call knows how far it has come."""

import asyncio
import socket
import time
from contextvars import ContextVar
from ipaddress import ip_address
from weakref import WeakSet

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from aicp.forks import close_socket_in_child
from aicp.model.endpoint import AddressPolicy

KEEPALIVE_S = 30.0
"""How long an idle connection is kept: shorter than agents keep theirs, so that it rarely dies under a call."""


class Dial:
    """How far one call has come.

    Attributes:
        dialled: True when a new connection was begun; False with `connected` means a re-used one.
        connected: True from the moment there was a connection to send on.
        answering: True when the head of an answer has arrived.
        refusal: Why the last address was refused; empty when none was.
        waited_s: How long the call waited for a free place and a look-up before it was dialled or had a connection.
    """

    __slots__ = ("_began_at", "_transport", "answering", "connected", "dialled", "refusal", "waited_s")

    def __init__(self) -> None:
        self._began_at = time.monotonic()
        self.waited_s = 0.0
        self.dialled = False
        self.connected = False
        self.answering = False
        self.refusal = ""
        self._transport: asyncio.Transport | None = None

    def begin(self) -> None:
        """An address is dialled; the first of several counts."""
        if not self.dialled:
            self.dialled = True
            self.waited_s = time.monotonic() - self._began_at

    def connect(self, transport: asyncio.Transport | None) -> None:
        """There is a connection, re-used if none was dialled."""
        if not self.dialled:
            self.waited_s = time.monotonic() - self._began_at
        self.connected = True
        self._transport = transport

    def abort(self) -> None:
        """End the connection at once. A mere close would wait for a peer that does not read what is still unsent."""
        if self._transport is not None:
            self._transport.abort()


current_dial: ContextVar[Dial] = ContextVar("current_dial")
"""The dial of the call that runs in this context; tasks that aiohttp starts on the way see the same one."""


class PolicedConnector(aiohttp.TCPConnector):
    """Connects only where the policy allows, and keeps a bounded number of connections.

    The check stands where a socket is made for one address, behind every look-up and cache and whether the host was a
    name or an address: what was checked is what is connected. A name with several addresses has as many chances.

    Args:
        policy: Where agents may live.
        connections_max: How many may be in use at once; the next caller waits. Idle ones are kept only while all
            together are fewer.
        reuse: False to make a connection for every call and close it after.
    """

    def __init__(self, policy: AddressPolicy, *, connections_max: int, reuse: bool = True) -> None:
        super().__init__(
            limit=connections_max,
            force_close=not reuse,
            keepalive_timeout=KEEPALIVE_S if reuse else None,
            # The system's own: its errors tell a name that does not exist from a resolver that does not answer.
            resolver=aiohttp.ThreadedResolver(),
            socket_factory=self._make_socket,
        )
        self._policy = policy
        self._open: WeakSet[socket.socket] = WeakSet()

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Take a connection from the pool or make one, and note on the call's dial that there is one."""
        dial = current_dial.get()
        connection = await super().connect(req, traces, timeout)
        dial.connect(connection.transport)
        if dial.dialled and connection.protocol is not None and self._is_crowded():
            connection.protocol.force_close()
        return connection

    @property
    def in_use(self) -> int:
        """Connections that calls hold now."""
        return len(self._acquired)

    def _make_socket(self, addr_info: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, proto, _, sockaddr = addr_info
        dial, address = current_dial.get(), ip_address(sockaddr[0])
        if not self._policy.allows(address):
            dial.refusal = self._policy.refusal(address)
            raise PermissionError(dial.refusal)
        dial.begin()
        made = close_socket_in_child(socket.socket(family, kind, proto))
        self._open.add(made)
        return made

    def _is_crowded(self) -> bool:
        """True when there are more connections, idle ones included, than may be in use."""
        if len(self._open) <= self.limit:
            return False
        # Closed ones stay in the set until the collector comes by.
        self._open = WeakSet(made for made in self._open if made.fileno() >= 0)
        return len(self._open) > self.limit
