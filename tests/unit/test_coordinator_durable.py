"""Nothing accepted is lost: disks that fail at every use, processes that die at every commit, and what comes after."""

import asyncio
import contextlib
import gc
import logging
import random
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from aicp.coordination import recovery, retention
from aicp.coordination.chain_status import fold
from aicp.coordination.task_coordinator import split_task_id
from aicp.errors import AicpError, ChainNotFound, Conflict, IdempotencyConflict, StorageError, TaskNotFound
from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.event import ChainCancelled, ChainEnded, ChainSubmitted, Fact, TaskEnded, TaskStarted
from aicp.model.outcome import Outcome, Reply
from aicp.model.task import Call, OnFailure, Task, TaskStatus
from aicp.ports import ChainQuery, ChainRecord, Journal, SubmitKey
from aicp.storage.memory import MemoryJournal
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_database import SqliteDatabase
from aicp.testing.faulty_agents import ScriptedAgent, Step, hang, ok, retryable_error, task_failed
from tests.unit.flow_kit import ECHO, Flow, now, virtual
from tests.unit.journal_kit import WatchedJournal
from tests.unit.mortal_kit import FailingJournal, MortalJournal

COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
KEY = SubmitKey("default", "key", b"body")


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(100, logger="aicp")


@asynccontextmanager
async def memory() -> AsyncIterator[Journal]:
    yield MemoryJournal()


@asynccontextmanager
async def sqlite() -> AsyncIterator[Journal]:
    with tempfile.TemporaryDirectory() as directory:
        journal = SqliteJournal(SqliteDatabase(Path(directory) / "a.db", lock_wait_s=0.1))
        try:
            yield journal
        finally:
            await journal.close()


JOURNALS = pytest.mark.parametrize("journals", [memory, sqlite])
Journals = Callable[[], Any]
T = TypeVar("T")


def once(name: str, after: str = "", **options: Any) -> Task:
    """A task that must not be sent twice."""
    return Task(ECHO, {}, id=name, depends_on=tuple(after.split()), idempotent=False, **options)


def step(name: str, after: str = "", **options: Any) -> Task:
    return Task(options.pop("capability", ECHO), {}, id=name, depends_on=tuple(after.split()), **options)


def spec(*tasks: Task, policy: FailurePolicy = FailurePolicy.CONTINUE, **options: Any) -> ChainSpec:
    return ChainSpec(tasks, failure_policy=policy, **options)


def agent(otherwise: Step | None = None, slots: int = 10, script: Sequence[Step] = ()) -> ScriptedAgent:
    return ScriptedAgent("a", script, otherwise=otherwise or ok(after_s=0.1), max_concurrent_tasks=slots)


def sent(flow: Flow) -> list[str]:
    """Local ids of what was sent, in order."""
    return [call.call.task_id.partition(".")[2] for call in flow.transport.calls]


async def record_of(journal: Journal, chain_id: str) -> ChainRecord:
    record = await journal.read(chain_id)
    assert record is not None
    return record


async def collected(facts: AsyncIterator[Fact]) -> list[Fact]:
    return [fact async for fact in facts]


class TestSentOnce:
    @virtual
    async def test_a_start_is_on_record_before_anything_is_sent_and_not_while_it_waits_in_line(self) -> None:
        journal = WatchedJournal(lambda: 0.5)
        seen: list[bool] = []

        async def look(_agent: ScriptedAgent, call: Call) -> Reply:
            chain_id, name = split_task_id(call.task_id)
            seen.append(any(isinstance(fact, TaskStarted) and fact.task == name for fact in journal.of(chain_id)))
            await asyncio.sleep(10)
            return Reply(Outcome.SUCCESS, {})

        async with Flow(agent(look, slots=1), journal=journal) as flow:
            chain_id = await flow.coordinator.submit(spec(once("x"), once("y")))
            await asyncio.sleep(5)
            assert [fact.task for fact in journal.of(chain_id) if isinstance(fact, TaskStarted)] == ["x"]
            assert (await flow.coordinator.wait_result(chain_id)).status is COMPLETED
        assert seen == [True, True]

    @virtual
    async def test_each_send_is_on_record_with_its_number_and_its_agent(self) -> None:
        journal = WatchedJournal()
        agents = [
            ScriptedAgent(name, otherwise=retryable_error(), max_concurrent_tasks=10) for name in ("down-1", "down-2")
        ]
        async with Flow(*agents, ScriptedAgent("up"), journal=journal) as flow:
            result = await flow.coordinator.execute_chain(spec(once("x")))
        started = [fact for fact in journal.of(result.chain_id) if isinstance(fact, TaskStarted)]
        attempts = result.tasks["x"].attempts
        assert result.status is COMPLETED
        assert [(fact.number, fact.agent_id) for fact in started] == [(each.number, each.agent_id) for each in attempts]
        assert len({fact.name for fact in started}) == len(started)

    @virtual
    async def test_numbers_of_attempts_go_on_from_the_highest_on_record(self) -> None:
        journal = MemoryJournal()
        submitted = ChainSubmitted("ab" * 16, spec(step("x")), datetime.now(UTC))
        await journal.open()
        await journal.submit(submitted)
        await journal.append([TaskStarted(submitted.chain_id, "x", submitted.at, 41, "somebody")])
        async with Flow(agent(), journal=journal) as flow:
            result = await flow.coordinator.wait_result(submitted.chain_id)
        assert [attempt.number for attempt in result.tasks["x"].attempts] == [42]
        assert result.status is COMPLETED

    @virtual
    async def test_an_idempotent_task_records_no_start(self) -> None:
        journal = WatchedJournal()
        async with Flow(agent(), journal=journal) as flow:
            result = await flow.coordinator.execute_chain(spec(step("x")))
        assert not any(isinstance(fact, TaskStarted) for fact in journal.of(result.chain_id))

    @virtual
    async def test_started_without_an_end_it_fails_after_a_crash_and_is_never_sent_again(self) -> None:
        journal = MemoryJournal()
        chain = spec(
            once("x"), once("y", on_failure=OnFailure("default")), step("behind-x", "x"), step("behind-y", "y"),
            once("z", "y"),
        )  # fmt: skip
        async with Flow(agent(hang()), journal=journal) as flow:
            chain_id = await flow.coordinator.submit(chain)
            await asyncio.sleep(1)
            assert sorted(sent(flow)) == ["x", "y"]
        async with Flow(agent(), journal=journal) as flow:
            result = await flow.coordinator.wait_result(chain_id)
            assert sorted(sent(flow)) == ["behind-y", "z"]
        submitted_at = (await record_of(journal, chain_id)).submitted.at
        for name in ("x", "y"):
            error = result[name].error
            assert error is not None
            assert (result[name].status, error.code) == (FAILED, "outcome_unknown")
            assert result[name].ready_at == submitted_at
        assert result["behind-x"].status is TaskStatus.SKIPPED
        assert result.status is FAILED

    @virtual
    async def test_with_fail_fast_the_chain_ends_with_it(self) -> None:
        journal = MemoryJournal()
        chain = spec(once("x"), step("slow"), step("behind", "slow"), policy=FailurePolicy.FAIL_FAST)
        async with Flow(agent(hang()), journal=journal) as flow:
            chain_id = await flow.coordinator.submit(chain)
            await asyncio.sleep(1)
        async with Flow(agent(), journal=journal) as flow:
            result = await flow.coordinator.wait_result(chain_id)
            assert sent(flow) == []
        assert result.status is FAILED

    @virtual
    async def test_a_cancel_while_the_start_is_recorded_sends_nothing(self) -> None:
        async with Flow(agent(), journal=WatchedJournal(lambda: 1.0)) as flow:
            chain_id = await flow.coordinator.submit(spec(once("x")))
            await asyncio.sleep(0.5)
            await flow.coordinator.cancel(chain_id)
            await asyncio.sleep(10)
            assert sent(flow) == []
            assert (await flow.coordinator.view(chain_id)).status is CANCELLED

    @virtual
    async def test_a_start_that_cannot_be_recorded_in_time_sends_nothing(self) -> None:
        fails: list[bool] = []
        journal = WatchedJournal(fails=lambda: bool(fails))
        async with Flow(agent(), journal=journal) as flow:
            chain_id = await flow.coordinator.submit(spec(once("x", deadline_s=5.0)))
            fails.append(True)
            await asyncio.sleep(20)
            fails.clear()
            error = (await flow.coordinator.wait_result(chain_id))["x"].error
            assert error is not None
            assert error.code == "deadline_exceeded"
            assert sent(flow) == []


class TestTime:
    @virtual
    async def test_a_tasks_time_runs_from_ready_also_after_a_crash(self) -> None:
        journal = MemoryJournal()
        async with Flow(agent(hang()), journal=journal) as flow:
            chain_id = await flow.coordinator.submit(spec(step("x", deadline_s=30.0)))
            await asyncio.sleep(10)
        await asyncio.sleep(10)
        async with Flow(agent(hang()), journal=journal) as flow:
            began_at = now()
            result = await flow.coordinator.wait_result(chain_id)
            assert now() - began_at == pytest.approx(10, abs=0.1)
            error = result["x"].error
            assert error is not None
            assert error.code == "deadline_exceeded"

    @virtual
    async def test_ready_is_the_last_recorded_end_it_waited_for(self) -> None:
        journal = MemoryJournal()
        chain = spec(
            step("first"), step("second"), step("last", "first second", capability="test.hang", deadline_s=30.0)
        )
        slow = ScriptedAgent("h", otherwise=hang(), capabilities=("test.hang",))
        async with Flow(agent(ok(after_s=20.0), slots=1), slow, journal=journal) as flow:
            chain_id = await flow.coordinator.submit(chain)
            await asyncio.sleep(50)
        async with Flow(slow, journal=journal) as flow:
            began_at = now()
            result = await flow.coordinator.wait_result(chain_id)
            assert now() - began_at == pytest.approx(20, abs=0.1)
            assert result["last"].ready_at == result["second"].ended_at


class TestRetry:
    @staticmethod
    async def failed(flow: Flow, chain: ChainSpec) -> str:
        result = await flow.coordinator.execute_chain(chain)
        assert result.status is FAILED
        return result.chain_id

    @virtual
    async def test_completed_results_are_copied_and_the_rest_is_done_again(self) -> None:
        journal = WatchedJournal()
        steps = [ok(0.1, result={"n": 1}), task_failed()]
        async with Flow(agent(script=steps), journal=journal) as flow:
            first = await self.failed(flow, spec(step("x"), step("y", "x"), step("z", "y"), name="chain"))
            second = await flow.coordinator.retry(first, key=KEY)
            result = await flow.coordinator.wait_result(second)
            assert result.status is COMPLETED
            assert sent(flow) == ["x", "y", "y", "z"]
            assert result["x"].result == {"n": 1}
            assert result["x"].task_id == f"{second}.x"
            assert (await record_of(journal, second)).submitted.retry_of == first
            assert await flow.coordinator.retry(first, key=KEY) == second
            assert await flow.coordinator.retry(first) != second

    @virtual
    async def test_a_result_made_from_a_default_is_made_again(self) -> None:
        async with Flow(agent(script=[task_failed(), ok(), task_failed()])) as flow:
            chain = spec(step("x", on_failure=OnFailure(0)), step("y", "x"), step("z", "y"))
            second = await flow.coordinator.retry(await self.failed(flow, chain))
            assert (await flow.coordinator.wait_result(second)).status is COMPLETED
            assert sent(flow) == ["x", "y", "z"] * 2

    @virtual
    async def test_a_chain_without_faults_is_over_at_once(self) -> None:
        async with Flow(agent()) as flow:
            result = await flow.coordinator.execute_chain(spec(step("x"), step("y", "x")))
            again = await flow.coordinator.wait_result(await flow.coordinator.retry(result.chain_id))
            assert again.status is COMPLETED
            assert sent(flow) == ["x", "y"]

    @virtual
    async def test_what_has_not_ended_or_is_not_there_is_refused(self) -> None:
        async with Flow(agent(hang())) as flow:
            chain_id = await flow.coordinator.submit(spec(step("x")))
            with pytest.raises(Conflict, match="has not ended"):
                await flow.coordinator.retry(chain_id)
            with pytest.raises(ChainNotFound):
                await flow.coordinator.retry("nowhere")


class TestWatch:
    @virtual
    async def test_every_watcher_sees_every_fact_once_whenever_it_comes_and_however_slow_it_is(self) -> None:
        journal = WatchedJournal(lambda: 0.1)
        async with Flow(agent(ok(after_s=1.0)), journal=journal) as flow:
            chain_id = await flow.coordinator.submit(spec(step("x"), step("y", "x"), once("z", "y")))

            async def watch(begin_s: float, pause_s: float) -> list[Fact]:
                await asyncio.sleep(begin_s)
                seen = []
                async for fact in flow.coordinator.watch(chain_id):
                    seen.append(fact)
                    await asyncio.sleep(pause_s)
                return seen

            seen = await asyncio.gather(*(watch(each, pause) for each in (0, 1.5, 60) for pause in (0, 7)))
            assert isinstance(seen[0][0], ChainSubmitted)
            assert isinstance(seen[0][-1], ChainEnded)
            assert seen[0][1:] == journal.of(chain_id)
            assert all(each == seen[0] for each in seen)

    @virtual
    async def test_watching_goes_on_over_recovery_and_ends_with_the_coordinator(self) -> None:
        journal = MemoryJournal()
        async with Flow(agent(hang()), journal=journal) as flow:
            chain_id = await flow.coordinator.submit(spec(step("x")))
            watching = asyncio.create_task(collected(flow.coordinator.watch(chain_id)))
            await asyncio.sleep(1)
        with pytest.raises(AicpError, match="stopped"):
            await watching
        async with Flow(agent(), journal=journal) as flow:
            facts = await collected(flow.coordinator.watch(chain_id))
            assert [type(fact) for fact in facts] == [ChainSubmitted, TaskEnded, ChainEnded]

    @virtual
    async def test_what_is_not_there_is_not_found(self) -> None:
        async with Flow(agent()) as flow:
            with pytest.raises(ChainNotFound):
                await collected(flow.coordinator.watch("nowhere"))


class TestCallerThatLeaves:
    @virtual
    async def test_failure_after_the_caller_left_is_logged_without_a_traceback(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING, logger="aicp")
        journal = WatchedJournal(lambda: 1.0, fails=lambda: True, watches=False)
        async with Flow(agent(), journal=journal) as flow:
            submitting = asyncio.create_task(flow.coordinator.submit(spec(step("a"))))
            await asyncio.sleep(0.5)
            submitting.cancel()
            await asyncio.gather(submitting, return_exceptions=True)
            await asyncio.sleep(3)
            gc.collect()
        assert "could not be recorded, and the caller has left" in caplog.text
        assert "never retrieved" not in caplog.text


class TestKeys:
    @virtual
    async def test_a_repeat_is_answered_although_agents_and_room_are_gone(self) -> None:
        journal = MemoryJournal()
        single = SubmitKey("default", "single", b"body")
        async with Flow(agent(hang()), journal=journal) as flow:
            first = await flow.coordinator.submit(spec(step("x")), key=KEY)
            task_id = await flow.coordinator.submit_task(Task(ECHO), key=single)
        async with Flow(journal=journal, accepted_max=0) as flow:
            assert await flow.coordinator.submit(spec(step("x")), key=KEY) == first
            assert await flow.coordinator.submit_task(Task(ECHO), key=single) == task_id
            with pytest.raises(IdempotencyConflict):
                await flow.coordinator.submit(spec(step("x")), key=SubmitKey("default", "key", b"other"))

    @virtual
    async def test_a_key_costs_no_look_into_the_journal_before_the_submit(self) -> None:
        used: list[str] = []

        def never_fails(_: int, what: str) -> bool:
            used.append(what)
            return False

        journal = FailingJournal(MemoryJournal(), never_fails)
        async with Flow(agent(hang()), journal=journal) as flow:
            used.clear()
            first = await flow.coordinator.submit(spec(step("x")), key=KEY)
            assert await flow.coordinator.submit(spec(step("x")), key=KEY) == first
            assert [what for what in used if what not in {"claim", "asked"}] == ["submit", "submit"]
            assert flow.coordinator.unfinished == 1


class TestRecovery:
    @virtual
    async def test_submits_are_accepted_while_it_goes_on_in_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recovery, "CLAIMED_AT_ONCE", 3)
        journal = WatchedJournal()
        async with Flow(agent(hang()), journal=journal) as flow:
            old = [await flow.coordinator.submit(spec(step("x"))) for _ in range(30)]
        slow = FailingJournal(journal, lambda _, __: False)
        claimed: list[int] = []
        claim = slow.claim

        async def slow_claim(limit: int) -> Sequence[ChainRecord]:
            records = await claim(limit)
            claimed.append(len(records))
            await asyncio.sleep(1)
            return records

        slow.claim = slow_claim  # type: ignore[method-assign] # a journal that takes its time
        async with Flow(agent(), journal=slow, seed=1) as flow:
            began_at = now()
            await flow.coordinator.execute_chain(spec(step("x")))
            assert now() - began_at < 1
            ended = [await flow.coordinator.wait_result(each) for each in old]
            assert all(each.status is COMPLETED for each in ended)
            assert now() - began_at > 10
        assert max(claimed) == 3

    @virtual
    async def test_a_claim_that_fails_is_tried_again(self) -> None:
        journal = MemoryJournal()
        async with Flow(agent(hang()), journal=journal) as flow:
            chain_id = await flow.coordinator.submit(spec(step("x")))
        failing = FailingJournal(journal, lambda number, what: what == "claim" and number < 4)
        async with Flow(agent(), journal=failing) as flow:
            assert (await flow.coordinator.wait_result(chain_id)).status is COMPLETED

    @virtual
    async def test_a_cancel_waits_for_the_chain_to_be_taken_over(self) -> None:
        journal = MemoryJournal()
        async with Flow(agent(hang()), journal=journal) as flow:
            chain_id = await flow.coordinator.submit(spec(step("x")))
        async with Flow(agent(hang()), journal=journal) as flow:
            await flow.coordinator.cancel(chain_id)
            assert (await flow.coordinator.view(chain_id)).status is CANCELLED

    @virtual
    async def test_a_submit_whose_answer_got_lost_is_accepted_when_it_is_on_record(self) -> None:
        failing = FailingJournal(MemoryJournal(), lambda _, what: what == "submit", after=True)
        async with Flow(agent(), journal=failing) as flow:
            chain_id = await flow.coordinator.submit(spec(step("x")), key=KEY)
            assert (await flow.coordinator.wait_result(chain_id)).status is COMPLETED

    @virtual
    async def test_a_submit_in_doubt_fails_and_runs_all_the_same_if_it_is_on_record(self) -> None:
        sick: list[bool] = [True]
        failing = FailingJournal(MemoryJournal(), lambda _, what: bool(sick) and what in {"submit", "read"}, after=True)
        async with Flow(agent(), journal=failing) as flow:
            with pytest.raises(StorageError):
                await flow.coordinator.submit(spec(step("x")), key=KEY)
            await asyncio.sleep(5)
            assert sent(flow) == []
            sick.clear()
            chain_id = await flow.coordinator.submit(spec(step("x")), key=KEY)
            assert (await flow.coordinator.wait_result(chain_id)).status is COMPLETED
            assert sent(flow) == ["x"]
            await asyncio.sleep(1)
            assert flow.coordinator.unfinished == 0

    @virtual
    async def test_a_chain_that_runs_here_and_is_claimed_again_goes_on_as_its_new_owner_and_only_so(self) -> None:
        """As when the answer to its submit got lost: the journal does not know that it runs."""
        journal = MemoryJournal()
        async with Flow(agent(ok(after_s=5.0)), journal=journal) as flow:
            chain_id = await flow.coordinator.submit(spec(step("x"), step("y", "x")))
            waiting = asyncio.create_task(flow.coordinator.wait_result(chain_id))
            watching = asyncio.create_task(collected(flow.coordinator.watch(chain_id)))
            await asyncio.sleep(0.1)
            await journal.open()
            assert (await waiting).status is COMPLETED
            assert [fact.task for fact in await watching if isinstance(fact, TaskEnded)] == ["x", "y"]
            tokens = [(call.call.task_id.partition(".")[2], call.call.epoch) for call in flow.transport.calls]
            assert tokens == [("x", 1), ("x", 2), ("y", 2)]
            await asyncio.sleep(1)
            assert flow.coordinator.unfinished == 0

    @virtual
    async def test_a_chain_in_doubt_that_was_claimed_meanwhile_runs_once(self) -> None:
        journal = MemoryJournal()
        async with Flow(agent(), journal=journal) as flow:
            chain_id = await flow.coordinator.submit(spec(step("x")))
            flow.coordinator._recovery.doubt(chain_id)
            assert (await flow.coordinator.wait_result(chain_id)).status is COMPLETED
            await asyncio.sleep(5)
            assert sent(flow) == ["x"]
            assert flow.coordinator.unfinished == 0


class TestRetention:
    @virtual
    async def test_chains_are_forgotten_some_time_after_their_end(self) -> None:
        journal = MemoryJournal()
        async with Flow(agent(), journal=journal, retention_s=600.0) as flow:
            chain_id = (await flow.coordinator.execute_chain(spec(step("x")))).chain_id
            await asyncio.sleep(500)
            assert (await flow.coordinator.view(chain_id)).status is COMPLETED
            await asyncio.sleep(100 + 2 * retention.LOOK_EVERY_S)
            with pytest.raises(ChainNotFound):
                await flow.coordinator.view(chain_id)


class TestViews:
    @virtual
    async def test_a_task_looks_alone_as_in_its_chain_while_it_runs_and_later(self) -> None:
        async with Flow(agent(ok(after_s=5.0))) as flow:
            chain_id = await flow.coordinator.submit(spec(step("x"), step("y", "x")))
            for _ in range(4):
                view = await flow.coordinator.view(chain_id)
                for name in ("x", "y"):
                    assert await flow.coordinator.view_task(f"{chain_id}.{name}") == view.tasks[name]
                await asyncio.sleep(4)
            for wrong in (f"{chain_id}.nobody", "nowhere.x", "x"):
                with pytest.raises(TaskNotFound):
                    await flow.coordinator.view_task(wrong)


DIAMOND = spec(step("a"), once("b", "a"), step("c", "a"), step("d", "b c"))
FAN = spec(step("a"), *(step(f"m{n}", "a") for n in range(4)), once("end", "m0 m1 m2 m3"))
ONCE = {"b", "end"}
ORDER = {
    "b": "a",
    "c": "a",
    "d": "b c",
    "end": "m0 m1 m2 m3",
    **{f"m{n}": "a" for n in range(4)},
}


class Life:
    """Chains over the lives of several processes, and what must be true of them in the end."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.accepted: list[str] = []
        self.calls: list[str] = []
        self.done_before: set[str] = set()
        self.cancelled: set[str] = set()
        self.wrong: list[str] = []

    async def work(self, _agent: ScriptedAgent, call: Call) -> Reply:
        """What it waits for is on record, as usable or as unknown; and nothing that is done is done again."""
        self.calls.append(call.task_id)
        chain_id, name = split_task_id(call.task_id)
        if chain_id in self.cancelled:
            self.wrong.append(f"{call.task_id} began after the cancel")
        record = await record_of(self.journal, chain_id)
        ended = {fact.task for fact in record.facts if isinstance(fact, TaskEnded)}
        if call.task_id in self.done_before:
            self.wrong.append(f"{call.task_id} was done again")
        if not ended.issuperset(ORDER.get(name, "").split()):
            self.wrong.append(f"{call.task_id} began too early")
        if name in ONCE and not any(isinstance(fact, TaskStarted) and fact.task == name for fact in record.facts):
            self.wrong.append(f"{call.task_id} was sent before that was on record")
        await asyncio.sleep(0.01)
        return Reply(Outcome.SUCCESS, {"of": name})

    async def submit_all(self, flow: Flow, *, cancels: bool = True) -> None:
        for number, chain in enumerate((DIAMOND, FAN, DIAMOND)):
            key = SubmitKey("default", f"key-{number}", b"body")
            try:
                self.accepted.append(await flow.coordinator.submit(chain, key=key))
            except StorageError:
                continue
        if cancels and self.accepted:
            await flow.coordinator.cancel(self.accepted[-1])
            self.cancelled.add(self.accepted[-1])

    async def remember_done(self) -> None:
        for chain_id in self.accepted:
            facts = (await record_of(self.journal, chain_id)).facts
            if any(isinstance(fact, ChainCancelled) for fact in facts):
                self.cancelled.add(chain_id)
            self.done_before |= {fact.result.task_id for fact in facts if isinstance(fact, TaskEnded)}

    async def check(self, flow: Flow) -> None:
        """Nothing is lost, everything has an end, and what must not be sent twice was not."""
        on_record = [summary.chain_id for summary in await self.journal.list_chains(ChainQuery())]
        assert set(self.accepted) <= set(on_record)
        for chain_id in on_record:
            result = await flow.coordinator.wait_result(chain_id)
            record = await record_of(self.journal, chain_id)
            assert [type(fact) for fact in record.facts].count(ChainEnded) == 1
            assert fold(record).status_of_chain() is result.status
            assert result.status is CANCELLED or chain_id not in self.cancelled
            unknown = [each.error for each in result.tasks.values() if each.error and each.status is FAILED]
            assert all(error.code == "outcome_unknown" for error in unknown)
        assert self.wrong == []
        for task_id in self.calls:
            if task_id.partition(".")[2] in ONCE:
                assert self.calls.count(task_id) == 1


class TestDeath:
    @JOURNALS
    @pytest.mark.parametrize("after", [False, True], ids=["before the commit", "after the commit"])
    @virtual
    async def test_a_process_that_dies_at_any_commit_loses_nothing(self, journals: Journals, *, after: bool) -> None:
        at, is_through = 0, False
        while not is_through:
            at += 1
            async with journals() as journal:
                life = Life(journal)
                await journal.open()
                mortal = MortalJournal(journal, at, after=after)
                async with Flow(agent(life.work), journal=mortal) as flow:
                    living = asyncio.create_task(self.live(life, flow))
                    dying = asyncio.create_task(mortal.died.wait())
                    await asyncio.wait([living, dying], return_when=asyncio.FIRST_COMPLETED)
                    is_through = living.done()
                    living.cancel()
                    dying.cancel()
                    await asyncio.gather(living, dying, return_exceptions=True)
                await journal.close()
                await journal.open()
                await life.remember_done()
                async with Flow(agent(life.work), journal=journal) as flow:
                    await life.check(flow)
        assert at > 5

    @staticmethod
    async def live(life: Life, flow: Flow) -> None:
        await life.submit_all(flow)
        for chain_id in life.accepted:
            await flow.coordinator.wait_result(chain_id)

    @virtual
    async def test_processes_that_die_one_after_the_other_lose_nothing(self) -> None:
        for at in range(2, 12):
            life = Life(MemoryJournal())
            async with Flow(agent(life.work), journal=life.journal) as flow:
                await life.submit_all(flow, cancels=False)
            for _ in range(40):
                mortal = MortalJournal(life.journal, at, after=at % 2 == 0)
                await life.remember_done()
                async with Flow(agent(life.work), journal=mortal):
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(mortal.died.wait(), timeout=5)
            await life.remember_done()
            async with Flow(agent(life.work), journal=life.journal) as flow:
                await life.check(flow)


def is_use(wanted: int, number: int, _what: str) -> bool:
    return number == wanted


def by_chance(rng: random.Random, _number: int, _what: str) -> bool:
    return rng.random() < 0.3


async def insist(doing: Callable[[], Awaitable[T]]) -> T:
    """As a client does who repeats what is retryable."""
    while True:
        try:
            return await doing()
        except StorageError:
            await asyncio.sleep(0.2)


class TestFaults:
    @JOURNALS
    @pytest.mark.parametrize("after", [False, True], ids=["not done", "answer lost"])
    @virtual
    async def test_a_journal_that_fails_at_any_use_loses_nothing(self, journals: Journals, *, after: bool) -> None:
        at, uses = 0, 1
        while at < uses:
            at += 1
            async with journals() as journal:
                life = Life(journal)
                failing = FailingJournal(journal, partial(is_use, at), after=after)
                async with Flow(agent(life.work), journal=failing) as flow:
                    await self.despite_errors(life, flow)
                    uses = failing.uses
                    for chain_id in life.accepted:
                        ended = await insist(partial(flow.coordinator.wait_result, chain_id))
                        assert ended.status in {COMPLETED, CANCELLED}
                    await life.check(flow)
        assert at > 5

    @virtual
    async def test_a_journal_that_fails_often_at_random_loses_nothing(self) -> None:
        for seed in range(20):
            life = Life(MemoryJournal())
            flow = Flow(agent(life.work), seed=seed)
            failing = FailingJournal(life.journal, partial(by_chance, flow.rng), after=seed % 2 == 0)
            async with Flow(agent(life.work), journal=failing, seed=seed) as flow:
                await self.despite_errors(life, flow)
                failing._fails = lambda _, __: False
                await life.check(flow)

    @staticmethod
    async def despite_errors(life: Life, flow: Flow) -> None:
        for number, chain in enumerate((DIAMOND, FAN, DIAMOND)):
            key = SubmitKey("default", f"key-{number}", b"body")
            life.accepted.append(await insist(partial(flow.coordinator.submit, chain, key=key)))
        await insist(partial(flow.coordinator.cancel, life.accepted[-1]))
        life.cancelled.add(life.accepted[-1])
