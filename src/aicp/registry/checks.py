"""Checks that may take long: made in a process of their own, one after the other, while the event loop goes on."""

import asyncio
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from aicp.forks import HomeProcess, closed_in_child
from aicp.model.document_desk import TooManyDocuments
from aicp.model.writing import encode_in_pieces
from aicp.registry import engine

WAITING_MAX = 32
WALL_S_MAX = 60.0
TRIES = 2


class TooCostly(Exception):
    """A check used up its time."""


class NoCheckProcess(Exception):
    """The process cannot be started, or ended twice."""


class CheckProcess:
    """A process that checks values; started with the first one, and again after it ended. For one thread at a time.

    Args:
        cpu_s_max: What one check may use, seconds of CPU.
    """

    def __init__(self, cpu_s_max: float = engine.CPU_S_MAX) -> None:
        self._cpu_s_max = cpu_s_max
        self._process: subprocess.Popen[bytes] | None = None
        self._home = HomeProcess("This process that checks values")
        closed_in_child(self, CheckProcess.descriptors)

    def misfit(self, schema: Any, value: Any) -> str:
        """Why a value does not fit a schema that the engine takes; empty when it does. Costs the JSON of both.

        Raises:
            TooCostly: It takes more CPU than a check may.
            NoCheckProcess: It cannot be checked there.
        """
        try:
            schema_text, value_text = encode_in_pieces(schema), encode_in_pieces(value)
        except (TypeError, ValueError, RecursionError) as error:
            return f"is not JSON: {engine.first_line(error)}"
        head = engine.REQUEST.pack(len(schema_text), len(value_text))
        for _ in range(TRIES):
            try:
                return self._answer_to(head, schema_text, value_text)
            except (OSError, EOFError):
                if self.end() == -signal.SIGPROF:
                    raise TooCostly from None
        raise NoCheckProcess

    def end(self) -> int | None:
        """Kill it; what it ended with, None when it did not run."""
        process, self._process = self._process, None
        if process is None or self._home.is_left:
            return None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:  # what was not sent is lost
                    continue
        return process.wait()

    def descriptors(self) -> Iterator[int]:
        """Those of the pipes."""
        if self._process is not None:
            yield from (pipe.fileno() for pipe in (self._process.stdin, self._process.stdout) if pipe is not None)

    def _answer_to(self, *parts: bytes) -> str:
        process = self._running()
        requests, answers = process.stdin, process.stdout
        if requests is None or answers is None:
            raise OSError
        hung = threading.Timer(WALL_S_MAX, process.kill)
        hung.daemon = True
        hung.start()
        try:
            for part in parts:
                requests.write(part)
            requests.flush()
            (length,) = engine.ANSWER.unpack(_whole(answers.read(engine.ANSWER.size), engine.ANSWER.size))
            return _whole(answers.read(length), length).decode()
        finally:
            hung.cancel()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter and a file of ours
                [sys.executable, "-P", str(Path(engine.__file__)), str(self._cpu_s_max)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self._process


def _whole(read: bytes, length: int) -> bytes:
    if len(read) < length:
        raise EOFError
    return read


class Checks:
    """Runs work with the process in a thread of its own, so that the loop goes on.

    At most 32 submits wait; attempts, which are bounded by slots, always do.
    """

    def __init__(self, cpu_s_max: float = engine.CPU_S_MAX) -> None:
        self._process = CheckProcess(cpu_s_max)
        self._thread: ThreadPoolExecutor | None = None
        self._waiting = 0
        self._end = weakref.finalize(self, self._process.end)

    async def run(self, work: Callable[[CheckProcess], str], *, waits: bool) -> str:
        """The result of work.

        Raises:
            TooManyDocuments: Too much waits, and `waits` is False.
        """
        if self._waiting >= WAITING_MAX and not waits:
            raise TooManyDocuments("This server checks as many large documents as it can: repeat it later.")
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="aicp-schemas")
        self._waiting += 1
        try:
            return await asyncio.wrap_future(self._thread.submit(work, self._process))
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the process and the thread; a later check starts them again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            # In the thread, after the check that runs: the process belongs to it.
            thread.submit(self._process.end)
            thread.shutdown(wait=False)
