"""Circuits by name in opaque groups: made on the first failure, ordered about by group (section 2)."""

import math
from collections.abc import Callable

import pytest

from aicp.resilience.board import CircuitBoard
from aicp.resilience.circuit_breaker import DEFAULT_POLICY, BreakerPolicy, CircuitState, Transition
from aicp.testing import ManualClock

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
FORCED_OPEN, DISABLED = CircuitState.FORCED_OPEN, CircuitState.DISABLED


class Rig:
    """A board whose time stands still until told, without jitter."""

    def __init__(
        self, policy: BreakerPolicy = DEFAULT_POLICY, *, gated: bool = False, circuits_max: int = 100_000
    ) -> None:
        self.clock = ManualClock()
        self.told: list[tuple[str, str, CircuitState]] = []
        self.board = CircuitBoard(
            policy,
            clock=self.clock.monotonic,
            uniform=lambda low, high: (low + high) / 2,
            gated=gated,
            listener=self.listen,
            circuits_max=circuits_max,
        )

    def listen(self, group: str, transition: Transition) -> None:
        self.told.append((group, transition.name, transition.new))

    def fail(self, group: str = "eyes-1", name: str = "label", times: int = 1) -> None:
        for _ in range(times):
            self.board.record_failure(group, name, self.board.try_acquire(group, name))

    def succeed(self, group: str = "eyes-1", name: str = "label", times: int = 1) -> None:
        for _ in range(times):
            self.board.record_success(group, name, self.board.try_acquire(group, name))

    def to_open(self, group: str = "eyes-1", name: str = "label") -> None:
        self.fail(group, name, times=5)
        assert self.board.get_state(group, name) is OPEN

    def admits(self, group: str = "eyes-1", name: str = "label") -> bool:
        permit = self.board.try_acquire(group, name)
        self.board.release(group, name, permit)
        return permit > 0


# Made on the first failure.


def test_whoever_never_failed_costs_nothing() -> None:
    rig = Rig()
    for number in range(1_000):
        rig.succeed(f"agent-{number}")
        rig.board.release(f"agent-{number}", "label", rig.board.try_acquire(f"agent-{number}", "label"))
    assert len(rig.board) == 0
    assert rig.board.get_state("agent-1") is CLOSED
    assert rig.board.get_metrics("agent-1") == {}
    assert rig.board.ready_in_s("agent-1", "label") == 0


def test_a_circuit_is_made_on_the_first_failure_and_counts_it() -> None:
    rig = Rig()
    rig.fail()
    assert len(rig.board) == 1
    rig.fail(times=4)
    assert rig.board.get_state("eyes-1", "label") is OPEN
    assert rig.board.get_metrics("eyes-1")["label"].failures == 5


def test_permits_given_before_the_circuit_was_made_are_its_own() -> None:
    rig = Rig()
    in_flight = [rig.board.try_acquire("eyes-1", "label") for _ in range(5)]
    for permit in in_flight:
        rig.board.record_failure("eyes-1", "label", permit)
    assert rig.board.get_state("eyes-1", "label") is OPEN
    assert rig.board.get_metrics("eyes-1")["label"].late == 0


def test_a_slow_call_makes_the_circuit_where_slow_calls_count() -> None:
    """Else an agent that is always slow and never fails would never be found out."""
    rig = Rig(BreakerPolicy(slow_call_s=2.0, slow_call_rate=0.5, window=10, window_calls_min=4))
    for _ in range(4):
        rig.board.record_success("eyes-1", "label", rig.board.try_acquire("eyes-1", "label"), 9.0)
    assert rig.board.get_state("eyes-1", "label") is OPEN


def test_a_slow_call_costs_nothing_where_slow_calls_do_not_count() -> None:
    rig = Rig(BreakerPolicy(slow_call_s=2.0))
    rig.board.record_success("eyes-1", "label", rig.board.try_acquire("eyes-1", "label"), 9.0)
    assert len(rig.board) == 0


def test_circuits_of_a_group_are_apart() -> None:
    rig = Rig()
    rig.to_open("eyes-1", "label")
    assert rig.admits("eyes-1", "describe")
    assert rig.admits("eyes-2", "label")
    assert rig.board.get_state("eyes-1", "describe") is CLOSED


def test_circuits_behave_as_breakers_do() -> None:
    rig = Rig()
    rig.to_open()
    assert not rig.admits()
    rig.clock.advance(rig.board.ready_in_s("eyes-1", "label"))
    assert rig.board.try_acquire("eyes-1", "label", probe_lease_s=5.0)
    assert not rig.admits()
    rig.clock.advance(5.0)
    rig.succeed(times=3)
    assert rig.board.get_state("eyes-1", "label") is CLOSED


# Bounds.


def test_a_full_board_forgets_an_idle_circuit_for_a_new_one() -> None:
    rig = Rig(circuits_max=3)
    for number in range(3):
        rig.fail(f"agent-{number}")
    rig.succeed("agent-1")
    rig.fail("agent-3")
    assert len(rig.board) == 3
    assert rig.board.get_metrics("agent-1") == {}
    assert set(rig.board.get_metrics("agent-3")) == {"label"}
    assert rig.board.overflowed == 0


def test_a_full_board_of_busy_circuits_counts_what_it_cannot_keep() -> None:
    rig = Rig(circuits_max=2)
    rig.to_open("agent-1")
    rig.fail("agent-2")
    rig.fail("agent-3", times=7)
    assert (len(rig.board), rig.board.overflowed) == (2, 7)
    assert rig.board.get_state("agent-1") is OPEN
    assert rig.admits("agent-3")


@pytest.mark.parametrize(
    "disturb",
    [
        lambda rig: rig.fail("busy"),
        lambda rig: rig.board.cool_down("busy", 5.0),
        lambda rig: rig.board.force_open("busy"),
        lambda rig: rig.to_open("busy"),
    ],
    ids=["failing", "cooling", "forced", "open"],
)
def test_a_circuit_that_would_be_missed_is_never_forgotten(disturb: Callable[[Rig], None]) -> None:
    rig = Rig(circuits_max=1)
    rig.fail("busy")
    rig.succeed("busy")
    disturb(rig)
    rig.fail("other")
    assert set(rig.board.get_metrics("busy")) == {"label"}
    assert rig.board.overflowed == 1


def test_a_circuit_that_closed_a_moment_ago_is_not_idle_yet() -> None:
    rig = Rig(circuits_max=1)
    rig.to_open("busy")
    rig.clock.advance(1.0)
    rig.succeed("busy", times=3)
    rig.fail("other")
    assert rig.board.overflowed == 1
    rig.clock.advance(10.0)
    rig.fail("other")
    assert set(rig.board.get_metrics("other")) == {"label"}


def test_a_verdict_from_before_a_circuit_was_forgotten_is_late() -> None:
    rig = Rig(BreakerPolicy(failure_threshold=1, success_threshold=1), circuits_max=1)
    very_slow = rig.board.try_acquire("eyes-1", "label")
    rig.fail("eyes-1")
    rig.clock.advance(1.0)
    rig.succeed("eyes-1")
    rig.clock.advance(10.0)
    rig.fail("eyes-2")
    assert rig.board.get_metrics("eyes-1") == {}, "forgotten"
    rig.clock.advance(1.0)
    rig.succeed("eyes-2")
    rig.clock.advance(10.0)
    rig.board.record_failure("eyes-1", "label", very_slow)
    assert rig.board.get_state("eyes-1", "label") is CLOSED


# Evidence without a permit.


def test_evidence_counts_against_every_circuit_it_names() -> None:
    rig = Rig()
    for _ in range(5):
        rig.board.record_evidence("eyes-1", ["label", "describe"])
    assert rig.board.get_state("eyes-1", "label") is OPEN
    assert rig.board.get_state("eyes-1", "describe") is OPEN
    assert rig.board.get_state("eyes-1", "crop") is CLOSED


# Group-wide orders hold for circuits that exist and for those made later.


def test_cooling_down_holds_for_the_whole_group() -> None:
    rig = Rig()
    rig.fail("eyes-1", "label")
    rig.board.cool_down("eyes-1", 20.0)
    rig.board.cool_down("eyes-1", 1.0)
    for name in ("label", "describe"):
        assert not rig.admits("eyes-1", name)
        assert rig.board.ready_in_s("eyes-1", name) == 20.0
    assert rig.admits("eyes-2", "label")
    rig.clock.advance(20.0)
    assert rig.admits("eyes-1", "label")
    assert rig.admits("eyes-1", "describe")


def test_a_circuit_made_while_its_group_cools_keeps_the_promise() -> None:
    rig = Rig()
    in_flight = rig.board.try_acquire("eyes-1", "label")
    rig.board.cool_down("eyes-1", 20.0)
    rig.clock.advance(5.0)
    rig.board.record_failure("eyes-1", "label", in_flight)
    assert rig.board.get_metrics("eyes-1")["label"].failures_in_row == 1, "cooling ends no generation"
    assert rig.board.ready_in_s("eyes-1", "label") == 15.0


def test_forcing_open_holds_for_the_whole_group_until_reset() -> None:
    rig = Rig()
    rig.fail("eyes-1", "label")
    in_flight = rig.board.try_acquire("eyes-1", "describe")
    rig.board.force_open("eyes-1")
    rig.board.record_failure("eyes-1", "describe", in_flight)
    for name in ("label", "describe", "never made"):
        assert rig.board.get_state("eyes-1", name) is FORCED_OPEN
        assert rig.board.ready_in_s("eyes-1", name) == math.inf
        assert not rig.admits("eyes-1", name)
    rig.clock.advance(86_400.0)
    assert not rig.admits("eyes-1", "never made")
    rig.board.reset("eyes-1")
    for name in ("label", "describe", "never made"):
        assert rig.admits("eyes-1", name)


def test_disabling_holds_for_the_whole_group_until_reset() -> None:
    rig = Rig()
    rig.to_open("eyes-1", "label")
    rig.board.cool_down("eyes-1", 300.0)
    rig.board.disable("eyes-1")
    for name in ("label", "describe"):
        rig.fail("eyes-1", name, times=100)
        assert rig.admits("eyes-1", name)
        assert rig.board.get_state("eyes-1", name) is DISABLED
        assert rig.board.ready_in_s("eyes-1", name) == 0
    rig.board.reset("eyes-1")
    rig.to_open("eyes-1", "describe")


def test_a_new_instance_admits_probes_at_once_everywhere() -> None:
    rig = Rig(gated=True)
    rig.to_open("eyes-1", "label")
    rig.board.cool_down("eyes-1", 300.0)
    rig.board.new_instance("eyes-1")
    for name in ("label", "describe"):
        assert rig.board.ready_in_s("eyes-1", name) == 0
        assert rig.admits("eyes-1", name)
    assert rig.board.get_state("eyes-1", "label") is HALF_OPEN


def test_a_new_instance_does_not_undo_what_an_operator_ordered() -> None:
    rig = Rig()
    rig.board.force_open("eyes-1")
    rig.board.new_instance("eyes-1")
    assert not rig.admits("eyes-1", "never made")


@pytest.mark.parametrize("order", ["force_open", "disable", "reset", "new_instance"])
def test_a_verdict_from_before_an_order_is_late_for_circuits_made_later_too(order: str) -> None:
    """Else the calls that died with the old process would open the circuits of the new one."""
    rig = Rig()
    in_flight = [rig.board.try_acquire("eyes-1", "label") for _ in range(5)]
    getattr(rig.board, order)("eyes-1")
    if order in {"force_open", "disable"}:
        rig.board.reset("eyes-1")
    for permit in in_flight:
        rig.board.record_failure("eyes-1", "label", permit)
    assert rig.board.get_state("eyes-1", "label") is CLOSED
    rig.fail(times=4)
    assert rig.board.get_state("eyes-1", "label") is CLOSED, "nor do they count beside those of the new one"


def test_reset_forgets_failures_promises_and_orders() -> None:
    rig = Rig()
    rig.to_open("eyes-1", "label")
    rig.to_open("eyes-1", "describe")
    rig.board.cool_down("eyes-1", 300.0)
    rig.board.reset("eyes-1")
    assert rig.board.get_state("eyes-1") is CLOSED
    assert rig.admits("eyes-1", "label")
    assert rig.admits("eyes-1", "never made")
    rig.to_open("eyes-1", "label")
    assert rig.board.ready_in_s("eyes-1", "label") == pytest.approx(1.0)


def test_orders_to_a_group_nobody_knows_hold_when_it_comes() -> None:
    rig = Rig()
    rig.board.reset("eyes-1")
    rig.board.new_instance("eyes-2")
    rig.board.force_open("eyes-3")
    assert [rig.admits(f"eyes-{number}") for number in (1, 2, 3)] == [True, True, False]


def test_a_removed_group_is_forgotten_with_its_circuits_and_orders() -> None:
    rig = Rig(circuits_max=2)
    rig.to_open("eyes-1", "label")
    rig.to_open("eyes-1", "describe")
    rig.board.force_open("eyes-1")
    rig.board.remove("eyes-1")
    assert len(rig.board) == 0
    assert rig.board.get_state("eyes-1") is CLOSED
    assert rig.admits("eyes-1", "label")
    rig.to_open("eyes-2", "label")
    assert rig.board.overflowed == 0, "and their places are free"


def test_removing_a_group_nobody_knows_does_nothing() -> None:
    rig = Rig()
    rig.board.remove("eyes-1")
    assert len(rig.board) == 0


# The gate and the cap.


def test_a_gated_circuit_past_its_wait_needs_a_probe() -> None:
    rig = Rig(gated=True)
    assert not rig.board.needs_probe("eyes-1", "label")
    rig.to_open()
    assert rig.board.needs_probe("eyes-1", "label")
    rig.clock.advance(1.0)
    assert rig.board.ready_in_s("eyes-1", "label") == 0
    assert not rig.admits()
    rig.board.admit_probe("eyes-1", ["label", "never made"])
    assert rig.admits()
    assert not rig.board.needs_probe("eyes-1", "label")


def test_an_ungated_circuit_never_needs_one() -> None:
    rig = Rig()
    rig.to_open()
    assert not rig.board.needs_probe("eyes-1", "label")


def test_a_failed_probe_means_the_next_wait_for_the_circuits_it_names() -> None:
    rig = Rig(gated=True)
    rig.to_open("eyes-1", "label")
    rig.to_open("eyes-1", "describe")
    rig.board.probe_failed("eyes-1", ["label", "never made"])
    assert rig.board.ready_in_s("eyes-1", "label") == pytest.approx(1.5)
    assert rig.board.ready_in_s("eyes-1", "describe") == pytest.approx(1.0)


def test_waits_of_one_name_can_be_capped_across_groups() -> None:
    rig = Rig(gated=True)
    for group in ("eyes-1", "eyes-2"):
        for name in ("label", "describe"):
            rig.to_open(group, name)
            for _ in range(12):
                rig.board.probe_failed(group, [name])
    rig.board.cap_waits(["eyes-1", "eyes-2", "never known"], "label", 5.0)
    for group in ("eyes-1", "eyes-2"):
        assert rig.board.ready_in_s(group, "label") == pytest.approx(5.0)
        assert rig.board.ready_in_s(group, "describe") == pytest.approx(60.0)


# What can be seen.


def test_the_state_of_a_group_is_the_worst_of_its_circuits() -> None:
    rig = Rig(gated=True)
    rig.fail("eyes-1", "label")
    assert rig.board.get_state("eyes-1") is CLOSED
    rig.to_open("eyes-1", "describe")
    rig.board.admit_probe("eyes-1", ["describe"])
    assert rig.board.get_state("eyes-1") is HALF_OPEN
    rig.to_open("eyes-1", "crop")
    assert rig.board.get_state("eyes-1") is OPEN
    rig.board.force_open("eyes-1")
    assert rig.board.get_state("eyes-1") is FORCED_OPEN
    rig.board.disable("eyes-1")
    assert rig.board.get_state("eyes-1") is DISABLED


def test_the_listener_is_told_which_circuit_of_which_group() -> None:
    rig = Rig()
    rig.to_open("eyes-1", "label")
    rig.to_open("eyes-2", "describe")
    assert rig.told == [("eyes-1", "label", OPEN), ("eyes-2", "describe", OPEN)]


def test_a_listener_put_in_later_replaces_the_one_before_for_every_circuit() -> None:
    rig = Rig()
    rig.fail("eyes-1")
    told: list[str] = []
    rig.board.listen(lambda group, _: told.append(group))
    rig.fail("eyes-1", times=4)
    assert (told, rig.told) == (["eyes-1"], [])
