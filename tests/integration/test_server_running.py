"""The server as a whole: binds, says where, stops in bounded time, gives everything back."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Self
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import aiohttp
import pytest

import aicp
from aicp.client import Client
from aicp.errors import SettingsError
from aicp.model.endpoint import AddressPolicy
from aicp.runtime.checkup import Verdict, check_machine
from aicp.runtime.node import Node
from aicp.runtime.settings import Settings, find_or_make_admin_key, server_settings
from aicp.server import running_server
from aicp.server.waits import Waits
from tests.integration.server_kit import BOUND_S, Api, Gate, asking, run, until
from tests.standstills import STOOD_STILL, without_standstills


@contextmanager
def aicp_serve(data_dir: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(aicp.__file__).parent.parent),
        "AICP_DATA_DIR": str(data_dir),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "aicp", "serve", *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=BOUND_S)


def line_of(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    while STOOD_STILL in (line := process.stderr.readline()):
        pass
    return line


def fetch(url: str, key: str) -> tuple[int, str]:
    try:
        with urlopen(Request(url, headers={"Authorization": f"Bearer {key}"}), timeout=BOUND_S) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_served_process_says_where_and_ends_cleanly_on_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with aicp_serve(tmp_path, "--port", "0") as process:
        line = line_of(process)
        url = line.split()[2].rstrip(";")
        assert url.startswith("http://127.0.0.1:")
        assert str(tmp_path / "admin.key") in line
        assert f"what it accepts is kept in {tmp_path / 'aicp.db'}." in line
        assert fetch(f"{url}/readyz", "")[1] == "ready"
        assert fetch(f"{url}/api/info", (tmp_path / "admin.key").read_text().strip())[0] == 200
        assert fetch(f"{url}/api/info", "wrong")[0] == 401
        process.send_signal(number)
        out, err = process.communicate(timeout=BOUND_S)
        assert (process.returncode, out, err) == (0, "", "")


class SlowAgent:
    """An agent in this process whose calls last until it is told to answer."""

    def __init__(self) -> None:
        self.started, self.let_go = threading.Event(), threading.Event()
        agent = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                call = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                agent.started.set()
                agent.let_go.wait(BOUND_S)
                body = json.dumps({"task_id": call["task_id"], "result": "done"}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go.set()
        self.server.shutdown()
        self.server.server_close()


class Served:
    """Asks a served process."""

    def __init__(self, process: "subprocess.Popen[str]", data_dir: Path) -> None:
        self.url = line_of(process).split()[2].rstrip(";")
        self.key = (data_dir / "admin.key").read_text().strip()

    def get(self, path: str) -> tuple[int, str]:
        return fetch(f"{self.url}{path}", self.key)

    def post(self, path: str, body: Any) -> tuple[int, Any, str | None]:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        try:
            with urlopen(Request(f"{self.url}{path}", json.dumps(body).encode(), headers), timeout=BOUND_S) as answer:
                return answer.status, json.loads(answer.read()), None
        except HTTPError as error:
            with error:
                return error.code, json.loads(error.read()), error.headers["Retry-After"]

    def register(self, agent: SlowAgent) -> None:
        endpoint = f"http://127.0.0.1:{agent.server.server_port}"
        told = {"endpoint": endpoint, "agent_id": "slow", "max_concurrent_tasks": 1, "capabilities": [{"name": "x"}]}
        assert self.post("/ains/agents", {**told, "lease": True})[0] == 201


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_server_that_stops_takes_no_new_work_and_lets_what_is_under_way_end(tmp_path: Path) -> None:
    with SlowAgent() as agent, aicp_serve(tmp_path, "--port", "0") as process:
        server = Served(process, tmp_path)
        server.register(agent)
        chain = {"tasks": [{"id": "a", "capability": "x"}, {"id": "b", "capability": "x", "depends_on": ["a"]}]}
        chain_id = server.post("/api/tasks/chain", chain)[1]["chain_id"]
        assert agent.started.wait(BOUND_S)
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.get("/readyz")[0] == 503)
        assert server.get("/readyz") == (503, "unready: the server is stopping")
        assert fetch(f"{server.url}/readyz", "") == (503, "unready")
        assert fetch(f"{server.url}/readyz", "wrong") == (503, "unready")
        assert fetch(f"{server.url}/livez", "") == (200, "ok")
        for path, body in (("/api/tasks", {"capability": "x"}), (f"/api/tasks/chain/{chain_id}/retry", None)):
            status, problem, retry_after = server.post(path, body)
            assert (status, problem["code"], problem["retryable"]) == (503, "server_stopping", True)
            assert retry_after == "1"
        assert json.loads(server.get(f"/api/tasks/chain/{chain_id}")[1])["status"] == "RUNNING"
        agent.let_go.set()
        _, err = process.communicate(timeout=BOUND_S)
        assert process.returncode == 0
        assert "Stopping; 2 unfinished tasks go on at the next start." in err
        with aicp_serve(tmp_path, "--port", "0") as again:
            after = Served(again, tmp_path)
            tasks = json.loads(after.get(f"/api/tasks/chain/{chain_id}")[1])["tasks"]
            assert (tasks["a"]["status"], len(tasks["a"]["attempts"])) == ("COMPLETED", 1)


def test_body_that_does_not_come_is_told_of_the_stop_and_is_no_defect(tmp_path: Path) -> None:
    with aicp_serve(tmp_path, "--port", "0") as process:
        server = Served(process, tmp_path)
        host, _, port = server.url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=BOUND_S) as client:
            client.sendall(
                f"POST /api/tasks HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {server.key}\r\n"
                "Content-Type: application/json\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n".encode()
            )
            # Its handler waits for the body.
            assert client.recv(100).startswith(b"HTTP/1.1 100 ")
            process.send_signal(signal.SIGTERM)
            with client.makefile("rb") as answer:
                told = answer.read()
        _, err = process.communicate(timeout=BOUND_S)
        assert told.startswith(b"HTTP/1.1 503 ")
        assert b"server_stopping" in told
        assert process.returncode == 0
        assert "Traceback" not in err


@pytest.mark.parametrize("hurry", ["its drain time", "a second signal"])
def test_stop_does_not_wait_for_an_attempt_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hurry: str
) -> None:
    monkeypatch.setenv("AICP_DRAIN_S", "0.5" if hurry == "its drain time" else "600")
    with SlowAgent() as agent, aicp_serve(tmp_path, "--port", "0") as process:
        server = Served(process, tmp_path)
        server.register(agent)
        server.post("/api/tasks", {"capability": "x"})
        assert agent.started.wait(BOUND_S)
        process.send_signal(signal.SIGTERM)
        if hurry == "a second signal":
            assert "a second signal does not wait" in line_of(process)
            process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=BOUND_S)
        assert process.returncode == 0
        assert without_standstills(err).endswith("Stopping; 1 unfinished tasks go on at the next start.\n")


def test_somebody_at_a_terminal_is_told_a_link_that_signs_in(tmp_path: Path) -> None:
    screen, terminal = os.openpty()
    environment = {**os.environ, "PYTHONPATH": str(Path(aicp.__file__).parent.parent), "AICP_DATA_DIR": str(tmp_path)}
    with os.fdopen(screen, "rb") as told, os.fdopen(terminal, "wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "aicp", "serve", "--port", "0"], env=environment, stderr=stderr
        )
        try:
            while (line := told.readline().decode()) and not line.startswith("Dashboard: "):
                pass
            url, _, rest = line.removeprefix("Dashboard: ").partition("/dashboard/#code=")

            async def sign_in() -> None:
                async with Client(url, None) as page:
                    made = await page.open_session(rest.split()[0])
                async with Client(url, made.key) as session:
                    assert (await session.info()).name == "aicp"

            run(sign_in)
        finally:
            process.kill()
            process.wait(BOUND_S)


_TELLS_ITS_GARBAGE = """
import gc, os, signal, sys
from pathlib import Path
import aicp.server.running as running
from aicp.runtime.settings import Settings

def told(sentence):
    if sentence.startswith("AICP serves"):
        print(gc.get_freeze_count() > 10_000, gc.get_threshold()[0] > 700)
        os.kill(os.getpid(), signal.SIGTERM)

running._say = told
running.serve_forever(Settings(port=0, data_dir=Path(sys.argv[1])))
"""


def test_served_process_does_not_look_through_everything_it_holds_again_and_again(tmp_path: Path) -> None:
    told = subprocess.run(
        [sys.executable, "-c", _TELLS_ITS_GARBAGE, str(tmp_path)], capture_output=True, text=True, timeout=BOUND_S,
        check=False,
    )  # fmt: skip
    assert told.stdout == "True True\n", told.stderr


def test_json_log_is_json_from_the_first_line_to_the_last(tmp_path: Path) -> None:
    with aicp_serve(tmp_path, "--port", "0", "--log-format", "json") as process:
        served = json.loads(line_of(process))
        assert served["event"].startswith("AICP serves http://127.0.0.1:")
        url, key = served["event"].split()[2].rstrip(";"), (tmp_path / "admin.key").read_text().strip()
        agent = {"endpoint": "http://127.0.0.1:9", "agent_id": "a", "capabilities": [{"name": "x"}]}
        body = json.dumps({**agent, "max_concurrent_tasks": 1}).encode()
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        with urlopen(Request(f"{url}/ains/agents", body, headers), timeout=BOUND_S) as response:
            assert response.status == 201
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=BOUND_S)
    lines = [json.loads(line) for line in err.splitlines()]
    own = [line for line in lines if STOOD_STILL not in line["event"]]
    assert [(line["event"], line["agent_id"]) for line in own] == [("agent a is registered", "a")]


def test_format_of_the_log_that_there_is_none_of_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="AICP_LOG_FORMAT is 'xml'"):
        server_settings(environ={"AICP_LOG_FORMAT": "xml", "AICP_DATA_DIR": str(tmp_path)})


def test_networks_agents_may_live_in_come_from_the_command_line_else_from_the_environment(tmp_path: Path) -> None:
    environ = {"AICP_ALLOW_NETWORKS": "10.0.0.0/8, 192.168.1.0/24,", "AICP_DATA_DIR": str(tmp_path)}
    told = server_settings(environ=environ).policy
    assert told == AddressPolicy(loopback=True, allow_networks=(ip_network("10.0.0.0/8"), ip_network("192.168.1.0/24")))
    outranked = server_settings(environ=environ, allow_networks=["172.16.0.0/12"]).policy
    assert outranked.allow_networks == (ip_network("172.16.0.0/12"),)
    assert server_settings(environ={"AICP_DATA_DIR": str(tmp_path)}).policy == AddressPolicy(loopback=True)


def test_network_that_cannot_be_allowed_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"AICP_ALLOW_NETWORKS cannot be used: '127\.0\.0\.0/8' holds no private"):
        server_settings(environ={"AICP_ALLOW_NETWORKS": "127.0.0.0/8", "AICP_DATA_DIR": str(tmp_path)})
    with pytest.raises(SettingsError, match="--allow-network cannot be used: 'ten' is no network"):
        server_settings(environ={"AICP_DATA_DIR": str(tmp_path)}, allow_networks=["ten"])


def test_port_in_use_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with aicp_serve(tmp_path, "--port", str(port)) as process:
            out, err = process.communicate(timeout=BOUND_S)
        assert (process.returncode, out) == (2, "")
        assert err == f"Port {port} on 127.0.0.1 is in use: stop what uses it, or choose another port with --port.\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--port", "70000"], "Port 70000"),
        (["--port", "x"], "--port"),
        (["--host", "0.0.0.0"], "--behind-tls-proxy"),
        (["--host", "192.0.2.1", "--behind-tls-proxy"], "192.0.2.1:8420 cannot be bound"),
        (["--host", "no such host", "--behind-tls-proxy"], "no such host"),
    ],
)
def test_address_that_cannot_be_served_is_one_sentence(tmp_path: Path, arguments: list[str], told: str) -> None:
    with aicp_serve(tmp_path, *arguments) as process:
        out, err = process.communicate(timeout=BOUND_S)
    assert (process.returncode, out) == (2, "")
    assert told in err
    assert len(err.splitlines()) == 1


def test_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_text("secret\n")
    (tmp_path / "admin.key").chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        find_or_make_admin_key(tmp_path)


@pytest.mark.parametrize(("key", "told"), [("", "is empty"), ("short", "has 5 characters"), ("k" * 31, "has 31 char")])
def test_key_that_could_be_guessed_is_refused_with_what_to_do(tmp_path: Path, key: str, told: str) -> None:
    file = tmp_path / "admin.key"
    file.touch(mode=0o600)
    file.write_text(f"{key}\n")
    with pytest.raises(SettingsError, match=told) as refused:
        find_or_make_admin_key(tmp_path)
    assert "remove it and start again" in refused.value.message
    assert key not in refused.value.message or not key
    assert Verdict.FAIL in {each.verdict for each in check_machine({"AICP_DATA_DIR": str(tmp_path)})}
    file.write_text("k" * 32 + "\n")
    assert find_or_make_admin_key(tmp_path) == "k" * 32
    file.unlink()
    assert len(find_or_make_admin_key(tmp_path)) > 32
    assert {each.verdict for each in check_machine({"AICP_DATA_DIR": str(tmp_path)}) if each.check == file.name} == {
        Verdict.OK
    }


def test_key_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_bytes(b"\xff\xfe")
    (tmp_path / "admin.key").chmod(0o600)
    with pytest.raises(SettingsError, match="not ASCII"):
        find_or_make_admin_key(tmp_path)


def test_agents_on_loopback_are_for_servers_on_loopback() -> None:
    assert server_settings(host="127.0.0.1").policy.loopback
    assert server_settings(host="::1").policy.loopback
    assert not server_settings(host="0.0.0.0", behind_tls_proxy=True).policy.loopback


def test_stop_answers_who_waits_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        async with Node() as node, aiohttp.ClientSession() as session:
            await node.add_agent("gate-1", {"text.gate": gate})
            async with running_server(Settings(port=0, data_dir=tmp_path), node) as server:
                api = Api(server, node, session)
                task_id = (await api.post("/api/tasks", {"capability": "text.gate"})).body["task_id"]
                # It waits for longer than this test may take.
                waiting = asyncio.create_task(api.get(f"/api/tasks/{task_id}?wait_s=60"))
                await gate.started.wait()
                waits = next(observer for observer in node._observers._observers if isinstance(observer, Waits))
                await until(lambda: task_id in waits._waiting)
            assert (await waiting).body["status"] == "RUNNING"

    run(main)


def test_server_gives_its_port_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with Node() as node:
            async with running_server(Settings(port=0, data_dir=tmp_path), node) as server:
                port = int(server.url.rpartition(":")[2])
            async with running_server(Settings(port=port, data_dir=tmp_path), node) as again:
                assert again.url == server.url

    run(main)


def test_block_that_fails_stops_the_server_and_raises_its_own_error(tmp_path: Path) -> None:
    ports: list[int] = []

    async def fail_while_serving(node: Node) -> None:
        async with running_server(Settings(port=0, data_dir=tmp_path), node) as server:
            ports.append(int(server.url.rpartition(":")[2]))
            raise ZeroDivisionError

    async def main() -> None:
        async with Node() as node:
            with pytest.raises(ZeroDivisionError):
                await fail_while_serving(node)
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", ports[0])

    run(main)


def test_cancelled_block_stops_the_server(tmp_path: Path) -> None:
    async def main() -> None:
        serving = asyncio.Event()
        ports: list[int] = []

        async def serve() -> None:
            async with Node() as node, running_server(Settings(port=0, data_dir=tmp_path), node) as server:
                ports.append(int(server.url.rpartition(":")[2]))
                serving.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(serve())
        await serving.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", ports[0])

    run(main)


def test_ipv6_loopback_is_served(tmp_path: Path) -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")

    async def main() -> None:
        try:
            async with asking(host="::1") as api:
                assert api.url.startswith("http://[::1]:")
                assert (await api.get("/api/info")).status == 200
        except SettingsError:
            pytest.skip("this machine has no IPv6 loopback")

    run(main)
