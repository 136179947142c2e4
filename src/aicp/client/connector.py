"""Connections to a server, made once more where the client's own process stood still meanwhile."""

import time

import aiohttp
from aiohttp.connector import Connection
from aiohttp.tracing import Trace

from aicp import standstill


class PatientConnector(aiohttp.TCPConnector):
    """A connector whose time for connecting does not count what this process stood still."""

    async def connect(
        self, req: aiohttp.ClientRequest, traces: list[Trace], timeout: aiohttp.ClientTimeout
    ) -> Connection:
        """Take a connection from the pool or make one.

        Raises:
            TimeoutError: There was none in time.
        """
        began_at = time.monotonic()
        with standstill.watching():
            try:
                return await super().connect(req, traces, timeout)
            except TimeoutError:
                if not standstill.since(began_at):
                    raise
                return await super().connect(req, traces, timeout)
