"""Hours pass in milliseconds, in order, the same way every time; what would hang a test ends it with a sentence."""

import asyncio
import contextlib
import doctest
import gc
import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from aicp.ports import Clock
from aicp.testing import (
    DeadlockError,
    LeakedTasksError,
    ManualClock,
    StepLimitError,
    StuckThreadError,
    TimeLimitError,
    Trace,
    VirtualClock,
    VirtualTimeError,
    VirtualTimeLoop,
    run,
    running_loop,
    virtual_time,
)

HOUR_S = 3_600.0
DAY_S = 24 * HOUR_S

# Real seconds no thread in these tests comes near unless the loop forgot it.
PATIENCE_S = 10.0


def digest_of(make_main: Callable[[], Coroutine[Any, Any, object]], *, seed: int = 0) -> str:
    trace = Trace()
    run(make_main(), seed=seed, trace=trace)
    return trace.digest


async def forever() -> None:
    await asyncio.Event().wait()


async def ticking(every_s: float) -> None:
    for _ in itertools.count():
        await asyncio.sleep(every_s)


class TestWaiting:
    def test_a_sleep_takes_its_virtual_time_exactly_and_hardly_any_real_time(self) -> None:
        async def main() -> float:
            loop = asyncio.get_running_loop()
            before_s = loop.time()
            await asyncio.sleep(25 * DAY_S)
            return loop.time() - before_s

        started_s = time.process_time()
        assert run(main()) == 25 * DAY_S
        assert time.process_time() - started_s < 5

    def test_time_begins_where_it_is_told_and_never_at_zero_by_default(self) -> None:
        async def main() -> float:
            return asyncio.get_running_loop().time()

        assert run(main()) > 0
        assert run(main(), start_s=42.5) == 42.5

    def test_work_takes_no_time(self) -> None:
        async def main() -> float:
            before_s = running_loop().time()
            for _ in range(1_000):
                await asyncio.sleep(0)
            return running_loop().time() - before_s

        assert run(main()) == 0

    def test_ten_thousand_sleepers_over_a_day_wake_in_order_and_within_seconds(self) -> None:
        woken: list[tuple[float, float]] = []

        async def sleeper(delay_s: float) -> None:
            due_s = running_loop().time() + delay_s
            await asyncio.sleep(delay_s)
            woken.append((running_loop().time(), due_s))

        async def main() -> None:
            draw = running_loop().random
            async with asyncio.TaskGroup() as sleepers:
                for _ in range(10_000):
                    sleepers.create_task(sleeper(draw.uniform(0, DAY_S)))

        started_s = time.process_time()
        run(main(), seed=7)
        assert time.process_time() - started_s < 20
        assert len(woken) == 10_000
        assert woken == sorted(woken)
        assert all(at_s == pytest.approx(due_s, abs=1e-9) for at_s, due_s in woken)

    def test_timeout_ends_a_wait_at_its_moment(self) -> None:
        async def main() -> float:
            before_s = running_loop().time()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(90):
                    await forever()
            return running_loop().time() - before_s

        assert run(main()) == 90

    def test_wait_for_ends_a_wait_at_its_moment_and_lets_a_shorter_one_through(self) -> None:
        async def main() -> float:
            before_s = running_loop().time()
            await asyncio.wait_for(asyncio.sleep(59), timeout=60)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.sleep(61), timeout=60)
            return running_loop().time() - before_s

        assert run(main()) == 119

    def test_a_group_takes_as_long_as_its_longest_task(self) -> None:
        async def main() -> float:
            before_s = running_loop().time()
            async with asyncio.TaskGroup() as group:
                for hours in (1, 5, 3):
                    group.create_task(asyncio.sleep(hours * HOUR_S))
            return running_loop().time() - before_s

        assert run(main()) == 5 * HOUR_S

    def test_a_cancelled_task_ends_at_the_moment_of_its_cancellation_and_may_take_time_to_do_so(self) -> None:
        ended_s: list[float] = []

        async def draining() -> None:
            try:
                await forever()
            finally:
                await asyncio.sleep(5)
                ended_s.append(running_loop().time())

        async def main() -> None:
            task = asyncio.create_task(draining())
            await asyncio.sleep(10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(main(), start_s=0)
        assert ended_s == [15]

    def test_a_timer_cancelled_before_it_is_due_does_not_move_time(self) -> None:
        async def main() -> float:
            before_s = running_loop().time()
            running_loop().call_later(HOUR_S, forever).cancel()
            await asyncio.sleep(1)
            return running_loop().time() - before_s

        assert run(main()) == 1

    def test_the_loop_serves_a_plain_runner_too(self) -> None:
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(asyncio.sleep(DAY_S))

    def test_what_main_returns_and_raises_comes_through(self) -> None:
        async def failing() -> None:
            await asyncio.sleep(1)
            raise KeyError("the agent")

        async def answering() -> str:
            return "pong"

        assert run(answering()) == "pong"
        with pytest.raises(KeyError, match="the agent"):
            run(failing())

    def test_the_example_in_the_module_is_true(self) -> None:
        assert doctest.testmod(virtual_time) == doctest.TestResults(failed=0, attempted=2)


class TestDeadlock:
    def test_waiting_for_what_cannot_happen_is_an_error_that_names_the_waiting(self) -> None:
        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(forever(), name="reader")
                group.create_task(forever())

        with pytest.raises(DeadlockError) as deadlock:
            run(main())
        assert str(deadlock.value) == (
            "Deadlock: every task waits for something that cannot happen; "
            "waiting: Task-1 (main), reader (forever), Task-3 (forever)"
        )

    def test_a_crowd_is_named_in_part(self) -> None:
        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(30):
                    group.create_task(forever())

        with pytest.raises(DeadlockError, match=r"Task-20 \(forever\) and 11 more$"):
            run(main())

    def test_two_tasks_that_wait_for_each_others_lock_are_found_out(self) -> None:
        async def take_both(first: asyncio.Lock, second: asyncio.Lock) -> None:
            async with first:
                await asyncio.sleep(1)
                async with second:
                    pass

        async def main() -> None:
            left, right = asyncio.Lock(), asyncio.Lock()
            await asyncio.gather(take_both(left, right), take_both(right, left))

        with pytest.raises(DeadlockError, match=r"take_both.*take_both"):
            run(main())

    def test_the_waiting_are_cancelled_so_that_they_give_back_what_they_took(self) -> None:
        given_back: list[str] = []

        async def main() -> None:
            try:
                await forever()
            finally:
                await asyncio.sleep(HOUR_S)
                given_back.append("permit")

        with pytest.raises(DeadlockError):
            run(main())
        assert given_back == ["permit"]

    def test_a_deadlock_in_the_cleaning_up_is_a_note_on_the_first_error(self) -> None:
        async def stubborn() -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await forever()
            await forever()

        async def main() -> None:
            stubborn_task = asyncio.create_task(stubborn())
            await asyncio.sleep(1)
            raise KeyError(stubborn_task.get_name())

        with pytest.raises(KeyError) as failure:
            run(main())
        assert failure.value.__notes__[0].startswith("While cleaning up: Deadlock:")


class TestLimits:
    def test_a_run_that_passes_its_time_ends_there(self) -> None:
        with pytest.raises(TimeLimitError) as limit:
            run(ticking(HOUR_S), start_s=1_000, limit_s=DAY_S)
        assert str(limit.value) == (
            "Time limit: the run may last until 87400 s on its clock (limit_s), the next timer is later; "
            "waiting: Task-1 (ticking)"
        )

    def test_the_last_moment_still_belongs_to_the_run(self) -> None:
        run(asyncio.sleep(60), limit_s=60)
        with pytest.raises(TimeLimitError):
            run(asyncio.sleep(60.001), limit_s=60)

    def test_cleaning_up_after_the_limit_has_time_of_its_own(self) -> None:
        drained: list[bool] = []

        async def main() -> None:
            try:
                await asyncio.sleep(50)
                await asyncio.sleep(50)
            finally:
                await asyncio.sleep(30)
                drained.append(True)

        with pytest.raises(TimeLimitError):
            run(main(), limit_s=60)
        assert drained == [True]

    def test_being_busy_at_one_instant_is_an_error_that_names_the_busy(self) -> None:
        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(ticking(0), name="spinner")
                group.create_task(forever(), name="waiter")

        with pytest.raises(StepLimitError, match=r"^Busy: 2000 turns of the loop without time moving, .*run: spinner;"):
            run(main(), instant_steps_max=2_000)

    def test_time_that_moves_in_grains_is_bounded_by_the_steps_of_the_run(self) -> None:
        with pytest.raises(StepLimitError, match=r"^Busy: 5000 turns of the loop in this run"):
            run(ticking(1e-6), steps_max=5_000, instant_steps_max=100)

    @pytest.mark.parametrize(
        ("start_s", "limit_s"),
        [(-1, 1), (0, 0), (0, -1), (2.0**24, 1), (0, float("inf")), (float("nan"), 1), (0, float("nan"))],
    )
    def test_limits_out_of_range_are_refused_and_the_coroutine_closed(self, start_s: float, limit_s: float) -> None:
        with pytest.raises(ValueError, match=r"start_s .* and limit_s .* at most 16777216 s"):
            run(forever(), start_s=start_s, limit_s=limit_s)

    def test_no_loop_goes_where_its_clock_can_no_longer_tell_timers_apart(self) -> None:
        with (
            asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start_s=2.0**24 - 10)) as runner,
            pytest.raises(TimeLimitError, match="until 16777216 s on its clock"),
        ):
            runner.run(asyncio.sleep(11))

    def test_timers_are_still_seen_at_the_far_end_of_time(self) -> None:
        async def main() -> int:
            ticks = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1.05):
                    for _ in itertools.count():
                        await asyncio.sleep(0.1)
                        ticks += 1
            return ticks

        assert run(main(), start_s=2.0**24 - 2, limit_s=2, instant_steps_max=1_000) == 10


class TestThreads:
    def test_a_thread_answers_and_takes_no_virtual_time(self) -> None:
        async def main() -> tuple[str, float]:
            before_s = running_loop().time()
            name = await asyncio.to_thread(lambda: threading.current_thread().name)
            return name, running_loop().time() - before_s

        name, passed_s = run(main())
        assert name != threading.current_thread().name
        assert passed_s == 0

    def test_no_timer_overtakes_a_thread_at_work(self) -> None:
        async def main() -> str:
            timed_out = threading.Event()
            running_loop().call_later(1, timed_out.set)
            async with asyncio.timeout(2):
                # The loop would have to jump for the event to be set; that it is not is seen from inside the thread.
                return "overtaken" if await asyncio.to_thread(timed_out.wait, 0.2) else "in time"

        assert run(main()) == "in time"

    def test_an_error_in_a_thread_comes_through(self) -> None:
        def failing() -> None:
            raise OSError("disk full")

        async def main() -> None:
            with pytest.raises(OSError, match="disk full"):
                await asyncio.to_thread(failing)
            await asyncio.sleep(1)

        run(main())

    def test_an_executor_of_ones_own_counts_too(self) -> None:
        async def main() -> list[int]:
            with ThreadPoolExecutor(max_workers=1) as pool:
                calls = [running_loop().run_in_executor(pool, (2).__pow__, n) for n in range(5)]
                return list(await asyncio.gather(*calls))

        assert run(main()) == [1, 2, 4, 8, 16]

    def test_a_default_executor_of_ones_own_is_used_and_shut_down(self) -> None:
        pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="mine")

        async def main() -> str:
            running_loop().set_default_executor(pool)
            return await asyncio.to_thread(lambda: threading.current_thread().name)

        assert run(main()).startswith("mine")
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(print)

    def test_time_stands_still_until_a_cancelled_call_has_really_ended(self) -> None:
        entered, go_on = threading.Event(), threading.Event()
        ended_s: list[float] = []

        async def main() -> float:
            loop = running_loop()

            def slow() -> None:
                entered.set()
                assert go_on.wait(PATIENCE_S)
                ended_s.append(loop.time())

            before_s = loop.time()
            call = asyncio.create_task(asyncio.to_thread(slow))
            await asyncio.to_thread(entered.wait, PATIENCE_S)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            threading.Timer(0.05, go_on.set).start()
            await asyncio.sleep(HOUR_S)
            assert ended_s == [before_s]
            return loop.time() - before_s

        assert run(main()) == HOUR_S

    def test_a_call_cancelled_in_the_queue_is_not_waited_for(self) -> None:
        async def main() -> None:
            release = threading.Event()
            with ThreadPoolExecutor(max_workers=1) as pool:
                first = running_loop().run_in_executor(pool, release.wait, PATIENCE_S)
                queued = running_loop().run_in_executor(pool, print)
                queued.cancel()
                release.set()
                assert await first
            await asyncio.sleep(HOUR_S)

        run(main())

    def test_a_call_nobody_waited_for_is_waited_for_at_the_end(self) -> None:
        done: list[str] = []

        async def main() -> None:
            asyncio.get_running_loop().run_in_executor(None, done.append, "written")

        run(main())
        assert done == ["written"]

    def test_a_thread_by_hand_counts_while_it_is_announced(self) -> None:
        async def main() -> float:
            loop = running_loop()
            answered = asyncio.Event()
            before_s = loop.time()
            with loop.real_work():
                threading.Timer(0.02, loop.call_soon_threadsafe, [answered.set]).start()
                async with asyncio.timeout(1):
                    await answered.wait()
            await asyncio.sleep(1)
            return loop.time() - before_s

        assert run(main()) == 1

    def test_a_thread_that_never_ends_is_an_error_after_the_real_time_allowed(self) -> None:
        release, released = threading.Event(), list[bool]()

        async def main() -> None:
            await asyncio.to_thread(lambda: released.append(release.wait(10 * PATIENCE_S)))

        try:
            with pytest.raises(
                StuckThreadError, match=r"1 thread call\(s\) gave no sign for 0.05 s of real time; .*main"
            ):
                run(main(), real_wait_s=0.05)
            # Nor may what the run left behind wait for the thread when it is collected.
            gc.collect()
            assert released == []
        finally:
            release.set()

    def test_many_threads_in_turn_leave_time_to_the_sleepers(self) -> None:
        async def main() -> float:
            before_s = running_loop().time()
            for _ in range(200):
                await asyncio.to_thread(int)
                await asyncio.sleep(1)
            return running_loop().time() - before_s

        assert run(main()) == 200


class TestWorldOutside:
    def test_a_signal_that_is_already_there_comes_before_a_jump(self) -> None:
        async def main() -> float:
            asked_to_stop = asyncio.Event()
            running_loop().add_signal_handler(signal.SIGUSR1, asked_to_stop.set)
            before_s = running_loop().time()
            os.kill(os.getpid(), signal.SIGUSR1)
            async with asyncio.timeout(HOUR_S):
                await asked_to_stop.wait()
            return running_loop().time() - before_s

        assert run(main()) == 0

    def test_sockets_are_refused(self) -> None:
        async def main() -> None:
            near, far = socket.socketpair()
            with near, far:
                with pytest.raises(VirtualTimeError, match="carries no sockets"):
                    running_loop().add_reader(near, print)
                near.settimeout(0)
                with pytest.raises(VirtualTimeError, match="carries no sockets"):
                    await running_loop().sock_recv(near, 1)

        run(main())

    def test_a_run_inside_a_running_loop_is_refused(self) -> None:
        async def main() -> None:
            with pytest.raises(RuntimeError, match="an event loop of its own"):
                run(forever())

        asyncio.run(main())

    def test_the_running_loop_is_refused_where_time_is_real(self) -> None:
        async def main() -> None:
            with pytest.raises(RuntimeError, match=r"found .*Loop; start the coroutine with aicp\.testing\.run"):
                running_loop()

        asyncio.run(main())
        with pytest.raises(RuntimeError, match="found no event loop"):
            running_loop()


class TestLeaks:
    def test_a_task_left_behind_is_an_error_that_names_it_and_the_task_is_cancelled(self) -> None:
        cancelled: list[bool] = []

        async def heartbeat() -> None:
            try:
                await ticking(1)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise

        async def main() -> None:
            left = asyncio.create_task(heartbeat(), name="heartbeat-7")
            await asyncio.sleep(3)
            assert not left.done()

        with pytest.raises(LeakedTasksError, match=r"await or cancel them: heartbeat-7 \(heartbeat\)$"):
            run(main())
        assert cancelled == [True]

    def test_mains_own_error_comes_before_the_leak(self) -> None:
        async def main() -> None:
            left = asyncio.create_task(forever())
            await asyncio.sleep(1)
            raise KeyError(left.get_name())

        with pytest.raises(KeyError):
            run(main())

    def test_an_unfinished_async_generator_is_closed(self) -> None:
        closed: list[bool] = []

        async def feed() -> AsyncIterator[int]:
            try:
                yield 1
                yield 2
            finally:
                await asyncio.sleep(1)
                closed.append(True)

        events = feed()

        async def main() -> None:
            assert await anext(events) == 1

        run(main())
        assert closed == [True]


class TestDeterminism:
    async def storm(self) -> None:
        """Workers of random length; one fails, and the group cancels the rest in the order of its set of tasks."""
        draw = running_loop().random

        async def worker() -> None:
            try:
                await asyncio.sleep(draw.uniform(0, HOUR_S))
            finally:
                await asyncio.sleep(draw.random())

        async def failing() -> None:
            await asyncio.sleep(HOUR_S / 2)
            raise KeyError

        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for _ in range(200):
                    group.create_task(worker())
                group.create_task(failing())

    def test_the_same_seed_gives_the_same_trace_wherever_its_objects_lie(self) -> None:
        digests = set()
        ballast: list[object] = []
        for n in range(5):
            digests.add(digest_of(self.storm, seed=3))
            ballast.extend(bytearray(n * 37 + size) for size in range(500))
        assert len(digests) == 1

    def test_another_seed_gives_another_trace(self) -> None:
        assert digest_of(self.storm, seed=3) != digest_of(self.storm, seed=4)

    def test_the_order_of_two_tasks_at_one_instant_shows_in_the_trace(self) -> None:
        async def in_order(*names: str) -> None:
            async with asyncio.TaskGroup() as group:
                for name in names:
                    group.create_task(asyncio.sleep(0), name=name)

        assert digest_of(lambda: in_order("a", "b")) == digest_of(lambda: in_order("a", "b"))
        assert digest_of(lambda: in_order("a", "b")) != digest_of(lambda: in_order("b", "a"))

    def test_a_timer_a_microsecond_later_shows_in_the_trace(self) -> None:
        assert digest_of(lambda: asyncio.sleep(1)) != digest_of(lambda: asyncio.sleep(1.000001))

    def test_one_thread_at_a_time_leaves_the_trace_the_same(self) -> None:
        async def main() -> None:
            for _ in range(20):
                await asyncio.to_thread(int)
                await asyncio.sleep(1)

        assert len({digest_of(main) for _ in range(5)}) == 1

    def test_the_trace_tells_how_much_happened_and_what_came_last(self) -> None:
        async def main() -> None:
            await asyncio.create_task(asyncio.sleep(1), name="sleeper")

        trace = Trace()
        run(main(), trace=trace)
        assert trace.callbacks == len(trace.tail)
        assert "sleeper" in trace.tail
        assert any(line.endswith(" at 1001.0") for line in trace.tail)

    def test_the_tail_of_a_trace_is_bounded(self) -> None:
        trace = Trace()
        run(self.storm(), trace=trace)
        assert trace.callbacks > len(trace.tail) == 32

    def test_tasks_are_numbered_and_named_from_one_in_every_run(self) -> None:
        async def main() -> list[str]:
            tasks = [asyncio.create_task(asyncio.sleep(0), name=name) for name in (None, "named", None)]
            await asyncio.gather(*tasks)
            return [task.get_name() for task in tasks]

        assert run(main()) == run(main()) == ["Task-2", "named", "Task-4"]

    def test_tasks_stay_distinct_and_keep_their_identity_in_sets(self) -> None:
        async def main() -> None:
            tasks = {asyncio.create_task(asyncio.sleep(1)) for _ in range(100)}
            done, pending = await asyncio.wait(tasks)
            assert done == tasks
            assert not pending

        run(main())


class TestVirtualClock:
    def test_it_follows_the_loop(self) -> None:
        clock = VirtualClock()

        async def main() -> tuple[float, timedelta]:
            before_s, before = clock.monotonic(), clock.utcnow()
            await asyncio.sleep(90)
            return clock.monotonic() - before_s, clock.utcnow() - before

        assert run(main()) == (90, timedelta(seconds=90))

    def test_it_shows_the_same_date_at_the_start_of_every_run(self) -> None:
        async def main() -> datetime:
            return VirtualClock().utcnow()

        assert run(main()) == run(main(), start_s=5) == datetime(2026, 1, 1, tzinfo=UTC)

    def test_it_shows_utc_whatever_the_zone_it_was_set_in(self) -> None:
        tokyo = timezone(timedelta(hours=9))

        async def main() -> datetime:
            return VirtualClock(datetime(2026, 3, 1, 9, tzinfo=tokyo)).utcnow()

        shown = run(main())
        assert shown == datetime(2026, 3, 1, tzinfo=UTC)
        assert shown.tzinfo is UTC

    def test_a_naive_start_is_refused(self) -> None:
        with pytest.raises(ValueError, match="2026-01-01T00:00:00 has no time zone"):
            VirtualClock(datetime(2026, 1, 1))  # noqa: DTZ001 # the mistake under test

    def test_the_wall_clock_an_hour_back_leaves_monotonic_alone(self) -> None:
        async def main() -> None:
            clock = VirtualClock()
            await asyncio.sleep(10)
            before_s, before = clock.monotonic(), clock.utcnow()
            clock.shift_wall(-HOUR_S)
            assert clock.monotonic() == before_s
            assert clock.utcnow() == before - timedelta(hours=1)
            await asyncio.sleep(1)
            assert clock.monotonic() == before_s + 1
            assert clock.utcnow() == before - timedelta(hours=1) + timedelta(seconds=1)

        run(main())

    def test_threads_and_the_test_after_the_run_read_the_same_time(self) -> None:
        async def main() -> VirtualClock:
            clock = VirtualClock()
            await asyncio.sleep(7)
            assert await asyncio.to_thread(clock.monotonic) == clock.monotonic() == 7
            return clock

        assert run(main(), start_s=0).monotonic() == 7

    def test_it_follows_the_next_run_from_its_start(self) -> None:
        clock = VirtualClock()

        async def main() -> float:
            before_s = clock.monotonic()
            await asyncio.sleep(7)
            return before_s

        assert run(main()) == run(main())

    def test_it_is_refused_where_time_is_real(self) -> None:
        clock = VirtualClock()

        async def main() -> None:
            clock.monotonic()

        with pytest.raises(RuntimeError, match="found no event loop"):
            clock.utcnow()
        run(main())
        with pytest.raises(RuntimeError, match="Virtual time needs its own event loop"):
            asyncio.run(main())


class TestManualClock:
    def test_it_moves_when_told_and_only_then(self) -> None:
        clock = ManualClock(start_s=5)
        before = clock.utcnow()
        assert clock.monotonic() == clock.monotonic() == 5
        clock.advance(2.5)
        assert clock.monotonic() == 7.5
        assert clock.utcnow() - before == timedelta(seconds=2.5)

    def test_the_wall_clock_an_hour_back_leaves_monotonic_alone(self) -> None:
        clock = ManualClock()
        before_s, before = clock.monotonic(), clock.utcnow()
        clock.shift_wall(-HOUR_S)
        assert clock.monotonic() == before_s
        assert clock.utcnow() == before - timedelta(hours=1)

    @pytest.mark.parametrize("seconds", [-0.001, float("nan")])
    def test_it_does_not_go_back(self, seconds: float) -> None:
        with pytest.raises(ValueError, match="time does not go back"):
            ManualClock().advance(seconds)


def test_both_clocks_are_what_the_ports_ask_for() -> None:
    def readings(clock: Clock) -> tuple[float, datetime]:
        return clock.monotonic(), clock.utcnow()

    async def main() -> tuple[float, datetime]:
        return readings(VirtualClock())

    assert run(main()) == readings(ManualClock())
