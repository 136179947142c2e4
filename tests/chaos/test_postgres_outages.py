"""Replicas whose database dies or loses connections, that stand still, or are restarted: what was promised holds."""

import random
from pathlib import Path

import pytest

from tests.chaos.failovers import DatabasePaused, Failover, Locked
from tests.chaos.outages import CutMidCommit, InTurn, Pause, PostgresKilled, RollingRestart
from tests.chaos.postgres_deployment import postgres_deployment
from tests.chaos.siege import Plan, besiege

CUSTOMERS = 4
OUTAGES = 4
FAILOVERS = 3
pytestmark = pytest.mark.timeout(300)


def test_nothing_is_lost_or_done_twice_when_the_database_dies_commits_get_no_answer_and_a_replica_stands_still(
    tmp_path: Path,
) -> None:
    plan = Plan(OUTAGES, random.SystemRandom().randrange(1_000_000), CUSTOMERS)
    with postgres_deployment(tmp_path, replicas=2, with_ways=True) as deployment:
        cuts = CutMidCommit(deployment)
        storm = InTurn(PostgresKilled(deployment), cuts, Pause(), cuts)
        outcome = besiege(deployment, tmp_path, plan, storm, tell=lambda _: None)
        told = "".join(server.log.read_text(encoding="utf-8") for server in deployment.servers)

    assert outcome.breaches == [], f"seed {plan.seed}"
    assert "was declared dead by a peer" in told, "the pause was too short"
    assert cuts.cuts > 0, "nothing was cut"
    assert outcome.backs_s, "no server came back by itself"


def test_nothing_is_lost_or_done_twice_when_a_standby_takes_over_the_database_stands_still_and_chains_are_locked(
    tmp_path: Path,
) -> None:
    plan = Plan(FAILOVERS, random.SystemRandom().randrange(1_000_000), CUSTOMERS)
    with postgres_deployment(tmp_path, replicas=2, with_ways=True) as deployment:
        locked = Locked(deployment)
        storm = InTurn(Failover(deployment), locked, DatabasePaused(deployment))
        outcome = besiege(deployment, tmp_path, plan, storm, tell=lambda _: None)

    assert outcome.breaches == [], f"seed {plan.seed}"
    assert locked.orders > 0
    assert outcome.backs_s, "no server came back by itself"


def test_no_request_fails_and_nothing_is_done_twice_when_all_servers_are_restarted_one_by_one(tmp_path: Path) -> None:
    plan = Plan(1, random.SystemRandom().randrange(1_000_000), CUSTOMERS, one_door=True)
    with postgres_deployment(tmp_path, replicas=2) as deployment:
        outcome = besiege(deployment, tmp_path, plan, RollingRestart(), tell=lambda _: None)

    assert outcome.breaches == [], f"seed {plan.seed}"
    assert outcome.figures["tasks executed more than once"] == 0
    assert outcome.figures["tasks of unknown outcome"] == 0
