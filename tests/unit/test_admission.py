"""Work that would stand in line beyond its deadline is refused when it comes, the less urgent first; no other is."""

import asyncio
import contextlib
import re
from collections.abc import Sequence
from typing import Any

import pytest

from aicp.errors import InvalidAgent, InvalidTask, QueueFull
from aicp.model.agent import CAPABILITIES_MAX, AgentProfile, Capability
from aicp.model.chain import ChainSpec
from aicp.model.task import Priority
from aicp.registry.directory import Directory
from aicp.registry.schemas import Schemas
from aicp.routing.failover_router import WAIT_SHARES
from aicp.testing.faulty_agents import ScriptedAgent
from tests.unit.flow_kit import ECHO, SOON_S, Flow, Stage, agent, granted, now, task, virtual

LATENCY_S = 1.0
ACME, BOLT = "acme", "bolt"


class Crowd:
    """Tasks that keep one agent busy and stand in its line, each worth a second of it."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.calls: list[asyncio.Task[object]] = []

    async def come(self, count: int) -> None:
        route = self.flow.router.route_task
        # One is served first, so that it is known how long they take.
        await route(task())
        self.calls = [asyncio.create_task(route(task(deadline_s=3_600.0))) for _ in range(count + 1)]
        await asyncio.sleep(SOON_S)
        assert self.flow.scheduler.status().queue_depth == count

    async def go(self) -> None:
        for call in self.calls:
            call.cancel()
        await asyncio.gather(*self.calls, return_exceptions=True)


def one_slow() -> Flow:
    return Flow(ScriptedAgent("a", latency_s=LATENCY_S))


class TestRefused:
    @virtual
    async def test_a_direct_call_that_would_wait_beyond_its_deadline_is_refused_at_once(self) -> None:
        async with one_slow() as flow:
            crowd = Crowd(flow)
            await crowd.come(20)
            began_at, sent = now(), len(flow.transport.calls)
            with pytest.raises(QueueFull, match=r"would wait 21 s in line; at normal priority"):
                await flow.router.route_task(task(deadline_s=10.0))
            assert now() == began_at
            assert len(flow.transport.calls) == sent
            await crowd.go()

    @virtual
    async def test_so_is_a_submit_and_nothing_of_it_is_recorded_or_counted_as_accepted(self) -> None:
        async with one_slow() as flow:
            crowd = Crowd(flow)
            await crowd.come(20)
            spec = ChainSpec((task(id="one", deadline_s=10.0), task(id="two", depends_on=("one",))))
            events = len(flow.seen.events)
            with pytest.raises(QueueFull):
                await flow.coordinator.submit(spec)
            assert flow.coordinator.unfinished == 0
            assert len(flow.seen.events) == events
            assert flow.scheduler.status().queue_depth == 20
            assert flow.left_over().keys() == {"slots", "waiting", "lines", "leases"}
            await crowd.go()

    @virtual
    async def test_the_deadline_of_the_chain_counts_as_well(self) -> None:
        async with one_slow() as flow:
            crowd = Crowd(flow)
            await crowd.come(20)
            with pytest.raises(QueueFull):
                await flow.coordinator.submit(ChainSpec((task(id="one"),), deadline_s=10.0))
            await crowd.go()

    @virtual
    async def test_what_waits_for_others_first_is_taken_since_nobody_knows_the_line_by_then(self) -> None:
        async with one_slow() as flow:
            crowd = Crowd(flow)
            await crowd.come(20)
            last = task(id="last", depends_on=("first",), deadline_s=5.0)
            await flow.coordinator.submit(ChainSpec((task(id="first"), last)))
            assert flow.coordinator.unfinished == 2
            await crowd.go()
            await asyncio.sleep(60)

    @pytest.mark.parametrize("priority", list(Priority))
    @virtual
    async def test_each_priority_is_taken_up_to_its_share_of_the_deadline(self, priority: Priority) -> None:
        async with one_slow() as flow:
            crowd = Crowd(flow)
            await crowd.come(40)
            wait_s = flow.scheduler.expected_wait_s(task(priority=priority))
            just_s = wait_s / WAIT_SHARES[priority]
            with pytest.raises(QueueFull):
                flow.router.refuse_if_too_late([task(priority=priority, deadline_s=just_s - 0.1)])
            flow.router.refuse_if_too_late([task(priority=priority, deadline_s=just_s + 0.1)])
            await crowd.go()

    @virtual
    async def test_the_expected_wait_is_by_share_where_little_of_its_own_waits(self) -> None:
        async with one_slow() as flow:
            crowd = Crowd(flow)
            await crowd.come(80)
            # Eight of nine hand-overs are of normal ones: it has the next of the others.
            assert flow.scheduler.expected_wait_s(task(priority=Priority.LOW)) == pytest.approx(9.0)
            assert flow.scheduler.expected_wait_s(task(priority=Priority.HIGH)) == pytest.approx(1.0, rel=0.2)
            await crowd.go()

    @virtual
    async def test_the_expected_wait_is_by_drain_where_the_others_are_served_soon(self) -> None:
        async with one_slow() as flow:
            crowd = Crowd(flow)
            await crowd.come(20)
            low = [flow.router.route_task(task(priority=Priority.LOW, deadline_s=3_600.0)) for _ in range(40)]
            crowd.calls += [asyncio.create_task(each) for each in low]
            await asyncio.sleep(SOON_S)
            # More normal ones came in 5 s than the agent can do in them: by share only one low one in nine is served.
            assert flow.scheduler.expected_wait_s(task(priority=Priority.LOW)) == pytest.approx(41 * 9)
            # Nobody followed them for half a minute: the low ones have all of the agent as soon as these are done.
            await asyncio.sleep(40.0)
            waiting = flow.scheduler.status().queue_depth
            assert waiting > 10
            assert flow.scheduler.expected_wait_s(task(priority=Priority.LOW)) == pytest.approx(waiting + 1.0)
            await crowd.go()

    @virtual
    async def test_with_the_same_deadline_low_is_refused_first_then_normal_then_high(self) -> None:
        async with one_slow() as flow:
            crowd, refused_at = Crowd(flow), dict[Priority, int]()
            await crowd.come(1)
            for length in range(2, 60):
                for each in Priority:
                    extra = asyncio.create_task(flow.router.route_task(task(priority=each, deadline_s=3_600.0)))
                    crowd.calls.append(extra)
                await asyncio.sleep(SOON_S)
                for priority in set(Priority) - refused_at.keys():
                    try:
                        flow.router.refuse_if_too_late([task(priority=priority, deadline_s=30.0)])
                    except QueueFull:
                        refused_at[priority] = length
            assert refused_at[Priority.LOW] < refused_at[Priority.NORMAL] < refused_at[Priority.HIGH]
            await crowd.go()

    @virtual
    async def test_it_is_told_after_which_time_the_same_would_be_taken(self) -> None:
        async with one_slow() as flow:
            crowd = Crowd(flow)
            await crowd.come(20)
            with pytest.raises(QueueFull) as refused:
                await flow.router.route_task(task(deadline_s=10.0))
            assert refused.value.retry_after_s == pytest.approx(12.5, abs=1.0)
            await asyncio.sleep(refused.value.retry_after_s + 1.0)
            flow.router.refuse_if_too_late([task(deadline_s=10.0)])
            await crowd.go()

    @virtual
    async def test_refusals_are_counted_in_the_status_and_change_nothing_else(self) -> None:
        async with one_slow() as flow:
            crowd = Crowd(flow)
            await crowd.come(20)
            before = flow.scheduler.status()
            for _ in range(3):
                with pytest.raises(QueueFull):
                    await flow.router.route_task(task(deadline_s=10.0))
            after = flow.scheduler.status()
            assert (before.by_capability[ECHO].refused, after.by_capability[ECHO].refused) == (0, 3)
            assert after.queue_depth == before.queue_depth
            await crowd.go()

    @virtual
    async def test_the_last_of_the_room_for_accepted_tasks_is_kept_for_the_more_urgent(self) -> None:
        async with Flow(ScriptedAgent("a", latency_s=LATENCY_S), accepted_max=10) as flow:
            taken = dict.fromkeys(Priority, 0)
            for priority in (Priority.LOW, Priority.NORMAL, Priority.HIGH):
                for _ in range(11):
                    with contextlib.suppress(QueueFull):
                        await flow.coordinator.submit(ChainSpec((task(id="one", priority=priority),)))
                        taken[priority] += 1
            assert taken == {Priority.LOW: 7, Priority.NORMAL: 2, Priority.HIGH: 1}
            await asyncio.sleep(20)
            assert flow.coordinator.unfinished == 0


class TestTaken:
    @virtual
    async def test_while_nobody_knows_how_long_anything_takes_all_is_taken(self) -> None:
        async with Stage(agent("a")) as stage:
            await stage.lease()
            asked = [stage.asking() for _ in range(50)]
            await asyncio.sleep(SOON_S)
            assert stage.scheduler.expected_wait_s(task()) == 0.0
            await end_all(stage, asked)

    @virtual
    async def test_when_all_agents_are_out_work_is_taken_and_waits(self) -> None:
        async with Stage(agent("a")) as stage:
            stage.succeed(await stage.lease())
            stage.scheduler.drain_agent("a")
            asked = [stage.asking() for _ in range(50)]
            await asyncio.sleep(SOON_S)
            assert stage.scheduler.expected_wait_s(task()) == 0.0
            stage.scheduler.add_agent(agent("a"))
            await granted(asked[0])
            await end_all(stage, asked)

    @virtual
    async def test_tasks_of_a_tenant_whose_own_agents_left_count_among_the_arrivals_of_the_shared_ones(self) -> None:
        async with Stage(agent("own", tenant=ACME), agent("common", shared=True)) as stage:
            stage.scheduler.remove_agent("own")
            stage.succeed(await stage.lease(tenant=ACME))
            busy = [await stage.lease(tenant=ACME)]
            asked = [stage.asking(tenant=ACME) for _ in range(20)]
            await asyncio.sleep(SOON_S)
            # 22 normal ones in 5 s are more than the agent does: by drain nothing is left for low ones.
            assert stage.scheduler.expected_wait_s(task(priority=Priority.LOW), ACME) == pytest.approx(9.0)
            assert stage.scheduler.expected_wait_s(task(priority=Priority.HIGH), ACME) <= 9 / 8
            stage.succeed(*busy)
            await end_all(stage, asked)

    @virtual
    async def test_another_tenants_crowd_keeps_nobody_from_ones_own_agents(self) -> None:
        async with Stage(agent("own", tenant=ACME), agent("theirs", tenant=BOLT)) as stage:
            for tenant in (ACME, BOLT):
                stage.succeed(await stage.lease(tenant=tenant))
            busy = [await stage.lease(tenant=tenant) for tenant in (ACME, BOLT)]
            asked = [stage.asking(task(priority=Priority.HIGH), tenant=BOLT) for _ in range(500)]
            await asyncio.sleep(SOON_S)
            assert stage.scheduler.expected_wait_s(task(), ACME) == pytest.approx(1.0)
            assert stage.scheduler.expected_wait_s(task(priority=Priority.HIGH), BOLT) == pytest.approx(501.0)
            stage.succeed(busy[0])
            await end_all(stage, asked)

    @virtual
    async def test_own_agents_and_shared_ones_count_together_when_that_is_sooner(self) -> None:
        async with Stage(agent("own", tenant=ACME), agent("common", shared=True, slots=9)) as stage:
            for agent_id in ("own", "common"):
                stage.succeed(await stage.lease(task(agents=(agent_id,)), tenant=ACME))
            busy = [await stage.lease(tenant=ACME) for _ in range(10)]
            asked = [stage.asking(tenant=ACME) for _ in range(99)]
            await asyncio.sleep(SOON_S)
            assert stage.scheduler.expected_wait_s(task(), ACME) == pytest.approx(10.0)
            stage.succeed(*busy[1:])
            await end_all(stage, asked)

    @virtual
    async def test_with_somebody_free_nothing_is_refused_whoever_else_waits_for_whom(self) -> None:
        async with Stage(agent("free"), agent("wanted")) as stage:
            stage.succeed(await stage.lease(task(agents=("free",))))
            await stage.lease(task(agents=("wanted",)))
            asked = [stage.asking(task(agents=("wanted",))) for _ in range(2_000)]
            await asyncio.sleep(SOON_S)
            assert stage.scheduler.expected_wait_s(task()) == 0.0
            await end_all(stage, asked)


async def end_all(stage: Stage, asked: Sequence[asyncio.Task[Any]]) -> None:
    for each in asked:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    for held in list(stage.scheduler.leases()):
        stage.succeed(held)


class TestBadInput:
    """One clear sentence each, and nothing changed."""

    @pytest.mark.parametrize("slots", [0, -1, -(10**9), 10_001])
    @virtual
    async def test_a_capacity_that_is_none(self, slots: int) -> None:
        async with Stage(agent("a")) as stage:
            for agent_id in ("a", "b"):
                with pytest.raises(InvalidAgent, match=rf"max_concurrent_tasks.*1 to 10000, not {slots}"):
                    stage.scheduler.add_agent(agent(agent_id, slots=slots))
            assert unchanged(stage)

    @pytest.mark.parametrize("count", [0, CAPABILITIES_MAX + 1])
    @virtual
    async def test_no_capability_and_more_than_a_thousand(self, count: int) -> None:
        many = AgentProfile("a", tuple(Capability(f"x.n{number}") for number in range(count)))
        async with Stage(agent("a")) as stage:
            with pytest.raises(InvalidAgent, match=rf"capabilities.*1 to 1000, not {count}"):
                stage.scheduler.add_agent(many)
            assert unchanged(stage)

    @virtual
    async def test_sixty_four_capabilities_are_fine(self) -> None:
        async with Stage(agent("a", *(f"x.n{number}" for number in range(CAPABILITIES_MAX)))) as stage:
            lease = await stage.lease(task("x.n63"))
            assert stage.scheduler.status().by_capability["x.n0"].free == 0
            stage.succeed(lease)

    def test_ten_thousand_labels_of_an_agent(self) -> None:
        directory = Directory(Schemas())
        labels = {f"k{number}": "v" for number in range(10_000)}
        with pytest.raises(InvalidAgent, match="has 10000 entries; at most 64"):
            directory.put(agent("a", labels=labels))
        assert len(directory) == 0

    @virtual
    async def test_ten_thousand_labels_of_a_task(self) -> None:
        labels = {f"k{number}": "v" for number in range(10_000)}
        async with one_slow() as flow:
            with pytest.raises(InvalidTask, match=r"labels.*at most 64"):
                await flow.router.route_task(task(labels=labels))
            with pytest.raises(Exception, match=r"labels.*at most 64"):
                await flow.coordinator.submit(ChainSpec((task(id="one", labels=labels),)))
            assert flow.coordinator.unfinished == 0
            assert flow.transport.calls == []

    @pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("-inf"), float("inf")])
    @pytest.mark.parametrize("field", ["deadline_s", "timeout_s"])
    @virtual
    async def test_a_deadline_or_timeout_that_is_over_or_never(self, field: str, seconds: float) -> None:
        options: dict[str, Any] = {field: seconds}
        async with one_slow() as flow:
            told = re.compile(rf"{field}.*must be more than 0")
            with pytest.raises(InvalidTask, match=told):
                await flow.router.route_task(task(**options))
            with pytest.raises(Exception, match=told):
                await flow.coordinator.submit(ChainSpec((task(id="one", **options),)))
            assert flow.coordinator.unfinished == 0
            assert flow.transport.calls == []

    @virtual
    async def test_a_deadline_that_has_passed_takes_nothing(self) -> None:
        async with Stage(agent("a")) as stage:
            for deadline in (now(), now() - 1.0, float("-inf")):
                decided = await stage.scheduler.schedule_task(task(), deadline=deadline)
                assert not hasattr(decided, "permit")
            assert stage.board.asked == []
            assert unchanged(stage)


def unchanged(stage: Stage) -> bool:
    """The stage is as it was with one idle agent `a` of one slot."""
    members = {member.profile.agent_id: member.slots for member in stage.scheduler.members()}
    seen = stage.scheduler.status()
    is_idle = (seen.queue_depth, seen.current_load) == (0, 0)
    return members == {"a": 1} and is_idle and list(seen.by_capability) == [ECHO]
