"""`aicp serve` and the agents that benchmarks call, as processes of their own."""

import base64
import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from aicp.client import Client
from aicp.model.agent import Registration

AGENTS = 2
ASK_EVERY_S = 0.002
START_WAIT_S = 30.0
SERVED = re.compile(r"AICP serves http://127\.0\.0\.1:(\d+);")
ENTRY = ("-m", "aicp")
SECRET_KEY = base64.urlsafe_b64encode(bytes(32)).decode()


class Server:
    """`aicp serve` on a data directory of its own; started again it keeps its port.

    Args:
        directory: Where its data go; is made.
        database: URL of its database; None for a file among its data.
    """

    def __init__(self, directory: Path, database: str | None = None) -> None:
        directory.mkdir(mode=0o700)
        self._env = {**os.environ, "AICP_DATA_DIR": str(directory), "AICP_SECRET_KEY": SECRET_KEY}
        self._env.pop("AICP_DATABASE_URL", None)
        if database is not None:
            self._env["AICP_DATABASE_URL"] = database
        self._key_file = directory / "admin.key"
        self._log = directory / "log"
        self._port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def key(self) -> str:
        return self._key_file.read_text(encoding="ascii").strip()

    def start(self) -> None:
        """Start it and wait until it says where."""
        give_up_at = time.perf_counter() + START_WAIT_S
        self._spawn(ENTRY)
        while (found := SERVED.search(self._log.read_text(encoding="utf-8"))) is None:
            assert time.perf_counter() < give_up_at, "the server does not start"
            time.sleep(ASK_EVERY_S)
        self._port = int(found[1])

    def start_and_submit(self, entry: Sequence[str] = ENTRY) -> float:
        """Start it, asking over and over; seconds to the first accepted submit."""
        began = time.perf_counter()
        self._spawn(entry)
        while not self._accepts():
            assert time.perf_counter() < began + START_WAIT_S, "the server accepts nothing"
            time.sleep(ASK_EVERY_S)
        return time.perf_counter() - began

    def modules(self) -> list[str]:
        """What it has loaded; of one that was started by `ENTRY_THAT_TELLS`."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        names: list[str] = json.loads(self._process.stdout.readline())
        return names

    def cpu_s(self) -> float:
        """Seconds of CPU time that it has used so far; Linux."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _spawn(self, entry: Sequence[str]) -> None:
        command = [sys.executable, *entry, "serve", "--port", str(self._port)]
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command, env=self._env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )

    def _accepts(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=START_WAIT_S)
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        with contextlib.closing(connection):
            try:
                connection.request("POST", "/api/tasks", json.dumps({"capability": "echo", "params": {}}), headers)
                return connection.getresponse().status == http.HTTPStatus.ACCEPTED
            except ConnectionError:
                return False


class AgentProcess:
    """An agent in its own process, which can be made to stand still."""

    def __init__(self, agent_id: str) -> None:
        command = [sys.executable, "-m", "benchmarks.http_agent", agent_id]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.endpoint = self._process.stdout.readline().strip()

    def stand_still(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.contextmanager
def fleet() -> Iterator[list[AgentProcess]]:
    """Two agents."""
    agents = [AgentProcess(f"echo-{number}") for number in range(AGENTS)]
    try:
        yield agents
    finally:
        for agent in agents:
            agent.end()


@contextlib.contextmanager
def serving(directory: Path, database: str | None = None) -> Iterator[Server]:
    """A server that may be started, and is killed in the end."""
    server = Server(directory, database)
    try:
        yield server
    finally:
        server.kill()


async def register(server: Server, agents: Sequence[AgentProcess]) -> None:
    """Tell a server of agents."""
    async with Client(server.url, server.key) as client:
        for agent in agents:
            await client.register_agent(Registration(agent.endpoint))
