"""Several processes on one PostgreSQL database: who lives, who owns what, and what one asks of another."""

import asyncio
import signal
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from aicp.errors import OwnershipLost, StorageError
from aicp.model.request import Request, cancel_request
from aicp.ports import ChainRecord, Replica
from aicp.storage import postgres_death_watch
from aicp.storage.postgres import PostgresJournal
from aicp.storage.postgres_death_watch import next_in_ring
from aicp.storage.postgres_link import Link
from aicp.storage.postgres_server import Connection
from tests.integration.postgres_kit import child, claim_all, database, opened, run, shared_server, until, way_to
from tests.postgres_server import ask, postgres_server
from tests.unit.sqlite_kit import chain_ended, refused, submitted, task_ended, tasks_of

LEASE: dict[str, Any] = {"lease_s": 1.0, "renew_every_s": 0.2}
LONG_LEASE: dict[str, Any] = {"lease_s": 600.0}
"""Far longer than a test may take: whatever is seen of another replica is not seen by the end of its lease."""
IMPATIENT: dict[str, Any] = {**LEASE, "timeout_s": 2.0, "write_timeout_s": 2.0}


# Found before the one of the system, since the search path names that last.
SETTABLE_CLOCK = """
    CREATE TABLE clock_set (by interval NOT NULL);
    INSERT INTO clock_set VALUES (interval '0');
    CREATE FUNCTION clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
        'SELECT pg_catalog.clock_timestamp() + (SELECT by FROM clock_set)'
"""


@pytest.fixture
def url() -> str:
    return shared_server().fresh_url()


def replicas_of(journal: PostgresJournal) -> list[int]:
    return [replica.number for replica in journal._database.replicas.alive]


def number_of(journal: PostgresJournal) -> int:
    return journal._database.replicas.living_number


def is_anew(link: Link, lost: Connection | None) -> bool:
    """True when the link has a connection, and another one than was lost."""
    return link._connection not in {None, lost}


async def met(*journals: PostgresJournal) -> None:
    """Each knows all of them."""
    await until(lambda: all(len(replicas_of(journal)) == len(journals) for journal in journals))


def ids(records: Sequence[ChainRecord]) -> list[str]:
    return [record.submitted.chain_id for record in records]


def test_replicas_know_one_another_and_who_left(url: str) -> None:
    async def main() -> None:
        async with opened(url, name="one", **LONG_LEASE) as first:
            async with opened(url, name="two", **LONG_LEASE) as second:
                await met(first, second)
                assert [each.name for each in first._database.replicas.alive] == ["one", "two"]
                assert first._database.replicas.is_sure
                assert replicas_of(first) == replicas_of(second) == [number_of(first), number_of(second)]
            await until(lambda: len(replicas_of(first)) == 1)

    run(main())


def test_chains_of_a_replica_that_leaves_are_claimed_at_once_and_with_all_that_was_recorded(url: str) -> None:
    async def main() -> None:
        async with opened(url, **LONG_LEASE) as peer:
            async with opened(url, **LONG_LEASE) as leaving:
                await met(peer, leaving)
                await leaving.submit(submitted("c1"))
                await leaving.append([task_ended("c1", "t0")])
                assert list(await peer.claim(10)) == []
            (record,) = await claim_all(peer, 1)
            assert (record.epoch, tasks_of(record.facts)) == (2, ["t0"])

    run(main())


def test_process_that_is_killed_is_found_dead_long_before_its_lease_ends(url: str) -> None:
    async def main() -> None:
        async with opened(url, **LONG_LEASE) as peer, child(url, lease_s=LONG_LEASE["lease_s"], chains=50) as killed:
            await until(lambda: len(replicas_of(peer)) == 2)
            killed.signal(signal.SIGKILL)
            records = await claim_all(peer, 50)
            assert {record.epoch for record in records} == {2}

    run(main())


def test_process_that_is_started_again_at_once_goes_on_without_waiting_for_the_lease(url: str) -> None:
    async def main() -> None:
        async with child(url, lease_s=LONG_LEASE["lease_s"], chains=3) as killed:
            killed.signal(signal.SIGKILL)
            await killed.process.wait()
        async with opened(url, **LONG_LEASE) as again:
            assert len(await claim_all(again, 3)) == 3

    run(main())


def test_paused_process_loses_its_chains_when_its_lease_ends_and_nothing_it_then_records_counts(url: str) -> None:
    async def main() -> None:
        async with opened(url, **LEASE) as peer, child(url, lease_s=1.0, how="write") as paused:
            await until(lambda: len(replicas_of(peer)) == 2)
            await paused.until("recorded")
            paused.signal(signal.SIGSTOP)
            (record,) = await claim_all(peer, 1)
            await peer.append([task_ended("c-0", "of the new owner")], record.epoch)
            paused.signal(signal.SIGCONT)
            await paused.until("refused")
            await paused.until("lost")
            after = await peer.read("c-0")
            assert after is not None
            assert after.facts[:-1] == record.facts
            assert tasks_of(after.facts)[-1] == "of the new owner"
            acknowledged = [line[2] for line in paused.told if line[0] == "recorded"]
            assert set(acknowledged) <= set(tasks_of(after.facts))

    run(main())


def test_replica_that_is_cut_off_for_longer_than_its_lease_hears_of_it_and_joins_again(url: str) -> None:
    async def main() -> None:
        server = shared_server()
        async with (
            way_to(server) as way,
            opened(url, **LEASE) as peer,
            opened(server.through(url, way), **IMPATIENT) as cut_off,
        ):
            replicas, before, lost = cut_off._database.replicas, number_of(cut_off), list[int]()
            replicas.when_lost(lambda: lost.append(before))
            await met(peer, cut_off)
            await cut_off.submit(submitted("c1"))
            way.is_hole = True
            await until(lambda: not replicas.is_sure)
            assert not lost
            (record,) = await claim_all(peer, 1)
            way.is_hole = False
            await until(lambda: bool(lost) and replicas.is_sure)
            assert number_of(cut_off) > before
            with pytest.raises(OwnershipLost):
                await recorded(cut_off, "c1", epoch=1)
            await peer.append([task_ended("c1", "t0")], record.epoch)
            await cut_off.submit(submitted("c2"))

    run(main())


def test_replicas_cut_off_together_come_back_together_and_none_takes_the_other_for_dead(url: str) -> None:
    """As when a firewall forgets them: their sessions end, and so do their locks, though both live."""

    async def main() -> None:
        server = shared_server()
        async with (
            way_to(server) as first_way,
            way_to(server) as second_way,
            opened(server.through(url, first_way), **IMPATIENT) as first,
            opened(server.through(url, second_way), **IMPATIENT) as second,
        ):
            both, ways = (first, second), (first_way, second_way)
            await met(*both)
            numbers = [number_of(journal) for journal in both]
            for each in range(2):
                await first.submit(submitted(f"c{each}"))
                for way in ways:
                    way.is_hole = True
                await until(lambda: not any(journal._database.replicas.is_sure for journal in both))
                for way in ways:
                    way.is_hole = False
                await until(lambda: all(journal._database.replicas.is_sure for journal in both))
                await met(*both)
            await asyncio.sleep(LEASE["lease_s"])  # the time in which one could be declared dead
            assert [number_of(journal) for journal in both] == numbers
            assert list(await second.claim(10)) == []

    run(main())


async def recorded(journal: PostgresJournal, chain_id: str, epoch: int) -> None:
    """Append, as a recorder does: again while the disk is in the way."""
    while True:
        try:
            return await journal.append([task_ended(chain_id, "late")], epoch)
        except StorageError:
            await asyncio.sleep(0.05)


def test_replica_without_peers_that_is_cut_off_for_longer_than_its_lease_keeps_its_chains(url: str) -> None:
    async def main() -> None:
        async with way_to(shared_server()) as way:
            through = shared_server().through(url, way)
            async with opened(through, **IMPATIENT) as alone:
                replicas, before = alone._database.replicas, number_of(alone)
                await alone.submit(submitted("c1"))
                way.is_hole = True
                await until(lambda: not replicas.is_sure)
                way.is_hole = False
                await until(lambda: replicas.is_sure)
                await recorded(alone, "c1", epoch=1)
                assert number_of(alone) == before

    run(main())


def test_replica_whose_connections_are_cut_is_back_before_anybody_takes_it_for_dead(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine a new connection takes longer than the grace of 50 ms.
    monkeypatch.setattr(postgres_death_watch, "GRACE_S", 30.0)

    async def main() -> None:
        server = shared_server()
        async with way_to(server) as way, opened(url) as peer, opened(server.through(url, way)) as cut_off:
            await met(peer, cut_off)
            before, link, is_back = number_of(cut_off), cut_off._database.replicas._lease._link, True
            # On a busy machine it takes longer to come back than the 50 ms of grace: the peer judges when it is back.
            peer._database.replicas._watch._may_judge = lambda: is_back
            await cut_off.submit(submitted("c1"))
            for _ in range(3):
                lost, is_back = link._connection, False
                way.cut()
                await recorded(cut_off, "c1", epoch=1)
                await until(partial(is_anew, link, lost))
                is_back = True
            assert number_of(cut_off) == before
            assert list(await peer.claim(10)) == []

    run(main())


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_server_that_restarts_makes_nobody_look_dead_though_all_locks_are_gone(how: signal.Signals) -> None:
    with postgres_server() as server:
        url = server.fresh_url()

        async def main() -> None:
            async with opened(url, **LEASE) as one, opened(url, **LEASE) as two:
                await met(one, two)
                before = number_of(one), number_of(two)
                await one.submit(submitted("c1"))
                await asyncio.to_thread(server.stop, how)
                await until(lambda: not one._database.replicas.is_sure)
                await asyncio.to_thread(server.start)
                await until(lambda: one._database.replicas.is_sure and two._database.replicas.is_sure)
                await recorded(one, "c1", epoch=1)
                assert (number_of(one), number_of(two)) == before

        run(main())


@pytest.mark.parametrize("how", ["restart", "loss of power", "crash of a session"])
def test_lock_that_was_lost_with_the_server_is_no_sign_of_death_of_who_is_not_back_yet(how: str) -> None:
    with postgres_server() as server:
        url = server.fresh_url()

        async def main() -> None:
            async with (
                way_to(server) as way,
                opened(server.through(url, way), lease_s=30.0) as away,
                opened(url) as peer,
            ):
                await met(away, peer)
                before = number_of(away)
                way.is_hole = True
                way.cut()
                await asyncio.to_thread(server.suffer, how)
                await until(lambda: peer._database.replicas._watch._link.is_up)
                for _ in range(10):
                    # Each is a look at a lock that is free.
                    await peer._database.replicas._watch.looked()
                assert replicas_of(peer) == [before, number_of(peer)]
                way.is_hole = False
                await until(lambda: away._database.replicas._lease._link.is_up)
                assert number_of(away) == before

        run(main())


@pytest.mark.parametrize("step", ["2 hours", "-2 hours"])
def test_no_replica_is_declared_dead_when_the_clock_of_the_database_is_set(url: str, step: str) -> None:
    async def main() -> None:
        async with opened(url):
            pass
        await ask(url, SETTABLE_CLOCK)
        set_by = f"{url}%2Cpg_catalog"
        async with opened(set_by, **LEASE) as first, opened(set_by, **LEASE) as second:
            await met(first, second)
            numbers = [number_of(first), number_of(second)]
            lease_s = LEASE["lease_s"]
            await until(lambda: all(each._database.replicas._lease.may_judge for each in (first, second)))
            await asyncio.sleep(1.5 * lease_s)
            await ask(url, f"UPDATE clock_set SET by = interval '{step}'")
            # The second one is late with its next sign of life, but by less than its lease.
            second._database.replicas._lease._may_renew = lambda: False
            await asyncio.sleep(0.7 * lease_s)
            second._database.replicas._lease._may_renew = lambda: True
            await asyncio.sleep(2 * lease_s)
            assert [number_of(first), number_of(second)] == numbers
            dead = "SELECT count(*) FROM replicas WHERE died_at IS NOT NULL AND number >= $1"
            assert await ask(url, dead, numbers[0]) == 0
            # One that gives no sign of life any more is found out as ever.
            second._database.replicas._lease._may_renew = lambda: False
            await until(lambda: replicas_of(first) == numbers[:1])

    run(main())


def test_replicas_share_out_what_a_dead_one_left_each_chain_once(url: str) -> None:
    async def main() -> None:
        async with opened(url) as one, opened(url) as two, child(url, chains=60) as killed:
            await until(lambda: len(replicas_of(one)) == len(replicas_of(two)) == 3)
            killed.signal(signal.SIGKILL)
            await until(lambda: len(replicas_of(one)) == 2)
            claims = [journal.claim(10) for _ in range(4) for journal in (one, two)]
            found = [record for some in await asyncio.gather(*claims) for record in some]
            while more := [*await one.claim(10), *await two.claim(10)]:
                found += more
            assert sorted(ids(found)) == sorted(f"c-{number}" for number in range(60))

    run(main())


def test_when_two_die_at_once_the_one_left_finds_both(url: str) -> None:
    async def main() -> None:
        async with (
            opened(url, **LONG_LEASE) as left,
            child(url, lease_s=LONG_LEASE["lease_s"], tag="a") as one,
            child(url, lease_s=LONG_LEASE["lease_s"], tag="b") as two,
        ):
            await until(lambda: len(replicas_of(left)) == 3)
            for each in (one, two):
                each.signal(signal.SIGKILL)
            assert sorted(ids(await claim_all(left, 2))) == ["a-0", "b-0"]

    run(main())


def test_nothing_of_a_replica_declared_dead_is_recorded_even_before_its_chains_are_claimed(url: str) -> None:
    async def main() -> None:
        async with opened(url, lease_s=30.0, renew_every_s=20.0) as dead:
            await dead.submit(submitted("c1"))
            await ask(url, "UPDATE replicas SET died_at = clock_timestamp()")
            await refused(dead.append([task_ended("c1", "t0")]), OwnershipLost)
            assert "joins again" in await refused(dead.submit(submitted("c2")), StorageError)
            record = await dead.read("c1")
            assert record is not None
            assert record.facts == ()
            assert await dead.read("c2") is None
            await until(lambda: number_of(dead) > 1)
            await refused(dead.append([task_ended("c1", "t0")]), OwnershipLost)
            await dead.submit(submitted("c3"))
            (claimed,) = await claim_all(dead, 1)
            assert (claimed.submitted.chain_id, claimed.epoch) == ("c1", 2)

    run(main())


def test_cancel_is_asked_of_whoever_owns_the_chain_until_it_ended(url: str) -> None:
    async def main() -> None:
        async with opened(url) as owner, opened(url) as other:
            await met(owner, other)
            await owner.submit(submitted("c1"))
            await owner._database.replicas.until_news(0.0)
            assert not await other.ask(cancel_request("never-submitted"))
            assert await other.ask(cancel_request("c1"))
            assert await other.ask(cancel_request("c1"))
            await owner._database.replicas.until_news(600.0)  # longer than a test may take: the request ends it
            assert list(await owner.asked()) == [cancel_request("c1")]
            assert list(await other.asked()) == []
            await owner.append([chain_ended("c1")])
            assert list(await owner.asked()) == []
            assert not await other.ask(cancel_request("c1"))
            assert await ask(url, "SELECT count(*) FROM requests") == 0

    run(main())


def test_cancel_that_code_of_an_older_revision_asked_for_is_a_request(url: str) -> None:
    async def main() -> None:
        async with opened(url) as owner:
            for name in ("c1", "c2"):
                await owner.submit(submitted(name))
            await ask(url, "INSERT INTO cancel_requests (chain_id, at) SELECT chain_id, now() FROM chains")
            assert sorted(each.chain_id for each in await owner.asked()) == ["c1", "c2"]
            await owner.append([chain_ended("c1")])
            assert list(await owner.asked()) == [cancel_request("c2")]
            assert await ask(url, "SELECT count(*) FROM cancel_requests") == 1

    run(main())


def test_request_of_a_kind_that_only_a_newer_version_knows_is_left_to_it(url: str) -> None:
    async def main() -> None:
        async with opened(url) as owner:
            await owner.submit(submitted("c1"))
            assert await owner.ask(Request("c1", "answer:t0:1:ok", "answer", "true"))
            assert await owner.ask(cancel_request("c1"))
            assert list(await owner.asked()) == [cancel_request("c1")]
            assert await ask(url, "SELECT count(*) FROM requests") == 2

    run(main())


def test_cancel_asked_of_a_dead_owner_is_for_the_next(url: str) -> None:
    async def main() -> None:
        async with opened(url) as next_owner:
            async with opened(url) as owner:
                await owner.submit(submitted("c1"))
                assert await next_owner.ask(cancel_request("c1"))
            await claim_all(next_owner, 1)
            assert list(await next_owner.asked()) == [cancel_request("c1")]

    run(main())


def test_replicas_of_different_schemas_have_nothing_to_do_with_each_other(url: str) -> None:
    async def main() -> None:
        async with opened(url) as one, opened(shared_server().fresh_url()) as two:
            assert number_of(one) == number_of(two) == 1
            assert replicas_of(one) == replicas_of(two) == [1]

    run(main())


def test_dead_replicas_are_forgotten_once_nothing_is_left_of_them(url: str) -> None:
    async def main() -> None:
        async with opened(url) as left:
            for _ in range(3):
                async with opened(url):
                    pass
            await ask(url, "UPDATE replicas SET died_at = died_at - interval '1 hour'")
            await left.claim(1)
            assert await ask(url, "SELECT count(*) FROM replicas") == 1

    run(main())


def test_ring_leads_past_every_replica_and_back() -> None:
    alive = [Replica(number, "") for number in (9, 2, 5)]
    ring = [2, *(next_in_ring(number, alive) for number in (2, 5, 9))]
    assert [each.number for each in ring[1:] if isinstance(each, Replica)] == [5, 9, 2]
    assert next_in_ring(5, alive[2:]) is None
    assert all(one != other for one, other in pairwise(ring))


def test_database_that_is_not_open_refuses(url: str) -> None:
    async def main() -> None:
        closed = PostgresJournal(database(url))
        for call in (closed.read("c1"), closed.claim(1), closed.submit(submitted("c1"))):
            assert "is closed" in await refused(call, StorageError)

    run(main())
