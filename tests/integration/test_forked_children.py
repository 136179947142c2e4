"""What a forked child keeps of its parent: neither lock nor port nor connection, however long it lives."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from aicp.client.blocking import BlockingClient
from aicp.errors import SettingsError
from aicp.model.task import Task, TaskStatus
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_database import SqliteDatabase
from tests.integration.postgres_kit import opened, run, shared_server, until
from tests.unit.sqlite_kit import submitted

BOUND_S = 60.0
WAYS = pytest.mark.parametrize(
    ("how", "loop"), [("os_fork", "asyncio"), ("multiprocessing", "uvloop")], ids=["os_fork", "multiprocessing"]
)


class Forking:
    """A process of `fork_process`, and its children, which outlive it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.children: list[int] = []

    def told(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        words: dict[str, Any] = json.loads(self.process.stdout.readline())
        if "child" in words:
            self.children.append(words["child"])
        return words

    def write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(BOUND_S)


@contextlib.contextmanager
def forking(tmp_path: Path, mode: str, argument: str, how: str, loop: str = "asyncio") -> Iterator[Forking]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.integration.fork_process", mode, argument, how, loop],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "AICP_DATA_DIR": str(tmp_path), "AICP_SECRET_KEY": "00" * 32},
    )  # fmt: skip
    started = Forking(process)
    try:
        yield started
    finally:
        for pid in started.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.communicate(timeout=BOUND_S)


def lives(pid: int) -> bool:
    """True while a process runs; one that only waits to be collected has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def connected(url: str) -> socket.socket:
    """A connection that a server has accepted: it has answered on it."""
    parts = urlsplit(url)
    made = socket.create_connection((parts.hostname, parts.port), timeout=BOUND_S)
    made.sendall(f"GET /livez HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
    assert made.recv(4096).startswith(b"HTTP/1.1 ")
    return made


def assert_ended(connection: socket.socket) -> None:
    """The other end is closed; a child that kept it open would make this run into the socket's timeout."""
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(4096):
            pass


def assert_port_is_free(url: str) -> None:
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", urlsplit(url).port))
        bound.listen()


def assert_signal_ends_only_the_child(parent: Forking) -> None:
    """A child inherits neither the signal handlers of the event loop nor the pipe that wakes it."""
    parent.write("fork\n")
    child = parent.told()["child"]
    os.kill(child, signal.SIGTERM)
    ends_by = time.monotonic() + BOUND_S
    while lives(child):
        assert time.monotonic() < ends_by
        time.sleep(0.005)
    assert parent.process.poll() is None


async def open_at_once(path: Path) -> None:
    database = SqliteDatabase(path, lock_wait_s=0.0)
    await database.open()
    await database.close()


@WAYS
def test_child_of_a_local_agent_keeps_nothing_of_a_killed_server(tmp_path: Path, how: str, loop: str) -> None:
    path = tmp_path / "aicp.db"
    with forking(tmp_path, "program", f"sqlite:///{path}", how, loop) as parent:
        url = parent.told()["url"]
        assert_signal_ends_only_the_child(parent)
        with connected(url) as before:
            parent.write("fork\n")
            child = parent.told()
            assert child["refused"] == "forked_process"
            assert f"belongs to process {parent.process.pid}" in child["sentence"]
            assert f"process {child['child']}" in child["sentence"]
            parent.kill()
            assert lives(child["child"])
            assert_ended(before)
        asyncio.run(open_at_once(path))
        assert_port_is_free(url)
        assert lives(child["child"])


@WAYS
def test_postgres_peers_see_the_death_of_a_replica_whose_child_lives(tmp_path: Path, how: str, loop: str) -> None:
    url = shared_server().fresh_url()

    async def main() -> None:
        # Far beyond the bound of this test: only the end of the session can tell.
        async with opened(url, lease_s=600.0, renew_every_s=100.0) as peer:
            with forking(tmp_path, "program", url, how, loop) as parent:
                await asyncio.to_thread(parent.told)
                replicas = peer._database.replicas
                await until(lambda: len(replicas.alive) == 2)
                parent.write("fork\n")
                child = await asyncio.to_thread(parent.told)
                assert child["refused"] == "forked_process"
                parent.kill()
                killed_at = time.monotonic()
                await until(lambda: len(replicas.alive) == 1)
                print(f"a peer saw the death after {(time.monotonic() - killed_at) * 1000:.0f} ms")  # noqa: T201 - the figure, for whoever asks with -s
                assert lives(child["child"])

    run(main())


class Registry:
    """A server that registers agents and then waits for the end of their connections."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(BOUND_S)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.registered, self.left = threading.Event(), threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        body = b'{"lease": {"heartbeat_every_s": 300}}'
        with self._listener.accept()[0] as connection:
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            self.registered.set()
            with contextlib.suppress(OSError):
                while connection.recv(65_536):
                    pass
            self.left.set()

    def close(self) -> None:
        self._listener.close()


@WAYS
def test_child_of_an_sdk_agent_keeps_nothing_of_its_killed_agent(tmp_path: Path, how: str, loop: str) -> None:
    async def invoke(url: str) -> None:
        body = {"task_id": "c.t", "capability": "fork.it", "params": {}, "attempt": 1}
        headers = {"Idempotency-Key": "c.t", "X-AICP-Fencing-Token": "1.1"}
        async with aiohttp.ClientSession() as session, session.post(f"{url}/invoke", json=body, headers=headers) as got:
            assert got.status == 200

    with contextlib.closing(Registry()) as registry, forking(tmp_path, "agent", registry.url, how, loop) as parent:
        url = parent.told()["url"]
        assert registry.registered.wait(BOUND_S)
        with connected(url) as before:
            asyncio.run(invoke(url))
            child = parent.told()["child"]
            parent.kill()
            assert_ended(before)
        assert registry.left.wait(BOUND_S)
        assert_port_is_free(url)
        assert lives(child)


def test_child_that_ends_as_a_program_does_leaves_the_database_of_the_next_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "aicp.db"

    async def main() -> None:
        with forking(tmp_path, "writer", str(path), "os_fork") as parent:
            child = (await asyncio.to_thread(parent.told))["child"]
            parent.kill()
            journal = SqliteJournal(SqliteDatabase(path, lock_wait_s=0.0))
            await journal.open()
            await journal.submit(submitted("before"))
            log = path.with_name("aicp.db-wal").stat()
            assert log.st_size > 0
            parent.write("end\n")
            await until(lambda: not lives(child))
            await journal.submit(submitted("after"))
            assert path.with_name("aicp.db-wal").stat().st_ino == log.st_ino, "no checkpoint, no log removed"
            await journal.close()
            await journal.open()
            assert await journal.read("before") is not None
            assert await journal.read("after") is not None
            await journal.close()

    run(main())


FORKING_AGENT = """
import multiprocessing, os, time
from aicp.agent import Agent

agent = Agent("forker")

@agent.capability("fork.it")
def fork_it(params):
    if params["how"] == "multiprocessing":
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        process.start()
        return process.pid
    pid = os.fork()
    if pid == 0:
        try:
            time.sleep(600)
        finally:
            os._exit(0)
    return pid
"""


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


@contextlib.contextmanager
def commands(directory: Path, agent_url: str, server_url: str) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """`aicp agent run` and `aicp serve --agents`, which answer; killed at the end."""
    ports = [str(urlsplit(url).port) for url in (agent_url, server_url)]
    aicp = [sys.executable, "-W", "ignore", "-m", "aicp"]
    env = {**os.environ, "AICP_DATA_DIR": str(directory / "data"), "PYTHONPATH": str(directory)}
    started = [
        subprocess.Popen([*aicp, *arguments], cwd=directory, env=env)
        for arguments in (
            ("agent", "run", "forking_agent:agent", "--port", ports[0]),
            ("serve", "--port", ports[1], "--agents", "agents.json"),
        )
    ]
    try:
        for url, process in zip((agent_url, server_url), started, strict=True):
            until_it_answers(url, process)
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait(BOUND_S)


def until_it_answers(url: str, process: "subprocess.Popen[bytes]") -> None:
    ends_by = time.monotonic() + BOUND_S
    while True:
        assert process.poll() is None, "it refused to start"
        assert time.monotonic() < ends_by
        with contextlib.suppress(OSError):
            connected(url).close()
            return
        time.sleep(0.02)


@pytest.mark.parametrize("how", ["os_fork", "multiprocessing"])
def test_commands_start_again_at_once_while_children_of_an_agents_handler_live(tmp_path: Path, how: str) -> None:
    agent_url, server_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    (tmp_path / "forking_agent.py").write_text(FORKING_AGENT)
    (tmp_path / "agents.json").write_text(json.dumps({"agents": [{"endpoint": agent_url}]}))
    children: list[int] = []
    try:
        # The second time, the children of the first are still there.
        for _ in range(2):
            with commands(tmp_path, agent_url, server_url) as started:
                key = (tmp_path / "data" / "admin.key").read_text().strip()
                with BlockingClient(server_url, api_key=key) as client:
                    until_registered(client)
                    ended = client.run_task(Task("fork.it", {"how": how}))
                assert ended.status is TaskStatus.COMPLETED, ended.error
                children.append(ended.result)
                with connected(agent_url) as to_agent, connected(server_url) as to_server:
                    for process in started:
                        process.kill()
                        process.wait(BOUND_S)
                    assert_ended(to_agent)
                    assert_ended(to_server)
            assert all(map(lives, children))
            assert_port_is_free(agent_url)
            assert_port_is_free(server_url)
            asyncio.run(open_at_once(tmp_path / "data" / "aicp.db"))
    finally:
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def until_registered(client: BlockingClient) -> None:
    ends_by = time.monotonic() + BOUND_S
    while not client.agents():
        assert time.monotonic() < ends_by
        time.sleep(0.02)


def test_refusal_names_the_process_that_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "aicp.db"
    # A fork that Python does not see, as one in C is: nothing is closed in that child.
    inherited = (
        "import ctypes, os, sys, time\n"
        "from pathlib import Path\n"
        "from aicp.storage.sqlite_database import lock_of\n"
        "lock = lock_of(Path(sys.argv[1]))\n"
        "assert lock.try_acquire()\n"
        "pid = ctypes.CDLL(None).fork()\n"
        "if pid:\n    print(pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", inherited, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        with pytest.raises(SettingsError, match=rf"in use by process {process.pid}: stop that one"):
            asyncio.run(open_at_once(path))
        process.kill()
        process.wait(BOUND_S)
        told = rf"in use by process {child}, which inherited it from process {process.pid}: stop that one"
        with pytest.raises(SettingsError, match=told):
            asyncio.run(open_at_once(path))
        os.kill(child, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate(timeout=BOUND_S)
