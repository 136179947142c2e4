"""A server that stops taking writes, a standby, an address that moved: connections are not trusted without end."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

import asyncpg
import pytest

from aicp.errors import SettingsError, StorageError
from aicp.model.access import AuditRecord
from aicp.model.agent import AgentProfile, Capability
from aicp.model.request import cancel_request
from aicp.storage import postgres_server as server_module
from aicp.storage.postgres import PostgresJournal
from aicp.storage.postgres_access import PostgresAuditLog
from aicp.storage.postgres_address import parse_postgres_url, urls_of
from aicp.storage.postgres_registrations import PostgresRegistrations
from aicp.storage.postgres_server import Rows
from tests.integration.postgres_kit import database, opened, run, until, way_to
from tests.integration.postgres_pooler import pooler_of
from tests.postgres_server import PostgresServer, ask, free_port, postgres_server, standby_of
from tests.unit.sqlite_kit import AT, refused, submitted, task_ended, tasks_of

BACK_WITHIN_S = 30.0


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """One that tests of this file make read-only."""
    with postgres_server() as server:
        yield server


@asynccontextmanager
async def old_sessions_read_only(server: PostgresServer) -> AsyncIterator[None]:
    """Sessions there are may only read; new ones may write."""
    url = server.url()
    for statement in (
        "ALTER ROLE postgres SET default_transaction_read_only = off",
        "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()",
    ):  # fmt: skip
        await ask(url, statement)
    try:
        yield
    finally:
        await ask(url, "ALTER SYSTEM RESET default_transaction_read_only")
        await ask(url, "SELECT pg_reload_conf()")
        await ask(url, "ALTER ROLE postgres RESET default_transaction_read_only")


def pids_of(journal: PostgresJournal) -> set[int]:
    """Of the sessions that a journal holds: writer, lease, watch and the others."""
    parts = journal._database
    held = [parts.writer._recorder._link, parts.replicas._lease._link, parts.replicas._watch._link]
    connections = [link._connection for link in held if link._connection is not None]
    return {each.get_server_pid() for each in (*connections, *parts.sessions._idle) if not each.is_closed()}


async def until_submitted(journal: PostgresJournal, chain_id: str, *, within_s: float = BACK_WITHIN_S) -> None:
    async with asyncio.timeout(within_s):
        while True:
            try:
                await journal.submit(submitted(chain_id))
            except StorageError:
                await asyncio.sleep(0.02)
            else:
                return


async def until_asked(url: str, sql: str, wanted: object) -> None:
    async with asyncio.timeout(BACK_WITHIN_S):
        while await ask(url, sql) != wanted:
            pass


USES_THAT_WRITE: tuple[Callable[[PostgresJournal], Awaitable[object]], ...] = (
    lambda journal: PostgresRegistrations(journal._database).save(AgentProfile("a", (Capability("test.echo"),))),
    lambda journal: journal.prune_keys(AT),
    lambda journal: journal.ask(cancel_request("c1")),
    lambda journal: PostgresAuditLog(journal._database).append([AuditRecord(AT, "k", "t", "a", "o", 200, 1)], 10),
)


def test_sessions_that_turn_read_only_while_new_ones_are_not_are_replaced_and_work_goes_on(
    server: PostgresServer,
) -> None:
    """A write that was under way when another part saw it is cut with its session, and done when it is repeated."""

    async def done(write: Callable[[], Awaitable[object]]) -> None:
        try:
            await write()
        except StorageError:
            await write()

    async def main() -> None:
        async with opened(server.fresh_url()) as journal, opened(server.fresh_url()) as idle:
            await journal.submit(submitted("c1"))
            await asyncio.gather(*(journal.read("c1") for _ in range(3)))
            before, idle_before = pids_of(journal), pids_of(idle)
            assert before
            async with old_sessions_read_only(server):
                for number in range(2, 5):
                    await done(partial(journal.submit, submitted(f"c{number}")))
                await done(partial(journal.append, [task_ended("c1", "t0")]))
                await until(lambda: not before & pids_of(journal) and not idle_before & pids_of(idle))
                await until(lambda: journal._database.replicas.can_record and idle._database.replicas.can_record)
                record = await journal.read("c1")
                assert record is not None
                assert tasks_of(record.facts) == ["t0"]

    run(main())


def test_uses_of_sessions_that_turned_read_only_are_done_on_new_ones(server: PostgresServer) -> None:
    """One after the other, so that each meets sessions of its own that are read-only."""

    async def main() -> None:
        for use in USES_THAT_WRITE:
            async with opened(server.fresh_url()) as journal:
                await asyncio.gather(*(journal.prune_keys(AT) for _ in range(2)))
                async with old_sessions_read_only(server):
                    await use(journal)

    run(main())


def test_readiness_is_asked_of_the_writer_and_the_sessions_too(server: PostgresServer) -> None:
    """As with a lock on a table that the lease does not touch, so that it goes on."""

    async def main() -> None:
        url = server.fresh_url()
        async with opened(url) as journal:
            replicas = journal._database.replicas
            locking = await asyncpg.connect(url)
            async with locking.transaction():
                await locking.execute("LOCK TABLE chains")
                await until(lambda: not replicas.can_record)
                assert replicas.is_sure
            await until(lambda: replicas.can_record)
            await locking.close()

    run(main())


def test_session_that_an_administrator_ends_has_all_others_replaced_and_the_replica_lives_on(
    server: PostgresServer,
) -> None:
    async def main() -> None:
        url = server.fresh_url()
        async with opened(url) as journal, opened(url) as peer:
            await until(lambda: len(peer._database.replicas.alive) == 2)
            await journal.submit(submitted("c1"))
            number, before = journal._database.replicas.number, pids_of(journal)
            busy = asyncio.create_task(journal._database.sessions.execute("SELECT pg_sleep(7)"))
            kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(7)'"
            await until_asked(url, f"{kill} AND state = 'active'", 1)
            await refused(busy, StorageError)
            await until_submitted(journal, "c2")
            await until(lambda: not before & pids_of(journal))
            assert journal._database.replicas.number == number
            assert list(await peer.claim(10)) == []

    run(main())


def test_uses_under_way_when_all_connections_are_cut_fail_as_lost_ones_do_or_succeed(server: PostgresServer) -> None:
    async def main() -> None:
        async with opened(server.fresh_url()) as journal:
            await journal.submit(submitted("c1"))
            parts = journal._database
            for each in range(20):
                uses = [asyncio.create_task(parts.sessions.read("SELECT pg_sleep(0.01)")) for _ in range(4)]
                uses += [asyncio.create_task(parts.sessions.in_transaction(_two_statements)) for _ in range(2)]
                writing = asyncio.create_task(journal.append([task_ended("c1", f"t{each}")]))
                for _ in range(each):
                    await asyncio.sleep(0)
                parts._server.cut_all()
                answers = await asyncio.gather(*uses, writing, return_exceptions=True)
                faults = [answer for answer in answers if isinstance(answer, BaseException)]
                assert all(isinstance(fault, StorageError) for fault in faults), faults
            await until_submitted(journal, "c2")

    run(main())


async def _two_statements(connection: asyncpg.Connection) -> Rows:
    await connection.fetch("SELECT pg_sleep(0.01)")
    return await connection.fetch("SELECT pg_sleep(0.01)")


def test_connections_live_for_minutes_and_are_replaced_one_by_one(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "AGE_S", 0.5)

    async def main() -> None:
        url = server.fresh_url()
        async with opened(url, lease_s=1.0, renew_every_s=0.1) as journal, opened(url) as peer:
            await until(lambda: len(peer._database.replicas.alive) == 2)
            await journal.submit(submitted("c0"))
            number, before = journal._database.replicas.number, pids_of(journal)
            for each in range(1, 200):
                await journal.submit(submitted(f"c{each}"))
                await journal.read("c0")
                await asyncio.sleep(0.01)
            await until(lambda: not before & pids_of(journal))
            assert journal._database.replicas.number == number
            assert list(await peer.claim(10)) == []

    run(main())


def test_aged_connection_is_kept_while_no_other_one_can_be_had(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with way_to(server) as way, opened(server.through(server.fresh_url(), way)) as journal:
            await journal.submit(submitted("c1"))
            before = journal._database.writer._recorder._link._connection
            monkeypatch.setattr(server_module.PostgresServer, "is_aged", lambda *_: True)
            monkeypatch.setattr(server_module.PostgresServer, "connect", _refusing)
            await journal.submit(submitted("c2"))
            assert journal._database.writer._recorder._link._connection is before
            monkeypatch.undo()

    run(main())


async def _refusing(*_: object) -> None:
    raise StorageError("no room")


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[PostgresServer, PostgresServer]]:
    """A primary server and its standby."""
    with postgres_server() as primary, standby_of(primary) as standby:
        yield primary, standby


def test_standby_is_refused_at_the_start_and_waited_for(pair: tuple[PostgresServer, PostgresServer]) -> None:
    _, standby = pair
    told = run(refused(database(standby.url()).open(), SettingsError))
    assert "it is read-only, as a standby is: name the primary server" in told


@pytest.mark.parametrize("order", ["primary first", "standby first", "a silent one first"])
def test_of_several_hosts_the_one_that_takes_writes_is_used(
    pair: tuple[PostgresServer, PostgresServer], order: str
) -> None:
    async def main() -> None:
        primary, standby = pair
        async with way_to(primary) as silent:
            silent.is_hole = True
            ports = {
                "primary first": (primary.port, standby.port), "standby first": (standby.port, primary.port),
                "a silent one first": (silent.port, primary.port),
            }[order]  # fmt: skip
            named = ",".join(f"127.0.0.1:{port}" for port in ports)
            url = primary.fresh_url().replace(f"127.0.0.1:{primary.port}", named)
            async with opened(url) as journal:
                await journal.submit(submitted("c1"))
                assert await journal.read("c1") is not None

    run(main())


def test_transactions_behind_a_pooler_that_turns_to_a_standby_are_refused_reads_too(
    pair: tuple[PostgresServer, PostgresServer],
) -> None:
    async def main() -> None:
        primary, standby = pair
        url = primary.fresh_url()
        async with (
            pooler_of(primary) as pooler,
            opened(url.replace(f":{primary.port}/", f":{pooler.port}/")) as journal,
        ):
            await journal.submit(submitted("c1"))
            pooler.turn_to(standby)
            for call in (journal.read("c1"), journal.outlines(["c1"]), journal.submit(submitted("c2"))):
                assert "read-only" in await refused(call, StorageError)
            assert not journal._database.replicas.can_record
            pooler.turn_to(primary)
            await until_submitted(journal, "c3")
            assert await journal.read("c1") is not None
            await until(lambda: journal._database.replicas.can_record)

    run(main())


@pytest.mark.parametrize(
    ("url", "urls"),
    [
        ("postgresql://u:p@h1:1,h2:2/db", ["postgresql://u:p@h1:1/db", "postgresql://u:p@h2:2/db"]),
        ("postgresql://h1/db?sslmode=disable", ["postgresql://h1/db?sslmode=disable"]),
        (
            "postgresql:///db?host=h1,h2&port=5",
            ["postgresql:///db?host=h1&port=5", "postgresql:///db?host=h2&port=5"],
        ),
    ],
)
def test_urls_of_the_hosts_that_a_url_names(url: str, urls: list[str]) -> None:
    assert urls_of(parse_postgres_url(url)) == urls


@pytest.mark.parametrize("asked", ["standby", "read-only", "prefer-standby"])
def test_url_that_asks_for_a_standby_is_refused(asked: str) -> None:
    with pytest.raises(SettingsError, match="AICP writes: leave it out"):
        parse_postgres_url(f"postgresql://h1,h2/db?target_session_attrs={asked}")


def test_server_out_of_reach_while_in_use_is_never_a_fault_of_the_settings() -> None:
    """Such as a name that cannot be resolved for a moment: 503, and not 500."""

    async def main() -> None:
        unknown = database("postgresql://no-such-host.invalid/db")
        unknown.sessions.open()
        assert "its host is not known" in await refused(unknown.sessions.execute("SELECT 1"), StorageError)
        nowhere = database(f"postgresql://127.0.0.1:{free_port()}/db?sslmode=disable")
        nowhere.sessions.open()
        await refused(nowhere.sessions.read("SELECT 1"), StorageError)
        assert not nowhere.sessions.is_well

    run(main())


def test_statements_end_on_the_server_before_their_client_gives_up(server: PostgresServer) -> None:
    async def main() -> None:
        url = server.fresh_url()
        async with opened(url, timeout_s=2.0) as journal:
            ((timeout, lock),) = await journal._database.sessions.read(
                "SELECT current_setting('statement_timeout'), current_setting('lock_timeout')"
            )
            assert (timeout, lock) == ("1600ms", "800ms")
            assert "gave up after its time" in await refused(
                journal._database.sessions.execute("SELECT pg_sleep(60)"), StorageError
            )

    run(main())


def test_statement_whose_caller_was_cancelled_ends_on_the_server(server: PostgresServer) -> None:
    async def main() -> None:
        url = server.fresh_url()
        async with opened(url, timeout_s=60.0) as journal:
            asking = asyncio.create_task(journal._database.sessions.execute("SELECT pg_sleep(50)"))
            running = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(50)' AND state = 'active'"
            await until_asked(url, running, 1)
            asking.cancel()
            await until_asked(url, running, 0)

    run(main())
