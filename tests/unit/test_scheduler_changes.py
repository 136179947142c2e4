"""The fleet changes while tasks run and wait: nothing is lost, no slot leaks, no agent gets more than it can take."""

import asyncio
import math

import pytest

from aicp.errors import AgentNotFound
from aicp.model.agent import Capability
from aicp.model.outcome import Outcome
from aicp.registry.leases import Liveness
from aicp.resilience.circuit_breaker import CircuitState
from aicp.scheduling.lease import Unscheduled
from tests.unit.flow_kit import ECHO, SOON_S, Stage, agent, granted, now, task, virtual

LABEL, TEXT = "image.label", "text.extract"


class TestDraining:
    @virtual
    async def test_a_draining_agent_gets_nothing_new_and_what_it_has_goes_on(self) -> None:
        async with Stage(agent("a", slots=2), agent("b")) as stage:
            running = await stage.lease(task(agents=("a",)))
            stage.scheduler.drain_agent("a")
            assert stage.why_out("a") == "draining"
            other = await stage.lease()
            assert other.agent.agent_id == "b"
            asked = stage.asking()
            await asyncio.sleep(5)
            stage.succeed(running)
            assert not asked.done()
            stage.succeed(other)
            lease = await granted(asked)
            assert lease.agent.agent_id == "b"
            stage.succeed(lease)

    @virtual
    async def test_registering_again_ends_it(self) -> None:
        async with Stage(agent("a")) as stage:
            stage.scheduler.drain_agent("a")
            asked = stage.asking()
            await asyncio.sleep(5)
            stage.scheduler.add_agent(agent("a"))
            stage.succeed(await granted(asked))


class TestReplicas:
    """Each replica uses its share of every agent's slots, and at least one."""

    @virtual
    async def test_a_share_is_rounded_down_and_at_least_one(self) -> None:
        async with Stage(agent("one"), agent("five", slots=5), agent("nine", slots=9)) as stage:
            for replicas, slots in ((2, [1, 2, 4]), (4, [1, 1, 2]), (100, [1, 1, 1]), (1, [1, 5, 9])):
                stage.scheduler.share_slots(replicas)
                assert [member.slots for member in stage.scheduler.members()] == slots
                assert stage.scheduler.status().total_capacity == sum(slots)

    @virtual
    async def test_whoever_registers_later_is_shared_as_well(self) -> None:
        async with Stage() as stage:
            stage.scheduler.share_slots(2)
            stage.scheduler.add_agent(agent("a", slots=4))
            leases = [await stage.lease(), await stage.lease()]
            asked = stage.asking()
            await asyncio.sleep(1)
            assert not asked.done()
            stage.succeed(*leases)
            stage.succeed(await granted(asked))

    @virtual
    async def test_a_new_replica_takes_no_task_away_and_this_one_gives_no_new_ones_until_it_is_within_its_share(
        self,
    ) -> None:
        async with Stage(agent("a", slots=4)) as stage:
            leases = [await stage.lease() for _ in range(4)]
            stage.scheduler.share_slots(2)
            asked = stage.asking()
            for taken in (3, 2):
                stage.succeed(leases.pop())
                await asyncio.sleep(SOON_S)
                assert (stage.taken("a"), asked.done()) == (taken, False)
            stage.succeed(leases.pop())
            stage.succeed(*leases, await granted(asked))

    @virtual
    async def test_when_the_others_die_who_waits_gets_their_slots_at_once(self) -> None:
        async with Stage(agent("a", slots=4)) as stage:
            stage.scheduler.share_slots(4)
            lease, asked = await stage.lease(), [stage.asking() for _ in range(3)]
            await asyncio.sleep(1)
            began_at = now()
            stage.scheduler.share_slots(1)
            leases = [await granted(each) for each in asked]
            assert now() == began_at
            stage.succeed(lease, *leases)


class TestRemoval:
    @virtual
    async def test_a_task_of_a_removed_agent_may_end_as_it_likes(self) -> None:
        async with Stage(agent("a"), agent("b")) as stage:
            lease = await stage.lease(task(agents=("a",)))
            asked = [stage.asking(), stage.asking()]
            await asyncio.sleep(1)
            stage.scheduler.remove_agent("a")
            stage.succeed(lease)
            first = await granted(asked[0])
            assert first.agent.agent_id == "b"
            stage.succeed(first)
            stage.succeed(await granted(asked[1]))
            with pytest.raises(AgentNotFound):
                stage.scheduler.member("a")

    @virtual
    async def test_a_lease_of_before_the_removal_frees_no_slot_of_a_namesake(self) -> None:
        async with Stage(agent("a")) as stage:
            old = await stage.lease()
            stage.scheduler.remove_agent("a")
            stage.board.remove("a")
            stage.scheduler.add_agent(agent("a"))
            new = await stage.lease()
            stage.complete(old, Outcome.AGENT_FAULT)
            assert stage.taken("a") == 1
            assert stage.scheduler.member("a").failures == 0
            stage.succeed(new)

    @virtual
    async def test_an_expired_lease_of_a_removed_agent_is_counted_and_harms_nobody(self) -> None:
        async with Stage(agent("a")) as stage:
            await stage.lease(task(timeout_s=1.0))
            stage.scheduler.remove_agent("a")
            await asyncio.sleep(30)
            assert stage.scheduler.expired_leases == 1

    @virtual
    async def test_what_was_once_offered_stays_known_and_waits(self) -> None:
        async with Stage(agent("a")) as stage:
            stage.scheduler.remove_agent("a")
            assert stage.scheduler.knows(ECHO)
            assert not stage.scheduler.knows("never.offered")
            asked = stage.asking()
            await asyncio.sleep(60)
            stage.scheduler.add_agent(agent("b"))
            stage.succeed(await granted(asked))

    @virtual
    async def test_whoever_is_unknown_cannot_be_drained_removed_restored_or_heard(self) -> None:
        async with Stage() as stage:
            for command in (
                stage.scheduler.drain_agent,
                stage.scheduler.remove_agent,
                stage.scheduler.restore_agent,
                lambda agent_id: stage.scheduler.set_liveness(agent_id, Liveness.HEARD),
            ):
                with pytest.raises(AgentNotFound):
                    command("nobody")
            stage.scheduler.refresh("nobody")


class TestCapacity:
    @virtual
    async def test_more_slots_serve_who_waits_at_once(self) -> None:
        async with Stage(agent("a")) as stage:
            busy, asked = await stage.lease(), [stage.asking() for _ in range(3)]
            await asyncio.sleep(1)
            stage.scheduler.add_agent(agent("a", slots=3))
            await asyncio.sleep(SOON_S)
            assert [each.done() for each in asked] == [True, True, False]
            stage.succeed(busy)
            stage.succeed(*[await granted(each) for each in asked])

    @virtual
    async def test_fewer_slots_take_no_task_away_and_give_none_until_enough_are_done(self) -> None:
        async with Stage(agent("a", slots=3)) as stage:
            busy = [await stage.lease() for _ in range(3)]
            stage.scheduler.add_agent(agent("a", slots=1))
            assert stage.taken("a") == 3
            asked = stage.asking()
            stage.succeed(busy.pop())
            stage.succeed(busy.pop())
            await asyncio.sleep(1)
            assert stage.taken("a") == 1
            assert not asked.done()
            stage.succeed(busy.pop())
            stage.succeed(await granted(asked))

    @virtual
    async def test_with_fewer_slots_new_tasks_are_not_bound_while_it_is_over_its_capacity(self) -> None:
        async with Stage(agent("a", slots=3)) as stage:
            busy = [await stage.lease() for _ in range(3)]
            stage.scheduler.add_agent(agent("a", slots=1))
            stage.succeed(busy.pop())
            decided = await stage.scheduler.schedule_task(task(), deadline=now() + 1)
            assert decided is Unscheduled.DEADLINE
            assert stage.taken("a") == 2
            stage.succeed(*busy)

    @virtual
    async def test_capacity_that_goes_up_and_down_under_load_is_never_exceeded(self) -> None:
        async with Stage(agent("a", slots=4)) as stage:
            excess = []

            async def one(number: int) -> None:
                lease = await granted(stage.asking())
                excess.append(stage.taken("a") - max(stage.scheduler.member("a").slots, before))
                await asyncio.sleep(0.3 + number % 3)
                stage.succeed(lease)

            before = 4
            async with asyncio.TaskGroup() as group:
                for number in range(200):
                    group.create_task(one(number))
                for slots in (1, 6, 2, 8, 3):
                    await asyncio.sleep(7)
                    before = stage.taken("a")
                    stage.scheduler.add_agent(agent("a", slots=slots))
            assert max(excess) <= 0


class TestRegisteringAgain:
    @virtual
    async def test_tasks_under_way_go_on_and_their_slots_come_back(self) -> None:
        async with Stage(agent("a", slots=2)) as stage:
            lease = await stage.lease()
            stage.scheduler.add_agent(agent("a", slots=2))
            assert stage.taken("a") == 1
            stage.succeed(lease)
            assert stage.taken("a") == 0

    @virtual
    async def test_its_speed_stays_known_and_tasks_under_way_still_teach_it(self) -> None:
        async with Stage(agent("a", slots=2)) as stage:
            stage.succeed(await stage.lease(), elapsed_s=2.0)
            lease = await stage.lease()
            stage.scheduler.add_agent(agent("a", slots=2))
            assert stage.scheduler.member("a").seats[ECHO].latency_s == 2.0
            stage.succeed(lease, elapsed_s=7.0)
            assert stage.scheduler.member("a").seats[ECHO].latency_s == pytest.approx(math.sqrt(2.0 * 7.0))

    @virtual
    async def test_a_dropped_capability_gets_nothing_more_and_a_new_one_at_once(self) -> None:
        async with Stage(agent("a", LABEL)) as stage:
            running, waiting = await stage.lease(task(LABEL)), stage.asking(task(TEXT))
            await asyncio.sleep(1)
            stage.scheduler.add_agent(agent("a", TEXT, slots=2))
            text = await granted(waiting)
            stage.complete(running, Outcome.AGENT_FAULT)
            stage.succeed(text)
            assert await stage.scheduler.schedule_task(task(LABEL), wait=False) is Unscheduled.NOBODY_CAPABLE

    @virtual
    async def test_a_new_major_of_a_capability_is_another_one(self) -> None:
        async with Stage(agent("a", LABEL)) as stage:
            stage.scheduler.add_agent(agent("a", Capability(LABEL, version="2.0")))
            assert await stage.scheduler.schedule_task(task(LABEL), wait=False) is Unscheduled.NOBODY_CAPABLE
            stage.succeed(await stage.lease(task(f"{LABEL}@2")))

    @virtual
    async def test_its_circuit_stays_as_it_was(self) -> None:
        async with Stage(agent("a")) as stage:
            await stage.fault("a")
            stage.scheduler.add_agent(agent("a"))
            assert stage.why_out("a") == "circuit open"

    @virtual
    async def test_what_the_old_process_failed_to_do_is_no_evidence_against_the_new_one(self) -> None:
        async with Stage(agent("a", slots=9, instance_id="old")) as stage:
            leases = [await stage.lease() for _ in range(9)]
            stage.board.new_instance("a")
            stage.scheduler.add_agent(agent("a", slots=9, instance_id="new"))
            for lease in leases:
                stage.complete(lease, Outcome.UNAVAILABLE)
            assert stage.state("a") is CircuitState.CLOSED
            assert stage.taken("a") == 0

    @virtual
    async def test_what_the_old_process_refused_is_no_reason_to_put_the_new_one_aside_or_to_rest(self) -> None:
        for outcome in (Outcome.MISCONFIGURED, Outcome.OVERLOADED):
            async with Stage(agent("a", instance_id="old")) as stage:
                lease = await stage.lease()
                stage.scheduler.add_agent(agent("a", instance_id="new"))
                stage.complete(lease, outcome, whole_agent=True)
                assert stage.why_out("a") == ""


class TestLiveness:
    @virtual
    async def test_an_offline_agent_gets_nothing_until_it_is_heard(self) -> None:
        async with Stage(agent("a")) as stage:
            stage.scheduler.set_liveness("a", Liveness.OFFLINE)
            assert stage.why_out("a") == "offline"
            asked = stage.asking()
            await asyncio.sleep(60)
            assert not asked.done()
            stage.scheduler.set_liveness("a", Liveness.HEARD)
            stage.succeed(await granted(asked))

    @virtual
    async def test_an_unheard_agent_is_a_last_resort(self) -> None:
        async with Stage(agent("unheard"), agent("heard")) as stage:
            stage.scheduler.set_liveness("unheard", Liveness.UNHEARD)
            first, second = await stage.lease(), await stage.lease()
            assert [first.agent.agent_id, second.agent.agent_id] == ["heard", "unheard"]
            stage.succeed(first, second)
            for _ in range(10):
                lease = await stage.lease()
                assert lease.agent.agent_id == "heard"
                stage.succeed(lease)

    @virtual
    async def test_once_heard_again_it_is_as_good_as_any(self) -> None:
        async with Stage(agent("a"), agent("b")) as stage:
            stage.scheduler.set_liveness("a", Liveness.UNHEARD)
            stage.scheduler.set_liveness("a", Liveness.HEARD)
            served = set()
            for _ in range(50):
                lease = await stage.lease()
                served.add(lease.agent.agent_id)
                stage.complete(lease, Outcome.TASK_FAILED)
            assert served == {"a", "b"}


class TestSetAside:
    @virtual
    async def test_a_misconfigured_capability_is_set_aside_and_the_others_go_on(self) -> None:
        async with Stage(agent("a", LABEL, TEXT)) as stage:
            stage.complete(await stage.lease(task(LABEL)), Outcome.MISCONFIGURED)
            assert stage.why_out("a", LABEL) == "set aside as misconfigured"
            assert stage.state("a", LABEL) is CircuitState.CLOSED
            stage.succeed(await stage.lease(task(TEXT)))

    @virtual
    async def test_a_misconfigured_agent_is_set_aside_whole(self) -> None:
        async with Stage(agent("a", LABEL, TEXT)) as stage:
            stage.complete(await stage.lease(task(LABEL)), Outcome.MISCONFIGURED, whole_agent=True)
            assert stage.why_out("a", LABEL) == stage.why_out("a", TEXT) == "set aside as misconfigured"

    @virtual
    async def test_it_is_told_once_with_what_showed_it_and_when_it_is_forgiven(self) -> None:
        async with Stage(agent("a", LABEL, TEXT, slots=3)) as stage:
            told: list[tuple[str, str, str | None]] = []
            stage.scheduler.on_set_aside = lambda profile, key, reason: told.append((profile.agent_id, key, reason))
            stage.scheduler.restore_agent("a")
            leases = [await stage.lease(task(LABEL)) for _ in range(3)]
            for lease, whole in zip(leases, [False, False, True], strict=True):
                stage.scheduler.complete_task(lease, Outcome.MISCONFIGURED, whole_agent=whole, reason="answered 404")
            assert told == [("a", LABEL, "answered 404"), ("a", "", "answered 404")]
            stage.scheduler.restore_agent("a")
            stage.scheduler.add_agent(agent("a", LABEL, TEXT))
            assert told[2:] == [("a", "", None)]

    @virtual
    async def test_registering_again_is_told_as_forgiving_too(self) -> None:
        async with Stage(agent("a")) as stage:
            told: list[str | None] = []
            stage.complete(await stage.lease(), Outcome.MISCONFIGURED)
            stage.scheduler.on_set_aside = lambda _profile, _key, reason: told.append(reason)
            stage.scheduler.add_agent(agent("a"))
            assert told == [None]

    @virtual
    async def test_no_time_brings_it_back_but_a_reset_does(self) -> None:
        async with Stage(agent("a")) as stage:
            stage.complete(await stage.lease(), Outcome.MISCONFIGURED, whole_agent=True)
            asked = stage.asking()
            await asyncio.sleep(86_400)
            assert not asked.done()
            stage.scheduler.restore_agent("a")
            stage.succeed(await granted(asked))

    @virtual
    async def test_registering_again_brings_it_back(self) -> None:
        async with Stage(agent("a")) as stage:
            stage.complete(await stage.lease(), Outcome.MISCONFIGURED, whole_agent=True)
            stage.scheduler.add_agent(agent("a"))
            stage.succeed(await stage.lease())


class TestCoolDown:
    async def rest_s(self, stage: Stage, retry_after_s: float | None = None) -> float:
        """How long the agent rests after its next answer is OVERLOADED."""
        stage.complete(await stage.lease(), Outcome.OVERLOADED, retry_after_s=retry_after_s)
        rested_at, lease = now(), await stage.lease()
        rest_s = now() - rested_at
        stage.complete(lease, Outcome.CANCELLED)
        return round(rest_s, 6)

    @virtual
    async def test_without_a_word_from_the_agent_the_guess_grows_from_a_second_by_half(self) -> None:
        async with Stage(agent("a")) as stage:
            assert [await self.rest_s(stage) for _ in range(4)] == [1.0, 1.5, 2.25, 3.375]

    @virtual
    async def test_the_guess_stops_growing_at_five_minutes(self) -> None:
        async with Stage(agent("a")) as stage:
            rests_s = [await self.rest_s(stage) for _ in range(20)]
            assert rests_s[-1] == rests_s[-2] == 300.0

    @virtual
    async def test_a_success_makes_the_next_guess_the_first_again(self) -> None:
        async with Stage(agent("a")) as stage:
            assert [await self.rest_s(stage), await self.rest_s(stage)] == [1.0, 1.5]
            stage.succeed(await stage.lease())
            assert await self.rest_s(stage) == 1.0

    @virtual
    async def test_what_the_agent_asks_for_is_granted_within_fifty_milliseconds_and_five_minutes(self) -> None:
        async with Stage(agent("a")) as stage:
            asked_s = (7.25, 0.0, 0.001, 1e9)
            assert [await self.rest_s(stage, each) for each in asked_s] == [7.25, 0.05, 0.05, 300.0]

    @virtual
    async def test_the_longest_promise_wins(self) -> None:
        async with Stage(agent("a", slots=2)) as stage:
            leases = await stage.lease(), await stage.lease()
            began_at = now()
            for lease, retry_after_s in zip(leases, (10.0, 2.0), strict=True):
                stage.complete(lease, Outcome.OVERLOADED, retry_after_s=retry_after_s)
            stage.succeed(await stage.lease())
            assert now() - began_at == pytest.approx(10.0)

    @virtual
    async def test_many_refusals_of_one_moment_make_one_guess(self) -> None:
        async with Stage(agent("a", slots=8)) as stage:
            leases = [await stage.lease() for _ in range(8)]
            began_at = now()
            for lease in leases:
                stage.complete(lease, Outcome.OVERLOADED)
            stage.complete(await stage.lease(), Outcome.CANCELLED)
            assert now() - began_at == pytest.approx(1.0)

    @virtual
    async def test_it_is_about_the_whole_agent_and_no_failure(self) -> None:
        async with Stage(agent("a", LABEL, TEXT)) as stage:
            for _ in range(10):
                stage.complete(await stage.lease(task(LABEL)), Outcome.OVERLOADED, retry_after_s=2.0)
                assert stage.why_out("a", TEXT) == "cooling down"
            assert stage.state("a", LABEL) is CircuitState.CLOSED
            assert stage.scheduler.member("a").failures == 0

    @virtual
    async def test_who_waits_is_served_when_the_rest_is_over(self) -> None:
        async with Stage(agent("a")) as stage:
            lease, asked = await stage.lease(), stage.asking()
            await asyncio.sleep(1)
            stage.complete(lease, Outcome.OVERLOADED, retry_after_s=20.0)
            rested_at, served = now(), await granted(asked)
            assert now() - rested_at == pytest.approx(20.0)
            stage.succeed(served)


class TestCapabilitiesOut:
    @virtual
    async def test_what_nobody_may_be_used_for_is_told_once_and_once_when_it_is_back(self) -> None:
        async with Stage(agent("a", LABEL, TEXT), agent("b", LABEL)) as stage:
            told: list[tuple[str, bool]] = []
            stage.scheduler.on_outage = lambda pool, is_out: told.append((pool.key, is_out))
            stage.scheduler.drain_agent("a")
            assert told == [(TEXT, True)]
            stage.scheduler.drain_agent("b")
            stage.scheduler.refresh("b")
            assert told == [(TEXT, True), (LABEL, True)]
            assert stage.scheduler.capabilities_out() == [LABEL, TEXT]
            stage.scheduler.add_agent(agent("b", LABEL))
            assert told == [(TEXT, True), (LABEL, True), (LABEL, False)]

    @virtual
    async def test_a_capability_nobody_offers_any_more_is_not_called_out(self) -> None:
        async with Stage(agent("a")) as stage:
            stage.scheduler.remove_agent("a")
            assert stage.scheduler.capabilities_out() == []

    @virtual
    async def test_being_busy_is_no_outage(self) -> None:
        async with Stage(agent("a")) as stage:
            lease = await stage.lease()
            assert stage.scheduler.capabilities_out() == []
            assert stage.scheduler.has_another(task(), frozenset())
            stage.succeed(lease)
