"""A lock between processes that ends with its holder, however that ends."""

import contextlib
import fcntl
import os
from pathlib import Path

_MODE = 0o600
_PID_BYTES_MAX = 20
_BYTES_MAX = 200


class FileLock:
    """An exclusive `flock` on a file of its own: kept by the kernel, so that even kill -9 lets go of it.

    The file stays when the lock is let go: who removed it would let two holders in, one on the old file, one on a new.

    Args:
        path: The file; made when it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def try_acquire(self) -> bool:
        """Take it if nobody has it; another `FileLock` of this process counts as somebody.

        Raises:
            OSError: The file cannot be made or locked.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, _MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _write(descriptor, self.note())
        return True

    def holder(self) -> str:
        """Who has it, for a sentence: `process 1234`, or `another process` when it did not say."""
        with contextlib.suppress(OSError, ValueError):
            return f"process {int(self._lines()[0][:_PID_BYTES_MAX])}"
        return "another process"

    def note(self) -> str:
        """What a holder, this one or one before, left with `leave_note`; empty when none did."""
        with contextlib.suppress(OSError, ValueError):
            return self._lines()[1]
        return ""

    def leave_note(self, note: str) -> None:
        """Leave one short line for later holders; without effect when the lock is not held, or the disk is full."""
        if self._descriptor is not None:
            _write(self._descriptor, note)

    def release(self) -> None:
        """Let go of it; without effect when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _lines(self) -> list[str]:
        with self._path.open(encoding="utf-8") as file:
            return [*file.read(_BYTES_MAX).split("\n"), ""]


def _write(descriptor: int, note: str) -> None:
    # The number is for people: on a full disk the lock holds without it.
    with contextlib.suppress(OSError):
        content = f"{os.getpid()}\n{note}\n".encode("ascii")
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
