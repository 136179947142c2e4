"""No shape of what somebody sends holds the server's loop or is answered 5xx: a server process, and seeded requests.

`pytest tests/chaos/test_shapes.py --shapes=200 --shapes-seed=7` sends more, or other ones.
"""

import asyncio
import io
import random
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest
from yarl import URL

from aicp.testing import LoopHold
from tests.chaos.conftest import ShapesWanted
from tests.chaos.shapes import SHAPES, Request

ROOT = Path(__file__).parents[2]
HOLD_MS_MAX = 25.0
BOUND_S = 60.0
CROWD = 4
REPEATS = 3
CONNECTIONS = 100
PIPELINED = 200
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Served:
    """The server process, and what asks it."""

    def __init__(self, process: asyncio.subprocess.Process, session: aiohttp.ClientSession, url: str, key: str) -> None:
        self._process = process
        self._session = session
        self._url = url
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    async def send(self, request: Request) -> int:
        """The status of the answer; what was accepted is waited for and looked at."""
        path, body = request
        async with self._session.post(self._url + path, data=io.BytesIO(body), headers=self._headers) as answer:
            accepted = await answer.json(content_type=None)
        if answer.status != 202:
            return answer.status
        name = accepted.get("task_id") or f"chain/{accepted['chain_id']}"
        async with self._session.get(f"{self._url}/api/tasks/{name}?wait_s=30", headers=self._headers) as answer:
            await answer.read()
            return answer.status

    async def pipeline(self, connections: int = CONNECTIONS) -> float:
        """Seconds after which another client is answered while a crowd of connections has sent 200 requests each."""
        address = URL(self._url)
        writers: list[asyncio.StreamWriter] = []
        try:
            for _ in range(connections):
                _, writer = await asyncio.open_connection(address.host, address.port)
                writers.append(writer)
                writer.write(LIVEZ * PIPELINED)
            began = time.perf_counter()
            async with self._session.get(f"{self._url}/livez") as answer:
                assert answer.status == 200
            return time.perf_counter() - began
        finally:
            for writer in writers:
                writer.transport.abort()
            await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)

    async def longest_hold(self) -> LoopHold:
        """The longest hold since it was asked last."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"\n")
        return LoopHold(*msgspec.json.decode(await self._process.stdout.readline()))


@asynccontextmanager
async def served(directory: Path) -> AsyncIterator[Served]:
    command = (sys.executable, "-m", "tests.chaos.shapes_server", str(directory))
    process = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        url, key = (await process.stdout.readline()).decode().split()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(BOUND_S)) as session:
            yield Served(process, session, url, key)
    finally:
        process.kill()
        await process.wait()


async def judged(server: Served, shape: str, requests: list[Request]) -> str:
    """What is wrong with how the server took these requests at once; empty when nothing is.

    A hold counts when it comes back each time: other processes can make one, and not three in a row.
    """
    holds: list[LoopHold] = []
    while len(holds) < REPEATS and all(hold.held_ms > HOLD_MS_MAX for hold in holds):
        statuses = await asyncio.gather(*map(server.send, requests))
        holds.append(await server.longest_hold())
        if any(status >= 500 for status in statuses):
            return f"answered {statuses}"
    least = min(holds, key=lambda hold: hold.held_ms)
    sys.stdout.write(f"{shape} x{len(requests)}: {statuses} {least.held_ms:.1f} ms at {least.where[:120]}\n")
    return str(least) if least.held_ms > HOLD_MS_MAX else ""


async def crowd_judged(server: Served) -> str:
    """What is wrong with how the server took a crowd that pipelines; empty when nothing is."""
    holds: list[LoopHold] = []
    while len(holds) < REPEATS and all(hold.held_ms > HOLD_MS_MAX for hold in holds):
        await server.pipeline()
        holds.append(await server.longest_hold())
    least = min(holds, key=lambda hold: hold.held_ms)
    return f"pipelining: {least}" if least.held_ms > HOLD_MS_MAX else ""


@pytest.mark.timeout(900)
def test_no_shape_holds_the_loop_or_is_answered_5xx(tmp_path: Path, shapes_wanted: ShapesWanted) -> None:
    sys.stdout.write(f"seed {shapes_wanted.seed}, {shapes_wanted.times} of each shape\n")
    random_ = random.Random(shapes_wanted.seed)
    failures: list[str] = []

    async def main() -> None:
        async with served(tmp_path) as server:
            await server.send(SHAPES[0](random.Random(0)))
            await server.longest_hold()  # of the start
            if wrong := await crowd_judged(server):
                failures.append(wrong)
            for shape in SHAPES * shapes_wanted.times:
                requests = [shape(random_) for _ in range(random_.choice([1, CROWD]))]
                if wrong := await judged(server, shape.__name__, requests):
                    failures.append(f"{shape.__name__} x{len(requests)} {requests[0][1][:90]!r}: {wrong}")

    asyncio.run(main())
    assert not failures, "\n".join(failures)
