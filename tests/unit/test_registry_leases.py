"""One lease missed is unheard, three are offline, a day is gone."""

import pytest

from aicp.errors import AgentNotFound, AgentReplaced
from aicp.registry.leases import LEASE_TTL_S, Leases, Liveness, LivenessChange
from aicp.testing import ManualClock

DAY_S = 86_400.0
HEARD, UNHEARD, OFFLINE = Liveness.HEARD, Liveness.UNHEARD, Liveness.OFFLINE


class Rig:
    """Leases whose time stands still until told."""

    def __init__(self, *agents: str) -> None:
        self.clock = ManualClock()
        self.leases = Leases(clock=self.clock.monotonic)
        for agent in agents:
            self.leases.grant(agent, "first")

    def after(self, seconds: float) -> list[tuple[str, Liveness | None]]:
        """What a sweep finds out after so many seconds."""
        self.clock.advance(seconds)
        return [(change.agent_id, change.liveness) for change in self.leases.sweep()]


def test_a_lease_holds_for_15_seconds() -> None:
    rig = Rig("a")
    assert LEASE_TTL_S == 15.0
    assert rig.after(14.999) == []
    assert rig.leases.liveness("a") is HEARD
    assert rig.after(0.001) == [("a", UNHEARD)]
    assert rig.leases.liveness("a") is UNHEARD


def test_three_leases_missed_are_offline() -> None:
    rig = Rig("a")
    assert rig.after(15.0) == [("a", UNHEARD)]
    assert rig.after(29.999) == []
    assert rig.after(0.001) == [("a", OFFLINE)]


def test_a_day_of_silence_is_the_end() -> None:
    rig = Rig("a")
    rig.after(45.0)
    assert rig.after(DAY_S - 45.001) == []
    assert rig.after(0.001) == [("a", None)]
    assert rig.leases.liveness("a") is HEARD, "as is everybody without a lease"
    with pytest.raises(AgentNotFound):
        rig.leases.renew("a", "first")


def test_a_late_sweep_does_not_delay_the_next_finding() -> None:
    rig = Rig("a")
    assert rig.after(29.0) == [("a", UNHEARD)]
    assert rig.after(16.0) == [("a", OFFLINE)], "45 s without a sign"


def test_a_sweep_that_comes_much_later_finds_the_state_of_then() -> None:
    rig = Rig("a", "b")
    assert rig.after(100.0) == [("a", OFFLINE), ("b", OFFLINE)]
    assert rig.after(2 * DAY_S) == [("a", None), ("b", None)]


def test_each_finding_is_told_once() -> None:
    rig = Rig("a")
    told = [found for _ in range(200) for found in rig.after(1.0)]
    assert told == [("a", UNHEARD), ("a", OFFLINE)]


def test_heartbeats_keep_an_agent_heard() -> None:
    rig = Rig("a")
    for _ in range(100):
        assert rig.leases.renew("a", "first") is False
        assert rig.after(5.0) == []
    assert rig.leases.liveness("a") is HEARD


@pytest.mark.parametrize("silent_s", [15.0, 45.0, DAY_S - 1])
def test_a_heartbeat_brings_an_agent_back(silent_s: float) -> None:
    rig = Rig("a")
    rig.after(silent_s)
    assert rig.leases.renew("a", "first") is True
    assert rig.leases.renew("a", "first") is False
    assert rig.leases.liveness("a") is HEARD


@pytest.mark.parametrize("silent_s", [15.0, 40.0, 45.0, 5_000.0])
def test_an_agent_that_came_back_and_falls_silent_is_found_in_time(silent_s: float) -> None:
    rig = Rig("a")
    rig.after(silent_s)
    rig.clock.advance(3.0)
    rig.leases.heard("a")
    told = [(second, found) for second in range(1, 100) for found in rig.after(1.0)]
    assert told == [(15, ("a", UNHEARD)), (45, ("a", OFFLINE))]


def test_an_answer_is_as_good_as_a_heartbeat() -> None:
    rig = Rig("a")
    rig.after(20.0)
    assert rig.leases.heard("a") is True
    assert rig.after(14.0) == []
    assert rig.leases.heard("nobody") is False


def test_a_heartbeat_of_an_unknown_agent_asks_it_to_register_again() -> None:
    with pytest.raises(AgentNotFound, match="There is no lease of agent 'a'; register again"):
        Rig().leases.renew("a", "first")


def test_a_heartbeat_of_a_replaced_instance_is_refused_and_renews_nothing() -> None:
    rig = Rig("a")
    rig.leases.grant("a", "second")
    rig.clock.advance(14.0)
    with pytest.raises(AgentReplaced, match="Another instance has registered as 'a'"):
        rig.leases.renew("a", "first")
    assert rig.after(1.0) == [("a", UNHEARD)]


def test_a_new_grant_begins_a_new_lease() -> None:
    rig = Rig("a")
    rig.after(14.0)
    rig.leases.grant("a", "second")
    assert rig.after(14.0) == []
    assert rig.leases.renew("a", "second") is False


def test_a_restored_agent_is_unheard_until_it_is_heard() -> None:
    rig = Rig()
    rig.leases.grant("a", "first", UNHEARD)
    assert rig.leases.liveness("a") is UNHEARD
    assert rig.after(15.0) == [], "which is known already"
    assert rig.after(30.0) == [("a", OFFLINE)]
    assert rig.leases.renew("a", "first") is True


def test_whoever_made_no_promise_is_always_heard() -> None:
    rig = Rig()
    assert rig.after(10 * DAY_S) == []
    assert rig.leases.liveness("a") is HEARD


def test_an_ended_lease_is_never_spoken_of_again() -> None:
    rig = Rig("a")
    rig.leases.end("a")
    rig.leases.end("a")
    assert rig.after(10 * DAY_S) == []


def test_registering_over_and_over_leaves_nothing_behind() -> None:
    rig = Rig()
    for number in range(1_000):
        rig.leases.grant("a", f"instance-{number}")
    rig.after(15.0)
    assert len(rig.leases._due) == 1


def test_a_change_says_who_and_what() -> None:
    rig = Rig("a")
    rig.clock.advance(15.0)
    assert rig.leases.sweep() == [LivenessChange("a", UNHEARD)]


def test_silence_is_told_of_those_who_promised_to_be_heard() -> None:
    rig = Rig("a")
    rig.leases.grant("never", "first", UNHEARD, ends=False)
    rig.after(20.0)
    assert rig.leases.silent_s("a") == 20.0
    rig.leases.renew("a", "first")
    assert rig.leases.silent_s("a") == 0.0
    assert rig.leases.silent_s("never") is None
    assert rig.leases.silent_s("nobody") is None
