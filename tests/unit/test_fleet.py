"""Agents by speed: who is among the free, who is picked, and that buckets never disagree with a plain list."""

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicp.model.agent import Capability
from aicp.registry.leases import Liveness
from aicp.scheduling.fleet import LOOKS, NOWHERE, Member, Pool, Seat
from aicp.scheduling.latency import BUCKETS, LAST_RESORT, averaged, bucket_of, faded, latency_of, smoothed
from aicp.scheduling.trouble import FINE, Standing
from tests.unit.flow_kit import ECHO, agent

NOW = 1_000.0


def seat(agent_id: str = "a", latency_s: float = 0.0, liveness: Liveness = Liveness.HEARD) -> Seat:
    member = Member(agent(agent_id))
    if liveness is not Liveness.HEARD:
        member.trouble_of_its_own().liveness = liveness
    member.first = Seat(member, Capability(ECHO), Pool(ECHO))
    member.first.latency_s, member.first.measured_at = latency_s, NOW
    member.first.samples = 20 if latency_s else 0
    return member.first


def join(pool: Pool, *seats: Seat) -> None:
    for each in seats:
        each.pool = pool
        pool.join(each)


def pool_of(*seats: Seat) -> Pool:
    pool = Pool(ECHO)
    join(pool, *seats)
    for each in seats:
        pool.put(each, NOW)
    return pool


def named(pool: Pool, agent_id: str) -> Seat:
    return next(each for each in pool.seats if each.agent_id == agent_id)


def id_of(picked: Seat | None) -> str:
    assert picked is not None
    return picked.member.profile.agent_id


def draw_of(*values: float) -> random.Random:
    """Draws these values, one after another."""
    source = random.Random()
    drawn = iter(values)
    source.random = lambda: next(drawn)  # type: ignore[method-assign] # a script in place of chance
    return source


class TestSpeed:
    def test_the_first_measurement_is_taken_whole(self) -> None:
        assert smoothed(0.0, 2.0, 0) == 2.0

    def test_the_first_twenty_count_alike_and_then_each_a_twentieth(self) -> None:
        latency_s = 0.0
        for samples, elapsed_s in enumerate([1.0, 2.0, 4.0, 8.0]):
            latency_s = smoothed(latency_s, elapsed_s, samples)
        assert latency_s == pytest.approx(64.0 ** (1 / 4))
        assert smoothed(1.0, 2.0, 20) == pytest.approx(2.0 ** (1 / 20))

    def test_one_task_a_thousand_times_as_large_moves_a_known_agent_by_less_than_half(self) -> None:
        assert smoothed(0.1, 100.0, 20) < 0.15

    def test_a_measurement_of_nothing_is_still_a_measurement(self) -> None:
        assert smoothed(0.0, 0.0, 0) > 0

    def test_the_mean_that_drains_a_queue_is_arithmetic(self) -> None:
        mean_s = 0.0
        for samples, elapsed_s in enumerate([1.0, 2.0, 6.0]):
            mean_s = averaged(mean_s, elapsed_s, samples)
        assert mean_s == pytest.approx(3.0)

    def test_an_unmeasured_agent_is_expected_to_be_typical(self) -> None:
        assert faded(0.0, 5.0, 0.7) == 0.7

    def test_a_measurement_holds_for_ten_seconds_and_then_loses_half_of_what_it_says_every_minute(self) -> None:
        assert faded(9.0, 10.0, 1.0) == 9.0
        assert faded(9.0, 70.0, 1.0) == pytest.approx(5.0)
        assert faded(9.0, 130.0, 1.0) == pytest.approx(3.0)

    @settings(derandomize=True, deadline=None)
    @given(st.floats(1e-4, 1e4))
    def test_the_middle_of_a_bucket_is_in_it(self, latency_s: float) -> None:
        bucket = bucket_of(latency_s)
        assert bucket_of(latency_of(bucket)) == bucket

    @settings(derandomize=True, deadline=None)
    @given(st.floats(0, 1e6), st.floats(0, 1e6))
    def test_a_slower_agent_is_never_in_a_faster_bucket(self, one_s: float, other_s: float) -> None:
        fast_s, slow_s = sorted((one_s, other_s))
        assert bucket_of(fast_s) <= bucket_of(slow_s)

    @settings(derandomize=True, deadline=None)
    @given(st.floats(0, 1e12))
    def test_no_measured_agent_is_in_the_bucket_of_last_resorts(self, latency_s: float) -> None:
        assert 0 <= bucket_of(latency_s) < LAST_RESORT < BUCKETS

    def test_twice_as_slow_is_two_buckets_further(self) -> None:
        assert bucket_of(0.2001) - bucket_of(0.1) == 2


class TestPick:
    def test_an_empty_pool_has_nobody(self) -> None:
        assert Pool(ECHO).pick(random.Random(0).random) is None

    def test_the_fastest_bucket_is_taken_first(self) -> None:
        pool = pool_of(seat("slow", 5.0), seat("fast", 0.1), seat("slower", 9.0))
        picked = {id_of(pool.pick(random.Random(each).random)) for each in range(50)}
        assert picked == {"fast"}

    def test_the_unmeasured_are_tried_before_the_slow(self) -> None:
        assert id_of(pool_of(seat("slow", 5.0), seat("new")).pick(random.Random(0).random)) == "new"

    def test_of_two_alike_the_one_used_longest_ago_is_taken(self) -> None:
        one, other = seat("a", 1.00), seat("b", 1.01)
        pool, picked = pool_of(one, other), list[str]()
        for _ in range(6):
            each = pool.pick(random.Random(0).random)
            assert each is not None
            picked.append(each.agent_id)
            pool.used(each)
        assert picked == ["a", "b"] * 3

    def test_one_that_is_over_a_quarter_faster_is_taken_however_lately_it_was_used(self) -> None:
        pool = pool_of(seat("slow", 1.15), seat("fast", 0.85))
        assert named(pool, "slow").bucket == named(pool, "fast").bucket
        assert id_of(pool.pick(draw_of(0.9).random)) == "fast"
        assert id_of(pool.pick(draw_of(0.0).random)) == "slow"

    def test_two_alike_on_both_sides_of_a_border_of_buckets_take_turns_too(self) -> None:
        border_s = 1e-4 * 2**6.5
        one, other = seat("a", border_s * 0.99), seat("b", border_s * 1.01)
        pool = pool_of(one, other)
        assert other.bucket == one.bucket + 1
        assert id_of(pool.pick(random.Random(0).random)) == "a"
        one.member.quiet_since = NOW
        assert id_of(pool.pick(random.Random(0).random)) == "b"
        other.latency_s = border_s * 1.3
        assert id_of(pool.pick(random.Random(0).random)) == "a"

    def test_one_hand_over_in_fifty_goes_to_one_that_is_hardly_known_and_sound(self) -> None:
        slow, silent, timed_out = seat("slow"), seat("unheard", 0.0, Liveness.UNHEARD), seat("timed out")
        timed_out.member.trouble_of_its_own().timed_out = True
        pool, picked = Pool(ECHO), Counter[str]()
        pool.latency_s = 9.0
        join(pool, *(found := [silent, timed_out, slow, seat("known", 0.1)]))
        for each in found:
            pool.put(each, NOW)
        for _ in range(500):
            picked[id_of(pool.pick(random.Random(0).random))] += 1
            pool.freshen(NOW)
        assert picked == {"known": 490, "slow": 10}
        slow.samples = 5
        for _ in range(100):
            assert id_of(pool.pick(random.Random(0).random)) == "known"
            pool.freshen(NOW)

    def test_of_a_hundred_hardly_known_ones_each_is_tried_in_time(self) -> None:
        known, pool, tried = seat("known", 0.1), Pool(ECHO), set[str]()
        pool.latency_s = 9.0
        join(pool, *(found := [known, *(seat(f"a{each}") for each in range(100))]))
        for each in found:
            pool.put(each, NOW)
        for _ in range(50 * 5 * 100 + 5_000):
            picked = pool.pick(random.Random(0).random)
            assert picked is not None
            if picked is not known:
                tried.add(picked.agent_id)
                picked.samples += 1
            pool.freshen(NOW)
        assert len(tried) == 100

    def test_all_of_a_bucket_have_their_turn(self) -> None:
        pool, picked = pool_of(*(seat(f"a{each}", 1.0) for each in range(10))), set[str]()
        for _ in range(10):
            each = pool.pick(random.Random(1).random)
            assert each is not None
            pool.used(each)
            picked.add(each.agent_id)
        assert len(picked) == 10

    def test_the_unheard_are_a_last_resort_however_fast(self) -> None:
        pool = pool_of(seat("unheard", 0.001, Liveness.UNHEARD), seat("slow", 500.0))
        assert id_of(pool.pick(random.Random(0).random)) == "slow"
        pool.take(named(pool, "slow"))
        assert id_of(pool.pick(random.Random(0).random)) == "unheard"

    def test_an_agent_that_does_not_fit_is_passed_over_for_slower_ones(self) -> None:
        pool, draw = pool_of(seat("fast", 0.1), seat("slow", 5.0)), random.Random(0).random
        assert id_of(pool.pick_fitting(lambda each: each.agent_id != "fast", draw)) == "slow"
        assert pool.pick_fitting(lambda _: False, draw) is None

    @settings(max_examples=200, derandomize=True, deadline=None)
    @given(st.sets(st.integers(0, LOOKS - 1)), st.sets(st.integers(0, 9)), st.floats(0, 0.999))
    def test_of_few_free_ones_one_that_fits_is_found(self, free: set[int], left_out: set[int], draw: float) -> None:
        pool = pool_of(*(seat(f"a{each}", float(each % 3)) for each in sorted(free)))
        names = {f"a{each}" for each in left_out}
        picked = pool.pick_fitting(lambda each: each.agent_id not in names, lambda: draw)
        if free - left_out:
            assert id_of(picked) in {f"a{each}" for each in free - left_out}
        else:
            assert picked is None

    def test_however_many_are_free_at_most_eight_are_looked_at(self) -> None:
        pool, looked_at = pool_of(*(seat(f"a{each}", float(each % 30)) for each in range(300))), list[Seat]()

        def fits(each: Seat) -> bool:
            looked_at.append(each)
            return False

        assert pool.pick_fitting(fits, random.Random(0).random) is None
        assert len(looked_at) == LOOKS

    def test_an_agent_that_turned_out_to_be_full_is_taken_from_the_free_until_it_is_not(self) -> None:
        full = seat("full", 0.1)
        pool = pool_of(full, seat("slow", 5.0))
        full.member.taken = full.member.slots
        assert id_of(pool.pick(random.Random(0).random)) == "slow"
        assert full.bucket == NOWHERE
        assert full.member.trouble.parked == [full]


class TestBuckets:
    def test_who_is_put_twice_is_there_once(self) -> None:
        lonely = seat()
        pool = pool_of(lonely)
        pool.put(lonely, NOW)
        assert pool.free == 1
        pool.take(lonely)
        pool.take(lonely)
        assert pool.free == 0
        assert lonely.bucket == NOWHERE

    def test_who_became_slower_moves_to_another_bucket(self) -> None:
        changing = seat("changing", 0.1)
        pool = pool_of(changing, seat("steady", 1.0))
        changing.latency_s = 10.0
        pool.put(changing, NOW)
        assert pool.free == 2
        assert id_of(pool.pick(random.Random(0).random)) == "steady"

    def test_who_is_forgotten_counts_no_more(self) -> None:
        gone, out = seat("gone"), seat("out")
        pool = pool_of(gone, out)
        pool.take(out)
        pool.judge(out, Standing("draining", math.inf))
        assert (pool.usable, pool.out, pool.slots) == (1, 1, 1)
        pool.leave(gone)
        pool.leave(out)
        assert (pool.free, pool.usable, pool.out, pool.slots, pool.seats) == (0, 0, 0, 0, [])

    @settings(max_examples=60, derandomize=True, deadline=None)
    @given(st.randoms(use_true_random=False))
    def test_buckets_agree_with_a_plain_list_through_any_changes(self, draw: random.Random) -> None:
        seats = [seat(f"a{each}") for each in range(12)]
        pool, free = Pool(ECHO), set[Seat]()
        join(pool, *seats)
        for _ in range(150):
            each = draw.choice(seats)
            if draw.random() < 0.6:
                each.latency_s = draw.choice([0.0, 0.001, 0.1, 0.11, 1.0, 60.0])
                liveness = draw.choice([Liveness.HEARD, Liveness.HEARD, Liveness.UNHEARD])
                each.member.trouble_of_its_own().liveness = liveness
                pool.put(each, NOW)
                free.add(each)
            else:
                pool.take(each)
                free.discard(each)
            assert pool.free == len(free)
            picked = pool.pick(draw.random)
            assert (picked in free) if free else picked is None
            if picked is not None:
                assert picked.bucket == min(member.bucket for member in free)


class TestFirstReturn:
    """The earliest moment at which somebody who is out may be used again."""

    @staticmethod
    def out(pool: Pool, each: Seat, ready_at: float) -> None:
        if each.pool is not pool:
            join(pool, each)
        pool.judge(each, Standing("cooling down", ready_at))

    def test_nobody_out_means_nobody_returns(self) -> None:
        assert Pool(ECHO).first_return() == math.inf

    def test_the_earliest_of_those_out_is_known(self) -> None:
        pool = Pool(ECHO)
        for number, ready_at in enumerate((30.0, 10.0, 20.0)):
            self.out(pool, seat(f"a{number}"), ready_at)
        assert pool.first_return() == 10.0

    def test_who_came_back_or_was_put_off_no_longer_counts(self) -> None:
        pool, early, late = Pool(ECHO), seat("early"), seat("late")
        self.out(pool, early, 10.0)
        self.out(pool, late, 20.0)
        self.out(pool, early, 40.0)
        assert pool.first_return() == 20.0
        pool.judge(late, FINE)
        assert pool.first_return() == 40.0

    def test_whom_only_a_command_brings_back_is_not_expected(self) -> None:
        pool = Pool(ECHO)
        self.out(pool, seat("offline"), math.inf)
        assert pool.first_return() == math.inf

    def test_looking_again_and_again_at_the_same_agents_keeps_no_more_than_a_few_entries_each(self) -> None:
        pool, resting, flapping = Pool(ECHO), seat("resting"), seat("flapping")
        self.out(pool, resting, 300.0)
        for moment in range(10_000):
            self.out(pool, flapping, 301.0 + moment / 1_000)
        assert pool.first_return() == 300.0
        assert len(pool._returns) < 1_000
