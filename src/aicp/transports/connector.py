"""Connections to agents: each address is checked where it is connected, and each call knows how far it has come."""

import asyncio
import math
import select
import socket
import time
from collections import OrderedDict
from contextvars import ContextVar
from ipaddress import ip_address
from weakref import WeakSet

import aiohttp
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from aicp import standstill
from aicp.forks import close_socket_in_child
from aicp.model.endpoint import AddressPolicy

TRUST_S = 60.0
"""How long a place counts as one that keeps idle connections open after it was seen to do so."""

PLACES_MAX = 4_096
KEEPALIVE_S = 30.0
"""How long an idle connection is kept: shorter than agents keep theirs, so that it rarely dies under a call."""


class Dial:
    """How far one call has come.

    Attributes:
        began_at: When the call began, monotonic seconds.
        dialled: True when a new connection was begun; False with `connected` means a re-used one.
        connected: True from the moment there was a connection to send on.
        answering: True when the head of an answer has arrived.
        refusal: Why the last address was refused; empty when none was.
        waited_s: How long the call waited for a free place and a look-up before it was dialled or had a connection.
        key: The place that the connection leads to; None before there was one.
        reuse_within_s: How long a connection may have been idle to be used again for this call; infinite for any.
    """

    __slots__ = (
        "_transport", "answering", "began_at", "connected", "dialled", "key", "refusal", "reuse_within_s", "waited_s",
    )  # fmt: skip

    def __init__(self, reuse_within_s: float = math.inf) -> None:
        self.reuse_within_s = reuse_within_s
        self.began_at = time.monotonic()
        self.waited_s = 0.0
        self.dialled = False
        self.connected = False
        self.answering = False
        self.refusal = ""
        self._transport: asyncio.Transport | None = None
        self.key: ConnectionKey | None = None

    def begin(self) -> None:
        """An address is dialled; the first of several counts."""
        if not self.dialled:
            self.dialled = True
            self.waited_s = time.monotonic() - self.began_at

    def connect(self, transport: asyncio.Transport | None, key: ConnectionKey) -> None:
        """There is a connection to a place, re-used if none was dialled."""
        self.key = key
        if not self.dialled:
            self.waited_s = time.monotonic() - self.began_at
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
        self._keeps_open = _Recent(TRUST_S)

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Take a connection from the pool or make one, and note on the call's dial that there is one.

        Raises:
            TimeoutError: There was none in time. Where this process stood still meanwhile, once more was no help.
        """
        dial = current_dial.get()
        try:
            connection = await super().connect(req, traces, timeout)
        except TimeoutError:
            if not standstill.since(dial.began_at):
                raise
            connection = await super().connect(req, traces, timeout)
        dial.connect(connection.transport, req.connection_key)
        if dial.dialled and connection.protocol is not None and self._is_crowded():
            connection.protocol.force_close()
        return connection

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        """An idle connection, of those that the call may use; None to make one."""
        within_s = current_dial.get().reuse_within_s
        if within_s != math.inf and not self._puts_first(key, within_s):
            return None
        return await super()._get(key, traces)

    def _puts_first(self, key: ConnectionKey, within_s: float) -> bool:
        """Put the connection that was used last in front; False when it may not be used for a careful call.

        It may while the place is known to keep connections open for longer than `within_s`: one was seen to be open
        after that time. Otherwise the agent may close it just as the call goes out.
        """
        idle = self._conns.get(key)
        if not idle:
            return False
        recent_from = time.monotonic() - within_s
        (oldest, oldest_at), (newest, newest_at) = idle[0], idle[-1]
        if oldest_at < recent_from and not _has_ended(oldest.transport):
            self._keeps_open.remember(key)
        if newest_at < recent_from or _has_ended(newest.transport) or not self._keeps_open.holds(key):
            return False
        idle.rotate(1)
        return True

    def distrust(self, key: ConnectionKey) -> None:
        """Forget that a place keeps connections open: one has died under a call."""
        self._keeps_open.forget(key)

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


class _Recent:
    """Where something was seen of late; the last 4,096 places.

    Args:
        kept_s: How long it is remembered, seconds.
    """

    def __init__(self, kept_s: float) -> None:
        self._kept_s = kept_s
        self._seen_at: OrderedDict[ConnectionKey, float] = OrderedDict()

    def remember(self, key: ConnectionKey) -> None:
        """Note that it was seen now."""
        self._seen_at[key] = time.monotonic()
        self._seen_at.move_to_end(key)
        if len(self._seen_at) > PLACES_MAX:
            self._seen_at.popitem(last=False)

    def forget(self, key: ConnectionKey) -> None:
        """Take it back."""
        self._seen_at.pop(key, None)

    def holds(self, key: ConnectionKey) -> bool:
        """True while it is remembered."""
        return time.monotonic() - self._seen_at.get(key, -math.inf) <= self._kept_s


def _has_ended(transport: asyncio.Transport | None) -> bool:
    """True when an idle connection can be read: it has ended, though the loop may not have come to see it."""
    opened = None if transport is None or transport.is_closing() else transport.get_extra_info("socket")
    if opened is None or opened.fileno() < 0:
        return True
    look = select.poll()
    look.register(opened.fileno(), select.POLLIN)
    return bool(look.poll(0))
