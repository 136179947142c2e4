"""The wait rule: when a task had better stay in line than leave with a slow agent, and when it must not."""

import asyncio
import itertools
from collections.abc import Iterable

import pytest
import uvloop

from aicp.model.agent import DEFAULT_TENANT
from aicp.model.outcome import Outcome
from aicp.model.task import Priority
from aicp.resilience.board import CircuitBoard
from aicp.scheduling.lease import Lease
from aicp.scheduling.serving import WELL_KNOWN
from aicp.scheduling.task_scheduler import TaskScheduler
from tests.unit.flow_kit import SOON_S, Stage, agent, granted, now, task, virtual

FAST_S, MEDIUM_S, SLOW_S = 1.0, 9.0, 100.0
HANGS_S = 1_000.0


async def known(stage: Stage, agent_id: str, elapsed_s: float, successes: int = WELL_KNOWN) -> None:
    """Let an agent answer so often that its speed is well known."""
    profile = stage.scheduler.member(agent_id).profile
    for _ in range(successes):
        lease = await stage.lease(task(agents=(agent_id,)), tenant=profile.tenant)
        stage.succeed(lease, elapsed_s=elapsed_s)


async def fast_busy(stage: Stage, tasks: int = 1) -> list[Lease]:
    """A fast agent that is known for it, and has this many tasks."""
    await known(stage, "fast", FAST_S)
    return [await stage.lease(task(agents=("fast",), timeout_s=HANGS_S)) for _ in range(tasks)]


def free_all(stage: Stage, leases: Iterable[Lease]) -> None:
    for lease in leases:
        stage.complete(lease, Outcome.CANCELLED)


class TestHeld:
    @virtual
    async def test_a_task_waits_for_the_fast_agent_though_a_well_known_slow_one_is_free(self) -> None:
        async with Stage(agent("fast"), agent("slow")) as stage:
            await known(stage, "slow", SLOW_S)
            (busy,) = await fast_busy(stage)
            asked = stage.asking()
            await asyncio.sleep(FAST_S)
            assert not asked.done()
            stage.succeed(busy, elapsed_s=FAST_S)
            lease = await granted(asked)
            assert lease.agent.agent_id == "fast"
            stage.succeed(lease)

    @virtual
    async def test_one_that_is_held_is_charged_no_turn_until_it_is_served(self) -> None:
        async with Stage(agent("fast"), agent("slow")) as stage:
            await known(stage, "slow", SLOW_S)
            (busy,) = await fast_busy(stage)
            order = busy.seat.pool.order

            def turns() -> tuple[float, float]:
                wanted = task().priority
                return order.priorities.pass_of(wanted), order.tenants[wanted].pass_of(DEFAULT_TENANT)

            before = turns()
            asked = stage.asking()
            await asyncio.sleep(FAST_S)
            assert stage.scheduler._holds
            assert turns() == before
            stage.succeed(busy, elapsed_s=FAST_S)
            lease = await granted(asked)
            assert all(now_had > had for now_had, had in zip(turns(), before, strict=True))
            stage.succeed(lease)

    @virtual
    async def test_it_leaves_with_the_slow_one_when_that_could_have_been_as_soon(self) -> None:
        async with Stage(agent("fast"), agent("slow")) as stage:
            await known(stage, "slow", SLOW_S)
            (hung,) = await fast_busy(stage)
            asked_at, asked = now(), stage.asking()
            lease = await granted(asked)
            assert lease.agent.agent_id == "slow"
            assert SLOW_S - 2 * FAST_S < now() - asked_at < SLOW_S
            free_all(stage, [lease, hung])

    @virtual
    async def test_it_is_never_held_so_long_that_the_slow_agent_would_miss_its_deadline(self) -> None:
        async with Stage(agent("fast"), agent("slow")) as stage:
            await known(stage, "slow", SLOW_S)
            (hung,) = await fast_busy(stage)
            began_at = now()
            lease = await granted(stage.asking(deadline=began_at + SLOW_S + 5.0))
            assert lease.agent.agent_id == "slow"
            assert now() - began_at == pytest.approx(5.0)
            free_all(stage, [lease, hung])

    @virtual
    async def test_one_that_has_no_time_to_wait_leaves_at_once(self) -> None:
        async with Stage(agent("fast"), agent("slow")) as stage:
            await known(stage, "slow", SLOW_S)
            (busy,) = await fast_busy(stage)
            began_at = now()
            lease = await stage.lease(deadline=began_at + SLOW_S / 2)
            assert (lease.agent.agent_id, now()) == ("slow", began_at)
            free_all(stage, [lease, busy])

    @virtual
    async def test_a_longer_line_releases_the_first_of_it_to_the_slow_agent(self) -> None:
        async with Stage(agent("fast"), agent("slow")) as stage:
            await known(stage, "slow", MEDIUM_S)
            (busy,) = await fast_busy(stage)
            asked = []
            for _ in range(3):
                asked.append(stage.asking())
                await asyncio.sleep(SOON_S)
            assert not any(each.done() for each in asked)
            asked.append(stage.asking())
            await asyncio.sleep(SOON_S)
            assert [each.done() for each in asked] == [True, False, False, False]
            assert (await granted(asked[0])).agent.agent_id == "slow"
            free_all(stage, [busy, await granted(asked[0])])
            for each in asked[1:]:
                free_all(stage, [await granted(each)])

    @virtual
    async def test_nobody_waits_for_somebody_little_faster(self) -> None:
        async with Stage(agent("fast"), agent("slow")) as stage:
            await known(stage, "slow", 1.5 * FAST_S)
            (busy,) = await fast_busy(stage)
            lease = await stage.lease()
            assert lease.agent.agent_id == "slow"
            free_all(stage, [lease, busy])

    @virtual
    async def test_nobody_waits_for_a_fast_agent_because_of_an_agent_hardly_known(self) -> None:
        async with Stage(agent("fast"), agent("new")) as stage:
            await known(stage, "new", SLOW_S, successes=WELL_KNOWN - 1)
            (busy,) = await fast_busy(stage)
            lease = await stage.lease()
            assert lease.agent.agent_id == "new"
            free_all(stage, [lease, busy])

    @virtual
    async def test_an_agents_own_tasks_are_no_reason_to_hold_one_from_it(self) -> None:
        """It got what it has while it was thought to be fast."""
        async with Stage(agent("only", slots=2)) as stage:
            await known(stage, "only", FAST_S)
            busy = await stage.lease()
            for _ in range(3 * WELL_KNOWN):
                stage.succeed(await stage.lease(), elapsed_s=SLOW_S)
            began_at = now()
            lease = await stage.lease()
            assert now() == began_at
            free_all(stage, [busy, lease])

    @virtual
    async def test_with_several_replicas_nobody_is_held(self) -> None:
        async with Stage(agent("fast", slots=2), agent("slow", slots=2)) as stage:
            await known(stage, "slow", SLOW_S)
            stage.scheduler.share_slots(2)
            (busy,) = await fast_busy(stage)
            lease = await stage.lease()
            assert lease.agent.agent_id == "slow"
            free_all(stage, [lease, busy])

    @virtual
    async def test_who_is_held_when_a_second_replica_comes_is_let_go(self) -> None:
        async with Stage(agent("fast"), agent("slow")) as stage:
            await known(stage, "slow", SLOW_S)
            (busy,) = await fast_busy(stage)
            asked = stage.asking()
            await asyncio.sleep(SOON_S)
            stage.scheduler.share_slots(2)
            lease = await asyncio.wait_for(granted(asked), SOON_S)
            assert lease.agent.agent_id == "slow"
            free_all(stage, [lease, busy])

    @virtual
    async def test_when_the_fast_agent_goes_whoever_waited_for_it_goes_elsewhere(self) -> None:
        async with Stage(agent("fast"), agent("slow")) as stage:
            await known(stage, "slow", SLOW_S)
            (busy,) = await fast_busy(stage)
            asked = stage.asking()
            await asyncio.sleep(SOON_S)
            stage.complete(busy, Outcome.MISCONFIGURED, whole_agent=True)
            lease = await asyncio.wait_for(granted(asked), SOON_S)
            assert lease.agent.agent_id == "slow"
            stage.succeed(lease)

    @virtual
    async def test_when_the_fast_agent_is_removed_whoever_waited_goes_elsewhere_with_its_last_task(self) -> None:
        async with Stage(agent("fast"), agent("slow")) as stage:
            await known(stage, "slow", SLOW_S)
            (busy,) = await fast_busy(stage)
            asked = stage.asking()
            await asyncio.sleep(SOON_S)
            stage.scheduler.remove_agent("fast")
            stage.succeed(busy)
            lease = await asyncio.wait_for(granted(asked), SOON_S)
            assert lease.agent.agent_id == "slow"
            stage.succeed(lease)

    @virtual
    async def test_who_leaves_while_held_leaves_nothing_behind(self) -> None:
        async with Stage(agent("fast"), agent("slow")) as stage:
            await known(stage, "slow", SLOW_S)
            (busy,) = await fast_busy(stage)
            asked = stage.asking()
            await asyncio.sleep(SOON_S)
            asked.cancel()
            await asyncio.sleep(2 * SLOW_S)
            assert stage.scheduler._serving.holds == {}
            free_all(stage, [busy])


def test_hold_that_is_over_at_once_is_a_hold_like_any_on_the_loop_that_servers_run_on() -> None:
    async def main() -> None:
        scheduler = TaskScheduler(CircuitBoard())
        scheduler.add_agent(agent("slow"))
        serving, seat = scheduler._serving, next(iter(scheduler.member("slow")))
        for until in (0.0003, 0.0004, 0.0002):
            serving._look_again(seat.pool, until, now=0.0)
        assert [hold.until for hold in serving.holds.values()] == [0.0002]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert serving.holds == {}
        scheduler.close()

    uvloop.run(main())


class TestHeldNoLongerThanItPays:
    @virtual
    async def test_a_hung_fast_agent_holds_up_a_whole_line_once_and_not_each_of_it_in_turn(self) -> None:
        slow = [agent(f"slow-{number}") for number in range(10)]
        async with Stage(agent("fast", slots=10), *slow) as stage:
            for profile in slow:
                await known(stage, profile.agent_id, SLOW_S)
            hung = await fast_busy(stage, tasks=10)
            asked_at, asked = now(), [stage.asking() for _ in slow]
            leases = [await granted(each) for each in asked]
            assert {lease.agent.agent_id for lease in leases} == {profile.agent_id for profile in slow}
            assert now() - asked_at < SLOW_S
            free_all(stage, [*hung, *leases])

    @virtual
    async def test_being_held_from_a_very_slow_agent_does_not_keep_it_long_from_a_quicker_one(self) -> None:
        async with Stage(agent("fast"), agent("medium"), agent("slow")) as stage:
            await known(stage, "slow", SLOW_S)
            await known(stage, "medium", MEDIUM_S)
            (hung,) = await fast_busy(stage)
            busy = await stage.lease(task(agents=("medium",)))
            asked_at, asked = now(), stage.asking()
            await asyncio.sleep(MEDIUM_S)
            assert not asked.done()
            stage.succeed(busy, elapsed_s=MEDIUM_S)
            lease = await granted(asked)
            assert lease.agent.agent_id == "medium"
            assert now() - asked_at < 2 * MEDIUM_S
            free_all(stage, [lease, hung])


class TestOrderWhileHeld:
    @virtual
    async def test_who_asks_for_the_slow_agent_gets_it_while_others_wait_for_the_fast_one(self) -> None:
        async with Stage(agent("fast"), agent("slow")) as stage:
            await known(stage, "slow", SLOW_S)
            (busy,) = await fast_busy(stage)
            slow = await stage.lease(task(agents=("slow",), timeout_s=HANGS_S))
            held, fond = stage.asking(deadline=now() + 900.0), stage.asking(task(agents=("slow",)))
            await asyncio.sleep(SOON_S)
            stage.succeed(slow, elapsed_s=SLOW_S)
            lease = await asyncio.wait_for(granted(fond), SOON_S)
            assert not held.done()
            stage.succeed(lease, busy)
            stage.succeed(await granted(held))

    @virtual
    async def test_who_asks_for_a_slow_agent_is_not_forgotten_when_the_one_held_before_it_was_served(self) -> None:
        slow = [agent(f"slow-{number}") for number in range(2)]
        async with Stage(agent("fast", slots=2), *slow) as stage:
            for profile in slow:
                await known(stage, profile.agent_id, SLOW_S)
            busy = await fast_busy(stage, tasks=2)
            mine = await stage.lease(task(agents=("slow-1",), timeout_s=HANGS_S))
            held, fond = stage.asking(deadline=now() + 900.0), stage.asking(task(agents=("slow-1",)))
            await asyncio.sleep(SOON_S)
            stage.succeed(mine, elapsed_s=SLOW_S)
            stage.succeed(*busy, elapsed_s=FAST_S)
            stage.succeed(await granted(held), elapsed_s=FAST_S)
            stage.succeed(await asyncio.wait_for(granted(fond), 2 * SLOW_S))

    @virtual
    async def test_nobody_of_the_same_priority_and_tenant_overtakes_one_that_is_held(self) -> None:
        slow = [agent(f"slow-{number}") for number in range(3)]
        async with Stage(agent("fast"), *slow) as stage:
            for profile in slow:
                await known(stage, profile.agent_id, SLOW_S)
            (busy,) = await fast_busy(stage)
            began_at = now()
            # The later ones could not wait, were it their turn.
            held = stage.asking(deadline=began_at + SLOW_S + 5.0)
            behind = [stage.asking(deadline=began_at + SLOW_S + 6.0 + each) for each in range(2)]
            await asyncio.sleep(4.0)
            assert not any(each.done() for each in (held, *behind))
            await asyncio.sleep(1.0 + SOON_S)
            assert [each.done() for each in (held, *behind)] == [True, False, False]
            free_all(stage, [busy, await granted(held)])
            for each in behind:
                free_all(stage, [await granted(each)])

    @virtual
    async def test_a_newcomer_stands_behind_those_who_are_held(self) -> None:
        async with Stage(agent("fast"), agent("slow")) as stage:
            await known(stage, "slow", SLOW_S)
            (busy,) = await fast_busy(stage)
            asked = [stage.asking(ready_at=now() + each * SOON_S) for each in range(3)]
            await asyncio.sleep(SOON_S)
            served = []
            for _ in asked:
                stage.succeed(busy, elapsed_s=FAST_S)
                await asyncio.sleep(SOON_S)
                (index,) = (number for number, each in enumerate(asked) if each.done() and number not in served)
                served.append(index)
                busy = await granted(asked[index])
                assert busy.agent.agent_id == "fast"
            assert served == [0, 1, 2]
            stage.succeed(busy)

    @virtual
    async def test_held_tasks_of_all_priorities_and_tenants_are_all_served_in_the_end(self) -> None:
        profiles = [agent("fast", shared=True, slots=2), agent("slow", shared=True, slots=2)]
        async with Stage(*profiles) as stage:
            await known(stage, "slow", SLOW_S)
            busy = await fast_busy(stage, tasks=2)
            asked = [
                stage.asking(task(priority=priority), tenant=tenant)
                for priority, tenant in itertools.product(Priority, ["a", "b", "c"])
            ]
            await asyncio.sleep(SOON_S)
            stage.succeed(*busy, elapsed_s=FAST_S)
            for each in asked:
                stage.succeed(await granted(each), elapsed_s=FAST_S)
