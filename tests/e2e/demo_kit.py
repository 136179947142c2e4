"""Runs the demo as its user does, in a process, and finds every process that it started."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Self

import aicp

BOUND_S = 90.0
ORPHANS_S_MAX = 15.0
MARK = "AICP_TEST_MARK"


class DemoProcess:
    """A demo in a directory of its own, with a mark in its environment that its agents inherit."""

    def __init__(self, where: Path, *arguments: str, import_first: Path | None = None) -> None:
        self.data_dir = where / "data"
        self.temporary = where / "temporary"
        self.temporary.mkdir()
        self._mark = uuid.uuid4().hex
        sources = os.pathsep.join(str(path) for path in (import_first, Path(aicp.__file__).parents[1]) if path)
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "aicp", "demo", *arguments],
            cwd=where,
            env={
                **os.environ,
                "PYTHONPATH": sources,
                "AICP_DATA_DIR": str(self.data_dir),
                "TMPDIR": str(self.temporary),
                MARK: self._mark,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        self.popen.communicate(timeout=BOUND_S)

    def read_until(self, words: str) -> str:
        """Read until a line on stderr has these words: that line."""
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            if words in line:
                return line
        raise AssertionError(f"the demo ended without saying '{words}'")

    def ended(self) -> tuple[int, str, str]:
        """Exit code, stdout, and what was left of stderr."""
        out, errors = self.popen.communicate(timeout=BOUND_S)
        return self.popen.returncode, out, errors

    def agents(self) -> list[int]:
        """The ids of all processes that carry the mark, without the demo's own."""
        names = (path.name for path in Path("/proc").iterdir())
        return [int(name) for name in names if name.isdecimal() and self._is_agent(int(name))]

    def agents_left(self) -> list[int]:
        """Who is still there after as many seconds as orphans may take."""
        ends_at = time.monotonic() + ORPHANS_S_MAX
        while (left := self.agents()) and time.monotonic() < ends_at:
            time.sleep(0.05)
        return left

    def _is_agent(self, pid: int) -> bool:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            return False
        return pid != self.popen.pid and f"{MARK}={self._mark}".encode() in environment
