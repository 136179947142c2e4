"""The server killed with -9 at twenty random moments, a hundred chains in flight: what was promised holds."""

import random
from pathlib import Path

import pytest

from tests.chaos.deployment import sqlite_deployment
from tests.chaos.siege import CUSTOMERS, KillNine, Plan, besiege

KILLS = 20
# Half a minute on two quiet cores, a good minute beside others; a siege that stands still ends by itself in 90 s.
pytestmark = pytest.mark.timeout(600)


def test_nothing_accepted_is_lost_or_done_twice_however_often_the_server_is_killed(tmp_path: Path) -> None:
    plan = Plan(KILLS, seed=random.SystemRandom().randrange(1_000_000))
    print(f"again: make chaos ARGS='--kills {plan.strikes} --seed {plan.seed}'")  # noqa: T201 - shown when it fails
    with sqlite_deployment(tmp_path) as deployment:
        outcome = besiege(deployment, tmp_path, plan, KillNine(), tell=lambda _: None)

    assert outcome.breaches == [], f"seed {plan.seed}"
    assert outcome.figures["strikes"] == KILLS
    assert outcome.figures["chains"] >= CUSTOMERS
    assert outcome.figures["highest epoch"] > 1, "no chain was in flight at a kill"
    assert outcome.figures["tasks executed more than once"] > 0, "no attempt was in flight at a kill"
