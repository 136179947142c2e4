"""What is old: by the smaller of the wall clock and the monotonic clock, whatever either of them does."""

import asyncio
import math
import random
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from aicp.coordination.progress import (
    CATCH_UP_SPEED,
    DOWN_GRACE_S,
    FIRST_DOUBT,
    STEPS_MAX,
    Progress,
    advanced,
    cutoff,
    first_state,
    stepped_since,
)
from aicp.errors import ChainNotFound, StorageError
from aicp.model.chain import parallel_chain
from aicp.model.progress import ClockState
from aicp.model.task import Task, TaskStatus
from aicp.ports import NEVER, ClockChange, SubmitKey
from aicp.storage.sqlite_clock import SqliteClockRecord
from aicp.testing import ManualClock
from aicp.testing.faulty_agents import ScriptedAgent
from tests.unit.flow_kit import ECHO, Flow, virtual
from tests.unit.sqlite_kit import ask, database

DAY_S = 86_400.0
HOUR_S = 3_600.0
LOOK_S = 60.0
WEEK = timedelta(days=7)


class Kept:
    """A process that looks every minute at one record, on clocks that move by hand."""

    def __init__(self, clock: ManualClock | None = None, state: ClockState | None = None) -> None:
        self.clock = clock or ManualClock()
        self.state = state or ClockState(self.clock.utcnow())

    def live(self, seconds: float) -> None:
        while seconds > 0:
            step_s = min(LOOK_S, seconds)
            seconds -= step_s
            self.clock.advance(step_s)
            self.state = advanced(self.state, self.clock.utcnow(), step_s)

    def restart(self, down_s: float) -> None:
        self.clock.advance(down_s)
        self.state = advanced(self.state, self.clock.utcnow(), None)

    def age_left_out_s(self, kept: timedelta = WEEK) -> float:
        """How much later than by the wall clock alone something is deleted."""
        return (self.clock.utcnow() - kept - cutoff(self.state, kept)).total_seconds()


def test_clocks_that_agree_delete_by_the_wall_clock() -> None:
    kept = Kept()
    kept.live(2 * DAY_S)
    assert cutoff(kept.state, WEEK) == kept.clock.utcnow() - WEEK
    assert kept.state.progress_s == pytest.approx(2 * DAY_S)
    assert kept.state.steps == ()


def test_a_wall_clock_that_is_wrong_for_a_while_deletes_nothing() -> None:
    kept = Kept()
    kept.live(HOUR_S)
    before = kept.clock.utcnow()
    kept.clock.shift_wall(30 * DAY_S)
    kept.live(75)
    assert cutoff(kept.state, WEEK) < before - WEEK + timedelta(seconds=76)
    kept.clock.shift_wall(-30 * DAY_S)
    kept.live(75)
    assert kept.age_left_out_s() == pytest.approx(0, abs=LOOK_S)


def test_a_step_forward_counts_once_the_data_before_it_is_old_by_the_monotonic_clock() -> None:
    kept = Kept()
    kept.clock.shift_wall(30 * DAY_S)
    kept.live(8 * DAY_S)
    assert kept.age_left_out_s() == pytest.approx(30 * DAY_S, abs=1)
    kept.live(DAY_S + LOOK_S)
    assert kept.age_left_out_s() == pytest.approx(0, abs=1)


def test_a_step_back_makes_nothing_older() -> None:
    kept = Kept()
    kept.live(HOUR_S)
    kept.clock.shift_wall(-2 * HOUR_S)
    kept.live(HOUR_S)
    kept.clock.shift_wall(2 * HOUR_S)
    kept.live(LOOK_S)
    # What ended while the clock was behind would be two hours older than it is.
    assert kept.age_left_out_s() == pytest.approx(2 * HOUR_S, abs=2 * LOOK_S)


def test_a_process_that_was_down_deletes_after_an_hour_and_then_some_at_a_time() -> None:
    kept = Kept()
    kept.restart(8 * DAY_S)
    kept.live(DOWN_GRACE_S)
    assert kept.age_left_out_s() == pytest.approx(8 * DAY_S)
    kept.live(HOUR_S)
    assert kept.age_left_out_s() == pytest.approx(8 * DAY_S - CATCH_UP_SPEED * HOUR_S)
    kept.live(7 * HOUR_S)
    assert kept.age_left_out_s() == pytest.approx(0)


def test_a_step_is_remembered_over_restarts() -> None:
    kept = Kept()
    kept.clock.shift_wall(30 * DAY_S)
    kept.live(HOUR_S)
    for _ in range(20):
        kept.restart(10)
        kept.live(HOUR_S)
    assert kept.age_left_out_s() >= 30 * DAY_S


def test_a_process_restarted_every_few_minutes_deletes_in_the_end() -> None:
    kept = Kept()
    kept.restart(8 * DAY_S)
    for _ in range(12 * 12):
        kept.live(300)
        kept.restart(5)
    assert kept.age_left_out_s() < HOUR_S


def test_a_record_without_a_state_is_in_doubt_at_first() -> None:
    clock = ManualClock()
    state = first_state(clock.utcnow())
    assert cutoff(state, WEEK) <= clock.utcnow() - WEEK - FIRST_DOUBT
    kept = Kept(clock, state)
    kept.live(WEEK.total_seconds() + LOOK_S)
    assert kept.age_left_out_s() == 0


def test_replicas_that_share_the_state_count_each_second_once() -> None:
    clock = ManualClock()
    state = ClockState(clock.utcnow())
    for _ in range(100):
        clock.advance(LOOK_S / 2)
        # Each replica looked a minute ago, and the other one half a minute ago.
        state = advanced(state, clock.utcnow(), LOOK_S)
    assert state.progress_s == pytest.approx(100 * LOOK_S / 2)
    assert state.steps == ()


@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_deleted_before_its_time_whatever_the_wall_clock_does(seed: int) -> None:
    rng = random.Random(seed)
    kept = Kept()
    clock = kept.clock
    retained = timedelta(hours=rng.choice([1, 24, 24 * 7]))
    recorded = []
    for _ in range(400):
        action = rng.random()
        if action < 0.1:
            clock.shift_wall(rng.choice([-1, 1]) * 10 ** rng.uniform(1, 7))
        kept.live(10 ** rng.uniform(0, 4))
        recorded.append((clock.utcnow(), clock.monotonic()))
        limit = cutoff(kept.state, retained)
        youngest_s = max((made_s for at, made_s in recorded if at < limit), default=-math.inf)
        assert clock.monotonic() - youngest_s > retained.total_seconds() - LOOK_S
    assert len(kept.state.steps) <= STEPS_MAX


def test_the_age_of_what_was_recorded_before_a_step_forward_is_known() -> None:
    kept = Kept()
    at = kept.clock.utcnow()
    kept.live(HOUR_S)
    kept.clock.shift_wall(2 * HOUR_S)
    kept.live(HOUR_S)
    assert stepped_since(kept.state, at).total_seconds() == pytest.approx(2 * HOUR_S, abs=1)
    assert stepped_since(kept.state, kept.clock.utcnow()) == timedelta()


@virtual
async def test_the_state_is_kept_in_the_file_and_a_damaged_one_only_delays(tmp_path: Path) -> None:
    clock, file = ManualClock(), database(tmp_path / "a.db")
    await file.open()
    progress = Progress(clock, SqliteClockRecord(file))
    assert progress.cutoff(WEEK) == NEVER
    await progress.look()
    clock.advance(60)
    await progress.look()
    other = Progress(clock, SqliteClockRecord(file))
    await other.look()
    assert other.cutoff(WEEK) == progress.cutoff(WEEK)
    await file.close()
    assert '"progress_s":60.0' in ask(tmp_path / "a.db", "SELECT body FROM clock_state")
    with closing(sqlite3.connect(tmp_path / "a.db", isolation_level=None)) as connection:
        connection.execute("UPDATE clock_state SET body = '{\"wall\": 1'")
    await file.open()
    assert (await SqliteClockRecord(file).update(lambda found, _: found or first_state(clock.utcnow()))).progress_s == 0
    await file.close()


@virtual
async def test_a_look_that_fails_is_made_up_for_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    class Failing:
        state: ClockState | None = None
        fails = False

        async def update(self, change: ClockChange) -> ClockState:
            changed = change(self.state, None)
            if self.fails:
                raise StorageError("the disk is full")
            self.state = changed
            return changed

    clock, record = ManualClock(), Failing()
    progress = Progress(clock, record)
    await progress.look()
    record.fails = True
    clock.advance(60)
    clock.shift_wall(2 * HOUR_S)
    with pytest.raises(StorageError):
        await progress.look()
    record.fails = False
    clock.advance(60)
    await progress.look()
    assert record.state is not None
    assert record.state.progress_s == pytest.approx(120)
    assert progress.steps_seen == 1
    assert [each.message for each in caplog.records if "wall clock stepped by +7200.0 s" in each.message]


@virtual
async def test_a_wall_clock_that_is_wrong_for_a_while_loses_no_result(caplog: pytest.LogCaptureFixture) -> None:
    chain, key = parallel_chain([Task(ECHO, id="x")]), SubmitKey("default", "key", b"digest")
    async with Flow(ScriptedAgent("eyes"), retention_s=HOUR_S) as flow:
        chain_id = (await flow.coordinator.execute_chain(chain)).chain_id
        again = await flow.coordinator.submit(chain, key=key)
        flow.clock.shift_wall(30 * DAY_S)
        await asyncio.sleep(HOUR_S - 100)
        assert (await flow.coordinator.view(chain_id)).status is TaskStatus.COMPLETED
        assert await flow.coordinator.submit(chain, key=key) == again
        flow.clock.shift_wall(-30 * DAY_S)
        await asyncio.sleep(300)
        with pytest.raises(ChainNotFound):
            await flow.coordinator.view(chain_id)
    assert len([each for each in caplog.messages if "wall clock stepped by" in each]) == 2
