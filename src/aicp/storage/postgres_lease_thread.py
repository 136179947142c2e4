"""A thread with an event loop of its own, in which a lease is renewed while another event loop does the work."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

HELD_S_MAX = 10.0
"""How long the event loop that does the work may stand before the lease is left to run out, seconds."""

STOP_WAIT_S = 5.0


class LeaseThread:
    """Runs what belongs to a lease. `start` to `stop` are for the event loop that does the work, its *owner*.

    A lease that outlived the work would keep peers from taking it over: `owner_works` is False once the owner's loop
    has not turned for 10 s. A stopped process (`kill -STOP`) stops this thread with it.
    """

    def __init__(self) -> None:
        self._owner: asyncio.AbstractEventLoop | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping = asyncio.Event()
        self._turned_at = 0.0
        self._is_asked = False

    @property
    def is_up(self) -> bool:
        """True from `start` to `stop`."""
        return self._loop is not None

    async def start(self) -> None:
        """Start the thread; returns when its loop runs."""
        self._owner = asyncio.get_running_loop()
        self._turned_at, self._is_asked, self._stopping = time.monotonic(), False, asyncio.Event()
        up: asyncio.Future[asyncio.AbstractEventLoop] = self._owner.create_future()
        self._thread = threading.Thread(target=self._run, args=(up,), name="lease of this replica", daemon=True)
        self._thread.start()
        self._loop = await up

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns that runs in the thread; cancelled with its caller."""
        if self._loop is None:
            raise RuntimeError("the thread of the lease does not run")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def do(self, function: Callable[..., None], *args: object) -> None:
        """Have something done in the thread, soon; nothing when it does not run."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(function, *args)

    def tell(self, function: Callable[..., None], *args: object) -> None:
        """Have something done in the owner's loop, soon and in the order of the calls. For the thread."""
        if self._owner is not None:
            with contextlib.suppress(RuntimeError):
                self._owner.call_soon_threadsafe(function, *args)

    def owner_works(self) -> bool:
        """False once the owner's loop has not turned for 10 s. For the thread, which asks every second."""
        if not self._is_asked:
            self._is_asked = True
            self.tell(self._turned)
        return time.monotonic() - self._turned_at < HELD_S_MAX

    async def stop(self) -> None:
        """End the thread; it is left behind when it has not ended after 5 s."""
        loop, thread, self._loop, self._thread = self._loop, self._thread, None, None
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(self._stopping.set)
        await asyncio.to_thread(thread.join, STOP_WAIT_S)

    def _run(self, up: "asyncio.Future[asyncio.AbstractEventLoop]") -> None:
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(self._until_stopped(up))

    async def _until_stopped(self, up: "asyncio.Future[asyncio.AbstractEventLoop]") -> None:
        self.tell(_set_result, up, asyncio.get_running_loop())
        await self._stopping.wait()

    def _turned(self) -> None:
        self._turned_at, self._is_asked = time.monotonic(), False


class Coalesced:
    """Has a function called elsewhere; calls that come before it was are one.

    Args:
        tell: Has something called elsewhere.
        function: What to call; it takes nothing.
    """

    def __init__(self, tell: Callable[[Callable[[], None]], None], function: Callable[[], None]) -> None:
        self._tell = tell
        self._function = function
        self._is_told = False

    def __call__(self) -> None:
        """Have it called."""
        if not self._is_told:
            self._is_told = True
            self._tell(self._call)

    def _call(self) -> None:
        self._is_told = False
        self._function()


def _set_result(up: "asyncio.Future[asyncio.AbstractEventLoop]", loop: asyncio.AbstractEventLoop) -> None:
    if not up.done():
        up.set_result(loop)
