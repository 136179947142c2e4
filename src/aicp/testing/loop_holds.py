"""Measures how long an event loop is held: the time for which no other callback of the loop can run.

    async with LoopHoldMeter() as meter:
        await submit(a_large_document)
    meter.check(5.0)        # AssertionError: the loop was held for 31.2 ms at server/body.py:65 in read_document

A timer of the loop fires every millisecond and measures how late it is, while a thread looks where the loop is when
the timer is late. Late is late, whatever the reason: one long callback, a thousand short ones in one turn, a C function
of another thread that keeps the interpreter lock (GIL), or the garbage collector. It works on asyncio and on uvloop,
and on the loop of another thread. It does not work on a loop with virtual time.

Two figures describe each hold. `wall_ms` is what a user of the loop waits; on a busy machine it includes the time for
which the process had no core. `held_ms` leaves that out: it is the least of the wall time, the wall time minus the time
that the loop's thread waited for a core (Linux), and the CPU time that the process used meanwhile. Judge by `held_ms`
in a test that other processes must not fail, and by `wall_ms` where the loop may block without using the CPU.
"""

import asyncio
import gc
import heapq
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import NamedTuple, Self

PERIOD_S = 0.001
HOLDS_KEPT = 32
SAMPLES_MAX = 1_000
FRAMES_SHOWN = 4
PATH_PARTS_SHOWN = 3
_WAITING_FILES = ("selectors.py", "threading.py", "queue.py", "runners.py")


class LoopHold(NamedTuple):
    """One span for which a loop ran nothing that was posted to it.

    Attributes:
        held_ms: Milliseconds of it that this process used, as far as can be measured.
        wall_ms: Milliseconds by the clock.
        where: The places where the loop's thread was seen most often meanwhile, innermost first; the other threads
            when the loop itself waited (then one of them kept the interpreter lock); the garbage collector's share.
            Seen by samples: a C function that keeps the lock is seen at the line that called it.
    """

    held_ms: float
    wall_ms: float
    where: str

    def __str__(self) -> str:
        return f"the loop was held for {self.held_ms:.1f} ms ({self.wall_ms:.1f} ms by the clock) at {self.where}"


class LoopHoldMeter:
    """Context manager, sync or async, that measures the holds of a loop while it is entered.

    Costs a thread and about 3 % of one core. A hold is measured up to a millisecond too short, on uvloop two.

    Args:
        loop: The loop to measure; by default the one that runs where the meter is entered.
        least_ms: Holds shorter than this are not kept.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None, *, least_ms: float = 1.0) -> None:
        self._loop = loop
        self._least_ms = least_ms
        self._kept: list[tuple[float, int, LoopHold]] = []
        self._count = 0
        self._timer: _Timer | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop_thread_id = 0
        self._core_wait = _CoreWait(None)
        self._collector = _CollectorClock()
        self._seen: list[str] = []

    @property
    def holds(self) -> list[LoopHold]:
        """The longest holds so far by `held_ms`, longest first; at most 32."""
        return [hold for _, _, hold in sorted(self._kept, reverse=True)]

    @property
    def longest(self) -> LoopHold:
        """The longest hold so far by `held_ms`; of 0 ms when none was measured."""
        return max(self._kept)[2] if self._kept else LoopHold(0.0, 0.0, "no place")

    @property
    def looks(self) -> int:
        """How often the timer has fired: 0 means that nothing was measured."""
        return self._count

    def check(self, most_ms: float) -> None:
        """Fail when the loop was held too long.

        Raises:
            AssertionError: A hold had a `held_ms` above `most_ms`, or the timer never fired.
        """
        if too_long := [hold for hold in self.holds if hold.held_ms > most_ms]:
            title = f"{len(too_long)} holds of more than {most_ms:g} ms:"
            raise AssertionError("\n".join([title, *map(str, too_long)]))
        if not self._count:
            raise AssertionError("the loop ran no timer while it was measured")

    def clear(self) -> None:
        """Forget the holds so far; from any thread."""
        self._kept = []

    def __enter__(self) -> Self:
        loop = self._loop = self._loop or asyncio.get_running_loop()
        self._collector.start()
        self._stopped.clear()
        self._thread = threading.Thread(target=self._watch, name="loop-hold-meter", daemon=True)
        self._thread.start()
        loop.call_soon_threadsafe(self._begin)
        return self

    def __exit__(self, *details: object) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        if timer := self._timer:
            # A hold that goes on is one, too: the timer may be late at this moment.
            self._settle(timer)
        self._timer = self._thread = None
        self._collector.stop()

    async def __aenter__(self) -> Self:
        self.__enter__()
        await asyncio.sleep(2 * PERIOD_S)
        return self

    async def __aexit__(self, *details: object) -> None:
        self.__exit__()

    def _begin(self) -> None:
        self._loop_thread_id = threading.get_ident()
        self._core_wait = _CoreWait(threading.get_native_id())
        self._set_timer()

    def _set_timer(self) -> None:
        if self._stopped.is_set() or self._loop is None:
            return
        self._timer = timer = _Timer(self._collector.spent_s, self._core_wait.read_s())
        self._loop.call_later(PERIOD_S, self._fire, timer)

    def _fire(self, timer: "_Timer") -> None:
        if not self._stopped.is_set():
            self._count += 1
            self._settle(timer)
            self._set_timer()

    def _settle(self, timer: "_Timer") -> None:
        seen, self._seen = self._seen, []
        wall_s, cpu_s = timer.late()
        if wall_s * 1_000 < self._least_ms:
            return
        had_core_s = wall_s - (self._core_wait.read_s() - timer.waited_s)
        held_ms = max(0.0, min(wall_s, had_core_s, cpu_s)) * 1_000
        where = Counter(seen).most_common(1)[0][0] if seen else "a place that it left before it could be seen"
        if collected_s := self._collector.spent_s - timer.collected_s:
            where = f"{where}; {collected_s * 1_000:.1f} ms of it in the garbage collector"
        kept = [*self._kept, (held_ms, self._count, LoopHold(held_ms, wall_s * 1_000, where))]
        self._kept = heapq.nlargest(HOLDS_KEPT, kept)

    def _watch(self) -> None:
        while not self._stopped.wait(PERIOD_S):
            timer = self._timer
            if timer is not None and timer.is_late() and timer is self._timer and len(self._seen) < SAMPLES_MAX:
                self._seen.append(self._where())

    def _where(self) -> str:
        """Where the loop's thread is; where the others are when it waits."""
        frames = sys._current_frames()  # noqa: SLF001 - the documented way to see another thread
        frames.pop(threading.get_ident(), None)
        of_loop = frames.pop(self._loop_thread_id, None)
        if of_loop is not None and not _is_waiting(of_loop):
            return _shown(of_loop)
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        busy = [f"thread {names.get(key)}: {_shown(frame)}" for key, frame in frames.items() if not _is_waiting(frame)]
        return "; ".join(busy) or "a function without Python frames"


class _Timer:
    """When the loop's next callback is due, and what had been used up when it was set."""

    def __init__(self, collected_s: float, waited_s: float) -> None:
        self.collected_s = collected_s
        self.waited_s = waited_s
        self._cpu_at = time.process_time()
        self._due_at = time.perf_counter() + PERIOD_S

    def late(self) -> tuple[float, float]:
        """Seconds that it is late, and the CPU time of the process since it was set."""
        return time.perf_counter() - self._due_at, time.process_time() - self._cpu_at

    def is_late(self) -> bool:
        """True when the loop should have run it."""
        return time.perf_counter() > self._due_at + PERIOD_S


class _CoreWait:
    """How long a thread waited for a core while it could have run; always 0 where the system does not say."""

    def __init__(self, native_id: int | None) -> None:
        self._file: int | None = None
        path = Path(f"/proc/self/task/{native_id}/schedstat")
        if native_id is not None and path.exists():
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_s(self) -> float:
        """Seconds since the thread began."""
        if self._file is None:
            return 0.0
        try:
            return int(os.pread(self._file, 128, 0).split()[1]) / 1e9
        except (OSError, IndexError, ValueError):  # the thread has ended
            return 0.0

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)


class _CollectorClock:
    """The time that the garbage collector has taken since `start`."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self._began_at = 0.0

    def start(self) -> None:
        """Begin to count."""
        gc.callbacks.append(self._noted)

    def stop(self) -> None:
        """Count no longer."""
        gc.callbacks.remove(self._noted)

    def _noted(self, phase: str, info: dict[str, int]) -> None:  # noqa: ARG002 - the collector's own signature
        if phase == "start":
            self._began_at = time.perf_counter()
        else:
            self.spent_s += time.perf_counter() - self._began_at


def _is_waiting(frame: FrameType) -> bool:
    """True when a thread waits for something: for a socket, a lock, or as a loop for its next event."""
    return frame.f_code.co_filename.endswith(_WAITING_FILES)


def _shown(frame: FrameType) -> str:
    """The innermost frames of a stack, as `server/body.py:65 in read_document`."""
    shown: list[str] = []
    inner: FrameType | None = frame
    while inner is not None and len(shown) < FRAMES_SHOWN:
        path = "/".join(Path(inner.f_code.co_filename).parts[-PATH_PARTS_SHOWN:])
        shown.append(f"{path}:{inner.f_lineno} in {inner.f_code.co_name}")
        inner = inner.f_back
    return " < ".join(shown)
