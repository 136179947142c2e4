"""Where held failures, new agents, defects and standstills meet: no agent is blamed and no call is sent wrongly."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from aicp.errors import AllAgentsFailed, NoAgentAvailable
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call, Task, TaskStatus
from aicp.routing.work import Work
from aicp.testing import running_loop
from aicp.testing.faulty_agents import ScriptedAgent, caller_fault, hang, ok, server_error
from tests.unit.flow_kit import ECHO, Flow, agent, now, task, virtual


class Defect(Exception):
    """What a part of AICP raises that must raise nothing."""


def raises(*_args: Any, **_options: Any) -> Any:
    raise Defect


def work_of(wanted: Task, **options: Any) -> Work:
    return Work(wanted, "chain.a", ready_at=now(), ready_at_utc=datetime.now(UTC), deadline=now() + 7200, **options)


def failures(flow: Flow, agent_id: str) -> int:
    found = flow.board.get_metrics(agent_id).get(ECHO)
    return 0 if found is None else found.failures + found.doubts_in_row


async def agreed(_number: int, _agent_id: str) -> bool:
    return True


class TestHeldFailuresOfAgentsThatLeft:
    """A held failure belongs to the agent that was registered then, whatever has its id later."""

    @staticmethod
    def leaving(flow: Flow, agent_id: str, *, comes_back: bool) -> None:
        if flow.scheduler.find_member(agent_id) is not None:
            flow.scheduler.remove_agent(agent_id)
            flow.board.remove(agent_id)
        if comes_back:
            flow.scheduler.add_agent(agent(agent_id, instance_id="second"))

    @pytest.mark.parametrize("failing", [server_error(), caller_fault()])
    @pytest.mark.parametrize("comes_back", [True, False])
    @virtual
    async def test_what_another_agent_then_does_counts_against_none(self, *, failing: Any, comes_back: bool) -> None:
        async def do(scripted: ScriptedAgent, call: Call) -> Reply:
            self.leaving(flow, "a", comes_back=comes_back)
            return await ok()(scripted, call)

        async with Flow(ScriptedAgent("a", otherwise=failing), ScriptedAgent("b", otherwise=do)) as flow:
            done = await flow.router.route_task(task(), wait=True)
            while len(done.attempts) == 1 and flow.scheduler.find_member("a") is not None:
                done = await flow.router.route_task(task(), wait=True)
            assert done.status is TaskStatus.COMPLETED
            assert failures(flow, "a") == 0
            assert len(flow.board) == 0

    @virtual
    async def test_what_all_failed_alike_opens_and_takes_back_nothing_of_it(self) -> None:
        async def fail(scripted: ScriptedAgent, call: Call) -> Reply:
            self.leaving(flow, "a", comes_back=True)
            return await server_error()(scripted, call)

        async with Flow(ScriptedAgent("a", otherwise=server_error()), ScriptedAgent("b", otherwise=fail)) as flow:
            for _ in range(25):
                with pytest.raises((AllAgentsFailed, NoAgentAvailable)):
                    await flow.router.route_task(task())
                self.leaving(flow, "a", comes_back=True)
            assert failures(flow, "a") == 0

    @virtual
    async def test_a_new_instance_that_fails_the_same_task_has_a_failure_of_its_own(self) -> None:
        calls = 0

        async def fail(_scripted: ScriptedAgent, _call: Call) -> Reply:
            nonlocal calls
            calls += 1
            if calls == 2:
                flow.scheduler.add_agent(agent("a", instance_id="second"))
                flow.board.new_instance("a")
            return Reply(Outcome.AGENT_FAULT, reason="answered 500", symptom=f"500 {calls}")

        async with Flow(ScriptedAgent("a", otherwise=fail)) as flow:
            with pytest.raises(AllAgentsFailed):
                await flow.router.route_task(task())
            assert calls == 6
            assert failures(flow, "a") == 1


class TestDefects:
    """An exception inside AICP costs time, never an answer that was there, and never a second sending."""

    @pytest.mark.parametrize("idempotent", [True, False])
    @virtual
    async def test_an_owner_that_raises_when_it_is_asked_is_asked_again(self, *, idempotent: bool) -> None:
        asked = 0

        async def announce(_number: int, _agent_id: str) -> bool:
            nonlocal asked
            asked += 1
            if asked < 3:
                raise Defect
            return True

        async with Flow(ScriptedAgent("a")) as flow:
            work = work_of(task(idempotent=idempotent), announce=announce)
            done = await flow.coordinator._carrier.carry(work)
            assert done.status is TaskStatus.COMPLETED
            assert asked == 3
            assert len(flow.tried()) == 1
            assert flow.router.defects.count == 2
            assert failures(flow, "a") == 0

    @virtual
    async def test_accepted_work_outlasts_a_transport_that_raises(self) -> None:
        calls = 0

        async def broken(scripted: ScriptedAgent, call: Call) -> Reply:
            nonlocal calls
            calls += 1
            if calls < 40:
                raise Defect
            return await ok()(scripted, call)

        async with Flow(ScriptedAgent("a", otherwise=broken)) as flow:
            done = await flow.coordinator._carrier.carry(work_of(task()))
            assert done.status is TaskStatus.COMPLETED
            assert failures(flow, "a") == 0
            assert flow.router.defects.count == 39

    @virtual
    async def test_a_transport_that_raises_for_one_agent_leaves_the_work_to_another(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=raises), ScriptedAgent("b")) as flow:
            for _ in range(10):
                assert (await flow.router.route_task(task())).agent_id == "b"

    @virtual
    async def test_what_must_not_be_sent_twice_is_not_sent_again_by_a_transport_that_raises(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=raises), ScriptedAgent("b", otherwise=raises)) as flow:
            done = await flow.coordinator._carrier.carry(work_of(task(idempotent=False), announce=agreed))
            assert done.status is TaskStatus.FAILED
            assert len(flow.tried()) == 1

    @pytest.mark.parametrize(
        ("part", "name"),
        [
            ("router._choices", "remember"),
            ("scheduler", "complete_task"),
            ("scheduler", "_tally"),
            ("scheduler", "_settle_permit"),
            ("scheduler", "_free_slot"),
        ],
    )
    @virtual
    async def test_a_part_that_only_learns_from_an_answer_does_not_lose_it(
        self, part: str, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with Flow(ScriptedAgent("a")) as flow:
            owner: Any = flow
            for each in part.split("."):
                owner = getattr(owner, each)
            with monkeypatch.context() as patch:
                patch.setattr(owner, name, raises)
                work = work_of(task(idempotent=False), announce=agreed)
                done = await flow.coordinator._carrier.carry(work)
            assert done.status is TaskStatus.COMPLETED
            assert flow.router.defects.count >= 1
            for lease in list(flow.scheduler.leases()):
                flow.scheduler.complete_task(lease, Outcome.CANCELLED)
            if name == "_free_slot":
                flow.scheduler.member("a").taken = 0

    @pytest.mark.parametrize("judges", [True, False])
    @virtual
    async def test_a_judgement_of_held_failures_that_raises_loses_them_and_not_the_answer(
        self, *, judges: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        agents = [ScriptedAgent(each, [server_error()]) for each in ("a", "b")]
        async with Flow(*agents) as flow:
            with monkeypatch.context() as patch:
                if not judges:
                    patch.setattr(flow.router, "_judge_doubts", raises)
                done = await flow.coordinator._carrier.carry(work_of(task()))
            assert done.status is TaskStatus.COMPLETED
            assert [attempt.outcome for attempt in done.attempts] == [Outcome.AGENT_FAULT] * 2 + [Outcome.SUCCESS]
            assert flow.router.defects.count == (not judges)
            (other,) = {"a", "b"} - {str(done.agent_id)}
            # The run of doubts was counted at the failure itself; what is lost is that another agent did the task.
            circuit = flow.board.get_metrics(other)[ECHO]
            assert (circuit.failures, circuit.doubts_in_row) == (judges, 1)


class TestMeasuring:
    """A standstill that is short beside an attempt keeps nothing from being learned from it."""

    @pytest.mark.parametrize(("stood_s", "is_learned"), [(0.2, True), (20.0, False)])
    @virtual
    async def test_how_long_an_attempt_took_counts_while_most_of_it_was_seen(
        self, *, stood_s: float, is_learned: bool
    ) -> None:
        async with Flow(ScriptedAgent("a", otherwise=ok(after_s=30.0))) as flow:
            running_loop().stop_process(stood_s, after_s=5.0)
            assert (await flow.router.route_task(task())).status is TaskStatus.COMPLETED
            assert bool(flow.scheduler.member("a").seats[ECHO].samples) is is_learned


class TestResends:
    """A re-used connection died under an attempt, which goes on with what is left of its time."""

    @staticmethod
    def dying(after_s: float, then: Any) -> ScriptedAgent:
        """Its re-used connections die after so many seconds; on fresh ones it does `then`."""

        async def step(scripted: ScriptedAgent, call: Call) -> Reply:
            if call.on_fresh_connection:
                return await then(scripted, call)  # type: ignore[no-any-return]
            await asyncio.sleep(after_s)
            return Reply(Outcome.AGENT_FAULT, reason="closed", evidence=False, resendable=True)

        return ScriptedAgent("a", otherwise=step)

    @virtual
    async def test_what_was_left_of_a_timeout_is_not_a_whole_one(self) -> None:
        async with Flow(self.dying(59.0, hang())) as flow:
            with pytest.raises(AllAgentsFailed) as raised:
                await flow.router.route_task(task(deadline_s=3_000))
            assert raised.value.code == "all_agents_failed"
            assert len(raised.value.attempts) == 12

    @pytest.mark.parametrize("stood_s", [10.0, 59.0, 61.0, 3_600.0])
    @virtual
    async def test_a_standstill_of_ours_takes_no_time_from_it(self, stood_s: float) -> None:
        async with Flow(self.dying(5.0, ok(after_s=30.0))) as flow:
            running_loop().stop_process(stood_s, after_s=1.0)
            done = await flow.router.route_task(task(deadline_s=600))
            assert [attempt.number for attempt in done.attempts] == [1, 2]
            assert done.attempts[1].outcome is Outcome.SUCCESS
