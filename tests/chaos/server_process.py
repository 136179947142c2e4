"""`aicp serve` in a process of its own, to be started, killed and started again on the same port."""

import contextlib
import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import aicp

SOURCES = Path(aicp.__file__).parents[1]
BOUND_S = 60.0
ASK_EVERY_S = 0.01
# Below the range systems take the ports of outgoing connections from: while the server is dead nobody, and no client
# that connects to it in vain, may end up with its port.
PORTS = range(20_000, 30_000)


class ServerProcess:
    """One server.

    Args:
        directory: Its data directory; made when it is not there.
        environ: What its environment has besides.
        before: Words of the command line to put before the interpreter.
        module: What the interpreter runs in place of `aicp`, and its first arguments.
    """

    def __init__(
        self,
        directory: Path,
        environ: Mapping[str, str] | None = None,
        *,
        before: Sequence[str] = (),
        module: Sequence[str] = ("aicp",),
    ) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self.port = free_port()
        self.log = directory / f"serve-{self.port}.log"
        self._directory = directory
        self._before = before
        self._module = module
        kept = {name: value for name, value in os.environ.items() if not name.startswith("AICP_")}
        self._environ = {**kept, "PYTHONPATH": str(SOURCES), "AICP_DATA_DIR": str(directory), **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._told_before = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def key(self) -> str:
        return (self._directory / "admin.key").read_text(encoding="ascii").strip()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def told(self) -> str:
        """What this process said so far."""
        with self.log.open("rb") as log:
            log.seek(self._told_before)
            return log.read().decode()

    def start(self) -> None:
        """Start it, and do not wait."""
        self._told_before = self.log.stat().st_size if self.log.exists() else 0
        command = [*self._before, sys.executable, "-m", *self._module, "serve", "--port", str(self.port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, env=self._environ, stdin=subprocess.DEVNULL, stderr=log)

    def has_started(self) -> bool:
        """True once it says that it serves.

        Raises:
            AssertionError: It ended instead.
        """
        told = self.told()
        assert self.is_alive(), f"the server ended: {told}"
        return "AICP serves " in told

    def wait_until_started(self) -> None:
        wait_until(self.has_started, "the server serves")

    def has_open(self, path: Path) -> bool:
        """True while it has a file open."""
        for each in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if each.readlink() == path:
                    return True
        return False

    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """With -9, whatever it is at; does nothing to one that is dead."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """As an operator does; its exit code."""
        return self._end(signal.SIGTERM)

    def pause(self) -> None:
        """Have it stand still, as a machine that swaps or a container that is moved does."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """As if nothing had been."""
        os.kill(self.pid, signal.SIGCONT)

    def wait(self) -> int:
        """Wait for its end; its exit code."""
        assert self._process is not None
        return self._process.wait(BOUND_S)

    def ask(self, path: str, *, timeout_s: float = BOUND_S) -> int:
        """Status of the answer to a GET without a key."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def _end(self, number: signal.Signals) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(number)
        try:
            return self._process.wait(BOUND_S)
        finally:
            self._process.kill()
            self._process = None


def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float = BOUND_S) -> None:
    """Return once it holds.

    Raises:
        AssertionError: It does not in time.
    """
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {timeout_s:g} s: {what}"
        time.sleep(ASK_EVERY_S)


def free_port() -> int:
    """A port that nobody has, outside the range of outgoing connections."""
    for port in random.SystemRandom().sample(PORTS, 100):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                tried.bind(("127.0.0.1", port))
                return port
    raise AssertionError("a hundred ports are all in use")
