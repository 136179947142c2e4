"""Agents in their own process, called over HTTP."""

import asyncio
import functools
import io
import math
from collections.abc import Coroutine
from typing import Any

import aiohttp
import msgspec

from aicp import standstill
from aicp.errors import Fault, InvalidAgent
from aicp.model.agent import SCHEMAS_BYTES_MAX, AgentAuth, AgentProfile
from aicp.model.document_desk import DocumentDesk
from aicp.model.endpoint import AddressPolicy, Endpoint
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call
from aicp.model.wire import ANSWER_BYTES_MAX, AgentDescription, read_description
from aicp.ports import Clock, SystemClock
from aicp.transports import verdict
from aicp.transports.connector import Dial, PolicedConnector, current_dial
from aicp.transports.lookup import EndpointCheck
from aicp.transports.reading import Unusable, begun, let_go, read_json, read_refusal
from aicp.transports.replies import SHUT_DOWN, fault
from aicp.transports.sending import COMMON_HEADERS, Refused, Route, encode, headers_of, make_route
from aicp.transports.under_way import UnderWay

CONNECTIONS_MAX = 1_000
CONNECT_TIMEOUT_S = 5.0
REUSE_WITHIN_S = 1.0
"""How long a connection may have been idle before a call that is not idempotent."""
PROBE_TIMEOUT_S = 3.0
DESCRIBE_TIMEOUT_S = 5.0
DESCRIPTION_BYTES_MAX = SCHEMAS_BYTES_MAX + 1024 * 1024
ROUTES_MAX = 4_096

# aiohttp warns of bytes longer than this; a stream it sends piece by piece.
_BYTES_SENT_WHOLE_MAX = 1024 * 1024

_PLACE = "/endpoint"


class HttpTransport:
    """Calls agents as the wire contract says; whatever goes wrong is a `Reply`.

    Connections are kept for 30 s and used again. One that dies before the first byte of an answer is not evidence, and
    the reply of an idempotent call is then `resendable`. A call that is not idempotent goes out only on a fresh
    connection, or on one that was used within the last second, at an agent that was seen to keep idle connections open
    for longer than that. Nothing is redirected, proxied, decompressed or kept in cookies. All calls belong to one event
    loop, that of the first.

    Args:
        policy: Where agents may live.
        connections_max: Calls under way at once. One more waits for at most `connect_timeout_s`, then is local trouble.
        connect_timeout_s: For a free place, look-up, TCP and TLS together.
        clock: Tells the time for a Retry-After that is a date.
        documents: Where large answers are read; one of its own by default.
    """

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        connections_max: int = CONNECTIONS_MAX,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        clock: Clock | None = None,
        documents: DocumentDesk | None = None,
    ) -> None:
        self._policy = policy
        self._endpoints = EndpointCheck(policy)
        self._connections_max = connections_max
        self._connect_timeout_s = connect_timeout_s
        self._clock = clock or SystemClock()
        self._documents = documents or DocumentDesk()
        self._route = functools.lru_cache(maxsize=ROUTES_MAX)(make_route)
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._under_way = UnderWay()

    async def invoke(self, agent: AgentProfile, call: Call) -> Reply:
        """Send the call and judge what comes back; `call.timeout_s` runs from here to the last byte."""
        try:
            route = self._route(agent.endpoint, agent.auth)
            body = await self._documents.write(call.params, lambda: encode(call))
        except Refused as refused:
            return refused.reply
        dial = Dial(reuse_within_s=math.inf if call.idempotent else REUSE_WITHIN_S)
        reply = await self._judged(self._post(route, call, body), call.timeout_s, dial)
        if reply is not verdict.DEAD_CONNECTION:
            return reply
        connector = self._session(reuse=True).connector
        if dial.key is not None and isinstance(connector, PolicedConnector):
            connector.distrust(dial.key)
        return msgspec.structs.replace(reply, resendable=call.idempotent)

    async def probe(self, agent: AgentProfile) -> Reply:
        """Ask `/healthz`, on a fresh connection and within 3 s, whether the agent is alive."""
        try:
            route = self._route(agent.endpoint, agent.auth)
        except Refused as refused:
            return refused.reply
        return await self._judged(self._get_health(route), PROBE_TIMEOUT_S)

    async def check(self, endpoint_url: str) -> None:
        """Refuse a URL at which no agent may live.

        Raises:
            InvalidAgent: It cannot be used, or leads nowhere within 5 s, or only where the policy allows no agent.
        """
        await self._endpoints.check(endpoint_url)

    async def describe(self, endpoint_url: str, auth: AgentAuth | None = None) -> AgentDescription:
        """Ask an agent what it can do, within 5 s and 5 MiB.

        Raises:
            InvalidAgent: The URL cannot be used, or the agent gave no usable answer; says which.
        """
        endpoint = Endpoint.parse(endpoint_url, _PLACE)
        try:
            route = self._route(endpoint.url, auth)
        except Refused as refused:
            raise InvalidAgent([Fault(_PLACE, refused.reply.reason)]) from None
        reply = await self._judged(self._get_description(route), DESCRIBE_TIMEOUT_S)
        if not isinstance(reply.result, AgentDescription):
            raise InvalidAgent([Fault(_PLACE, f"{route.describe_url} gave no description: {reply.reason}")])
        return reply.result

    @property
    def connections_in_use(self) -> int:
        """Connections that calls hold now; idle ones do not count."""
        connectors = (session.connector for session in self._sessions.values())
        return sum(connector.in_use for connector in connectors if isinstance(connector, PolicedConnector))

    async def close(self) -> None:
        """End calls under way as local trouble and give every connection back; later calls are local trouble too."""
        self._endpoints.close()
        await self._under_way.close()
        for session in self._sessions.values():
            await session.close()

    async def _judged(self, exchange: Coroutine[Any, Any, Reply], timeout_s: float, dial: Dial | None = None) -> Reply:
        """See an exchange through, bounded in time; whatever it raises becomes a verdict."""
        if self._under_way.is_closed:
            exchange.close()
            return SHUT_DOWN
        dial = dial or Dial()
        before = current_dial.set(dial)
        scope = self._under_way.begin(timeout_s)
        try:
            async with scope:
                return await exchange
        except asyncio.CancelledError:
            dial.abort()
            raise
        except Exception as error:  # noqa: BLE001 - the contract: whatever goes wrong is a reply
            dial.abort()
            return self._verdict(error, dial, timeout_s)
        finally:
            self._under_way.end(scope)
            current_dial.reset(before)

    def _verdict(self, error: Exception, dial: Dial, timeout_s: float) -> Reply:
        if self._under_way.is_closed:
            return SHUT_DOWN
        if isinstance(error, Unusable):
            return fault(str(error), symptom=error.symptom)
        if not isinstance(error, TimeoutError):
            return _unless_we_stopped(verdict.of_exception(error, dial, timeout_s), dial)
        limit_s = self._connect_timeout_s if isinstance(error, aiohttp.ConnectionTimeoutError) else timeout_s
        reply = verdict.of_exception(error, dial, limit_s)
        # Time that went by before the agent was even dialled is our own trouble.
        return msgspec.structs.replace(reply, evidence=False) if dial.waited_s > limit_s / 2 else reply

    async def _post(self, route: Route, call: Call, body: bytes) -> Reply:
        data = body if len(body) <= _BYTES_SENT_WHOLE_MAX else io.BytesIO(body)
        headers = headers_of(call, route)
        response = await self._session(reuse=not call.on_fresh_connection).post(
            route.invoke_url, data=data, headers=headers, allow_redirects=False
        )
        try:
            if begun(response).status == 200:
                answer = await read_json(response, ANSWER_BYTES_MAX)
                return await self._documents.read(answer, lambda: verdict.of_answer(answer, call), waits=True)
            reply = verdict.of_status(*await read_refusal(response), self._clock.utcnow())
            return _unless_we_stopped(reply, current_dial.get()) if response.status == 408 else reply
        finally:
            let_go(response)

    async def _get_health(self, route: Route) -> Reply:
        response = await self._session(reuse=False).get(
            route.probe_url, headers=route.auth_headers, allow_redirects=False
        )
        try:
            begun(response)
            return verdict.of_probe(*await read_refusal(response), self._clock.utcnow())
        finally:
            let_go(response)

    async def _get_description(self, route: Route) -> Reply:
        response = await self._session(reuse=False).get(
            route.describe_url, headers=route.auth_headers, allow_redirects=False
        )
        try:
            if begun(response).status == 200:
                told = await read_json(response, DESCRIPTION_BYTES_MAX)
                return await self._documents.read(told, lambda: _read_description(told), waits=True)
            return verdict.of_status(*await read_refusal(response), self._clock.utcnow())
        finally:
            let_go(response)

    def _session(self, *, reuse: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(reuse)
        if session is None:
            session = self._sessions[reuse] = self._open_session(reuse=reuse)
        return session

    def _open_session(self, *, reuse: bool) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=PolicedConnector(self._policy, connections_max=self._connections_max, reuse=reuse),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=COMMON_HEADERS,
            timeout=aiohttp.ClientTimeout(connect=self._connect_timeout_s, ceil_threshold=math.inf),
            auto_decompress=False,
            trust_env=False,
        )


def _unless_we_stopped(reply: Reply, dial: Dial) -> Reply:
    """An agent that gave up a call while this process stood still for long may have waited in vain: no evidence."""
    if reply is verdict.DEAD_CONNECTION or not (dial.connected and standstill.was_stopped_since(dial.began_at)):
        return reply
    return msgspec.structs.replace(reply, evidence=False)


def _read_description(body: bytes) -> Reply:
    try:
        return Reply(Outcome.SUCCESS, read_description(body))
    except (ValueError, RecursionError) as error:
        return fault(f"answer is no description of an agent: {error}")
