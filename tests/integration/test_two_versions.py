"""This version and a made-up newer one on one database: each does its own work, neither stops the other."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from aicp.coordination.listing import TaskQuery
from aicp.errors import ChainNotFound, NewerVersion, TaskNotFound
from aicp.model.access import ApiKey, Scope
from aicp.model.chain import SINGLE_TASK
from aicp.model.task import Task, TaskStatus
from aicp.ports import ChainQuery, StoredKey
from aicp.runtime.node import Node
from aicp.storage.row_checksums import checksum
from aicp.storage.rows import timestamp
from tests.integration.postgres_kit import run, shared_server
from tests.integration.server_kit import until
from tests.unit.sqlite_kit import AT


class NewerProcess:
    """The newer version, which answers questions."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, *words: object) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write((" ".join(map(str, words)) + "\n").encode())
        return await self.told()

    async def told(self) -> Any:
        assert self._process.stdout is not None
        return msgspec.json.decode(await self._process.stdout.readline())

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def newer_version(url: str, *how: str) -> AsyncIterator[NewerProcess]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.integration.newer_version", url, *how,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    newer = NewerProcess(process)
    try:
        assert await newer.told() == "ready"
        yield newer
    finally:
        await newer.kill()


@asynccontextmanager
async def this_version(url: str) -> AsyncIterator[Node]:
    async def work(params: dict[str, Any]) -> dict[str, Any]:
        if params.get("hang"):
            await asyncio.Event().wait()
        return {"n": params["n"] * 2, "by": "this"}

    async with Node(database=url) as node:
        await node.add_agent("worker", {"test.work": work}, max_concurrent_tasks=8)
        yield node


async def rows(url: str, sql: str, *values: object) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await connection.fetch(sql, *values)]
    finally:
        await connection.close()


async def status_of(url: str, chain_id: str) -> str:
    ((status,),) = await rows(url, "SELECT status FROM chains WHERE chain_id = $1", chain_id)
    return str(status)


async def until_ended(url: str, chain_id: str, status: TaskStatus) -> None:
    async with asyncio.timeout(30):
        while await status_of(url, chain_id) != status.value:  # noqa: ASYNC110 - another process does it
            await asyncio.sleep(0.05)


@pytest.fixture
def url() -> str:
    return shared_server().fresh_url()


def test_each_version_does_its_own_work_and_nothing_is_lost(url: str) -> None:
    async def main() -> None:
        async with newer_version(url) as newer, this_version(url) as node:
            cancelled, completed = [await newer.ask("submit", n) for n in (1, 2)]
            result = await node.router.route_task(Task("test.work", {"n": 5}))
            assert result.result == {"n": 10, "by": "this"}
            ours = (await node.coordinator.submit_task(Task("test.work", {"n": 3}))).partition(".")[0]
            await until_ended(url, ours, TaskStatus.COMPLETED)
            await _check_that_it_is_shown_and_not_read(node, completed, ours)
            await newer.kill()
            await _check_that_it_is_left_alone(url, node, completed)
            await node.coordinator.cancel(cancelled)
            assert not (await node.coordinator.status_of(cancelled)).is_terminal
            assert not (await node.coordinator.cancel_task(f"{cancelled}.{SINGLE_TASK}")).is_terminal
            with pytest.raises(TaskNotFound):
                await node.coordinator.cancel_task(f"{cancelled}.{SINGLE_TASK}", "somebody-else")
            assert await rows(url, "SELECT chain_id, name FROM requests") == [(cancelled, "cancel")]
            left = (await node.coordinator.submit_task(Task("test.work", {"n": 4, "hang": True}))).partition(".")[0]
            async with newer_version(url, "finish") as again:
                await until_ended(url, cancelled, TaskStatus.CANCELLED)
                await until_ended(url, completed, TaskStatus.COMPLETED)
                assert await rows(url, "SELECT chain_id FROM requests") == []
                assert await again.ask("facts", completed) == ["task_pondered", "task_ended", "chain_ended"]
                assert (await node.coordinator.status_of(left)) is TaskStatus.RUNNING
                await node.__aexit__(None, None, None)
                await until_ended(url, left, TaskStatus.COMPLETED)

    run(main())


async def _check_that_it_is_shown_and_not_read(node: Node, theirs: str, ours: str) -> None:
    with pytest.raises(NewerVersion):
        await node.coordinator.view(theirs)
    with pytest.raises(ChainNotFound):
        await node.coordinator.view(theirs, "somebody-else")
    chains = await node.coordinator.list_chains(ChainQuery())
    assert {theirs, ours} <= {chain.chain_id for chain in chains.chains}
    tasks = await node.coordinator.list_tasks(TaskQuery())
    assert {task.task_id.partition(".")[0] for task in tasks.tasks} >= {ours}
    assert theirs not in {task.task_id.partition(".")[0] for task in tasks.tasks}


async def _check_that_it_is_left_alone(url: str, node: Node, theirs: str) -> None:
    """Once the newer replica is known to be dead, this one looks at what it left, and takes none of it."""
    async with asyncio.timeout(30):
        while not await rows(url, "SELECT number FROM replicas WHERE died_at IS NOT NULL"):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
    assert list(await node.stores.journal.claim(10)) == []
    ((owner_died, epoch),) = await rows(
        url, "SELECT died_at IS NOT NULL, epoch FROM chains JOIN replicas ON owner = replicas.number "
        "WHERE chain_id = $1", theirs,
    )  # fmt: skip
    assert (owner_died, epoch) == (True, 1)


def test_agents_and_keys_of_the_newer_version_stop_nothing_and_revocation_works(url: str) -> None:
    async def main() -> None:
        async with newer_version(url) as newer, this_version(url) as node:
            for name in ("plain", "scoped", "bound"):
                await node.stores.api_keys.create(_key(name))
            await _give_more(url, "scoped", '{"scopes": ["tasks:ponder"]}')
            await _give_more(url, "bound", '{"ponders_a_day": 5}')
            assert await _good(node) == {"plain": (Scope.TASKS_READ,), "scoped": (Scope.TASKS_READ,)}
            assert await newer.ask("revoke", "plain")
            assert set(await _good(node)) == {"scoped"}
            for key_id in ("scoped", "bound"):
                assert await node.stores.api_keys.revoke(key_id, AT)
            assert await _good(node) == {}
            assert await newer.ask("good") == []
            await newer.ask("agent", "thinker")
            await until(lambda: "thinker" in {agent.agent_id for agent in node.ains.agents()})
            member = node.scheduler.find_member("thinker")
            assert member is not None
            assert member.trouble.is_draining
            assert (await node.router.route_task(Task("test.work", {"n": 5}))).result == {"n": 10, "by": "this"}
        async with this_version(url) as node:
            assert "thinker" in {agent.agent_id for agent in node.ains.agents()}
            member = node.scheduler.find_member("thinker")
            assert member is not None
            assert member.trouble.is_draining

    run(main())


def _key(name: str) -> StoredKey:
    key = ApiKey(name, name, "default", (Scope.TASKS_READ,), AT, AT + timedelta(days=9_999))
    return StoredKey(key, checksum(name).to_bytes(32, "big"))


async def _good(node: Node) -> dict[str, tuple[Scope, ...]]:
    found = await node.stores.api_keys.read()
    assert found is not None
    return {stored.key.key_id: stored.key.scopes for stored in found.keys if stored.key.revoked_at is None}


async def _give_more(url: str, key_id: str, more: str) -> None:
    columns = "key_id, digest, described, created_at, expires_at"
    (row,) = await rows(url, f"SELECT {columns} FROM api_keys WHERE key_id = $1", key_id)
    values = [value if isinstance(value, str | bytes) else timestamp(value) for value in row]
    update = "UPDATE api_keys SET more = $1, checksum = $2 WHERE key_id = $3"
    await rows(url, update, more, checksum(*values, more), key_id)
    await rows(url, "UPDATE api_keys_version SET version = version + 1")
