"""Locks that somebody else holds: what meets one waits alone, with its chain in order, and takes nothing along."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from aicp.errors import OwnershipLost, StorageError
from aicp.model.request import cancel_request
from aicp.ports import SubmitKey
from aicp.storage.postgres import PostgresJournal
from aicp.storage.postgres_held_writes import HeldWrites
from tests.integration.postgres_kit import claim_all, opened, run, shared_server, until
from tests.unit.sqlite_kit import AT, chain_ended, refused, submitted, task_ended, tasks_of

AT_ONCE_S = 25.0
"""Far more than what no lock is in the way of takes; who meets a lock is refused or waits for longer."""

LARGE = "x" * 70_000


@pytest.fixture
def url() -> str:
    return shared_server().fresh_url()


@asynccontextmanager
async def locked(url: str, *statements: str) -> AsyncIterator[asyncpg.Connection]:
    """A session, as psql's, that has done something in a transaction and does not end it."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            for statement in statements:
                await connection.execute(statement)
            yield connection
    finally:
        await connection.close()


async def recorded_of(journal: PostgresJournal, chain_id: str) -> list[str]:
    record = await journal.read(chain_id)
    assert record is not None
    return tasks_of(record.facts)


def test_lock_on_one_chains_row_holds_up_that_chain_alone_and_keeps_the_order_of_its_facts(url: str) -> None:
    async def main() -> None:
        async with opened(url, write_timeout_s=60.0) as journal:
            await asyncio.gather(*(journal.submit(submitted(f"c{number}")) for number in range(30)))
            async with locked(url, "SELECT FROM chains WHERE chain_id = 'c0' FOR UPDATE"):
                held = [asyncio.create_task(journal.append([task_ended("c0", "t0")]))]
                async with asyncio.timeout(AT_ONCE_S):
                    for each in range(5):
                        others = [journal.append([task_ended(f"c{number}", f"t{each}")]) for number in range(1, 30)]
                        held.append(asyncio.create_task(journal.append([task_ended("c0", f"t{each + 1}")])))
                        await asyncio.gather(*others, journal.submit(submitted(f"new-{each}")))
                assert not any(each.done() for each in held)
                assert journal._database.replicas.can_record
            await asyncio.gather(*held)
            assert await recorded_of(journal, "c0") == [f"t{each}" for each in range(6)]

    run(main())


def test_lease_is_renewed_while_a_chains_row_is_locked_and_nobody_takes_the_replica_for_dead(url: str) -> None:
    async def main() -> None:
        async with opened(url, lease_s=1.0, renew_every_s=0.2) as journal, opened(url) as peer:
            await until(lambda: len(peer._database.replicas.alive) == 2)
            await journal.submit(submitted("c1"))
            number = journal._database.replicas.number
            async with locked(url, "SELECT FROM chains WHERE chain_id = 'c1' FOR UPDATE"):
                waiting = asyncio.create_task(journal.append([task_ended("c1", "t0")]))
                for _ in range(30):
                    await asyncio.sleep(0.1)
                    assert journal._database.replicas.is_sure
            await waiting
            assert journal._database.replicas.number == number
            assert list(await peer.claim(10)) == []

    run(main())


def test_lock_that_lasts_is_reported_to_the_writer_and_the_chain_goes_on_afterwards(url: str) -> None:
    async def main() -> None:
        async with opened(url, write_timeout_s=1.0) as journal:
            await journal.submit(submitted("c1"))
            async with locked(url, "SELECT FROM chains WHERE chain_id = 'c1' FOR UPDATE"):
                both = [journal.append([task_ended("c1", name)]) for name in ("t0", "t1")]
                for answer in await asyncio.gather(*both, return_exceptions=True):
                    assert isinstance(answer, StorageError)
                    assert "Chain c1 is locked by another session" in str(answer)
                await journal.submit(submitted("c2"))
            await journal.append([task_ended("c1", "t2")])
            assert await recorded_of(journal, "c1") == ["t2"]

    run(main())


def test_key_that_another_session_is_inserting_holds_up_its_own_submit_alone(url: str) -> None:
    async def main() -> None:
        insert = "INSERT INTO submit_keys VALUES ('t', 'k5', '', 'x', now())"
        async with opened(url, write_timeout_s=30.0) as journal:
            async with locked(url, insert) as other:
                submits = [
                    asyncio.create_task(journal.submit(submitted(f"c{number}"), SubmitKey("t", f"k{number}", b"")))
                    for number in range(20)
                ]
                held = submits.pop(5)
                async with asyncio.timeout(AT_ONCE_S):
                    await asyncio.gather(*submits)
                    for number in range(5):
                        await journal.submit(submitted(f"later-{number}"))
                assert not held.done()
                await other.execute("DELETE FROM submit_keys WHERE key = 'k5'")
            assert await held == "c5"

    run(main())


def test_large_result_that_another_session_has_locked_holds_up_its_own_chain_alone(url: str) -> None:
    async def main() -> None:
        async with opened(url, write_timeout_s=30.0) as journal:
            await asyncio.gather(*(journal.submit(submitted(f"c{number}")) for number in range(10)))
            await journal.append([task_ended("c0", "t0", LARGE)])
            async with locked(url, "SELECT FROM results FOR UPDATE"):
                held = asyncio.create_task(journal.append([task_ended("c1", "t0", LARGE)]))
                async with asyncio.timeout(AT_ONCE_S):
                    await asyncio.gather(
                        *(journal.append([task_ended(f"c{number}", "t0", number)]) for number in range(2, 10))
                    )
                assert not held.done()
            await held

    run(main())


def test_table_that_is_locked_refuses_in_time_keeps_the_lease_and_says_so(url: str) -> None:
    async def main() -> None:
        async with opened(url, write_timeout_s=2.0, timeout_s=2.0) as journal:
            replicas = journal._database.replicas
            await journal.submit(submitted("c0"))
            async with locked(url, "LOCK TABLE chains, facts"):
                submits = [journal.submit(submitted(f"c{number}")) for number in range(1, 50)]
                answers = await asyncio.gather(*submits, return_exceptions=True)
                assert all(isinstance(answer, StorageError) for answer in answers)
                assert replicas.is_sure
                assert not replicas.can_record
            await journal.submit(submitted("after"))
            await journal.read("c0")
            await until(lambda: replicas.can_record)

    run(main())


def test_claim_takes_what_is_free_and_what_was_locked_later(url: str) -> None:
    async def main() -> None:
        async with opened(url) as peer:
            async with opened(url) as leaving:
                await asyncio.gather(*(leaving.submit(submitted(f"c{number}")) for number in range(3)))
            async with locked(url, "SELECT FROM chains WHERE chain_id = 'c1' FOR UPDATE"):
                records = await claim_all(peer, 2, within_s=AT_ONCE_S)
                assert {record.submitted.chain_id for record in records} == {"c0", "c2"}
                assert list(await peer.claim(10)) == []
            (record,) = await claim_all(peer, 1)
            assert record.submitted.chain_id == "c1"

    run(main())


def test_chain_in_doubt_that_is_locked_stays_in_doubt_and_holds_up_no_claim(url: str) -> None:
    async def main() -> None:
        async with opened(url) as journal:
            await journal.submit(submitted("c1"))
            journal._database.writer.give_doubts_back(["c1"])
            async with locked(url, "SELECT FROM chains WHERE chain_id = 'c1' FOR UPDATE"):
                async with asyncio.timeout(AT_ONCE_S):
                    assert list(await journal.claim(10)) == []
            (record,) = await journal.claim(10)
            assert record.epoch == 2
            await refused(journal.append([task_ended("c1", "t0")]), OwnershipLost)

    run(main())


def test_prune_leaves_out_what_is_locked_and_forgets_the_rest(url: str) -> None:
    async def main() -> None:
        async with opened(url) as journal:
            for number in range(3):
                await journal.submit(submitted(f"c{number}"))
                await journal.append([task_ended(f"c{number}", "t0", f"{number}" * 70_000), chain_ended(f"c{number}")])
            locks = (
                "SELECT FROM chains WHERE chain_id = 'c0' FOR UPDATE",
                "SELECT FROM results WHERE body LIKE '%1111%' FOR UPDATE",
            )
            async with locked(url, *locks), asyncio.timeout(AT_ONCE_S):
                assert await journal.prune(AT.replace(year=2030), 100) == 1
            assert await journal.read("c2") is None
            assert await recorded_of(journal, "c1") == ["t0"]
            assert await journal.prune(AT.replace(year=2030), 100) == 2

    run(main())


def test_writes_that_wait_for_a_lock_keep_nobody_from_reading(url: str) -> None:
    """As registrations of one agent do, or orders for it, or keys."""

    async def main() -> None:
        async with opened(url) as journal:
            await journal.submit(submitted("c1"))
            sessions = journal._database.sessions
            async with locked(url, "LOCK TABLE audit"):
                write = "INSERT INTO audit SELECT * FROM audit WHERE FALSE"
                writes = [asyncio.create_task(sessions.execute(write)) for _ in range(8)]
                async with asyncio.timeout(AT_ONCE_S):
                    for _ in range(20):
                        assert await journal.read("c1") is not None
                answers = await asyncio.gather(*writes, return_exceptions=True)
            assert all("another session has locked what this needs" in str(answer) for answer in answers)

    run(main())


def test_cancels_are_heard_of_while_an_old_request_is_locked(url: str) -> None:
    async def main() -> None:
        async with opened(url) as journal:
            for name in ("c1", "c2"):
                await journal.submit(submitted(name))
                await journal.ask(cancel_request(name))
            await journal.append([chain_ended("c1")])
            async with locked(url, "SELECT FROM requests WHERE chain_id = 'c1' FOR UPDATE"):
                assert list(await journal.asked()) == [cancel_request("c2")]

    run(main())


def test_held_writes_come_back_in_order_and_one_that_waits_alone_at_a_time() -> None:
    held: HeldWrites[str] = HeldWrites(5.0)
    assert held.hold("a", ["a1", "a2"], 0.0, is_alone=False)
    assert held.hold("b", ["b1"], 0.0, is_alone=True)
    assert held.hold("c", ["c1"], 0.0, is_alone=True)
    assert held.takes("a", "a3")
    assert not held.takes("d", "d1")
    assert held.due(0.01) == []
    assert held.next_in_s(0.0, 2.0) == pytest.approx(0.05)
    assert held.due(0.06) == ["a1", "a2", "a3", "b1"]
    assert held.is_alone("b")
    assert held.hold("b", ["b1"], 0.1, is_alone=True)
    assert held.due(0.11) == ["c1"]
    held.settle("c")
    assert not held.is_alone("c")
    assert not held.hold("b", ["b1"], 5.1, is_alone=True)
    assert not held.hold("a", ["a1"], 5.1, is_alone=False)
    assert list(held.take_all()) == ["b1"]
    assert not held
