"""One connection to a PostgreSQL server that is held, replaced now and then, and made again when it was lost."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aicp.errors import AicpError
from aicp.storage.postgres_faults import Trouble, storage_error
from aicp.storage.postgres_server import Connection, Patience, PostgresServer, close_connection

HAND_OVER_S = 0.05
"""How long a connection is kept beside the one that replaces it, seconds, unless that is ready before."""
KEEP_ON_S = 10.0
"""How long an aged connection is used further when no other one can be had, seconds."""

_log = logging.getLogger(__name__)


class Link:
    """One connection that is held: made at its first use, again at the first use after it was lost, and every 5 min.

    For one user at a time.

    Args:
        server: Makes it.
        prepare: Done with each fresh connection before anything else; the one before is closed at most 50 ms later.
        patience: How long its uses may take; None for no bound by the server.
    """

    def __init__(
        self,
        server: PostgresServer,
        prepare: Callable[[Connection], Awaitable[None]] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._server = server
        self._prepare = prepare
        self._patience = patience
        self._connection: Connection | None = None
        self._is_doubted = False

    @property
    def is_up(self) -> bool:
        """True when there is a connection, as far as one knows without asking."""
        return self._connection is not None and not self._server.is_cut(self._connection)

    async def connection(self) -> Connection:
        """The connection, made when there is none, or when the one there is has been used for minutes.

        Raises:
            AicpError: It cannot be made or prepared.
        """
        if self._connection is None or self._server.is_cut(self._connection):
            self.drop()
            return await self._prepared(await self._server.connect(self._patience))
        if self._is_doubted or self._server.is_aged(self._connection):
            return await self._replaced(self._connection)
        return self._connection

    def doubt(self) -> None:
        """Replace the connection at its next use: it may lead to a server that is the wrong one by now."""
        self._is_doubted = True

    def drop(self) -> None:
        """Cut the connection, when there is one: nothing is known of its state."""
        dropped, self._connection, self._is_doubted = self._connection, None, False
        if dropped is not None:
            dropped.terminate()

    async def close(self, timeout_s: float) -> None:
        """Say goodbye to the server, within some seconds."""
        closing, self._connection, self._is_doubted = self._connection, None, False
        if closing is not None:
            await close_connection(closing, timeout_s)

    async def _replaced(self, held: Connection) -> Connection:
        """Another connection; the one that is only aged is kept when there is none to be had."""
        try:
            fresh = await self._server.connect(self._patience)
        except AicpError as error:
            if self._is_doubted or self._server.is_cut(held):
                self.drop()
                raise
            _log.info("an aged connection to %s is used further: %s", self._server.place, error)
            self._server.keep_on(held, KEEP_ON_S)
            return held
        preparing = asyncio.ensure_future(self._prepared(fresh))
        try:
            # What the one before holds, and this one is to hold, is handed over: it waits for it already.
            await asyncio.wait([preparing], timeout=HAND_OVER_S)
            held.terminate()
            return await preparing
        finally:
            held.terminate()
            preparing.cancel()
            if self._connection is held:
                self.drop()

    async def _prepared(self, fresh: Connection) -> Connection:
        try:
            if self._prepare is not None:
                await self._prepare(fresh)
        except BaseException as error:
            fresh.terminate()
            if isinstance(error, Trouble):
                raise storage_error(error, self._server.place) from error
            raise
        self._connection, self._is_doubted = fresh, False
        return fresh
