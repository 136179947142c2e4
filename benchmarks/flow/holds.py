"""How long a server's loop is held by the shape of what it is sent: `python -m benchmarks.flow.holds`.

Each document goes once to a server process whose loop is measured with `aicp.testing.LoopHoldMeter`; the table shows
the longest hold (time without a core left out), how long the answer took, and its status. Run it on a quiet machine.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from tests.chaos.shapes import CHAIN, TASK, Request
from tests.chaos.test_shapes import served


def _chain(params: bytes) -> Request:
    return CHAIN, b'{"tasks":[{"id":"a","capability":"text.echo","params":' + params + b"}]}"


def _rows(count: int) -> bytes:
    return b'{"l":[' + b",".join([b"[[1,2,3]]"] * count) + b"]}"


def _tasks(count: int) -> Request:
    tasks = [{"id": f"t{n}", "capability": "text.echo", "params": {"n": n}} for n in range(count)]
    return CHAIN, msgspec.json.encode({"tasks": tasks})


DOCUMENTS: dict[str, Request] = {
    "500,000 lists of lists (refused)": _chain(_rows(500_000)),
    "39,000 lists of lists": _chain(_rows(39_000)),
    "99,000 empty lists": _chain(b'{"l":[' + b",".join([b"[]"] * 99_000) + b"]}"),
    "199,000 numbers": _chain(b'{"l":[' + b",".join([b"1"] * 199_000) + b"]}"),
    "a text of 8 MiB": _chain(b'{"t":"' + b"a" * 8_000_000 + b'"}'),
    "a text of 8 MiB, all escapes": _chain(b'{"t":"' + b"\\n" * 4_000_000 + b'"}'),
    "1,001 unknown keys": (TASK, msgspec.json.encode({"capability": "echo", **{f"k{n}": n for n in range(1_001)}})),
    "334 tasks with 3 faults each": (CHAIN, msgspec.json.encode({"tasks": [{"a": 1, "b": 2, "c": 3}] * 334})),
    "10,000 tasks": _tasks(10_000),
}


async def _measure() -> None:
    with tempfile.TemporaryDirectory() as directory:
        async with served(Path(directory)) as server:
            await server.send(_chain(b"{}"))
            await server.longest_hold()
            took_s = await server.pipeline(300)
            hold = await server.longest_hold()
            sys.stdout.write(
                f"{'a client beside a pipelining crowd':34}     {hold.held_ms:7.1f} ms held {took_s:7.2f} s\n"
            )
            for name, document in DOCUMENTS.items():
                began = time.perf_counter()
                status = await server.send(document)
                took_s = time.perf_counter() - began
                hold = await server.longest_hold()
                sys.stdout.write(f"{name:34} {status} {hold.held_ms:7.1f} ms held {took_s:7.2f} s  {hold.where[:90]}\n")


if __name__ == "__main__":
    asyncio.run(_measure())
