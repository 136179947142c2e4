"""An agent that writes down each attempt as it arrives, and then takes `nap_s`: there one reads who resumed what when.

Takes its slots and the file; prints its endpoint; ends with its standard input. It remembers nothing, so an attempt
that is sent again is a receipt again.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec
from aiohttp import web

from aicp.model.wire import FENCING_HEADER, Answer, Invocation


class Receipt(msgspec.Struct, frozen=True):
    """An attempt arrived.

    Attributes:
        at: System-wide monotonic seconds.
        chain_id: Of its task.
        epoch: Of the chain's owner who sent it.
    """

    at: float
    chain_id: str
    epoch: int


@contextmanager
def receipts_agents(count: int, slots: int, file: Path) -> Iterator[Sequence[str]]:
    """The endpoints of so many agents, each in its own process, which write to one file."""
    command = [sys.executable, "-m", "benchmarks.receipts_agent", str(slots), str(file)]
    running = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        yield [agent.stdout.readline().strip() for agent in running if agent.stdout is not None]
    finally:
        for agent in running:
            agent.kill()
            agent.communicate()


def read_receipts(file: Path) -> list[Receipt]:
    """All so far, in the order in which they were written."""
    whole, _, _ = file.read_bytes().rpartition(b"\n")
    return msgspec.json.Decoder(Receipt).decode_lines(whole)


async def main(slots: str, file: str) -> None:
    book = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def invoke(request: web.Request) -> web.Response:
        at = time.monotonic()
        call = msgspec.json.decode(await request.read(), type=Invocation)
        epoch = int(request.headers[FENCING_HEADER].partition(".")[0])
        receipt = Receipt(at, call.task_id.partition(".")[0], epoch)
        os.write(book, msgspec.json.encode(receipt) + b"\n")
        await asyncio.sleep(call.params["nap_s"])
        return web.Response(body=msgspec.json.encode(Answer(call.task_id, {})), content_type="application/json")

    async def describe(_: web.Request) -> web.Response:
        told = {"capabilities": [{"name": "nap"}], "max_concurrent_tasks": int(slots)}
        return web.json_response({"agent_id": f"naps-{os.getpid()}", "instance_id": "1", **told})

    async def be_well(_: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.add_routes([web.post("/invoke", invoke), web.get("/describe", describe), web.get("/healthz", be_well)])
    runner = web.AppRunner(app, keepalive_timeout=600.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    os.write(1, f"http://127.0.0.1:{runner.addresses[0][1]}\n".encode())
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
