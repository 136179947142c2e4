"""Large documents at once do not make a replica on PostgreSQL seem dead, and are answered."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.chaos.postgres_deployment import postgres_deployment
from tests.chaos.server_process import ServerProcess
from tests.postgres_server import ask_now

AT_ONCE = 4
BOUND_S = 100.0
_ROWS = b"[[1,2,3]],"
TOO_MANY = b'{"l":[' + _ROWS * 590_000 + b"1]}"
ALLOWED = b'{"l":[' + _ROWS * 35_000 + b'1],"t":"' + b"\\n" * 3_000_000 + b'"}'


def submit(server: ServerProcess, params: bytes) -> int:
    body = b'{"tasks":[{"id":"a","capability":"text.echo","params":' + params + b"}]}"
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    try:
        with urlopen(Request(f"{server.url}/api/tasks/chain", body, headers), timeout=BOUND_S) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def register(server: ServerProcess) -> None:
    """An agent that does not answer: only the submits matter here."""
    agent = {
        "endpoint": "http://127.0.0.1:9",
        "agent_id": "echo-1",
        "instance_id": "one",
        "capabilities": [{"name": "text.echo"}],
        "max_concurrent_tasks": 4,
    }
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    try:
        with urlopen(
            Request(f"{server.url}/ains/agents", json.dumps(agent).encode(), headers), timeout=BOUND_S
        ) as answer:
            assert answer.status == 201
    except HTTPError as error:
        raise AssertionError(error.read().decode()) from None


@pytest.mark.timeout(300)
def test_large_documents_at_once_are_answered_and_cost_no_replica_its_lease(tmp_path: Path) -> None:
    with postgres_deployment(tmp_path, 2) as deployment:
        for server in deployment.servers:
            server.start()
        for server in deployment.servers:
            server.wait_until_started()
        first = deployment.servers[0]
        register(first)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for params, expected in ((TOO_MANY, {422, 429}), (ALLOWED, {202, 429})):
                assert len(params) > 5_900_000
                statuses = Counter(threads.map(lambda _, sent=params: submit(first, sent), range(AT_ONCE)))
                assert statuses.keys() <= expected, statuses
        replicas = ask_now(deployment.database.url(), "SELECT count(*) FROM replicas WHERE died_at IS NULL")
        dead = ask_now(deployment.database.url(), "SELECT count(*) FROM replicas WHERE died_at IS NOT NULL")
        assert (replicas, dead) == (2, 0)
