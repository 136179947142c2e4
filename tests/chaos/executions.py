"""What agents write down, and what is read from it."""

import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import msgspec


class Began(msgspec.Struct, frozen=True, tag_field="what", tag="began"):
    """An agent began to execute a task.

    Attributes:
        at: System-wide monotonic seconds.
        at_utc: The same moment.
        execution: Its own id, which is part of its result.
        key: The idempotency key it came with.
        token: The fencing token it came with.
        given: The execution whose result it was given, for each task it reads.
    """

    at: float
    at_utc: datetime
    execution: str
    key: str
    token: str
    given: Mapping[str, str]


class Ended(msgspec.Struct, frozen=True, tag_field="what", tag="ended"):
    """It has its result, which is sent after this was written."""

    at: float
    execution: str


class Execution(msgspec.Struct, frozen=True):
    """One execution of a task by an agent.

    Attributes:
        id: Part of its result, and in no other's.
        key: Global id of the task.
        token: Epoch and attempt.
        given: The execution whose result it was given, for each task it reads.
        began_at: System-wide monotonic seconds.
        began_at_utc: The same moment.
        ended_at: Monotonic again; None when it was cut off.
    """

    id: str
    key: str
    token: tuple[int, int]
    given: Mapping[str, str]
    began_at: float
    began_at_utc: datetime
    ended_at: float | None

    @property
    def chain_id(self) -> str:
        return self.key.partition(".")[0]

    @property
    def task(self) -> str:
        return self.key.partition(".")[2]


class Book:
    """A file that all agents write to, each line in one write: so their lines have one order."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def begin(self, execution: str, key: str, token: str, given: Mapping[str, str]) -> None:
        self._write(Began(time.monotonic(), datetime.now(UTC), execution, key, token, given))

    def end(self, execution: str) -> None:
        self._write(Ended(time.monotonic(), execution))

    def _write(self, line: Began | Ended) -> None:
        os.write(self._file, msgspec.json.encode(line) + b"\n")


def read_executions(path: Path) -> list[Execution]:
    """Every execution, in the order in which they began."""
    lines = msgspec.json.Decoder(Began | Ended).decode_lines(path.read_bytes())
    ends = {line.execution: line.at for line in lines if isinstance(line, Ended)}
    return [_execution(line, ends.get(line.execution)) for line in lines if isinstance(line, Began)]


def _execution(began: Began, ended_at: float | None) -> Execution:
    epoch, attempt = map(int, began.token.split("."))
    return Execution(began.execution, began.key, (epoch, attempt), began.given, began.at, began.at_utc, ended_at)
