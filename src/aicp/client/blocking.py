"""The client for programs that do not use asyncio: the same methods, run on a loop of its own in a thread."""

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Generator, Iterable
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from aicp.client.client import Client
from aicp.model.live import LiveEvent

P = ParamSpec("P")
T = TypeVar("T")


class BlockingClient:
    """Every coroutine method of `Client` as a plain one, with the same arguments, answers and errors.

        with BlockingClient("http://127.0.0.1:8420", key) as client:
            print(client.run_task(Task("image.label", {"url": url})).result)

    Threads may share one. Arguments of the constructor are those of `Client`. `call(Client.get_task, …)` is
    `get_task(…)` with its types.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self._client = Client(*args, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aicp client", daemon=True)
        self._thread.start()

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
        """Run a method of `Client` to its end; an interrupted call is cancelled."""
        future = asyncio.run_coroutine_threadsafe(method(self._client, *args, **options), self._loop)
        try:
            return future.result()
        finally:
            future.cancel()

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
            self.call(stop)

    def close(self) -> None:
        """Give back every connection and end the thread; twice does nothing."""
        if self._loop.is_closed():
            return
        self.call(Client.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
