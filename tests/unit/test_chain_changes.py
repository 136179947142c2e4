"""What changed of a chain: whoever adds it to what they had sees what a look at the whole chain shows."""

import asyncio
import random
import time

import msgspec
import pytest

from aicp.coordination.chain_changes import NOWHERE, Looks, Place, parse_place
from aicp.coordination.chain_status import PART
from aicp.errors import ChainNotFound
from aicp.model.chain import ChainSpec, FailurePolicy
from aicp.model.task import OnFailure, Task
from aicp.model.views import ChainChanges, ShortTask
from aicp.testing.faulty_agents import ScriptedAgent, crash, hang, ok, task_failed
from tests.unit.flow_kit import ECHO, Flow, virtual

TASKS = 40
SEEDS = range(30)


def place_of(changes: ChainChanges) -> Place:
    place = parse_place(changes.seq)
    assert place is not None
    return place


class Follower:
    """Somebody who adds changes to what they know, and looks when they like."""

    def __init__(self) -> None:
        self.seq = NOWHERE
        self.tasks: dict[str, ShortTask] = {}
        self.told = 0

    def take(self, changes: ChainChanges) -> None:
        self.tasks.update(changes.tasks)
        self.told += len(changes.tasks)
        self.seq = place_of(changes)


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
            if place_of(changes).facts != place_of(whole).facts:
                continue
            follower.take(changes)
            assert follower.tasks == whole.tasks, f"seed {seed}, look {look}"
            assert (changes.status, changes.completed_tasks) == (whole.status, whole.completed_tasks)
            if whole.status.is_terminal and {each.seq for each in followers} == {place_of(whole)}:
                break
            if look == until_cancel:
                await coordinator.cancel(chain_id)
            await asyncio.sleep(rng.choice((0.0, 0.05, 0.3)) if look < 300 else 1.0)
        else:
            raise AssertionError(f"seed {seed}: the chain has no end")
        assert (await coordinator.changes(chain_id, place_of(whole))).tasks == {}


@virtual
async def test_first_look_is_whole_with_edges_and_the_second_is_not() -> None:
    async with Flow(ScriptedAgent("a", otherwise=hang())) as flow:
        chain_id = await flow.coordinator.submit(
            ChainSpec((Task(ECHO, id="a"), Task(ECHO, id="b", depends_on=("a",))), "two")
        )
        await asyncio.sleep(1.0)
        first = await flow.coordinator.changes(chain_id)
        assert (first.edges, list(first.tasks), first.total_tasks) == ([("a", "b")], ["a", "b"], 2)
        second = await flow.coordinator.changes(chain_id, place_of(first))
        assert second.edges is msgspec.UNSET
        assert second.tasks == {}
        # Another run of the chain, or another replica, knows nothing of what was in flight here.
        elsewhere = Place(place_of(first).facts)
        assert list((await flow.coordinator.changes(chain_id, elsewhere)).tasks) == ["a"]
        # A place that the record has not reached is another record's.
        assert list((await flow.coordinator.changes(chain_id, Place(1_000))).tasks) == ["a", "b"]
        with pytest.raises(ChainNotFound):
            await flow.coordinator.changes(chain_id, Place(1), "another tenant")
        await flow.coordinator.cancel(chain_id)


@virtual
async def test_of_a_large_chain_only_what_changed_is_told() -> None:
    tasks = tuple(Task(ECHO, id=f"t{n}", depends_on=(f"t{n - 1}",) if n else ()) for n in range(5 * PART))
    async with Flow(ScriptedAgent("a", otherwise=ok(1.0))) as flow:
        chain_id = await flow.coordinator.submit(ChainSpec(tasks))
        await asyncio.sleep(10.5)
        seq = place_of(await flow.coordinator.changes(chain_id))
        await asyncio.sleep(3.0)
        changes = await flow.coordinator.changes(chain_id, seq)
        assert sorted(changes.tasks) == ["t10", "t11", "t12", "t13"]
        assert changes.completed_tasks == 13
        await flow.coordinator.cancel(chain_id)


def test_what_stays_in_flight_as_it_is_is_told_once() -> None:
    looks = Looks()
    looks.look({"a": (1, None, 0), "b": (1, "x", 0)})
    first = Place(5, looks.run, looks.last)
    assert looks.changed_since(Place(5)) == looks.changed_since(Place(5, "0" * 8, 9)) == {"a", "b"}
    looks.look({"a": (1, "x", 0), "b": (1, "x", 0)})
    second = Place(5, looks.run, looks.last)
    assert looks.changed_since(first) == {"a"}
    looks.look({"a": (1, "x", 0)})
    looks.look({"a": (1, "x", 0), "b": (1, "x", 0)})
    assert looks.changed_since(second) == {"b"}


@pytest.mark.parametrize("written", ["", "x", "-1", "1-", "1-00000000", "1-0000000G-1", "1" * 10, " 1", "\u0661"])
def test_what_no_answer_gave_is_no_place(written: str) -> None:
    assert parse_place(written) is None


@pytest.mark.parametrize("place", [Place(3), Place(0), Place(10_000, "0123abcd", 77)])
def test_place_is_read_as_it_is_written(place: Place) -> None:
    assert parse_place(str(place)) == place


@virtual
async def test_three_changes_of_five_thousand_tasks_cost_milliseconds_at_most() -> None:
    tasks = tuple(Task(ECHO, id=f"t{n}", depends_on=(f"t{n - 1}",) if n else ()) for n in range(5_000))
    async with Flow(ScriptedAgent("a", otherwise=ok(1.0))) as flow:
        chain_id = await flow.coordinator.submit(ChainSpec(tasks))
        await asyncio.sleep(5.5)
        seen = place_of(await flow.coordinator.changes(chain_id))
        seen, best_s = Place(seen.facts - 3, seen.run, seen.look), 1.0
        for _ in range(5):
            began = time.thread_time()
            changes = await flow.coordinator.changes(chain_id, seen)
            best_s = min(best_s, time.thread_time() - began)
        assert len(changes.tasks) <= 5
        assert best_s < 0.02
        await flow.coordinator.cancel(chain_id)
