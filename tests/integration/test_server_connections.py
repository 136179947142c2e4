"""Slow, greedy and numerous clients: each is given up in its time, and the server answers everybody else meanwhile."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from aicp.server.connections import SPARE_CONNECTIONS, Limits, widen_open_files
from tests.integration.server_kit import BOUND_S, Api, asking, run, until

ROOT = Path(__file__).parents[2]
SHORT = Limits(header_s=0.3, body_s=0.3, stall_s=0.3)
CLIENTS = 300
MEMORY_MAX_KB = 128 * 1024
HEALTH_CPU_S_MAX = 2.0
"""What the server works before it answers. Seconds on the clock would judge what else the machine does."""


def port_of(url: str) -> int:
    return int(url.rpartition(":")[2])


def post_head(api: Api, length: int = 100) -> bytes:
    return (
        f"POST /api/tasks HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


@asynccontextmanager
async def connected(api: Api) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(api.url))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def told(answer: bytes) -> tuple[int, str]:
    """Status and code of a raw answer that is a problem."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert b"connection: close" in head.lower()
    assert json.loads(body)["status"] == int(head.split()[1])
    return int(head.split()[1]), json.loads(body)["code"]


def with_limits(test: Any, limits: Limits = SHORT) -> None:
    async def main() -> None:
        async with asking(limits=limits) as api:
            await test(api)

    run(main)


async def ends_with(api: Api, sent: bytes) -> bytes:
    """What comes back until the server closes."""
    async with connected(api) as (reader, writer):
        writer.write(sent)
        return await reader.read()


def test_header_that_stalls_is_given_up() -> None:
    async def test(api: Api) -> None:
        assert told(await ends_with(api, b"GET /livez HTTP/1.1\r\nHost: loc")) == (408, "header_too_slow")

    with_limits(test)


def test_header_that_comes_byte_by_byte_is_given_up_all_the_same() -> None:
    async def test(api: Api) -> None:
        async with connected(api) as (reader, writer):
            answer = asyncio.create_task(reader.read())
            writer.write(b"GET /livez HTTP/1.1\r\nX: ")
            while not answer.done():
                writer.write(b"x")
                await asyncio.sleep(0.01)
            assert told(answer.result()) == (408, "header_too_slow")

    with_limits(test)


def test_client_that_says_nothing_is_closed_without_a_word() -> None:
    async def test(api: Api) -> None:
        assert await ends_with(api, b"") == b""

    with_limits(test)


def test_empty_lines_between_requests_hold_nothing() -> None:
    async def test(api: Api) -> None:
        async with connected(api) as (reader, writer):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b" 200 " in await reader.readline()
            writer.write(b"\r\n")
            answered = await reader.read()
            assert b"408" not in answered.partition(b"\r\n\r\n")[2]

    with_limits(test)


def test_body_that_stalls_is_given_up() -> None:
    async def test(api: Api) -> None:
        assert told(await ends_with(api, post_head(api) + b"{")) == (408, "body_too_slow")
        assert (await api.get("/api/info")).body["unfinished_tasks"] == 0

    with_limits(test)


def test_body_that_nobody_asked_for_is_given_up_after_the_answer() -> None:
    async def test(api: Api) -> None:
        head = (
            f"GET /api/info HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.key}\r\nContent-Length: 9\r\n\r\n"
        )
        answered = await ends_with(api, head.encode())
        assert answered.startswith(b"HTTP/1.1 200")
        assert b"408" not in answered

    with_limits(test)


def test_pipelined_requests_are_answered_in_turn() -> None:
    async def test(api: Api) -> None:
        one = f"GET /api/info HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.key}\r\n"
        answered = await ends_with(api, (f"{one}\r\n" * 4 + f"{one}Connection: close\r\n\r\n").encode())
        assert answered.count(b"HTTP/1.1 200") == 5

    with_limits(test)


def test_request_that_waits_longer_than_a_body_may_take_is_answered() -> None:
    async def test(api: Api) -> None:
        api.node.ains.get("echo-1")
        task_id = (await api.post("/api/tasks", {"capability": "text.echo", "agents": ["nobody"]})).body["task_id"]
        answered = await api.get(f"/api/tasks/{task_id}?wait_s=1")
        assert (answered.status, answered.body["status"]) == (200, "RUNNING")

    with_limits(test)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /livez HTTP/1.1\r\nX: " + b"x" * 100_000,
        b"GET /livez HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 100_000,
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
    ],
    ids=["one field, unfinished", "one field", "path, unfinished", "path", "fields"],
)
def test_header_that_is_too_large_is_refused(head: bytes) -> None:
    async def test(api: Api) -> None:
        assert told(await ends_with(api, head)) == (431, "header_too_large")

    with_limits(test, Limits())


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"HELLO\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nX\x00: y\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: y\x00z\r\n\r\n",
        b"GET / HTTP/1.1\r\nno field\r\n\r\n",
        b"POST /api/tasks HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST /api/tasks HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/tasks HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /api/tasks HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /api/tasks HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused(sent: bytes) -> None:
    async def test(api: Api) -> None:
        assert told(await ends_with(api, sent)) == (400, "invalid_http")

    with_limits(test, Limits())


@pytest.mark.parametrize(
    ("second", "refused"),
    [("Host: evil.example", (421, "host_refused")), ("Origin: https://evil.example", (403, "origin_refused"))],
)
def test_field_that_stands_twice_is_refused_when_either_is_somebody_elses(
    second: str, refused: tuple[int, str]
) -> None:
    async def test(api: Api) -> None:
        own = api.url.removeprefix("http://")
        sent = f"GET /livez HTTP/1.1\r\nConnection: close\r\nHost: {own}\r\nOrigin: {api.url}\r\n"
        assert (await ends_with(api, f"{sent}\r\n".encode())).startswith(b"HTTP/1.1 200")
        assert told(await ends_with(api, f"{sent}{second}\r\n\r\n".encode())) == refused

    with_limits(test, Limits())


def test_client_that_takes_nothing_of_its_answers_is_cut_off() -> None:
    async def test(api: Api) -> None:
        task = {"capability": "text.echo", "params": {"x": "y" * 900_000}}
        task_id = (await api.post("/api/tasks", task)).body["task_id"]
        assert (await api.get(f"/api/tasks/{task_id}?wait_s=30")).body["status"] == "COMPLETED"
        get = f"GET /api/tasks/{task_id} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.key}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port_of(api.url)), timeout=BOUND_S) as client:
            client.sendall(get.encode() * 20)
            await until(lambda: is_gone(client))

    with_limits(test)


def is_gone(client: socket.socket) -> bool:
    try:
        client.send(b"x")
    except OSError:
        return True
    return False


def test_connection_too_many_is_told_so_and_health_is_answered_all_the_same() -> None:
    async def test(api: Api) -> None:
        get = "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n"
        async with connected(api), connected(api), connected(api):
            refused = await ends_with(api, get.format("/api/info", api.key).encode())
            assert told(refused) == (503, "too_many_connections")
            assert b"\r\nretry-after: 1\r\n" in refused
            assert (await ends_with(api, get.format("/livez", "").encode())).startswith(b"HTTP/1.1 200")
        async with asyncio.timeout(BOUND_S):
            while not (await ends_with(api, get.format("/api/info", api.key).encode())).startswith(b"HTTP/1.1 200"):
                pass

    with_limits(test, Limits(connections_max=3))


def test_connections_beyond_those_that_are_told_are_cut_off() -> None:
    async def test(api: Api) -> None:
        with ExitStack() as clients:
            for _ in range(SPARE_CONNECTIONS + 1):
                clients.enter_context(socket.create_connection(("127.0.0.1", port_of(api.url)), timeout=BOUND_S))
            with suppress(ConnectionError):
                assert await ends_with(api, b"GET /livez HTTP/1.1\r\n\r\n") == b""

    with_limits(test, Limits(connections_max=1))


# -- many of them, at a real process


@contextmanager
def limited_server(directory: Path, header_s: float, body_s: float) -> Iterator[tuple[int, str, str]]:
    """A server process: its id, its URL, its key."""
    command = [sys.executable, "-m", "tests.integration.limited_server", str(directory), str(header_s), str(body_s)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url, key = process.stdout.readline().split()
            yield process.pid, url, key
        finally:
            process.kill()


def health_cpu_s(pid: int, url: str) -> float:
    """How long a server process worked, seconds of CPU, until it said that it lives."""
    begun = cpu_s(pid)
    with urlopen(f"{url}/livez", timeout=BOUND_S) as answered:
        assert answered.read() == b"ok"
    return cpu_s(pid) - begun


def cpu_s(pid: int) -> float:
    """What a process has worked so far, for itself and in the kernel."""
    after_name = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")


def memory_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def open_clients(clients: ExitStack, url: str, said: bytes) -> list[socket.socket]:
    """Clients that say this, and then neither read nor write."""
    opened = []
    for _ in range(CLIENTS):
        client = clients.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.settimeout(BOUND_S)
        client.connect(("127.0.0.1", port_of(url)))
        client.sendall(said)
        opened.append(client)
    return opened


def make_events(url: str, key: str, times: int) -> None:
    """Live events of a few thousand tasks: more than the readers' sockets take in."""
    body = json.dumps({"tasks": [{"capability": "text.echo"}] * 200}).encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    for _ in range(times):
        with urlopen(Request(f"{url}/api/tasks/parallel", body, headers), timeout=BOUND_S) as accepted:
            assert accepted.status == 202


def test_hundreds_of_clients_that_neither_read_nor_write_harm_nobody(tmp_path: Path) -> None:
    widen_open_files()
    with limited_server(tmp_path, header_s=3.0, body_s=30.0) as (pid, url, key), ExitStack() as clients:
        health_cpu_s(pid, url)
        before_kb = memory_kb(pid)
        events = f"GET /api/events HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\r\n"
        open_clients(clients, url, events.encode())
        slow = open_clients(clients, url, b"GET /api/info HTTP/1.1\r\nHost: local")
        longest_s = 0.0
        for _ in range(10):
            make_events(url, key, times=1)
            longest_s = max(longest_s, health_cpu_s(pid, url))
        assert longest_s < HEALTH_CPU_S_MAX
        assert memory_kb(pid) - before_kb < MEMORY_MAX_KB
        assert {told(client.recv(65_536)) for client in slow} == {(408, "header_too_slow")}
        assert health_cpu_s(pid, url) < HEALTH_CPU_S_MAX
