"""Explanations: who was chosen and by which terms, who could do a task now, and who could not and why."""

import asyncio

from aicp.model.outcome import Outcome
from aicp.model.task import Task
from aicp.registry.leases import Liveness
from aicp.testing.faulty_agents import ScriptedAgent, fault, ok
from tests.unit.flow_kit import ECHO, Flow, Stage, agent, measured, task, virtual

GPU = {"gpu": "yes"}


def standings(stage: Stage, wanted: Task, **options: object) -> dict[str, tuple[str, str]]:
    outlook = stage.scheduler.explain(wanted, **options)  # type: ignore[arg-type] # passed on
    return {each.agent_id: (each.standing, each.reason) for each in outlook.candidates}


class TestCandidates:
    @virtual
    async def test_each_agent_has_its_standing_and_the_reason(self) -> None:
        names = ["free", "busy", "open", "drained", "excluded", "plain"]
        async with Stage(*(agent(name, labels={} if name == "plain" else GPU) for name in names)) as stage:
            busy = await stage.lease(task(agents=("busy",)))
            stage.board.record_evidence("open", [ECHO] * 5)
            stage.scheduler.drain_agent("drained")
            assert standings(stage, task(labels=GPU, exclude_agents=("excluded",))) == {
                "free": ("free", ""),
                "busy": ("busy", ""),
                "open": ("out", "circuit open"),
                "drained": ("out", "draining"),
                "excluded": ("left_out", "excluded by the task"),
                "plain": ("left_out", "without the labels it asks for"),
            }
            assert standings(stage, task(agents=("free",)), tried=frozenset({"free"}))["free"] == (
                "left_out",
                "tried already in this round",
            )
            stage.succeed(busy)

    @virtual
    async def test_unheard_agent_is_told_as_a_last_resort_behind_those_that_are_heard(self) -> None:
        async with Stage(agent("unheard", slots=2), agent("heard"), agent("all", shared=True)) as stage:
            stage.succeed(await stage.lease(task(agents=("unheard",))), elapsed_s=0.1)
            stage.succeed(await stage.lease(task(agents=("heard",))), elapsed_s=5.0)
            stage.scheduler.set_liveness("unheard", Liveness.UNHEARD)
            last = "unheard, so a last resort"
            assert standings(stage, task()) == {"heard": ("free", ""), "unheard": ("free", last), "all": ("free", "")}
            assert list(standings(stage, task())) == ["heard", "unheard", "all"]
            taken = [await stage.lease(task(agents=("unheard",))) for _ in range(2)]
            assert standings(stage, task())["unheard"] == ("busy", last)
            await asyncio.sleep(60.0)
            assert standings(stage, task())["unheard"] == ("silent", f"answers nothing; {last}")
            stage.scheduler.set_liveness("unheard", Liveness.OFFLINE)
            assert standings(stage, task())["unheard"] == ("out", "offline")
            for lease in taken:
                stage.complete(lease, Outcome.CANCELLED)

    @virtual
    async def test_estimates_say_whether_they_were_measured(self) -> None:
        async with Stage(agent("known"), agent("new")) as stage:
            stage.succeed(await stage.lease(task(agents=("known",))), elapsed_s=0.5)
            known, new = sorted(stage.scheduler.explain(task()).candidates, key=lambda each: each.agent_id)
            assert (known.estimate_s, known.measured) == (0.5, True)
            assert (new.estimate_s, new.measured) == (0.5, False)

    @virtual
    async def test_another_tenants_agents_are_not_told_and_shared_ones_are(self) -> None:
        async with Stage(agent("mine"), agent("theirs", tenant="them"), agent("all", shared=True)) as stage:
            outlook = stage.scheduler.explain(task())
            assert [(each.agent_id, each.shared) for each in outlook.candidates] == [("mine", False), ("all", True)]
            assert (outlook.agents, outlook.usable, outlook.free) == (2, 2, 2)

    @virtual
    async def test_of_very_many_twenty_are_shown_and_all_are_counted(self) -> None:
        async with Stage(*(agent(f"a{number}") for number in range(2_000))) as stage:
            outlook = stage.scheduler.explain(task())
            assert len(outlook.candidates) == 20
            assert outlook.agents == 2_000

    @virtual
    async def test_what_nobody_offers_has_no_candidates(self) -> None:
        async with Stage() as stage:
            outlook = stage.scheduler.explain(task())
            assert (outlook.agents, outlook.candidates, outlook.place) == (0, (), None)


class TestPlace:
    @virtual
    async def test_a_waiting_task_knows_how_many_go_before_it(self) -> None:
        async with Stage(agent("a")) as stage:
            busy = await stage.lease()
            first, second = task(), task()
            asked = [stage.asking(first), stage.asking(second)]
            await asyncio.sleep(2)
            place = stage.scheduler.explain(second).place
            assert place is not None
            assert (place.ahead, place.waited_s, place.waiting["normal"]) == (1, 2.0, 2)
            assert stage.scheduler.explain(task()).place is None
            for each in asked:
                each.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
            stage.complete(busy, Outcome.CANCELLED)


class TestChoices:
    @virtual
    async def test_a_task_that_failed_over_tells_each_choice(self) -> None:
        agents = ScriptedAgent("dead", [fault()]), ScriptedAgent("alive", otherwise=ok(1.0))
        async with Flow(*agents) as flow:
            measured(flow.scheduler.member("alive").seats[ECHO], 9.0)
            flow.scheduler.refresh("alive")
            task_id = await flow.coordinator.submit_task(task())
            await flow.coordinator.wait(task_id.partition(".")[0])
            told = await flow.coordinator.explain(task_id)
            assert [choice.attempt for choice in told.choices] == [attempt.number for attempt in told.attempts]
            assert [choice.agent_id for choice in told.choices] == ["dead", "alive"]
            assert told.choices[1].estimate_s == 9.0

    @virtual
    async def test_a_task_in_line_tells_its_place_and_who_is_busy(self) -> None:
        async with Flow(ScriptedAgent("slow", otherwise=ok(60.0))) as flow:
            running = await flow.coordinator.submit_task(task())
            waiting = await flow.coordinator.submit_task(task())
            await asyncio.sleep(5)
            told = await flow.coordinator.explain(waiting)
            assert told.outlook.place is not None
            assert told.outlook.place.ahead == 0
            assert [each.standing for each in told.outlook.candidates] == ["busy"]
            assert told.choices == ()
            chosen = (await flow.coordinator.explain(running)).choices
            assert [choice.agent_id for choice in chosen] == ["slow"]
            for task_id in (running, waiting):
                await flow.coordinator.cancel(task_id.partition(".")[0])
