"""How long a task is carried: attempts, dispatches, rounds, budgets, deadlines; and what is no evidence."""

import asyncio
import random
from collections import Counter
from itertools import pairwise

import msgspec
import pytest

from aicp.errors import AllAgentsFailed, DeadlineExceeded, NoAgentAvailable
from aicp.model.agent import Capability
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import TaskStatus
from aicp.resilience.circuit_breaker import BreakerPolicy, CircuitState
from aicp.routing.retry_queue import RetryQueue
from aicp.testing import VirtualClock, running_loop
from aicp.testing.faulty_agents import (
    ScriptedAgent,
    Step,
    fault,
    hang,
    misconfigured,
    ok,
    overloaded,
    replies,
    retryable_error,
    task_failed,
    unavailable,
)
from tests.unit.flow_kit import ECHO, Flow, measured, no_answer, now, task, virtual

NEVER_OPENS = BreakerPolicy(failure_threshold=1_000_000)


def crowd(count: int, step: Step, prefix: str = "a") -> list[ScriptedAgent]:
    return [ScriptedAgent(f"{prefix}{number}", otherwise=step) for number in range(count)]


def failures(flow: Flow) -> int:
    """Evidence of failure on all circuits together."""
    agents = [member.profile.agent_id for member in flow.scheduler.members()]
    return sum(metrics.failures for agent_id in agents for metrics in flow.board.get_metrics(agent_id).values())


def gaps_s(flow: Flow) -> list[float]:
    """Seconds between one dispatch and the next."""
    return [round(later.began_at - earlier.began_at, 3) for earlier, later in pairwise(flow.transport.calls)]


class TestRealAttempts:
    @pytest.mark.parametrize("agents", [1, 2, 6, 20])
    @virtual
    async def test_after_six_the_task_fails(self, agents: int) -> None:
        async with Flow(*crowd(agents, fault()), policy=NEVER_OPENS) as flow:
            with pytest.raises(AllAgentsFailed) as raised:
                await flow.router.route_task(task())
            assert [each.number for each in raised.value.attempts if hasattr(each, "number")] == [1, 2, 3, 4, 5, 6]
            assert len(flow.tried()) == 6

    @virtual
    async def test_six_is_the_limit_of_accepted_work_too(self) -> None:
        async with Flow(*crowd(3, fault()), policy=NEVER_OPENS) as flow:
            with pytest.raises(AllAgentsFailed):
                await flow.router.route_task(task(), wait=True)
            assert len(flow.tried()) == 6

    @virtual
    async def test_refusals_without_execution_do_not_count_among_the_six(self) -> None:
        mixed = [*crowd(10, overloaded(1.0), "o"), *crowd(10, unavailable(), "u"), *crowd(6, fault(), "f")]
        async with Flow(*mixed, policy=NEVER_OPENS) as flow:
            with pytest.raises(AllAgentsFailed) as raised:
                await flow.router.route_task(task())
            counted = Counter(each.outcome for each in raised.value.attempts)
            assert counted[Outcome.AGENT_FAULT] == 6

    @virtual
    async def test_each_attempt_carries_the_key_a_rising_number_and_what_time_is_left(self) -> None:
        async with Flow(*crowd(3, fault(after_s=1.0)), policy=NEVER_OPENS) as flow:
            with pytest.raises(AllAgentsFailed):
                await flow.router.route_task(task(deadline_s=100.0))
            calls = [each.call for each in flow.transport.calls]
            assert len({call.task_id for call in calls}) == 1
            assert [call.fencing_token for call in calls] == [f"1.{number}" for number in range(1, 7)]
            remaining_s = [call.remaining_s for call in calls]
            assert remaining_s[0] == pytest.approx(100.0)
            assert all(later < earlier for earlier, later in pairwise(remaining_s))


class TestRounds:
    @virtual
    async def test_everybody_is_tried_once_before_anybody_is_tried_again(self) -> None:
        async with Flow(*crowd(3, fault()), policy=NEVER_OPENS) as flow:
            with pytest.raises(AllAgentsFailed):
                await flow.router.route_task(task())
            first, second = flow.tried()[:3], flow.tried()[3:]
            assert sorted(first) == sorted(second) == ["a0", "a1", "a2"]

    @virtual
    async def test_between_rounds_it_waits_a_second_then_half_as_long_again(self) -> None:
        async with Flow(*crowd(1, fault(after_s=0.0)), policy=NEVER_OPENS) as flow:
            with pytest.raises(AllAgentsFailed):
                await flow.router.route_task(task())
            waits_s = gaps_s(flow)
            for waited_s, expected_s in zip(waits_s, (1.0, 1.5, 2.25, 3.375, 5.0625), strict=True):
                assert waited_s == pytest.approx(expected_s, rel=0.11)

    @virtual
    async def test_an_agent_that_comes_back_between_rounds_gets_the_task(self) -> None:
        flaky = ScriptedAgent("a", [fault(), fault()])
        async with Flow(flaky) as flow:
            result = await flow.router.route_task(task())
            assert result.status is TaskStatus.COMPLETED
            assert len(result.attempts) == 3

    @virtual
    async def test_a_direct_call_that_nobody_executed_ends_after_one_round(self) -> None:
        async with Flow(*crowd(4, unavailable())) as flow:
            began_at = now()
            with pytest.raises(NoAgentAvailable) as raised:
                await flow.router.route_task(task())
            assert sorted(flow.tried()) == ["a0", "a1", "a2", "a3"]
            assert now() == pytest.approx(began_at, abs=0.01)
            assert 0 < raised.value.retry_after_s <= 60
            assert any("connection refused" in reason for reason in raised.value.reasons)


class TestDispatches:
    @virtual
    async def test_a_direct_call_ends_after_thirty(self) -> None:
        async with Flow(*crowd(50, overloaded(100.0))) as flow:
            with pytest.raises((AllAgentsFailed, NoAgentAvailable)):
                await flow.router.route_task(task())
            assert len(flow.tried()) == 30

    @pytest.mark.parametrize("refusal", [overloaded(100.0), unavailable()])
    @virtual
    async def test_accepted_work_goes_on_after_thirty_with_growing_pauses(self, refusal: Step) -> None:
        async with Flow(*crowd(60, refusal)) as flow:
            with pytest.raises(DeadlineExceeded):
                await flow.router.route_task(task(deadline_s=100.0), wait=True)
            waits_s = gaps_s(flow)
            assert max(waits_s[:29]) < 0.9
            for waited_s, expected_s in zip(waits_s[29:], (1.0, 1.5, 2.25, 3.375), strict=False):
                assert waited_s == pytest.approx(expected_s, rel=0.11)

    @virtual
    async def test_the_pauses_stop_growing_at_a_minute(self) -> None:
        async with Flow(*crowd(200, unavailable())) as flow:
            with pytest.raises(DeadlineExceeded):
                await flow.router.route_task(task(deadline_s=3_000.0), wait=True)
            assert 50 < max(gaps_s(flow)) <= 66.1
            assert len(flow.tried()) > 60

    @virtual
    async def test_params_that_fit_nobody_are_no_dispatches(self) -> None:
        picky = Capability(ECHO, input_schema={"required": ["never"]})
        misfits, faulty = crowd(40, ok(), "m"), crowd(2, fault(), "f")
        async with Flow(*faulty, policy=NEVER_OPENS) as flow:
            for each in misfits:
                flow.scheduler.add_agent(msgspec.structs.replace(each.profile, capabilities=(picky,)))
            with pytest.raises(AllAgentsFailed):
                await flow.router.route_task(task())
            assert len(flow.tried()) == 6


class TestRetryBudget:
    @virtual
    async def test_without_a_token_the_task_waits_and_does_not_fail(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=fault(after_s=0.0)), ScriptedAgent("b", latency_s=1.0)) as flow:
            budget = flow.router._retries(ECHO)._budget
            while not budget.withdraw():
                pass
            measured(flow.scheduler.member("b").seats[ECHO], 10.0)
            flow.scheduler.refresh("b")
            result = await flow.router.route_task(task())
            assert result.status is TaskStatus.COMPLETED
            assert flow.tried() == ["a", "b"]
            assert 0 < gaps_s(flow)[0] <= 0.1

    @virtual
    async def test_retries_stay_a_fraction_of_the_traffic(self) -> None:
        faulty = [ScriptedAgent("a", otherwise=fault(after_s=0.0), max_concurrent_tasks=10_000)]
        good = [ScriptedAgent("b", max_concurrent_tasks=10_000)]
        async with Flow(*faulty, *good, policy=NEVER_OPENS) as flow:
            began_at = now()
            async with asyncio.TaskGroup() as group:
                calls = [group.create_task(flow.router.route_task(task())) for _ in range(2_000)]
            assert all(call.result().status is TaskStatus.COMPLETED for call in calls)
            retries = len(flow.tried()) - len(calls)
            assert retries > 500
            assert retries <= 100 + 0.2 * len(calls) + 10 * (now() - began_at) + 1

    @virtual
    async def test_an_empty_budget_never_outlives_the_deadline(self) -> None:
        async with Flow(*crowd(2, fault(after_s=0.0)), policy=NEVER_OPENS) as flow:
            budget = flow.router._retries(ECHO)._budget
            while not budget.withdraw():
                pass
            began_at = now()
            with pytest.raises(DeadlineExceeded):
                await flow.router.route_task(task(deadline_s=0.05))
            assert now() - began_at == pytest.approx(0.05)
            assert len(flow.tried()) == 1

    @virtual
    async def test_those_who_wait_for_a_token_get_it_in_the_order_they_came_and_wake_nobody_else(self) -> None:
        queue = RetryQueue(VirtualClock().monotonic)
        while not queue._budget.withdraw():
            pass
        served: list[int] = []

        async def wait(number: int) -> None:
            await queue.withdraw()
            served.append(number)

        began_at, turns = now(), running_loop().trace.callbacks
        async with asyncio.TaskGroup() as group:
            for number in range(500):
                group.create_task(wait(number))
        assert served == list(range(500))
        assert now() - began_at == pytest.approx(50.0, abs=1.0)
        assert running_loop().trace.callbacks - turns < 500 * 12

    @virtual
    async def test_whoever_leaves_the_queue_for_tokens_holds_nobody_up(self) -> None:
        queue = RetryQueue(VirtualClock().monotonic)
        while not queue._budget.withdraw():
            pass
        waiting = [asyncio.create_task(queue.withdraw()) for _ in range(20)]
        await asyncio.sleep(0)
        for each in waiting[::2]:
            each.cancel()
        began_at = now()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert now() - began_at <= 1.2

    @virtual
    async def test_each_capability_has_a_budget_of_its_own(self) -> None:
        async with Flow(ScriptedAgent("a", capabilities=("test.one", "test.two"))) as flow:
            assert flow.router._retries("test.one") is flow.router._retries("test.one@1")
            assert flow.router._retries("test.one") is not flow.router._retries("test.two")
            assert flow.router._retries("test.one") is not flow.router._retries("test.one@2")


class TestDeadline:
    @virtual
    async def test_it_ends_a_call_that_hangs(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=no_answer())) as flow:
            began_at = now()
            with pytest.raises(DeadlineExceeded):
                await flow.router.route_task(task(deadline_s=5.0))
            assert now() - began_at == pytest.approx(5.0, abs=0.01)

    @virtual
    async def test_it_ends_the_wait_for_a_busy_agent(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=ok(after_s=50.0))) as flow:
            busy = asyncio.create_task(flow.router.route_task(task()))
            await asyncio.sleep(1)
            began_at = now()
            with pytest.raises(DeadlineExceeded, match="in time"):
                await flow.router.route_task(task(deadline_s=5.0))
            assert now() - began_at == pytest.approx(5.0)
            await busy

    @virtual
    async def test_its_end_counts_one_attempt_as_one(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=fault(after_s=0.1)), policy=NEVER_OPENS) as flow:
            with pytest.raises(DeadlineExceeded, match=r"in time after 1 attempt, the last: "):
                await flow.router.route_task(task(deadline_s=0.2))

    @virtual
    async def test_it_ends_the_wait_between_rounds_and_nothing_is_sent_after_it(self) -> None:
        for deadline_s in (0.5, 1.7, 3.0, 4.4):
            async with Flow(*crowd(2, fault(after_s=0.1)), policy=NEVER_OPENS) as flow:
                began_at = now()
                with pytest.raises((DeadlineExceeded, AllAgentsFailed)):
                    await flow.router.route_task(task(deadline_s=deadline_s))
                assert now() - began_at <= deadline_s + 0.001
                assert all(call.call.remaining_s > 0.01 for call in flow.transport.calls)

    @virtual
    async def test_an_attempt_never_gets_more_than_what_is_left_nor_more_than_its_own_time(self) -> None:
        declared = Capability(ECHO, timeout_s=8.0)
        slow = ScriptedAgent("a")
        async with Flow(slow) as flow:
            flow.scheduler.add_agent(msgspec.structs.replace(slow.profile, capabilities=(declared,)))
            wanted = [task(), task(timeout_s=3.0), task(timeout_s=20.0), task(deadline_s=2.0)]
            for each in wanted:
                await flow.router.route_task(each)
            assert [round(call.call.timeout_s, 6) for call in slow.calls] == [8.0, 3.0, 20.0, 2.0]


class TestFairTime:
    """Whoever gives an agent less time than it usually needs learns nothing about it."""

    @virtual
    async def test_a_tiny_timeout_is_no_evidence_but_goes_on_elsewhere(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=no_answer()), ScriptedAgent("b", latency_s=0.0001)) as flow:
            for _ in range(10):
                measured(flow.scheduler.member("b").seats[ECHO], 10.0)
                flow.scheduler.refresh("b")
                result = await flow.router.route_task(task(timeout_s=0.001))
                assert [each.outcome for each in result.attempts] == [Outcome.AGENT_FAULT, Outcome.SUCCESS]
            assert failures(flow) == 0

    @virtual
    async def test_a_tiny_timeout_of_what_must_not_be_sent_twice_ends_it(self) -> None:
        async with Flow(*crowd(2, no_answer())) as flow:
            with pytest.raises(AllAgentsFailed):
                await flow.router.route_task(task(timeout_s=0.001, idempotent=False))
            assert len(flow.tried()) == 1
            assert failures(flow) == 0

    @virtual
    async def test_a_deadline_shorter_than_fair_time_is_nobodys_fault(self) -> None:
        async with Flow(*crowd(2, no_answer())) as flow:
            for _ in range(10):
                with pytest.raises(DeadlineExceeded):
                    await flow.router.route_task(task(deadline_s=2.0))
            assert {each.outcome for each in flow.seen.ended} == {Outcome.DEADLINE_EXCEEDED}
            assert failures(flow) == 0

    @virtual
    async def test_four_times_the_usual_latency_is_fair(self) -> None:
        for timeout_s, expected in ((4.1, 1), (3.9, 0)):
            async with Flow(ScriptedAgent("a", [ok(after_s=1.0), no_answer()])) as flow:
                await flow.router.route_task(task())
                with pytest.raises(AllAgentsFailed):
                    await flow.router.route_task(task(timeout_s=timeout_s, idempotent=False))
                assert failures(flow) == expected

    @virtual
    async def test_what_the_capability_declares_is_fair_however_slow_it_usually_is(self) -> None:
        declared = Capability(ECHO, timeout_s=5.0)
        slow = ScriptedAgent("a", [ok(after_s=4.0), no_answer()])
        async with Flow(slow) as flow:
            flow.scheduler.add_agent(msgspec.structs.replace(slow.profile, capabilities=(declared,)))
            await flow.router.route_task(task())
            with pytest.raises(AllAgentsFailed):
                await flow.router.route_task(task(idempotent=False))
            assert failures(flow) == 1

    @virtual
    async def test_a_full_timeout_is_evidence(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=no_answer())) as flow:
            with pytest.raises(AllAgentsFailed):
                await flow.router.route_task(task(idempotent=False))
            assert failures(flow) == 1

    @virtual
    async def test_no_client_opens_a_circuit_by_impatience(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=no_answer())) as flow:
            for number in range(30):
                impatient = task(timeout_s=0.01) if number % 2 else task(deadline_s=0.01)
                with pytest.raises((DeadlineExceeded, AllAgentsFailed)):
                    await flow.router.route_task(impatient)
            assert flow.state("a") is CircuitState.CLOSED


class TestUnreachable:
    @virtual
    async def test_being_unreachable_is_evidence_whatever_the_task(self) -> None:
        async with Flow(*crowd(10, unavailable())) as flow:
            with pytest.raises(NoAgentAvailable):
                await flow.router.route_task(task())
            assert failures(flow) == 10


SURELY_NOT_EXECUTED = {Outcome.OVERLOADED, Outcome.UNAVAILABLE, Outcome.MISCONFIGURED}
ANYTHING: list[Step] = [
    ok(),
    fault(),
    fault(after_s=3.0),
    hang(),
    no_answer(),
    overloaded(),
    overloaded(0.2),
    unavailable(),
    replies(Reply(Outcome.UNAVAILABLE, reason="answered 503", whole_agent=True)),
    retryable_error(),
    task_failed(),
    misconfigured(whole_agent=False),
    replies(Reply(Outcome.CALLER_FAULT, reason="answered 400")),
]


class TestAtMostOnce:
    @pytest.mark.parametrize("seed", range(12))
    @virtual
    async def test_what_must_not_be_sent_twice_is_never_sent_after_it_may_have_been_executed(self, seed: int) -> None:
        draw = random.Random(seed)
        agents = [ScriptedAgent(f"a{n}", draw.choices(ANYTHING, k=400), max_concurrent_tasks=3) for n in range(6)]
        async with Flow(*agents, seed=seed) as flow:

            async def one(number: int) -> None:
                await asyncio.sleep(draw.uniform(0, 60))
                try:
                    await flow.router.route_task(task(idempotent=False, deadline_s=90.0), wait=number % 2 == 0)
                except (AllAgentsFailed, NoAgentAvailable, DeadlineExceeded):
                    return

            async with asyncio.TaskGroup() as group:
                for number in range(60):
                    group.create_task(one(number))
            attempts: dict[str, list[tuple[Outcome, str]]] = {}
            for each in flow.seen.ended:
                attempts.setdefault(each.task_id, []).append((each.outcome, each.reason))
            for tried in attempts.values():
                for outcome, reason in tried[:-1]:
                    assert outcome in SURELY_NOT_EXECUTED or reason == "busy_elsewhere", tried


class TestDeadConnection:
    """A re-used connection that dies before the answer: an attempt of its own, and another at once."""

    DEAD = Reply(Outcome.AGENT_FAULT, reason="dead", evidence=False, resendable=True)

    @virtual
    async def test_attempts_rise_and_neither_evidence_nor_a_real_attempt_is_counted(self) -> None:
        steps = [replies(self.DEAD, after_s=1.0), ok(result="done")]
        async with Flow(ScriptedAgent("a", steps)) as flow:
            result = await flow.router.route_task(task())
            assert [(each.number, each.outcome, each.reason) for each in result.attempts] == [
                (1, Outcome.AGENT_FAULT, "dead"),
                (2, Outcome.SUCCESS, ""),
            ]
            first, second = flow.transport.calls
            assert [first.call.fencing_token, second.call.fencing_token] == ["1.1", "1.2"]
            assert (first.call.on_fresh_connection, second.call.on_fresh_connection) == (False, True)
            assert second.call.timeout_s == pytest.approx(first.call.timeout_s - 1.0)
            assert second.began_at == pytest.approx(first.began_at + 1.0)
            assert failures(flow) == 0
            assert [failure.reason for failure in flow.router.recent_failures()] == ["dead"]

    @virtual
    async def test_six_real_attempts_are_left_beside_those_that_found_a_dead_connection(self) -> None:
        steps = [replies(self.DEAD, after_s=0.0), fault()] * 6
        async with Flow(ScriptedAgent("a", steps), policy=NEVER_OPENS) as flow:
            with pytest.raises(AllAgentsFailed):
                await flow.router.route_task(task())
            assert len(flow.tried()) == 12

    @virtual
    async def test_connection_that_dies_again_ends_the_attempt_and_its_lease(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=replies(self.DEAD, after_s=0.0))) as flow:
            with pytest.raises(AllAgentsFailed):
                await flow.router.route_task(task())
            assert len(flow.tried()) == 12
            assert not list(flow.scheduler.leases())
