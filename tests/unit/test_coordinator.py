"""What may run: chains from submit to their recorded end, on virtual time."""

import asyncio
import logging
from typing import Any

import msgspec
import pytest

from aicp.coordination.task_coordinator import split_task_id
from aicp.errors import (
    AicpError,
    ChainNotFound,
    IdempotencyConflict,
    InvalidChain,
    InvalidTask,
    NoCapableAgent,
    QueueFull,
    StorageError,
    TaskNotFound,
)
from aicp.model.chain import ChainSpec, FailurePolicy, TaskChain
from aicp.model.event import AttemptEnded, AttemptStarted, ChainEnded, ChainSubmitted, TaskEnded
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call, OnFailure, Task, TaskStatus
from aicp.ports import ChainQuery, SubmitKey
from aicp.storage.memory import MemoryJournal
from aicp.testing.faulty_agents import ScriptedAgent, Step, fault, hang, stale, task_failed
from tests.unit.flow_kit import ECHO, Flow, now, task, virtual
from tests.unit.journal_kit import WatchedJournal

COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
SKIPPED, PENDING, RUNNING = TaskStatus.SKIPPED, TaskStatus.PENDING, TaskStatus.RUNNING
ON = FailurePolicy.CONTINUE
Log = pytest.LogCaptureFixture


def by_params() -> Step:
    """Do what the params say: `s` seconds of work, `fail` with a code, else answer `result` or the params."""

    async def step(_agent: ScriptedAgent, call: Call) -> Reply:
        await asyncio.sleep(call.params.get("s", 0.0))
        if "fail" in call.params:
            return await task_failed(call.params["fail"], after_s=0.0)(_agent, call)
        return Reply(Outcome.SUCCESS, call.params.get("result", call.params))

    return step


def worker(slots: int = 100, agent_id: str = "a") -> ScriptedAgent:
    return ScriptedAgent(agent_id, otherwise=by_params(), max_concurrent_tasks=slots)


def step(name: str, after: str = "", *, s: float = 0.0, **options: Any) -> Task:
    """A task that works for `s` seconds after those named in `after`."""
    params = {"s": s, **options.pop("params", {})}
    return Task(ECHO, params, id=name, depends_on=tuple(after.split()), **options)


def spec(*tasks: Task, policy: FailurePolicy = FailurePolicy.FAIL_FAST, deadline_s: float | None = None) -> ChainSpec:
    return ChainSpec(tasks, failure_policy=policy, deadline_s=deadline_s)


def failing(name: str, after: str = "", *, s: float = 0.0, **options: Any) -> Task:
    return step(name, after, s=s, params={"fail": "broken"}, **options)


async def statuses(flow: Flow, chain_id: str) -> dict[str, TaskStatus]:
    view = await flow.coordinator.view(chain_id)
    return {name: each.status for name, each in view.tasks.items()}


def is_failure(event: object) -> bool:
    return isinstance(event, AttemptEnded) and event.outcome is Outcome.TASK_FAILED


def started(flow: Flow) -> dict[str, float]:
    """When each task was first sent, by local id."""
    moments: dict[str, float] = {}
    for call in flow.transport.calls:
        moments.setdefault(call.call.task_id.partition(".")[2], call.began_at)
    return moments


class TestOrder:
    @virtual
    async def test_a_task_starts_the_moment_its_own_dependencies_ended_and_waits_for_no_level(self) -> None:
        async with Flow(worker()) as flow:
            began_at = now()
            chain = spec(
                step("a", s=1), step("b", s=5), step("a2", "a", s=1), step("a3", "a2", s=1), step("b2", "b", s=1)
            )
            result = await flow.coordinator.execute_chain(chain)
            assert result.status is COMPLETED
            moments = {name: moment - began_at for name, moment in started(flow).items()}
            assert moments == pytest.approx({"a": 0, "b": 0, "a2": 1, "a3": 2, "b2": 5})
            assert now() - began_at == pytest.approx(6)

    @virtual
    async def test_three_tasks_side_by_side_take_as_long_as_the_longest(self) -> None:
        async with Flow(worker()) as flow:
            began_at = now()
            results = await flow.coordinator.execute_parallel_tasks([step("", s=each) for each in (0.1, 0.3, 0.2)])
            assert [result.result["s"] for result in results] == [0.1, 0.3, 0.2]
            assert now() - began_at == pytest.approx(0.3)

    @virtual
    async def test_what_waits_for_several_starts_after_the_last_of_them(self) -> None:
        async with Flow(worker()) as flow:
            chain = spec(step("a", s=1), step("b", s=3), step("c", "a b"))
            await flow.coordinator.execute_chain(chain)
            moments = started(flow)
            assert moments["c"] - moments["a"] == pytest.approx(3)

    @virtual
    async def test_a_dependency_is_on_record_before_its_dependent_starts(self) -> None:
        journal = WatchedJournal(lambda: 0.5)
        on_record: list[bool] = []

        async def look(_agent: ScriptedAgent, call: Call) -> Reply:
            chain_id, name = split_task_id(call.task_id)
            on_record.extend(journal.has(chain_id, each) for each in {"b": "a", "c": "b"}.get(name, ""))
            return Reply(Outcome.SUCCESS, {})

        async with Flow(ScriptedAgent("a", otherwise=look), journal=journal) as flow:
            began_at = now()
            await flow.coordinator.execute_chain(spec(step("a"), step("b", "a"), step("c", "b")))
            assert on_record == [True, True]
            assert now() - began_at == pytest.approx(4 * 0.5)

    @virtual
    async def test_two_chains_do_not_wait_for_each_other(self) -> None:
        async with Flow(worker()) as flow:
            slow = asyncio.create_task(flow.coordinator.execute_chain(spec(step("a", s=50))))
            began_at = now()
            await flow.coordinator.execute_chain(spec(step("a", s=1)))
            assert now() - began_at == pytest.approx(1)
            await slow


class TestResults:
    @virtual
    async def test_results_travel_by_reference_whole_and_by_pointer(self) -> None:
        async with Flow(worker()) as flow:
            chain = TaskChain()
            source = chain.add_task(ECHO, {"result": {"deep": [{"a/b": 1}, "two"], "m~n": None}}, id="source")
            reader = chain.add_task(
                ECHO,
                {
                    "whole": source.output,
                    "one": source.output["deep"][0]["a/b"],
                    "two": [source.output["deep"][1]],
                    "nothing": source.output["m~n"],
                },
            )
            result = await flow.coordinator.execute_chain(chain)
            whole = {"deep": [{"a/b": 1}, "two"], "m~n": None}
            assert result[reader].result == {"whole": whole, "one": 1, "two": ["two"], "nothing": None}

    @virtual
    async def test_a_pointer_to_nowhere_fails_its_task_and_sends_nothing(self) -> None:
        async with Flow(worker()) as flow:
            chain = TaskChain()
            source = chain.add_task(ECHO, {"result": {"a": []}}, id="source")
            chain.add_task(ECHO, {"x": source.output["a"][3]}, id="reader")
            result = await flow.coordinator.execute_chain(chain)
            assert result.status is FAILED
            error = result["reader"].error
            assert error is not None
            assert error.code == "reference_not_found"
            assert "'/a/3' is nowhere in the result of 'source'" in error.message
            assert result["reader"].attempts == ()
            assert len(flow.tried()) == 1

    @virtual
    async def test_dependents_of_a_failure_with_a_default_read_the_default(self) -> None:
        async with Flow(worker()) as flow:
            chain = TaskChain()
            shaky = chain.add_task(ECHO, {"fail": "broken"}, id="shaky", on_failure=OnFailure({"faces": []}))
            chain.add_task(ECHO, {"faces": shaky.output["faces"]}, id="reader")
            result = await flow.coordinator.execute_chain(chain)
            assert result.status is COMPLETED
            assert result["shaky"].status is FAILED
            assert result["reader"].result == {"faces": []}

    @virtual
    async def test_the_key_of_a_task_is_its_global_id(self) -> None:
        async with Flow(worker()) as flow:
            result = await flow.coordinator.execute_chain(spec(step("a"), step("b")))
            sent = {call.call.task_id for call in flow.transport.calls}
            assert sent == {f"{result.chain_id}.a", f"{result.chain_id}.b"}

    @virtual
    async def test_a_view_tells_what_was_tried_and_where_the_time_went(self) -> None:
        async with Flow(ScriptedAgent("a", [fault(after_s=1.0)], otherwise=by_params())) as flow:
            chain_id = await flow.coordinator.submit(spec(step("x", s=2)))
            view = await flow.coordinator.wait(chain_id)
            seen = view.tasks["x"]
            assert [each.outcome for each in seen.attempts] == [Outcome.AGENT_FAULT, Outcome.SUCCESS]
            assert seen.task_id == f"{chain_id}.x"
            assert seen.timings.queued_s == 0
            assert seen.timings.running_s == pytest.approx(4.0, abs=0.2)
            assert (view.total_tasks, view.completed_tasks, view.edges) == (1, 1, [])


class TestFailure:
    @virtual
    async def test_fail_fast_cuts_off_what_runs_and_skips_what_has_not_started(self) -> None:
        agent = worker()
        async with Flow(agent) as flow:
            began_at = now()
            chain = spec(failing("bad", s=1), step("running", s=60), step("later", "running"), step("done"))
            result = await flow.coordinator.execute_chain(chain)
            assert now() - began_at == pytest.approx(1)
            assert result.status is FAILED
            assert result.error is not None
            assert "'bad' failed" in result.error.message
            assert await statuses(flow, result.chain_id) == {
                "bad": FAILED,
                "running": CANCELLED,
                "later": SKIPPED,
                "done": COMPLETED,
            }
            await asyncio.sleep(0.001)
            assert agent.under_way.value == 0
            assert "later" not in started(flow)

    @virtual
    async def test_continue_lets_all_but_the_dependents_run(self) -> None:
        async with Flow(worker()) as flow:
            chain = spec(failing("bad"), step("behind", "bad"), step("other", s=5), step("last", "other"), policy=ON)
            result = await flow.coordinator.execute_chain(chain)
            assert result.status is FAILED
            assert await statuses(flow, result.chain_id) == {
                "bad": FAILED,
                "behind": SKIPPED,
                "other": COMPLETED,
                "last": COMPLETED,
            }

    @virtual
    async def test_one_of_several_side_by_side_that_fails_does_not_touch_the_others(self) -> None:
        async with Flow(worker()) as flow:
            results = await flow.coordinator.execute_parallel_tasks([step("", s=1), failing("x"), step("", s=2)])
            assert [result.status for result in results] == [COMPLETED, FAILED, COMPLETED]

    @virtual
    async def test_nothing_side_by_side_is_nothing(self) -> None:
        async with Flow(worker()) as flow:
            assert await flow.coordinator.execute_parallel_tasks([]) == []

    @virtual
    async def test_every_task_of_an_ended_chain_has_a_result_the_skipped_too(self) -> None:
        async with Flow(worker()) as flow:
            result = await flow.coordinator.execute_chain(spec(failing("bad"), step("behind", "bad")))
            assert result["behind"].status is SKIPPED
            results = await flow.coordinator.execute_parallel_tasks([failing("bad"), step("behind", "bad")])
            assert [each.status for each in results] == [FAILED, SKIPPED]

    @virtual
    async def test_a_task_that_starts_in_the_moment_of_the_failure_is_not_sent(self) -> None:
        async with Flow(worker()) as flow:
            behind = [step(name, "a", s=9) for name in ("b", "c", "d")]
            began_at = now()
            result = await flow.coordinator.execute_chain(spec(step("a", s=1), failing("bad", s=1), *behind))
            assert result.status is FAILED
            assert now() - began_at == pytest.approx(1)
            events = [each for each in flow.seen.events if isinstance(each, AttemptStarted | AttemptEnded)]
            failed = next(index for index, each in enumerate(events) if is_failure(each))
            assert [each for each in events[failed:] if isinstance(each, AttemptStarted)] == []


class TestDeadlines:
    @virtual
    async def test_a_tasks_time_runs_from_ready(self) -> None:
        async with Flow(worker()) as flow:
            chain = spec(step("slow", s=50), step("quick", "slow", s=4, deadline_s=5.0))
            assert (await flow.coordinator.execute_chain(chain)).status is COMPLETED

    @virtual
    async def test_a_task_whose_time_runs_out_is_failed_by_then(self) -> None:
        async with Flow(worker(slots=1)) as flow:
            chain = spec(step("first", s=50), step("second", deadline_s=5.0), policy=ON)
            chain_id = await flow.coordinator.submit(chain)
            await asyncio.sleep(4.9)
            assert (await statuses(flow, chain_id))["second"] is RUNNING
            await asyncio.sleep(0.2)
            view = await flow.coordinator.view(chain_id)
            assert view.tasks["second"].status is FAILED
            error = view.tasks["second"].error
            assert error is not None
            assert error.code == "deadline_exceeded"

    @virtual
    async def test_a_chains_time_runs_from_submit_and_ends_everything(self) -> None:
        agent = worker()
        async with Flow(agent) as flow:
            began_at = now()
            chain = spec(step("a", s=6), step("b", "a", s=6), step("c", "b"), deadline_s=10.0)
            result = await flow.coordinator.execute_chain(chain)
            assert now() - began_at == pytest.approx(10.0)
            assert result.status is FAILED
            assert result.error is not None
            assert result.error.code == "deadline_exceeded"
            ended = await statuses(flow, result.chain_id)
            assert (ended["a"], ended["c"]) == (COMPLETED, SKIPPED)
            assert ended["b"] in {CANCELLED, FAILED}
            await asyncio.sleep(0.001)
            assert agent.under_way.value == 0

    @virtual
    async def test_a_chain_whose_time_runs_out_says_so_whatever_its_tasks_were_doing(self) -> None:
        for deadline_s in (0.1, 0.3, 0.7, 1.1, 3.3, 10.0, 20.7):
            for slots in (1, 2):
                async with Flow(worker(slots)) as flow:
                    chain = spec(step("a", s=50), step("b", s=50), step("c", "a"), deadline_s=deadline_s)
                    result = await flow.coordinator.execute_chain(chain)
                    assert result.status is FAILED
                    assert result.error is not None
                    assert result.error.code == "deadline_exceeded"

    @virtual
    async def test_the_earlier_of_the_two_wins(self) -> None:
        async with Flow(worker()) as flow:
            for task_s, chain_s in ((5.0, 100.0), (100.0, 5.0)):
                began_at = now()
                result = await flow.coordinator.execute_chain(
                    spec(step("a", s=60, deadline_s=task_s), deadline_s=chain_s)
                )
                assert result.status is FAILED
                assert now() - began_at == pytest.approx(5.0)

    @virtual
    async def test_remaining_time_that_travels_is_the_earlier_ones(self) -> None:
        async with Flow(worker()) as flow:
            await flow.coordinator.execute_chain(
                spec(step("a", s=2), step("b", "a", deadline_s=100.0), deadline_s=30.0)
            )
            remaining_s = [call.call.remaining_s for call in flow.transport.calls]
            assert remaining_s == pytest.approx([30.0, 28.0])


class TestCancel:
    @virtual
    async def test_it_cuts_off_what_runs_and_starts_nothing_more(self) -> None:
        agent = worker()
        async with Flow(agent) as flow:
            chain_id = await flow.coordinator.submit(spec(step("a", s=60), step("b", "a")))
            await asyncio.sleep(5)
            await flow.coordinator.cancel(chain_id)
            view = await flow.coordinator.view(chain_id)
            assert view.status is CANCELLED
            assert view.tasks["a"].status is CANCELLED
            await asyncio.sleep(100)
            assert agent.under_way.value == 0
            assert list(started(flow)) == ["a"]
            assert (await flow.coordinator.wait_result(chain_id)).status is CANCELLED

    @virtual
    async def test_a_chain_that_waits_for_agents_can_be_cancelled(self) -> None:
        async with Flow(worker()) as flow:
            flow.scheduler.drain_agent("a")
            chain_id = await flow.coordinator.submit(spec(step("a")))
            await asyncio.sleep(5)
            await flow.coordinator.cancel(chain_id)
            assert (await flow.coordinator.view(chain_id)).status is CANCELLED

    @virtual
    async def test_a_chain_that_ended_stays_as_it_is(self) -> None:
        async with Flow(worker()) as flow:
            result = await flow.coordinator.execute_chain(spec(step("a")))
            await flow.coordinator.cancel(result.chain_id)
            assert (await flow.coordinator.view(result.chain_id)).status is COMPLETED

    @virtual
    async def test_every_confirmed_cancel_is_on_record_the_second_one_too(self) -> None:
        journal = WatchedJournal(lambda: 1.0)
        async with Flow(worker(), journal=journal) as flow:
            chain_id = await flow.coordinator.submit(spec(step("a", s=60)))
            await asyncio.sleep(5)

            async def cancel() -> None:
                await flow.coordinator.cancel(chain_id)
                assert any(isinstance(fact, ChainEnded) for fact in journal.of(chain_id))

            await asyncio.gather(cancel(), cancel(), cancel())
            assert sum(isinstance(fact, ChainEnded) for fact in journal.of(chain_id)) == 1

    @virtual
    async def test_it_happens_even_if_whoever_asked_has_left(self) -> None:
        agent = worker()
        async with Flow(agent, journal=WatchedJournal(lambda: 1.0)) as flow:
            chain_id = await flow.coordinator.submit(spec(step("a", s=60), step("b", "a")))
            await asyncio.sleep(5)
            cancelling = asyncio.create_task(flow.coordinator.cancel(chain_id))
            await asyncio.sleep(0.5)
            cancelling.cancel()
            await asyncio.sleep(5)
            assert (await flow.coordinator.view(chain_id)).status is CANCELLED
            assert agent.under_way.value == 0

    @virtual
    async def test_what_does_not_exist_cannot_be_cancelled(self) -> None:
        async with Flow(worker()) as flow:
            with pytest.raises(ChainNotFound):
                await flow.coordinator.cancel("nowhere")


class TestSubmit:
    @virtual
    async def test_a_task_on_its_own_is_a_chain_of_one(self) -> None:
        async with Flow(worker()) as flow:
            task_id = await flow.coordinator.submit_task(task(params={"n": 1}))
            chain_id, local_id = split_task_id(task_id)
            view = await flow.coordinator.wait(chain_id)
            assert view.tasks[local_id].result == {"n": 1}
            assert view.tasks[local_id].task_id == task_id == flow.transport.calls[0].call.task_id
            assert view.total_tasks == 1

    @virtual
    async def test_all_faults_are_told_at_once_and_nothing_is_recorded(self) -> None:
        async with Flow(worker()) as flow:
            broken = spec(step("a", "b"), step("b", "a"), step("b"), step("c", "nobody"), Task("no name!", id="d"))
            with pytest.raises(InvalidChain) as raised:
                await flow.coordinator.submit(broken)
            assert len(raised.value.faults) >= 4
            assert (await flow.coordinator.list_chains(ChainQuery())).chains == []
            with pytest.raises(InvalidTask):
                await flow.coordinator.submit_task(task(depends_on=("x",)))

    @virtual
    async def test_what_nobody_has_ever_offered_is_refused(self) -> None:
        async with Flow(worker()) as flow:
            with pytest.raises(NoCapableAgent):
                await flow.coordinator.submit(spec(step("a"), Task("never.offered", id="b")))
            assert flow.tried() == []
            assert flow.coordinator.unfinished == 0

    @virtual
    async def test_the_same_key_and_body_give_the_same_chain_which_runs_once(self) -> None:
        for journal in (WatchedJournal(), WatchedJournal(lambda: 1.0)):
            async with Flow(worker(), journal=journal) as flow:
                key = SubmitKey("default", "key-1", b"digest")
                chain = spec(step("a"))
                ids = await asyncio.gather(*(flow.coordinator.submit(chain, key=key) for _ in range(5)))
                assert len(set(ids)) == 1
                await flow.coordinator.wait_result(ids[0])
                assert await flow.coordinator.submit(chain, key=key) == ids[0]
                await asyncio.sleep(0.001)
                assert flow.tried() == ["a"]
                assert flow.coordinator.unfinished == 0
                assert sum(isinstance(event, ChainSubmitted) for event in flow.seen.events) == 1

    @virtual
    async def test_the_same_key_with_another_body_is_a_conflict_and_another_tenants_is_not(self) -> None:
        async with Flow(worker()) as flow:
            flow.scheduler.add_agent(msgspec.structs.replace(flow.scheduler.member("a").profile, shared=True))
            first = await flow.coordinator.submit(spec(step("a")), key=SubmitKey("default", "key", b"one"))
            with pytest.raises(IdempotencyConflict):
                await flow.coordinator.submit(spec(step("b")), key=SubmitKey("default", "key", b"two"))
            other = await flow.coordinator.submit(
                spec(step("b")), key=SubmitKey("other", "key", b"two"), tenant="other"
            )
            assert other != first
            assert await flow.coordinator.tenant_of(other) == "other"
            await flow.coordinator.wait(first)
            await flow.coordinator.wait(other)

    @virtual
    async def test_too_much_unfinished_work_is_refused_until_some_has_ended(self) -> None:
        async with Flow(worker(), accepted_max=3) as flow:
            first = await flow.coordinator.submit(spec(step("a", s=10), step("b", s=10)))
            with pytest.raises(QueueFull) as raised:
                await flow.coordinator.submit(spec(step("a"), step("b")))
            assert raised.value.retry_after_s > 0
            second = await flow.coordinator.submit(spec(step("a", s=1)))
            assert flow.coordinator.unfinished == 3
            for each in (first, second):
                await flow.coordinator.wait_result(each)
            assert flow.coordinator.unfinished == 0
            await flow.coordinator.execute_chain(spec(step("a"), step("b"), step("c")))

    @virtual
    async def test_the_bound_holds_for_submits_of_one_moment(self) -> None:
        async with Flow(worker(), journal=WatchedJournal(lambda: 1.0), accepted_max=3) as flow:
            submits = (flow.coordinator.submit(spec(step("a", s=100))) for _ in range(10))
            answers = await asyncio.gather(*submits, return_exceptions=True)
            assert sum(isinstance(answer, QueueFull) for answer in answers) == 7
            assert flow.coordinator.unfinished == 3

    @virtual
    async def test_a_refused_submit_takes_no_room(self) -> None:
        async with Flow(worker(), journal=WatchedJournal(fails=lambda: True), accepted_max=1) as flow:
            for _ in range(3):
                with pytest.raises(StorageError, match="disk is full"):
                    await flow.coordinator.submit(spec(step("a")))
            assert flow.coordinator.unfinished == 0

    @virtual
    async def test_a_chain_on_record_runs_even_if_whoever_submitted_it_has_left(self) -> None:
        async with Flow(worker(), journal=WatchedJournal(lambda: 1.0)) as flow:
            submitting = asyncio.create_task(flow.coordinator.submit(spec(step("a"))))
            await asyncio.sleep(0.5)
            submitting.cancel()
            await asyncio.sleep(10)
            (record,) = (await flow.coordinator.list_chains(ChainQuery())).chains
            view = await flow.coordinator.view(record.chain_id)
            assert view.status is COMPLETED
            assert flow.coordinator.unfinished == 0

    @virtual
    async def test_ids_sort_by_time_and_are_all_different(self) -> None:
        async with Flow(worker()) as flow:
            ids = []
            for _ in range(20):
                ids.append(await flow.coordinator.submit(spec(step("a"))))
                await asyncio.sleep(0.002)
            assert ids == sorted(ids)
            assert len(set(ids)) == 20


class TestWaiting:
    @virtual
    async def test_wait_returns_at_the_end_or_after_its_time_with_what_is_known_then(self) -> None:
        async with Flow(worker()) as flow:
            chain_id = await flow.coordinator.submit(spec(step("a", s=10)))
            began_at, view = now(), await flow.coordinator.wait(chain_id, 4.0)
            assert now() - began_at == pytest.approx(4.0)
            assert view.status is RUNNING
            assert view.tasks["a"].status is RUNNING
            view = await flow.coordinator.wait(chain_id, 100.0)
            assert now() - began_at == pytest.approx(10.0)
            assert view.status is COMPLETED

    @virtual
    async def test_what_does_not_exist_is_not_found(self) -> None:
        async with Flow(worker()) as flow:
            for look in (flow.coordinator.view, flow.coordinator.wait, flow.coordinator.wait_result):
                with pytest.raises(ChainNotFound):
                    await look("nowhere")
            for wrong in ("", "x", ".", "x.", ".y"):
                with pytest.raises(TaskNotFound):
                    split_task_id(wrong)

    @virtual
    async def test_whoever_waits_hears_when_the_coordinator_stops_first(self) -> None:
        for after_s in (0.0, 1.0):
            async with Flow(worker()) as flow:
                chain_id = await flow.coordinator.submit(spec(step("a", s=60)))
                waiting = asyncio.create_task(flow.coordinator.wait_result(chain_id))
                await asyncio.sleep(after_s)
                await flow.coordinator.__aexit__(None, None, None)
                with pytest.raises(AicpError, match="stopped"):
                    await asyncio.wait_for(waiting, timeout=10)

    @virtual
    async def test_a_waiter_hears_even_if_the_chain_had_not_begun(self) -> None:
        journal = MemoryJournal()
        async with Flow(worker(), journal=journal) as flow:
            chain_id = await flow.coordinator.submit(spec(step("a", s=60)))
        async with Flow(worker(), journal=journal) as flow:
            waiting = asyncio.create_task(flow.coordinator.wait_result(chain_id))
            await flow.coordinator.__aexit__(None, None, None)
            with pytest.raises(AicpError, match="stopped"):
                await asyncio.wait_for(waiting, timeout=10)
            assert flow.coordinator.unfinished == 0


class TestRecord:
    @virtual
    async def test_facts_end_with_exactly_one_end_of_the_chain(self) -> None:
        journal = WatchedJournal(lambda: 0.01)
        async with Flow(worker(), journal=journal) as flow:
            chains = [
                spec(step("a"), step("b", "a")),
                spec(failing("a"), step("b", s=5)),
                spec(step("a", s=50), deadline_s=2.0),
                spec(step("a"), step("b"), step("c", "a b")),
            ]
            for chain in chains:
                result = await flow.coordinator.execute_chain(chain)
                facts = journal.of(result.chain_id)
                ends = [fact for fact in facts if isinstance(fact, ChainEnded)]
                assert ends == [facts[-1]]
                assert ends[0].status is result.status

    @virtual
    async def test_observers_are_told_of_facts_in_their_order_once_they_are_on_record(self) -> None:
        journal = WatchedJournal(lambda: 1.0)
        told: list[bool] = []

        class Looking:
            def notify(self, event: object) -> None:
                if isinstance(event, TaskEnded | ChainEnded):
                    told.append(event in journal.recorded)

        async with Flow(worker(), journal=journal, observer=Looking()) as flow:
            await flow.coordinator.execute_chain(spec(step("a"), step("b", "a")))
        assert told == [True, True, True]

    @virtual
    async def test_a_stopped_coordinator_leaves_chains_to_the_next_which_repeats_nothing(self) -> None:
        journal = MemoryJournal()
        async with Flow(worker(), journal=journal) as flow:
            chain_id = await flow.coordinator.submit(spec(step("a", s=1), step("b", "a", s=30), step("c", "b")))
            await asyncio.sleep(10)
        async with Flow(worker(), journal=journal) as flow:
            result = await flow.coordinator.wait_result(chain_id)
            assert result.status is COMPLETED
            assert list(started(flow)) == ["b", "c"]

    @virtual
    async def test_a_chains_time_goes_on_while_nobody_runs_it(self) -> None:
        journal = MemoryJournal()
        async with Flow(worker(), journal=journal) as flow:
            chain_id = await flow.coordinator.submit(spec(step("a", s=50), deadline_s=30.0))
            await asyncio.sleep(10)
        await asyncio.sleep(15)
        async with Flow(worker(), journal=journal) as flow:
            flow.clock.shift_wall(0)
            began_at = now()
            await flow.coordinator.wait_result(chain_id)
            assert now() - began_at == pytest.approx(5.0)

    @virtual
    async def test_a_disk_that_fails_for_a_while_delays_its_chain_and_loses_nothing(self, caplog: Log) -> None:
        fails: list[bool] = []
        journal = WatchedJournal(fails=lambda: bool(fails))
        with caplog.at_level(logging.CRITICAL, logger="aicp.coordination"):
            async with Flow(worker(), journal=journal) as flow:
                chain_id = await flow.coordinator.submit(spec(step("a", s=1), step("b", s=50), step("c", "a")))
                fails.append(True)
                with pytest.raises(StorageError, match="disk is full"):
                    await flow.coordinator.submit(spec(step("a")))
                await asyncio.sleep(30)
                assert "c" not in started(flow)
                assert journal.of(chain_id) == []
                assert await statuses(flow, chain_id) == {"a": RUNNING, "b": RUNNING, "c": PENDING}
                fails.clear()
                assert (await flow.coordinator.wait_result(chain_id)).status is COMPLETED
                assert [call.call.attempt for call in flow.transport.calls] == [1, 1, 1]
                assert 30 < started(flow)["c"] - started(flow)["a"] < 37

    @virtual
    async def test_an_end_is_no_end_before_it_is_on_record(self, caplog: Log) -> None:
        fails: list[bool] = []
        journal = WatchedJournal(lambda: 0.5, fails=lambda: bool(fails))
        with caplog.at_level(logging.CRITICAL, logger="aicp.coordination"):
            async with Flow(worker(), journal=journal) as flow:
                chain_id = await flow.coordinator.submit(spec(step("a", s=9.8), step("b", "a"), deadline_s=10.8))
                fails.append(True)
                await asyncio.sleep(100)
                assert (await flow.coordinator.view(chain_id)).status is RUNNING
                assert journal.of(chain_id) == []
                fails.clear()
                result = await flow.coordinator.wait_result(chain_id)
                assert result.error is not None
                assert (result.status, result.error.code) == (FAILED, "deadline_exceeded")
                assert result["a"].status is COMPLETED

    @virtual
    async def test_a_cancel_is_confirmed_when_it_is_on_record_however_long_the_disk_refuses(self, caplog: Log) -> None:
        fails: list[bool] = []
        journal = WatchedJournal(lambda: 0.5, fails=lambda: bool(fails))
        agent = worker()
        with caplog.at_level(logging.CRITICAL, logger="aicp.coordination"):
            async with Flow(agent, journal=journal) as flow:
                chain_id = await flow.coordinator.submit(spec(step("a", s=50), step("b", "a")))
                await asyncio.sleep(1)
                fails.append(True)
                cancels = [asyncio.create_task(flow.coordinator.cancel(chain_id)) for _ in range(2)]
                await asyncio.sleep(100)
                assert not any(cancel.done() for cancel in cancels)
                fails.clear()
                await asyncio.gather(*cancels)
                assert (await flow.coordinator.view(chain_id)).status is CANCELLED
                assert agent.under_way.value == 0
                assert list(started(flow)) == ["a"]

    @virtual
    async def test_a_coordinator_that_stops_while_the_disk_refuses_stops_soon_and_says_so(self, caplog: Log) -> None:
        fails: list[bool] = []
        journal = WatchedJournal(fails=lambda: bool(fails))
        with caplog.at_level(logging.CRITICAL, logger="aicp.coordination"):
            async with Flow(worker(), journal=journal) as flow:
                chain_id = await flow.coordinator.submit(spec(step("a", s=1), step("b", "a")))
                fails.append(True)
                await asyncio.sleep(60)
                cancelling = asyncio.create_task(flow.coordinator.cancel(chain_id))
                waiting = asyncio.create_task(flow.coordinator.wait_result(chain_id))
                await asyncio.sleep(60)
                began_at = now()
            assert now() - began_at < 10
            for each in (cancelling, waiting):
                with pytest.raises(AicpError):
                    await each
        fails.clear()
        async with Flow(worker(), journal=journal) as flow:
            assert (await flow.coordinator.wait_result(chain_id)).status is COMPLETED

    @virtual
    async def test_lost_ownership_records_nothing_and_drops_the_chain_here(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        journal = WatchedJournal()

        async def meet_a_newer_owner(agent: ScriptedAgent, call: Call) -> Reply:
            await journal.open()
            await journal.claim(1)
            return await stale()(agent, call)

        agents = (
            ScriptedAgent("a", otherwise=meet_a_newer_owner),
            ScriptedAgent("b", otherwise=hang(), capabilities=("test.hang",)),
        )
        with caplog.at_level(logging.CRITICAL, logger="aicp.coordination"):
            async with Flow(*agents, journal=journal) as flow:
                chain = spec(step("a"), Task("test.hang", id="b"), step("c", "a"), policy=ON)
                chain_id = await flow.coordinator.submit(chain)
                with pytest.raises(AicpError, match="not ended"):
                    await asyncio.wait_for(flow.coordinator.wait_result(chain_id), timeout=30)
                assert journal.of(chain_id) == []
                assert flow.left_over() == {}
                assert flow.coordinator.unfinished == 0

    @virtual
    async def test_agent_that_wrongly_tells_of_a_newer_owner_fails_its_task_and_strands_no_chain(self) -> None:
        agents = (
            ScriptedAgent("a", otherwise=stale()),
            ScriptedAgent("b", capabilities=("test.other",)),
        )
        async with Flow(*agents) as flow:
            chain_id = await flow.coordinator.submit(spec(step("a"), Task("test.other", id="b"), policy=ON))
            async with asyncio.timeout(30):
                assert (await flow.coordinator.wait_result(chain_id)).status is FAILED
            tasks = (await flow.coordinator.view(chain_id)).tasks
            assert (tasks["a"].status, tasks["b"].status) == (FAILED, COMPLETED)
            assert tasks["a"].error is not None
            assert tasks["a"].error.code == "stale_token"
