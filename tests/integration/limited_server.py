"""A server process with an agent of its own and short limits; says its URL and its key, and serves until it is killed.

python -m tests.integration.limited_server DATA_DIR HEADER_S BODY_S
"""

import asyncio
import os
import sys
from pathlib import Path

from aicp.runtime.node import Node
from aicp.runtime.settings import Settings
from aicp.server import running_server
from aicp.server.connections import Limits, widen_open_files
from tests.integration.server_kit import echo


async def serve(directory: Path, limits: Limits) -> None:
    async with Node() as node:
        await node.add_agent("echo-1", {"text.echo": echo}, max_concurrent_tasks=8)
        async with running_server(Settings(port=0, data_dir=directory), node, limits) as server:
            os.write(1, f"{server.url} {server.admin_key}\n".encode())
            await asyncio.Event().wait()


if __name__ == "__main__":
    widen_open_files()
    _, place, header_s, body_s = sys.argv
    asyncio.run(serve(Path(place), Limits(header_s=float(header_s), body_s=float(body_s))))
