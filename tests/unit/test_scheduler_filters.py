"""Tasks that do not take anybody: named, excluded, labelled and tried agents; and who rather leaves than waits."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aicp.model.outcome import Outcome
from aicp.registry.leases import Liveness
from aicp.scheduling.lease import Unscheduled
from tests.unit.flow_kit import ECHO, SOON_S, Stage, agent, granted, now, task, virtual

KINDS = 64
GPU = {"gpu": "yes"}
GoOut = Callable[[Stage], None]


class TestWhoFits:
    @virtual
    async def test_a_task_that_names_agents_goes_to_one_of_them_alone(self) -> None:
        async with Stage(agent("a"), agent("b"), agent("c")) as stage:
            for _ in range(10):
                lease = await stage.lease(task(agents=("b", "nobody")))
                assert lease.agent.agent_id == "b"
                stage.succeed(lease)

    @virtual
    async def test_a_task_that_names_a_busy_agent_waits_for_it(self) -> None:
        async with Stage(agent("a"), agent("b")) as stage:
            busy = await stage.lease(task(agents=("b",)))
            asked = stage.asking(task(agents=("b",)))
            await asyncio.sleep(5)
            assert not asked.done()
            stage.succeed(busy)
            lease = await granted(asked)
            assert lease.agent.agent_id == "b"
            stage.succeed(lease)

    @virtual
    async def test_an_excluded_agent_never_gets_the_task(self) -> None:
        async with Stage(agent("a"), agent("b")) as stage:
            for _ in range(10):
                lease = await stage.lease(task(exclude_agents=("a",)))
                assert lease.agent.agent_id == "b"
                stage.succeed(lease)

    @virtual
    async def test_labels_must_all_be_carried(self) -> None:
        profiles = agent("plain"), agent("gpu", labels=GPU), agent("both", labels={**GPU, "zone": "x"})
        async with Stage(*profiles) as stage:
            for _ in range(10):
                lease = await stage.lease(task(labels={**GPU, "zone": "x"}))
                assert lease.agent.agent_id == "both"
                stage.succeed(lease)

    @virtual
    async def test_whom_it_tried_it_does_not_get_again(self) -> None:
        async with Stage(agent("a"), agent("b")) as stage:
            for _ in range(10):
                lease = await stage.lease(tried=frozenset({"a"}))
                assert lease.agent.agent_id == "b"
                stage.succeed(lease)

    @pytest.mark.parametrize(
        "options",
        [
            {"agents": ("a500",)},
            {"labels": GPU},
            {"exclude_agents": tuple(f"a{number}" for number in range(1_000) if number != 500)},
        ],
    )
    @virtual
    async def test_the_one_fitting_agent_of_a_thousand_free_ones_is_found(self, options: dict[str, Any]) -> None:
        profiles = [agent(f"a{number}", labels=GPU if number == 500 else None) for number in range(1_000)]
        async with Stage(*profiles) as stage:
            lease = await asyncio.wait_for(stage.lease(task(**options)), timeout=60)
            assert lease.agent.agent_id == "a500"
            stage.succeed(lease)

    @virtual
    async def test_the_only_agent_not_yet_tried_is_found_among_the_free(self) -> None:
        async with Stage(*(agent(f"a{number}") for number in range(100))) as stage:
            tried = frozenset(f"a{number}" for number in range(100) if number != 42)
            lease = await asyncio.wait_for(stage.lease(tried=tried), timeout=60)
            assert lease.agent.agent_id == "a42"
            stage.succeed(lease)

    @virtual
    async def test_a_task_nobody_fits_does_not_hold_up_those_behind_it(self) -> None:
        async with Stage(agent("a"), agent("b")) as stage:
            busy = [await stage.lease(), await stage.lease()]
            hopeless = [stage.asking(task(labels=GPU)) for _ in range(200)]
            hopeful = stage.asking(task(exclude_agents=("a",)))
            plain = stage.asking()
            await asyncio.sleep(10)
            stage.succeed(*busy)
            stage.succeed(await granted(hopeful), await granted(plain))
            for asked in hopeless:
                asked.cancel()
            await asyncio.sleep(SOON_S)

    @virtual
    async def test_a_fitting_agent_that_registers_wakes_whoever_waits_for_it(self) -> None:
        async with Stage(agent("plain")) as stage:
            asked = stage.asking(task(labels=GPU))
            await asyncio.sleep(10)
            stage.scheduler.add_agent(agent("gpu", labels=GPU))
            lease = await granted(asked)
            assert lease.agent.agent_id == "gpu"
            stage.succeed(lease)

    @virtual
    async def test_an_agent_that_gains_a_label_wakes_whoever_waits_for_it(self) -> None:
        async with Stage(agent("a")) as stage:
            asked = stage.asking(task(labels=GPU))
            await asyncio.sleep(10)
            stage.scheduler.add_agent(agent("a", labels=GPU))
            stage.succeed(await granted(asked))


class TestLabels:
    """Agents are found by what they carry, whatever tasks asked for before."""

    @virtual
    async def test_more_kinds_of_labels_than_are_kept_are_served_by_those_who_carry_them(self) -> None:
        names = range(2 * KINDS)
        async with Stage(*(agent(f"a{each}", labels={"n": str(each)}) for each in names)) as stage:
            for _ in range(2):
                for each in names:
                    lease = await stage.lease(task(labels={"n": str(each)}))
                    assert lease.agent.agent_id == f"a{each}"
                    stage.succeed(lease)

    @virtual
    async def test_more_kinds_of_labels_than_are_looked_at_wake_who_waits_for_them(self) -> None:
        names = range(3 * KINDS)
        async with Stage(*(agent(f"a{each}", labels={"n": str(each)}) for each in names)) as stage:
            busy = [await stage.lease(task(labels={"n": str(each)})) for each in names]
            asked = [stage.asking(task(labels={"n": str(each)})) for each in names]
            await asyncio.sleep(1)
            stage.succeed(*reversed(busy))
            for each, waiting in enumerate(asked):
                lease = await asyncio.wait_for(granted(waiting), SOON_S)
                assert lease.agent.agent_id == f"a{each}"
                stage.succeed(lease)

    @virtual
    async def test_whoever_goes_out_comes_back_or_changes_its_labels_is_found_or_not_accordingly(self) -> None:
        async with Stage(agent("a", labels=GPU), agent("b", labels=GPU), agent("c")) as stage:

            async def who() -> str:
                lease = await stage.lease(task(labels=GPU))
                stage.succeed(lease)
                return lease.agent.agent_id

            await who()
            stage.scheduler.drain_agent("a")
            assert [await who() for _ in range(5)] == ["b"] * 5
            stage.scheduler.remove_agent("b")
            assert not stage.scheduler.has_another(task(labels=GPU), frozenset())
            stage.scheduler.add_agent(agent("c", labels=GPU))
            assert [await who() for _ in range(5)] == ["c"] * 5
            stage.scheduler.add_agent(agent("c"))
            stage.scheduler.add_agent(agent("a", labels=GPU))
            assert [await who() for _ in range(5)] == ["a"] * 5

    @virtual
    async def test_in_a_busy_crowd_the_free_one_with_the_labels_is_found_in_one_look(self) -> None:
        crowd = [agent(f"a{number}", labels=GPU if number % 2 else None) for number in range(1_000)]
        async with Stage(*crowd) as stage:
            leases = [await stage.lease(task(labels=GPU)) for _ in range(500)]
            stage.board.asked.clear()
            asked = stage.asking(task(labels=GPU))
            await asyncio.sleep(SOON_S)
            assert stage.board.asked == []
            stage.succeed(*leases)
            stage.succeed(await granted(asked))


class TestNobodyLeft:
    @virtual
    async def test_with_everybody_tried_it_comes_back_at_once(self) -> None:
        async with Stage(agent("a"), agent("b")) as stage:
            for wait in (True, False):
                decided = await stage.scheduler.schedule_task(task(), tried=frozenset({"a", "b"}), wait=wait)
                assert decided is Unscheduled.NOBODY_ELSE

    @virtual
    async def test_whoever_was_not_tried_is_waited_for_while_busy(self) -> None:
        async with Stage(agent("a"), agent("b")) as stage:
            busy = await stage.lease(task(agents=("b",)))
            asked = stage.asking(tried=frozenset({"a"}), wait=False)
            await asyncio.sleep(30)
            assert not asked.done()
            stage.succeed(busy)
            stage.succeed(await granted(asked))

    @virtual
    async def test_when_the_last_not_yet_tried_goes_out_the_waiting_one_hears_of_it(self) -> None:
        async with Stage(agent("a"), agent("b")) as stage:
            busy = await stage.lease(task(agents=("b",)))
            asked = stage.asking(tried=frozenset({"a"}))
            await asyncio.sleep(1)
            stage.scheduler.drain_agent("b")
            assert await asked is Unscheduled.NOBODY_ELSE
            stage.succeed(busy)

    @virtual
    async def test_a_direct_call_does_not_wait_for_what_nobody_offers(self) -> None:
        async with Stage(agent("a", "other.thing")) as stage:
            assert await stage.scheduler.schedule_task(task(), wait=False) is Unscheduled.NOBODY_CAPABLE

    @virtual
    async def test_a_direct_call_does_not_wait_for_labels_nobody_carries(self) -> None:
        async with Stage(agent("a")) as stage:
            decided = await stage.scheduler.schedule_task(task(labels=GPU), wait=False)
            assert decided is Unscheduled.NOBODY_CAPABLE

    @virtual
    async def test_a_direct_call_waits_for_busy_agents(self) -> None:
        async with Stage(agent("a")) as stage:
            busy = await stage.lease()
            asked = stage.asking(wait=False)
            await asyncio.sleep(30)
            assert not asked.done()
            stage.succeed(busy)
            stage.succeed(await granted(asked))

    @virtual
    async def test_a_patient_task_waits_for_agents_that_are_out(self) -> None:
        async with Stage(agent("a")) as stage:
            stage.scheduler.set_liveness("a", Liveness.OFFLINE)
            asked = stage.asking()
            await asyncio.sleep(300)
            assert not asked.done()
            stage.scheduler.set_liveness("a", Liveness.HEARD)
            stage.succeed(await granted(asked))


def drain(stage: Stage) -> None:
    stage.scheduler.drain_agent("a")


def fall_silent(stage: Stage) -> None:
    stage.scheduler.set_liveness("a", Liveness.OFFLINE)


def open_the_circuit(stage: Stage) -> None:
    stage.board.record_evidence("a", [ECHO] * 5)


def force_open(stage: Stage) -> None:
    stage.board.record_evidence("a", [ECHO])
    stage.board.force_open("a")


def remove(stage: Stage) -> None:
    stage.scheduler.remove_agent("a")


def drop_the_capability(stage: Stage) -> None:
    stage.scheduler.add_agent(agent("a", "other.thing"))


def lose_the_label(stage: Stage) -> None:
    stage.scheduler.add_agent(agent("a"))


GOING_OUT = [drain, fall_silent, open_the_circuit, force_open, remove, drop_the_capability]


class TestGoingOut:
    """A direct call in line is told the moment the last agent it could have goes out, however that happens."""

    @pytest.mark.parametrize("go_out", GOING_OUT)
    @virtual
    async def test_a_waiting_direct_call_is_woken_when_the_last_agent_goes_out(self, go_out: GoOut) -> None:
        async with Stage(agent("a")) as stage:
            busy = await stage.lease()
            direct, patient = stage.asking(wait=False), stage.asking()
            await asyncio.sleep(2)
            go_out(stage)
            went_out_at = now()
            assert await direct in {Unscheduled.ALL_OUT, Unscheduled.NOBODY_CAPABLE}
            assert now() == went_out_at
            assert not patient.done()
            stage.succeed(busy)
            stage.scheduler.add_agent(agent("b"))
            stage.succeed(await granted(patient))

    @pytest.mark.parametrize("go_out", [*GOING_OUT, lose_the_label])
    @virtual
    async def test_it_is_told_even_while_agents_it_does_not_want_are_there(self, go_out: GoOut) -> None:
        async with Stage(agent("a", labels=GPU), agent("b")) as stage:
            busy = await stage.lease(task(agents=("a",)))
            asked = stage.asking(task(labels=GPU), wait=False)
            await asyncio.sleep(2)
            go_out(stage)
            assert await asked in {Unscheduled.ALL_OUT, Unscheduled.NOBODY_CAPABLE}
            stage.succeed(busy)

    @virtual
    async def test_a_last_agent_that_is_set_aside_or_cools_down_wakes_it_too(self) -> None:
        for outcome in (Outcome.MISCONFIGURED, Outcome.OVERLOADED):
            async with Stage(agent("a")) as stage:
                busy = await stage.lease()
                asked = stage.asking(wait=False)
                await asyncio.sleep(2)
                stage.complete(busy, outcome, whole_agent=True)
                assert await asked is Unscheduled.ALL_OUT

    @virtual
    async def test_with_another_agent_left_it_stays_in_line(self) -> None:
        async with Stage(agent("a"), agent("b")) as stage:
            busy = [await stage.lease(), await stage.lease()]
            asked = stage.asking(wait=False)
            await asyncio.sleep(2)
            drain(stage)
            await asyncio.sleep(2)
            assert not asked.done()
            stage.succeed(*busy)
            lease = await granted(asked)
            assert lease.agent.agent_id == "b"
            stage.succeed(lease)

    @virtual
    async def test_the_outage_says_who_is_out_why_and_until_when(self) -> None:
        async with Stage(agent("a"), agent("b"), agent("c")) as stage:
            stage.board.record_evidence("a", [ECHO] * 5)
            stage.scheduler.drain_agent("b")
            stage.complete(await stage.lease(), Outcome.OVERLOADED, retry_after_s=30.0)
            outage = stage.scheduler.outage(task())
            assert outage.retry_after_s == pytest.approx(1.0)
            assert set(outage.reasons) == {"a: circuit open", "b: draining", "c: cooling down"}

    @virtual
    async def test_the_outage_of_a_choosy_task_is_about_those_it_would_take(self) -> None:
        async with Stage(agent("a"), agent("b")) as stage:
            stage.board.record_evidence("a", [ECHO] * 5)
            stage.complete(await stage.lease(task(agents=("b",))), Outcome.OVERLOADED, retry_after_s=30.0)
            outage = stage.scheduler.outage(task(agents=("b",)))
            assert outage.retry_after_s == pytest.approx(30.0)
            assert outage.reasons == ("b: cooling down",)

    @virtual
    async def test_the_outage_names_eight_agents_at_most(self) -> None:
        async with Stage(*(agent(f"a{number}") for number in range(50))) as stage:
            for number in range(50):
                stage.scheduler.drain_agent(f"a{number}")
            assert len(stage.scheduler.outage(task()).reasons) == 8
