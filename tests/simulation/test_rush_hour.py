"""Rush hour on a fleet in trouble: nothing is lost, no slot leaks, nobody starves, and everybody keeps the order."""

import asyncio
import random

import pytest

from aicp.model.task import Priority
from tests.simulation.fleet_under_fire import Moody, crawling, flap, hanging, suffer
from tests.simulation.rush_hour import AGENTS, RUSH_S, Disaster, Rush, RushHour
from tests.unit.flow_kit import now

SEEDS = [1, 2]


async def nothing(_agents: list[Moody], _draw: random.Random) -> None:
    """A busy day, and all are well."""


async def a_third_dies(agents: list[Moody], draw: random.Random) -> None:
    """At once, for a quarter of a minute."""
    await asyncio.sleep(10.0)
    dead = draw.sample(agents, k=AGENTS // 3)
    for agent in dead:
        agent.kill()
    await asyncio.sleep(15.0)
    for agent in dead:
        agent.revive()


async def a_third_flaps(agents: list[Moody], draw: random.Random) -> None:
    """Up and down every second or so."""
    await asyncio.sleep(5.0)
    async with asyncio.TaskGroup() as group:
        for agent in draw.sample(agents, k=AGENTS // 3):
            group.create_task(flap(agent, RUSH_S - 10.0))


async def some_hang(agents: list[Moody], draw: random.Random) -> None:
    """An eighth of them take tasks and say nothing."""
    await asyncio.sleep(5.0)
    for agent in draw.sample(agents, k=AGENTS // 8):
        agent.mood = hanging
    await asyncio.sleep(20.0)


async def some_crawl(agents: list[Moody], draw: random.Random) -> None:
    """An eighth of them become ten times as slow."""
    await asyncio.sleep(5.0)
    for agent in draw.sample(agents, k=AGENTS // 8):
        agent.mood = crawling
    await asyncio.sleep(20.0)


async def everything(agents: list[Moody], _draw: random.Random) -> None:
    """All of it, all the time and everywhere."""
    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(suffer(agent, now() + RUSH_S))


def told(rush: Rush) -> str:
    return f"seed {rush.seed}: {rush.asked} tasks, {dict(rush.ends)}"


def check(rush: Rush) -> None:
    assert rush.total.total() == rush.asked, told(rush)
    assert rush.out_of_turn == [], told(rush)
    assert rush.left_over == {}, told(rush)
    assert rush.expired_leases == 0, told(rush)
    assert rush.asked > 500, told(rush)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed={seed}")
@pytest.mark.parametrize(
    ("disaster", "load"),
    [(nothing, 0.8), (a_third_dies, 0.53), (a_third_flaps, 0.53), (some_hang, 0.7), (some_crawl, 0.7)],
)
def test_every_task_is_done_at_four_fifths_of_what_those_can_do_that_are_well(
    disaster: Disaster, load: float, seed: int
) -> None:
    rush = RushHour(seed, load, disaster).run()
    check(rush)
    assert set(rush.total) == {"COMPLETED"}, told(rush)
    assert rush.held > 0 or disaster is not nothing, "nobody was ever held for a faster agent"


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed={seed}")
def test_under_everything_at_once_no_task_is_lost_and_all_keep_their_turn(seed: int) -> None:
    rush = RushHour(seed, 0.5, everything).run()
    check(rush)
    assert rush.total["COMPLETED"] > 0.9 * rush.asked, told(rush)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed={seed}")
def test_in_an_overload_the_less_urgent_give_way_and_high_priority_is_done(seed: int) -> None:
    rush = RushHour(seed, 1.5, nothing, deadline_s=10.0).run()
    check(rush)
    done = {priority: ends["COMPLETED"] / ends.total() for priority, ends in rush.by_priority.items()}
    assert done["low"] + 0.1 < done["normal"] < done["high"], told(rush)
    assert done["high"] > 0.98, told(rush)


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed={seed}")
def test_a_greedy_tenant_costs_the_modest_ones_nothing(seed: int) -> None:
    shares = {"greedy": 1.3, "coil": 0.1, "dune": 0.1}
    rush = RushHour(seed, 1.5, nothing, shares, priorities=[Priority.NORMAL]).run()
    check(rush)
    assert set(rush.ends["coil"]) == set(rush.ends["dune"]) == {"COMPLETED"}, told(rush)
    assert max(rush.waits["coil"], rush.waits["dune"]) < rush.waits["greedy"] / 2, rush.waits


def test_the_same_seed_gives_the_same_trace_to_the_last_callback_and_another_seed_another() -> None:
    first, again, other = (RushHour(seed, 0.8, everything).run() for seed in (7, 7, 8))
    assert first == again
    assert first.trace != other.trace
