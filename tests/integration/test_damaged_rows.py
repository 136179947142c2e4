"""A server whose SQLite file has damaged rows: each is an error of its own, and everything else goes on."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from aicp.model.task import TaskStatus
from aicp.runtime.node import Node
from aicp.runtime.settings import Settings
from aicp.server.running import running_server
from tests.integration.server_kit import Api, Gate, echo, run, until

TASK = {"capability": "text.echo", "params": {"text": "hello"}}
SLOW = {"capability": "text.slow", "params": {"text": "hello"}}


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Api]:
    async with Node(database=f"sqlite:///{directory / 'a.db'}", data_dir=directory) as node:
        await node.add_agent("echo-1", {"text.echo": echo})
        async with (
            running_server(Settings(port=0, data_dir=directory), node) as server,
            aiohttp.ClientSession() as user,
        ):
            yield Api(server, node, user)


def change(directory: Path, sql: str, *params: Any) -> None:
    with closing(sqlite3.connect(directory / "a.db")) as connection, connection:
        assert connection.execute(sql, params).rowcount


def test_changed_result_is_an_error_with_a_code_and_a_metric_and_lists_go_on(tmp_path: Path) -> None:
    async def test() -> None:
        async with serving(tmp_path) as api:
            wrong, right = [(await api.post("/api/tasks?wait_s=10", TASK)).body["task_id"] for _ in range(2)]
        # Of the file, since ended chains are in memory for a while.
        change(tmp_path, "UPDATE facts SET fact = replace(fact, 'hello', 'hallo') WHERE chain_id = ? AND seq = 1",
               wrong.partition(".")[0])  # fmt: skip
        async with serving(tmp_path) as api:
            refused = await api.get(f"/api/tasks/{wrong}")
            assert (refused.status, refused.code, refused.body["retryable"]) == (500, "record_damaged", False)
            assert "aicp db check" in refused.body["detail"]
            assert (await api.get(f"/api/tasks/{right}")).body["result"] == {"text": "hello"}
            listed = (await api.get("/api/tasks")).body
            assert ([task["task_id"] for task in listed["tasks"]], listed["next_cursor"]) == ([right], None)
            chains = (await api.get("/api/tasks/chain")).body["chains"]
            assert len(chains) == 2
            assert 'aicp_damaged_rows_total{table="facts"} 1.0' in (await api.get("/metrics")).body

    run(test)


def test_damaged_chain_is_kept_and_every_other_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with serving(tmp_path) as api:
            gate = Gate()
            await api.node.add_agent("slow-1", {"text.slow": gate}, max_concurrent_tasks=2)
            damaged, intact = [(await api.post("/api/tasks", SLOW)).body["task_id"] for _ in range(2)]
            await gate.started.wait()
        chain_id = damaged.partition(".")[0]
        for _ in range(2):
            change(tmp_path, "UPDATE facts SET fact = replace(fact, 'hello', 'hullo') WHERE chain_id = ?", chain_id)
            async with serving(tmp_path) as api:
                await until(lambda: f"{chain_id}/0 of table facts" in caplog.text)
                assert (await api.get(f"/api/tasks/{damaged}")).code == "record_damaged"
                assert (await api.post(f"/api/tasks/{damaged}/cancel")).code == "record_damaged"
                await api.node.add_agent("slow-1", {"text.slow": echo})
                done = (await api.get(f"/api/tasks/{intact}?wait_s=10")).body
                assert (done["status"], done["result"]) == (TaskStatus.COMPLETED, {"text": "hello"})
            # A chain that is whole again goes on where it was.
            change(tmp_path, "UPDATE facts SET fact = replace(fact, 'hullo', 'hello') WHERE chain_id = ?", chain_id)
            caplog.clear()
        async with serving(tmp_path) as api:
            await api.node.add_agent("slow-1", {"text.slow": echo})
            done = (await api.get(f"/api/tasks/{damaged}?wait_s=10")).body
            assert (done["status"], done["result"]) == (TaskStatus.COMPLETED, {"text": "hello"})

    run(test)


def test_damaged_submit_key_is_refused_and_starts_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        headers = {"Idempotency-Key": "k1"}
        async with serving(tmp_path) as api:
            await api.post("/api/tasks?wait_s=10", TASK, headers=headers)
            change(tmp_path, "UPDATE submit_keys SET chain_id = 'other'")
            refused = await api.post("/api/tasks", TASK, headers=headers)
            assert (refused.status, refused.code) == (500, "record_damaged")
            assert len((await api.get("/api/tasks")).body["tasks"]) == 1

    run(test)
