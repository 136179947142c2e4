"""A program that AICP's process executes inherits none of its sockets and files, also when it closes none itself."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path

import pytest
import uvloop

from aicp import Node, Task
from aicp.agent import Agent
from aicp.client import Client
from aicp.runtime.settings import Settings
from aicp.server import running_server
from tests.integration.postgres_kit import opened, shared_server
from tests.integration.server_kit import BOUND_S, echo
from tests.unit.sqlite_kit import submitted

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are listed by /proc")

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
LIST = """
import os
for name in os.listdir("/proc/self/fd"):
    try:
        print(os.readlink(f"/proc/self/fd/{name}"))
    except OSError:
        pass
"""


def descriptors() -> dict[int, str]:
    """What this process has open, by number."""
    found = {}
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists the directory is gone
            found[int(entry.name)] = str(entry.readlink())
    return found


async def assert_nothing_is_inherited(before: dict[int, str], *wanted: str) -> None:
    """What was opened since is not for children; among it is what the names begin with."""
    new = {number: place for number, place in descriptors().items() if before.get(number) != place}
    for name in wanted:
        assert any(place.startswith(name) for place in new.values()), f"{name} is not among {new}"
    assert {place for number, place in new.items() if os.get_inheritable(number)} == set()
    child = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", LIST], close_fds=False, capture_output=True, text=True, check=True,
        timeout=BOUND_S,
    )  # fmt: skip
    # A pipe between the two has the same name at both ends.
    kept = {place for place in new.values() if not place.startswith(("pipe:", "anon_inode:", "/dev/null"))}
    assert kept & set(child.stdout.splitlines()) == set()


@LOOPS
def test_a_server_and_an_agent_give_no_socket_and_no_database_to_a_child(
    tmp_path: Path, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    agent = Agent("eyes-1")
    agent.capability("image.label")(echo)
    database = tmp_path / "aicp.db"

    async def main() -> None:
        before = descriptors()
        async with AsyncExitStack() as running:
            enter = running.enter_async_context
            node = await enter(Node(database=f"sqlite:///{database}"))
            server = await enter(running_server(Settings(port=0, data_dir=tmp_path), node))
            served = await enter(agent.serving(token="t" * 32))
            await node.add_agent("echo-1", {"text.echo": echo})
            client = await enter(Client(server.url, server.admin_key))
            events = await enter(aclosing(client.events()))
            following = asyncio.create_task(anext(events))
            await client.run_task(Task("text.echo"))
            await following
            assert served.endpoint
            await assert_nothing_is_inherited(before, "socket:", str(database), f"{database}-wal", f"{database}.lock")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(main(), BOUND_S))


@LOOPS
def test_a_journal_on_postgresql_gives_no_connection_to_a_child(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def main() -> None:
        url = shared_server().fresh_url()
        before = descriptors()
        async with opened(url) as journal:
            await journal.submit(submitted("c1"))
            await assert_nothing_is_inherited(before, "socket:")

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(asyncio.wait_for(main(), BOUND_S))
