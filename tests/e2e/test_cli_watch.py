"""`aicp top`, `aicp doctor` and the completion of words, against real servers."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from aicp.cli import completion
from aicp.version import __version__
from tests.chaos.server_process import ServerProcess
from tests.e2e.cli_kit import BOUND_S, Shell, assert_one_sentence, line_of, running_fleet

pytestmark = pytest.mark.xdist_group("cli-watch")
NEEDED = {"server", "clock", "key", "ready", "version", "record", "agents", "settings", "data directory", "database"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with running_fleet(tmp_path_factory.mktemp("fleet")) as shell:
        yield shell


class Terminal:
    """A command on a terminal of its own, which remembers what was drawn there."""

    def __init__(self, shell: Shell, *arguments: str, columns: int, lines: int = 24) -> None:
        self._screen, terminal = pty.openpty()
        environment = {**shell.environment, "TERM": "xterm", "COLUMNS": str(columns), "LINES": str(lines)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "aicp", *arguments], cwd=shell.where, env=environment, stdin=terminal,
            stdout=terminal, stderr=terminal,
        )  # fmt: skip
        os.close(terminal)
        self._drawn = ""
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def drawn(self) -> str:
        """The last picture that is whole, without what steers the terminal."""
        pictures = self._drawn.split("\x1b[H")
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", pictures[-2] if len(pictures) > 1 else "")

    def until(self, *texts: str, without: str = "Traceback") -> None:
        ends_at = time.monotonic() + BOUND_S
        while not all(text in self.drawn for text in texts) or without in self.drawn:
            assert time.monotonic() < ends_at, self.drawn
            assert self.process.poll() is None, self._drawn
            time.sleep(0.02)

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(BOUND_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(BOUND_S)
        os.close(self._screen)

    def _read(self) -> None:
        while True:
            try:
                self._drawn += os.read(self._screen, 65_536).decode("utf-8", "replace")
            except OSError:
                return


@contextmanager
def terminal(shell: Shell, *arguments: str, columns: int = 100) -> Iterator[Terminal]:
    shown = Terminal(shell, *arguments, columns=columns)
    try:
        yield shown
    finally:
        shown.close()


@contextmanager
def answering(body: bytes, **headers: str) -> Iterator[str]:
    """Something that answers every GET so; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response_only(200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join(BOUND_S)


def found_by(shell: Shell, **environment: str) -> dict[str, dict[str, str]]:
    findings = json.loads(shell.call("doctor", "-o", "json", **environment).out)
    return {finding["check"]: finding for finding in findings}


# -- top


@pytest.mark.parametrize(("columns", "told"), [(120, "out because"), (40, "busy")])
def test_top_fits_its_terminal_and_ends_with_ctrl_c(fleet: Shell, columns: int, told: str) -> None:
    with terminal(fleet, "top", columns=columns) as screen:
        screen.until("eyes-1", told, "1 of 1 agents well")
        assert max(map(len, screen.drawn.splitlines())) <= columns
        assert ("out because" in screen.drawn) is (columns > 50)
        assert screen.interrupt() == 0


def test_top_tells_that_the_server_is_gone_and_finds_it_again(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "data")
    shell = Shell(tmp_path)
    shell.environment["AICP_URL"] = server.url
    server.start()
    try:
        server.wait_until_started()
        with terminal(shell, "top") as screen:
            screen.until("0 of 0 agents well")
            server.kill()
            screen.until("gone for")
            server.start()
            server.wait_until_started()
            screen.until("agents well", without="gone for")
            assert screen.interrupt() == 0
    finally:
        server.kill()


def test_top_writes_a_snapshot_a_second_as_lines(fleet: Shell) -> None:
    with fleet.started("top", "-o", "jsonl") as process:
        snapshots = [json.loads(line_of(process.stdout)) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=BOUND_S)
        assert (process.returncode, err) == (0, "")
    assert snapshots[0]["at"] < snapshots[1]["at"]
    assert snapshots[0].keys() == {"at", "url", "info", "scheduler", "health", "chains"}
    assert list(snapshots[0]["health"]["agents"]) == ["eyes-1"]
    assert snapshots[0]["chains"] == []


def test_top_that_nobody_watches_is_one_look(fleet: Shell) -> None:
    told = fleet.run("top")
    assert told.code == 0
    assert told.out.splitlines()[0].split()[:3] == ["agent", "state", "heard"]
    assert told.out.splitlines()[2].startswith("eyes-1")
    assert fleet.run("top", "-o", "json").data["health"]["total_agents"] == 1


def test_key_that_may_only_see_agents_is_enough(fleet: Shell) -> None:
    made = fleet.call("key", "create", "watcher", "--scope", "agents:read", "-o", "json")
    assert made.code == 0, made.err
    key = made.data["secret"]
    snapshot = fleet.call("top", "-o", "json", AICP_API_KEY=key).data
    assert (snapshot["chains"], list(snapshot["health"]["agents"])) == (None, ["eyes-1"])
    assert {each["verdict"] for each in found_by(fleet, AICP_API_KEY=key).values()} == {"ok"}


@pytest.mark.parametrize("output", ["table", "json", "jsonl"])
def test_top_of_a_server_that_never_was_there_is_one_sentence(fleet: Shell, output: str) -> None:
    ran = fleet.call("top", "-o", output, AICP_URL="http://127.0.0.1:9")
    assert_one_sentence(ran, 3, "cannot be reached", "aicp serve")


# -- doctor


def test_doctor_finds_everything_in_order(fleet: Shell) -> None:
    found = found_by(fleet)
    assert found.keys() >= NEEDED
    assert {each["verdict"] for each in found.values()} == {"ok"}, found
    assert found["agents"]["told"] == "1 of 1 may be used for all they offer"
    ran = fleet.run("doctor")
    assert (ran.code, ran.err) == (0, "")
    assert [line.split()[0] for line in ran.out.splitlines()[2:4]] == ["server", "clock"]


def test_doctor_tells_what_is_wrong_and_what_to_do(fleet: Shell, tmp_path: Path) -> None:
    def failing(check: str, told: str, advice: str, **environment: str) -> None:
        found = found_by(fleet, **environment)[check]
        assert found["verdict"] == "fail"
        assert told in found["told"]
        assert advice in found["advice"]
        assert fleet.call("doctor", **environment).code == 1

    data = tmp_path / "data"
    data.mkdir(mode=0o777)
    data.chmod(0o777)
    (data / "admin.key").write_text("k")
    (data / "admin.key").chmod(0o644)
    failing("server", "nobody listens", "aicp serve", AICP_URL="http://127.0.0.1:9")
    failing("server", "must begin with http", "AICP_URL", AICP_URL="nonsense")
    failing("key", "valid key", "AICP_API_KEY", AICP_API_KEY="wrong")
    failing("key", "one word", "AICP_API_KEY", AICP_API_KEY="two\nwords")
    failing("data directory", "written by anybody", "chmod 700", AICP_DATA_DIR=str(data))
    failing("admin.key", "read by others", "chmod 600", AICP_DATA_DIR=str(data))
    failing("settings", "AICP_ALLOW_NETWORKS", "correct", AICP_ALLOW_NETWORKS="127.0.0.0/8")
    failing("database", "mysql://", "AICP_DATABASE_URL", AICP_DATABASE_URL="mysql://here")
    with answering(b"hello") as url:
        failing("server", "no AICP server", "AICP_URL", AICP_URL=url)


def test_doctor_minds_the_clock_of_the_server(fleet: Shell) -> None:
    with answering(b"ok", Date="Mon, 01 Jan 2024 00:00:00 GMT") as url:
        clock = found_by(fleet, AICP_URL=url, AICP_API_KEY="k")["clock"]
        assert (clock["verdict"], "NTP" in clock["advice"], "behind" in clock["told"]) == ("warn", True, True)
    with answering(b"ok") as url:
        assert found_by(fleet, AICP_URL=url, AICP_API_KEY="k")["clock"]["verdict"] == "warn"


def test_doctor_warns_of_a_server_of_another_version(fleet: Shell) -> None:
    info = {"name": "aicp", "version": "9.9.9", "durable": False, "unfinished_tasks": 0, "journal": "memory"}

    def answer(path: str) -> bytes:
        return {"/livez": b"ok", "/api/info": json.dumps(info).encode()}.get(path, b"{}")

    with _answering_by_path(answer) as url:
        found = found_by(fleet, AICP_URL=url, AICP_API_KEY="k")
    assert (found["version"]["verdict"], "9.9.9" in found["version"]["told"]) == ("warn", True)
    assert __version__ in found["version"]["told"]
    assert (found["record"]["verdict"], found["agents"]["verdict"]) == ("warn", "warn")


def test_doctor_does_not_show_the_key_to_whom_it_is_sent_on(fleet: Shell) -> None:
    seen: list[str | None] = []

    class Thief(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Thief) as thief:
        serving = threading.Thread(target=thief.serve_forever, args=(0.05,))
        serving.start()

        def answer(path: str) -> bytes | str:
            return b"ok" if path == "/livez" else f"http://127.0.0.1:{thief.server_port}"

        with _answering_by_path(answer) as url:
            assert found_by(fleet, AICP_URL=url, AICP_API_KEY="k")["ready"]["verdict"] == "fail"
        thief.shutdown()
        serving.join(BOUND_S)
    assert seen == []


@contextmanager
def _answering_by_path(answer: Callable[[str], bytes | str]) -> Iterator[str]:
    """Answers a path with bytes, or, for text, sends whoever asks there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = answer(self.path)
            body = told if isinstance(told, bytes) else b""
            self.send_response(200 if isinstance(told, bytes) else 302)
            if isinstance(told, str):
                self.send_header("Location", told)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join(BOUND_S)


# -- completion


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion_is_shown_for_each_shell(fleet: Shell, shell_name: str) -> None:
    # Which shell started it is found out by looking at its ancestors: a test need not have one.
    shown = fleet.run("--show-completion", shell_name, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    assert shown.code == 0
    assert f"complete_{shell_name}" in shown.out


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["ag"], "agent"),
        (["agent", "show", "ey"], "eyes-1"),
        (["key", "create", "k", "--scope", "metr"], "metrics:read"),
    ],
)
def test_words_are_completed(fleet: Shell, words: list[str], completed: str) -> None:
    asked = {"_AICP_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(["aicp", *words]), "COMP_CWORD": str(len(words))}
    ran = fleet.run(**asked)
    assert (ran.out.split(), ran.err) == ([completed], "")


def test_ids_are_completed_while_the_server_answers_and_nothing_is_said_else(
    fleet: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task_id = fleet.call("task", "run", "text.echo", "--wait", "-o", "json").data["task_id"]
    for name, value in fleet.environment.items():
        monkeypatch.setenv(name, value)
    assert completion.agent_ids("eyes") == ["eyes-1"]
    assert completion.capabilities("text.u") == ["text.upper"]
    assert completion.task_ids(task_id[:8]) == [task_id]
    assert completion.chain_ids(task_id[:8]) == [task_id.partition(".")[0]]
    key_id = fleet.call("key", "create", "short", "--scope", "tasks:read", "-o", "json").data["key"]["key_id"]
    assert completion.key_ids(key_id) == [key_id]
    assert fleet.call("key", "revoke", key_id).code == 0
    assert completion.key_ids(key_id) == []
    assert completion.agent_ids("nobody") == []
    monkeypatch.setenv("AICP_URL", "http://127.0.0.1:9")
    assert completion.agent_ids("eyes") == []
    assert capsys.readouterr() == ("", "")
