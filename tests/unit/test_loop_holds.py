"""The meter of loop holds: it sees what holds a loop, says where, and cannot be failed by other processes."""

import asyncio
import gc
import hashlib
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from aicp.testing import LoopHoldMeter

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """Run a coroutine on a loop of each kind."""

    def run_on_loop(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(main)

    return run_on_loop


def burn(cpu_s: float) -> None:
    """Use the CPU for so long, in Python."""
    until = time.thread_time() + cpu_s
    while time.thread_time() < until:
        pass


def test_one_long_callback_is_a_hold_and_its_place_is_known(run: Any) -> None:
    async def main() -> LoopHoldMeter:
        async with LoopHoldMeter() as meter:
            burn(0.05)
        return meter

    meter = run(main())
    assert 45 < meter.longest.held_ms <= meter.longest.wall_ms
    assert "in burn" in meter.longest.where
    with pytest.raises(AssertionError, match="in burn"):
        meter.check(25)


def test_many_short_callbacks_of_one_turn_are_a_hold(run: Any) -> None:
    async def main() -> LoopHoldMeter:
        async with LoopHoldMeter() as meter:
            loop = asyncio.get_running_loop()
            for _ in range(200):
                loop.call_soon(burn, 0.000_25)
            await asyncio.sleep(0)
        return meter

    assert run(main()).longest.held_ms > 40


def test_thread_that_keeps_the_interpreter_lock_is_a_hold_and_is_named(run: Any) -> None:
    async def main() -> LoopHoldMeter:
        async with LoopHoldMeter() as meter:
            await asyncio.to_thread(sorted, [str(number % 977) for number in range(400_000)])
        return meter

    assert run(main()).longest.held_ms > 25


def test_thread_that_gives_the_lock_up_is_no_hold(run: Any) -> None:
    async def main() -> LoopHoldMeter:
        body = bytes(32 * 1024 * 1024)
        async with LoopHoldMeter() as meter:
            await asyncio.to_thread(hashlib.sha256, body)
        return meter

    meter = run(main())
    assert meter.looks > 0
    meter.check(10)


def test_loop_that_waits_is_not_held(run: Any) -> None:
    async def main() -> LoopHoldMeter:
        async with LoopHoldMeter() as meter, asyncio.timeout(60):
            while meter.looks <= 5:  # noqa: ASYNC110 - the meter has no event
                await asyncio.sleep(0.01)
        return meter

    run(main()).check(10)


def test_blocked_loop_shows_in_wall_time_and_uses_no_cpu(run: Any) -> None:
    async def main() -> LoopHoldMeter:
        async with LoopHoldMeter(least_ms=0) as meter:
            time.sleep(0.05)  # noqa: ASYNC251 - a loop that blocks is what is measured
        return meter

    meter = run(main())
    assert max(hold.wall_ms for hold in meter.holds) > 45


def test_garbage_collector_is_named(run: Any) -> None:
    async def main() -> LoopHoldMeter:
        kept = [[number] for number in range(300_000)]
        async with LoopHoldMeter() as meter:
            gc.collect()
        assert kept
        return meter

    assert any("garbage collector" in hold.where for hold in run(main()).holds)


def test_meter_measures_a_loop_of_another_thread() -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        with LoopHoldMeter(loop) as meter:
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.02), loop).result(30)
            asyncio.run_coroutine_threadsafe(_burning(0.05), loop).result(30)
            asyncio.run_coroutine_threadsafe(asyncio.sleep(0.02), loop).result(30)
        assert meter.longest.held_ms > 40
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_meter_that_measured_nothing_fails_its_check() -> None:
    loop = asyncio.new_event_loop()
    try:
        with LoopHoldMeter(loop) as meter:
            time.sleep(0.01)
        with pytest.raises(AssertionError, match="ran no timer"):
            meter.check(25)
    finally:
        loop.close()


async def _burning(cpu_s: float) -> None:
    burn(cpu_s)
