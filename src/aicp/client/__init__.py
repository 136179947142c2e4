"""The client of the HTTP API; `aicp.client.blocking` has it without asyncio."""

from aicp.client.client import Client
from aicp.client.problems import ClientClosed, ServerRefused, ServerUnreachable

__all__ = ["Client", "ClientClosed", "ServerRefused", "ServerUnreachable"]
