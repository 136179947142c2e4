"""A server of its own process whose loop is measured: `python -m tests.chaos.shapes_server DIRECTORY`.

Prints its URL and key. For each line on stdin it prints the longest hold since the line before, as JSON.
"""

import asyncio
import sys
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from aicp.model.collector import quieten_collector
from aicp.runtime.node import Node
from aicp.runtime.settings import Settings
from aicp.server import running_server
from aicp.testing import LoopHoldMeter


async def echo(params: dict[str, Any]) -> dict[str, Any]:
    """What it was given."""
    return params


async def serve(directory: Path) -> None:
    """Serve until stdin ends."""
    database = f"sqlite:///{directory / 'aicp.db'}"
    async with Node(database=database, data_dir=directory) as node:
        await node.add_agent("echo-1", {"text.echo": echo}, max_concurrent_tasks=8)
        settings = Settings(port=0, data_dir=directory)
        async with running_server(settings, node) as server, LoopHoldMeter(least_ms=2.0) as meter:
            quieten_collector()
            sys.stdout.write(f"{server.url} {server.admin_key}\n")
            sys.stdout.flush()
            lines = asyncio.StreamReader()
            loop = asyncio.get_running_loop()
            await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
            while await lines.readline():
                await asyncio.sleep(0.005)
                sys.stdout.write(msgspec.json.encode(meter.longest).decode() + "\n")
                sys.stdout.flush()
                meter.clear()


if __name__ == "__main__":
    uvloop.run(serve(Path(sys.argv[1])))
