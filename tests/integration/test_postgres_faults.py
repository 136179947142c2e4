"""The server dies, the way to it is swallowed, slow or cut: nothing acknowledged is lost, and all is well soon."""

import asyncio
from collections.abc import Coroutine
from signal import SIGKILL
from typing import Any

import asyncpg
import pytest

from aicp.errors import Conflict, StorageError
from aicp.model.event import TaskEnded
from aicp.model.request import cancel_request
from aicp.ports import ChainQuery, SubmitKey
from aicp.storage.postgres import PostgresJournal
from tests.integration.postgres_kit import claim_all, opened, run, shared_server, until, way_to
from tests.postgres_server import ask, postgres_server
from tests.unit.sqlite_kit import AT, chain_ended, refused, submitted, task_ended, tasks_of

HANGS_S = 30.0
"""Whatever takes so long hangs: no speed is judged, which a busy machine decides."""
IMPATIENT: dict[str, Any] = {"timeout_s": 1.5, "write_timeout_s": 1.5}
PATIENT: dict[str, Any] = {"timeout_s": 600.0, "write_timeout_s": 600.0}
"""What fails at such a journal has not waited for its time to be over."""
LARGE = "x" * 70_000


Arrives = bool


@pytest.fixture
def url() -> str:
    return shared_server().fresh_url()


@pytest.mark.parametrize("is_hole", [True, False], ids=["swallowed", "gone"])
def test_closing_ends_when_the_server_is_out_of_reach(url: str, is_hole: Arrives) -> None:
    async def main() -> None:
        through = shared_server().through
        async with way_to(shared_server()) as way, opened(through(url, way), **IMPATIENT) as journal:
            await journal.submit(submitted("c1"))
            way.is_hole = is_hole
            if not is_hole:
                await way.close()
            unheard = asyncio.create_task(journal.submit(submitted("c2")))
            await asyncio.sleep(0)
            async with asyncio.timeout(HANGS_S):
                await journal.close()
            assert "postgresql://" in await refused(unheard, StorageError)

    run(main())


async def persistently(again: "Any", *args: Any) -> Any:
    """Do it until it works, as recorders and clients do."""
    while True:
        try:
            return await again(*args)
        except StorageError:
            await asyncio.sleep(0.02)


async def write_on(journal: PostgresJournal, name: str, acknowledged: list[str], stop: asyncio.Event) -> None:
    """Submit chains with keys, and record ends of tasks, until told to stop; every word of it was acknowledged."""
    number = 0
    while not stop.is_set():
        chain_id = f"{name}-{number}"
        key = SubmitKey("t", chain_id, b"body")
        got = await persistently(journal.submit, submitted(chain_id), key)
        acknowledged.append(got)
        for task in ("t0", "t10"):
            await persistently(journal.append, [task_ended(got, task, LARGE if task == "t10" else task)])
            acknowledged.append(f"{got}/{task}")
        number += 1


async def on_record(journal: PostgresJournal) -> set[str]:
    found: set[str] = set()
    page = await persistently(journal.list_chains, ChainQuery(limit=100_000))
    for summary in page:
        record = await journal.read(summary.chain_id)
        assert record is not None
        found |= {summary.chain_id, *(f"{summary.chain_id}/{task}" for task in tasks_of(record.facts))}
    return found


@pytest.mark.parametrize("deaths", [2])
def test_server_killed_and_started_again_under_load_loses_nothing_acknowledged(deaths: int) -> None:
    with postgres_server({"fsync": "on"}) as server:
        url = server.fresh_url()

        async def main() -> None:
            acknowledged: list[str] = []
            stop = asyncio.Event()
            async with opened(url) as journal:
                async with asyncio.TaskGroup() as group:
                    for number in range(20):
                        group.create_task(write_on(journal, f"w{number}", acknowledged, stop))
                    for _ in range(deaths):
                        await longer_by(acknowledged, 100)
                        await asyncio.to_thread(server.stop, SIGKILL)
                        await asyncio.to_thread(server.start)
                        await longer_by(acknowledged, 1)
                    stop.set()
                assert set(acknowledged) <= await on_record(journal)

        run(main())


async def longer_by(grown: list[str], count: int) -> None:
    length = len(grown) + count
    await until(lambda: len(grown) >= length, within_s=HANGS_S)


def test_whatever_is_asked_of_a_server_that_is_gone_fails_before_its_time_is_over(url: str) -> None:
    with postgres_server() as server:
        url = server.fresh_url()

        async def main() -> None:
            async with opened(url, **PATIENT) as journal:
                await journal.submit(submitted("c1"))
                await asyncio.to_thread(server.stop, SIGKILL)
                for _ in range(3):
                    for call in every_call(journal):
                        await fails(call)
                await asyncio.to_thread(server.start)
                await asyncio.wait_for(persistently(journal.submit, submitted("c3")), HANGS_S)

        run(main())


def every_call(journal: PostgresJournal) -> list[Coroutine[Any, Any, Any]]:
    return [
        journal.submit(submitted("c2")),
        journal.append([task_ended("c1", "t0")]),
        journal.read("c1"),
        journal.outlines(["c1"]),
        journal.find(SubmitKey("t", "k", b"")),
        journal.list_chains(ChainQuery()),
        journal.claim(10),
        journal.prune(AT, 10),
        journal.ask(cancel_request("c1")),
        journal.asked(),
    ]


async def fails(call: Coroutine[Any, Any, Any]) -> None:
    async with asyncio.timeout(HANGS_S):
        assert "postgresql://127.0.0.1" in await refused(call, StorageError)


def test_server_that_is_swallowed_fails_every_call_in_bounded_time_and_is_back_by_itself(url: str) -> None:
    async def main() -> None:
        through = shared_server().through
        async with way_to(shared_server()) as way, opened(through(url, way), **IMPATIENT) as journal:
            await journal.submit(submitted("c1"))
            way.is_hole = True
            for _ in range(2):
                await asyncio.gather(*(fails(call) for call in every_call(journal)))
            way.is_hole = False
            async with asyncio.timeout(HANGS_S):
                await persistently(journal.append, [task_ended("c1", "t0")])
                await persistently(journal.read, "c1")

    run(main())


def test_slow_way_is_gone_once_a_batch(url: str) -> None:
    async def main() -> None:
        async with way_to(shared_server()) as way, opened(shared_server().through(url, way)) as journal:
            way.delay_s = 0.05
            before = way.bursts
            await asyncio.gather(*(journal.submit(submitted(f"c{number}")) for number in range(200)))
            # A round trip a batch, one that prepares the statement, and signs of life meanwhile.
            assert way.bursts - before < 40
            assert len(await journal.list_chains(ChainQuery(limit=1_000))) == 200
            assert journal._database.replicas.is_sure

    run(main())


@pytest.mark.parametrize("arrives", [True, False])
def test_submit_whose_answer_got_lost_is_safe_to_repeat(url: str, arrives: Arrives) -> None:
    async def main() -> None:
        async with way_to(shared_server()) as way, opened(shared_server().through(url, way)) as journal:
            key = SubmitKey("t", "k", b"body")
            await journal.submit(submitted("c0"))
            way.lets_through, way.cut_at = arrives, b"marked"
            await refused(journal.submit(submitted("marked"), key), StorageError)
            assert way.cuts == 1
            found = await persistently(journal.submit, submitted("again"), key)
            assert found == ("marked" if arrives else "again")

    run(main())


def test_chain_whose_submit_got_no_answer_but_is_on_record_is_claimed_like_an_orphan(url: str) -> None:
    async def main() -> None:
        async with way_to(shared_server()) as way, opened(shared_server().through(url, way)) as journal:
            await journal.submit(submitted("c0"))
            for arrives, name in ((True, "recorded"), (False, "swallowed")):
                way.lets_through, way.cut_at = arrives, name.encode()
                await refused(journal.submit(submitted(name)), StorageError)
            (record,) = await claim_all(journal, 1)
            assert (record.submitted.chain_id, record.epoch) == ("recorded", 2)
            await persistently(journal.submit, submitted("c1"))
            assert list(await journal.claim(10)) == []
            assert await journal.read("swallowed") is None

    run(main())


def test_what_a_network_delivers_late_is_refused_once_the_writer_has_another_connection(url: str) -> None:
    async def main() -> None:
        async with way_to(shared_server()) as way, opened(shared_server().through(url, way)) as journal:
            await journal.submit(submitted("c0"))
            way.lets_through, way.cut_at = asyncio.Event(), b"late"
            await refused(journal.submit(submitted("late")), StorageError)
            await persistently(journal.append, [task_ended("c0", "t0")])
            late = way.lets_through
            late.set()
            await asyncio.wait_for(way.delivered.wait(), HANGS_S)
            assert await journal.read("late") is None
            assert list(await journal.claim(10)) == []

    run(main())


@pytest.mark.parametrize("arrives", [True, False])
def test_append_whose_answer_got_lost_is_safe_to_repeat(url: str, arrives: Arrives) -> None:
    async def main() -> None:
        async with way_to(shared_server()) as way, opened(shared_server().through(url, way)) as journal:
            await journal.submit(submitted("c1"))
            way.lets_through, way.cut_at = arrives, b"marked"
            await refused(journal.append([task_ended("c1", "marked")]), StorageError)
            await persistently(journal.append, [task_ended("c1", "marked")])
            record = await journal.read("c1")
            assert record is not None
            assert tasks_of(record.facts) == ["marked"] * (2 if arrives else 1)

    run(main())


def test_claim_whose_commit_got_no_answer_is_claimed_again(url: str) -> None:
    async def main() -> None:
        async with opened(url) as left_behind:
            await left_behind.submit(submitted("c1"))
        async with way_to(shared_server()) as way, opened(shared_server().through(url, way)) as journal:
            way.lets_through, way.cut_at = True, b"COMMIT"
            await refused(journal.claim(10), StorageError)
            assert way.cuts == 1
            await until_epoch(url, 2)
            (record,) = await claim_all(journal, 1)
            assert record.epoch == 3
            await journal.append([task_ended("c1", "t0")], 3)

    run(main())


async def until_epoch(url: str, epoch: int) -> None:
    async with asyncio.timeout(HANGS_S):
        while await ask(url, "SELECT epoch FROM chains") != epoch:
            pass


def test_read_is_asked_again_when_its_kept_connection_was_cut_while_idle(url: str) -> None:
    async def main() -> None:
        async with opened(url) as journal:
            await journal.submit(submitted("c1"))
            await asyncio.gather(*(journal.read("c1") for _ in range(4)))
            kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            await ask(url, f"{kill} AND query LIKE '%FROM chains%'")
            assert await journal.read("c1") is not None

    run(main())


def test_one_bad_write_of_a_batch_fails_alone(url: str) -> None:
    async def main() -> None:
        async with opened(url) as journal:
            await journal.submit(submitted("taken"))
            calls: list[Coroutine[Any, Any, Any]] = [journal.submit(submitted(f"c{number}")) for number in range(10)]
            calls.insert(5, journal.submit(submitted("taken"), SubmitKey("t", "k", b"")))
            answers = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(answers.pop(5), Conflict)
            assert answers == [f"c{number}" for number in range(10)]
            assert await journal.find(SubmitKey("t", "k", b"")) is None

    run(main())


def test_everything_waiting_when_it_is_closed_is_written(url: str) -> None:
    async def main() -> None:
        async with opened(url) as journal:
            await journal.submit(submitted("c1"))
            writes = [asyncio.create_task(journal.append([task_ended("c1", f"t{number}")])) for number in range(2_500)]
            await asyncio.sleep(0)
            await journal.close()
            await asyncio.gather(*writes)
        async with opened(url) as journal:
            record = await journal.read("c1")
            assert record is not None
            assert tasks_of(record.facts) == [f"t{number}" for number in range(2_500)]

    run(main())


def test_large_result_survives_as_long_as_a_fact_refers_to_it(url: str) -> None:
    """Also when it is pruned and recorded again at the same moment."""

    async def main() -> None:
        async with opened(url) as one, opened(url) as two:
            for number in range(30):
                old, new = f"old-{number}", f"new-{number}"
                await one.submit(submitted(old))
                await one.append([task_ended(old, "t0", LARGE)])
                await one.append([*[task_ended(old, "t1")], chain_ended(old)])
                await two.submit(submitted(new))
                await asyncio.gather(one.prune(AT.replace(year=2030), 100), two.append([task_ended(new, "t0", LARGE)]))
                record = await two.read(new)
                assert record is not None
                assert isinstance(record.facts[0], TaskEnded)
                assert record.facts[0].result.result == LARGE
            assert await ask(url, "SELECT count(*) FROM results") == 1

    run(main())


def test_large_result_that_is_being_pruned_is_waited_for(url: str) -> None:
    async def main() -> None:
        async with opened(url) as journal:
            for name in ("c1", "c2"):
                await journal.submit(submitted(name))
            await journal.append([task_ended("c1", "t0", LARGE)])
            pruning = await asyncpg.connect(url)
            async with pruning.transaction():
                await pruning.fetch("SELECT digest FROM results FOR UPDATE")
                appending = asyncio.create_task(journal.append([task_ended("c2", "t0", LARGE)]))
                waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
                async with asyncio.timeout(HANGS_S):
                    while not await pruning.fetchval(waiting):
                        assert not appending.done()
                await pruning.execute("DELETE FROM results")
            await appending
            await pruning.close()
            assert await ask(url, "SELECT count(*) FROM results") == 1

    run(main())
