"""The client for programs that do not use asyncio: the same methods, run on a loop of its own in a thread."""

import asyncio
import inspect
import threading
import weakref
from collections.abc import Callable, Coroutine, Generator, Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from aicp.client.client import Client
from aicp.client.problems import ClientClosed
from aicp.forks import HomeProcess
from aicp.model.live import LiveEvent

P = ParamSpec("P")
T = TypeVar("T")


class BlockingClient:
    """Every coroutine method of `Client` as a plain one, with the same arguments, answers and errors.

        with BlockingClient("http://127.0.0.1:8420", key) as client:
            print(client.run_task(Task("image.label", {"url": url})).result)

    Threads may share one. Arguments of the constructor are those of `Client`. `call(Client.get_task, …)` is
    `get_task(…)` with its types. One that nobody closed is closed when nobody has it any more, or the program ends.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._client = Client(*args, **options)
        self._own = _LoopOfItsOwn()
        self._end = weakref.finalize(self, self._own.end, self._client)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(Client, name, None)
        if name.startswith("_") or not inspect.iscoroutinefunction(method):
            raise AttributeError(f"a client has no method '{name}'")
        return lambda *args, **options: self.call(method, *args, **options)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(name for name in dir(Client) if not name.startswith("_"))})

    @property
    def url(self) -> str:
        """Base URL of the server."""
        return self._client.url

    def call(
        self, method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]], *args: P.args, **options: P.kwargs
    ) -> T:
        """Run a method of `Client` to its end; an interrupted call is cancelled.

        Raises:
            ClientClosed: The client is closed, or another thread closes it meanwhile.
            ForkedProcess: This process was forked from the one that made the client.
        """
        return self._own.run(lambda: method(self._client, *args, **options))

    def events(
        self, *, chain_id: str = "", agent_id: str = "", kinds: Iterable[str] = (), after: str | None = None
    ) -> Generator[LiveEvent, None, None]:
        """What happens from now on, as `Client.events` tells it, for a plain `for`; close it to stop early."""
        events = self._client.events(chain_id=chain_id, agent_id=agent_id, kinds=kinds, after=after)

        async def next_event(_client: Client) -> LiveEvent:
            return await anext(events)

        async def stop(_client: Client) -> None:
            await events.aclose()

        try:
            while True:
                yield self.call(next_event)
        finally:
            with suppress(ClientClosed):
                self.call(stop)

    def close(self) -> None:
        """Give back every connection and end the thread, calls and events under way too; twice does nothing."""
        self._end()


class _LoopOfItsOwn:
    """An event loop in a thread, from the start until `end`."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name="aicp client", daemon=True)
        # Whoever is let in before the end is known to it; a handler of a signal may come in between.
        self._door = threading.RLock()
        self._is_open = True
        self._home = HomeProcess("This client")
        self._thread.start()

    def run(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run what `work` makes to its end, from any other thread of its own process."""
        self._home.require()
        with self._door:
            if not (self._is_open and self._thread.is_alive()):
                raise ClientClosed
            future = asyncio.run_coroutine_threadsafe(work(), self._loop)
        try:
            return future.result()
        except CancelledError:
            raise ClientClosed from None
        finally:
            future.cancel()

    def end(self, client: Client) -> None:
        """Cancel what runs, close the client and end the thread; in a forked child there is nothing to end."""
        if self._home.is_left:
            return
        with self._door:
            if not (self._is_open and self._thread.is_alive()):
                return
            self._is_open = False
            asyncio.run_coroutine_threadsafe(self._finish(client), self._loop)
        # The garbage collector may call from that very thread.
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _live(self) -> None:
        self._loop.run_forever()
        self._loop.close()

    async def _finish(self, client: Client) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        try:
            await asyncio.gather(*others, return_exceptions=True)
            await self._loop.shutdown_asyncgens()
            await client.close()
        finally:
            self._loop.stop()
