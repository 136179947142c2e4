"""One transport for all agents: those with an endpoint over HTTP, the others in this process."""

from collections.abc import Callable
from typing import Protocol

from aicp.model.agent import AgentAuth, AgentProfile
from aicp.model.document_desk import DocumentDesk
from aicp.model.endpoint import AddressPolicy
from aicp.model.outcome import Reply
from aicp.model.task import Call
from aicp.model.wire import AgentDescription
from aicp.ports import Transport


class RemoteTransport(Transport, Protocol):
    """A transport to agents in their own process."""

    async def check(self, endpoint_url: str) -> None:
        """Refuse a URL at which no agent may live.

        Raises:
            InvalidAgent: Says why.
        """

    async def describe(self, endpoint_url: str, auth: AgentAuth | None = None) -> AgentDescription:
        """Ask an agent what it can do.

        Raises:
            InvalidAgent: It cannot be had; says why.
        """


class TransportByEndpoint:
    """Hands a call to the transport that its agent needs.

    Args:
        local: For agents without an endpoint.
        make_remote: Makes the transport for the others; called once, when the first of them is called.
    """

    def __init__(self, local: Transport, make_remote: Callable[[], RemoteTransport]) -> None:
        self._local = local
        self._make_remote = make_remote
        self._remote: RemoteTransport | None = None

    async def invoke(self, agent: AgentProfile, call: Call) -> Reply:
        """Do it, as the agent's transport does."""
        if agent.endpoint is None:
            return await self._local.invoke(agent, call)
        return await self._get_remote().invoke(agent, call)

    async def probe(self, agent: AgentProfile) -> Reply:
        """Ask whether the agent is alive, as its transport does."""
        if agent.endpoint is None:
            return await self._local.probe(agent)
        return await self._get_remote().probe(agent)

    async def check(self, endpoint_url: str) -> None:
        """Refuse a URL at which no agent may live.

        Raises:
            InvalidAgent: Says why.
        """
        await self._get_remote().check(endpoint_url)

    async def describe(self, endpoint_url: str, auth: AgentAuth | None = None) -> AgentDescription:
        """Ask an agent in its own process what it can do.

        Raises:
            InvalidAgent: It cannot be had; says why.
        """
        return await self._get_remote().describe(endpoint_url, auth)

    async def close(self) -> None:
        """Close both."""
        try:
            await self._local.close()
        finally:
            if self._remote is not None:
                await self._remote.close()

    def _get_remote(self) -> RemoteTransport:
        if self._remote is None:
            self._remote = self._make_remote()
        return self._remote


def http_when_needed(policy: AddressPolicy, documents: DocumentDesk | None = None) -> Callable[[], RemoteTransport]:
    """A `make_remote` that imports aiohttp, a tenth of a second, only when it is called."""

    def make() -> RemoteTransport:
        from aicp.transports.http import HttpTransport  # noqa: PLC0415 - a node of local agents shall not pay for it

        return HttpTransport(policy, documents=documents)

    return make
