"""Starts each engine in its process, one at a time, and ends all that it started."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks.peers.engines.engine import Sizes
from benchmarks.peers.engines.process import Report

ENGINE_WAIT_S = 600.0
LAST_WORDS_CHARS = 160


def measure_engine(name: str, sizes: Sizes) -> Report:
    """What one engine comes to in a fresh process on an empty directory of this machine's disk."""
    with tempfile.TemporaryDirectory(prefix=f"bench-{name}-", ignore_cleanup_errors=True) as scratch:
        directory, path, log = Path(scratch, "data"), Path(scratch, "report.json"), Path(scratch, "log")
        directory.mkdir()
        asked = [name, str(directory), str(path), msgspec.json.encode(sizes).decode()]
        with log.open("wb") as words:
            problem = _run([sys.executable, "-m", "benchmarks.peers.engines.process", *asked], words.fileno())
        if problem and (last := _last_words(log)):
            problem = f"{problem}: {last}"
        report = msgspec.json.decode(path.read_bytes(), type=Report) if path.exists() else Report(name)
        return msgspec.structs.replace(report, problem=report.problem or problem)


def _run(command: list[str], log: int) -> str:
    """Why it did not end well, or nothing."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True) as process:
        try:
            code = process.wait(ENGINE_WAIT_S)
        except subprocess.TimeoutExpired:
            return f"stopped after {ENGINE_WAIT_S:g} s"
        finally:
            _end_session(process.pid)
    return f"ended with {code}" if code else ""


def _end_session(leader: int) -> None:
    """The engine and the servers and workers it started, which would otherwise disturb the next."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip()[:LAST_WORDS_CHARS] for line in reversed(lines) if line.strip()), "")
