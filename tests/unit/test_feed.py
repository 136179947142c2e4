"""Live events: numbered, kept for a while, each tenant's own, and nobody waits for a slow reader."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from aicp.model.event import AgentChanged, CircuitChanged, JournalCommitted
from aicp.model.live import NEVER_KEPT, TOLD_KINDS, LiveEvent
from aicp.model.outcome import TaskError
from aicp.model.task import TaskStatus
from aicp.observability.feed import STREAMS_MAX, Batch, Feed, Reader, Wanted
from aicp.testing import run
from tests.unit.onlooker_kit import AT, CHAIN, attempted, ended, every_event, later, submitted

ALL = Wanted()
QUIET_S = 15.0


def virtual(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    return lambda: run(test())


def make_feed(**options: Any) -> Feed:
    owners = {CHAIN: submitted(), "of-b": submitted("of-b", "b")}
    return Feed(owners.get, lambda: AT, **options)


def begin(feed: Feed, tenant: str = "default", wanted: Wanted = ALL, after: str | None = None) -> Reader:
    reader = feed.read(tenant, wanted, after)
    assert reader is not None
    return reader


def bodies(batch: Batch | None) -> list[LiveEvent]:
    """The events of a batch, with their ids."""
    assert batch is not None
    frames = batch.frames.decode().split("\n\n")[:-1]
    lines = [frame.removeprefix("id: ").split("\ndata: ") for frame in frames]
    events = [(name, msgspec.json.decode(body, type=LiveEvent)) for name, body in lines]
    return [msgspec.structs.replace(event, id=name) for name, event in events]


def kinds(batch: Batch | None) -> list[str]:
    return [event.kind for event in bodies(batch)]


def number_of(event_id: str) -> int:
    return int(event_id.rpartition("-")[2])


def tell(feed: Feed, count: int) -> None:
    for _ in range(count):
        feed.notify(attempted())


@virtual
async def test_reader_gets_every_kind_of_event_in_order() -> None:
    feed = make_feed()
    reader = begin(feed)
    for event in every_event():
        feed.notify(event)
    batch = await reader.next_batch(QUIET_S)
    assert batch is not None
    assert sorted(kinds(batch)) == sorted(TOLD_KINDS)
    assert [number_of(event.id) for event in bodies(batch)] == list(range(1, len(TOLD_KINDS) + 1))
    assert batch.last_id == bodies(batch)[-1].id


@virtual
async def test_event_of_a_newer_replica_is_told_as_it_was_told_there_to_who_wants_its_kind() -> None:
    feed = make_feed()
    readers = [begin(feed), begin(feed, wanted=Wanted(CHAIN, kinds=frozenset({"moon_risen"})))]
    body = b'{"kind":"moon_risen","at":"2026-01-02T03:04:05Z","share":0.25,"replica":"there"}'
    feed.notify(ended())
    feed.relayed(LiveEvent("moon_risen", AT, chain_id=CHAIN), "default", body)
    batches = [await reader.next_batch(QUIET_S) for reader in readers]
    assert [kinds(batch) for batch in batches] == [["task_ended", "moon_risen"], ["moon_risen"]]
    for batch in batches:
        assert batch is not None
        assert batch.frames.endswith(b"-2\ndata: " + body + b"\n\n")


@virtual
async def test_progress_is_never_kept() -> None:
    feed = make_feed()
    reader = begin(feed)
    for kind in NEVER_KEPT:
        feed.relayed(LiveEvent(kind, AT, chain_id=CHAIN), "default", b"{}")
    feed.notify(ended())
    batch = await reader.next_batch(QUIET_S)
    assert batch is not None
    assert (kinds(batch), number_of(batch.last_id)) == (["task_ended"], 1)


@virtual
async def test_params_and_results_are_not_told() -> None:
    feed = make_feed()
    reader = begin(feed)
    for event in every_event():
        feed.notify(event)
    batch = await reader.next_batch(QUIET_S)
    assert batch is not None
    assert batch.frames
    assert b"secret" not in batch.frames


@virtual
async def test_long_reasons_are_cut() -> None:
    feed = make_feed()
    reader = begin(feed)
    feed.notify(ended(status=TaskStatus.FAILED, error=TaskError("x", "y" * 100_000)))
    batch = await reader.next_batch(QUIET_S)
    assert batch is not None
    assert len(batch.frames) < 1_000


@virtual
async def test_reader_begins_with_what_comes() -> None:
    feed = make_feed()
    tell(feed, 3)
    reader = begin(feed)
    feed.notify(ended())
    assert kinds(await reader.next_batch(QUIET_S)) == ["task_ended"]


@virtual
async def test_reader_goes_on_after_the_last_id_it_saw() -> None:
    feed = make_feed()
    with begin(feed) as reader:
        tell(feed, 3)
        batch = await reader.next_batch(QUIET_S)
    assert batch is not None
    feed.notify(ended())
    again = begin(feed, after=batch.last_id)
    assert kinds(await again.next_batch(QUIET_S)) == ["task_ended"]


@virtual
async def test_place_before_anything_happened_is_gone_on_from() -> None:
    feed = make_feed()
    with begin(feed) as reader:
        place = reader.last_id
    tell(feed, 2)
    assert len(bodies(await begin(feed, after=place).next_batch(QUIET_S))) == 2


@pytest.mark.parametrize("after", ["0123456789ab-5", "nonsense", "", "-", "0123456789ab-99999999999999999999999"])
def test_id_of_another_boot_is_a_gap_of_unknown_size(after: str) -> None:
    async def main() -> None:
        feed = make_feed()
        tell(feed, 3)
        reader = begin(feed, after=after)
        (gap,) = bodies(await reader.next_batch(QUIET_S))
        assert (gap.kind, gap.lost) == ("gap", None)
        tell(feed, 1)
        assert kinds(await reader.next_batch(QUIET_S)) == ["attempt_ended"]

    run(main())


@virtual
async def test_id_of_this_boot_that_was_never_given_is_a_gap() -> None:
    feed = make_feed()
    tell(feed, 3)
    boot = begin(feed).last_id.partition("-")[0]
    assert kinds(await begin(feed, after=f"{boot}-9").next_batch(QUIET_S)) == ["gap"]


@virtual
async def test_slow_reader_is_told_how_much_it_missed_and_goes_on() -> None:
    feed = make_feed(kept_max=10)
    reader = begin(feed)
    tell(feed, 25)
    batch = await reader.next_batch(QUIET_S)
    gap, *rest = bodies(batch)
    assert (gap.kind, gap.lost, len(rest)) == ("gap", 15, 10)
    assert batch is not None
    assert number_of(gap.id) == 15
    assert number_of(batch.last_id) == 25
    assert feed.dropped == 15


@virtual
async def test_readers_cost_no_memory_of_their_own() -> None:
    feed = make_feed(kept_max=50)
    readers = [begin(feed) for _ in range(300)]
    tell(feed, 1_000)
    assert len(feed._streams["default"]._kept) == 50
    for reader in readers:
        assert kinds(await reader.next_batch(QUIET_S))[0] == "gap"


@virtual
async def test_backlog_comes_in_batches_without_loss() -> None:
    feed = make_feed()
    reader = begin(feed)
    tell(feed, 1_000)
    numbers: list[int] = []
    while len(numbers) < 1_000:
        batch = await reader.next_batch(QUIET_S)
        assert batch is not None
        numbers += [number_of(event.id) for event in bodies(batch)]
    assert numbers == list(range(1, 1_001))


@virtual
async def test_waiting_reader_is_woken_at_once() -> None:
    feed = make_feed()
    reader = begin(feed)
    loop = asyncio.get_running_loop()
    loop.call_later(5.0, feed.notify, ended())
    began = loop.time()
    assert kinds(await reader.next_batch(QUIET_S)) == ["task_ended"]
    assert loop.time() - began == pytest.approx(5.0, abs=0.01)


@virtual
async def test_news_are_told_ten_times_a_second_at_most() -> None:
    feed = make_feed()
    reader = begin(feed)
    loop = asyncio.get_running_loop()
    for number in range(1_000):
        loop.call_later(number / 1_000, feed.notify, attempted())
    batches, seen = 0, 0
    while seen < 1_000:
        seen += len(bodies(await reader.next_batch(QUIET_S)))
        batches += 1
    assert batches <= 13


@virtual
async def test_quiet_reader_hears_where_it_stands() -> None:
    feed = make_feed()
    reader = begin(feed, wanted=Wanted(kinds=frozenset({"chain_ended"})))
    tell(feed, 5)
    loop = asyncio.get_running_loop()
    began = loop.time()
    batch = await reader.next_batch(QUIET_S)
    assert batch is not None
    assert (batch.frames, number_of(batch.last_id)) == (b"", 5)
    assert loop.time() - began == pytest.approx(15.0, abs=0.2)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (Wanted(chain_id="of-b"), []),
        (Wanted(agent_id="echo-1", kinds=frozenset({"attempt_ended", "task_ended"})), ["attempt_ended", "task_ended"]),
        (Wanted(kinds=frozenset({"chain_submitted"})), ["chain_submitted"]),
        (Wanted(agent_id="nobody"), []),
        (Wanted(chain_id=CHAIN, agent_id="echo-1", kinds=frozenset({"circuit_changed"})), []),
    ],
)
def test_reader_gets_what_it_asked_for(wanted: Wanted, expected: list[str]) -> None:
    async def main() -> None:
        feed = make_feed()
        reader = begin(feed, wanted=wanted)
        for event in every_event():
            feed.notify(event)
        assert kinds(await reader.next_batch(quiet_s=0.01)) == expected

    run(main())


@virtual
async def test_tenants_hear_and_count_their_own_alone() -> None:
    feed = make_feed()
    ours, theirs = begin(feed), begin(feed, "b")
    feed.notify(ended())
    feed.notify(ended(chain_id="of-b"))
    feed.notify(CircuitChanged("eyes", "x", "OPEN", 1.0, AT, "b"))
    feed.notify(AgentChanged("for-all", "registered", AT, None))
    mine, others = await ours.next_batch(QUIET_S), await theirs.next_batch(QUIET_S)
    assert kinds(mine) == ["task_ended", "agent_changed"]
    assert kinds(others) == ["task_ended", "circuit_changed", "agent_changed"]
    assert mine is not None
    assert number_of(mine.last_id) == 2


@virtual
async def test_id_of_another_tenant_is_foreign() -> None:
    feed = make_feed()
    feed.notify(ended(chain_id="of-b"))
    theirs = begin(feed, "b").last_id
    assert kinds(await begin(feed, after=theirs).next_batch(QUIET_S)) == ["gap"]


@virtual
async def test_event_of_a_chain_that_nobody_knows_is_nobodys() -> None:
    feed = make_feed()
    reader = begin(feed)
    feed.notify(ended(chain_id="unknown"))
    feed.notify(JournalCommitted(0.1, 1))
    assert kinds(await reader.next_batch(quiet_s=0.01)) == []


@virtual
async def test_too_many_readers_are_refused_and_one_that_left_makes_room() -> None:
    feed = make_feed(readers_max=4)
    first, _ = begin(feed), begin(feed)
    assert feed.read("default", ALL) is None
    begin(feed, "b")
    begin(feed, "b")
    assert feed.read("c", ALL) is None
    first.close()
    first.close()
    begin(feed)
    assert feed.read("c", ALL) is None


@virtual
async def test_streams_that_nobody_reads_are_forgotten_when_there_are_many() -> None:
    feed = make_feed()
    reader = begin(feed, "t0")
    for number in range(200):
        feed.notify(AgentChanged("a", "heard", AT, f"t{number}"))
    assert len(feed._streams) == STREAMS_MAX
    assert kinds(await reader.next_batch(QUIET_S)) == ["agent_changed"]


@virtual
async def test_close_ends_readers_that_wait_and_those_that_come() -> None:
    feed = make_feed()
    reader = begin(feed)
    waiting = asyncio.create_task(reader.next_batch(QUIET_S))
    await asyncio.sleep(0.5)
    feed.close()
    assert await waiting is None
    assert await begin(feed).next_batch(QUIET_S) is None


@virtual
async def test_circuit_that_only_an_operator_closes_has_no_end_of_its_wait() -> None:
    feed = make_feed()
    reader = begin(feed)
    feed.notify(CircuitChanged("echo-1", "x", "FORCED_OPEN", float("inf"), later(1)))
    (event,) = bodies(await reader.next_batch(QUIET_S))
    assert (event.state, event.retry_after_s) == ("FORCED_OPEN", None)


def test_event_costs_microseconds() -> None:
    feed = make_feed()
    best_s = 1.0
    for _ in range(5):
        began = time.thread_time()
        tell(feed, 200)
        best_s = min(best_s, (time.thread_time() - began) / 200)
    assert best_s * 1e6 < 100
