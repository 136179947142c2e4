"""Agents as processes: one line when they serve, drained by a signal, never outliving their parent."""

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import pytest

import aicp
from tests.integration.agent_sdk_kit import BOUND_S
from tests.standstills import without_standstills

EYES = """
import asyncio, sys, time
from aicp.agent import Agent, AgentOptions, load_agent, run_agent
agent = Agent("eyes-1", max_concurrent_tasks=2)

@agent.capability("image.label")
async def label(params):
    sys.stdout.write("started\\n")
    sys.stdout.flush()
    await asyncio.sleep(params["seconds"])
    return "labelled"

@agent.capability("image.stuck")
def stick(params):
    sys.stdout.write("started\\n")
    sys.stdout.flush()
    time.sleep(600)

if __name__ == "__main__":
    # It drains for longer than a test may take, so what ends sooner was hurried.
    options = AgentOptions(until_stdin_closes="stdin" in sys.argv, drain_s=300.0)
    sys.exit(run_agent(load_agent("eyes:agent"), options))
"""
PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "eyes.py", "stdin"], stdin=subprocess.PIPE)
sys.stdout.write("parent\\n")
sys.stdout.flush()
child.wait()
"""


class Process:
    """An agent in a process of its own."""

    def __init__(self, where: Path, *arguments: str) -> None:
        (where / "eyes.py").write_text(EYES)
        (where / "parent.py").write_text(PARENT)
        source = str(Path(aicp.__file__).parent.parent)
        self.popen = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=where,
            env={**os.environ, "PYTHONPATH": source},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.popen.stderr is not None
        self.line = self.popen.stderr.readline()
        self.endpoint = self.line.split()[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        self.popen.communicate(timeout=BOUND_S)

    def await_start(self) -> None:
        """Return when a handler is at work."""
        assert self.popen.stdout is not None
        assert self.popen.stdout.readline() == "started\n"

    def ended(self) -> tuple[int, str]:
        """Exit code, and what stood on stderr after the first line, once every process that holds it has ended."""
        _, errors = self.popen.communicate(timeout=BOUND_S)
        return self.popen.returncode, without_standstills(errors)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def _call(endpoint: str, capability: str, seconds: float = 0.0) -> str:
    """The body of the answer, whatever its status; empty when the connection broke."""
    body = f'{{"task_id":"t","capability":"{capability}","params":{{"seconds":{seconds}}}}}'
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{endpoint}/invoke", body.encode(), headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=BOUND_S) as response:
            return str(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return str(error.read())
    except OSError:
        return ""


def _health(endpoint: str) -> int:
    try:
        with urllib.request.urlopen(f"{endpoint}/healthz", timeout=BOUND_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_process_tells_in_one_line_where_it_serves_and_drains_on_sigterm(
    tmp_path: Path, threads: ThreadPoolExecutor
) -> None:
    with Process(tmp_path, "eyes.py") as process:
        assert process.line == f"eyes-1 serves image.label, image.stuck on {process.endpoint}\n"
        call = threads.submit(_call, process.endpoint, "image.label", seconds=0.5)
        process.await_start()
        process.popen.send_signal(signal.SIGTERM)
        assert "labelled" in call.result(BOUND_S)
        assert process.ended() == (0, "")


@pytest.mark.parametrize("capability", ["image.label", "image.stuck"])
def test_second_signal_ends_it_at_once(tmp_path: Path, threads: ThreadPoolExecutor, capability: str) -> None:
    with Process(tmp_path, "eyes.py") as process:
        call = threads.submit(_call, process.endpoint, capability, seconds=600)
        process.await_start()
        process.popen.send_signal(signal.SIGINT)
        while _health(process.endpoint) == 200:
            pass
        process.popen.send_signal(signal.SIGTERM)
        code, errors = process.ended()
        assert code == 128 + signal.SIGTERM
        assert "Traceback" not in errors
        assert "error" in call.result(BOUND_S)


def test_agent_ends_when_its_standard_input_closes(tmp_path: Path) -> None:
    with Process(tmp_path, "eyes.py", "stdin") as process:
        assert process.popen.stdin is not None
        process.popen.stdin.close()
        process.popen.stdin = None
        assert process.ended() == (0, "")


def test_agent_at_work_ends_soon_when_its_parent_is_killed(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    with Process(tmp_path, "parent.py") as process:
        call = threads.submit(_call, process.endpoint, "image.stuck")
        assert process.popen.stdout is not None
        assert process.popen.stdout.readline() == "parent\n"
        process.await_start()
        process.popen.kill()
        process.ended()  # returns when the child has closed the stderr that it shares
        assert "labelled" not in call.result(BOUND_S)


def test_agent_that_drains_hurries_when_its_parent_is_gone(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    with Process(tmp_path, "eyes.py", "stdin") as process:
        call = threads.submit(_call, process.endpoint, "image.label", seconds=600)
        process.await_start()
        process.popen.send_signal(signal.SIGTERM)
        while _health(process.endpoint) == 200:
            pass
        assert process.popen.stdin is not None
        process.popen.stdin.close()
        process.popen.stdin = None
        assert process.ended() == (1, "")
        assert "handler_cancelled" in call.result(BOUND_S)
