"""Finds files whose secrets or instructions other users of this machine can reach."""

import logging
import stat
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path

import msgspec


class Reach(IntEnum):
    """The permission bits that other users must not have."""

    SECRET = 0o077
    TRUSTED = 0o022
    """It holds no secret, but a user that changes it decides what the server does."""
    DIRECTORY = 0o002
    """A user that can write to a directory can replace the files in it. Groups are left to the administrator."""


class PrivateFile(msgspec.Struct, frozen=True):
    """A file, or a directory, that other users must not reach.

    Attributes:
        what: What it is, as sentences name it.
        path: Where it is; links are followed.
        reach: What others must not do.
    """

    what: str
    path: Path
    reach: Reach = Reach.SECRET


class Exposure(msgspec.Struct, frozen=True):
    """A file that other users can reach.

    Attributes:
        file: The file.
        mode: Its permissions.
        is_directory: True for a directory.
    """

    file: PrivateFile
    mode: int
    is_directory: bool

    @property
    def message(self) -> str:
        """What is wrong, a sentence without its end."""
        told = {0o4: "read", 0o2: "written", 0o6: "read and written"}[self.others]
        return f"the {self.file.what} {self.file.path} can be {told} by other users (mode {self.mode:04o})"

    @property
    def advice(self) -> str:
        """The command that mends it."""
        return f"chmod {'700' if self.is_directory else '600'} {self.file.path}"

    @property
    def is_open_to_all(self) -> bool:
        """True when every user of this machine can change it."""
        return bool(self.mode & stat.S_IWOTH)

    @property
    def others(self) -> int:
        """What others may do that they must not: 4 for reading, 2 for writing, or both."""
        reachable = self.mode & self.file.reach
        return (reachable >> 3 | reachable) & 0o6


def find_exposures(files: Iterable[PrivateFile]) -> Iterator[Exposure]:
    """Those that others can reach, each path once; what is not there, or cannot be looked at, is left out.

    Costs a system call each.
    """
    for file in {file.path.absolute(): file for file in files}.values():
        try:
            mode = file.path.stat().st_mode
        except (OSError, ValueError):
            continue
        exposure = Exposure(file, stat.S_IMODE(mode), stat.S_ISDIR(mode))
        if exposure.others:
            yield exposure


def warn_of_exposures(log: logging.Logger, files: Iterable[PrivateFile]) -> None:
    """Log a warning for each file that others can reach, with the command that mends it."""
    for exposure in find_exposures(files):
        log.warning("%s; run: %s", exposure.message, exposure.advice)


def is_no_file(path: Path) -> bool:
    """True for a directory, a pipe or a device; False for a file, and for what cannot be looked at.

    Opening the latter says why, which `Path.exists` and `Path.is_file` raise for some reasons and hide for others.
    """
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False
