"""Looks whether the write-ahead log of a SQLite file is whole, before SQLite opens it.

SQLite takes from a log what it can verify and drops the rest without a word, because a crash leaves such a rest: the
frames of a commit that was under way. A bit that flipped further up looks the same to it, and every commit behind is
lost. The difference:

| what is found                                                               | it is                             |
|-----------------------------------------------------------------------------|-----------------------------------|
| the index beside the log counts more committed frames than can be verified  | damage                            |
| a bad frame, and frames of the same salts behind the commit it belongs to   | damage: that commit was on disk   |
| a bad frame in the last commit, and no index that counts it                 | a commit that was not yet on disk |
| frames of other salts                                                       | an older use of the log: the end  |
| an unreadable header, and committed pages that the main file lacks          | damage                            |
| an unreadable header otherwise, or no log                                   | a log that holds nothing          |

SQLite writes the index (`-shm`) after a commit is on disk. It is lost or old after a power failure, and exact after the
death of a process alone: the caller says which by comparing boots.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from aicp.storage.sqlite_wal_format import (
    FRAME_HEADER_BYTES,
    INDEX_BYTES,
    LOG_HEADER_BYTES,
    ORDERS,
    FrameHeader,
    LogHeader,
    LogIndex,
    count_verified,
    parse_frame_header,
    parse_index,
    parse_log_header,
    parse_page_size,
)

LOG_SUFFIX, INDEX_SUFFIX = "-wal", "-shm"
BLOCK_BYTES = 2 << 20
LOOKS_MAX = 100
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LogDamage(msgspec.Struct, frozen=True):
    """Commits were acknowledged and cannot be read from the log.

    Attributes:
        told: What is wrong and where, without a full stop.
        good_bytes: So many bytes at the beginning of the log are good, up to the last commit that can be read.
        is_counted: True when the index counts what is missing, however many commits follow.
    """

    told: str
    good_bytes: int
    is_counted: bool = False


class _Walk(msgspec.Struct, frozen=True):
    """How far a log can be verified: whole frames, and those of them up to the last commit."""

    whole: int = 0
    committed: int = 0


class _Log:
    """An open log. Reads at most 2 MiB at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.raw_header = self._at(0, LOG_HEADER_BYTES)
        self.header = parse_log_header(self.raw_header)

    def count(self, frame_size: int) -> int:
        """How many frames it has room for."""
        return max(0, os.fstat(self._file.fileno()).st_size - LOG_HEADER_BYTES) // frame_size

    def frame_header(self, at: int, frame_size: int) -> FrameHeader:
        """The header of a frame; one of zeros, which fits no log, where the file was cut since it was counted."""
        found = self._at(LOG_HEADER_BYTES + at * frame_size, FRAME_HEADER_BYTES)
        return parse_frame_header(found.ljust(FRAME_HEADER_BYTES, b"\0"))

    def page(self, at: int, frame_size: int) -> bytes:
        start = LOG_HEADER_BYTES + at * frame_size + FRAME_HEADER_BYTES
        return self._at(start, frame_size - FRAME_HEADER_BYTES)

    def walk(self, header: LogHeader, first: int = 0) -> _Walk:
        """Verify frames from `first` on, which continues `header.checksum`, up to the first bad one."""
        walked, before, size = _Walk(first, first), header.checksum, header.frame_size
        for block in self._blocks(first, size):
            frames = [parse_frame_header(block, offset) for offset in range(0, len(block), size)]
            whole = count_verified(block, frames, header, before)
            commits = [at for at in range(whole) if frames[at].size_after]
            committed = walked.whole + commits[-1] + 1 if commits else walked.committed
            walked = _Walk(walked.whole + whole, committed)
            if whole < len(frames):
                break
            before = frames[-1].checksum
        return walked

    def _blocks(self, first: int, frame_size: int) -> Iterator[bytes]:
        at_once = max(1, BLOCK_BYTES // frame_size)
        for at in range(first, self.count(frame_size), at_once):
            block = self._at(LOG_HEADER_BYTES + at * frame_size, at_once * frame_size)
            whole = len(block) // frame_size * frame_size
            if not whole:
                # The file was cut since its frames were counted.
                return
            yield block[:whole]

    def _at(self, offset: int, size: int) -> bytes:
        return os.pread(self._file.fileno(), size, offset)


def find_log_damage(path: Path, *, boot_before: str = "") -> LogDamage | None:
    """Whether the log of a database lacks commits; None when it does not, or there is no log. Changes nothing.

    Another process may use the database: what is written meanwhile is looked at again. This one must not: a close of
    the index drops the locks that SQLite holds on it for the whole process.

    Args:
        path: The main file.
        boot_before: The boot in which the database was opened last; empty when unknown.

    Raises:
        OSError: It cannot be read.
    """
    is_same_boot = boot_before != "" and boot_before == boot_id()
    damage: LogDamage | None = None
    for _ in range(LOOKS_MAX):
        raw_index = _read(index_of(path))
        index = parse_index(raw_index)
        try:
            with log_of(path).open("rb", buffering=0) as file:
                log = _Log(file)
                damage = _judge(log, index, path, is_same_boot=is_same_boot)
                raw_header = log.raw_header
        except FileNotFoundError:
            damage = _without_log(index) if is_same_boot else None
            raw_header = b""
        is_same_log = _read(log_of(path), LOG_HEADER_BYTES) == raw_header
        if damage is None or (is_same_log and _is_steady(raw_index, _read(index_of(path)), damage)):
            break
    return damage


def _is_steady(before: bytes, after: bytes, damage: LogDamage) -> bool:
    """True when nothing that was written meanwhile explains what looked like damage."""
    if before == after:
        return True
    one, other = parse_index(before), parse_index(after)
    # More commits of the same log do not explain that one of those counted before is missing.
    return damage.is_counted and one is not None and other is not None and one.salts == other.salts


def log_of(path: Path) -> Path:
    """The write-ahead log of a database, beside the file itself, whatever link leads there."""
    path = path.resolve()
    return path.with_name(path.name + LOG_SUFFIX)


def index_of(path: Path) -> Path:
    """The shared index of a database's log, likewise."""
    path = path.resolve()
    return path.with_name(path.name + INDEX_SUFFIX)


def size_of_log(path: Path) -> int:
    """Bytes of the log; 0 when there is none."""
    try:
        return log_of(path).stat().st_size
    except OSError:
        return 0


def boot_id() -> str:
    """Another one after each start of the machine; empty where the system does not say."""
    try:
        return _BOOT_ID.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _read(path: Path, size: int = INDEX_BYTES, offset: int = 0) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, offset)
    except FileNotFoundError:
        return b""


def _judge(log: _Log, index: LogIndex | None, path: Path, *, is_same_boot: bool) -> LogDamage | None:
    header = log.header
    if header is None:
        return _without_header(log, index, path, is_same_boot=is_same_boot)
    walked = log.walk(header)
    if index is not None and index.salts == header.salts and index.frames:
        if walked.committed < index.frames:
            told = f"of {index.frames} committed frames only {walked.committed} can be verified"
            return msgspec.structs.replace(_damage(told, walked, header), is_counted=True)
        if is_same_boot:
            return None
    elif index is not None and index.is_pending and is_same_boot:
        return _damage("it is not the log that was written last", _Walk(), header)
    return _behind(log, header, walked)


def _behind(log: _Log, header: LogHeader, walked: _Walk) -> LogDamage | None:
    """Frames of the same salts behind the first commit that is not whole: it had been on disk when they were written.

    A single commit may be torn, also one whose last frame is there: a disk may write the frames in any order.
    """
    count = log.count(header.frame_size)
    headers = (log.frame_header(at, header.frame_size) for at in range(walked.whole, count))
    commit_is_over = False
    for frame in headers:
        if frame.salts == header.salts:
            if commit_is_over:
                return _damage("commits follow a frame that cannot be verified", walked, header)
            commit_is_over = frame.size_after != 0
    return None


def _damage(told: str, walked: _Walk, header: LogHeader) -> LogDamage:
    good_bytes = LOG_HEADER_BYTES + walked.committed * header.frame_size
    bad_at = LOG_HEADER_BYTES + walked.whole * header.frame_size
    return LogDamage(f"{told}; the first bad one is number {walked.whole + 1}, at byte {bad_at}", good_bytes)


def _without_log(index: LogIndex | None) -> LogDamage | None:
    if index is None or not index.is_pending:
        return None
    return LogDamage(f"it is gone or cut, and held {index.frames - index.backfilled} frames of commits", 0)


def _without_header(log: _Log, index: LogIndex | None, path: Path, *, is_same_boot: bool) -> LogDamage | None:
    """SQLite ignores such a log, which is right when a crash tore the header: then all pages are in the main file."""
    if is_same_boot and index is not None:
        return _without_log(index)
    pages = _last_pages(log, path)
    missing = next((page for page, content in pages if _page_of(path, page, len(content)) != content), None)
    if missing is None:
        return None
    return LogDamage(f"its header cannot be read, and page {missing} of a commit in it is not in the main file", 0)


def _last_pages(log: _Log, path: Path) -> Iterator[tuple[int, bytes]]:
    """The committed pages that a log without a header holds, as far as its frames continue each other."""
    header = _header_from_frames(log, path)
    if header is None:
        return
    committed = log.walk(header, first=1).committed
    headers = (log.frame_header(at, header.frame_size) for at in range(committed))
    last = {frame.page: at for at, frame in enumerate(headers)}
    for page, at in last.items():
        yield page, log.page(at, header.frame_size)


def _header_from_frames(log: _Log, path: Path) -> LogHeader | None:
    """What the header said: the page size is the main file's, and the second frame continues the first one."""
    page_size = parse_page_size(_read(path))
    if page_size is None or not log.count(page_size + FRAME_HEADER_BYTES):
        return None
    first = log.frame_header(0, page_size + FRAME_HEADER_BYTES)
    if not first.page:
        return None
    possible = [LogHeader(page_size, order, first.salts, first.checksum) for order in ORDERS]
    return max(possible, key=lambda header: log.walk(header, first=1).whole)


def _page_of(path: Path, page: int, size: int) -> bytes:
    return _read(path, size, (page - 1) * size)
