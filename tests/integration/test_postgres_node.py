"""A node, and `aicp serve`, on a real PostgreSQL: what was accepted ends, whatever is killed or cut in between."""

import asyncio
import base64
import http.client
import json
from pathlib import Path
from typing import Any

import pytest

from aicp.client import Client
from aicp.errors import SettingsError, StorageError
from aicp.model.agent import AgentAuth, Capability, Registration
from aicp.model.chain import TaskChain
from aicp.model.event import Event, JournalCommitted
from aicp.model.task import Task, TaskStatus
from aicp.runtime import stores
from aicp.runtime.database_url import DATABASE_URL_VARIABLE, PostgresServerUrl
from aicp.runtime.node import Node
from aicp.runtime.settings import SECRET_KEY_VARIABLE, server_settings
from tests.chaos.server_process import ServerProcess, wait_until
from tests.e2e.agent_process import agent_processes
from tests.integration.postgres_kit import run, shared_server, way_to
from tests.postgres_server import PostgresServer, ask, postgres_server

COMPLETED = TaskStatus.COMPLETED
KEY = base64.urlsafe_b64encode(bytes(32)).decode()
PASSWORD = "hunter2"


class Commits:
    """Counts what the journal put down."""

    def __init__(self) -> None:
        self.writes = 0

    def notify(self, event: Event) -> None:
        if isinstance(event, JournalCommitted):
            assert event.elapsed_s > 0
            self.writes += event.writes


async def double(params: dict[str, Any]) -> dict[str, Any]:
    return {"n": params["n"] * 2}


def two_of(capability: str) -> TaskChain:
    chain = TaskChain("two")
    chain.add_task(capability, {"n": 2}, depends_on=chain.add_task(capability, {"n": 1}))
    return chain


async def until_ready(node: Node, *, is_ready: bool) -> None:
    async with asyncio.timeout(30):
        while node.is_ready is not is_ready:  # noqa: ASYNC110 - readiness has no event
            await asyncio.sleep(0.02)


async def run_task(node: Node, n: int) -> Any:
    chain_id = (await node.coordinator.submit_task(Task("double", {"n": n}))).partition(".")[0]
    return (await node.coordinator.wait_result(chain_id)).tasks["task"].result


# -- a node


def test_node_keeps_its_record_in_postgresql_and_tells_where_without_secrets() -> None:
    async def main() -> None:
        url = shared_server().fresh_url()
        node = Node(database=url.replace("postgres@", f"postgres:{PASSWORD}@"))
        commits = Commits()
        node.observe(commits)
        async with node:
            assert (node.stores.kind, node.stores.journal.durable) == ("postgresql", True)
            assert node.stores.place == f"postgresql://127.0.0.1:{shared_server().port}/postgres"
            assert node.stores.replicas is not None
            assert len(node.stores.replicas.alive) == 1
            await node.add_agent("doubles", {"double": double})
            assert await run_task(node, 21) == {"n": 42}
        assert commits.writes >= 2
        assert PASSWORD not in repr(node.stores)
        assert await ask(url, "SELECT count(*) FROM chains WHERE status = 'COMPLETED'") == 1
        assert await ask(url, "SELECT count(*) FROM replicas WHERE died_at IS NULL") == 0

    run(main())


def test_node_waits_for_a_database_that_starts_and_gives_up_on_one_that_does_not() -> None:
    async def main() -> None:
        server = shared_server()
        async with way_to(server) as way:
            url = server.through(server.fresh_url(), way)
            way.is_hole = True
            starting = asyncio.create_task(Node(database=url).__aenter__())
            async with asyncio.timeout(30):
                await way.came.wait()
            assert not starting.done()
            way.is_hole = False
            node = await starting
            assert node.is_ready
            await node.__aexit__(None, None, None)
            way.is_hole = True
            with pytest.raises(StorageError, match="does not answer"):
                await Node(database=url).__aenter__()

    run(main())


def test_node_whose_database_is_lost_is_unready_refuses_and_is_back_by_itself() -> None:
    async def main() -> None:
        server = shared_server()
        async with way_to(server) as way, Node(database=server.through(server.fresh_url(), way)) as node:
            await node.add_agent("doubles", {"double": double})
            assert (node.is_ready, node.has_lost_database) == (True, False)
            way.is_hole = True
            way.cut()
            await until_ready(node, is_ready=False)
            assert node.has_lost_database
            with pytest.raises(StorageError, match="cannot be used"):
                await node.coordinator.submit_task(Task("double", {"n": 1}))
            way.is_hole = False
            way.cut()
            await until_ready(node, is_ready=True)
            assert await run_task(node, 4) == {"n": 8}

    run(main())


def test_work_that_runs_while_the_database_is_lost_ends_when_it_is_back() -> None:
    async def main() -> None:
        server = shared_server()
        go_on = asyncio.Event()

        async def waits(params: dict[str, Any]) -> dict[str, Any]:
            await go_on.wait()
            return params

        async with way_to(server) as way, Node(database=server.through(server.fresh_url(), way)) as node:
            await node.add_agent("waits", {"wait": waits})
            chain_id = await node.coordinator.submit(two_of("wait"))
            way.is_hole = True
            way.cut()
            go_on.set()
            await until_ready(node, is_ready=False)
            way.is_hole = False
            way.cut()
            assert (await node.coordinator.wait_result(chain_id)).status is COMPLETED

    run(main())


def test_agent_with_a_secret_needs_the_shared_key_and_is_known_again_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        url = shared_server().fresh_url()
        registration = Registration(
            "http://127.0.0.1:9", "sealed", capabilities=(Capability("work"),), max_concurrent_tasks=1,
            auth=AgentAuth(PASSWORD), lease=False,
        )  # fmt: skip
        monkeypatch.delenv(SECRET_KEY_VARIABLE, raising=False)
        async with Node(database=url) as node:
            with pytest.raises(SettingsError, match="AICP_SECRET_KEY is not set"):
                await node.ains.register(registration)
        assert await ask(url, "SELECT count(*) FROM registrations") == 0
        monkeypatch.setenv(SECRET_KEY_VARIABLE, KEY)
        async with Node(database=url) as node:
            await node.ains.register(registration)
        assert PASSWORD not in await ask(url, "SELECT profile || sealed_auth::text FROM registrations")
        async with Node(database=url) as node:
            assert node.ains.get("sealed").auth == AgentAuth(PASSWORD)
        monkeypatch.delenv(SECRET_KEY_VARIABLE)
        with pytest.raises(SettingsError, match="AICP_SECRET_KEY is not set"):
            await Node(database=url).__aenter__()

    run(main())


def test_without_the_driver_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "find_spec", lambda _: None)
    with pytest.raises(SettingsError) as raised:
        Node(database=f"postgresql://u:{PASSWORD}@host/db")
    assert raised.value.message.endswith("pip install 'aicp[postgres]'")
    assert PASSWORD not in raised.value.message


def test_settings_of_a_server_show_no_password(tmp_path: Path) -> None:
    url = f"postgresql://u:{PASSWORD}@host/db"
    settings = server_settings(environ={"AICP_DATA_DIR": str(tmp_path), DATABASE_URL_VARIABLE: url})
    assert settings.database == PostgresServerUrl(url)
    assert PASSWORD not in repr(settings)


# -- aicp serve


def fetch(server: ServerProcess, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {server.key}"})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_server_killed_with_nine_goes_on_with_everything_when_it_is_started_again(tmp_path: Path) -> None:
    async def submit(server: ServerProcess, endpoints: list[str]) -> list[str]:
        async with Client(server.url, server.key) as client:
            for endpoint in endpoints:
                await client.register_agent(Registration(endpoint, lease=False))
            submits = (client.submit_chain(two_of("work"), key=f"k{n}") for n in range(20))
            return list(await asyncio.gather(*submits))

    async def ends(server: ServerProcess, chains: list[str]) -> list[Any]:
        async with Client(server.url, server.key) as client:
            return list(await asyncio.gather(*(client.wait_chain(chain, timeout_s=60) for chain in chains)))

    url = shared_server().fresh_url().replace("postgres@", f"postgres:{PASSWORD}@")
    server = ServerProcess(tmp_path / "data", {DATABASE_URL_VARIABLE: url})
    try:
        with agent_processes(worker="work", stalling="stall") as agents:
            server.start()
            server.wait_until_started()
            assert f"kept in postgresql://127.0.0.1:{shared_server().port}/postgres" in server.told()
            chains = asyncio.run(submit(server, [agent.endpoint for agent in agents.values()]))
            server.kill()
            agents["stalling"].kill()
            server.start()
            server.wait_until_started()
            assert json.loads(fetch(server, "/api/info")[1])["journal"] == "postgresql"
            ended = asyncio.run(ends(server, chains))
            assert {view.status for view in ended} == {COMPLETED}
            assert asyncio.run(submit(server, [])) == chains, "a key seen before the kill leads to the same chain"
            assert server.stop() == 0
        assert PASSWORD not in server.log.read_text()
        assert "Traceback" not in server.log.read_text()
    finally:
        server.kill()


def test_server_tells_of_a_database_that_was_killed_and_is_back_with_it(tmp_path: Path) -> None:
    with postgres_server() as database:
        server = ServerProcess(tmp_path / "data", {DATABASE_URL_VARIABLE: database.url()})
        try:
            server.start()
            server.wait_until_started()
            assert fetch(server, "/readyz") == (200, "ready")
            _kill_and_see(server, database)
            database.start()
            wait_until(lambda: fetch(server, "/readyz")[0] == 200, "the server is ready again")
            assert json.loads(fetch(server, "/api/tasks/chain")[1])["chains"] == []
            assert server.stop() == 0
            assert "Traceback" not in server.log.read_text()
        finally:
            server.kill()


def _kill_and_see(server: ServerProcess, database: PostgresServer) -> None:
    database.stop()
    wait_until(lambda: fetch(server, "/readyz")[0] == 503, "the server is unready")
    assert fetch(server, "/readyz") == (503, "unready: the database does not answer")
    assert fetch(server, "/livez") == (200, "ok")
    status, body = fetch(server, "/api/tasks/chain")
    assert (status, json.loads(body)["code"]) == (503, "storage_error")
    # Until then its last words are remembered, which may be that it shuts down.
    wait_until(lambda: "nobody listens there" in fetch(server, "/api/tasks/chain")[1], "the server finds nobody there")


@pytest.mark.parametrize(
    ("database", "told"),
    [("missing", "there is no such database"), ("postgres?sslmode=verify-full", "root certificate file")],
)
def test_server_on_a_database_it_cannot_use_ends_with_one_sentence(tmp_path: Path, database: str, told: str) -> None:
    port = shared_server().port
    url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{port}/{database}"
    server = ServerProcess(tmp_path / "data", {DATABASE_URL_VARIABLE: url, "HOME": str(tmp_path)})
    try:
        server.start()
        assert server.wait() == 2
        assert len(server.told().splitlines()) == 1, server.told()
        assert told in server.told()
        assert PASSWORD not in server.told()
    finally:
        server.kill()
