"""Agents by speed: who is among the free, who is picked, and that buckets never disagree with a plain list."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aicp.model.agent import Capability
from aicp.registry.leases import Liveness
from aicp.scheduling.fleet import LOOKS_MAX, NOWHERE, Member, Pool, Seat
from aicp.scheduling.latency import BUCKETS, LAST_RESORT, bucket_of, smoothed
from tests.unit.flow_kit import ECHO, agent


def seat(agent_id: str = "a", latency_s: float = 0.0, liveness: Liveness = Liveness.HEARD) -> Seat:
    member = Member(agent(agent_id))
    member.liveness = liveness
    member.seats[ECHO].latency_s = latency_s
    return member.seats[ECHO]


def pool_of(*seats: Seat) -> Pool:
    pool = Pool()
    for each in seats:
        pool.seats[each.member.profile.agent_id] = each
        pool.put(each)
    return pool


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
        assert smoothed(0.0, 2.0) == 2.0

    def test_later_ones_move_the_estimate_a_fifth_of_the_way(self) -> None:
        assert smoothed(1.0, 2.0) == pytest.approx(1.2)

    def test_a_measurement_of_nothing_is_still_a_measurement(self) -> None:
        assert smoothed(0.0, 0.0) > 0

    @settings(derandomize=True)
    @given(st.floats(0, 1e6), st.floats(0, 1e6))
    def test_a_slower_agent_is_never_in_a_faster_bucket(self, one_s: float, other_s: float) -> None:
        fast_s, slow_s = sorted((one_s, other_s))
        assert bucket_of(fast_s) <= bucket_of(slow_s)

    @settings(derandomize=True)
    @given(st.floats(0, 1e12))
    def test_no_measured_agent_is_in_the_bucket_of_last_resorts(self, latency_s: float) -> None:
        assert 0 <= bucket_of(latency_s) < LAST_RESORT < BUCKETS

    def test_twice_as_slow_is_two_buckets_further(self) -> None:
        assert bucket_of(0.2001) - bucket_of(0.1) == 2


class TestPick:
    def test_an_empty_pool_has_nobody(self) -> None:
        assert Pool().pick(random.Random(0).random) is None

    def test_the_fastest_bucket_is_taken_first(self) -> None:
        pool = pool_of(seat("slow", 5.0), seat("fast", 0.1), seat("slower", 9.0))
        picked = {id_of(pool.pick(random.Random(each).random)) for each in range(50)}
        assert picked == {"fast"}

    def test_the_unmeasured_are_tried_before_the_slow(self) -> None:
        assert id_of(pool_of(seat("slow", 5.0), seat("new")).pick(random.Random(0).random)) == "new"

    def test_of_two_random_members_of_a_bucket_the_faster_is_taken(self) -> None:
        pool = pool_of(seat("a", 1.00), seat("b", 1.01), seat("c", 1.02))
        assert id_of(pool.pick(draw_of(0.9, 0.5).random)) == "b"
        assert id_of(pool.pick(draw_of(0.5, 0.0).random)) == "a"

    def test_all_of_a_bucket_have_their_turn(self) -> None:
        pool, draw = pool_of(*(seat(f"a{each}", 1.0) for each in range(10))), random.Random(1).random
        assert len({id_of(pool.pick(draw)) for _ in range(500)}) == 10

    def test_the_unheard_are_a_last_resort_however_fast(self) -> None:
        pool = pool_of(seat("unheard", 0.001, Liveness.UNHEARD), seat("slow", 500.0))
        assert id_of(pool.pick(random.Random(0).random)) == "slow"
        pool.take(pool.seats["slow"])
        assert id_of(pool.pick(random.Random(0).random)) == "unheard"

    def test_a_filter_is_asked_and_goes_on_to_slower_buckets(self) -> None:
        pool = pool_of(seat("fast", 0.1), seat("slow", 5.0))
        assert id_of(pool.pick(random.Random(0).random, lambda each: each.latency_s > 1)) == "slow"
        assert pool.pick(random.Random(0).random, lambda _: False) is None

    def test_a_filter_looks_at_eight_of_a_bucket_at_most(self) -> None:
        pool, looks = pool_of(*(seat(f"a{each}") for each in range(1_000))), []

        def nobody(each: Seat) -> bool:
            looks.append(each)
            return False

        assert pool.pick(random.Random(0).random, nobody) is None
        assert len(looks) == LOOKS_MAX == 8

    def test_when_eight_looks_are_not_enough_the_one_who_fits_is_found(self) -> None:
        pool = pool_of(*(seat(f"a{each}", each % 5) for each in range(1_000)))
        assert id_of(pool.find(lambda each: each.member.profile.agent_id == "a777")) == "a777"
        assert pool.find(lambda _: False) is None


class TestBuckets:
    def test_who_is_put_twice_is_there_once(self) -> None:
        lonely = seat()
        pool = pool_of(lonely)
        pool.put(lonely)
        assert pool.free == 1
        pool.take(lonely)
        pool.take(lonely)
        assert pool.free == 0
        assert lonely.bucket == NOWHERE

    def test_who_became_slower_moves_to_another_bucket(self) -> None:
        changing = seat("changing", 0.1)
        pool = pool_of(changing, seat("steady", 1.0))
        changing.latency_s = 10.0
        pool.put(changing)
        assert pool.free == 2
        assert id_of(pool.pick(random.Random(0).random)) == "steady"

    def test_who_is_forgotten_counts_no_more(self) -> None:
        gone, out = seat("gone"), seat("out")
        pool = pool_of(gone, out)
        pool.take(out)
        out.why_out, pool.out = "draining", 1
        pool.forget(gone)
        pool.forget(out)
        assert (pool.free, pool.usable, pool.out, pool.seats) == (0, 0, 0, {})

    @settings(max_examples=60, derandomize=True)
    @given(st.randoms(use_true_random=False))
    def test_buckets_agree_with_a_plain_list_through_any_changes(self, draw: random.Random) -> None:
        seats = [seat(f"a{each}") for each in range(12)]
        pool, free = Pool(), set[Seat]()
        for _ in range(150):
            each = draw.choice(seats)
            if draw.random() < 0.6:
                each.latency_s = draw.choice([0.0, 0.001, 0.1, 0.11, 1.0, 60.0])
                each.member.liveness = draw.choice([Liveness.HEARD, Liveness.HEARD, Liveness.UNHEARD])
                pool.put(each)
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
        pool.seats[each.member.profile.agent_id] = each
        each.why_out, each.ready_at = "cooling down", ready_at
        pool.expect(each)

    def test_nobody_out_means_nobody_returns(self) -> None:
        assert Pool().first_return() == math.inf

    def test_the_earliest_of_those_out_is_known(self) -> None:
        pool = Pool()
        for number, ready_at in enumerate((30.0, 10.0, 20.0)):
            self.out(pool, seat(f"a{number}"), ready_at)
        assert pool.first_return() == 10.0

    def test_who_came_back_or_was_put_off_no_longer_counts(self) -> None:
        pool, early, late = Pool(), seat("early"), seat("late")
        self.out(pool, early, 10.0)
        self.out(pool, late, 20.0)
        self.out(pool, early, 40.0)
        assert pool.first_return() == 20.0
        late.why_out = ""
        assert pool.first_return() == 40.0

    def test_whom_only_a_command_brings_back_is_not_expected(self) -> None:
        pool = Pool()
        self.out(pool, seat("offline"), math.inf)
        assert pool.first_return() == math.inf

    def test_looking_again_and_again_at_the_same_agents_keeps_no_more_than_a_few_entries_each(self) -> None:
        pool, resting, flapping = Pool(), seat("resting"), seat("flapping")
        self.out(pool, resting, 300.0)
        for moment in range(10_000):
            self.out(pool, flapping, 301.0 + moment / 1_000)
        assert pool.first_return() == 300.0
        assert len(pool._returns) < 1_000


class TestMember:
    def test_what_a_new_registration_still_offers_keeps_its_speed(self) -> None:
        member = Member(agent("a", "test.kept", "test.dropped"))
        member.seats["test.kept"].latency_s = 0.7
        member.become(agent("a", "test.kept", Capability("test.new", version="2.1"), slots=9))
        assert member.seats.keys() == {"test.kept", "test.new@2"}
        assert member.seats["test.kept"].latency_s == 0.7
        assert member.slots == 9

    def test_a_new_registration_ends_draining_and_being_set_aside(self) -> None:
        member = Member(agent("a"))
        member.draining = member.set_aside = True
        member.become(agent("a"))
        assert not member.draining
        assert not member.set_aside
