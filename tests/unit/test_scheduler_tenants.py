"""Tenants: their own agents first, those of everybody second, and never another tenant's."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from aicp.model.outcome import Outcome
from aicp.registry.leases import Liveness
from aicp.scheduling.lease import Unscheduled
from tests.unit.flow_kit import ECHO, SOON_S, Stage, agent, granted, now, task, virtual

ACME, BOLT = "acme", "bolt"
CHOICES: list[dict[str, Any]] = [{}, {"agents": ("theirs",)}, {"labels": {"gpu": "yes"}}, {"exclude_agents": ("x",)}]


class TestWhose:
    @virtual
    async def test_its_own_agents_come_first_and_those_of_everybody_second(self) -> None:
        async with Stage(agent("own", tenant=ACME), agent("common", shared=True)) as stage:
            first, second = await stage.lease(tenant=ACME), await stage.lease(tenant=ACME)
            assert [first.agent.agent_id, second.agent.agent_id] == ["own", "common"]
            stage.succeed(first, second)

    @virtual
    async def test_they_come_first_however_much_faster_the_others_are(self) -> None:
        async with Stage(agent("own", tenant=ACME), agent("common", shared=True)) as stage:
            for agent_id, elapsed_s in (("own", 9.0), ("common", 0.1)):
                stage.succeed(await stage.lease(task(agents=(agent_id,)), tenant=ACME), elapsed_s=elapsed_s)
            lease = await stage.lease(tenant=ACME)
            assert lease.agent.agent_id == "own"
            stage.succeed(lease)

    @pytest.mark.parametrize("options", CHOICES, ids=str)
    @virtual
    async def test_nobody_gets_another_tenants_agent_not_even_by_its_name(self, options: dict[str, Any]) -> None:
        async with Stage(agent("theirs", tenant=BOLT, slots=9, labels={"gpu": "yes"})) as stage:
            assert not stage.scheduler.has_candidate(task(**options), ACME)
            assert not stage.scheduler.has_another(task(**options), frozenset(), ACME)
            decided = await stage.scheduler.schedule_task(task(**options), wait=False, tenant=ACME)
            assert decided is Unscheduled.NOBODY_CAPABLE
            asked = stage.asking(task(**options), tenant=ACME, deadline=now() + 60.0)
            await asyncio.sleep(SOON_S)
            stage.succeed(await stage.lease(tenant=BOLT))
            assert await asked is Unscheduled.DEADLINE

    @pytest.mark.parametrize("options", CHOICES, ids=str)
    @virtual
    async def test_whoever_waits_is_passed_over_by_another_tenants_agent(self, options: dict[str, Any]) -> None:
        async with Stage(agent("theirs", tenant=BOLT, labels={"gpu": "yes"})) as stage:
            busy = await stage.lease(tenant=BOLT)
            mine, theirs = stage.asking(task(**options), tenant=ACME), stage.asking(task(**options), tenant=BOLT)
            await asyncio.sleep(1)
            stage.succeed(busy)
            stage.succeed(await granted(theirs))
            await asyncio.sleep(1)
            assert not mine.done()
            stage.scheduler.add_agent(agent("theirs", shared=True, labels={"gpu": "yes"}))
            stage.succeed(await granted(mine))

    @virtual
    async def test_labels_and_exclusions_hold_among_own_and_shared_agents_alike(self) -> None:
        gpu = {"gpu": "yes"}
        profiles = [agent("own", tenant=ACME), agent("common", shared=True), agent("fit", shared=True, labels=gpu)]
        async with Stage(*profiles) as stage:
            for options, served in (({"labels": gpu}, "fit"), ({"exclude_agents": ("own", "fit")}, "common")):
                lease = await stage.lease(task(**options), tenant=ACME)
                assert lease.agent.agent_id == served
                stage.succeed(lease)

    @virtual
    async def test_who_was_tried_among_the_own_makes_room_for_the_shared(self) -> None:
        async with Stage(agent("own", tenant=ACME), agent("common", shared=True)) as stage:
            lease = await stage.lease(tried=frozenset({"own"}), tenant=ACME)
            assert lease.agent.agent_id == "common"
            stage.succeed(lease)
            both = frozenset({"own", "common"})
            assert await stage.scheduler.schedule_task(task(), tried=both, tenant=ACME) is Unscheduled.NOBODY_ELSE


class TestTurns:
    @virtual
    async def test_a_shared_agent_serves_tenants_in_turn_however_many_tasks_one_of_them_has(self) -> None:
        async with Stage(agent("common", shared=True)) as stage:
            lease = await stage.lease(tenant=ACME)
            greedy = [stage.asking(tenant=ACME) for _ in range(30)]
            modest = [stage.asking(tenant=BOLT) for _ in range(3)]
            await asyncio.sleep(SOON_S)
            for _ in range(6):
                stage.succeed(lease)
                await asyncio.sleep(SOON_S)
                (lease,) = stage.scheduler.leases()
            assert all(each.done() for each in modest)
            assert sum(each.done() for each in greedy) == 3
            for each in greedy[3:]:
                stage.succeed(lease)
                lease = await granted(each)
            stage.succeed(lease)

    @virtual
    async def test_one_that_sends_its_next_task_when_the_last_was_begun_leaves_half_to_the_others(self) -> None:
        async with Stage(agent("common", shared=True)) as stage:
            lease, served = await stage.lease(tenant=ACME), Counter[str]()
            backlog = [stage.asking(tenant=ACME) for _ in range(20)]
            nimble = stage.asking(tenant=BOLT)
            await asyncio.sleep(SOON_S)
            for _ in range(20):
                stage.succeed(lease)
                await asyncio.sleep(SOON_S)
                (lease,) = stage.scheduler.leases()
                served[BOLT if nimble.done() else ACME] += 1
                if nimble.done():
                    nimble = stage.asking(tenant=BOLT)
                    await asyncio.sleep(SOON_S)
            assert served == {ACME: 10, BOLT: 10}
            for each in (nimble, *backlog):
                each.cancel()
            await asyncio.sleep(SOON_S)
            stage.succeed(lease)

    @virtual
    async def test_a_tenants_free_agent_goes_past_the_older_tasks_of_others(self) -> None:
        async with Stage(agent("own", tenant=BOLT), agent("common", shared=True)) as stage:
            busy = await stage.lease(tenant=ACME)
            waiting = [stage.asking(tenant=ACME) for _ in range(10)]
            await asyncio.sleep(60)
            began_at = now()
            lease = await stage.lease(tenant=BOLT)
            assert (lease.agent.agent_id, now()) == ("own", began_at)
            stage.succeed(lease, busy)
            for each in waiting:
                stage.succeed(await granted(each))


class TestSeen:
    """What a tenant is told is about the agents it may use."""

    @virtual
    async def test_who_is_known_is_known_to_its_tenant_or_when_shared_to_all(self) -> None:
        async with Stage(agent("own", "x.own", tenant=ACME), agent("common", "x.common", shared=True)) as stage:
            known = stage.scheduler.knows
            assert (known("x.own", ACME), known("x.own", BOLT)) == (True, False)
            assert (known("x.common", ACME), known("x.common", BOLT)) == (True, True)
            stage.scheduler.remove_agent("own")
            assert known("x.own", ACME)

    @virtual
    async def test_an_outage_names_none_of_another_tenants_agents(self) -> None:
        profiles = [agent("own", tenant=ACME), agent("theirs", tenant=BOLT), agent("common", shared=True)]
        async with Stage(*profiles) as stage:
            for profile in profiles:
                stage.scheduler.drain_agent(profile.agent_id)
            outage = stage.scheduler.outage(task(), ACME)
            assert set(outage.reasons) == {"own: draining", "common: draining"}
            named = stage.scheduler.outage(task(agents=("theirs",)), ACME)
            assert named.reasons == ()

    @virtual
    async def test_a_direct_call_is_told_when_its_own_agents_are_out_though_others_have_some(self) -> None:
        async with Stage(agent("own", tenant=ACME), agent("theirs", tenant=BOLT)) as stage:
            busy = await stage.lease(tenant=ACME)
            asked = stage.asking(wait=False, tenant=ACME)
            await asyncio.sleep(1)
            stage.scheduler.set_liveness("own", Liveness.OFFLINE)
            assert await asked is Unscheduled.ALL_OUT
            stage.succeed(busy)

    @virtual
    async def test_an_outage_is_told_for_each_tenant_and_the_capability_is_out_when_all_are(self) -> None:
        told: list[tuple[str | None, bool]] = []
        async with Stage(agent("own", tenant=ACME), agent("theirs", tenant=BOLT)) as stage:
            stage.scheduler.on_outage = lambda pool, is_out: told.append((pool.tenant, is_out))
            stage.scheduler.drain_agent("own")
            assert stage.scheduler.capabilities_out() == []
            assert (stage.scheduler.is_out("own", ECHO), stage.scheduler.is_out("theirs", ECHO)) == (True, False)
            stage.scheduler.drain_agent("theirs")
            assert stage.scheduler.capabilities_out() == [ECHO]
            assert told == [(ACME, True), (BOLT, True)]

    @virtual
    async def test_the_status_counts_all_fleets_of_a_capability(self) -> None:
        profiles = [agent("own", tenant=ACME, slots=2), agent("theirs", tenant=BOLT), agent("common", shared=True)]
        async with Stage(*profiles) as stage:
            leases = [await stage.lease(tenant=BOLT), await stage.lease(tenant=BOLT)]
            asked = stage.asking(tenant=BOLT)
            await asyncio.sleep(2)
            status = stage.scheduler.status()
            seen = status.by_capability[ECHO]
            assert (seen.agents, seen.usable, seen.free, seen.free_slots, seen.queue_depth) == (3, 3, 1, 2, 1)
            assert (status.total_capacity, status.current_load, status.oldest_wait_s) == (4, 2, 2.0)
            stage.succeed(*leases)
            stage.succeed(await granted(asked))

    @virtual
    async def test_the_status_shows_who_waits_for_a_capability_that_lost_its_last_agent(self) -> None:
        async with Stage(agent("a")) as stage:
            busy = await stage.lease()
            asked = stage.asking()
            await asyncio.sleep(1)
            stage.scheduler.remove_agent("a")
            seen = stage.scheduler.status().by_capability[ECHO]
            assert (seen.agents, seen.queue_depth) == (0, 1)
            stage.succeed(busy)
            asked.cancel()
            await asyncio.sleep(SOON_S)


class TestMoving:
    """An agent changes hands while it has tasks, and while tasks wait for it."""

    @virtual
    async def test_it_serves_its_new_tenant_at_once_and_the_old_one_no_more(self) -> None:
        async with Stage(agent("a", tenant=ACME, slots=2)) as stage:
            running = await stage.lease(tenant=ACME)
            new, old = stage.asking(tenant=BOLT), None
            await asyncio.sleep(1)
            stage.scheduler.add_agent(agent("a", tenant=BOLT, slots=2))
            lease = await granted(new)
            old = stage.asking(tenant=ACME)
            stage.succeed(running, lease)
            await asyncio.sleep(1)
            assert not old.done()
            assert stage.taken("a") == 0
            old.cancel()
            await asyncio.sleep(SOON_S)

    @virtual
    async def test_becoming_shared_wakes_who_waits_elsewhere_and_its_speed_stays_known(self) -> None:
        async with Stage(agent("a", tenant=ACME)) as stage:
            stage.succeed(await stage.lease(tenant=ACME), elapsed_s=3.0)
            busy, waiting = await stage.lease(tenant=ACME), stage.asking(tenant=BOLT)
            await asyncio.sleep(1)
            stage.scheduler.add_agent(agent("a", tenant=ACME, shared=True))
            stage.succeed(busy, elapsed_s=3.0)
            stage.succeed(await granted(waiting), elapsed_s=3.0)
            seat = stage.scheduler.member("a").seats[ECHO]
            assert seat.latency_s == pytest.approx(3.0)
            assert (seat.samples, seat.pool.tenant) == (3, None)

    @virtual
    async def test_who_called_directly_is_told_when_its_last_agent_goes_to_another_tenant(self) -> None:
        async with Stage(agent("a", tenant=ACME)) as stage:
            busy, direct = await stage.lease(tenant=ACME), stage.asking(wait=False, tenant=ACME)
            patient = stage.asking(tenant=ACME)
            await asyncio.sleep(1)
            stage.scheduler.add_agent(agent("a", tenant=BOLT))
            assert await direct is Unscheduled.NOBODY_CAPABLE
            assert not patient.done()
            stage.complete(busy, Outcome.AGENT_FAULT)
            stage.scheduler.add_agent(agent("a", tenant=ACME))
            stage.succeed(await granted(patient))

    @virtual
    async def test_to_and_fro_under_load_loses_no_task_and_no_slot(self) -> None:
        async with Stage(agent("a", tenant=ACME, slots=3), agent("b", shared=True)) as stage:
            asked = [stage.asking(tenant=tenant) for tenant in (ACME, BOLT) for _ in range(30)]
            for step in range(400):
                if step % 5 == 0:
                    tenant = stage.rng.choice([ACME, BOLT])
                    slots = stage.rng.randint(1, 3)
                    stage.scheduler.add_agent(agent("a", tenant=tenant, slots=slots, shared=stage.rng.random() < 0.3))
                for lease in list(stage.scheduler.leases())[:2]:
                    stage.succeed(lease)
                await asyncio.sleep(SOON_S)
            assert all(each.done() for each in asked)
