"""One chain on its way: whatever happens at whatever moment, its record stays one that everybody can build on."""

import asyncio
import random

import pytest

from aicp.coordination.chain_status import fold
from aicp.coordination.run import ChainRun
from aicp.errors import AicpError
from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.event import AttemptStarted, ChainEnded, ChainSubmitted, TaskEnded
from aicp.model.task import Task, TaskResult, TaskStatus
from aicp.model.validation import check_chain
from aicp.ports import ChainRecord, SubmitKey
from aicp.storage.memory import MemoryJournal
from aicp.testing.faulty_agents import ScriptedAgent, ok, task_failed
from tests.unit.flow_kit import ECHO, Flow, now, virtual
from tests.unit.journal_kit import WatchedJournal

COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
DIAMOND = (
    Task(ECHO, id="a"),
    Task(ECHO, id="b", depends_on=("a",)),
    Task(ECHO, id="c", depends_on=("a",)),
    Task(ECHO, id="d", depends_on=("b", "c")),
)
TURNS_MAX = 150


def instant(slots: int = 2) -> ScriptedAgent:
    return ScriptedAgent("a", otherwise=ok(after_s=0.0), max_concurrent_tasks=slots)


async def turn(times: int) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


def ends(journal: WatchedJournal, chain_id: str) -> list[ChainEnded]:
    return [fact for fact in journal.of(chain_id) if isinstance(fact, ChainEnded)]


def started(flow: Flow) -> int:
    return sum(isinstance(event, AttemptStarted) for event in flow.seen.events)


def result_of(task: str) -> TaskResult:
    return TaskResult(f"chain.{task}", ECHO, COMPLETED)


class TestRacing:
    """A cancel, a stop or a deadline at every single turn of the loop between submit and end."""

    @pytest.mark.parametrize("commit_s", [0.0, 0.25])
    @virtual
    async def test_a_cancel_at_any_moment_is_confirmed_once_and_nothing_starts_after_it(self, commit_s: float) -> None:
        seen: set[TaskStatus] = set()
        for turns in range(TURNS_MAX):
            journal = WatchedJournal(lambda: commit_s)
            async with Flow(instant(), journal=journal) as flow:
                chain_id = await flow.coordinator.submit(ChainSpec(DIAMOND))
                await turn(turns % 15)
                await asyncio.sleep(commit_s * (turns // 15) / 2)
                await flow.coordinator.cancel(chain_id)
                attempts, confirmed = started(flow), (await flow.coordinator.view(chain_id)).status
                await asyncio.sleep(10)
                assert started(flow) == attempts
                assert (await flow.coordinator.view(chain_id)).status is confirmed
                assert len(ends(journal, chain_id)) == 1
                assert flow.left_over() == {}
                seen.add(confirmed)
        assert CANCELLED in seen

    @virtual
    async def test_a_cancel_in_any_turn_of_a_chain_without_pauses(self) -> None:
        seen: set[TaskStatus] = set()
        for turns in range(TURNS_MAX):
            journal = WatchedJournal()
            async with Flow(instant(), journal=journal) as flow:
                chain_id = await flow.coordinator.submit(ChainSpec(DIAMOND))
                await turn(turns)
                await flow.coordinator.cancel(chain_id)
                attempts, confirmed = started(flow), (await flow.coordinator.view(chain_id)).status
                await asyncio.sleep(1)
                assert started(flow) == attempts
                assert (await flow.coordinator.view(chain_id)).status is confirmed
                assert len(ends(journal, chain_id)) == 1
                seen.add(confirmed)
        assert seen == {CANCELLED, COMPLETED}

    @virtual
    async def test_the_end_of_a_cancelled_chain_is_its_last_fact_whoever_was_about_to_start(self) -> None:
        once = tuple(Task(ECHO, id=name, idempotent=False) for name in "abcdef")
        for step in range(40):
            journal = WatchedJournal(lambda: 0.1)
            agent = ScriptedAgent("a", otherwise=ok(after_s=0.05), max_concurrent_tasks=2)
            async with Flow(agent, journal=journal) as flow:
                chain_id = await flow.coordinator.submit(ChainSpec(once))
                await asyncio.sleep(step * 0.025)
                await flow.coordinator.cancel(chain_id)
                attempts = started(flow)
                await asyncio.sleep(1)
                assert started(flow) == attempts
                assert isinstance(journal.of(chain_id)[-1], ChainEnded)
                assert len(ends(journal, chain_id)) == 1

    @virtual
    async def test_a_coordinator_stopped_in_any_turn_leaves_what_the_next_one_completes(self) -> None:
        for turns in range(TURNS_MAX):
            journal = WatchedJournal()
            async with Flow(instant(), journal=journal) as flow:
                chain_id = await flow.coordinator.submit(ChainSpec(DIAMOND))
                await turn(turns)
            done = {fact.task for fact in journal.of(chain_id) if isinstance(fact, TaskEnded)}
            async with Flow(instant(), journal=journal) as flow:
                result = await flow.coordinator.wait_result(chain_id)
                assert result.status is COMPLETED
                again = {call.call.task_id.partition(".")[2] for call in flow.transport.calls}
                assert again == {"a", "b", "c", "d"} - done
            assert len(ends(journal, chain_id)) == 1

    @virtual
    async def test_a_deadline_at_any_moment_ends_the_chain_once(self) -> None:
        for step in range(1, 60):
            journal = WatchedJournal(lambda: 0.1)
            agent = ScriptedAgent("a", otherwise=ok(after_s=0.15), max_concurrent_tasks=2)
            async with Flow(agent, journal=journal) as flow:
                began_at, deadline_s = now(), step * 0.025
                result = await flow.coordinator.execute_chain(ChainSpec(DIAMOND, deadline_s=deadline_s))
                assert now() - began_at <= max(deadline_s, 0.1) + 0.31
                assert len(ends(journal, result.chain_id)) == 1
                assert result.status is (COMPLETED if result["d"].status is COMPLETED else FAILED)

    @pytest.mark.parametrize("policy", list(FailurePolicy))
    @virtual
    async def test_failures_cancels_and_slow_disks_at_random(self, policy: FailurePolicy) -> None:
        draw = random.Random(11)
        for _ in range(150):
            journal = WatchedJournal(lambda: draw.choice([0.0, 0.0, 0.01, 0.3]))
            steps = [ok(draw.choice([0.0, 0.1, 0.5])) if draw.random() < 0.85 else task_failed() for _ in range(40)]
            async with Flow(ScriptedAgent("a", steps, max_concurrent_tasks=3), journal=journal) as flow:
                tasks = [
                    Task(ECHO, id=f"t{n}", depends_on=tuple(f"t{m}" for m in draw.sample(range(n), min(n, 2))))
                    for n in range(8)
                ]
                chain_id = await flow.coordinator.submit(ChainSpec(tuple(tasks), failure_policy=policy))
                if draw.random() < 0.5:
                    await asyncio.sleep(draw.uniform(0, 3))
                    await flow.coordinator.cancel(chain_id)
                result = await flow.coordinator.wait_result(chain_id)
                check_record(journal, chain_id, tasks)
                record = await journal.read(chain_id)
                assert record is not None
                assert fold(record).status_of_chain() is result.status
                assert {name: each.status for name, each in result.tasks.items()} == {
                    name: fold(record).status_of(name) for name in result.tasks
                }


def check_record(journal: WatchedJournal, chain_id: str, tasks: list[Task]) -> None:
    """Nothing ran before what it waits for was on record as usable."""
    usable: set[str] = set()
    dependencies = {task.id: task.depends_on for task in tasks}
    for fact in journal.of(chain_id):
        if isinstance(fact, TaskEnded):
            if fact.result.attempts:
                assert usable.issuperset(dependencies[fact.task])
            if fact.result.status is COMPLETED:
                usable.add(fact.task)


class TestAlone:
    """A `ChainRun` without a coordinator around it."""

    @staticmethod
    def run_of(flow: Flow, spec: ChainSpec) -> ChainRun:
        record = ChainRecord(ChainSubmitted("chain", spec, flow.clock.utcnow()), (), 7)
        return ChainRun(
            record, fold(record, check_chain(spec)), flow.coordinator._carrier, flow.journal, flow.clock, flow.seen
        )

    @virtual
    async def test_cancelled_before_it_began_it_sends_nothing(self) -> None:
        async with Flow(instant()) as flow:
            run = self.run_of(flow, ChainSpec(DIAMOND))
            await flow.journal.submit(ChainSubmitted("chain", ChainSpec(DIAMOND), flow.clock.utcnow()))
            await run.cancel()
            await run.run()
            assert flow.tried() == []
            assert run.end is not None
            assert run.end.status is CANCELLED

    @virtual
    async def test_every_attempt_carries_the_epoch_of_its_owner(self) -> None:
        async with Flow(instant()) as flow:
            await flow.journal.submit(ChainSubmitted("chain", ChainSpec(DIAMOND), flow.clock.utcnow()))
            await self.run_of(flow, ChainSpec(DIAMOND)).run()
            assert {call.call.fencing_token for call in flow.transport.calls} == {"7.1"}

    @virtual
    async def test_it_tells_the_attempts_of_what_is_in_flight(self) -> None:
        async with Flow(ScriptedAgent("a", otherwise=ok(after_s=5.0), max_concurrent_tasks=9)) as flow:
            await flow.journal.submit(ChainSubmitted("chain", ChainSpec(DIAMOND), flow.clock.utcnow()))
            run = self.run_of(flow, ChainSpec(DIAMOND))
            running = asyncio.create_task(run.run())
            await asyncio.sleep(1)
            assert set(run.in_flight()) == {"a"}
            assert (run.in_flight()["a"].agent_id, run.in_flight()["a"].attempts) == ("a", ())
            assert run.in_flight()["a"].since is not None
            await asyncio.sleep(5)
            assert set(run.in_flight()) == {"b", "c"}
            await running
            assert run.in_flight() == {}

    @virtual
    async def test_an_end_that_could_not_be_written_is_not_confirmed(self) -> None:
        class Full(MemoryJournal):
            async def append(self, facts: object, epoch: int = 1) -> None:
                raise OSError("the disk is full")

        async with Flow(instant()) as flow:
            spec = ChainSpec(DIAMOND)
            record = ChainRecord(ChainSubmitted("chain", spec, flow.clock.utcnow()), ())
            run = ChainRun(record, fold(record, check_chain(spec)), flow.coordinator._carrier, Full(), flow.clock, None)
            with pytest.raises(OSError, match="disk is full"):
                await run.cancel()
            await run.run()
            assert run.end is None
            with pytest.raises(AicpError, match="cancel it again"):
                await run.cancel()


class TestWatchedJournal:
    """The journal these tests trust."""

    @virtual
    async def test_it_writes_in_order_and_goes_on_when_the_caller_left(self) -> None:
        delays = iter([1.0, 0.1, 0.0])
        journal = WatchedJournal(lambda: next(delays))
        at = Flow().clock.utcnow()
        await journal.submit(ChainSubmitted("chain", ChainSpec(DIAMOND), at), SubmitKey("t", "k", b"d"))
        first = asyncio.create_task(journal.append([TaskEnded("chain", "a", result_of("a"))]))
        second = asyncio.create_task(journal.append([ChainEnded("chain", COMPLETED, at)]))
        await asyncio.sleep(0.01)
        first.cancel()
        await second
        record = await journal.read("chain")
        assert isinstance(record, ChainRecord)
        assert [type(fact) for fact in record.facts] == [TaskEnded, ChainEnded]

    @virtual
    async def test_it_finds_a_fact_after_the_end_and_a_second_end_of_a_task(self) -> None:
        journal = WatchedJournal()
        at = Flow().clock.utcnow()
        await journal.submit(ChainSubmitted("chain", ChainSpec(DIAMOND), at))
        await journal.append([TaskEnded("chain", "a", result_of("a"))])
        with pytest.raises(AssertionError, match="ended twice"):
            await journal.append([TaskEnded("chain", "a", result_of("a"))])
        await journal.append([ChainEnded("chain", COMPLETED, at)])
        with pytest.raises(AssertionError, match="after the chain's end"):
            await journal.append([TaskEnded("chain", "b", result_of("b"))])
