"""Crowds: what one task or agent asks for costs no other decision, and no event holds the loop for a whole crowd."""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from aicp.model.outcome import Outcome
from aicp.model.task import Priority, Task
from aicp.scheduling.fleet import LOOKS, NOWHERE, SEATS_SCANNED_MAX
from aicp.scheduling.lease import Lease, Unscheduled
from aicp.scheduling.serving import WOKEN_A_STEP
from aicp.scheduling.slices import Slices, at_once, in_slices
from aicp.scheduling.task_scheduler import SHARED_A_STEP
from aicp.scheduling.waiter import Selector
from tests.unit.flow_kit import ECHO, SOON_S, Stage, agent, granted, task, virtual

CROWD = 500
Make = Callable[[int], Task]


def labelled(number: int) -> Task:
    return task(labels={"n": f"gone-{number}"})


def naming(number: int) -> Task:
    return task(agents=(f"gone-{number}",))


def excluding(number: int) -> Task:
    return task(exclude_agents=("a", "b", f"gone-{number}"))


async def cut_off(asked: list[asyncio.Task[Lease | Unscheduled]]) -> None:
    for each in asked:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[Selector]:
    """What a waiting group asks for, each time an agent looks at it."""
    seen: list[Selector] = []
    suits = Selector.suits

    def noted(selector: Selector, seat: Any) -> bool:
        seen.append(selector)
        return suits(selector, seat)

    monkeypatch.setattr(Selector, "suits", noted)
    return seen


class TestWaiting:
    @pytest.mark.parametrize("make", [labelled, naming, excluding])
    @virtual
    async def test_a_crowd_that_suits_no_agent_is_not_looked_at_by_those_that_are_freed(
        self, make: Make, looked_at: list[Selector]
    ) -> None:
        async with Stage(agent("a"), agent("b")) as stage:
            crowd = [stage.asking(make(number)) for number in range(CROWD)]
            await asyncio.sleep(SOON_S)
            looked_at.clear()
            for _ in range(20):
                stage.succeed(await stage.lease(), await stage.lease())
                await asyncio.sleep(SOON_S)
            assert looked_at == []
            await cut_off(crowd)

    @virtual
    async def test_of_a_crowd_that_an_agent_must_look_at_it_looks_at_a_few_in_each_turn_of_the_loop(
        self, looked_at: list[Selector]
    ) -> None:
        async with Stage(agent("a"), agent("b")) as stage:
            busy = [await stage.lease(), await stage.lease()]
            crowd = [stage.asking(task(exclude_agents=("a", f"gone-{number}"))) for number in range(CROWD)]
            fitting = stage.asking(task(exclude_agents=("b",)))
            await asyncio.sleep(SOON_S)
            looked_at.clear()
            stage.succeed(busy[0])
            assert len(looked_at) <= LOOKS
            lease = await granted(fitting)
            assert lease.agent.agent_id == "a"
            stage.succeed(lease, busy[1])
            for each in crowd:
                stage.succeed(await granted(each))

    @pytest.mark.parametrize("wait", [True, False])
    @virtual
    async def test_the_only_free_agent_that_suits_is_found_beyond_the_first_looks(self, *, wait: bool) -> None:
        names = [f"a{number}" for number in range(700)]
        async with Stage(*map(agent, names)) as stage:
            excluded = tuple(name for name in names if name != "a555")
            lease = await asyncio.wait_for(stage.lease(task(exclude_agents=excluded), wait=wait), SOON_S)
            assert lease.agent.agent_id == "a555"
            stage.succeed(lease)
            for each in [await stage.lease(task(agents=(name,))) for name in names if name != "a432"]:
                stage.succeed(each)
            busy = [await stage.lease(task(agents=(name,))) for name in names if name != "a432"]
            lease = await asyncio.wait_for(stage.lease(task(agents=tuple(names)), wait=wait), SOON_S)
            assert lease.agent.agent_id == "a432"
            stage.succeed(lease, *busy)

    @virtual
    async def test_labels_that_only_one_agent_carries_together_are_found_beyond_the_first_looks(self) -> None:
        one, other = {"n": "one"}, {"z": "other"}
        crowd = [agent(f"a{number}", labels=(one, other)[number % 2]) for number in range(400)]
        async with Stage(*crowd, agent("both", labels={**one, **other})) as stage:
            for _ in range(3):
                lease = await asyncio.wait_for(stage.lease(task(labels={**one, **other})), SOON_S)
                assert lease.agent.agent_id == "both"
                stage.succeed(lease)

    @virtual
    async def test_one_that_is_cut_off_while_it_looks_for_an_agent_leaves_nothing_behind(self) -> None:
        names = [f"a{number}" for number in range(1_000)]
        async with Stage(*map(agent, names)) as stage:
            asked = stage.asking(task(exclude_agents=tuple(names[:-1])))
            await asyncio.sleep(0)
            await cut_off([asked])


class TestEvents:
    @virtual
    async def test_of_ten_thousand_that_are_woken_a_few_are_in_each_turn_of_the_loop(self) -> None:
        async with Stage(agent("a")) as stage:
            busy = await stage.lease()
            asked = [stage.asking(wait=False) for _ in range(10 * WOKEN_A_STEP)]
            await asyncio.sleep(SOON_S)
            stage.scheduler.drain_agent("a")
            line = stage.scheduler.waiting(ECHO)
            assert line is not None
            left = sum(each.is_waiting for each in line.of("default", Priority.NORMAL))
            assert left == len(asked) - WOKEN_A_STEP
            assert [await each for each in asked] == [Unscheduled.ALL_OUT] * len(asked)
            stage.succeed(busy)

    @virtual
    async def test_whether_an_agent_is_left_is_decided_once_for_all_that_ask_for_the_same(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with Stage(agent("a"), agent("b"), agent("c", "other.thing")) as stage:
            busy = [await stage.lease(), await stage.lease()]
            asked = [stage.asking(wait=False) for _ in range(CROWD)]
            await asyncio.sleep(SOON_S)
            serving, decided = stage.scheduler._serving, list[str]()
            hopeless = serving.hopeless

            def noted(waiter: Any) -> Unscheduled | None:
                decided.append(waiter.task.capability)
                return hopeless(waiter)

            monkeypatch.setattr(serving, "hopeless", noted)
            stage.scheduler.drain_agent("b")
            stage.scheduler.drain_agent("c")
            assert decided == [ECHO]
            stage.succeed(*busy)
            for each in asked:
                stage.succeed(await granted(each))

    @virtual
    async def test_an_agent_that_comes_back_while_a_crowd_is_woken_serves_the_rest_of_it(self) -> None:
        async with Stage(agent("a")) as stage:
            busy = await stage.lease()
            asked = [stage.asking(wait=False) for _ in range(3 * WOKEN_A_STEP)]
            await asyncio.sleep(SOON_S)
            stage.scheduler.drain_agent("a")
            stage.scheduler.add_agent(agent("a"))
            stage.succeed(busy)
            ends = []
            for each in asked:
                ends.append(end := await each)
                if isinstance(end, Lease):
                    stage.succeed(end)
            assert ends[:WOKEN_A_STEP] == [Unscheduled.ALL_OUT] * WOKEN_A_STEP
            assert all(isinstance(each, Lease) for each in ends[WOKEN_A_STEP:])

    @virtual
    async def test_slots_of_many_agents_are_shared_in_slices_and_of_those_that_come_meanwhile_too(self) -> None:
        many = [agent(f"a{number}", slots=4) for number in range(3 * SHARED_A_STEP)]
        async with Stage(*many) as stage:
            stage.scheduler.share_slots(2)
            stage.scheduler.share_slots(4)
            stage.scheduler.remove_agent("a299")
            stage.scheduler.add_agent(agent("late", slots=4))
            assert stage.scheduler.member("a298").slots == 4
            await asyncio.sleep(SOON_S)
            assert {member.slots for member in stage.scheduler.members()} == {1}
            assert stage.scheduler.status().total_capacity == len(many)


class TestManyCapabilities:
    NAMES: ClassVar = [f"x.n{number}" for number in range(3 * SEATS_SCANNED_MAX)]

    @virtual
    async def test_an_agent_that_is_full_takes_nothing_more_for_any_of_them(self) -> None:
        async with Stage(agent("a", *self.NAMES), agent("b", *self.NAMES)) as stage:
            for name in self.NAMES:
                first, second = await stage.lease(task(name)), await stage.lease(task(name))
                assert {first.agent.agent_id, second.agent.agent_id} == {"a", "b"}
                asked = [stage.asking(task(each)) for each in self.NAMES]
                await asyncio.sleep(SOON_S)
                assert not any(each.done() for each in asked)
                stage.succeed(first, second)
                for each in asked:
                    stage.succeed(await granted(each))

    @virtual
    async def test_after_a_silence_all_of_them_are_back_where_their_speed_belongs(self) -> None:
        async with Stage(agent("a", *self.NAMES, slots=2)) as stage:
            for name in self.NAMES:
                stage.succeed(await stage.lease(task(name)), elapsed_s=1.0)
            held = await stage.lease(task(self.NAMES[0], timeout_s=1_000.0))
            await asyncio.sleep(10.0)
            trial = await stage.lease(task(self.NAMES[-1], timeout_s=1_000.0))
            stage.succeed(trial)
            buckets = {seat.bucket for seat in stage.scheduler.member("a")}
            assert len(buckets) == 1
            assert NOWHERE not in buckets
            stage.succeed(held)

    @virtual
    async def test_the_first_with_the_most_weight_times_time_waited_is_taken(self) -> None:
        async with Stage(agent("a", *self.NAMES)) as stage:
            busy = await stage.lease(task(self.NAMES[0]))
            old = stage.asking(task(self.NAMES[1], priority="low"))
            await asyncio.sleep(10.0)
            young = stage.asking(task(self.NAMES[2], priority="high"))
            await asyncio.sleep(0.1)
            stage.succeed(busy)
            lease = await granted(old)
            assert not young.done()
            stage.succeed(lease)
            stage.succeed(await granted(young))


class TestSlices:
    @virtual
    async def test_steps_of_one_key_run_one_after_another_and_the_latest_that_were_asked_for(self) -> None:
        slices, done = Slices(), list[str]()

        def steps(name: str) -> Any:
            for number in range(2):
                done.append(f"{name}{number}")
                yield

        for name in "abc":
            slices.run("key", steps(name))
        assert done == ["a0"]
        await asyncio.sleep(SOON_S)
        assert done == ["a0", "a1", "c0", "c1"]

    @virtual
    async def test_nothing_runs_after_the_close(self) -> None:
        slices, done = Slices(), list[int]()

        def steps() -> Any:
            for number in range(5):
                done.append(number)
                yield

        slices.run("key", steps())
        slices.close()
        await asyncio.sleep(SOON_S)
        assert done == [0]

    @virtual
    async def test_the_result_is_the_same_at_once_and_in_slices(self) -> None:
        def steps() -> Any:
            yield
            yield
            return 7

        assert at_once(steps()) == await in_slices(steps()) == 7

    @virtual
    async def test_status_and_explanation_read_in_slices_say_the_same(self) -> None:
        async with Stage(agent("a"), agent("b", "other.thing")) as stage:
            busy = await stage.lease()
            wanted = task()
            asked = stage.asking(wanted)
            await asyncio.sleep(SOON_S)
            assert await stage.scheduler.read_status() == stage.scheduler.status()
            assert await stage.scheduler.read_explanation(wanted) == stage.scheduler.explain(wanted)
            stage.complete(busy, Outcome.SUCCESS)
            stage.succeed(await granted(asked))
