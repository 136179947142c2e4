"""How long this process stood still, so that no timer of it blames others for that.

A process that is stopped, swapped out, short of CPU or held by a callback of its own event loop finds its timers due
when it goes on, while the answers it waited for lie unread in its sockets. A tick compared with the monotonic clock
notices standstills of more than 100 ms and keeps a bounded history of them. Timers that judge others are made here:

    timer = standstill.call_later(5.0, give_up)          # in place of loop.call_later
    async with standstill.timeout(5.0): ...              # in place of asyncio.timeout
    await standstill.sleep(1.0)                          # in place of asyncio.sleep, before judging what is due

A timer in whose span the process stood still waits once more, for as long as the process stood still and at most for
its own length. A timer that fires late lets the loop read what is already in the sockets before its callback runs. So
a loop that is always late at most doubles a clock, and hides nothing permanently.

Every event loop has its own history. The tick runs while a timer of this module is pending, or inside `watching()`.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, TypeVarTuple
from weakref import WeakKeyDictionary, ref

Ts = TypeVarTuple("Ts")

TICK_S = 0.05
KNOWN_FROM_S = 0.1
LOGGED_FROM_S = 1.0
LATE_FROM_S = 0.01

READING_TURNS = 8
"""Turns of the loop before a late timer fires. Measured on asyncio and uvloop: an answer of up to 100 kB that lies in
a socket needs 3 turns until the task that waits for it has it, 1 MB needs 8."""

SPANS_MAX = 4_096
SPAN_S_MIN = 1.0
"""Standstills that begin within one second share an entry of the history, which so covers at least 68 minutes."""

_log = logging.getLogger(__name__)


class _Span:
    """Standstills that followed each other closely: `stood_s` of the seconds from `began_at` to `ended_at`."""

    __slots__ = ("began_at", "ended_at", "stood_s")

    def __init__(self, began_at: float, ended_at: float) -> None:
        self.began_at = began_at
        self.ended_at = ended_at
        self.stood_s = ended_at - began_at

    def since(self, began_at: float) -> float:
        return min(self.stood_s, self.ended_at - max(began_at, self.began_at))


class Standstills:
    """The standstills of one event loop's process, newest 4,096 entries.

    Args:
        clock: Monotonic seconds, the same as `loop.time()` but never cached.
        ticks: False when someone else calls `passed`, as a loop on virtual time does.

    Attributes:
        clock: As given.
        total_s: Seconds of every standstill noticed so far.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, *, ticks: bool = True) -> None:
        self.clock = clock
        self.total_s = 0.0
        self._ticks = ticks
        self._spans: deque[_Span] = deque(maxlen=SPANS_MAX)
        self._newest_end = -math.inf
        self._watchers = 0
        # The handle of the tick would keep the loop alive, and with it this entry of `_of_loops`.
        self._is_ticking = False
        self._alive_at = 0.0

    def watch(self) -> None:
        """Begin to tick, or keep ticking, until `unwatch` was called as often."""
        self._watchers += 1
        if self._ticks and not self._is_ticking:
            self._is_ticking = True
            self._alive_at = self.clock()
            asyncio.get_running_loop().call_later(TICK_S, self._look_again)

    def unwatch(self) -> None:
        """One watcher less; without any, the tick ends."""
        self._watchers -= 1

    def begin_again(self) -> None:
        """Take what the process just did for work of its own rather than a standstill, as when it builds a server."""
        self._alive_at = self.clock()

    def since(self, began_at: float) -> float:
        """Seconds of standstill from the moment `began_at` of the clock until now.

        Costs one step for each entry of the history since then. Standstills older than the history are not counted.
        """
        if self._is_ticking and self.clock() - self._alive_at > KNOWN_FROM_S:
            self._look()
        return 0.0 if began_at >= self._newest_end else sum(self._each_since(began_at))

    def was_stopped_since(self, began_at: float) -> bool:
        """True when one standstill since that moment took `LOGGED_FROM_S` or longer: a peer may have given up on us."""
        self._look()
        return any(stood_s >= LOGGED_FROM_S for stood_s in self._each_since(began_at))

    def _each_since(self, began_at: float) -> Iterator[float]:
        for span in reversed(self._spans):
            if span.ended_at <= began_at:
                return
            yield span.since(began_at)

    def passed(self, began_at: float, ended_at: float) -> None:
        """Record that the process stood still between these moments of the clock."""
        stood_s = ended_at - began_at
        self.total_s += stood_s
        self._newest_end = max(self._newest_end, ended_at)
        last = self._spans[-1] if self._spans else None
        if last is not None and ended_at - last.began_at < SPAN_S_MIN:
            last.ended_at, last.stood_s = ended_at, last.stood_s + stood_s
        else:
            self._spans.append(_Span(began_at, ended_at))
        if stood_s >= LOGGED_FROM_S:
            about = {"seconds": round(stood_s, 3)}
            _log.warning("process stood still, timers about others moved: seconds=%.1f", stood_s, extra=about)

    def _look(self) -> None:
        if not self._is_ticking:
            return
        before, now = self._alive_at, self.clock()
        if now - before > KNOWN_FROM_S:
            # What it would have waited anyway is not part of the standstill.
            self.passed(before + TICK_S, now)
            self._alive_at = now

    def _look_again(self) -> None:
        self._look()
        self._alive_at = self.clock()
        self._is_ticking = self._watchers > 0
        if self._is_ticking:
            asyncio.get_running_loop().call_later(TICK_S, self._look_again)


_of_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, Standstills] = WeakKeyDictionary()


# The loop that was asked for last, nearly always asked for again, and its history: one tuple, which threads with loops
# of their own only miss.
_latest: tuple[Callable[[], asyncio.AbstractEventLoop | None], Standstills] = (lambda: None, Standstills())


def standstills_of(loop: asyncio.AbstractEventLoop) -> Standstills:
    """The history of an event loop, made at the first question."""
    global _latest  # noqa: PLW0603 - a cache
    latest, standstills = _latest
    if latest() is loop:
        return standstills
    found = _of_loops.get(loop)
    if found is None:
        found = _of_loops[loop] = Standstills()
    _latest = ref(loop), found
    return found


def set_standstills_of(loop: asyncio.AbstractEventLoop, standstills: Standstills) -> None:
    """Give an event loop another history, as one on virtual time needs; before its first timer."""
    global _latest  # noqa: PLW0603 - as above
    _of_loops[loop] = standstills
    _latest = ref(loop), standstills


def since(began_at: float) -> float:
    """Seconds for which the running loop's process stood still since `began_at`, monotonic seconds.

    0 where no event loop runs, and for standstills while nothing was watched.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return 0.0
    return standstills_of(loop).since(began_at)


def was_stopped_since(began_at: float) -> bool:
    """True when the running loop's process stood still for a second or longer at once since `began_at`.

    Short standstills do not count, however many: a loop that is always a little late would excuse peers permanently.
    """
    return standstills_of(asyncio.get_running_loop()).was_stopped_since(began_at)


@contextlib.contextmanager
def watching() -> Iterator[Standstills]:
    """Notice every standstill of the running loop's process inside the block, pending timers or not.

    For a process that judges others by what it remembers, such as a server. Costs 20 wake-ups a second.
    """
    standstills = standstills_of(asyncio.get_running_loop())
    standstills.watch()
    try:
        yield standstills
    finally:
        standstills.unwatch()


class TimeLimit:
    """A span of time by whose end something must have happened, moved once when the process stood still in it.

    Args:
        began_at: When the span began, monotonic seconds.
        ends_at: When it ends, monotonic seconds.

    Attributes:
        began_at: As given.
        ends_at: As given, or later when it was moved.
        is_moved: True when it was moved, or cannot be.
    """

    __slots__ = ("began_at", "ends_at", "is_moved")

    def __init__(self, began_at: float, ends_at: float) -> None:
        self.began_at = began_at
        self.ends_at = ends_at
        self.is_moved = False

    def is_over(self, now: float) -> bool:
        """True when it has ended. The first time that it would be, the process's standstills in it move its end.

        It then ends as many seconds from `now` as the process stood still, at most its own length.
        """
        if now < self.ends_at:
            return False
        if self.is_moved:
            return True
        self.is_moved = True
        moved_s = self._moves_by_s()
        if moved_s <= 0:
            return True
        self.ends_at = now + moved_s
        return False

    def left_s(self, now: float) -> float:
        """Seconds until it ends, counting the standstills by which it would be moved; below 0 once it has ended."""
        left_s = self.ends_at - now
        # The usual case, for each attempt: less has passed than the shortest standstill takes.
        if self.is_moved or now - self.began_at <= KNOWN_FROM_S:
            return left_s
        moved_s = self._moves_by_s()
        return max(0.0, left_s) + moved_s if moved_s > 0 else left_s

    def _moves_by_s(self) -> float:
        return min(since(self.began_at), self.ends_at - self.began_at)


class Timer:
    """What `call_later` and `call_after` return."""

    __slots__ = ("_args", "_began_at", "_callback", "_due_at", "_handle", "_limit", "_loop", "_standstills")

    def __init__(self, callback: Callable[..., object], args: Any, limit: TimeLimit | None = None) -> None:
        self._callback = callback
        self._args = args
        self._limit = limit
        self._handle: asyncio.Handle | None = None

    def start(self, delay_s: float) -> None:
        """Call back so many seconds from now."""
        self._loop = loop = asyncio.get_running_loop()
        self._standstills = standstills = standstills_of(loop)
        standstills.watch()
        self._began_at = began_at = standstills.clock()
        self._due_at = due_at = began_at + delay_s
        # The clock is the loop's; `call_later` would read it once more.
        self._handle = loop.call_at(due_at, self._due)

    def cancel(self) -> None:
        """Do not call back; does nothing after it has, or twice."""
        if (handle := self._handle) is not None:
            handle.cancel()
            self._handle = None
            self._standstills.unwatch()

    def _due(self) -> None:
        now, limit = self._standstills.clock(), self._limit
        if limit is None:
            limit = self._limit = TimeLimit(self._began_at, self._due_at)
        # A loop may call a little early, by the resolution of its clock.
        if not limit.is_over(max(now, self._due_at)):
            self._due_at = limit.ends_at
            self._handle = self._loop.call_later(max(0.0, self._due_at - now), self._due)
        elif now - self._due_at > LATE_FROM_S:
            self._let_read(READING_TURNS)
        else:
            self._fire()

    def _let_read(self, turns: int) -> None:
        if turns:
            self._handle = self._loop.call_soon(self._let_read, turns - 1)
        else:
            self._fire()

    def _fire(self) -> None:
        self._end()
        self._callback(*self._args)

    def _end(self) -> None:
        self._handle = None
        self._standstills.unwatch()


def call_later(delay_s: float, callback: Callable[[*Ts], object], *args: *Ts) -> Timer:
    """As `loop.call_later`, for a callback that judges others by the time that passed.

    Args:
        delay_s: Seconds from now; below 0 is 0.
        callback: Called once, in the loop, unless the timer is cancelled before.
        args: For the callback.
    """
    timer = Timer(callback, args)
    timer.start(max(0.0, delay_s))
    return timer


def call_after(limit: TimeLimit, delay_s: float, callback: Callable[[*Ts], object], *args: *Ts) -> Timer:
    """As `call_later`, where `delay_s` from now is the end of a limit that is shared: moved once for all its users."""
    timer = Timer(callback, args, limit)
    timer.start(max(0.0, delay_s))
    return timer


class Timeout(Timer):
    """An asynchronous context manager that cuts its block off with `TimeoutError`; see `timeout`."""

    __slots__ = ("_delay_s", "_scope")

    def __init__(self, delay_s: float) -> None:
        # Its own callback would make it part of a cycle, to be found by the collector of garbage.
        self._callback = _nothing
        self._args = ()
        self._limit = None
        self._handle = None
        self._delay_s = delay_s if delay_s > 0 else 0.0
        self._scope = asyncio.timeout(None)

    def __aenter__(self) -> Coroutine[Any, Any, asyncio.Timeout]:
        """Begin."""
        self.start(self._delay_s)
        return self._scope.__aenter__()

    def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> Coroutine[Any, Any, bool | None]:
        """End."""
        self.cancel()
        return self._scope.__aexit__(kind, error, trace)

    def expire(self) -> None:
        """Cut the block off at once, moved or not."""
        if not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())

    def expired(self) -> bool:
        """True when the block was or is being cut off."""
        return self._scope.expired()

    def _fire(self) -> None:
        self._end()
        self.expire()


def _nothing() -> None:
    """What a timeout calls instead of a callback."""


def timeout(delay_s: float) -> Timeout:
    """As `asyncio.timeout`, for waits whose end says something about others.

    Args:
        delay_s: Seconds from the moment the block is entered; infinity for no limit, below 0 is 0.

    Raises:
        TimeoutError: On leaving the block, which took longer.
    """
    return Timeout(delay_s)


async def sleep(delay_s: float) -> None:
    """As `asyncio.sleep`, before others are judged: woken late, it lets the loop read first."""
    standstills = standstills_of(asyncio.get_running_loop())
    due_at = standstills.clock() + delay_s
    await asyncio.sleep(delay_s)
    if standstills.clock() - due_at > LATE_FROM_S:
        await read_first()


async def read_first() -> None:
    """Return once the loop has read what lies in its sockets now: whoever woke late judges after that."""
    for _ in range(READING_TURNS):
        await asyncio.sleep(0)


def let_loop_read(callback: Callable[[*Ts], object], *args: *Ts, turns: int = READING_TURNS) -> None:
    """Call back once the loop has read what lies in its sockets now."""
    loop = asyncio.get_running_loop()
    if turns:
        loop.call_soon(lambda: let_loop_read(callback, *args, turns=turns - 1))
    else:
        callback(*args)
