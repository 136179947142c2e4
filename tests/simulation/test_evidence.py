"""Minutes of failures that may be the task's fault, on virtual time: who is blamed, and what is lost."""

import asyncio
import random
from collections.abc import Callable

import pytest

from aicp.errors import AicpError
from aicp.model.task import Call, TaskStatus
from aicp.resilience.circuit_breaker import CircuitState
from aicp.testing import run, running_loop
from aicp.testing.faulty_agents import ScriptedAgent, Step, ok, server_error
from tests.unit.flow_kit import Flow, task

SEEDS = [11, 12, 13]


class Openings:
    """When circuits opened, in seconds of the run."""

    def __init__(self, flow: Flow) -> None:
        self.at_s: list[float] = []
        refresh = flow.scheduler.refresh

        def listen(agent_id: str, transition: object) -> None:
            if getattr(transition, "new", None) is CircuitState.OPEN:
                self.at_s.append(elapsed_s())
            refresh(agent_id)

        flow.board.listen(listen)


def elapsed_s() -> float:
    """Seconds since the start of the run."""
    return running_loop().time() - running_loop().start_s


def when(is_down: Callable[[], bool], broken: Step | None = None) -> Step:
    """Fail while `is_down`, as agents do whose backend is gone; else succeed."""
    good, bad = ok(), broken or server_error(500, after_s=0.005)

    async def step(agent: ScriptedAgent, call: Call) -> object:
        return await (bad if is_down() else good)(agent, call)

    return step  # type: ignore[return-value]


async def arrivals(flow: Flow, *, per_s: float, until_s: float, draw: random.Random) -> list[bool]:
    """Accepted tasks by chance, one after the other; whether each was done."""
    done: list[bool] = []

    async def one() -> None:
        try:
            result = await flow.router.route_task(task(deadline_s=120.0), wait=True)
        except AicpError:
            done.append(False)
        else:
            done.append(result.status is TaskStatus.COMPLETED)

    async with asyncio.TaskGroup() as group:
        while elapsed_s() < until_s:
            group.create_task(one())
            await asyncio.sleep(draw.expovariate(per_s))
    return done


@pytest.mark.parametrize("seed", SEEDS)
def test_a_shared_backend_that_is_down_for_three_seconds(seed: int) -> None:
    """At most 1 % of the accepted tasks are lost, and 5 s after its return no circuit is out or opens again."""

    async def scenario() -> None:
        down_s, up_s = 20.0, 23.0
        is_down = lambda: down_s <= elapsed_s() < up_s  # noqa: E731
        agents = [
            ScriptedAgent(f"a{n}", otherwise=when(is_down), latency_s=0.05, max_concurrent_tasks=8) for n in range(2)
        ]
        async with Flow(*agents, seed=seed) as flow:
            openings = Openings(flow)
            done = await arrivals(flow, per_s=60.0, until_s=80.0, draw=random.Random(seed))
            print(f"seed {seed}: {done.count(False)} of {len(done)} lost, opened at {openings.at_s}")  # noqa: T201
            assert done.count(False) <= 0.01 * len(done)
            assert openings.at_s, "the outage was noticed"
            assert all(at_s < up_s + 5.0 for at_s in openings.at_s)
            assert {flow.state("a0"), flow.state("a1")} == {CircuitState.CLOSED}

    run(scenario())


@pytest.mark.parametrize("seed", SEEDS)
def test_a_black_hole_that_answers_500_at_once_for_ten_minutes(seed: int) -> None:
    """At most 40 of 6,000 tasks go to it first, and none is lost."""

    async def scenario() -> None:
        hole = ScriptedAgent("hole", otherwise=server_error(500, after_s=0.001), max_concurrent_tasks=4)
        good = [ScriptedAgent(f"a{n}", latency_s=0.2, max_concurrent_tasks=4) for n in range(3)]
        async with Flow(hole, *good, seed=seed) as flow:
            done = await arrivals(flow, per_s=10.0, until_s=600.0, draw=random.Random(seed))
            first = sum(call.call.attempt == 1 for call in hole.calls)
            print(f"seed {seed}: {first} of {len(done)} tasks saw it first")  # noqa: T201
            assert first <= 40
            assert all(done)

    run(scenario())


@pytest.mark.parametrize("seed", SEEDS)
def test_poison_among_good_tasks_takes_no_agent_away(seed: int) -> None:
    """One task in twenty makes every handler raise: all others are done, and no circuit opens."""

    async def scenario() -> None:
        draw = random.Random(seed)
        agents = [ScriptedAgent(f"a{n}", otherwise=_picky(), latency_s=0.05, max_concurrent_tasks=4) for n in range(3)]
        async with Flow(*agents, seed=seed) as flow:
            openings = Openings(flow)
            ended: list[tuple[bool, bool]] = []

            async def one(*, bad: bool) -> None:
                try:
                    await flow.router.route_task(task(params={"bad": bad}, deadline_s=120.0), wait=True)
                except AicpError:
                    ended.append((bad, False))
                else:
                    ended.append((bad, True))

            async with asyncio.TaskGroup() as group:
                for _ in range(3_000):
                    group.create_task(one(bad=draw.random() < 0.05))
                    await asyncio.sleep(draw.expovariate(50.0))
            print(f"seed {seed}: {sum(bad for bad, _ in ended)} bad tasks of {len(ended)}")  # noqa: T201
            assert all(done is not bad for bad, done in ended)
            assert openings.at_s == []

    run(scenario())


def _picky() -> Step:
    good, bad = ok(), server_error()

    async def step(agent: ScriptedAgent, call: Call) -> object:
        return await (bad if call.params["bad"] else good)(agent, call)

    return step  # type: ignore[return-value]
