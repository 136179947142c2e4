"""Agents that answer nothing for four times what they usually take, and estimates that fade."""

import asyncio

import pytest

from aicp.model.outcome import Outcome
from aicp.scheduling.latency import FADES_AFTER_S, HALF_LIFE_S
from aicp.scheduling.lease import Lease, Unscheduled
from aicp.scheduling.rows import MEASURED_SAMPLES
from aicp.testing.faulty_agents import ScriptedAgent, ok
from tests.unit.flow_kit import ECHO, SOON_S, Flow, Stage, agent, granted, now, task, virtual

LABEL, TEXT = "image.label", "text.extract"
LONG_S = 1_000.0


async def known(stage: Stage, agent_id: str, capability: str = ECHO, elapsed_s: float = 1.0) -> None:
    for _ in range(MEASURED_SAMPLES):
        stage.succeed(await stage.lease(task(capability, agents=(agent_id,))), elapsed_s=elapsed_s)


async def served(stage: Stage, count: int) -> list[Lease]:
    """Whoever gets one of so many tasks asked for now, or at once after."""
    asked = [stage.asking(task(timeout_s=LONG_S), deadline=now() + 1.0) for _ in range(count)]
    return [found for each in asked if isinstance(found := await each, Lease)]


class TestSilence:
    @virtual
    async def test_an_agent_that_answers_nothing_for_four_times_its_estimate_gets_one_task_at_a_time(self) -> None:
        async with Stage(agent("a", slots=10)) as stage:
            await known(stage, "a")
            held = await served(stage, 2)
            await asyncio.sleep(4.0 + SOON_S)
            trial = await served(stage, 5)
            assert len(trial) == 1
            stage.succeed(*held, *trial)

    @virtual
    async def test_before_that_it_gets_as_many_as_it_has_slots(self) -> None:
        async with Stage(agent("a", slots=10)) as stage:
            await known(stage, "a")
            held = await served(stage, 2)
            await asyncio.sleep(1.9)
            more = await served(stage, 5)
            assert len(more) == 5
            stage.succeed(*held, *more)

    @pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.TASK_FAILED, Outcome.CALLER_FAULT])
    @virtual
    async def test_an_answer_of_any_kind_brings_it_back_with_all_its_slots(self, outcome: Outcome) -> None:
        async with Stage(agent("a", slots=10)) as stage:
            await known(stage, "a")
            held = await served(stage, 2)
            await asyncio.sleep(4.0 + SOON_S)
            asked = [stage.asking(task(timeout_s=LONG_S)) for _ in range(6)]
            await asyncio.sleep(SOON_S)
            assert stage.taken("a") == 3
            stage.complete(held.pop(), outcome)
            await asyncio.sleep(SOON_S)
            assert stage.taken("a") == 7
            stage.succeed(*held, *[await granted(each) for each in asked])

    @virtual
    async def test_a_trial_without_an_answer_makes_room_for_another_one_and_for_no_more(self) -> None:
        async with Stage(agent("a", slots=10)) as stage:
            await known(stage, "a")
            held = await served(stage, 2)
            await asyncio.sleep(4.0 + SOON_S)
            asked = [stage.asking(task(timeout_s=LONG_S)) for _ in range(3)]
            await asyncio.sleep(SOON_S)
            for number, each in enumerate(asked):
                assert [one.done() for one in asked] == [True] * (number + 1) + [False] * (2 - number)
                stage.complete(await granted(each), Outcome.CANCELLED)
                await asyncio.sleep(SOON_S)
            stage.succeed(*held)

    @virtual
    async def test_others_are_better_whatever_their_speed(self) -> None:
        async with Stage(agent("quick", slots=10), agent("slow")) as stage:
            await known(stage, "quick", elapsed_s=0.1)
            await known(stage, "slow", elapsed_s=50.0)
            silent = await stage.lease(task(agents=("quick",), timeout_s=LONG_S))
            await asyncio.sleep(1.0)
            lease = await stage.lease()
            assert lease.agent.agent_id == "slow"
            stage.succeed(silent, lease)

    @virtual
    async def test_an_idle_agent_is_not_silent_however_long_it_had_nothing_to_say(self) -> None:
        async with Stage(agent("a", slots=5)) as stage:
            await known(stage, "a")
            await asyncio.sleep(5_000.0)
            leases = await served(stage, 5)
            assert len(leases) == 5
            stage.succeed(*leases)

    @virtual
    async def test_of_whom_nobody_knows_what_it_takes_nothing_is_expected(self) -> None:
        async with Stage(agent("a", slots=5)) as stage:
            held = await served(stage, 1)
            await asyncio.sleep(500.0)
            leases = await served(stage, 4)
            assert len(leases) == 4
            stage.succeed(*held, *leases)

    @virtual
    async def test_falling_silent_does_not_bring_back_a_capability_it_is_not_configured_for(self) -> None:
        async with Stage(agent("a", LABEL, TEXT, slots=5), agent("other", TEXT)) as stage:
            for capability in (LABEL, TEXT):
                await known(stage, "a", capability)
            await known(stage, "other", TEXT, elapsed_s=50.0)
            stage.complete(await stage.lease(task(LABEL)), Outcome.MISCONFIGURED)
            held = await stage.lease(task(TEXT, timeout_s=LONG_S))
            await asyncio.sleep(10.0)
            found_silent = await stage.lease(task(TEXT, timeout_s=LONG_S))
            assert found_silent.agent.agent_id == "other"
            assert await stage.scheduler.schedule_task(task(LABEL)) is Unscheduled.ALL_REFUSE
            assert stage.why_out("a", LABEL) == "set aside as misconfigured"
            stage.succeed(held, found_silent)
            await asyncio.sleep(SOON_S)

    @virtual
    async def test_heavy_tailed_work_on_a_single_agent_still_flows(self) -> None:
        """Tasks of a thousand times the usual size hold all but one slot; small ones go through the last."""
        small, large = ok(0.1), ok(100.0)
        only = ScriptedAgent("a", [small] * 10 + [large] * 3, otherwise=small, max_concurrent_tasks=4)
        async with Flow(only) as flow:
            began_at = now()
            async with asyncio.TaskGroup() as calls:
                for _ in range(213):
                    calls.create_task(flow.router.route_task(task(deadline_s=300.0, timeout_s=300.0)))
            assert now() - began_at < 102.0
            last_small = max(call.began_at for call in only.calls)
            assert last_small - began_at < 25.0


class TestTimedOut:
    @virtual
    async def test_after_a_timeout_it_gets_one_task_at_a_time_until_it_answers(self) -> None:
        async with Stage(agent("a", slots=10)) as stage:
            await known(stage, "a")
            stage.complete(await stage.lease(), Outcome.AGENT_FAULT, timed_out=True, elapsed_s=5.0)
            held = await served(stage, 3)
            assert len(held) == 1
            stage.complete(held.pop(), Outcome.TASK_FAILED)
            more = await served(stage, 10)
            assert len(more) == 10
            stage.succeed(*more)

    @virtual
    async def test_a_timeout_enters_the_estimate_where_it_is_longer(self) -> None:
        async with Stage(agent("a")) as stage:
            await known(stage, "a")
            seat = stage.scheduler.member("a").seats[ECHO]
            stage.complete(await stage.lease(), Outcome.AGENT_FAULT, timed_out=True, elapsed_s=10.0)
            assert seat.estimate_s(now()) == pytest.approx(10.0**0.3)

    @virtual
    async def test_a_timeout_below_fair_time_says_nothing_of_a_measured_agent(self) -> None:
        async with Stage(agent("a", slots=3)) as stage:
            await known(stage, "a")
            seat = stage.scheduler.member("a").seats[ECHO]
            stage.complete(await stage.lease(), Outcome.AGENT_FAULT, timed_out=True, elapsed_s=3.9)
            assert seat.estimate_s(now()) == pytest.approx(1.0)
            held = await served(stage, 3)
            assert len(held) == 3
            stage.succeed(*held)

    @virtual
    async def test_one_that_never_answered_is_assumed_twice_as_slow_at_each_timeout_up_to_64_times(self) -> None:
        async with Stage(agent("a"), agent("new")) as stage:
            await known(stage, "a")
            seat, assumed = stage.scheduler.member("new").seats[ECHO], []
            for _ in range(8):
                lease = await stage.lease(task(agents=("new",)))
                stage.complete(lease, Outcome.AGENT_FAULT, timed_out=True, elapsed_s=0.5, evidence=False)
                assumed.append(round(seat.estimate_s(now())))
            assert assumed == [2, 4, 8, 16, 32, 64, 64, 64]
            stage.succeed(await stage.lease(task(agents=("new",))))
            assert seat.estimate_s(now()) == pytest.approx(1.0)


class TestPrior:
    @virtual
    async def test_the_unmeasured_are_thought_to_be_as_the_others_are(self) -> None:
        async with Stage(agent("a"), agent("new")) as stage:
            await known(stage, "a", elapsed_s=3.0)
            seat = stage.scheduler.member("new").seats[ECHO]
            assert seat.estimate_s(now()) == pytest.approx(3.0)

    @virtual
    async def test_fewer_than_five_successes_count_as_unmeasured(self) -> None:
        async with Stage(agent("a"), agent("new")) as stage:
            for _ in range(20):
                await known(stage, "a")
            seat = stage.scheduler.member("new").seats[ECHO]
            for _ in range(MEASURED_SAMPLES - 1):
                stage.succeed(await stage.lease(task(agents=("new",))), elapsed_s=100.0)
                assert seat.estimate_s(now()) == seat.pool.latency_s < 50.0
            stage.succeed(await stage.lease(task(agents=("new",))), elapsed_s=100.0)
            assert seat.estimate_s(now()) == pytest.approx(100.0)

    @virtual
    async def test_who_was_slow_long_ago_is_tried_again(self) -> None:
        """While it is not asked its measurement fades to what is usual, until it lies among the others."""
        async with Stage(agent("quick", slots=2), agent("slow", slots=2)) as stage:
            for _ in range(20):
                await known(stage, "quick")
            await known(stage, "slow", elapsed_s=100.0)
            tried = set[str]()
            for _ in range(60):
                lease = await stage.lease()
                tried.add(lease.agent.agent_id)
                await asyncio.sleep(HALF_LIFE_S / 3)
                stage.succeed(lease)
            assert tried == {"quick", "slow"}

    @virtual
    async def test_a_measurement_holds_while_it_is_fresh(self) -> None:
        async with Stage(agent("quick", slots=2), agent("slow", slots=2)) as stage:
            await known(stage, "quick")
            await known(stage, "slow", elapsed_s=100.0)
            seat = stage.scheduler.member("slow").seats[ECHO]
            await asyncio.sleep(FADES_AFTER_S)
            assert seat.estimate_s(now()) == pytest.approx(100.0)
            await asyncio.sleep(20 * HALF_LIFE_S)
            assert seat.estimate_s(now()) < 11.0
