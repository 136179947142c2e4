"""The server killed with -9 under load, and copies of what it leaves damaged: each fault is harmless or reported."""

import random
from pathlib import Path

import pytest

from tests.chaos.deployment import sqlite_deployment
from tests.chaos.flipped_bits import COPIES_A_KILL, FlippedBits
from tests.chaos.siege import Plan, besiege

KILLS, CUSTOMERS = 4, 20
pytestmark = pytest.mark.timeout(600)


def test_single_fault_in_what_a_killed_server_leaves_is_harmless_or_reported(tmp_path: Path) -> None:
    plan = Plan(KILLS, random.SystemRandom().randrange(1_000_000), CUSTOMERS)
    again = f"--storm flipped-bits --kills {plan.strikes} --customers {CUSTOMERS} --seed {plan.seed}"
    print(f"again: make chaos ARGS='{again}'")  # noqa: T201 - shown when it fails
    with sqlite_deployment(tmp_path) as deployment:
        outcome = besiege(deployment, tmp_path, plan, FlippedBits(deployment), tell=lambda _: None)

    assert outcome.breaches == [], f"seed {plan.seed}"
    judged = sum(count for name, count in outcome.figures.items() if name.startswith("faults: "))
    assert judged == KILLS * COPIES_A_KILL
