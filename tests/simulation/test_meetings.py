"""Everything at once, on virtual time and by chance: whatever meets, all is given back, and what is counted fits."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from aicp.errors import AicpError
from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Attempt, Call, Task, TaskStatus
from aicp.testing import running_loop
from aicp.testing.faulty_agents import (
    ScriptedAgent,
    Step,
    caller_fault,
    crash,
    fault,
    hang,
    misconfigured,
    ok,
    overloaded,
    retryable_error,
    server_error,
    unavailable,
)
from tests.unit.flow_kit import ECHO, Flow, agent, virtual

AGENTS, CHAINS, ROUNDS = 4, 25, 60
ENDED = {TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.SKIPPED}


class Defect(Exception):
    """What a transport raises that must raise nothing."""


def connection_dies(after_s: float) -> Step:
    """A re-used connection that dies under the call; on a fresh one it is served."""

    async def step(scripted: ScriptedAgent, call: Call) -> Reply:
        if call.on_fresh_connection:
            return await ok()(scripted, call)
        await asyncio.sleep(after_s)
        return Reply(Outcome.AGENT_FAULT, reason="closed", evidence=False, resendable=call.idempotent)

    return step


async def raises(_agent: ScriptedAgent, _call: Call) -> Reply:
    raise Defect


def steps_of(rng: random.Random, sent: list[Call]) -> Step:
    """Mostly good, else one of everything that can go wrong."""
    steps: Sequence[Step] = (
        hang(), crash(0.5), fault(), server_error(), server_error(503), retryable_error(), caller_fault(),
        overloaded(1.0), unavailable(), misconfigured(), misconfigured(whole_agent=False), connection_dies(2.0),
        connection_dies(40.0), raises,
    )  # fmt: skip

    async def step(scripted: ScriptedAgent, call: Call) -> Reply:
        sent.append(call)
        chosen = ok(after_s=rng.uniform(0.01, 3.0)) if rng.random() < 0.6 else rng.choice(steps)
        return await chosen(scripted, call)

    return step


def chain_of(rng: random.Random) -> ChainSpec:
    tasks = tuple(
        Task(
            ECHO,
            {"n": number},
            id=f"t{number}",
            depends_on=tuple(f"t{each}" for each in range(number) if rng.random() < 0.3),
            idempotent=rng.random() < 0.7,
            deadline_s=rng.choice((5.0, 60.0, 600.0)),
        )
        for number in range(rng.randint(1, 6))
    )
    return ChainSpec(tasks, failure_policy=rng.choice(list(FailurePolicy)))


def disturb(flow: Flow, rng: random.Random) -> None:
    """One of the things that operators, agents and machines do."""
    agent_id = f"a{rng.randrange(AGENTS)}"
    what = rng.randrange(8)
    if what == 0:
        running_loop().stop_process(rng.choice((0.3, 3.0, 90.0)), after_s=rng.random())
    elif what == 1:
        running_loop().hold(rng.choice((0.05, 0.5, 5.0)))
    elif what == 2 and flow.scheduler.find_member(agent_id) is not None:
        flow.scheduler.remove_agent(agent_id)
        flow.board.remove(agent_id)
    elif what in {3, 4, 5}:
        flow.scheduler.add_agent(agent(agent_id, slots=2, instance_id=str(rng.random())))
        flow.board.new_instance(agent_id)
    elif what == 6:
        flow.board.reset(agent_id)
        flow.scheduler.refresh(agent_id)


async def cancelled_by_chance(flow: Flow, rng: random.Random, chain_id: str) -> None:
    if rng.random() < 0.2:
        await asyncio.sleep(rng.uniform(0, 20))
        try:
            await flow.coordinator.cancel(chain_id)
        except AicpError:
            return


def assert_rising(numbers: list[int]) -> None:
    assert numbers == sorted(set(numbers)), numbers


def assert_attempts(attempts: Sequence[Attempt]) -> None:
    assert_rising([attempt.number for attempt in attempts])
    for attempt in attempts:
        assert attempt.started_at <= attempt.ended_at


async def direct_call(flow: Flow, rng: random.Random) -> None:
    """A caller that may lose its patience."""
    try:
        async with asyncio.timeout(rng.uniform(0.0, 30.0)):
            await flow.router.route_task(Task(ECHO, {}, deadline_s=60.0))
    except (AicpError, TimeoutError):
        return


@pytest.mark.parametrize("seed", [1, 2, 9, 21, 136])
@virtual
async def test_whatever_meets_every_task_ends_and_everything_is_given_back(seed: int) -> None:
    rng = random.Random(seed)
    sent: list[Call] = []
    agents = [
        ScriptedAgent(f"a{each}", otherwise=steps_of(rng, sent), max_concurrent_tasks=2) for each in range(AGENTS)
    ]
    async with Flow(*agents, seed=seed) as flow:
        chains = [await flow.coordinator.submit(chain_of(rng)) for _ in range(CHAINS)]
        async with asyncio.TaskGroup() as group:
            for chain_id in chains:
                group.create_task(cancelled_by_chance(flow, rng, chain_id))
            for _ in range(20):
                group.create_task(direct_call(flow, rng))
            for _ in range(ROUNDS):
                await asyncio.sleep(rng.expovariate(0.5))
                disturb(flow, rng)
        for each in agents:
            flow.scheduler.add_agent(each.profile)
        for chain_id in chains:
            view = await flow.coordinator.wait(chain_id)
            assert view.status in ENDED
            for task in view.tasks.values():
                assert task.status in ENDED
                assert_attempts(task.attempts)
        assert flow.coordinator.unfinished == 0
        for task_id in {call.task_id for call in sent}:
            assert_rising([call.attempt for call in sent if call.task_id == task_id])
        # Leases that a standstill moved, hung calls and probes end by themselves.
        await asyncio.sleep(600)
        assert [each.under_way.value for each in agents] == [0] * AGENTS
        assert flow.scheduler.expired_leases == 0
        for member in flow.scheduler.members():
            assert member.taken == 0
