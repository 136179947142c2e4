"""No timer blames others for what this process stood still: held loops and stopped processes on virtual time."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from aicp import standstill
from aicp.registry.leases import Leases, LivenessChange
from aicp.resilience.circuit_breaker import BreakerPolicy, CircuitBreaker, CircuitState
from aicp.standstill import KNOWN_FROM_S, SPANS_MAX, Standstills, TimeLimit
from aicp.testing import ManualClock, TimeLimitError, VirtualClock, run, running_loop

START_S = 1_000.0


def now() -> float:
    return running_loop().time() - START_S


async def fired_at(delay_s: float) -> float:
    """When a timer of so many seconds, begun now, calls back."""
    fired: asyncio.Future[float] = asyncio.get_running_loop().create_future()
    standstill.call_later(delay_s, lambda: fired.set_result(now()))
    return await fired


def seconds(test: Callable[[], Coroutine[Any, Any, float]]) -> float:
    return run(test())


class TestTimer:
    def test_fires_when_it_is_due_while_nothing_stood_still(self) -> None:
        assert seconds(lambda: fired_at(5.0)) == 5.0

    def test_is_moved_by_a_standstill_within_its_span_though_it_would_fire_in_time(self) -> None:
        async def test() -> float:
            running_loop().stop_process(3.0, after_s=1.0)
            return await fired_at(5.0)

        assert seconds(test) == 8.0

    def test_is_moved_by_a_standstill_over_its_end_but_at_most_by_its_own_length(self) -> None:
        async def test() -> float:
            running_loop().stop_process(50.0, after_s=1.0)
            return await fired_at(5.0)

        assert seconds(test) == 51.0 + 5.0

    def test_is_not_moved_by_a_standstill_before_it_began(self) -> None:
        async def test() -> float:
            running_loop().hold(3.0)
            return await fired_at(5.0)

        assert seconds(test) == 3.0 + 5.0

    def test_counts_only_what_of_a_standstill_fell_into_its_span(self) -> None:
        async def test() -> float:
            running_loop().stop_process(4.0, after_s=1.0)
            await asyncio.sleep(0.5)
            return await fired_at(10.0)

        assert seconds(test) == 0.5 + 10.0 + 4.0

    def test_is_moved_by_several_standstills_together(self) -> None:
        async def test() -> float:
            for after_s in (1.0, 2.0, 4.5):
                running_loop().stop_process(0.5, after_s=after_s)
            return await fired_at(10.0)

        assert seconds(test) == 11.5

    def test_what_takes_less_than_a_tenth_of_a_second_is_no_standstill(self) -> None:
        async def test() -> float:
            running_loop().stop_process(KNOWN_FROM_S, after_s=1.0)
            return await fired_at(5.0)

        assert seconds(test) == 5.0

    def test_a_loop_that_is_always_late_at_most_doubles_a_clock(self) -> None:
        async def test() -> float:
            async def be_late() -> None:
                while True:
                    await asyncio.sleep(0.01)
                    running_loop().hold(0.3)

            late = asyncio.create_task(be_late())
            try:
                return await fired_at(10.0)
            finally:
                late.cancel()

        assert 19.0 < seconds(test) <= 2 * 10.0 + 2 * 0.3

    def test_fires_after_what_came_in_meanwhile_has_been_seen(self) -> None:
        async def test() -> None:
            loop, seen = running_loop(), list[str]()

            async def answer() -> None:
                await asyncio.sleep(6.0)
                for step in ("head", "body"):
                    await asyncio.sleep(0)
                    seen.append(step)

            # Moved once by the first standstill, due within the second: late, and not to be moved again.
            loop.stop_process(1.0, after_s=1.0)
            loop.stop_process(20.0, after_s=4.5)
            answering = asyncio.create_task(answer())
            fired = loop.create_future()
            standstill.call_later(4.0, lambda: fired.set_result(list(seen)))
            assert await fired == ["head", "body"]
            assert now() == 24.5
            await answering

        run(test())

    @pytest.mark.parametrize("after_s", [0.0, 3.0, 7.0])
    def test_cancelled_it_does_not_fire_whether_moved_or_not(self, after_s: float) -> None:
        async def test() -> None:
            fired = list[float]()
            timer = standstill.call_later(5.0, lambda: fired.append(now()))
            running_loop().stop_process(4.0, after_s=2.0)
            await asyncio.sleep(after_s)
            timer.cancel()
            timer.cancel()
            await asyncio.sleep(60.0)
            assert not fired

        run(test())

    def test_two_users_of_one_limit_move_it_once(self) -> None:
        async def test() -> None:
            running_loop().stop_process(3.0, after_s=1.0)
            limit = TimeLimit(running_loop().time(), running_loop().time() + 5.0)
            fired = list[float]()
            for _ in range(2):
                standstill.call_after(limit, 5.0, lambda: fired.append(now()))
            await asyncio.sleep(60.0)
            assert fired == [8.0, 8.0]
            assert limit.is_over(running_loop().time())

        run(test())


class TestTimeout:
    def test_cuts_off_what_takes_too_long(self) -> None:
        async def test() -> float:
            with pytest.raises(TimeoutError):
                async with standstill.timeout(5.0):
                    await asyncio.sleep(60.0)
            return now()

        assert seconds(test) == 5.0

    def test_an_answer_that_came_while_the_process_was_stopped_is_taken(self) -> None:
        async def test() -> float:
            running_loop().stop_process(30.0, after_s=1.0)
            async with standstill.timeout(5.0) as scope:
                await asyncio.sleep(2.0)
            assert not scope.expired()
            return now()

        assert seconds(test) == 31.0

    def test_an_answer_that_never_comes_is_given_up_even_so(self) -> None:
        async def test() -> float:
            running_loop().stop_process(30.0, after_s=1.0)
            with pytest.raises(TimeoutError):
                async with standstill.timeout(5.0):
                    await asyncio.Event().wait()
            return now()

        assert seconds(test) == 36.0

    def test_a_cancel_from_outside_stays_one(self) -> None:
        async def test() -> None:
            async def work() -> None:
                async with standstill.timeout(5.0):
                    await asyncio.Event().wait()

            task = asyncio.create_task(work())
            await asyncio.sleep(1.0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(test())

    def test_expires_at_once_when_asked_to(self) -> None:
        async def test() -> float:
            scope = standstill.timeout(5.0)
            running_loop().call_later(1.0, scope.expire)
            with pytest.raises(TimeoutError):
                async with scope:
                    await asyncio.sleep(60.0)
            assert scope.expired()
            scope.expire()
            return now()

        assert seconds(test) == 1.0

    @pytest.mark.parametrize("delay_s", [0.0, -1.0])
    def test_without_time_it_expires_at_the_next_wait(self, delay_s: float) -> None:
        async def test() -> float:
            with pytest.raises(TimeoutError):
                async with standstill.timeout(delay_s):
                    await asyncio.sleep(60.0)
            return now()

        assert seconds(test) == 0.0


def test_a_sleep_that_wakes_late_lets_the_loop_read_before_it_returns() -> None:
    async def test() -> None:
        seen = list[str]()

        async def arrive() -> None:
            await asyncio.sleep(1.5)
            for step in ("accepted", "read", "heard"):
                await asyncio.sleep(0)
                seen.append(step)

        arriving = asyncio.create_task(arrive())
        running_loop().stop_process(10.0, after_s=0.5)
        await standstill.sleep(1.0)
        assert seen == ["accepted", "read", "heard"]
        await arriving

    run(test())


class TestTimeLimit:
    def test_of_a_moment_without_standstill_it_is_a_comparison(self) -> None:
        limit = TimeLimit(10.0, 15.0)
        assert (limit.is_over(14.9), limit.is_over(15.0)) == (False, True)
        assert limit.left_s(12.0) == 3.0

    @pytest.mark.parametrize("stood_s", [0.5, 4.0, 5.0, 6.0, 3_600.0])
    def test_what_it_says_is_left_is_left(self, stood_s: float) -> None:
        async def test() -> None:
            began = running_loop().time()
            limits = TimeLimit(began, began + 5.0), TimeLimit(began, began + 5.0)
            running_loop().hold(stood_s)
            left_s = limits[0].left_s(running_loop().time())
            await asyncio.sleep(max(0.0, 5.0 - stood_s))
            assert not limits[1].is_over(running_loop().time())
            assert limits[1].ends_at == pytest.approx(began + stood_s + left_s)

        run(test())

    def test_says_what_is_left_with_the_standstills_by_which_it_will_be_moved(self) -> None:
        async def test() -> None:
            limit = TimeLimit(running_loop().time(), running_loop().time() + 5.0)
            running_loop().hold(4.0)
            assert limit.left_s(running_loop().time()) == 5.0
            await asyncio.sleep(1.0)
            assert not limit.is_over(running_loop().time())
            assert limit.left_s(running_loop().time()) == 4.0

        run(test())


class TestHistory:
    def test_is_bounded_whatever_happens_and_forgets_the_oldest(self) -> None:
        clock = ManualClock()
        history = Standstills(clock.monotonic, ticks=False)
        for _ in range(SPANS_MAX + 100):
            began_at = clock.monotonic()
            clock.advance(2.0)
            history.passed(began_at, clock.monotonic())
        assert history.since(0.0) == SPANS_MAX * 2.0
        assert history.total_s == (SPANS_MAX + 100) * 2.0

    def test_short_standstills_that_follow_each_other_share_an_entry_and_are_all_counted(self) -> None:
        clock = ManualClock()
        history = Standstills(clock.monotonic, ticks=False)
        for _ in range(10 * SPANS_MAX):
            began_at = clock.monotonic()
            clock.advance(0.2)
            history.passed(began_at, clock.monotonic())
            clock.advance(0.05)
        hour_s = 3_600.0
        assert history.since(clock.monotonic() - hour_s / 2) == pytest.approx(hour_s / 2 * 0.8, rel=0.01)

    def test_is_logged_from_one_second_and_counted_from_a_tenth(self, caplog: pytest.LogCaptureFixture) -> None:
        async def test() -> float:
            for held_s in (0.05, 0.2, 0.9, 1.5):
                running_loop().hold(held_s)
                await asyncio.sleep(5.0)
            return standstill.standstills_of(running_loop()).total_s

        with caplog.at_level(logging.INFO):
            assert seconds(test) == pytest.approx(2.6)
        assert [record.message for record in caplog.records] == [
            "process stood still, timers about others moved: seconds=1.5"
        ]

    def test_without_an_event_loop_nothing_is_known(self) -> None:
        assert standstill.since(0.0) == 0.0

    def test_keeps_no_loop_alive(self) -> None:
        loop = asyncio.new_event_loop()

        async def use() -> None:
            async with standstill.timeout(60.0):
                await asyncio.sleep(0)

        loop.run_until_complete(use())
        loop.close()
        known = weakref.ref(loop)
        del loop
        gc.collect()
        assert known() is None


class TestVirtualStandstill:
    def test_nothing_runs_while_the_loop_is_held(self) -> None:
        async def test() -> None:
            ran = list[float]()
            running_loop().call_later(1.0, lambda: ran.append(now()))
            running_loop().hold(5.0)
            assert not ran
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert ran == [5.0]

        run(test())

    def test_a_stopped_process_goes_on_with_what_became_due_in_its_order(self) -> None:
        async def test() -> None:
            ran = list[tuple[str, float]]()

            def come(name: str) -> None:
                ran.append((name, now()))

            for name, after_s in (("late", 3.0), ("early", 2.0), ("before", 0.5)):
                running_loop().call_later(after_s, come, name)
            running_loop().stop_process(10.0, after_s=1.0)
            await asyncio.sleep(20.0)
            assert ran == [("before", 0.5), ("early", 11.0), ("late", 11.0)]

        run(test())

    def test_the_same_seed_stops_at_the_same_moment(self) -> None:
        async def test() -> float:
            running_loop().stop_process(running_loop().random.uniform(1.0, 9.0), after_s=1.0)
            return await fired_at(2.0)

        assert run(test(), seed=7) == run(test(), seed=7)

    @pytest.mark.parametrize("amount", [-1.0, float("nan")])
    def test_time_does_not_go_back(self, amount: float) -> None:
        async def test() -> None:
            with pytest.raises(ValueError, match="0 seconds or more"):
                running_loop().hold(amount)
            with pytest.raises(ValueError, match="0 seconds or more"):
                running_loop().stop_process(1.0, after_s=amount)

        run(test())

    def test_no_standstill_leads_beyond_the_limit_of_the_run(self) -> None:
        async def test() -> None:
            running_loop().hold(100.0)

        with pytest.raises(TimeLimitError):
            run(test(), limit_s=10.0)


class TestLeasesOfAgents:
    """Heartbeats every 5 s, leases of 15 s."""

    def changes_when(self, *, stopped_s: float, beats_after_s: float | None) -> list[tuple[str, float]]:
        async def test() -> list[tuple[str, float]]:
            leases = Leases(clock=VirtualClock().monotonic)
            leases.grant("a", "first")
            found = list[tuple[str, float]]()

            async def beat() -> None:
                while beats_after_s is not None:
                    await asyncio.sleep(beats_after_s)
                    leases.renew("a", "first")

            beating = asyncio.create_task(beat())
            running_loop().stop_process(stopped_s, after_s=4.0)
            while now() < 400.0:
                await standstill.sleep(1.0)
                found += [(str(change.liveness), round(now())) for change in leases.sweep()]
            beating.cancel()
            return found

        return run(test())

    @pytest.mark.parametrize("stopped_s", [16.0, 50.0, 120.0, 300.0])
    def test_a_stop_of_ours_makes_no_agent_unheard_or_offline(self, stopped_s: float) -> None:
        assert self.changes_when(stopped_s=stopped_s, beats_after_s=5.0) == []

    def test_an_agent_that_has_died_is_found_out_after_at_most_one_lease_more(self) -> None:
        assert self.changes_when(stopped_s=50.0, beats_after_s=None) == [("UNHEARD", 69.0), ("OFFLINE", 99.0)]

    def test_on_a_loop_that_is_always_late_silence_is_found_out_after_at_most_twice_the_time(self) -> None:
        async def test() -> dict[str, float]:
            leases = Leases(clock=VirtualClock().monotonic)
            leases.grant("a", "first")
            found = dict[str, float]()
            while now() < 200.0:
                running_loop().hold(0.9)
                await standstill.sleep(0.1)
                found |= {str(change.liveness): now() for change in leases.sweep()}
            return found

        found = run(test())
        assert found["UNHEARD"] <= 2 * 15.0 + 2.0
        assert found["OFFLINE"] <= 2 * 45.0 + 2.0

    def test_a_heartbeat_begins_a_lease_that_may_be_moved_again(self) -> None:
        async def test() -> list[LivenessChange]:
            leases = Leases(clock=VirtualClock().monotonic)
            leases.grant("a", "first")
            changes = list[LivenessChange]()
            for _ in range(3):
                running_loop().hold(100.0)
                changes += leases.sweep()
                leases.renew("a", "first")
            return changes

        assert run(test()) == []


def test_a_probe_of_a_circuit_is_not_lost_while_this_process_stands_still() -> None:
    async def test() -> None:
        clock = VirtualClock()
        policy = BreakerPolicy(failure_threshold=1, success_threshold=1, probe_lease_s=5.0)
        breaker = CircuitBreaker("eyes", policy, clock=clock.monotonic)
        breaker.record_failure(breaker.try_acquire())
        await asyncio.sleep(2.0)
        probe = breaker.try_acquire()
        running_loop().hold(60.0)
        assert not breaker.try_acquire(), "the probe has its place still"
        breaker.record_success(probe)
        assert breaker.state is CircuitState.CLOSED
        assert breaker.metrics.lost_probes == 0

    run(test())
