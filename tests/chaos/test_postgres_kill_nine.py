"""Two servers on one PostgreSQL, one or the other killed with -9 at random moments: what was promised holds."""

import random
from pathlib import Path

import pytest

from tests.chaos.postgres_deployment import postgres_deployment
from tests.chaos.siege import KillNine, Plan, besiege

KILLS = 8
CUSTOMERS = 10
pytestmark = pytest.mark.timeout(300)  # a machine that does much else takes many times as long


def test_nothing_accepted_is_lost_or_done_twice_however_often_replicas_are_killed(tmp_path: Path) -> None:
    plan = Plan(KILLS, random.SystemRandom().randrange(1_000_000), CUSTOMERS)
    shown = f"--kills {plan.strikes} --seed {plan.seed} --customers {plan.customers}"
    print(f"again: make chaos ARGS='--database postgresql {shown}'")  # noqa: T201 - shown when it fails
    with postgres_deployment(tmp_path, replicas=2) as deployment:
        outcome = besiege(deployment, tmp_path, plan, KillNine(), tell=lambda _: None)

    assert outcome.breaches == [], f"seed {plan.seed}"
    assert outcome.figures["strikes"] == KILLS
    assert outcome.figures["chains"] >= CUSTOMERS
    assert outcome.figures["highest epoch"] > 1, "no chain was in flight at a kill"
