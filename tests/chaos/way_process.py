"""A way to a database in a process of its own, so that what passes waits for nobody: it can be slowed, cut, swallowed.

python -m tests.chaos.way_process PORT
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.integration.postgres_kit import Way

ENDS_OF_TASKS = '"execution"'
"""In every append that has the result of a task; the server is at its commit when the answer gets lost."""
CLAIMS = "COMMIT"
"""What ends the transactions of claims; other writes are a transaction by themselves."""


class WayProcess:
    """The way of one server to the database.

    Args:
        target: Port of the database.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, target: int) -> None:
        command = [sys.executable, "-m", "tests.chaos.way_process", str(target)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self._answer())

    def swallow(self, *, everything: bool) -> None:
        """Let nothing pass, without a word; or all again, and what was swallowed arrives late."""
        self._do(f"swallow {int(everything)}")

    def slow_down(self, delay_s: float) -> None:
        """Take so long in each direction."""
        self._do(f"slow {delay_s}")

    def cut_at(self, what: str, *, arrives: bool) -> None:
        """Cut off who next sends this; the database gets it all the same, or not."""
        self._do(f"cut {int(arrives)} {what}")

    def turn_to(self, target: int) -> None:
        """Lead to another port from now on; connections there are stay where they lead."""
        self._do(f"turn {target}")

    @property
    def cuts(self) -> int:
        """How often it cut somebody off."""
        return int(self._do("cuts"))

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _do(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def ways_to(target: int, count: int) -> Iterator[list[WayProcess]]:
    """So many ways to a database."""
    ways: list[WayProcess] = []
    try:
        for _ in range(count):
            ways.append(WayProcess(target))  # noqa: PERF401 - those there are end when the next cannot be made
        yield ways
    finally:
        for way in ways:
            way.end()


async def main(target: str) -> None:
    """Do what standard input says, until it ends, that is, until the parent is gone."""
    way = Way(int(target))
    await way.start()
    _tell(way.port)
    deeds: dict[str, Callable[..., object]] = {"swallow": _swallow, "slow": _slow, "cut": _cut, "cuts": _cuts,
                                           "turn": _turn}  # fmt: skip
    while line := await asyncio.to_thread(sys.stdin.readline):
        word, *rest = line.split()
        _tell(deeds[word](way, *rest))
    await way.close()


def _swallow(way: Way, everything: str) -> str:
    way.is_hole = everything == "1"
    return "done"


def _slow(way: Way, delay_s: str) -> str:
    way.delay_s = float(delay_s)
    return "done"


def _cut(way: Way, arrives: str, what: str) -> str:
    way.lets_through, way.cut_at = arrives == "1", what.encode()
    return "done"


def _turn(way: Way, target: str) -> str:
    way.turn_to(int(target))
    return "done"


def _cuts(way: Way) -> str:
    return str(way.cuts)


def _tell(what: object) -> None:
    os.write(1, f"{what}\n".encode())


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
