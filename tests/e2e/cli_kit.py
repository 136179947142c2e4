"""What the tests of the command line share: a directory to run commands in, and a server with an agent."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest

import aicp
from aicp.cli.main import main

BOUND_S = 60.0
AGENTS = """
import asyncio
from aicp.agent import Agent, AgentFailure

agent = Agent("eyes-1", max_concurrent_tasks=4, labels={"zone": "a"})

@agent.capability("text.echo")
async def echo(params: dict) -> dict:
    return params

@agent.capability("text.upper")
def upper(params: dict) -> dict:
    return {"text": params["text"].upper()}

@agent.capability("text.no")
async def refuse(params: dict) -> None:
    raise AgentFailure("not_me", "this one cannot be done")

@agent.capability("text.slow")
async def be_slow(params: dict) -> None:
    print("started", flush=True)
    await asyncio.sleep(600)
"""
CHAIN = """
name: two steps
tasks:
  - {id: once, capability: text.echo, params: {text: hello}}
  - {id: twice, capability: text.upper, params: {text: {$result: once, path: /text}}}
"""
FILES = {
    "eyes.py": AGENTS,
    "chain.yaml": CHAIN,
    "no.yaml": "tasks: [{id: no, capability: text.no}]",
    "slow.json": '{"tasks": [{"id": "slow", "capability": "text.slow"}]}',
    "unknown.yaml": "tasks: [{id: a, capability: text.ecko}]",
    "missing.yaml": "tasks:\n  - {id: a, capability: text.echo, depends_on: [b]}\n",
    "circle.yaml": "tasks: [{id: a, capability: x, depends_on: [b]}, {id: b, capability: x, depends_on: [a]}]",
    "wrong.yaml": "tasks: [\n",
    "agents.yaml": "agents: [{python: 'eyes:agent'}]",
    "some.yaml": "agents: [{python: 'eyes:agent'}, {endpoint: 'http://127.0.0.1:9'}]",
    "dead.yaml": "agents: [{endpoint: 'http://127.0.0.1:9'}]",
    "dead.toml": (
        "[[agents]]\nendpoint = 'http://127.0.0.1:9'\nagent_id = 'gone'\nmax_concurrent_tasks = 1\n"
        "capabilities = [{name = 'text.echo'}, {name = 'text.upper'}]\n"
    ),
    "twins.yaml": "agents: [{python: 'eyes:agent'}, {python: 'eyes:agent'}]",
    "nobody.yaml": "agents: [{python: 'eyes:nobody'}]",
}


class Ran(msgspec.Struct, frozen=True):
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


class Shell:
    """A directory with files, and the environment in which commands run there."""

    def __init__(self, where: Path) -> None:
        self.where = where
        for name, content in FILES.items():
            (where / name).write_text(content)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(Path(aicp.__file__).parent.parent),
            "AICP_DATA_DIR": str(where / "data"),
            "AICP_URL": "http://127.0.0.1:9",
        }

    @contextmanager
    def started(self, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        process = subprocess.Popen(
            [sys.executable, "-m", "aicp", *arguments], cwd=self.where, env=self.environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.kill()
            process.communicate(timeout=BOUND_S)

    def call(self, *arguments: str, **environment: str) -> Ran:
        """Like `run`, in this process and so faster, for commands that start nothing."""
        with (
            pytest.MonkeyPatch.context() as patch,
            redirect_stdout(StringIO()) as out,
            redirect_stderr(StringIO()) as err,
        ):
            patch.chdir(self.where)
            for name, text in {**self.environment, **environment}.items():
                patch.setenv(name, text)
            code = main(arguments)
        return Ran(code, out.getvalue(), err.getvalue())

    def run(self, *arguments: str, **environment: str) -> Ran:
        ran = subprocess.run(
            [sys.executable, "-m", "aicp", *arguments], cwd=self.where, env={**self.environment, **environment},
            capture_output=True, text=True, timeout=BOUND_S, check=False,
        )  # fmt: skip
        assert "Traceback" not in ran.stderr
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def run_in_terminal(self, *arguments: str) -> tuple[str, str]:
        """What comes on stdout, which is a pipe, and on stderr, which is a terminal."""
        screen, terminal = os.openpty()
        with os.fdopen(screen, "rb"), os.fdopen(terminal, "wb") as stderr:
            ran = subprocess.run(
                [sys.executable, "-m", "aicp", *arguments], cwd=self.where, env={**self.environment, "TERM": "xterm"},
                stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=BOUND_S, check=True,
            )  # fmt: skip
            return ran.stdout, os.read(screen, 100_000).decode()


def assert_one_sentence(ran: Ran, code: int, *told: str) -> None:
    assert (ran.code, ran.out) == (code, "")
    assert len(ran.err.splitlines()) == 1, ran.err
    for text in told:
        assert text in ran.err


def line_of(stream: Any) -> str:
    """The next line, within the bound: the process is killed from outside when the test ends.

    What the process says of its own standstills is passed over: on a busy machine it may come at any time.
    """
    lines: list[str] = []

    def read() -> None:
        while "aicp.standstill" in (line := stream.readline()):
            pass
        lines.append(line)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(BOUND_S)
    assert lines, "no line came"
    return lines[0]


@contextmanager
def running_fleet(
    directory: Path, *options: str, target: str = "eyes:agent", agent_id: str = "eyes-1"
) -> Iterator[Shell]:
    """A server and an agent that is registered with it, in their own processes."""
    shell = Shell(directory)
    with shell.started("serve", "--port", "0", *options) as server:
        found = re.search(r"http://\S+:\d+", line_of(server.stderr))
        assert found is not None
        shell.environment["AICP_URL"] = found[0]
        with shell.started("agent", "run", target, "--register", found[0]) as agent:
            assert f"{agent_id} serves" in line_of(agent.stderr)
            ends_at = time.monotonic() + BOUND_S
            while agent_id not in shell.call("agent", "list").out:
                assert time.monotonic() < ends_at
            yield shell
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(BOUND_S) == 0
        server.send_signal(signal.SIGTERM)
        assert server.wait(BOUND_S) == 0
