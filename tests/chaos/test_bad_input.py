"""What cannot be done, given to the real server: told in a sentence at its place, and the server goes on as before."""

import asyncio
import http.client
import json
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aicp.client import Client
from aicp.model.agent import Registration
from aicp.model.outcome import Outcome
from aicp.model.task import TaskStatus
from aicp.model.validation import parse_chain
from aicp.model.views import ChainView
from aicp.runtime.database_url import DATABASE_URL_VARIABLE
from tests.chaos.deployment import sqlite_deployment
from tests.chaos.rough_agents import MIB, rough_agent
from tests.chaos.server_process import ServerProcess

COMPLETED, FAILED, SKIPPED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.SKIPPED
DEADLINE_S = 60.0
HANGS_S = 60.0
"""Whatever takes so long hangs: no speed is judged."""


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """A server that knows one agent, `rough`."""
    with (
        tempfile.TemporaryDirectory() as directory,
        sqlite_deployment(Path(directory)) as deployment,
        rough_agent() as endpoint,
    ):
        (started,) = deployment.servers
        started.start()
        started.wait_until_started()
        ask(started, lambda client: client.register_agent(Registration(endpoint, lease=False)))
        yield started
        assert "Traceback" not in started.told()


@pytest.fixture(autouse=True)
def goes_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test did to the server that all share: it works."""
    yield
    if "server" in request.fixturenames:
        served = request.getfixturevalue("server")
        ask(served, lambda client: client.reset("rough"))
        assert run_chain(served, task("a", "echo", {"well": True})).status is COMPLETED


def ask(server: ServerProcess, question: Callable[[Client], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with Client(server.url, server.key, retries_max=0) as client:
            return await question(client)

    return asyncio.run(main())


def task(task_id: str, capability: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"id": task_id, "capability": f"rough.{capability}", "params": params, "deadline_s": DEADLINE_S}


def run_chain(server: ServerProcess, *tasks: dict[str, Any]) -> ChainView:
    async def run(client: Client) -> ChainView:
        return await client.wait_chain(await client.submit_chain(parse_chain({"tasks": list(tasks)})))

    view: ChainView = ask(server, run)
    return view


def told_of(view: ChainView, task_id: str) -> str:
    error = view.tasks[task_id].error
    assert error is not None
    return f"{error.code}: {error.message}"


def post(server: ServerProcess, path: str, document: Any) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {server.key}", "Content-Type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=HANGS_S)) as connection:
        connection.request("POST", path, json.dumps(document), headers)
        answered = connection.getresponse()
        return answered.status, json.loads(answered.read())


def test_pointer_that_points_nowhere_fails_its_task_and_names_it(server: ServerProcess) -> None:
    view = run_chain(
        server,
        task("source", "echo", {"x": 1}),
        task("reader", "echo", {"y": {"$result": "source", "path": "/z/0"}}),
        task("after", "echo", {"y": {"$result": "reader"}}),
    )

    assert view.status is FAILED
    assert told_of(view, "reader") == "reference_not_found: '/z/0' is nowhere in the result of 'source'."
    assert view.tasks["reader"].attempts == ()
    assert [view.tasks[name].status for name in ("source", "reader", "after")] == [COMPLETED, FAILED, SKIPPED]


def test_result_that_is_too_large_is_the_agents_fault_and_told(server: ServerProcess) -> None:
    view = run_chain(server, task("large", "large", {"bytes": 17 * MIB}))

    assert view.status is FAILED
    assert "answer is larger than 16384 KiB" in told_of(view, "large")
    assert {attempt.outcome for attempt in view.tasks["large"].attempts} == {Outcome.AGENT_FAULT}


def test_result_as_large_as_allowed_is_kept_and_shown_whole(server: ServerProcess) -> None:
    view = run_chain(server, task("large", "large", {"bytes": 15 * MIB}))

    assert view.tasks["large"].result == "x" * (15 * MIB)


def test_results_too_large_to_be_handed_on_together_are_the_callers_fault_and_told(server: ServerProcess) -> None:
    view = run_chain(
        server,
        task("one", "large", {"bytes": 9 * MIB}),
        task("other", "large", {"bytes": 9 * MIB}),
        task("both", "echo", {"one": {"$result": "one"}, "other": {"$result": "other"}}),
    )

    assert told_of(view, "both") == "caller_fault: params are larger than 16 MiB"
    assert [view.tasks[name].status for name in ("one", "other", "both")] == [COMPLETED, COMPLETED, FAILED]


@pytest.mark.parametrize("levels", [100, 100_000])
def test_result_nested_too_deep_is_the_agents_fault_and_told(server: ServerProcess, levels: int) -> None:
    view = run_chain(server, task("deep", "deep", {"levels": levels}))

    assert view.status is FAILED
    assert "answer is nested deeper than 64" in told_of(view, "deep")


def test_twenty_thousand_tasks_in_a_chain_are_refused_soon(server: ServerProcess) -> None:
    tasks = [{"id": f"t{number}", "capability": "rough.echo"} for number in range(20_000)]
    status, problem = post(server, "/api/tasks/chain", {"tasks": tasks})

    assert (status, problem["code"]) == (422, "invalid_chain")
    assert problem["faults"] == [{"place": "/tasks", "message": "has 20000 tasks; at most 10000 fit in a chain"}]


def test_circle_of_ten_thousand_is_shown_as_a_path_by_its_ends(server: ServerProcess) -> None:
    tasks = [
        {"id": f"t{number}", "capability": "rough.echo", "depends_on": [f"t{(number + 1) % 10_000}"]}
        for number in range(10_000)
    ]
    status, problem = post(server, "/api/tasks/chain", {"tasks": tasks})

    assert (status, problem["code"]) == (422, "invalid_chain")
    (fault,) = problem["faults"]
    assert "wait for one another in a circle: t0 -> t9999 -> " in fault["message"]
    assert fault["message"].endswith("more) -> t7 -> t6 -> t5 -> t4 -> t3 -> t2 -> t1 -> t0")


def test_database_of_a_newer_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    with sqlite_deployment(tmp_path) as deployment:
        (server,) = deployment.servers
        server.start()
        server.wait_until_started()
        server.stop()
        set_revision(deployment.path, "9999")
        server.start()
        assert server.wait() == 2
        assert server.told().startswith(f"The database {deployment.path} is of a newer version of AICP (revision 9999")
        assert server.told().endswith(": upgrade AICP, or restore a backup of this version.\n")
        assert server.told().count("\n") == 1
        assert revision_of(deployment.path) == "9999"


def test_directory_that_cannot_be_written_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "aicp.db"
    server = ServerProcess(tmp_path / "data", {DATABASE_URL_VARIABLE: f"sqlite:///{path}"})
    server.start()

    assert server.wait() == 2
    assert server.told() == (
        f"The database {path} cannot be used: File exists; choose a file in a directory of yours.\n"
    )


def set_revision(path: Path, revision: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = ?", (revision,))


def revision_of(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return str(revision)
