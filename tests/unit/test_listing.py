"""Lists of chains and tasks: newest first, page by page, the same from memory and from the disk, and while they run."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aicp.coordination import listing
from aicp.coordination.listing import Listing, TaskQuery
from aicp.coordination.task_coordinator import TaskCoordinator
from aicp.errors import ChainNotFound, NotFound, TaskNotFound
from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.event import AttemptAccepted, ChainEnded, QuestionAsked, TaskEnded
from aicp.model.outcome import TaskError
from aicp.model.task import OnFailure, Phase, Task, TaskKind, TaskResult, TaskStatus
from aicp.ports import ChainQuery, ChainSummary, Journal
from aicp.storage.memory import MemoryJournal
from aicp.storage.sqlite import SqliteJournal
from aicp.storage.sqlite_database import SqliteDatabase
from aicp.testing.faulty_agents import ScriptedAgent, Step, hang, task_failed
from aicp.testing.journal_contract import AT, chain, ended
from tests.unit.flow_kit import ECHO, Flow, virtual

COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
PENDING, RUNNING, SKIPPED = TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.SKIPPED
OTHER, SLOW, BAD = "test.other", "test.slow", "test.bad"


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


Journals = Callable[[], AbstractAsyncContextManager[Journal]]
JOURNALS = pytest.mark.parametrize("journals", [memory, sqlite])


def worker(name: str, *capabilities: str, does: Step | None = None) -> ScriptedAgent:
    """An agent that serves every tenant."""
    made = ScriptedAgent(name, capabilities=capabilities, otherwise=does, max_concurrent_tasks=64)
    made.profile = msgspec.structs.replace(made.profile, shared=True)
    return made


@asynccontextmanager
async def flowing(journals: Journals = memory) -> AsyncIterator[TaskCoordinator]:
    agents = (
        worker("echo", ECHO, OTHER), worker("slow", SLOW, does=hang()), worker("bad", BAD, does=task_failed("no")),
    )  # fmt: skip
    async with journals() as journal, Flow(*agents, journal=journal) as flow:
        yield flow.coordinator
        for summary in (await flow.coordinator.list_chains(ChainQuery(limit=1_000))).chains:
            await flow.coordinator.cancel(summary.chain_id)


def spec(*tasks: tuple[str, str, str], policy: FailurePolicy = FailurePolicy.FAIL_FAST) -> ChainSpec:
    """A chain from (local id, capability, ids it waits for)."""
    made = (Task(capability, id=name, depends_on=tuple(awaited.split())) for name, capability, awaited in tasks)
    return ChainSpec(tuple(made), failure_policy=policy)


async def ids(coordinator: TaskCoordinator, **query: Any) -> list[str]:
    """Every task of a query, from all its pages."""
    found: list[str] = []
    after: str | None = None
    while True:
        page = await coordinator.list_tasks(TaskQuery(**{"limit": 2, **query, "after": after}))
        assert len(page.tasks) <= query.get("limit", 2)
        found += [task.task_id for task in page.tasks]
        after = page.next_cursor
        if after is None:
            return found


class TestPhases:
    @JOURNALS
    @virtual
    async def test_each_task_of_a_running_chain_says_what_it_waits_for(self, journals: Journals) -> None:
        async with flowing(journals) as coordinator:
            crowd = [(f"s{number}", SLOW, "") for number in range(65)]
            chain_id = await coordinator.submit(spec(("done", ECHO, ""), *crowd, ("last", ECHO, "s0")))
            ended = await coordinator.submit(spec(("a", ECHO, "")))
            await asyncio.sleep(1)
            at_agent = await ids(coordinator, phase=Phase.AT_AGENT, limit=100)
            in_line = await ids(coordinator, phase=Phase.IN_LINE)
            assert (len(at_agent), len(in_line)) == (64, 1)
            assert {*at_agent, *in_line} == {f"{chain_id}.{name}" for name, *_ in crowd}
            assert await ids(coordinator, phase=Phase.WAITING) == [f"{chain_id}.last"]
            assert await ids(coordinator, phase=Phase.WAITING, status=RUNNING) == []
            assert await ids(coordinator, phase=Phase.AT_AGENT, status=COMPLETED) == []
            assert await ids(coordinator, phase=Phase.SLEEPING) == []
            view = await coordinator.view(chain_id)
            assert view.tasks["done"].phase is None
            assert {task.kind for task in view.tasks.values()} == {TaskKind.AGENT}
            await coordinator.cancel(chain_id)
            for name in (chain_id, ended):
                assert {task.phase for task in (await coordinator.view(name)).tasks.values()} == {None}

    @JOURNALS
    @virtual
    async def test_what_is_on_record_is_shown_by_servers_that_do_not_run_the_chain(self, journals: Journals) -> None:
        made = spec(("a", ECHO, ""), ("b", ECHO, ""), ("c", ECHO, "a b"), ("d", ECHO, ""))
        async with journals() as journal:
            await journal.open()
            await journal.submit(chain("1", spec=made))
            await journal.append([
                AttemptAccepted("1", "a", 1, "eyes", "boot", "job", AT),
                AttemptAccepted("1", "b", 1, "eyes", "boot", "job", AT),
                QuestionAsked("1", "b", 1, "q", "Which one?", AT),
            ])  # fmt: skip
            lister = Listing(journal, {})
            page = await lister.tasks(TaskQuery())
            phases = [Phase.ACCEPTED, Phase.INPUT_REQUIRED, Phase.WAITING, None]
            assert [task.phase for task in page.tasks] == phases
            assert [task.status for task in page.tasks] == [RUNNING, RUNNING, PENDING, PENDING]
            for task, phase in zip("abc", phases[:3], strict=True):
                found = await lister.tasks(TaskQuery(phase=phase))
                assert [each.task_id for each in found.tasks] == [f"1.{task}"]
            assert (await lister.tasks(TaskQuery(phase=Phase.AT_AGENT))).tasks == []


class TestTasks:
    @JOURNALS
    @virtual
    async def test_newest_chain_first_and_its_tasks_as_they_were_written(self, journals: Journals) -> None:
        async with flowing(journals) as coordinator:
            single = await coordinator.submit_task(Task(ECHO))
            await asyncio.sleep(1)
            several = await coordinator.submit(spec(("z", ECHO, ""), ("y", OTHER, "z"), ("a", SLOW, "")))
            await asyncio.sleep(1)
            expected = [f"{several}.z", f"{several}.y", f"{several}.a", single]
            for limit in range(1, 6):
                assert await ids(coordinator, limit=limit) == expected
            (page,) = [await coordinator.list_tasks(TaskQuery(limit=4))]
            assert page.next_cursor is None
            assert [task.chain_id for task in page.tasks] == [several] * 3 + [single.partition(".")[0]]

    @JOURNALS
    @virtual
    async def test_pages_do_not_move_while_new_chains_arrive_and_old_ones_end(self, journals: Journals) -> None:
        async with flowing(journals) as coordinator:
            chains = []
            for _ in range(5):
                chains.append(await coordinator.submit(spec(("a", ECHO, ""), ("b", ECHO, "a"), ("c", ECHO, "b"))))
                await asyncio.sleep(0.005)
            expected = [f"{chain_id}.{name}" for chain_id in reversed(chains) for name in "abc"]
            found: list[str] = []
            after: str | None = None
            while len(found) < len(expected):
                page = await coordinator.list_tasks(TaskQuery(limit=2, after=after))
                found += [task.task_id for task in page.tasks]
                after = page.next_cursor
                await coordinator.submit_task(Task(ECHO))
                await asyncio.sleep(0.005)
            assert found == expected

    @JOURNALS
    @virtual
    async def test_what_is_listed_is_what_is_shown_but_the_result(self, journals: Journals) -> None:
        async with flowing(journals) as coordinator:
            fast = FailurePolicy.FAIL_FAST, FailurePolicy.CONTINUE
            for policy in fast:
                tasks = ("a", ECHO, ""), ("bad", BAD, "a"), ("c", ECHO, "bad"), ("slow", SLOW, ""), ("d", ECHO, "slow")
                await coordinator.submit(spec(*tasks, policy=policy))
            cancelled = await coordinator.submit(spec(("slow", SLOW, ""), ("late", ECHO, "slow")))
            await coordinator.submit_task(Task(BAD))
            await asyncio.sleep(1)
            await coordinator.cancel(cancelled)
            page = await coordinator.list_tasks(TaskQuery(limit=100))
            assert {task.status for task in page.tasks} == {COMPLETED, FAILED, CANCELLED, SKIPPED, RUNNING, PENDING}
            for task in page.tasks:
                view = await coordinator.view_task(task.task_id)
                assert (task.status, task.error, task.attempts) == (view.status, view.error, view.attempts)
                assert (task.agent_id, task.timings, task.ended_at) == (view.agent_id, view.timings, view.ended_at)

    @JOURNALS
    @virtual
    async def test_status_and_capability_narrow_the_list(self, journals: Journals) -> None:
        async with flowing(journals) as coordinator:
            tasks = ("a", ECHO, ""), ("b", SLOW, "a"), ("c", f"{ECHO}@1", "b"), ("d", OTHER, "")
            chain_id = await coordinator.submit(spec(*tasks))
            await coordinator.submit_task(Task(BAD))
            await asyncio.sleep(1)
            for query, expected in (
                ({"status": RUNNING}, ["b"]),
                ({"status": PENDING}, ["c"]),
                ({"status": COMPLETED}, ["a", "d"]),
                ({"capability": ECHO}, ["a", "c"]),
                ({"capability": f"{ECHO}@1"}, ["a", "c"]),
                ({"capability": f"{ECHO}@2"}, []),
                ({"capability": ECHO, "status": COMPLETED}, ["a"]),
                ({"status": SKIPPED}, []),
            ):
                assert await ids(coordinator, **query) == [f"{chain_id}.{name}" for name in expected], query

    @JOURNALS
    @virtual
    async def test_page_looks_at_a_bounded_number_of_tasks_and_leads_on(
        self, journals: Journals, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listing, "TASKS_LOOKED_AT_MAX", 3)
        monkeypatch.setattr(listing, "TASKS_AT_ONCE_MAX", 2)
        async with flowing(journals) as coordinator:
            rare = await coordinator.submit_task(Task(OTHER))
            for _ in range(4):
                await coordinator.submit(spec(("a", ECHO, ""), ("b", ECHO, ""), ("c", ECHO, "")))
            await asyncio.sleep(1)
            page = await coordinator.list_tasks(TaskQuery(capability=OTHER, limit=10))
            assert (page.tasks, page.next_cursor is None) == ([], False)
            assert await ids(coordinator, capability=OTHER) == [rare]

    @virtual
    async def test_nobody_sees_tasks_or_chains_of_another_tenant(self) -> None:
        async with flowing() as coordinator:
            theirs = await coordinator.submit(spec(("a", SLOW, "")), tenant="theirs")
            ours = await coordinator.submit(spec(("a", SLOW, ""), ("b", BAD, "")), tenant="ours")
            over = await coordinator.submit(spec(("a", ECHO, "")), tenant="theirs")
            await asyncio.sleep(1)
            assert await ids(coordinator, tenant="ours") == [f"{ours}.a", f"{ours}.b"]
            listed = await coordinator.list_chains(ChainQuery("ours"))
            assert [each.chain_id for each in listed.chains] == [ours]
            for chain_id in (theirs, over):
                attempts: list[Any] = [
                    coordinator.view(chain_id, "ours"),
                    coordinator.view_task(f"{chain_id}.a", "ours"),
                    coordinator.cancel(chain_id, "ours"),
                    coordinator.retry(chain_id, tenant="ours"),
                    coordinator.list_chains(ChainQuery("ours", before=chain_id)),
                    coordinator.list_tasks(TaskQuery("ours", after=f"{chain_id}.a")),
                ]
                for attempt in attempts:
                    with pytest.raises(NotFound):
                        await attempt
            assert (await coordinator.view(theirs, "theirs")).status is RUNNING
            assert (await coordinator.view_task(f"{over}.a", "theirs")).status is COMPLETED

    @JOURNALS
    @virtual
    async def test_place_that_is_not_there_is_not_taken_for_the_end(self, journals: Journals) -> None:
        async with flowing(journals) as coordinator:
            task_id = await coordinator.submit_task(Task(ECHO))
            chain_id = task_id.partition(".")[0]
            with pytest.raises(ChainNotFound):
                await coordinator.list_chains(ChainQuery(before="gone"))
            with pytest.raises(ChainNotFound):
                await coordinator.list_tasks(TaskQuery(after="gone.task"))
            with pytest.raises(TaskNotFound):
                await coordinator.list_tasks(TaskQuery(after=f"{chain_id}.other"))
            assert (await coordinator.list_chains(ChainQuery(before=chain_id))).chains == []
            assert (await coordinator.list_tasks(TaskQuery(after=task_id))).tasks == []

    @virtual
    async def test_chains_forgotten_while_a_page_is_made_harm_nobody(self) -> None:
        class Forgetful(MemoryJournal):
            """Forgets every chain that ended, right after it was listed."""

            async def list_chains(self, query: ChainQuery) -> Sequence[ChainSummary]:
                found = await super().list_chains(query)
                await self.prune(AT + timedelta(days=1), 10)
                return found

        journal = Forgetful()
        for number in range(3):
            await journal.submit(chain(f"chain-{number}"))
        await journal.append([ChainEnded("chain-0", COMPLETED, AT)])
        await journal.append([ChainEnded("chain-1", COMPLETED, AT)])
        page = await Listing(journal, {}).tasks(TaskQuery(limit=2))
        assert ([task.task_id for task in page.tasks], page.next_cursor) == (["chain-2.a"], None)

    @JOURNALS
    @virtual
    async def test_chain_that_runs_elsewhere_is_listed_as_it_is_on_record(self, journals: Journals) -> None:
        async with journals() as journal:
            await journal.open()
            tasks = ("a", ECHO, ""), ("b", ECHO, "a"), ("c", ECHO, "b"), ("d", ECHO, "")
            await journal.submit(chain("elsewhere", spec=spec(*tasks, policy=FailurePolicy.CONTINUE)))
            failed = TaskResult("elsewhere.a", ECHO, FAILED, error=TaskError("no", "It cannot be done."))
            await journal.append([TaskEnded("elsewhere", "a", failed)])
            page = await Listing(journal, {}).tasks(TaskQuery())
            assert [task.status for task in page.tasks] == [FAILED, SKIPPED, SKIPPED, PENDING]
            await journal.close()


class TestChains:
    @JOURNALS
    @virtual
    async def test_newest_first_page_by_page(self, journals: Journals) -> None:
        async with flowing(journals) as coordinator:
            chains = [await coordinator.submit(spec(("a", ECHO, ""))) for _ in range(5)]
            await asyncio.sleep(1)
            found: list[str] = []
            before: str | None = None
            for size in (2, 2, 1):
                page = await coordinator.list_chains(ChainQuery(limit=2, before=before))
                assert len(page.chains) == size
                found += [each.chain_id for each in page.chains]
                before = page.next_cursor
            assert (found, before) == (chains[::-1], None)

    @JOURNALS
    @virtual
    async def test_chain_whose_first_task_is_under_way_is_listed_as_running(self, journals: Journals) -> None:
        async with flowing(journals) as coordinator:
            over = await coordinator.submit(spec(("a", ECHO, "")))
            slow = await coordinator.submit(spec(("a", SLOW, "")))
            await asyncio.sleep(1)
            for status, expected in ((None, [slow, over]), (RUNNING, [slow]), (PENDING, []), (COMPLETED, [over])):
                page = await coordinator.list_chains(ChainQuery(status=status))
                assert [each.chain_id for each in page.chains] == expected
            retried = await coordinator.retry(over)
            (newest, *_) = (await coordinator.list_chains(ChainQuery())).chains
            assert (newest.chain_id, newest.retry_of, newest.total_tasks) == (retried, over, 1)
            assert (await coordinator.view(retried)).retry_of == over

    @JOURNALS
    @virtual
    async def test_page_of_running_chains_looks_at_a_bounded_number_and_leads_on(
        self, journals: Journals, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(listing, "CHAINS_LOOKED_AT_MAX", 2)
        async with journals() as journal:
            await journal.open()
            for number in range(6):
                await journal.submit(chain(f"chain-{number}", after_s=number))
            await journal.append([ended("chain-0", "a")])
            await journal.append([ended("chain-3", "a"), ChainEnded("chain-3", COMPLETED, AT)])
            lister, found, before, pages = Listing(journal, {}), list[str](), None, 0
            while pages == 0 or before is not None:
                page = await lister.chains(ChainQuery(status=RUNNING, limit=1, before=before))
                found += [each.chain_id for each in page.chains]
                before, pages = page.next_cursor, pages + 1
            assert (found, pages) == (["chain-0"], 3)
            await journal.close()


@virtual
async def test_failure_that_was_allowed_for_is_listed_in_a_chain_that_completed() -> None:
    async with flowing() as coordinator:
        allowed = ChainSpec((Task(BAD, id="bad", on_failure=OnFailure(None)),))
        chain_id = await coordinator.submit(allowed)
        await asyncio.sleep(1)
        assert (await coordinator.view(chain_id)).status is COMPLETED
        assert await ids(coordinator, status=FAILED) == [f"{chain_id}.bad"]
