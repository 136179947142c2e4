"""How an attempt can end, row by row: what it teaches about the agent, whether it goes on elsewhere, what it costs."""

import asyncio

import pytest

from aicp.errors import AllAgentsFailed
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call, TaskStatus
from aicp.resilience.circuit_breaker import CircuitState
from aicp.testing.faulty_agents import (
    ScriptedAgent,
    Step,
    caller_fault,
    fault,
    local_trouble,
    misconfigured,
    ok,
    overloaded,
    replies,
    retryable_error,
    stale,
    task_failed,
    unavailable,
)
from tests.unit.flow_kit import ECHO, Flow, measured, now, task, virtual

OTHER = "test.other"


async def prefer(flow: Flow, agent_id: str) -> None:
    """Let the scheduler find this agent the fastest: others are measured as slow."""
    for member in flow.scheduler.members():
        for seat in member.seats.values():
            measured(seat, 0.001 if member.profile.agent_id == agent_id else 10.0)
        flow.scheduler.refresh(member.profile.agent_id)


def failures_in_row(flow: Flow, agent_id: str, capability: str = ECHO) -> int:
    metrics = flow.board.get_metrics(agent_id).get(capability)
    return metrics.failures_in_row if metrics is not None else 0


def pair(first: Step, second: Step | None = None) -> tuple[ScriptedAgent, ScriptedAgent]:
    """Agent `a`, which is asked first, and `b`."""
    return ScriptedAgent("a", otherwise=first), ScriptedAgent("b", otherwise=second)


class TestSuccess:
    @virtual
    async def test_the_result_comes_back_after_one_attempt(self) -> None:
        async with Flow(ScriptedAgent("a")) as flow:
            result = await flow.router.route_task(task(params={"n": 1}))
            assert result.status is TaskStatus.COMPLETED
            assert result.result == {"n": 1}
            assert result.agent_id == "a"
            assert [(each.agent_id, each.number, each.outcome) for each in result.attempts] == [
                ("a", 1, Outcome.SUCCESS)
            ]

    @virtual
    async def test_it_clears_what_failures_there_were(self) -> None:
        async with Flow(ScriptedAgent("a", [fault(), fault(), fault()])) as flow:
            for _ in range(3):
                with pytest.raises(AllAgentsFailed):
                    await flow.router.route_task(task(idempotent=False))
            assert failures_in_row(flow, "a") == 3
            await flow.router.route_task(task())
            assert failures_in_row(flow, "a") == 0


class TestTaskFailed:
    @virtual
    async def test_the_agents_own_no_ends_the_task_and_teaches_nothing(self) -> None:
        async with Flow(*pair(task_failed("no_face", "There is no face."))) as flow:
            await prefer(flow, "a")
            for _ in range(8):
                result = await flow.router.route_task(task())
                assert result.status is TaskStatus.FAILED
                assert result.error is not None
                assert (result.error.code, result.error.message) == ("no_face", "There is no face.")
            assert flow.tried() == ["a"] * 8
            assert flow.state("a") is CircuitState.CLOSED
            assert failures_in_row(flow, "a") == 0

    @virtual
    async def test_it_counts_in_the_success_rate(self) -> None:
        async with Flow(ScriptedAgent("a", [ok(), task_failed(), ok(), ok()])) as flow:
            for _ in range(4):
                await flow.router.route_task(task())
            assert flow.router.health().agents["a"].success_rate == 0.75

    @pytest.mark.parametrize(
        "code",
        [
            "unavailable",
            "agent_fault",
            "deadline_exceeded",
            "no_agent_available",
            "all_agents_failed",
            "queue_full",
            "cancelled",
        ],
    )
    @virtual
    async def test_a_code_of_the_agents_that_looks_like_ours_stays_the_agents(self, code: str) -> None:
        async with Flow(ScriptedAgent("a", otherwise=task_failed(code, "its own words"))) as flow:
            result = await flow.router.route_task(task())
            assert result.status is TaskStatus.FAILED
            assert result.error is not None
            assert (result.error.code, result.error.message) == (code, "its own words")


class TestCallerFault:
    @virtual
    async def test_two_agents_that_refuse_the_params_settle_it_and_learn_nothing(self) -> None:
        async with Flow(*pair(caller_fault(), caller_fault()), ScriptedAgent("c", otherwise=caller_fault())) as flow:
            for _ in range(8):
                result = await flow.router.route_task(task())
                assert result.status is TaskStatus.FAILED
                assert result.error is not None
                assert result.error.code == "caller_fault"
                assert len(result.attempts) == 2
                assert len({each.agent_id for each in result.attempts}) == 2
            assert all(failures_in_row(flow, agent_id) == 0 for agent_id in "abc")

    @virtual
    async def test_when_the_second_opinion_succeeds_the_first_was_at_fault(self) -> None:
        async with Flow(*pair(caller_fault())) as flow:
            await prefer(flow, "a")
            result = await flow.router.route_task(task())
            assert result.status is TaskStatus.COMPLETED
            outcomes = [(each.agent_id, each.outcome) for each in result.attempts]
            assert outcomes == [("a", Outcome.AGENT_FAULT), ("b", Outcome.SUCCESS)]
            assert failures_in_row(flow, "a") == 1
            assert failures_in_row(flow, "b") == 0

    @virtual
    async def test_an_agent_that_refuses_everything_at_once_is_found_out(self) -> None:
        async with Flow(*pair(caller_fault())) as flow:
            for _ in range(5):
                await prefer(flow, "a")
                await flow.router.route_task(task())
            assert flow.state("a") is CircuitState.OPEN
            assert flow.why_out("a") == "circuit open"
            for _ in range(20):
                assert (await flow.router.route_task(task())).agent_id == "b"

    @virtual
    async def test_what_must_not_be_sent_twice_gets_no_second_opinion(self) -> None:
        async with Flow(*pair(caller_fault())) as flow:
            await prefer(flow, "a")
            result = await flow.router.route_task(task(idempotent=False))
            assert result.status is TaskStatus.FAILED
            assert flow.tried() == ["a"]

    @pytest.mark.parametrize("accepted", [False, True])
    @virtual
    async def test_with_nobody_else_to_ask_the_first_no_stands_at_once(self, *, accepted: bool) -> None:
        async with Flow(*pair(caller_fault())) as flow:
            flow.scheduler.drain_agent("b")
            began_at, result = now(), await flow.router.route_task(task(), wait=accepted)
            assert result.error is not None
            assert result.error.code == "caller_fault"
            assert now() - began_at < 1

    @virtual
    async def test_a_second_opinion_waits_for_a_busy_agent(self) -> None:
        a, b = pair(caller_fault(), ok(after_s=20.0))
        async with Flow(a, b) as flow:
            busy = asyncio.create_task(flow.router.route_task(task(agents=("b",))))
            await asyncio.sleep(1)
            result = await flow.router.route_task(task())
            assert [each.agent_id for each in result.attempts] == ["a", "b"]
            assert result.status is TaskStatus.COMPLETED
            await busy

    @virtual
    async def test_a_second_opinion_that_fails_leaves_the_first_no_and_is_judged_by_itself(self) -> None:
        async with Flow(*pair(caller_fault("answered 400"), fault("answered 500"))) as flow:
            await prefer(flow, "a")
            result = await flow.router.route_task(task())
            assert result.error is not None
            assert (result.error.code, result.error.message) == ("caller_fault", "answered 400")
            assert failures_in_row(flow, "a") == 0
            assert failures_in_row(flow, "b") == 1


class TestOverloaded:
    @virtual
    async def test_it_goes_on_elsewhere_and_the_agent_rests_without_a_failure(self) -> None:
        async with Flow(*pair(overloaded(retry_after_s=30.0))) as flow:
            await prefer(flow, "a")
            result = await flow.router.route_task(task(idempotent=False))
            assert [(each.agent_id, each.outcome) for each in result.attempts] == [
                ("a", Outcome.OVERLOADED),
                ("b", Outcome.SUCCESS),
            ]
            assert flow.why_out("a") == "cooling down"
            assert failures_in_row(flow, "a") == 0

    @virtual
    async def test_it_costs_no_attempt_and_no_token(self) -> None:
        crowd = [ScriptedAgent(f"a{number}", otherwise=overloaded(5.0)) for number in range(20)]
        async with Flow(*crowd, ScriptedAgent("z")) as flow:
            await prefer(flow, "a0")
            tokens = flow.router._retries(ECHO)._budget._tokens
            result = await flow.router.route_task(task())
            assert result.status is TaskStatus.COMPLETED
            assert flow.router._retries(ECHO)._budget._tokens >= tokens

    @virtual
    async def test_a_direct_call_that_finds_everybody_overloaded_is_told_when_to_come_again(self) -> None:
        async with Flow(*pair(overloaded(7.0), overloaded(3.0))) as flow:
            with pytest.raises(Exception, match="cooling down") as raised:
                await flow.router.route_task(task())
            assert getattr(raised.value, "retry_after_s", None) == pytest.approx(3.0)


class TestUnavailable:
    @virtual
    async def test_it_is_evidence_on_every_circuit_of_the_agent(self) -> None:
        a = ScriptedAgent("a", otherwise=unavailable(), capabilities=(ECHO, OTHER))
        b = ScriptedAgent("b", capabilities=(ECHO, OTHER))
        async with Flow(a, b) as flow:
            await prefer(flow, "a")
            await flow.router.route_task(task())
            assert failures_in_row(flow, "a", ECHO) == 1
            assert failures_in_row(flow, "a", OTHER) == 1

    @virtual
    async def test_it_goes_on_elsewhere_even_if_not_idempotent_and_costs_no_attempt(self) -> None:
        dead = [ScriptedAgent(f"a{number}", otherwise=unavailable()) for number in range(15)]
        async with Flow(*dead, ScriptedAgent("z")) as flow:
            await prefer(flow, "a0")
            result = await flow.router.route_task(task(idempotent=False))
            assert result.status is TaskStatus.COMPLETED
            assert result.agent_id == "z"

    @virtual
    async def test_when_it_may_have_been_executed_what_must_not_be_sent_twice_is_not(self) -> None:
        busy_sign = replies(Reply(Outcome.UNAVAILABLE, reason="answered 503", whole_agent=True), after_s=0.0)
        a, b = pair(busy_sign)
        async with Flow(a, b) as flow:
            await prefer(flow, "a")
            with pytest.raises(AllAgentsFailed) as raised:
                await flow.router.route_task(task(idempotent=False))
            assert [each.outcome for each in raised.value.attempts] == [Outcome.AGENT_FAULT]
            assert flow.tried() == ["a"]
            assert (await flow.router.route_task(task())).status is TaskStatus.COMPLETED

    @virtual
    async def test_trouble_of_our_own_is_no_evidence(self) -> None:
        async with Flow(*pair(local_trouble())) as flow:
            for _ in range(10):
                await prefer(flow, "a")
                await flow.router.route_task(task())
            assert failures_in_row(flow, "a") == 0


class TestAgentFault:
    @virtual
    async def test_an_idempotent_task_goes_on_elsewhere(self) -> None:
        async with Flow(*pair(fault("answered 500"))) as flow:
            await prefer(flow, "a")
            result = await flow.router.route_task(task())
            assert result.status is TaskStatus.COMPLETED
            assert [(each.agent_id, each.number, each.reason) for each in result.attempts] == [
                ("a", 1, "answered 500"),
                ("b", 2, ""),
            ]
            assert failures_in_row(flow, "a") == 1

    @virtual
    async def test_what_must_not_be_sent_twice_is_not(self) -> None:
        async with Flow(*pair(fault("answered 500"))) as flow:
            await prefer(flow, "a")
            with pytest.raises(AllAgentsFailed, match="answered 500") as raised:
                await flow.router.route_task(task(idempotent=False))
            assert len(raised.value.attempts) == 1
            assert flow.tried() == ["a"]

    @virtual
    async def test_by_the_agents_own_word_it_goes_on_even_so(self) -> None:
        async with Flow(*pair(retryable_error())) as flow:
            await prefer(flow, "a")
            result = await flow.router.route_task(task(idempotent=False))
            assert result.status is TaskStatus.COMPLETED
            assert flow.tried() == ["a", "b"]
            assert failures_in_row(flow, "a") == 1

    @virtual
    async def test_a_transport_that_raises_is_our_bug_and_not_the_agents(self) -> None:
        async def broken(_agent: ScriptedAgent, _call: Call) -> Reply:
            raise RuntimeError("a bug")

        async with Flow(*pair(broken)) as flow:
            for _ in range(8):
                await prefer(flow, "a")
                result = await flow.router.route_task(task())
                assert result.agent_id == "b"
            assert failures_in_row(flow, "a") == 0


class TestMisconfigured:
    @pytest.mark.parametrize(("whole_agent", "other"), [(True, "set aside as misconfigured"), (False, "")])
    @virtual
    async def test_it_goes_on_elsewhere_and_is_set_aside_and_flagged(self, *, whole_agent: bool, other: str) -> None:
        a = ScriptedAgent("a", otherwise=misconfigured(whole_agent=whole_agent), capabilities=(ECHO, OTHER))
        b = ScriptedAgent("b", capabilities=(ECHO, OTHER))
        async with Flow(a, b) as flow:
            await prefer(flow, "a")
            result = await flow.router.route_task(task(idempotent=False))
            assert result.agent_id == "b"
            health = flow.router.health()
            assert health.agents["a"].capabilities[ECHO].why_out == "set aside as misconfigured"
            assert health.agents["a"].capabilities[OTHER].why_out == other
            assert health.agents["a"].state is CircuitState.CLOSED
            await flow.router.route_task(task())
            assert flow.tried() == ["a", "b", "b"]

    @virtual
    async def test_nobody_promises_when_it_comes_back_but_health_says_what_showed_it(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=misconfigured()), ScriptedAgent("b")) as flow:
            await prefer(flow, "a")
            await flow.router.route_task(task())
            health = flow.router.health().agents
            assert health["a"].retry_after_s is None
            assert health["a"].capabilities[ECHO].retry_after_s is None
            assert health["a"].capabilities[ECHO].reason == "answered 401"
            assert (health["b"].retry_after_s, health["b"].capabilities[ECHO].reason) == (0.0, "")
            flow.scheduler.restore_agent("a")
            health = flow.router.health().agents
            assert (health["a"].retry_after_s, health["a"].capabilities[ECHO].reason) == (0.0, "")
            flow.scheduler.drain_agent("b")
            assert flow.router.health().agents["b"].retry_after_s is None


class TestCancelled:
    @virtual
    async def test_the_callers_cancellation_reaches_the_agent_and_teaches_nothing(self) -> None:
        slow = ScriptedAgent("a", otherwise=ok(after_s=100.0))
        async with Flow(slow) as flow:
            for _ in range(10):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(flow.router.route_task(task()), timeout=1.0)
                assert slow.under_way.value == 0
                assert flow.taken("a") == 0
            assert failures_in_row(flow, "a") == 0
            assert {each.outcome for each in flow.seen.ended} == {Outcome.CANCELLED}

    @virtual
    async def test_a_probe_cancelled_ten_times_leaves_the_way_free_for_the_eleventh(self) -> None:
        script: list[Step] = [fault()] * 5 + [ok(after_s=100.0)] * 10
        async with Flow(ScriptedAgent("a", script)) as flow:
            for _ in range(5):
                with pytest.raises(AllAgentsFailed):
                    await flow.router.route_task(task(idempotent=False))
            for _ in range(10):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(flow.router.route_task(task(), wait=True), timeout=5.0)
            result = await flow.router.route_task(task(), wait=True)
            assert result.status is TaskStatus.COMPLETED

    @virtual
    async def test_lost_ownership_ends_the_task_here_and_nobody_else_is_asked(self) -> None:
        async with Flow(*pair(stale())) as flow:
            await prefer(flow, "a")
            result = await flow.router.route_task(task())
            assert result.status is TaskStatus.CANCELLED
            assert flow.tried() == ["a"]
            assert failures_in_row(flow, "a") == 0


class TestWhatIsTold:
    @virtual
    async def test_every_attempt_is_told_at_its_start_and_at_its_end(self) -> None:
        async with Flow(*pair(fault("answered 500"))) as flow:
            await prefer(flow, "a")
            result = await flow.router.route_task(task())
            started = [(each.agent_id, each.number, each.task_id) for each in flow.seen.started]
            assert started == [("a", 1, result.task_id), ("b", 2, result.task_id)]
            ended = [(each.agent_id, each.outcome, round(each.elapsed_s, 6)) for each in flow.seen.ended]
            assert ended == [("a", Outcome.AGENT_FAULT, 0.01), ("b", Outcome.SUCCESS, 0.01)]

    @virtual
    async def test_recent_failures_are_newest_first_and_bounded(self) -> None:
        agents = pair(task_failed("one"), task_failed("two"))
        async with Flow(*agents) as flow:
            await flow.router.route_task(task(agents=("a",)))
            await flow.router.route_task(task(agents=("b",)))
            assert [(each.agent_id, each.reason) for each in flow.router.recent_failures()] == [
                ("b", "two"),
                ("a", "one"),
            ]
            assert len(flow.router.recent_failures(limit=1)) == 1
            assert flow.router.recent_failures(limit=-1) == []
            for _ in range(1_100):
                await flow.router.route_task(task())
            assert len(flow.router.recent_failures(limit=10_000)) == 1_000

    @virtual
    async def test_each_task_has_a_global_id_of_its_own(self) -> None:
        async with Flow(ScriptedAgent("a")) as flow:
            ids = {(await flow.router.route_task(task())).task_id for _ in range(100)}
            assert len(ids) == 100
            assert all(len(each.split(".")) == 2 for each in ids)
            assert {call.call.task_id for call in flow.transport.calls} == ids
