"""A submit that will probably outlast its own deadline is accepted, and its answer and an event say so."""

import asyncio
from collections import Counter
from typing import Any

import msgspec
import pytest

from aicp.coordination.forecast import TASKS_A_STEP, Forecast, forecast
from aicp.errors import QueueFull
from aicp.model.agent import DEFAULT_TENANT
from aicp.model.chain import ChainSpec, parallel_chain
from aicp.model.event import ChainSubmitted, ChainWarned
from aicp.model.outcome import Outcome
from aicp.model.task import Priority, Task, TaskStatus
from aicp.model.validation import check_chain
from aicp.ports import SubmitKey
from aicp.scheduling.pace import Pace
from aicp.scheduling.slices import at_once
from aicp.testing.faulty_agents import ScriptedAgent
from tests.unit.flow_kit import ECHO, SOON_S, Flow, agent, task, virtual

LATENCY_S = 0.5
ACME, BOLT = "acme", "bolt"


class Known(Flow):
    """One agent that does two tasks a second, and whose speed is known."""

    def __init__(self, *agents: ScriptedAgent, latency_s: float = LATENCY_S) -> None:
        super().__init__(*agents or (ScriptedAgent("a", latency_s=latency_s),))

    async def warm(self, capability: str = ECHO, **options: Any) -> None:
        await self.router.route_task(task(capability, **options))

    async def submit(self, *tasks: Task, tenant: str = DEFAULT_TENANT, deadline_s: float | None = None) -> str:
        named = [
            each if each.id else msgspec.structs.replace(each, id=f"t{number}") for number, each in enumerate(tasks)
        ]
        return await self.coordinator.submit(ChainSpec(tuple(named), deadline_s=deadline_s), tenant=tenant)

    async def expected(self, *tasks: Task, tenant: str = DEFAULT_TENANT, deadline_s: float | None = None) -> Forecast:
        found = self.coordinator.expected(await self.submit(*tasks, tenant=tenant, deadline_s=deadline_s))
        assert found is not None
        return found

    @property
    def warnings(self) -> list[ChainWarned]:
        return [event for event in self.seen.events if isinstance(event, ChainWarned)]


async def stop(flow: Flow) -> None:
    """Cancel what was submitted: the test has seen what it wanted."""
    for event in flow.seen.events:
        if isinstance(event, ChainSubmitted):
            await flow.coordinator.cancel(event.chain_id)


class TestThreeThousandTasks:
    @virtual
    async def test_they_are_accepted_and_the_answer_and_an_event_say_how_many_will_fail(self) -> None:
        async with Known() as flow:
            await flow.warm()
            chain_id = await flow.coordinator.submit(parallel_chain([task() for _ in range(3_000)]))
            expected = flow.coordinator.expected(chain_id)
            assert expected is not None
            assert expected.expected_s == pytest.approx(1_500.0, rel=0.01)
            assert expected.warning == (
                "At the present rate this takes about 1500 s, and 1800 of 3000 tasks would not end within their "
                "deadline: raise deadline_s, or add agents for 'test.echo'."
            )
            (event,) = flow.warnings
            assert (event.chain_id, event.tenant) == (chain_id, DEFAULT_TENANT)
            assert (event.expected_s, event.warning) == (expected.expected_s, expected.warning)
            kinds = [type(each) for each in flow.seen.events if isinstance(each, ChainSubmitted | ChainWarned)]
            assert kinds == [ChainSubmitted, ChainWarned]
            result = await flow.coordinator.wait_result(chain_id)
            ends = Counter(each.status for each in result.tasks.values())
            assert ends[TaskStatus.FAILED] == pytest.approx(1_800, abs=5)
            await asyncio.sleep(SOON_S)
            assert flow.coordinator.expected(chain_id) is None

    @virtual
    async def test_agents_that_are_added_keep_all_that_was_accepted(self) -> None:
        extra = ScriptedAgent("b", latency_s=LATENCY_S, max_concurrent_tasks=4)
        async with Known() as flow:
            await flow.warm()
            chain_id = await flow.coordinator.submit(parallel_chain([task() for _ in range(3_000)]))
            assert flow.coordinator.expected(chain_id) is not None
            flow.transport.add(extra)
            flow.scheduler.add_agent(extra.profile)
            assert (await flow.coordinator.wait_result(chain_id)).status is TaskStatus.COMPLETED

    @virtual
    async def test_those_that_fit_into_their_deadline_get_no_warning(self) -> None:
        async with Known() as flow:
            await flow.warm()
            chain_id = await flow.coordinator.submit(parallel_chain([task() for _ in range(1_150)]))
            assert flow.coordinator.expected(chain_id) is None
            assert (await flow.coordinator.wait_result(chain_id)).status is TaskStatus.COMPLETED
            assert flow.warnings == []

    @virtual
    async def test_slots_share_the_work(self) -> None:
        async with Known(ScriptedAgent("a", latency_s=LATENCY_S, max_concurrent_tasks=4)) as flow:
            await flow.warm()
            within = await flow.coordinator.submit(parallel_chain([task(deadline_s=20.0) for _ in range(160)]))
            assert flow.coordinator.expected(within) is None
            await flow.coordinator.wait(within)
            assert (await flow.expected(*[task(deadline_s=10.0) for _ in range(160)])).expected_s == pytest.approx(20.0)
            await stop(flow)


class TestOneTask:
    @virtual
    async def test_work_that_takes_longer_than_its_deadline(self) -> None:
        async with Known(latency_s=20.0) as flow:
            await flow.warm()
            expected = await flow.expected(task(deadline_s=5.0))
            assert expected == Forecast(
                20.0,
                "At the present rate this takes about 20 s, longer than its deadline of 5 s: raise deadline_s, or add "
                "agents for 'test.echo'.",
            )
            await stop(flow)

    @virtual
    async def test_the_line_in_front_counts(self) -> None:
        async with Known(latency_s=10.0) as flow:
            await flow.warm()
            await flow.submit(*[task(priority=Priority.HIGH) for _ in range(9)])
            await asyncio.sleep(SOON_S)
            # Eight wait, one runs: this one waits 90 s, so it is not refused, and takes another 10 s.
            assert (await flow.expected(task(deadline_s=95.0, priority=Priority.HIGH))).expected_s == pytest.approx(
                100.0
            )
            await stop(flow)

    @virtual
    async def test_the_deadline_of_the_chain_counts_too(self) -> None:
        async with Known(latency_s=20.0) as flow:
            await flow.warm()
            assert "its deadline of 5 s" in (await flow.expected(task(), deadline_s=5.0)).warning
            await stop(flow)


class TestUnknown:
    @virtual
    async def test_before_the_first_sample_nothing_is_said(self) -> None:
        async with Known() as flow:
            chain_id = await flow.submit(*[task(deadline_s=1.0) for _ in range(100)])
            assert flow.coordinator.expected(chain_id) is None
            assert flow.warnings == []
            await stop(flow)

    @virtual
    async def test_while_every_agent_is_out_nothing_is_said(self) -> None:
        async with Known() as flow:
            await flow.warm()
            flow.scheduler.drain_agent("a")
            chain_id = await flow.submit(*[task(deadline_s=1.0) for _ in range(100)])
            assert flow.coordinator.expected(chain_id) is None
            await stop(flow)

    @virtual
    async def test_a_part_that_is_unknown_counts_as_nothing(self) -> None:
        known = ScriptedAgent("a", latency_s=LATENCY_S)
        unknown = ScriptedAgent("b", capabilities=("test.other",), latency_s=50.0)
        async with Known(known, unknown) as flow:
            await flow.warm()
            many = [task(deadline_s=10.0, id=f"t{n}") for n in range(100)]
            last = task("test.other", id="last", depends_on=tuple(each.id for each in many))
            expected = await flow.expected(*many, last)
            assert expected.expected_s == pytest.approx(50.0, abs=1.0)
            assert "80 of 101 tasks" in expected.warning
            await stop(flow)


class TestRest:
    @virtual
    async def test_slots_of_an_agent_that_asked_for_a_rest_do_not_count(self) -> None:
        resting = ScriptedAgent("b", latency_s=LATENCY_S, max_concurrent_tasks=9)
        async with Known(ScriptedAgent("a", latency_s=LATENCY_S), resting) as flow:
            for each in ("a", "b"):
                await flow.warm(agents=(each,))
            assert flow.coordinator.expected(await flow.submit(*[task(deadline_s=10.0) for _ in range(100)])) is None
            await asyncio.sleep(30)
            lease = await flow.lease(task(agents=("b",)))
            flow.complete(lease, Outcome.OVERLOADED, retry_after_s=60.0)
            assert (await flow.expected(*[task(deadline_s=10.0) for _ in range(100)])).expected_s == pytest.approx(50.0)
            await stop(flow)


class TestTenantsAndPriorities:
    @virtual
    async def test_tenants_that_wait_at_shared_agents_take_their_turns(self) -> None:
        async with Known() as flow:
            flow.scheduler.add_agent(agent("a", shared=True))
            await flow.warm()
            alone = await flow.expected(*[task(deadline_s=10.0) for _ in range(50)], tenant=ACME)
            await asyncio.sleep(SOON_S)
            beside = await flow.expected(*[task(deadline_s=10.0) for _ in range(50)], tenant=BOLT)
            assert alone.expected_s == pytest.approx(25.0)
            assert beside.expected_s == pytest.approx(50.0, rel=0.05)
            await stop(flow)

    @virtual
    async def test_a_low_crowd_delays_low_work_and_hardly_any_high_work(self) -> None:
        async with Known() as flow:
            await flow.warm()
            await flow.submit(*[task(priority=Priority.LOW) for _ in range(300)])
            await asyncio.sleep(SOON_S)
            low = await flow.expected(*[task(priority=Priority.LOW, deadline_s=290.0) for _ in range(300)])
            high = await flow.expected(*[task(priority=Priority.HIGH, deadline_s=10.0) for _ in range(50)])
            assert low.expected_s == pytest.approx(300.0, rel=0.01)
            assert high.expected_s == pytest.approx(25.0, rel=0.05)
            await stop(flow)

    @virtual
    async def test_priorities_within_one_submit_share_the_agents(self) -> None:
        async with Known() as flow:
            await flow.warm()
            mixed = [task(priority=priority, deadline_s=60.0) for priority in Priority for _ in range(100)]
            expected = await flow.expected(*mixed)
            assert expected.expected_s == pytest.approx(150.0, rel=0.02)
            assert "180 of 300 tasks" in expected.warning
            await stop(flow)


class TestChains:
    @virtual
    async def test_the_longest_path_counts_against_the_deadline_of_the_chain(self) -> None:
        async with Known(latency_s=10.0) as flow:
            await flow.warm()
            steps = [task(id=f"t{n}", depends_on=(f"t{n - 1}",) if n else ()) for n in range(8)]
            expected = await flow.expected(*steps, deadline_s=60.0)
            assert expected.expected_s == pytest.approx(80.0)
            assert "2 of 8 tasks" in expected.warning
            chain_id = await flow.submit(*steps, deadline_s=85.0 + 80.0)
            assert flow.coordinator.expected(chain_id) is None
            await stop(flow)

    @virtual
    async def test_what_becomes_ready_at_once_waits_for_its_turn_from_then_on(self) -> None:
        async with Known() as flow:
            await flow.warm()
            fan = [task(id=f"t{n}", depends_on=("first",), deadline_s=100.0) for n in range(300)]
            expected = await flow.expected(task(id="first"), *fan)
            assert expected.expected_s == pytest.approx(150.5, abs=1.0)
            assert "100 of 301 tasks" in expected.warning
            await stop(flow)

    @virtual
    async def test_many_short_pipelines_do_not_wait_longer_than_their_agents_make_them(self) -> None:
        fast, slow = (
            ScriptedAgent("a", latency_s=LATENCY_S),
            ScriptedAgent("b", capabilities=("test.other",), latency_s=0.6),
        )
        async with Known(fast, slow) as flow:
            await flow.warm()
            await flow.warm("test.other")
            pipelines = [
                each
                for n in range(150)
                for each in (
                    task(id=f"a{n}", deadline_s=80.0),
                    task("test.other", id=f"b{n}", depends_on=(f"a{n}",), deadline_s=60.0),
                )
            ]
            # All of the second steps take 90 s, but no one of them waits longer than 16 s after its first step.
            chain_id = await flow.submit(*pipelines)
            assert flow.coordinator.expected(chain_id) is None
            assert (await flow.coordinator.wait_result(chain_id)).status is TaskStatus.COMPLETED

    @virtual
    async def test_results_that_a_retry_copies_take_no_time(self) -> None:
        async with Known(latency_s=10.0) as flow:
            await flow.warm()
            steps = [task(id=f"t{n}", deadline_s=25.0) for n in range(4)]
            chain_id = await flow.submit(*steps)
            assert flow.coordinator.expected(chain_id) is not None
            result = await flow.coordinator.wait_result(chain_id)
            assert Counter(each.status for each in result.tasks.values())[TaskStatus.COMPLETED] == 2
            retried = await flow.coordinator.retry(chain_id)
            assert flow.coordinator.expected(retried) is None
            assert (await flow.coordinator.wait_result(retried)).status is TaskStatus.COMPLETED


class TestCost:
    """Counted, not timed."""

    def test_one_estimate_for_each_capability_and_priority(self) -> None:
        asked: list[tuple[str, Priority, int]] = []

        def pace(example: Task, count: int) -> Pace:
            asked.append((example.capability, example.priority, count))
            return Pace(0.0, 0.1, 0.1, 1)

        tasks = [task(f"x.n{n % 2}", id=f"t{n}", priority=list(Priority)[n % 3]) for n in range(600)]
        assert at_once(forecast(check_chain(ChainSpec(tuple(tasks))), (), pace)) is None
        assert Counter(asked) == {(f"x.n{n}", priority, 100): 1 for n in range(2) for priority in Priority}

    @pytest.mark.parametrize("latency_s", [0.001, 1_000.0])
    def test_a_large_chain_is_looked_at_in_steps_and_only_when_it_may_be_late(self, latency_s: float) -> None:
        graph = check_chain(ChainSpec(tuple(task(id=f"t{n}") for n in range(10_000))))
        pace = Pace(0.0, latency_s, latency_s, 1)
        steps = list(forecast(graph, (), lambda _task, _count: pace))
        assert len(steps) == (0 if latency_s < 1 else 2 + 10_000 // TASKS_A_STEP)


class TestRepeats:
    @virtual
    async def test_a_repeat_of_a_submit_has_the_same_warning_and_no_second_event(self) -> None:
        async with Known(latency_s=20.0) as flow:
            await flow.warm()
            spec, key = ChainSpec((task(id="one", deadline_s=5.0),)), SubmitKey(DEFAULT_TENANT, "k", b"digest")
            first, again = [await flow.coordinator.submit(spec, key=key) for _ in range(2)]
            assert first == again
            assert flow.coordinator.expected(again) is not None
            assert len(flow.warnings) == 1
            await stop(flow)

    @virtual
    async def test_what_is_refused_is_not_warned_of(self) -> None:
        async with Known(latency_s=10.0) as flow:
            await flow.warm()
            await flow.submit(*[task() for _ in range(20)])
            await asyncio.sleep(SOON_S)
            with pytest.raises(QueueFull):
                await flow.submit(task(deadline_s=50.0))
            assert flow.warnings == []
            await stop(flow)
