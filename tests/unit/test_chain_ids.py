"""Ids of chains sort by time, and no two are the same."""

import os
import random
from datetime import UTC, datetime, timedelta

from aicp.coordination.chain_ids import DRAWN_AT_ONCE, ChainIds
from aicp.model.trace import task_traceparent
from aicp.ports import SystemClock


class Standing(SystemClock):
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def utcnow(self) -> datetime:
        return self.now


def test_no_two_ids_are_the_same_however_many_are_made_in_a_moment() -> None:
    ids = ChainIds(Standing(), os.urandom)
    made = [ids.next() for _ in range(3 * DRAWN_AT_ONCE)]
    assert len(set(made)) == len(made)
    assert {len(chain_id) for chain_id in made} == {32}
    assert int(made[0], 16) > 0


def test_later_ids_sort_behind_earlier_ones() -> None:
    clock = Standing()
    ids = ChainIds(clock, os.urandom)
    earlier = [ids.next() for _ in range(50)]
    clock.now += timedelta(milliseconds=1)
    later = [ids.next() for _ in range(50)]
    assert max(earlier) < min(later)


def test_each_id_holds_all_the_chance_that_was_drawn_for_it() -> None:
    ids = ChainIds(Standing(), random.Random(7).randbytes)
    drawn = random.Random(7).randbytes(10 * DRAWN_AT_ONCE).hex()
    assert "".join(ids.next()[12:] for _ in range(DRAWN_AT_ONCE)) == drawn


def test_an_id_is_a_trace_id_of_its_own() -> None:
    chain_id = ChainIds(SystemClock(), os.urandom).next()
    assert task_traceparent(f"{chain_id}.task")[3:35] == chain_id
