"""A node on a database: what it accepted and whom it knows outlive it; bad settings are one sentence."""

import asyncio
import re
import sqlite3
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from aicp.agent import Agent
from aicp.errors import AgentNotFound, SettingsError, StorageError
from aicp.model.agent import AgentAuth, Capability, Registration
from aicp.model.chain import TaskChain
from aicp.model.event import AgentChanged, Event
from aicp.model.task import Task, TaskStatus
from aicp.registry.leases import Liveness
from aicp.resilience.circuit_breaker import CircuitState
from aicp.runtime.checkup import Verdict, check_machine
from aicp.runtime.database_url import SqliteFile
from aicp.runtime.node import Node
from aicp.runtime.onlookers import Onlookers
from aicp.runtime.settings import secret_key, server_settings
from aicp.storage.sqlite_wal import log_of
from tests.unit.sqlite_kit import ask, refused, run

ECHO = "test.echo"
SECRET = "a-bearer-that-nobody-shall-read"


async def echo(params: dict[str, Any]) -> Any:
    return params


def node_on(directory: Path, **options: Any) -> Node:
    return Node(database=f"sqlite:///{directory / 'aicp.db'}", data_dir=directory / "data", **options)


def registration(agent_id: str = "far", *, lease: bool = True, auth: AgentAuth | None = None) -> Registration:
    return Registration(
        "http://127.0.0.1:9", agent_id, "instance-1", capabilities=(Capability(ECHO),), max_concurrent_tasks=3,
        labels={"zone": "a"}, auth=auth, lease=lease,
    )  # fmt: skip


def far_agent() -> Agent:
    agent = Agent("far")
    agent.capability(ECHO)(echo)
    return agent


class Changes:
    """An observer of what happens to the registered agents."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._news = asyncio.Event()

    def notify(self, event: Event) -> None:
        if isinstance(event, AgentChanged):
            self.seen.append(event.change)
            self._news.set()

    async def until(self, change: str) -> None:
        while change not in self.seen:
            self._news.clear()
            await self._news.wait()


def environ(tmp_path: Path, **more: str) -> Mapping[str, str]:
    return {"AICP_DATA_DIR": str(tmp_path), **more}


class TestChains:
    def test_what_a_node_accepted_goes_on_in_the_next_one(self, tmp_path: Path) -> None:
        async def main() -> None:
            started = asyncio.Event()

            async def hang(_params: dict[str, Any]) -> None:
                started.set()
                await asyncio.Event().wait()

            chain = TaskChain("two")
            first = chain.add_task(ECHO, {"n": 1})
            chain.add_task("test.slow", {"got": first.output})
            async with node_on(tmp_path) as node:
                await node.add_agent("quick", {ECHO: echo})
                await node.add_agent("slow", {"test.slow": hang})
                chain_id = await node.coordinator.submit(chain)
                await started.wait()
                assert (await node.coordinator.view(chain_id)).completed_tasks == 1
            async with node_on(tmp_path) as node:
                await node.add_agent("slow", {"test.slow": echo})
                result = await node.coordinator.wait_result(chain_id)
                assert result.status is TaskStatus.COMPLETED
                assert result["slow"].result == {"got": {"n": 1}}
                assert node.stores.journal.durable

        run(main())

    def test_a_node_without_a_database_says_that_it_is_not_durable(self) -> None:
        node = Node()
        assert not node.stores.journal.durable
        assert node.stores.kind == "memory"

    def test_a_node_is_ready_between_start_and_stop(self, tmp_path: Path) -> None:
        async def main() -> None:
            node = node_on(tmp_path)
            seen = [node.is_ready]
            async with node:
                seen.append(node.is_ready)
            assert [*seen, node.is_ready] == [False, True, False]

        run(main())


class TestAgents:
    def test_registered_agents_are_back_unheard_and_heard_at_their_first_heartbeat(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with node_on(tmp_path) as node:
                await node.ains.register(registration(auth=AgentAuth(SECRET)))
                saved = node.ains.get("far")
            async with node_on(tmp_path) as node:
                assert node.ains.get("far") == saved
                assert node.ains.liveness("far") is Liveness.UNHEARD
                assert node.scheduler.knows(ECHO)
                node.ains.heartbeat("far", "instance-1")
                assert node.ains.liveness("far") is Liveness.HEARD

        run(main())

    def test_secrets_lie_sealed_in_the_file_and_their_key_is_the_owners_alone(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with node_on(tmp_path) as node:
                await node.ains.register(registration(auth=AgentAuth(SECRET)))

        run(main())
        everything = b"".join(each.read_bytes() for each in tmp_path.glob("aicp.db*"))
        assert SECRET.encode() not in everything
        assert stat.S_IMODE((tmp_path / "data" / "secret.key").stat().st_mode) == 0o600

    def test_a_node_with_another_key_does_not_start_and_says_why(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with node_on(tmp_path) as node:
                await node.ains.register(registration(auth=AgentAuth(SECRET)))
            (tmp_path / "data" / "secret.key").unlink()
            sentence = await refused(node_on(tmp_path).__aenter__(), SettingsError)
            assert "sealed with another key" in sentence
            assert "AICP_SECRET_KEY" in sentence

        run(main())

    def test_a_node_without_secrets_makes_no_key(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with node_on(tmp_path) as node:
                await node.ains.register(registration())

        run(main())
        assert not (tmp_path / "data").exists()

    def test_agents_without_heartbeats_are_back_unheard_and_then_neither_offline_nor_gone(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with node_on(tmp_path) as node:
                assert (await node.ains.register(registration("static", lease=False))).lease is None
                await node.ains.register(registration("made-static"))
                await node.ains.register(registration("made-static", lease=False))
                saved = node.ains.agents()
            async with node_on(tmp_path) as node:
                assert sorted(node.ains.agents(), key=lambda agent: agent.agent_id, reverse=True) == saved
                assert {node.ains.liveness(agent.agent_id) for agent in saved} == {Liveness.UNHEARD}
                assert [agent.agent_id for agent in node.ains.without_heartbeats()] == ["made-static", "static"]

        run(main())

    def test_an_agent_added_by_its_endpoint_before_the_start_is_remembered(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with far_agent().serving() as served:
                node = node_on(tmp_path)
                added = await node.add_agent("early", endpoint=served.endpoint)
                async with node:
                    assert node.ains.liveness("early") is Liveness.HEARD
                async with node_on(tmp_path) as node:
                    assert node.ains.get("early") == added

        run(main())

    def test_one_added_and_removed_before_the_start_is_not_remembered(self, tmp_path: Path) -> None:
        async def main() -> None:
            node = node_on(tmp_path)
            await node.ains.register(registration("early"))
            node.remove_agent("early")
            async with node:
                pass
            assert ask(tmp_path / "aicp.db", "SELECT count(*) FROM registrations") == 0

        run(main())

    def test_a_restored_agent_that_answers_its_health_check_is_heard_at_once(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with far_agent().serving() as served:
                async with node_on(tmp_path) as node:
                    await node.add_agent(endpoint=served.endpoint)
                again, changes = node_on(tmp_path), Changes()
                again.observe(changes)
                async with again:
                    await changes.until("heard")
                    assert again.ains.liveness("far") is Liveness.HEARD
                assert changes.seen == ["unheard", "heard"]

        run(main())

    def test_local_and_removed_agents_are_not_restored(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with node_on(tmp_path) as node:
                await node.add_agent("local", {ECHO: echo})
                for name in ("removed", "replaced"):
                    await node.ains.register(registration(name))
                await node.ains.register(registration("static", lease=False))
                node.remove_agent("removed")
                node.remove_agent("static")
                await node.add_agent("replaced", {ECHO: echo})
            assert ask(tmp_path / "aicp.db", "SELECT count(*) FROM registrations") == 0
            async with node_on(tmp_path) as node:
                assert node.ains.agents() == []

        run(main())

    def test_an_agent_removed_and_registered_again_is_remembered(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with node_on(tmp_path) as node:
                await node.ains.register(registration())
                node.remove_agent("far")
                await node.ains.register(registration())
                await node.ains.forget_removed()
            async with node_on(tmp_path) as node:
                assert [agent.agent_id for agent in node.ains.agents()] == ["far"]

        run(main())

    def test_an_agent_added_before_the_start_is_not_overwritten_by_what_was_remembered(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with node_on(tmp_path) as node:
                await node.ains.register(registration("far"))
            node = node_on(tmp_path)
            await node.add_agent("far", {ECHO: echo})
            async with node:
                assert (await node.router.route_task(Task(ECHO, {"n": 1}))).result == {"n": 1}

        run(main())


class TestOrders:
    @pytest.mark.parametrize(
        ("order", "state"), [("open_agent", CircuitState.FORCED_OPEN), ("disable_agent", CircuitState.DISABLED)]
    )
    def test_what_an_operator_ordered_for_circuits_holds_in_the_next_node_until_a_reset(
        self, tmp_path: Path, order: str, state: CircuitState
    ) -> None:
        async def main() -> None:
            async with node_on(tmp_path) as node:
                await node.ains.register(registration())
                getattr(node, order)("far")
                await node.tell_replicas()
            for _ in range(2):
                async with node_on(tmp_path) as node:
                    assert node.board.get_state("far") is state
                    await node.ains.register(registration())
                    assert node.board.get_state("far") is state
            async with node_on(tmp_path) as node:
                node.reset_agent("far")
            async with node_on(tmp_path) as node:
                assert node.board.get_state("far") is CircuitState.CLOSED

        run(main())

    def test_a_drained_agent_is_drained_in_the_next_node_until_it_is_added_again(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with node_on(tmp_path) as node:
                await node.ains.register(registration())
                node.drain_agent("far")
            async with node_on(tmp_path) as node:
                assert _drains(node, "far")
                node.ains.heartbeat("far", "instance-1")
                assert _drains(node, "far")
                await node.ains.register(registration())
                assert not _drains(node, "far")
            async with node_on(tmp_path) as node:
                assert not _drains(node, "far")

        run(main())

    def test_an_agent_that_was_removed_comes_back_without_what_was_ordered_for_it(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with node_on(tmp_path) as node:
                await node.ains.register(registration())
                await node.add_agent("near", {ECHO: echo})
                for agent_id in ("far", "near"):
                    node.open_agent(agent_id)
                    node.drain_agent(agent_id)
                await node.tell_replicas()
                for agent_id in ("far", "near"):
                    node.remove_agent(agent_id)
                await node.tell_replicas()
                assert ask(tmp_path / "aicp.db", "SELECT count(*) FROM agent_orders") == 0
                await node.ains.register(registration())
            async with node_on(tmp_path) as node:
                await node.add_agent("near", {ECHO: echo})
                for agent_id in ("far", "near"):
                    assert node.board.get_state(agent_id) is CircuitState.CLOSED
                    assert not _drains(node, agent_id)

        run(main())

    def test_circuits_of_an_agent_that_only_the_program_knows_wait_for_it_and_a_drain_does_not(
        self, tmp_path: Path
    ) -> None:
        async def main() -> None:
            async with node_on(tmp_path) as node:
                await node.add_agent("near", {ECHO: echo})
                node.open_agent("near")
                node.drain_agent("near")
            async with node_on(tmp_path) as node:
                await node.add_agent("near", {ECHO: echo})
                assert node.board.get_state("near") is CircuitState.FORCED_OPEN
                assert node.scheduler.capabilities_out() == [ECHO]
                assert not _drains(node, "near")
                node.reset_agent("near")
                assert (await node.router.route_task(Task(ECHO, {"n": 1}))).result == {"n": 1}

        run(main())

    def test_an_order_for_an_agent_that_is_not_here_is_refused(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with node_on(tmp_path) as node:
                for order in (node.open_agent, node.disable_agent, node.reset_agent, node.drain_agent):
                    with pytest.raises(AgentNotFound):
                        order("nobody")

        run(main())


def _drains(node: Node, agent_id: str) -> bool:
    return node.scheduler.member(agent_id).trouble.is_draining


class TestSettings:
    def test_a_database_in_use_is_waited_for_and_then_refused(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with node_on(tmp_path):
                second = node_on(tmp_path)
                second.stores.journal._database._lock_wait_s = 0.1  # type: ignore[attr-defined] # the real wait is 10 s
                assert "is in use by process" in await refused(second.__aenter__(), SettingsError)
                assert not second.is_ready
            async with second:
                assert second.is_ready

        run(main())

    def test_a_database_of_a_newer_version_is_refused(self, tmp_path: Path) -> None:
        async def main() -> None:
            async with node_on(tmp_path):
                pass
            connection = sqlite3.connect(tmp_path / "aicp.db")
            with connection:
                connection.execute("UPDATE alembic_version SET version_num = '9999'")
            connection.close()
            assert "newer version of AICP" in await refused(node_on(tmp_path).__aenter__(), SettingsError)

        run(main())

    def test_a_directory_that_cannot_be_made_is_refused(self, tmp_path: Path) -> None:
        async def main() -> None:
            (tmp_path / "file").write_text("")
            node = Node(database=f"sqlite:///{tmp_path / 'file' / 'aicp.db'}")
            assert "cannot be used" in await refused(node.__aenter__(), SettingsError)

        run(main())

    def test_a_url_of_another_database_is_refused_at_once(self) -> None:
        with pytest.raises(SettingsError, match="knows no database 'mysql://'"):
            Node(database="mysql://somewhere/db")

    def test_a_server_keeps_its_database_in_its_data_directory_unless_told_otherwise(self, tmp_path: Path) -> None:
        settings = server_settings(environ=environ(tmp_path))
        assert settings.database == SqliteFile(tmp_path / "aicp.db")
        told = server_settings(environ=environ(tmp_path, AICP_DATABASE_URL="sqlite:////elsewhere/a.db")).database
        assert told == SqliteFile(Path("/elsewhere/a.db"))

    def test_retention_is_a_setting(self, tmp_path: Path) -> None:
        assert server_settings(environ=environ(tmp_path)).retention_s == 7 * 86_400
        assert server_settings(environ=environ(tmp_path, AICP_RETENTION_S="60")).retention_s == 60
        for wrong in ("0", "-1", "a week", "nan", "inf"):
            with pytest.raises(SettingsError, match="AICP_RETENTION_S"):
                server_settings(environ=environ(tmp_path, AICP_RETENTION_S=wrong))

    def test_a_secret_key_that_is_none_ends_the_start_and_none_is_made_there(self, tmp_path: Path) -> None:
        for wrong in ("zz", "short", "ä" * 44, "*" * 44):
            with pytest.raises(SettingsError, match="AICP_SECRET_KEY holds no key"):
                server_settings(environ=environ(tmp_path, AICP_SECRET_KEY=wrong))
            found = next(check_machine(environ(tmp_path, AICP_SECRET_KEY=wrong)))
            assert (found.check, found.verdict) == ("settings", Verdict.FAIL)
            assert "AICP_SECRET_KEY holds no key" in found.told
        server_settings(environ=environ(tmp_path, AICP_SECRET_KEY="A" * 43 + "="))
        server_settings(environ=environ(tmp_path))
        assert not list(tmp_path.iterdir())

    def test_a_secret_key_is_taken_from_the_environment_or_made_once(self, tmp_path: Path) -> None:
        made = secret_key(tmp_path, {})
        assert secret_key(tmp_path, {}) == made
        other = made.decode().swapcase()
        assert secret_key(tmp_path, {"AICP_SECRET_KEY": other}) == other.encode()
        for wrong in ("short", "ä" * 44, "*" * 44):
            with pytest.raises(SettingsError, match="AICP_SECRET_KEY holds no key"):
                secret_key(tmp_path, {"AICP_SECRET_KEY": wrong})
        (tmp_path / "secret.key").chmod(0o644)
        with pytest.raises(SettingsError, match="chmod 600"):
            secret_key(tmp_path, {})


def test_node_on_a_damaged_file_is_not_ready_and_says_so_in_metrics_and_serves_what_it_can(tmp_path: Path) -> None:
    async def main() -> None:
        async with node_on(tmp_path) as node:
            await node.add_agent("near", {ECHO: echo})
            (result,) = await node.coordinator.execute_parallel_tasks([Task(ECHO, {"n": 1})])
            page = (await Onlookers(node).metrics()).decode()
            assert "aicp_database_damaged 0.0" in page
            assert re.search(r"aicp_database_wal_bytes [1-9]", page)
            await damage(tmp_path / "aicp.db", "api_keys")
            with pytest.raises(StorageError):
                await node.stores.api_keys.read()
            assert not node.is_ready
            assert "the database is damaged, keep the file and restore a backup" in node.why_unready[0]
            assert "aicp_database_damaged 1.0" in (await Onlookers(node).metrics()).decode()
            assert (await node.stores.journal.read(result.task_id.partition(".")[0])) is not None

    run(main())


async def damage(path: Path, table: str) -> None:
    """Overwrite the first page of a table once all is in the main file."""
    async with asyncio.timeout(30):
        while log_of(path).stat().st_size:  # noqa: ASYNC110 - another thread's work
            await asyncio.sleep(0.01)
    root = ask(path, "SELECT rootpage FROM sqlite_schema WHERE name = ?", table)
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)


def test_checkup_looks_at_the_log_before_a_server_does(tmp_path: Path) -> None:
    async def main() -> None:
        async with node_on(tmp_path) as node:
            await node.add_agent("near", {ECHO: echo})
            for number in range(20):
                await node.coordinator.execute_parallel_tasks([Task(ECHO, {"n": number})])
            (tmp_path / "killed").mkdir()
            for name in ("aicp.db", "aicp.db-wal", "aicp.db-shm", "aicp.db.lock"):
                (tmp_path / "killed" / name).write_bytes((tmp_path / name).read_bytes())

    run(main())
    path = tmp_path / "killed" / "aicp.db"
    environ = {"AICP_DATABASE_URL": f"sqlite:///{path}", "AICP_DATA_DIR": str(tmp_path / "data")}
    assert {finding.verdict for finding in check_machine(environ)} <= {Verdict.OK, Verdict.WARN}
    with log_of(path).open("r+b") as log:
        log.seek(50_000)
        log.write(b"damage")
    (found,) = [finding for finding in check_machine(environ) if finding.verdict is Verdict.FAIL]
    assert "write-ahead log" in found.told
    assert "aicp db salvage" in found.advice
