"""A process that forks while it has much open, and says on stdout what its child could do.

python -m tests.integration.fork_process program|agent|writer ARGUMENT os_fork|multiprocessing asyncio|uvloop
"""

import asyncio
import importlib
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from aicp import AicpError, Node, Task
from aicp.agent import Agent
from aicp.runtime.settings import Settings
from aicp.server.running import running_server
from aicp.storage.sqlite_database import SqliteDatabase


def tell(**words: object) -> None:
    """One line, in one write: a killed process tells whole lines or none."""
    os.write(1, (json.dumps(words) + "\n").encode())


def fork(how: str, child: Callable[[], None]) -> int:
    """Run `child` in a forked process; returns its number."""
    if how == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        assert process.pid is not None
        return process.pid
    pid = os.fork()
    if pid == 0:
        try:
            child()
        finally:
            os._exit(0)
    return pid


def live_on(**words: object) -> None:
    """Say that the child is there, and stay until a signal ends it."""
    tell(child=os.getpid(), **words)
    while True:
        time.sleep(600)


async def stay() -> None:
    await asyncio.Event().wait()


async def program(database: str, how: str) -> None:
    """A node with a server, whose local agent forks when it is called."""
    async with Node(database=database) as node:

        def use_node() -> None:
            try:
                asyncio.run(node.coordinator.submit_task(Task("fork.it")))
            except AicpError as error:
                live_on(refused=error.code, sentence=str(error))
            live_on(refused="")

        def fork_it(params: dict[str, Any]) -> int:
            return fork(how, use_node)

        await node.add_agent("forker", {"fork.it": fork_it})
        settings = Settings(host="127.0.0.1", port=0, data_dir=Path(os.environ["AICP_DATA_DIR"]))
        async with running_server(settings, node) as server:
            tell(url=server.url)
            while await asyncio.to_thread(sys.stdin.readline):
                await node.router.route_task(Task("fork.it"))


async def agent(register: str, how: str) -> None:
    """An agent of the SDK, whose handler forks when it is called."""
    forker = Agent("forker")

    @forker.capability("fork.it")
    def fork_it(params: dict[str, Any]) -> int:
        return fork(how, live_on)

    async with forker.serving(register=register) as served:
        tell(url=served.endpoint)
        await stay()


async def writer(path: str, how: str) -> None:
    """A database in use, and a child that ends as a Python program does once its input ends."""
    database = SqliteDatabase(Path(path))
    await database.open()
    await database.read(lambda connection: connection.execute("SELECT 1").fetchone())
    if os.fork() == 0:
        tell(child=os.getpid())
        sys.stdin.readline()
        sys.exit(0)
    await stay()


def main(mode: str, argument: str, how: str, loop: str) -> None:
    factory = importlib.import_module("uvloop").new_event_loop if loop == "uvloop" else None
    modes: dict[str, Callable[[str, str], Coroutine[Any, Any, None]]] = {
        "program": program, "agent": agent, "writer": writer,
    }  # fmt: skip
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(modes[mode](argument, how))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    main(*sys.argv[1:])
