"""The client of the HTTP API; `aicp.client.blocking` has it without asyncio."""

from aicp.client.client import Client
from aicp.client.problems import ServerRefused, ServerUnreachable

__all__ = ["Client", "ServerRefused", "ServerUnreachable"]
