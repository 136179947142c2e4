"""A lock between processes that ends with its holder, however that ends."""

import contextlib
import fcntl
import os
from pathlib import Path

_MODE = 0o600
_PID_BYTES_MAX = 20


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
        _write_pid(descriptor)
        return True

    def holder(self) -> str:
        """Who has it, for a sentence: `process 1234`, or `another process` when it did not say."""
        with contextlib.suppress(OSError, ValueError):
            return f"process {int(self._path.read_text(encoding='ascii')[:_PID_BYTES_MAX])}"
        return "another process"

    def release(self) -> None:
        """Let go of it; without effect when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _write_pid(descriptor: int) -> None:
    # The number is for people: on a full disk the lock holds without it.
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode("ascii"), 0)
