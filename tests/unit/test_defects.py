"""An exception out of a part that must raise none strands no chain: it goes on without a restart, and is reported."""

import asyncio
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from aicp.coordination import task_coordinator
from aicp.coordination.readiness import Readiness
from aicp.coordination.recorder import Recorder
from aicp.coordination.run import ChainRun
from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.event import ChainEnded, Fact
from aicp.model.task import Task, TaskStatus
from aicp.routing.attempt import Attempts
from aicp.routing.failover_router import FailoverRouter
from aicp.scheduling.task_scheduler import TaskScheduler
from aicp.storage.memory import MemoryJournal
from aicp.testing.faulty_agents import ScriptedAgent, ok
from tests.unit.flow_kit import ECHO, Flow, now, virtual

ALWAYS = 10**9
TIMES = pytest.mark.parametrize("times", [1, 3])


class Defect(Exception):
    """What a part of AICP raises that must raise nothing."""


class Broken:
    """Lets a method raise at its first calls, before or after it did its work."""

    def __init__(self, patch: pytest.MonkeyPatch, owner: Any, name: str, times: int, *, after: bool = False) -> None:
        self.calls = 0
        real = getattr(owner, name)
        is_async = asyncio.iscoroutinefunction(real)

        def fails() -> bool:
            self.calls += 1
            return self.calls <= times

        def broken(*args: Any, **options: Any) -> Any:
            if fails():
                if after:
                    real(*args, **options)
                raise Defect(name)
            return real(*args, **options)

        async def broken_later(*args: Any, **options: Any) -> Any:
            if fails():
                if after:
                    await real(*args, **options)
                raise Defect(name)
            return await real(*args, **options)

        patch.setattr(owner, name, broken_later if is_async else broken)


def chain(*, idempotent: bool = True, deadline_s: float | None = None) -> ChainSpec:
    tasks = (
        Task(ECHO, {"n": 1}, id="a", idempotent=idempotent),
        Task(ECHO, {"n": 2}, id="b", depends_on=("a",), idempotent=idempotent),
        Task(ECHO, {"n": 3}, id="c"),
    )
    return ChainSpec(tasks, failure_policy=FailurePolicy.CONTINUE, deadline_s=deadline_s)


def eyes() -> ScriptedAgent:
    return ScriptedAgent("eyes", otherwise=ok(after_s=0.5), max_concurrent_tasks=4)


def tokens(flow: Flow) -> dict[str, list[tuple[int, ...]]]:
    """The fencing tokens that an agent got for each task, in their order."""
    found: dict[str, list[tuple[int, ...]]] = {}
    for call in flow.transport.calls:
        found.setdefault(call.call.task_id, []).append(tuple(map(int, call.call.fencing_token.split("."))))
    return found


def assert_tokens_rise(flow: Flow) -> None:
    for seen in tokens(flow).values():
        assert seen == sorted(set(seen))


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.exc_info and record.exc_info[0] is Defect]


PARTS: Sequence[tuple[Any, str, bool]] = [
    (FailoverRouter, "route", False),
    (FailoverRouter, "route", True),
    (TaskScheduler, "schedule_task", False),
    (TaskScheduler, "complete_task", True),
    (TaskScheduler, "complete_task", False),
    (Attempts, "make", False),
    (FailoverRouter, "_succeeded", False),
    (ChainRun, "_begin", False),
    (ChainRun, "_begin_time", False),
    (ChainRun, "_end_task", False),
    (ChainRun, "_settle", True),
    (ChainRun, "_on_record", False),
    (ChainRun, "_work", False),
    (Readiness, "apply", False),
    (Readiness, "ready", False),
    (Recorder, "_write_some", True),
    (Recorder, "record", False),
    (MemoryJournal, "append", False),
    (MemoryJournal, "append", True),
    (MemoryJournal, "claim", False),
    (task_coordinator, "ChainRun", False),
]


@pytest.mark.parametrize(("owner", "name", "after"), PARTS)
@TIMES
@virtual
async def test_a_part_that_raises_a_few_times_only_delays_a_chain(
    owner: Any,
    name: str,
    after: bool,  # noqa: FBT001 - a parameter of the test
    times: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken = Broken(monkeypatch, owner, name, times, after=after)
    async with Flow(eyes()) as flow:
        chain_id = await flow.coordinator.submit(chain())
        view = await flow.coordinator.wait(chain_id, 300)
        assert view.status is TaskStatus.COMPLETED
        assert broken.calls > 1
        assert (await flow.coordinator.wait_result(chain_id)).status is TaskStatus.COMPLETED
        assert_tokens_rise(flow)
        await asyncio.sleep(70)
        assert flow.coordinator.unfinished == 0
        assert len([event for event in flow.seen.events if isinstance(event, ChainEnded)]) == 1
        assert flow.coordinator.defects.count >= 1
    assert len(tracebacks(caplog)) == 1


@virtual
async def test_a_task_that_the_router_never_carries_fails_at_its_deadline(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken(monkeypatch, FailoverRouter, "route", ALWAYS)
    async with Flow(eyes()) as flow:
        began = now()
        chain_id = await flow.coordinator.submit(chain())
        result = await flow.coordinator.wait_result(chain_id)
        assert result.status is TaskStatus.FAILED
        assert now() - began == pytest.approx(600, abs=1)
        error = result.tasks["a"].error
        assert error is not None
        assert error.code == "internal_error"
        assert "Defect" in error.message
    # Two tasks with waits of 1 s to 60 s: no hot loop. And one traceback, however often it was raised.
    assert 20 < broken.calls < 40
    assert flow.coordinator.defects.count == broken.calls
    assert len(tracebacks(caplog)) == 1


@pytest.mark.parametrize(("owner", "name"), [(ChainRun, "_begin_time"), (ChainRun, "_begin"), (Readiness, "ready")])
@virtual
async def test_a_chain_that_can_never_begin_fails_after_its_deadline(
    owner: Any, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = Broken(monkeypatch, owner, name, ALWAYS)
    async with Flow(eyes()) as flow:
        began = now()
        chain_id = await flow.coordinator.submit(chain(deadline_s=1_000.0))
        result = await flow.coordinator.wait_result(chain_id)
        assert result.status is TaskStatus.FAILED
        assert result.error is not None
        assert result.error.code in {"internal_error", "deadline_exceeded"}
        assert 990 < now() - began < 1_200
        assert flow.coordinator.unfinished == 0
    assert broken.calls < 40
    assert len(tracebacks(caplog)) == 1


@virtual
async def test_what_must_not_be_sent_twice_is_not_sent_again_after_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    Broken(monkeypatch, Attempts, "make", 1, after=True)
    async with Flow(eyes()) as flow:
        spec = ChainSpec((Task(ECHO, id="a", idempotent=False),))
        result = await flow.coordinator.execute_chain(spec)
        assert result.tasks["a"].error is not None
        assert result.tasks["a"].error.code == "outcome_unknown"
        assert len(flow.transport.calls) == 1


@virtual
async def test_what_was_not_sent_yet_is_sent_once_after_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    Broken(monkeypatch, TaskScheduler, "schedule_task", 2)
    async with Flow(eyes()) as flow:
        spec = ChainSpec((Task(ECHO, id="a", idempotent=False),))
        assert (await flow.coordinator.execute_chain(spec)).status is TaskStatus.COMPLETED
        assert len(flow.transport.calls) == 1


@virtual
async def test_a_stranded_chain_can_be_cancelled_and_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    Broken(monkeypatch, ChainRun, "_begin", 4)
    async with Flow(eyes()) as flow:
        chain_id = await flow.coordinator.submit(chain())

        async def watched() -> list[Fact]:
            return [fact async for fact in flow.coordinator.watch(chain_id)]

        watching = asyncio.create_task(watched())
        await asyncio.sleep(2)
        assert (await flow.coordinator.view(chain_id)).status is TaskStatus.PENDING
        assert flow.coordinator.unfinished == 3
        for _ in range(10):
            try:
                await flow.coordinator.cancel(chain_id)
                break
            except Exception:  # noqa: BLE001 - it stopped anew before the cancel was on record
                continue
        facts = await watching
        assert isinstance(facts[-1], ChainEnded)


@virtual
async def test_a_stopped_coordinator_leaves_a_stranded_chain_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    journal = MemoryJournal()
    broken = Broken(monkeypatch, ChainRun, "_begin", 1)
    async with Flow(eyes(), journal=journal) as flow:
        chain_id = await flow.coordinator.submit(chain())
        await asyncio.sleep(0.1)
    assert broken.calls == 1
    async with Flow(eyes(), journal=journal) as flow:
        assert (await flow.coordinator.wait(chain_id)).status is TaskStatus.COMPLETED


@virtual
async def test_a_direct_call_gives_its_slot_back_when_a_part_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    Broken(monkeypatch, Attempts, "_call", 1)
    async with Flow(eyes()) as flow:
        with pytest.raises(Defect):
            await flow.router.route_task(Task(ECHO))
        assert flow.left_over() == {}
        assert (await flow.router.route_task(Task(ECHO))).status is TaskStatus.COMPLETED


@virtual
async def test_an_observer_that_raises_harms_nobody() -> None:
    class Bad:
        def notify(self, _event: object) -> None:
            raise Defect

    async with Flow(eyes(), observer=Bad()) as flow:
        assert (await flow.coordinator.execute_chain(chain())).status is TaskStatus.COMPLETED
        assert flow.coordinator.defects.count == 0


@virtual
async def test_many_chains_survive_parts_that_raise_at_random(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every twentieth call of five parts raises, while a hundred chains run."""
    for owner, name in [
        (FailoverRouter, "route"), (TaskScheduler, "schedule_task"), (ChainRun, "_end_task"), (Recorder, "record"),
        (MemoryJournal, "append"),
    ]:  # fmt: skip
        monkeypatch.setattr(owner, name, _sometimes(getattr(owner, name)))
    async with Flow(eyes()) as flow:
        ids = [await flow.coordinator.submit(chain()) for _ in range(100)]
        views = [await flow.coordinator.wait(chain_id, 600) for chain_id in ids]
        assert {view.status for view in views} == {TaskStatus.COMPLETED}
        assert_tokens_rise(flow)
        await asyncio.sleep(120)
        assert flow.coordinator.unfinished == 0


def _sometimes(real: Callable[..., Any]) -> Callable[..., Any]:
    calls = itertools.count(1)

    async def broken(*args: Any, **options: Any) -> Any:
        if next(calls) % 20 == 0:
            raise Defect(real.__name__)
        return await real(*args, **options)

    return broken
