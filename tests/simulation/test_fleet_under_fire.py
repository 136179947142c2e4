"""Twenty unequal agents in trouble for minutes, thousands of tasks: nothing is lost, nothing leaks, all heal."""

import asyncio
import random

import pytest

from tests.simulation.fleet_under_fire import AGENTS, Fire, Moody, Report, suffer
from tests.unit.flow_kit import now

SEEDS = [1, 2]
TASKS_PER_S = 15.0


async def everybody_suffers(agents: list[Moody], _draw: random.Random) -> None:
    """Crashes, hangs, crawling, flapping, errors, refusals and lost answers, all the time and everywhere."""
    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(suffer(agent, now() + 150.0))


async def a_third_dies_at_once(agents: list[Moody], draw: random.Random) -> None:
    """Three times, for half a minute each."""
    for _ in range(3):
        await asyncio.sleep(20.0)
        dead = draw.sample(agents, k=AGENTS // 3)
        for agent in dead:
            agent.kill()
        await asyncio.sleep(30.0)
        for agent in dead:
            agent.revive()


async def all_die_at_once(agents: list[Moody], _draw: random.Random) -> None:
    """For a minute; whatever was accepted waits."""
    await asyncio.sleep(30.0)
    for agent in agents:
        agent.kill()
    await asyncio.sleep(60.0)
    for agent in agents:
        agent.revive()


async def nothing_happens(_agents: list[Moody], _draw: random.Random) -> None:
    """A quiet day."""


def told(report: Report) -> str:
    return f"seed {report.seed}: {report.ends} {report.chains} {report.outcomes}"


def check(report: Report) -> None:
    assert report.left_over == {}, told(report)
    assert report.ended_wrongly == [], told(report)
    assert report.executed_twice == [], told(report)
    assert report.expired_leases == 0, told(report)
    assert report.chains["lost"] == 0, told(report)
    assert report.out_at_end == [], told(report)
    assert min(report.served_late.values()) > 0, f"{report.served_late} {told(report)}"
    assert sum(report.ends.values()) > 3_000, told(report)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed={seed}")
def test_under_every_trouble_at_once_nothing_is_lost_and_all_heal(seed: int) -> None:
    report = Fire(seed, TASKS_PER_S, everybody_suffers).run()
    check(report)
    idempotent = {end: count for end, count in report.ends.items() if not end.startswith("once: ")}
    assert idempotent["COMPLETED"] >= 0.99 * (sum(idempotent.values()) - idempotent.get("cancelled", 0)), told(report)
    assert report.chains["COMPLETED"] >= 0.93 * sum(report.chains.values()), told(report)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed={seed}")
def test_a_third_dead_at_once_costs_no_task_that_may_be_sent_again(seed: int) -> None:
    report = Fire(seed, TASKS_PER_S, a_third_dies_at_once).run()
    check(report)
    lost = {end for end in report.ends if not end.startswith("once: ")} - {"COMPLETED", "cancelled"}
    assert lost == set(), told(report)
    assert set(report.chains) <= {"COMPLETED", "CANCELLED"}, told(report)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed={seed}")
def test_with_all_dead_accepted_work_waits_and_direct_calls_are_told(seed: int) -> None:
    report = Fire(seed, TASKS_PER_S, all_die_at_once).run()
    check(report)
    assert report.ends["no_agent_available"] > 50, told(report)
    assert report.ends["deadline_exceeded"] == 0, told(report)
    assert set(report.chains) <= {"COMPLETED", "CANCELLED"}, told(report)


def test_on_a_quiet_day_nothing_is_tried_twice() -> None:
    report = Fire(1, TASKS_PER_S, nothing_happens).run()
    check(report)
    assert set(report.ends) == {"COMPLETED", "cancelled"}, told(report)
    assert set(report.outcomes) == {"SUCCESS", "CANCELLED"}, told(report)


def test_the_same_seed_gives_the_same_trace_to_the_last_callback_and_another_seed_another() -> None:
    first, again, other = (Fire(seed, TASKS_PER_S, everybody_suffers).run() for seed in (7, 7, 8))
    assert first == again
    assert first.trace != other.trace
