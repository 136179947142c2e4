"""Single faults in the files of a SQLite database, and the verdict on what becomes of its content."""

import random
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import msgspec

from aicp.errors import AicpError
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_backup import check_database
from aicp.storage.sqlite_database import SqliteDatabase
from aicp.storage.sqlite_wal import log_of

PAGE_BYTES = 4_096
FRAME_BYTES = 24 + PAGE_BYTES
LOG_HEADER_BYTES = 32
IDLE_NEVER_S = 3_600.0

T = TypeVar("T")


class Verdict(StrEnum):
    """What became of a fault."""

    HARMLESS = "harmless"
    REFUSED = "start refused"
    READ = "read refused"
    CHECKED = "found by db check"
    SILENT = "SILENT"


class Fault(msgspec.Struct, frozen=True):
    """One thing done to one file.

    Attributes:
        kind: `flip` a bit, `cut` at a byte, or `swap` two pages or frames.
        file: The suffix of the file: empty for the main one, `-wal`.
        at: The bit, the byte, or the two pages from 0.
    """

    kind: str
    file: str
    at: tuple[int, ...]

    def apply(self, path: Path) -> None:
        file = path.with_name(path.name + self.file)
        content = bytearray(file.read_bytes())
        match self.kind:
            case "flip":
                content[self.at[0] // 8] ^= 1 << self.at[0] % 8
            case "cut":
                del content[self.at[0] :]
            case _:
                one, other = (self._page(at) for at in self.at)
                content[one], content[other] = content[other], content[one]
        file.write_bytes(content)

    def _page(self, at: int) -> slice:
        begin, size = (LOG_HEADER_BYTES, FRAME_BYTES) if self.file else (0, PAGE_BYTES)
        return slice(begin + at * size, begin + (at + 1) * size)


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[tuple[SqliteDatabase, SqliteJournal]]:
    """The file and its journal; the log is left as it is for as long as it is open.

    Raises:
        AicpError: The database was refused.
    """
    file = SqliteDatabase(path, idle_s=IDLE_NEVER_S)
    journal = SqliteJournal(file)
    await journal.open()
    try:
        yield file, journal
    finally:
        await journal.close()


def copy_of(path: Path, name: str) -> Path:
    """A copy of a database with its log, index and lock, in a directory beside its own."""
    directory = path.parent.parent / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    for file in path.parent.glob(f"{path.name}*"):
        shutil.copyfile(file, directory / file.name)
    return directory / path.name


async def judge(path: Path, fault: Fault, read: Callable[[Path], Awaitable[T]], expected: T) -> Verdict:
    """What a fault in a copy of a database comes to.

    Args:
        path: The database, sound and in use by no process.
        fault: What is done to the copy.
        read: Reads everything that was acknowledged; may raise `AicpError`.
        expected: What it reads of the sound one.
    """
    try:
        async with opened(_faulty(path, fault)):
            pass
    except AicpError:
        return Verdict.REFUSED
    copy = _faulty(path, fault)
    try:
        if await read(copy) == expected:
            return Verdict.HARMLESS
    except AicpError:
        return Verdict.READ
    return Verdict.SILENT if check_database(_faulty(path, fault)).is_sound else Verdict.CHECKED


def _faulty(path: Path, fault: Fault) -> Path:
    copy = copy_of(path, "faulty")
    fault.apply(copy)
    return copy


def draw_fault(draw: random.Random, path: Path) -> Fault:
    """A flip in most cases, else a cut or a swap; more often in the log, where there is one, than in the main file."""
    has_log = log_of(path).exists() and log_of(path).stat().st_size > LOG_HEADER_BYTES + 2 * FRAME_BYTES
    file = "-wal" if has_log and draw.random() < 0.6 else ""
    size = path.with_name(path.name + file).stat().st_size
    pages = (size - LOG_HEADER_BYTES) // FRAME_BYTES if file else size // PAGE_BYTES
    kind = draw.choices(["flip", "cut", "swap"], [7, 1, 2 if pages > 1 else 0])[0]
    at: Sequence[int] = {
        "flip": lambda: [draw.randrange(size * 8)],
        "cut": lambda: [draw.randrange(size)],
        "swap": lambda: draw.sample(range(pages), 2),
    }[kind]()
    return Fault(kind, file, tuple(at))
