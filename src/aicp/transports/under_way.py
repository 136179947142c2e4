"""The calls of one transport that have not ended: bounded in time, and ended together when it closes."""

import asyncio

from aicp import standstill

CLOSE_TIMEOUT_S = 2.0


class UnderWay:
    """Gives each call its time scope, and cuts all of them short on `close`.

    scope = under_way.begin(timeout_s)
    try:
        async with scope:
            …
    finally:
        under_way.end(scope)
    """

    def __init__(self) -> None:
        # A dict for its order: what is cut short is cut in the order it began.
        self._scopes: dict[standstill.Timeout, None] = {}
        self._closed = False
        self._emptied: asyncio.Future[None] | None = None

    @property
    def is_closed(self) -> bool:
        """True once `close` was called: begin nothing, and blame nobody."""
        return self._closed

    def begin(self, timeout_s: float) -> standstill.Timeout:
        """A scope for a call that may take so many seconds, not counted while this process stands still."""
        scope = standstill.timeout(timeout_s)
        self._scopes[scope] = None
        return scope

    def end(self, scope: standstill.Timeout) -> None:
        """The call has ended, however it did."""
        del self._scopes[scope]
        if self._emptied is not None and not self._scopes and not self._emptied.done():
            self._emptied.set_result(None)

    async def close(self) -> None:
        """End every scope now; wait for at most 2 s until those inside have noticed."""
        self._closed = True
        if not self._scopes:
            return
        self._emptied = asyncio.get_running_loop().create_future()
        for scope in self._scopes:
            scope.expire()
        await asyncio.wait([self._emptied], timeout=CLOSE_TIMEOUT_S)


def is_being_cancelled() -> bool:
    """True when somebody cancels the running task, rather than that something inside it was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
