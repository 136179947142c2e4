"""Who gets a task, and when: late binding, permits at hand-over, leases that cannot leak, the order of the line."""

import asyncio
from typing import Any

import pytest

from aicp.model.agent import Capability
from aicp.model.outcome import Outcome
from aicp.model.task import Priority
from aicp.resilience.circuit_breaker import BreakerPolicy, CircuitState
from aicp.scheduling import serving
from aicp.scheduling.lease import Lease, Unscheduled
from aicp.scheduling.task_scheduler import PROBE_LEASE_GRACE_S, SLOT_LEASE_GRACE_S
from tests.unit.flow_kit import ECHO, SOON_S, Stage, agent, granted, now, task, virtual

LABEL, TEXT = "image.label", "text.extract"


class TestLateBinding:
    @virtual
    async def test_a_task_is_bound_at_once_when_an_agent_is_free(self) -> None:
        async with Stage(agent("a")) as stage:
            began_at = now()
            lease = await stage.lease()
            assert lease.agent.agent_id == "a"
            assert now() == began_at
            stage.succeed(lease)

    @virtual
    async def test_a_waiting_task_goes_to_whoever_is_free_first(self) -> None:
        async with Stage(agent("slow"), agent("fast")) as stage:
            busy = {lease.agent.agent_id: lease for lease in [await stage.lease(), await stage.lease()]}
            asked = stage.asking()
            await asyncio.sleep(5)
            assert not asked.done()
            stage.succeed(busy["fast"])
            lease = await granted(asked)
            assert lease.agent.agent_id == "fast"
            stage.succeed(lease, busy["slow"])

    @virtual
    async def test_a_task_nobody_offers_yet_waits_for_somebody_to_register(self) -> None:
        async with Stage() as stage:
            asked = stage.asking()
            await asyncio.sleep(3)
            stage.scheduler.add_agent(agent("late"))
            lease = await granted(asked)
            assert lease.agent.agent_id == "late"
            stage.succeed(lease)

    @virtual
    async def test_an_agent_gets_as_many_tasks_as_it_has_slots_and_no_more(self) -> None:
        async with Stage(agent("a", slots=3)) as stage:
            leases = [await stage.lease() for _ in range(3)]
            asked = stage.asking()
            await asyncio.sleep(1)
            assert not asked.done()
            stage.succeed(leases.pop())
            last = await granted(asked)
            assert stage.taken("a") == 3
            stage.succeed(last, *leases)

    @virtual
    async def test_slots_are_the_agents_and_not_the_capabilities(self) -> None:
        async with Stage(agent("a", LABEL, TEXT)) as stage:
            lease = await stage.lease(task(LABEL))
            asked = stage.asking(task(TEXT))
            await asyncio.sleep(1)
            assert not asked.done()
            stage.succeed(lease)
            other = await granted(asked)
            assert other.key == TEXT
            stage.succeed(other)

    @virtual
    async def test_a_version_is_served_by_agents_of_that_major_alone(self) -> None:
        async with Stage(agent("one", Capability(LABEL)), agent("two", Capability(LABEL, version="2.3"))) as stage:
            for wanted, served in ((LABEL, "one"), (f"{LABEL}@1", "one"), (f"{LABEL}@2", "two")):
                lease = await stage.lease(task(wanted))
                assert lease.agent.agent_id == served
                stage.succeed(lease)

    @virtual
    async def test_the_faster_of_two_free_agents_is_taken_once_speeds_are_known(self) -> None:
        async with Stage(agent("slow"), agent("fast")) as stage:
            for agent_id, elapsed_s in (("slow", 8.0), ("fast", 0.5)):
                lease = await stage.lease(task(agents=(agent_id,)))
                stage.succeed(lease, elapsed_s=elapsed_s)
            for _ in range(20):
                lease = await stage.lease()
                assert lease.agent.agent_id == "fast"
                stage.succeed(lease, elapsed_s=0.5)


class TestPermits:
    @virtual
    async def test_the_permit_is_taken_at_hand_over_and_never_while_waiting(self) -> None:
        async with Stage(agent("a")) as stage:
            first = await stage.lease()
            stage.board.asked.clear()
            asked = stage.asking()
            await asyncio.sleep(10)
            assert stage.board.asked == []
            stage.succeed(first)
            assert stage.board.asked == ["a"]
            second = await granted(asked)
            stage.succeed(second)

    @virtual
    async def test_nobody_is_scanned_past_a_thousand_agents_that_are_out(self) -> None:
        dead = [agent(f"dead-{number}") for number in range(1_000)]
        async with Stage(*dead, agent("alive", slots=2)) as stage:
            for profile in dead:
                stage.board.record_evidence(profile.agent_id, [ECHO] * 5)
            stage.board.asked.clear()
            leases = [await stage.lease(), await stage.lease()]
            assert stage.board.asked == ["alive", "alive"]
            stage.succeed(*leases)

    @virtual
    async def test_a_half_open_circuit_admits_one_however_many_slots_there_are(self) -> None:
        async with Stage(agent("a", slots=8)) as stage:
            await stage.fault("a")
            stage.board.admit_probe("a", [ECHO])
            stage.scheduler.refresh("a")
            assert stage.state("a") is CircuitState.HALF_OPEN
            probe, asked = await stage.lease(), [stage.asking() for _ in range(5)]
            await asyncio.sleep(1)
            assert stage.taken("a") == 1
            assert not any(waiting.done() for waiting in asked)
            stage.succeed(probe)
            for _ in range(2):
                await asyncio.sleep(SOON_S)
                assert stage.taken("a") == 1
                stage.succeed(*[await granted(waiting) for waiting in asked if waiting.done()])
                asked = [waiting for waiting in asked if not waiting.done()]
            await asyncio.sleep(SOON_S)
            assert stage.state("a") is CircuitState.CLOSED
            assert stage.taken("a") == len(asked) == 3
            stage.succeed(*[await granted(waiting) for waiting in asked])

    @virtual
    async def test_a_failed_probe_opens_the_circuit_again(self) -> None:
        async with Stage(agent("a", slots=8)) as stage:
            await stage.fault("a")
            stage.board.admit_probe("a", [ECHO])
            probe = await stage.lease()
            stage.complete(probe, Outcome.AGENT_FAULT)
            assert stage.state("a") is CircuitState.OPEN
            assert stage.why_out("a") == "circuit open"

    @virtual
    async def test_a_circuit_that_refuses_at_hand_over_costs_the_task_nothing(self) -> None:
        async with Stage(agent("liar"), agent("honest")) as stage:
            stage.board.listen(lambda _agent, _transition: None)
            stage.board.record_evidence("liar", [ECHO] * 5)
            leases = [await stage.lease()]
            assert leases[0].agent.agent_id == "honest"
            assert stage.taken("liar") == 0
            stage.succeed(*leases)

    @virtual
    async def test_an_ungated_probe_never_takes_more_than_the_agents_slots(self) -> None:
        async with Stage(agent("a", LABEL, TEXT), gated=False) as stage:
            await stage.fault("a", capability=LABEL)
            busy = await stage.lease(task(TEXT))
            waiting = [stage.asking(task(LABEL)), stage.asking(task(TEXT))]
            await asyncio.sleep(5)
            stage.succeed(busy)
            for _ in range(2):
                await asyncio.sleep(SOON_S)
                assert stage.taken("a") == 1
                (served,) = (each for each in waiting if each.done())
                waiting.remove(served)
                stage.succeed(await granted(served))


class TestLeases:
    @virtual
    async def test_a_lease_settles_once(self) -> None:
        async with Stage(agent("a", slots=2)) as stage:
            kept, settled = await stage.lease(), await stage.lease()
            for _ in range(3):
                stage.succeed(settled, elapsed_s=2.0)
            assert stage.taken("a") == 1
            assert stage.scheduler.member("a").successes == 1
            assert stage.scheduler.member("a").seats[ECHO].latency_s == 2.0
            stage.succeed(kept)

    @virtual
    async def test_an_expired_lease_frees_its_slot_without_a_verdict_and_is_counted(self) -> None:
        async with Stage(agent("a")) as stage:
            lease = await stage.lease(task(timeout_s=10.0))
            granted_at, asked = now(), stage.asking()
            second = await granted(asked)
            assert 10 + SLOT_LEASE_GRACE_S <= now() - granted_at <= 10 + SLOT_LEASE_GRACE_S + 1
            assert stage.scheduler.expired_leases == 1
            member = stage.scheduler.member("a")
            assert (member.successes, member.failures) == (0, 0)
            stage.succeed(lease)
            assert stage.taken("a") == 1
            assert member.successes == 0
            stage.succeed(second)

    @virtual
    async def test_an_expired_probe_frees_its_place_and_two_lost_in_a_row_open_the_circuit(self) -> None:
        async with Stage(agent("a", slots=4)) as stage:
            await stage.fault("a")
            stage.board.admit_probe("a", [ECHO])
            for _ in range(2):
                probed_at = now()
                await stage.lease(task(timeout_s=10.0))
                await asyncio.sleep(10 + PROBE_LEASE_GRACE_S)
            asked = stage.asking()
            await asyncio.sleep(1)
            assert stage.state("a") is CircuitState.OPEN
            assert now() - probed_at < 10 + SLOT_LEASE_GRACE_S
            asked.cancel()
            await asyncio.sleep(10)
            assert stage.scheduler.expired_leases == 2

    @virtual
    async def test_many_leases_that_are_never_completed_leave_every_slot_free(self) -> None:
        async with Stage(*(agent(f"a{number}", slots=5) for number in range(20))) as stage:
            for number in range(100):
                await stage.lease(task(timeout_s=1.0 + number % 7))
            await asyncio.sleep(30)
            assert stage.scheduler.expired_leases == 100

    @virtual
    async def test_when_one_completion_in_a_hundred_is_dropped_every_slot_is_free_in_the_end(self) -> None:
        async with Stage(*(agent(f"a{number}", LABEL, TEXT, slots=3) for number in range(5)), seed=5) as stage:
            dropped = 0
            for number in range(3_000):
                lease = await stage.lease(task(stage.rng.choice([LABEL, TEXT]), timeout_s=10.0))
                if number % 100 == 99:
                    dropped += 1
                else:
                    stage.complete(lease, stage.rng.choice([Outcome.SUCCESS, Outcome.TASK_FAILED, Outcome.CANCELLED]))
                await asyncio.sleep(0.01)
            await asyncio.sleep(10.0 + SLOT_LEASE_GRACE_S + 2.0)
            assert stage.scheduler.expired_leases == dropped == 30
            leases = [await stage.lease(task(LABEL)) for _ in range(15)]
            stage.succeed(*leases)

    @virtual
    async def test_leases_that_expire_together_free_their_slots_in_the_order_they_were_granted(self) -> None:
        async with Stage(*(agent(f"a{number}") for number in range(30))) as stage:
            lost = [(await stage.lease(task(timeout_s=1.0))).agent.agent_id for _ in range(30)]
            asked = [stage.asking() for _ in lost]
            leases = [await granted(each) for each in asked]
            assert [lease.agent.agent_id for lease in leases] == lost
            stage.succeed(*leases)

    @virtual
    async def test_a_cancelled_waiter_leaves_the_line(self) -> None:
        async with Stage(agent("a")) as stage:
            lease = await stage.lease()
            asked = stage.asking()
            await asyncio.sleep(1)
            assert stage.scheduler.status().queue_depth == 1
            asked.cancel()
            await asyncio.sleep(1)
            assert stage.scheduler.status().queue_depth == 0
            stage.succeed(lease)
            assert stage.taken("a") == 0

    @virtual
    async def test_a_waiter_cancelled_the_moment_it_was_served_gives_the_lease_back(self) -> None:
        async with Stage(agent("a")) as stage:
            lease = await stage.lease()
            leaving = stage.asking()
            await asyncio.sleep(1)
            staying = stage.asking()
            await asyncio.sleep(1)
            stage.succeed(lease)
            leaving.cancel()
            served = await staying
            assert leaving.cancelled()
            assert isinstance(served, Lease)
            stage.succeed(served)

    @virtual
    async def test_a_probe_granted_to_a_cancelled_waiter_is_given_back_as_well(self) -> None:
        async with Stage(agent("a")) as stage:
            await stage.fault("a")
            leaving = stage.asking()
            await asyncio.sleep(0)
            stage.board.admit_probe("a", [ECHO])
            assert stage.taken("a") == 1
            leaving.cancel()
            probe = await stage.lease()
            stage.succeed(probe)


class TestOrder:
    async def order_of(self, stage: Stage, *waiting: tuple[float, dict[str, Any]]) -> list[int]:
        """In which order tasks are served that join the only agent's line at these moments."""
        lease, served, joined_at = await stage.lease(), [], now()
        asked: list[asyncio.Task[Lease | Unscheduled]] = []
        for after_s, options in waiting:
            await asyncio.sleep(joined_at + after_s - now())
            asked.append(stage.asking(task(**options)))
        await asyncio.sleep(60)
        for _ in asked:
            stage.succeed(lease)
            await asyncio.sleep(SOON_S)
            (index,) = (number for number, each in enumerate(asked) if each.done() and number not in served)
            served.append(index)
            lease = await granted(asked[index])
        stage.succeed(lease)
        return served

    @virtual
    async def test_among_equals_who_came_first_is_served_first(self) -> None:
        async with Stage(agent("a")) as stage:
            assert await self.order_of(stage, (0, {}), (1, {}), (2, {})) == [0, 1, 2]

    @virtual
    async def test_high_goes_before_normal_before_low_of_the_same_moment(self) -> None:
        low, normal, high = ({"priority": each} for each in (Priority.LOW, Priority.NORMAL, Priority.HIGH))
        async with Stage(agent("a")) as stage:
            assert await self.order_of(stage, (0, low), (0, normal), (0, high)) == [2, 1, 0]

    @virtual
    async def test_a_low_one_has_its_share_beside_any_number_of_high_ones(self) -> None:
        low, high = ({"priority": each} for each in (Priority.LOW, Priority.HIGH))
        async with Stage(agent("a")) as stage:
            order = await self.order_of(stage, *[(0, low)] * 2, *[(0, high)] * 70)
            assert [order.index(0), order.index(1)] == [1, 66]

    @virtual
    async def test_the_choosy_are_served_by_the_same_order_as_everybody(self) -> None:
        named = {"agents": ("a",), "priority": Priority.HIGH}
        async with Stage(agent("a")) as stage:
            assert await self.order_of(stage, (0, {}), (0.5, named), (1.5, {})) == [1, 0, 2]

    @virtual
    async def test_the_choosy_are_served_by_priority_among_themselves(self) -> None:
        low, high = ({"agents": ("a",), "priority": each} for each in (Priority.LOW, Priority.HIGH))
        async with Stage(agent("a")) as stage:
            assert await self.order_of(stage, (0, low), (0, high)) == [1, 0]

    @virtual
    async def test_the_place_in_line_counts_from_ready_and_not_from_arrival(self) -> None:
        async with Stage(agent("a")) as stage:
            lease = await stage.lease()
            fresh = stage.asking()
            await asyncio.sleep(1)
            returning = stage.asking(ready_at=now() - 30)
            await asyncio.sleep(1)
            stage.succeed(lease)
            first = await granted(returning)
            assert not fresh.done()
            stage.succeed(first)
            stage.succeed(await granted(fresh))

    @virtual
    async def test_slots_that_come_free_together_are_shared_between_tenants(self) -> None:
        async with Stage() as stage:
            greedy = [stage.asking(tenant="greedy") for _ in range(12)]
            modest = [stage.asking(tenant="modest") for _ in range(4)]
            await asyncio.sleep(1)
            stage.scheduler.add_agent(agent("a", slots=8, shared=True))
            await asyncio.sleep(SOON_S)
            assert [sum(each.done() for each in asked) for asked in (greedy, modest)] == [4, 4]
            for asked in (*modest, *greedy):
                stage.succeed(await granted(asked))

    @virtual
    async def test_an_agent_of_two_capabilities_serves_the_more_urgent_line(self) -> None:
        async with Stage(agent("a", LABEL, TEXT)) as stage:
            lease = await stage.lease(task(LABEL))
            patient = stage.asking(task(LABEL))
            urgent = stage.asking(task(TEXT, priority=Priority.HIGH))
            await asyncio.sleep(1)
            stage.succeed(lease)
            first = await granted(urgent)
            assert not patient.done()
            stage.succeed(first)
            stage.succeed(await granted(patient))


class TestManyCapabilities:
    @virtual
    async def test_of_more_than_64_lines_64_are_compared_in_turn_and_all_are_served(self) -> None:
        names = [f"test.n{number}" for number in range(200)]
        async with Stage(agent("a", *names)) as stage:
            lease = await stage.lease(task(names[0]))
            asked = {name: stage.asking(task(name)) for name in names[:-1]}
            await asyncio.sleep(1)
            urgent = asked[names[-1]] = stage.asking(task(names[-1], priority=Priority.HIGH))
            await asyncio.sleep(1)
            order: list[str] = []
            while len(order) < len(names):
                stage.succeed(lease)
                await asyncio.sleep(SOON_S)
                (served,) = [name for name, each in asked.items() if each.done() and name not in order]
                order.append(served)
                lease = await granted(asked[served])
            stage.succeed(lease)
            # It is among those that are compared in one of any four looks, and has the most weight times time there.
            assert urgent.done()
            assert order.index(names[-1]) <= 4


class TestDeadlinesAndBounds:
    @virtual
    async def test_a_waiting_task_leaves_the_line_at_its_deadline(self) -> None:
        async with Stage(agent("a")) as stage:
            lease, began_at = await stage.lease(), now()
            assert await stage.scheduler.schedule_task(task(), deadline=now() + 7.5) is Unscheduled.DEADLINE
            assert now() - began_at == pytest.approx(7.5)
            assert stage.scheduler.status().queue_depth == 0
            stage.succeed(lease)

    @virtual
    async def test_a_task_whose_time_is_over_is_not_bound_even_to_a_free_agent(self) -> None:
        async with Stage(agent("a")) as stage:
            for options in ({}, {"tried": frozenset({"b"})}, {"wait": False}):
                decided = await stage.scheduler.schedule_task(task(), deadline=now(), **options)
                assert decided is Unscheduled.DEADLINE
            assert stage.board.asked == []

    @virtual
    async def test_a_full_line_refuses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serving, "WAITING_MAX", 3)
        async with Stage(agent("a")) as stage:
            lease = await stage.lease()
            asked = [stage.asking() for _ in range(3)]
            await asyncio.sleep(1)
            assert await stage.scheduler.schedule_task(task()) is Unscheduled.LINE_FULL
            for each in asked:
                each.cancel()
            await asyncio.sleep(1)
            stage.succeed(lease)

    @virtual
    async def test_status_tells_what_is_taken_free_out_and_waiting(self) -> None:
        async with Stage(agent("a", LABEL, slots=2), agent("b", LABEL), agent("c", TEXT)) as stage:
            stage.scheduler.drain_agent("b")
            leases = [await stage.lease(task(LABEL)), await stage.lease(task(LABEL))]
            asked = stage.asking(task(LABEL))
            await asyncio.sleep(4)
            status = stage.scheduler.status()
            assert (status.agents_count, status.total_capacity, status.current_load) == (3, 4, 2)
            assert status.utilization_percentage == 50.0
            assert (status.queue_depth, status.oldest_wait_s) == (1, 4.0)
            label, text = status.by_capability[LABEL], status.by_capability[TEXT]
            assert (label.agents, label.usable, label.free, label.queue_depth) == (2, 1, 0, 1)
            assert (text.agents, text.usable, text.free, text.queue_depth) == (1, 1, 1, 0)
            stage.succeed(*leases)
            stage.succeed(await granted(asked))


class TestEvidence:
    @pytest.mark.parametrize("outcome", [Outcome.AGENT_FAULT, Outcome.UNAVAILABLE])
    @virtual
    async def test_five_faults_in_a_row_open_the_circuit(self, outcome: Outcome) -> None:
        async with Stage(agent("a")) as stage:
            for failures in range(5):
                assert stage.state("a") is CircuitState.CLOSED, failures
                stage.complete(await stage.lease(), outcome)
            assert stage.state("a") is CircuitState.OPEN

    @pytest.mark.parametrize(
        "outcome", [Outcome.TASK_FAILED, Outcome.CALLER_FAULT, Outcome.DEADLINE_EXCEEDED, Outcome.CANCELLED]
    )
    @virtual
    async def test_what_is_not_the_agents_doing_never_opens_it_and_never_clears_it(self, outcome: Outcome) -> None:
        async with Stage(agent("a")) as stage:
            await stage.fault("a", times=4)
            for _ in range(20):
                stage.complete(await stage.lease(), outcome)
            assert stage.state("a") is CircuitState.CLOSED
            await stage.fault("a", times=1)
            assert stage.state("a") is CircuitState.OPEN

    @virtual
    async def test_a_success_clears_the_row_of_faults(self) -> None:
        async with Stage(agent("a")) as stage:
            await stage.fault("a", times=4)
            stage.succeed(await stage.lease())
            await stage.fault("a", times=4)
            assert stage.state("a") is CircuitState.CLOSED

    @virtual
    async def test_a_fault_that_is_no_evidence_teaches_nothing(self) -> None:
        async with Stage(agent("a")) as stage:
            for _ in range(20):
                stage.complete(await stage.lease(), Outcome.AGENT_FAULT, evidence=False)
            assert stage.state("a") is CircuitState.CLOSED

    @virtual
    async def test_an_agents_fault_counts_for_one_capability_and_unreachable_for_all(self) -> None:
        for outcome, state in ((Outcome.AGENT_FAULT, CircuitState.CLOSED), (Outcome.UNAVAILABLE, CircuitState.OPEN)):
            async with Stage(agent("a", LABEL, TEXT)) as stage:
                for _ in range(5):
                    stage.complete(await stage.lease(task(LABEL)), outcome)
                assert stage.state("a", LABEL) is CircuitState.OPEN
                assert stage.state("a", TEXT) is state

    @virtual
    async def test_an_open_circuit_gets_nothing_until_it_is_probed_and_then_work_again(self) -> None:
        async with Stage(agent("a")) as stage:
            await stage.fault("a")
            opened_at, asked = now(), stage.asking()
            await asyncio.sleep(30)
            assert not asked.done()
            assert stage.due == [(opened_at + 1.0, "a")]
            stage.board.admit_probe("a", [ECHO])
            stage.scheduler.refresh("a")
            stage.succeed(await granted(asked))

    @virtual
    async def test_the_probe_is_asked_for_again_after_each_longer_wait(self) -> None:
        async with Stage(agent("a")) as stage:
            await stage.fault("a")
            opened_at = now()

            def dead(_profile: object) -> None:
                stage.due.append((round(now() - opened_at, 6), "a"))
                stage.board.probe_failed("a", [ECHO])
                stage.scheduler.refresh("a")

            stage.scheduler.on_probe_due = dead
            await asyncio.sleep(8.2)
            assert [after_s for after_s, _ in stage.due] == [1.0, 2.5, 4.75, 8.125]

    @virtual
    async def test_what_happens_at_the_very_end_of_the_wait_does_not_keep_it_from_being_probed(self) -> None:
        async with Stage(agent("a", LABEL, TEXT, slots=2)) as stage:
            other = await stage.lease(task(TEXT))
            asyncio.get_running_loop().call_later(1.0, stage.succeed, other)
            await stage.fault("a", capability=LABEL)
            await asyncio.sleep(30)
            assert stage.due
            stage.board.admit_probe("a", [LABEL])

    @virtual
    async def test_without_a_gate_the_end_of_the_wait_brings_it_back(self) -> None:
        async with Stage(agent("a"), gated=False) as stage:
            await stage.fault("a")
            opened_at, asked = now(), stage.asking()
            lease = await granted(asked)
            assert now() - opened_at == pytest.approx(1.0)
            stage.succeed(lease)

    @virtual
    async def test_a_custom_policy_is_followed(self) -> None:
        async with Stage(agent("a"), policy=BreakerPolicy(failure_threshold=2)) as stage:
            await stage.fault("a", times=2)
            assert stage.state("a") is CircuitState.OPEN
