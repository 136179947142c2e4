"""What changed of a chain: whoever adds it to what they had sees what a look at the whole chain shows."""

import asyncio
import random
import time

import msgspec
import pytest

from aicp.coordination.chain_changes import Marks
from aicp.coordination.chain_status import PART
from aicp.errors import ChainNotFound
from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.task import OnFailure, Task
from aicp.model.views import ChainChanges, ShortTask
from aicp.testing.faulty_agents import ScriptedAgent, crash, hang, ok, task_failed
from tests.unit.flow_kit import ECHO, Flow, virtual

TASKS = 40
SEEDS = range(30)


class Follower:
    """Somebody who adds changes to what they know, and looks when they like."""

    def __init__(self) -> None:
        self.seq = 0
        self.tasks: dict[str, ShortTask] = {}
        self.told = 0

    def take(self, changes: ChainChanges) -> None:
        self.tasks.update(changes.tasks)
        self.told += len(changes.tasks)
        self.seq = changes.seq


def random_chain(rng: random.Random, policy: FailurePolicy) -> ChainSpec:
    tasks = []
    for number in range(TASKS):
        awaited = rng.sample(range(number), min(number, rng.choice((0, 0, 1, 1, 2, 3))))
        on_failure = OnFailure(continue_with=number) if rng.random() < 0.3 else None
        tasks.append(
            Task(
                ECHO, id=f"t{number}", depends_on=tuple(f"t{each}" for each in awaited), on_failure=on_failure,
                idempotent=rng.random() < 0.8,
            )
        )  # fmt: skip
    return ChainSpec(tuple(tasks), failure_policy=policy)


@pytest.mark.parametrize("policy", FailurePolicy)
@pytest.mark.parametrize("seed", SEEDS)
@virtual
async def test_changes_add_up_to_the_whole_whenever_and_however_often_one_looks(
    seed: int, policy: FailurePolicy
) -> None:
    rng = random.Random(seed)
    steps = [ok(0.2), ok(0.5), crash(0.1), task_failed(after_s=0.3) if rng.random() < 0.5 else ok(1.0)]
    agents = [ScriptedAgent(f"a{n}", [rng.choice(steps) for _ in range(200)], max_concurrent_tasks=3) for n in range(2)]
    async with Flow(*agents, seed=seed) as flow:
        coordinator = flow.coordinator
        chain_id = await coordinator.submit(random_chain(rng, policy))
        followers = [Follower() for _ in range(3)]
        until_cancel = rng.choice((10, 300))
        for look in range(600):
            follower = rng.choice(followers)
            changes = await coordinator.changes(chain_id, follower.seq)
            whole = await coordinator.changes(chain_id)
            if changes.seq != whole.seq:
                continue
            follower.take(changes)
            assert follower.tasks == whole.tasks, f"seed {seed}, look {look}"
            assert (changes.status, changes.completed_tasks) == (whole.status, whole.completed_tasks)
            if whole.status.is_terminal and {each.seq for each in followers} == {whole.seq}:
                break
            if look == until_cancel:
                await coordinator.cancel(chain_id)
            await asyncio.sleep(rng.choice((0.0, 0.05, 0.3)) if look < 300 else 1.0)
        else:
            raise AssertionError(f"seed {seed}: the chain has no end")
        assert (await coordinator.changes(chain_id, whole.seq)).tasks == {}


@virtual
async def test_first_look_is_whole_with_edges_and_the_second_is_not() -> None:
    async with Flow(ScriptedAgent("a", otherwise=hang())) as flow:
        chain_id = await flow.coordinator.submit(
            ChainSpec((Task(ECHO, id="a"), Task(ECHO, id="b", depends_on=("a",))), "two")
        )
        await asyncio.sleep(1.0)
        first = await flow.coordinator.changes(chain_id)
        assert (first.edges, list(first.tasks), first.total_tasks) == ([("a", "b")], ["a", "b"], 2)
        second = await flow.coordinator.changes(chain_id, first.seq)
        assert second.edges is msgspec.UNSET
        assert "b" not in second.tasks
        # A place that the record has not reached is another record's.
        assert list((await flow.coordinator.changes(chain_id, 1_000)).tasks) == ["a", "b"]
        with pytest.raises(ChainNotFound):
            await flow.coordinator.changes(chain_id, 1, "another tenant")
        await flow.coordinator.cancel(chain_id)


@virtual
async def test_of_a_large_chain_only_what_changed_is_told() -> None:
    tasks = tuple(Task(ECHO, id=f"t{n}", depends_on=(f"t{n - 1}",) if n else ()) for n in range(5 * PART))
    async with Flow(ScriptedAgent("a", otherwise=ok(1.0))) as flow:
        chain_id = await flow.coordinator.submit(ChainSpec(tasks))
        await asyncio.sleep(10.5)
        seq = (await flow.coordinator.changes(chain_id)).seq
        await asyncio.sleep(3.0)
        changes = await flow.coordinator.changes(chain_id, seq)
        assert sorted(changes.tasks) == ["t10", "t11", "t12", "t13"]
        assert changes.completed_tasks == 13
        await flow.coordinator.cancel(chain_id)


def test_mark_that_stays_is_told_once_and_is_forgotten_with_its_task() -> None:
    marks = Marks()
    assert set(marks.changed({"a": (1, None, 0), "b": (1, "x", 0)}, 5, 5)) == {"a", "b"}
    assert set(marks.changed({"a": (1, None, 0), "b": (1, "x", 0)}, 6, 6)) == set()
    assert set(marks.changed({"a": (1, "x", 0)}, 6, 6)) == {"a"}
    assert set(marks.changed({"a": (1, "x", 0), "b": (1, "x", 0)}, 7, 7)) == {"b"}


@virtual
async def test_three_changes_of_five_thousand_tasks_cost_milliseconds_at_most() -> None:
    tasks = tuple(Task(ECHO, id=f"t{n}", depends_on=(f"t{n - 1}",) if n else ()) for n in range(5_000))
    async with Flow(ScriptedAgent("a", otherwise=ok(1.0))) as flow:
        chain_id = await flow.coordinator.submit(ChainSpec(tasks))
        await asyncio.sleep(5.5)
        seq, best_s = flow.coordinator._runs[chain_id].seq, 1.0
        for _ in range(5):
            began = time.thread_time()
            changes = await flow.coordinator.changes(chain_id, seq - 3)
            best_s = min(best_s, time.thread_time() - began)
        assert len(changes.tasks) <= 5
        assert best_s < 0.02
        await flow.coordinator.cancel(chain_id)
