"""An asyncio event loop on which hours pass in milliseconds, and clocks that follow it.

Nothing of asyncio is replaced but the wait: the loop's selector, asked to block for n seconds, moves `loop.time()` on
by n seconds and returns. `asyncio.sleep`, `timeout`, `wait_for`, `call_later` and `TaskGroup` are the real ones,
virtual by that alone.

    >>> async def main() -> float:
    ...     clock = VirtualClock()
    ...     before_s = clock.monotonic()
    ...     await asyncio.sleep(3600)
    ...     return clock.monotonic() - before_s
    >>> run(main())
    3600.0

What is virtual and what is not:

- Work takes no time. Only waiting moves the clock, so things at one instant are ordered by the loop, not by the clock.
- Threads are real. While a call given to `asyncio.to_thread` or `loop.run_in_executor` is unfinished, even one whose
  caller was cancelled, virtual time stands still and the loop really waits for it. A thread started by hand counts only
  inside `with running_loop().real_work():`.
- Sockets, pipes and subprocesses are refused: no jump could tell a slow peer from a dead one.
- `time.monotonic()` and `time.sleep()` know nothing of it. Code under test takes a clock.

A process that stands still is simulated too. `running_loop().hold(2.0)` is a callback that holds the loop for two
seconds: time passes at once and nothing runs. `running_loop().stop_process(50.0, after_s=1.0)` is SIGSTOP one second
from now and SIGCONT 50 seconds later: whatever became due meanwhile runs then, in the order it was due. The timers of
`aicp.standstill` know of both.

Same seed, same trace: tasks are numbered from 1 in each run and hash by that number, so that a set of tasks (a
`TaskGroup` keeps one) has the same order every time. What remains is the code's own: sets of strings follow
PYTHONHASHSEED, sets of plain objects their addresses, and threads that run side by side end in any order. Two `Trace`
digests that differ tell.

Source: the wait that jumps is that of trio's `MockClock(autojump_threshold=0)`.
"""

import asyncio
import contextlib
import functools
import hashlib
import heapq
import itertools
import random
import selectors
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import Context
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, TypeVarTuple

from aicp.standstill import KNOWN_FROM_S, Standstills, set_standstills_of

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

START_S = 1_000.0
"""Where `loop.time()` begins: not at 0, so that code which takes 0 for "never" is found out."""

LIMIT_S = 30 * 86_400.0
"""How far a run may go by default: 30 days."""

STEPS_MAX = 5_000_000
"""Turns of the loop in a whole run by default; a minute or so of real time."""

INSTANT_STEPS_MAX = 500_000
"""Turns of the loop at one instant by default; some seconds of real time."""

REAL_WAIT_S = 30.0
"""Real seconds the loop waits, by default, for threads that give no sign."""

WALL_START = datetime(2026, 1, 1, tzinfo=UTC)
"""What the wall clocks here show at the start."""

# Past 2**24 s neighbouring floats are further apart than twice asyncio's clock resolution (1 ns), and the loop would no
# longer see that a timer is due.
_TIME_MAX_S = 2.0**24

_NAMES_SHOWN = 20
_TAIL_LINES = 32


class VirtualTimeError(RuntimeError):
    """A run on virtual time was ended by the loop, not by its own code."""


class DeadlockError(VirtualTimeError):
    """Nothing is ready, no timer is set and no thread is at work: no task can ever go on."""


class TimeLimitError(VirtualTimeError):
    """The next timer lies beyond the run's limit of virtual time."""


class StepLimitError(VirtualTimeError):
    """The loop turned too often: in all, or at one instant (something is busy without waiting)."""


class StuckThreadError(VirtualTimeError):
    """Real threads gave no sign within the real time allowed."""


class LeakedTasksError(VirtualTimeError):
    """The coroutine returned while tasks it had started were unfinished."""


class Trace:
    """What a run did, as a digest: every callback and every timer with its due time, in the order they were asked for.

    Calls that threads make (`call_soon_threadsafe`) are left out, since their moment is not the run's own. Costs about
    1 µs a callback.

    Attributes:
        callbacks: How many callbacks and timers were asked for.
    """

    def __init__(self) -> None:
        self.callbacks = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)

    @property
    def digest(self) -> str:
        """32 hex digits, equal for runs that did the same at the same times."""
        return self._digest.hexdigest()

    @property
    def tail(self) -> tuple[str, ...]:
        """The last 32 callbacks, oldest first: where to look when two digests differ or a run is busy."""
        return tuple(self._tail)

    def callback(self, label: str) -> None:
        """Record that a callback was asked for."""
        self.callbacks += 1
        self._tail.append(label)
        self._digest.update(f"{label}\n".encode())


class _Timeline:
    """Where virtual time stands, and how far it may go."""

    def __init__(self, start_s: float, limit_s: float, steps_max: int, instant_steps_max: int, trace: Trace) -> None:
        self.now_s = start_s
        self.trace = trace
        self.standstills = Standstills(lambda: self.now_s, ticks=False)
        self._stops: list[tuple[float, float]] = []
        self._limit_s = limit_s
        self._steps_max = steps_max
        self._instant_steps_max = instant_steps_max
        self.renew()

    def renew(self) -> None:
        """Grant the whole limit again, from here."""
        self._end_s = min(self.now_s + self._limit_s, _TIME_MAX_S)
        self._steps = 0
        self._instant_steps = 0

    def step(self) -> None:
        """Count one turn of the loop."""
        self._steps += 1
        self._instant_steps += 1
        if self._instant_steps > self._instant_steps_max:
            self._refuse_steps(f"{self._instant_steps_max} turns of the loop without time moving")
        if self._steps > self._steps_max:
            self._refuse_steps(f"{self._steps_max} turns of the loop in this run")

    def jump(self, timeout_s: float | None) -> None:
        """Pass the time until the next timer; None says that there is none."""
        if timeout_s is None:
            raise DeadlockError(f"Deadlock: every task waits for something that cannot happen; waiting: {_names()}")
        if self._stops and self._stops[0][0] <= self.now_s + timeout_s:
            stopped_at, for_s = heapq.heappop(self._stops)
            self._pass(max(0.0, stopped_at - self.now_s))
            self.stand_still(for_s)
        else:
            self._pass(timeout_s)

    def stand_still(self, for_s: float) -> None:
        """Pass the time without anything running, as a held or stopped process does."""
        began_at = self.now_s
        self._pass(for_s)
        if for_s > KNOWN_FROM_S:
            self.standstills.passed(began_at, self.now_s)

    def stop_at(self, when: float, for_s: float) -> None:
        """Stand still at that moment, or as soon as time passes after it."""
        heapq.heappush(self._stops, (when, for_s))

    def _pass(self, seconds: float) -> None:
        if self.now_s + seconds > self._end_s:
            end = f"{self._end_s:.15g} s on its clock (limit_s)"
            raise TimeLimitError(
                f"Time limit: the run may last until {end}, the next timer is later; waiting: {_names()}"
            )
        self.now_s += seconds
        self._instant_steps = 0

    def _refuse_steps(self, count: str) -> None:
        busy = ", ".join(sorted(set(self.trace.tail)))
        raise StepLimitError(f"Busy: {count}, at {self.now_s:.15g} s; last to run: {busy}; unfinished: {_names()}")


class _JumpingSelector(selectors.DefaultSelector):
    """Passes virtual time where another selector blocks, and blocks only for real work."""

    def __init__(self, timeline: _Timeline, real_work: Collection[object], real_wait_s: float) -> None:
        super().__init__()
        self._timeline = timeline
        self._real_work = real_work
        self._real_wait_s = real_wait_s

    def register(self, fileobj: Any, events: int, data: object = None) -> selectors.SelectorKey:
        # The first to register is the loop's own wake-up pipe; whatever follows is the world outside.
        if self.get_map():
            raise VirtualTimeError(
                "Virtual time carries no sockets, pipes or subprocesses; run this on a real event loop"
            )
        return super().register(fileobj, events, data)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._timeline.step()
        if timeout is not None and timeout <= 0:
            return super().select(0)
        # Asked before the poll: a thread hands over its result and only then leaves `real_work`, so nothing can slip
        # in between the two questions.
        if self._real_work:
            return self._wait_for_threads()
        ready = super().select(0)
        if not ready:
            self._timeline.jump(timeout)
        return ready

    def _wait_for_threads(self) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(self._real_wait_s)
        if not ready:
            silence = f"no sign for {self._real_wait_s:g} s of real time"
            raise StuckThreadError(f"Stuck: {len(self._real_work)} thread call(s) gave {silence}; waiting: {_names()}")
        return ready


class _NumberedTask(asyncio.Task[T]):
    """A task that hashes by its number, so that a set of tasks has the same order in every run."""

    def __init__(self, coro: Coroutine[Any, Any, T], *, number: int, **options: Any) -> None:
        # asyncio keeps tasks in a WeakSet from their construction on, which asks for the hash.
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number

    def set_name(self, value: object) -> None:
        """As asyncio's, but None keeps the name: some loops call this for tasks nobody named."""
        if value is not None:
            super().set_name(value)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that passes the time instead of waiting.

    Most tests want `run`, which makes one and checks what is left on it.

    Args:
        seed: Of `random`.
        start_s: Where `time()` begins.
        limit_s: How much virtual time may pass; never beyond 2**24 s (194 days) on its clock.
        steps_max: Turns of the loop in all.
        instant_steps_max: Turns of the loop without time moving.
        real_wait_s: Real seconds to wait for threads that give no sign.
        trace: Where to record what happens; a new one by default.

    Attributes:
        random: The run's source of randomness: draw here, or hand it to what asks for one.
        trace: What happened so far.
        start_s: Where `time()` began.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        start_s: float = START_S,
        limit_s: float = LIMIT_S,
        steps_max: int = STEPS_MAX,
        instant_steps_max: int = INSTANT_STEPS_MAX,
        real_wait_s: float = REAL_WAIT_S,
        trace: Trace | None = None,
    ) -> None:
        self.random = random.Random(seed)
        self.trace = trace or Trace()
        self.start_s = start_s
        self._timeline = _Timeline(start_s, limit_s, steps_max, instant_steps_max, self.trace)
        self._real_work: set[object] = set()
        self._pool: ThreadPoolExecutor | None = None
        super().__init__(_JumpingSelector(self._timeline, self._real_work, real_wait_s))
        self.set_task_factory(_task_factory())
        set_standstills_of(self, self._timeline.standstills)

    def time(self) -> float:
        """Virtual seconds; begins at `start_s`.

        A timer may find this up to 1 ns short of its due time, as on a real loop (the clock's resolution).
        """
        return self._timeline.now_s

    def hold(self, seconds: float) -> None:
        """Hold the loop, as `time.sleep(seconds)` in a callback does: time passes, and nothing else runs meanwhile.

        What becomes due meanwhile runs afterwards, in the order it was due. More than 0.1 s is a standstill.

        Args:
            seconds: How long, virtual seconds.

        Raises:
            ValueError: `seconds` is negative or not a number.
            TimeLimitError: The run would last beyond `limit_s`.
        """
        self._timeline.stand_still(_checked_span(seconds))

    def stop_process(self, seconds: float, *, after_s: float = 0.0) -> None:
        """Stop the process some time from now and let it go on later, as SIGSTOP and SIGCONT do.

        It stops while the loop waits, between two callbacks. What becomes due meanwhile runs afterwards.

        Args:
            seconds: How long it stays stopped, virtual seconds.
            after_s: When it stops, virtual seconds from now.

        Raises:
            ValueError: `seconds` or `after_s` is negative or not a number.
        """
        self._timeline.stop_at(self.time() + _checked_span(after_s), _checked_span(seconds))

    def renew_limits(self) -> None:
        """Grant the limits of time and steps again from here, as cleaning up after a run that used them up needs."""
        self._timeline.renew()

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As asyncio's, recorded in the trace."""
        self.trace.callback(_label(callback))
        return super().call_soon(callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As asyncio's, recorded in the trace."""
        self.trace.callback(f"{_label(callback)} at {when!r}")
        return super().call_at(when, callback, *args, context=context)

    @contextlib.contextmanager
    def real_work(self) -> Iterator[None]:
        """Keep virtual time still while a thread that the loop does not know of is at work for it.

        The thread reports by `call_soon_threadsafe`; leave the block when it has.
        """
        token = object()
        self._real_work.add(token)
        try:
            yield
        finally:
            self._real_work.discard(token)

    def set_default_executor(self, executor: ThreadPoolExecutor) -> None:  # type: ignore[override] # as typeshed's own
        """As asyncio's."""
        super().set_default_executor(executor)
        self._pool = executor

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """As asyncio's; virtual time stands still until the function has ended, even when nobody waits for it."""
        call = (executor or self._default_pool()).submit(func, *args)
        self._real_work.add(call)
        answer = asyncio.wrap_future(call, loop=self)
        # Callbacks run in the order they were added: the result is on its way before the call counts as ended.
        call.add_done_callback(self._settle)
        return answer

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002 # by asyncio
        """As asyncio's, bounded by `real_wait_s`: the virtual seconds of `timeout` do not pass while threads end."""
        with self.real_work():
            await super().shutdown_default_executor()

    def _default_pool(self) -> ThreadPoolExecutor:
        pool = self._pool
        if pool is None:
            pool = ThreadPoolExecutor(thread_name_prefix="virtual-time")
            self.set_default_executor(pool)
        return pool

    def _settle(self, call: object) -> None:
        self._real_work.discard(call)
        # Wakes the selector: time may move again. A closed loop has nobody to wake.
        with contextlib.suppress(RuntimeError):
            self.call_soon_threadsafe(_nothing)


def run(
    main: Coroutine[Any, Any, T],
    *,
    seed: int = 0,
    start_s: float = START_S,
    limit_s: float = LIMIT_S,
    steps_max: int = STEPS_MAX,
    instant_steps_max: int = INSTANT_STEPS_MAX,
    real_wait_s: float = REAL_WAIT_S,
    trace: Trace | None = None,
) -> T:
    """Run a coroutine to its end on a fresh `VirtualTimeLoop`, and leave nothing of it behind.

    However it ends, unfinished tasks are cancelled and awaited, async generators closed and threads waited for, within
    the same limits granted once more; what goes wrong then is a note on the first error.

    Args:
        main: What to run.
        seed: Of `running_loop().random`.
        start_s: Where the loop's time begins; at least 0.
        limit_s: How much virtual time may pass; above 0, and `start_s + limit_s` at most 2**24 (194 days).
        steps_max: Turns of the loop in all.
        instant_steps_max: Turns of the loop without time moving.
        real_wait_s: Real seconds to wait for threads that give no sign.
        trace: Where to record what happens.

    Returns:
        What `main` returned.

    Raises:
        DeadlockError: No task could ever go on.
        TimeLimitError: The next timer was beyond `limit_s`.
        StepLimitError: The loop turned too often.
        StuckThreadError: Threads gave no sign for `real_wait_s`.
        LeakedTasksError: `main` returned before tasks it had started.
        ValueError: `start_s` or `limit_s` is out of range.
        RuntimeError: Another event loop is running in this thread.
    """
    try:
        _check_bounds(start_s, limit_s)
    except BaseException:
        main.close()
        raise
    runner = asyncio.Runner(
        loop_factory=functools.partial(
            VirtualTimeLoop,
            seed=seed,
            start_s=start_s,
            limit_s=limit_s,
            steps_max=steps_max,
            instant_steps_max=instant_steps_max,
            real_wait_s=real_wait_s,
            trace=trace,
        )
    )
    with _closing(runner):
        result = runner.run(main)
        _refuse_leaks(runner.get_loop())
    return result


def running_loop() -> VirtualTimeLoop:
    """The virtual-time loop this code runs on.

    Raises:
        RuntimeError: It runs on none, or on another kind.
    """
    loop = _loop_here()
    if isinstance(loop, VirtualTimeLoop):
        return loop
    found = "no event loop" if loop is None else type(loop).__name__
    raise RuntimeError(
        f"Virtual time needs its own event loop, found {found}; start the coroutine with aicp.testing.run()"
    )


class VirtualClock:
    """An `aicp.ports.Clock` that follows the running virtual-time loop.

    It may be made anywhere; a thread, or a test after its run, reads the time of the loop it was last made or read on.

    Args:
        wall_start: What `utcnow` shows when the loop begins; aware.
    """

    def __init__(self, wall_start: datetime = WALL_START) -> None:
        self._wall = _Wall(wall_start)
        here = _loop_here()
        self._loop = here if isinstance(here, VirtualTimeLoop) else None

    def monotonic(self) -> float:
        """Virtual seconds: `loop.time()`. Never goes back.

        Raises:
            RuntimeError: On no virtual-time loop, now or before.
        """
        return self._followed().time()

    def utcnow(self) -> datetime:
        """The wall clock, aware, UTC: moves with the loop, and by `shift_wall`.

        Raises:
            RuntimeError: On no virtual-time loop, now or before.
        """
        loop = self._followed()
        return self._wall.after(loop.time() - loop.start_s)

    def shift_wall(self, seconds: float) -> None:
        """Set the wall clock forward, or back where negative; `monotonic` does not notice."""
        self._wall.shift(seconds)

    def _followed(self) -> VirtualTimeLoop:
        if self._loop is None or _loop_here() is not None:
            self._loop = running_loop()
        return self._loop


class ManualClock:
    """An `aicp.ports.Clock` that moves when told, for code that never waits. Threads may read it, one may move it.

    Args:
        start_s: What `monotonic` shows first.
        wall_start: What `utcnow` shows first; aware.
    """

    def __init__(self, start_s: float = START_S, wall_start: datetime = WALL_START) -> None:
        self._start_s = start_s
        self._now_s = start_s
        self._wall = _Wall(wall_start)

    def monotonic(self) -> float:
        """Seconds; begins at `start_s`."""
        return self._now_s

    def utcnow(self) -> datetime:
        """The wall clock, aware, UTC: moves with `advance` and `shift_wall`."""
        return self._wall.after(self._now_s - self._start_s)

    def advance(self, seconds: float) -> None:
        """Let time pass.

        Raises:
            ValueError: `seconds` is negative or no number.
        """
        if not seconds >= 0:
            raise ValueError(f"advance({seconds!r}): time does not go back; shift_wall moves the wall clock alone")
        self._now_s += seconds

    def shift_wall(self, seconds: float) -> None:
        """Set the wall clock forward, or back where negative; `monotonic` does not notice."""
        self._wall.shift(seconds)


class _Wall:
    """A wall clock by what it showed at the start and how far it was set since."""

    def __init__(self, start: datetime) -> None:
        if start.tzinfo is None:
            raise ValueError(f"wall_start {start.isoformat()} has no time zone; add tzinfo=UTC")
        self._start = start.astimezone(UTC)
        self._shift_s = 0.0

    def shift(self, seconds: float) -> None:
        self._shift_s += seconds

    def after(self, elapsed_s: float) -> datetime:
        return self._start + timedelta(seconds=elapsed_s + self._shift_s)


@contextlib.contextmanager
def _closing(runner: asyncio.Runner) -> Iterator[None]:
    """Close the runner; what fails then does not hide what failed before."""
    try:
        yield
    except BaseException as first:
        try:
            _close(runner)
        except VirtualTimeError as later:
            first.add_note(f"While cleaning up: {later}")
        raise
    _close(runner)


def _close(runner: asyncio.Runner) -> None:
    loop = runner.get_loop()
    if isinstance(loop, VirtualTimeLoop):
        loop.renew_limits()
    runner.close()


def _refuse_leaks(loop: asyncio.AbstractEventLoop) -> None:
    leaked = asyncio.all_tasks(loop)
    if leaked:
        raise LeakedTasksError(f"Leaked: the run returned before these tasks; await or cancel them: {_listed(leaked)}")


def _check_bounds(start_s: float, limit_s: float) -> None:
    if _loop_here() is not None:
        raise RuntimeError("run() starts an event loop of its own; await the coroutine where one is running")
    if not (start_s >= 0 and limit_s > 0 and start_s + limit_s <= _TIME_MAX_S):
        span = f"start_s {start_s!r} and limit_s {limit_s!r}"
        raise ValueError(f"{span} must be >= 0 and > 0, and together at most {_TIME_MAX_S:.0f} s (194 days)")


def _checked_span(seconds: float) -> float:
    if not seconds >= 0:
        raise ValueError(f"{seconds!r} seconds: a standstill lasts 0 seconds or more")
    return seconds


def _loop_here() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _task_factory() -> Callable[..., asyncio.Task[Any]]:
    """Makes tasks numbered from 1, and named by the number where nobody named them (asyncio counts per process)."""
    numbers = itertools.count(1)

    def numbered(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        number = next(numbers)
        options["name"] = options.get("name") or f"Task-{number}"
        return _NumberedTask(coro, number=number, loop=loop, **options)

    return numbered


def _label(callback: Callable[..., object]) -> str:
    """What a callback is called in the trace: nothing in it may depend on addresses."""
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return owner.get_name()
    called = callback.func if isinstance(callback, functools.partial) else callback
    return getattr(called, "__qualname__", type(called).__name__)


def _names() -> str:
    return _listed(asyncio.all_tasks())


def _listed(tasks: Iterable[asyncio.Task[Any]]) -> str:
    # A task's hash is its number here, so this is the order in which they were started.
    ordered = sorted(tasks, key=hash)
    names = [f"{task.get_name()} ({_coroutine_name(task)})" for task in ordered[:_NAMES_SHOWN]]
    hidden = len(ordered) - len(names)
    return ", ".join(names) + (f" and {hidden} more" if hidden else "")


def _coroutine_name(task: asyncio.Task[Any]) -> str:
    coro = task.get_coro()
    return getattr(coro, "__name__", type(coro).__name__)


def _nothing() -> None:
    """Called for the turn of the loop it causes."""
