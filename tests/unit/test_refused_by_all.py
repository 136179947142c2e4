"""A capability that every agent refuses (404, 405, 406, 415, 501): its tasks fail at once, with the reasons."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aicp.errors import AllAgentsFailed, DeadlineExceeded, NoAgentAvailable
from aicp.model.agent import AgentProfile
from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.outcome import Outcome
from aicp.model.task import Task, TaskResult, TaskStatus
from aicp.registry.leases import Liveness
from aicp.scheduling.lease import Lease, Unscheduled
from aicp.testing.faulty_agents import ScriptedAgent, Step, misconfigured, ok
from tests.unit.flow_kit import ECHO, Flow, Stage, agent, granted, now, task, virtual

OTHER = "test.other"
REFUSES, LOCKED = misconfigured(whole_agent=False), misconfigured()
DAY_S = 86_400.0


def offering(agent_id: str, step: Step, *capabilities: str) -> ScriptedAgent:
    return ScriptedAgent(agent_id, otherwise=step, capabilities=capabilities or (ECHO,))


async def accepted(flow: Flow, wanted: Task) -> TaskResult:
    """The end of a task that was accepted."""
    (ended,) = await flow.coordinator.execute_parallel_tasks([wanted])
    return ended


def assert_refused(ended: TaskResult, *reasons: str) -> None:
    assert ended.status is TaskStatus.FAILED
    assert ended.error is not None
    assert ended.error.code == "all_agents_failed"
    for reason in reasons:
        assert reason in ended.error.message


def refuse(stage: Stage, lease: Lease, *, whole_agent: bool = False) -> None:
    stage.complete(lease, Outcome.MISCONFIGURED, whole_agent=whole_agent, reason="answered 404")


class TestTasks:
    @virtual
    async def test_an_accepted_task_fails_at_once_with_the_reason_of_each(self) -> None:
        async with Flow(offering("a", REFUSES), offering("b", REFUSES)) as flow:
            began = now()
            ended = await accepted(flow, task())
            assert_refused(ended, "a: answered 404", "b: answered 404")
            assert len(ended.attempts) == 2
            assert now() - began < 10

    @virtual
    async def test_a_task_that_is_never_sent_fails_likewise(self) -> None:
        async with Flow(offering("a", REFUSES)) as flow:
            await accepted(flow, task())
            began = now()
            ended = await accepted(flow, task())
            assert_refused(ended, "a: answered 404")
            assert ended.attempts == ()
            assert now() == began

    @virtual
    async def test_a_direct_call_raises_at_once_sent_or_not(self) -> None:
        async with Flow(offering("a", REFUSES), offering("b", REFUSES)) as flow:
            for wait in (False, True, False):
                with pytest.raises(
                    AllAgentsFailed, match=r"refuses it \(.*a: answered 404; b: answered 404\)"
                ) as raised:
                    await flow.router.route_task(task(), wait=wait)
                assert "0 attempts" not in raised.value.message

    @virtual
    async def test_a_chains_task_fails_it_and_what_depends_on_it_is_skipped(self) -> None:
        async with Flow(offering("a", REFUSES), offering("b", ok(), OTHER)) as flow:
            tasks = (Task(OTHER, id="x"), Task(ECHO, id="y", depends_on=("x",)), Task(OTHER, id="z", depends_on=("y",)))
            result = await flow.coordinator.execute_chain(ChainSpec(tasks, failure_policy=FailurePolicy.CONTINUE))
            statuses = [result.tasks[each].status for each in "xyz"]
            assert statuses == [TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.SKIPPED]
            assert_refused(result.tasks["y"], "a: answered 404")

    @virtual
    async def test_tasks_that_wait_already_end_together(self) -> None:
        async with Flow(offering("a", REFUSES)) as flow:
            began = now()
            ended = await flow.coordinator.execute_parallel_tasks([task() for _ in range(200)])
            for each in ended:
                assert_refused(each, "a: answered 404")
            assert len(flow.tried()) == 1
            assert now() - began < 10

    @pytest.mark.parametrize("steps", [(REFUSES, LOCKED), (LOCKED, REFUSES)])
    @virtual
    async def test_one_that_only_lacks_a_key_is_waited_for(self, steps: tuple[Step, Step]) -> None:
        async with Flow(*(offering(name, step) for name, step in zip("ab", steps, strict=True))) as flow:
            asked = asyncio.create_task(accepted(flow, task(deadline_s=100)))
            await asyncio.sleep(50)
            assert not asked.done()
            with pytest.raises((NoAgentAvailable, AllAgentsFailed)):
                await flow.router.route_task(task())
            ended = await asked
            assert ended.error is not None
            assert ended.error.code == "deadline_exceeded"

    @virtual
    async def test_a_capability_whose_agent_lacks_a_key_is_said_to_be_out(self) -> None:
        told: list[tuple[str, bool]] = []
        async with Flow(offering("a", LOCKED)) as flow:
            flow.scheduler.on_outage = lambda pool, is_out: told.append((pool.key, is_out))
            with pytest.raises(DeadlineExceeded):
                await flow.router.route_task(task(deadline_s=30.0), wait=True)
            assert told == [(ECHO, True)]
            assert flow.router.health().capabilities_out == [ECHO]

    @virtual
    async def test_registering_again_heals_it_for_the_tasks_that_come_then(self) -> None:
        agents = [offering("a", REFUSES), offering("b", REFUSES)]
        async with Flow(*agents) as flow:
            assert_refused(await accepted(flow, task()))
            flow.transport.add(offering("a", ok()))
            flow.scheduler.add_agent(agents[0].profile)
            assert (await accepted(flow, task())).status is TaskStatus.COMPLETED

    @virtual
    async def test_other_capabilities_of_the_agents_are_not_touched(self) -> None:
        refuses_one = ScriptedAgent("a", [REFUSES], capabilities=(ECHO, OTHER))
        async with Flow(refuses_one) as flow:
            assert_refused(await accepted(flow, task()))
            assert (await accepted(flow, task(OTHER))).status is TaskStatus.COMPLETED


class TestWaiting:
    """Which event ends which waits."""

    async def everyone_refuses(self, stage: Stage, *agent_ids: str) -> None:
        for agent_id in agent_ids:
            refuse(stage, await stage.lease(task(agents=(agent_id,))))

    @pytest.mark.parametrize(
        "filters",
        [
            {"agents": ("a",)},
            {"labels": {"zone": "x"}},
            {"labels": {"zone": "x", "os": "l"}},
            {"exclude_agents": ("b",)},
        ],
        ids=str,
    )
    @virtual
    async def test_only_the_agents_that_suit_a_task_count(self, filters: dict[str, Any]) -> None:
        labelled = agent("a", slots=2, labels={"zone": "x", "os": "l"})
        async with Stage(labelled, agent("b", slots=2, labels={"os": "l"})) as stage:
            leases = [await stage.lease(task(agents=("a",))) for _ in range(2)]
            held = [await stage.lease(task(agents=("b",))) for _ in range(2)]
            asked, plain = stage.asking(task(**filters)), stage.asking()
            await asyncio.sleep(1)
            refuse(stage, leases.pop())
            assert await asked is Unscheduled.ALL_REFUSE
            assert await stage.scheduler.schedule_task(task(**filters)) is Unscheduled.ALL_REFUSE
            assert not plain.done()
            stage.succeed(*held)
            stage.succeed(await granted(plain))
            stage.complete(leases.pop(), Outcome.CANCELLED)

    @pytest.mark.parametrize(
        "goes",
        [
            lambda stage: stage.scheduler.remove_agent("b"),
            lambda stage: stage.scheduler.add_agent(agent("b", OTHER)),
        ],
    )
    @virtual
    async def test_the_last_other_agent_that_leaves_ends_the_wait(self, goes: Callable[[Stage], None]) -> None:
        async with Stage(agent("a"), agent("b")) as stage:
            await self.everyone_refuses(stage, "a")
            held = await stage.lease()
            asked = stage.asking()
            await asyncio.sleep(1)
            assert not asked.done()
            goes(stage)
            assert await asked is Unscheduled.ALL_REFUSE
            stage.succeed(held)

    @pytest.mark.parametrize(
        "away",
        [
            lambda stage: stage.scheduler.drain_agent("b"),
            lambda stage: stage.scheduler.set_liveness("b", Liveness.OFFLINE),
            lambda stage: stage.board.force_open("b"),
        ],
    )
    @virtual
    async def test_an_agent_that_is_only_away_is_waited_for(self, away: Callable[[Stage], None]) -> None:
        async with Stage(agent("a"), agent("b")) as stage:
            away(stage)
            stage.scheduler.refresh("b")
            await self.everyone_refuses(stage, "a")
            asked = stage.asking(deadline=now() + DAY_S)
            await asyncio.sleep(DAY_S / 2)
            assert not asked.done()
            assert await asked is Unscheduled.DEADLINE

    @virtual
    async def test_without_any_agent_a_task_waits(self) -> None:
        async with Stage(agent("a")) as stage:
            await self.everyone_refuses(stage, "a")
            stage.scheduler.remove_agent("a")
            assert await stage.scheduler.schedule_task(task(), deadline=now() + 100) is Unscheduled.DEADLINE

    @virtual
    async def test_shared_agents_and_those_of_the_tenant_count_together(self) -> None:
        own, shared = agent("own", tenant="t", slots=2), agent("shared", shared=True, slots=2)
        async with Stage(own, shared) as stage:
            others = await stage.lease(tenant="u"), await stage.lease(tenant="u")
            mine = await stage.lease(tenant="t"), await stage.lease(tenant="t")
            waits = {tenant: stage.asking(tenant=tenant) for tenant in "tu"}
            await asyncio.sleep(1)
            refuse(stage, mine[0])
            await asyncio.sleep(1)
            assert not any(each.done() for each in waits.values())
            refuse(stage, others[0])
            assert [await each for each in waits.values()] == [Unscheduled.ALL_REFUSE] * 2
            stage.complete(mine[1], Outcome.CANCELLED)
            stage.complete(others[1], Outcome.CANCELLED)

    @virtual
    async def test_thousands_that_wait_end_in_slices_and_the_loop_turns_meanwhile(self) -> None:
        async with Stage(agent("a")) as stage:
            lease = await stage.lease()
            asked = [stage.asking(task(exclude_agents=("z",) * (number % 2))) for number in range(5_000)]
            await asyncio.sleep(1)
            refuse(stage, lease)
            assert sum(each.done() for each in asked) == 0
            turns = 0
            while not all(each.done() for each in asked):
                await asyncio.sleep(0)
                turns += 1
            assert {each.result() for each in asked} == {Unscheduled.ALL_REFUSE}
            assert turns > 5_000 / 64

    @virtual
    async def test_an_agent_set_aside_as_a_whole_afterwards_is_waited_for(self) -> None:
        async with Stage(agent("a", ECHO, OTHER, slots=3)) as stage:
            leases = [await stage.lease(), await stage.lease(task(OTHER)), await stage.lease()]
            refuse(stage, leases[0])
            assert await stage.scheduler.schedule_task(task()) is Unscheduled.ALL_REFUSE
            refuse(stage, leases[1], whole_agent=True)
            assert await stage.scheduler.schedule_task(task(), deadline=now() + 10) is Unscheduled.DEADLINE
            stage.scheduler.restore_agent("a")
            stage.succeed(leases[2], await stage.lease())

    @virtual
    async def test_what_is_counted_of_a_pool_fits_its_agents(self) -> None:
        profiles: list[AgentProfile] = [agent(f"a{number}", ECHO, OTHER) for number in range(20)]
        async with Stage(*profiles) as stage:
            for step in range(400):
                agent_id = f"a{stage.rng.randrange(20)}"
                if stage.rng.random() < 0.4:
                    lease = await stage.scheduler.schedule_task(task(agents=(agent_id,)), wait=False)
                    if isinstance(lease, Lease):
                        refuse(stage, lease, whole_agent=step % 7 == 0)
                elif stage.scheduler.find_member(agent_id) is None or stage.rng.random() < 0.5:
                    stage.scheduler.add_agent(agent(agent_id, *((ECHO, OTHER) if step % 3 else (OTHER,))))
                else:
                    stage.scheduler.remove_agent(agent_id)
                for fleet in stage.scheduler.fleets():
                    for pool in fleet.all_pools():
                        assert pool.refusing == sum(seat.member.trouble.refuses(seat.key) for seat in pool.seats)
