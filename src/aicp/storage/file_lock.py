"""A lock between processes that ends with its holder, however that ends."""

import contextlib
import fcntl
import os
from pathlib import Path

from aicp.forks import closed_in_child, no_fork

_MODE = 0o600
_PID_BYTES_MAX = 20
_BYTES_MAX = 200
_PROCESSES = Path("/proc")


class FileLock:
    """An exclusive `flock` on a file of its own: kept by the kernel, so that even kill -9 lets go of it.

    A forked child does not share the lock: its copy of the descriptor is closed. The file stays when the lock is
    released: removing it would let two holders in, one on the old file, one on a new.

    Args:
        path: The file; made when it is not there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        closed_in_child(self, _descriptors)

    def try_acquire(self) -> bool:
        """Take it if it is free; another `FileLock` of this process is another holder.

        Raises:
            OSError: The file cannot be made or locked.
        """
        with no_fork():
            descriptor = self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, _MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            return False
        except BaseException:
            self.release()
            raise
        _write(descriptor, self.note())
        return True

    def holder(self) -> str:
        """The process that holds the lock, for a sentence.

        `process 1234`; `process 5678, which inherited it from process 1234`, when the process that took it has ended;
        `another process` when neither can be found. Costs a look at every process of this machine.
        """
        taker = self._taker()
        holders = _holding(os.fspath(self._path))
        if taker in holders or not holders:
            return _unseen(taker)
        return f"process {holders[0]}" + (f", which inherited it from process {taker}" if taker else "")

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
        """Release the lock; without effect when it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _taker(self) -> int | None:
        """The process that took the lock last, as it wrote into the file."""
        with contextlib.suppress(OSError, ValueError):
            return int(self._lines()[0][:_PID_BYTES_MAX])
        return None

    def _lines(self) -> list[str]:
        with self._path.open(encoding="utf-8") as file:
            return [*file.read(_BYTES_MAX).split("\n"), ""]


def _unseen(taker: int | None) -> str:
    """The holder where no process can be seen with the file: the one that took the lock, while it lives."""
    if taker is None:
        return "another process"
    return f"process {taker}" if _lives(taker) else f"another process (process {taker} took it, and has ended)"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return pid > 0


def _holding(path: str) -> list[int]:
    """The processes that hold a lock on a file, as far as this user may see; none where there is no /proc."""
    with contextlib.suppress(OSError):
        return [int(entry.name) for entry in _PROCESSES.iterdir() if entry.name.isdecimal() and _holds(entry, path)]
    return []


def _holds(process: Path, path: str) -> bool:
    with contextlib.suppress(OSError):
        return any(_is_lock_on(path, process, opened) for opened in (process / "fd").iterdir())
    return False


def _is_lock_on(path: str, process: Path, opened: Path) -> bool:
    """True when an open file is the one looked for, and its lock is held through it.

    Only the link is read: the file itself may lie on a disk that does not answer.
    """
    with contextlib.suppress(OSError):
        return str(opened.readlink()) == path and "FLOCK" in (process / "fdinfo" / opened.name).read_text("ascii")
    return False


def _descriptors(lock: FileLock) -> tuple[int, ...]:
    return () if lock._descriptor is None else (lock._descriptor,)  # noqa: SLF001 - part of the class


def _write(descriptor: int, note: str) -> None:
    # The number is for people: on a full disk the lock holds without it.
    with contextlib.suppress(OSError):
        content = f"{os.getpid()}\n{note}\n".encode("ascii")
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
