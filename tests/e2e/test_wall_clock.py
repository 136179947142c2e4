"""A real server whose wall clock is set: what it recorded stays, and its durations stay true, also over kill -9."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from aicp.client.blocking import BlockingClient
from aicp.model.agent import Registration
from aicp.model.task import Task, TaskStatus
from aicp.model.views import TaskView
from tests.chaos.server_process import SOURCES, ServerProcess, wait_until
from tests.e2e.agent_process import AgentProcess, agent_processes

MONTH_S, TWO_HOURS_S = 30 * 86_400, 7_200
RETENTION_S = 3_600
# What a machine's clock shows is what this file says: nobody else's clock is touched.
MOVED_CLOCK = """
    import os
    from datetime import timedelta
    from pathlib import Path
    import aicp.ports
    from aicp.coordination import retention

    retention.LOOK_EVERY_S = 0.1
    offset = Path(os.environ["TEST_CLOCK_OFFSET"])
    real = aicp.ports.SystemClock.utcnow
    aicp.ports.SystemClock.utcnow = lambda clock: real(clock) + timedelta(seconds=float(offset.read_text()))
"""


class MovedClock:
    """A server and its wall clock."""

    def __init__(self, directory: Path) -> None:
        self._offset = directory / "offset"
        hook = directory / "hook"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(textwrap.dedent(MOVED_CLOCK))
        self.set(0)
        environ = {
            "PYTHONPATH": f"{hook}:{SOURCES}", "TEST_CLOCK_OFFSET": str(self._offset),
            "AICP_RETENTION_S": str(RETENTION_S),
        }  # fmt: skip
        self.server = ServerProcess(directory / "data", environ)

    def set(self, offset_s: float) -> None:
        """Set the clock so far ahead of the machine's, or behind it."""
        fresh = self._offset.with_suffix(".new")
        fresh.write_text(str(offset_s))
        fresh.rename(self._offset)

    def start(self) -> None:
        self.server.start()
        self.server.wait_until_started()

    def client(self) -> BlockingClient:
        return BlockingClient(self.server.url, self.server.key)

    def steps(self) -> int:
        return self.server.told().count("wall clock stepped by")


@pytest.fixture
def moved(tmp_path: Path) -> Iterator[MovedClock]:
    moved = MovedClock(tmp_path)
    moved.start()
    try:
        yield moved
    finally:
        moved.server.kill()


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentProcess]:
    with agent_processes(worker="work") as agents:
        yield agents["worker"]


def finish_one(client: BlockingClient, key: str) -> TaskView:
    view: TaskView = client.run_task(Task("work", {"key": key}), key=key, timeout_s=30)
    assert view.status is TaskStatus.COMPLETED
    return view


def test_a_wall_clock_a_month_ahead_deletes_no_result_and_no_key_also_over_a_restart(
    moved: MovedClock, agent: AgentProcess
) -> None:
    with moved.client() as client:
        client.register_agent(Registration(agent.endpoint, lease=False))
        done = finish_one(client, "first")
        moved.set(MONTH_S)
        wait_until(lambda: moved.steps() == 1, "the server sees the step")
        during = finish_one(client, "second")
    moved.server.kill()
    moved.start()
    with moved.client() as client:
        # Later than many looks of the retention: a task that ends shows that the server is past its start.
        for number in range(20):
            finish_one(client, f"later-{number}")
        for view in (done, during):
            assert client.get_task(view.task_id).result == view.result
        assert client.submit_task(Task("work", {"key": "first"}), key="first") == done.task_id
        moved.set(0)
        wait_until(lambda: moved.steps() == 1, "the server sees the step back")
        for view in (done, during):
            assert client.get_task(view.task_id).result == view.result


@pytest.mark.parametrize("offset_s", [TWO_HOURS_S, -TWO_HOURS_S])
def test_durations_of_a_task_that_lives_through_a_step_are_not_those_of_the_wall_clock(
    moved: MovedClock, agent: AgentProcess, offset_s: float
) -> None:
    with moved.client() as client:
        client.register_agent(Registration(agent.endpoint, lease=False))
        finish_one(client, "before")
        agent.kill()
        task_id = client.submit_task(Task("work"))
        wait_until(lambda: bool(client.get_task(task_id).attempts), "the task was tried")
        moved.set(offset_s)
        wait_until(lambda: moved.steps() == 1, "the server sees the step")
        agent.start()
        lived = client.wait_task(task_id, timeout_s=60)
        assert lived.status is TaskStatus.COMPLETED
        assert_plausible(lived)
        chain = client.get_chain(task_id.partition(".")[0])
        assert 0 <= (chain.ended_at - chain.started_at).total_seconds() < 120


def assert_plausible(view: TaskView) -> None:
    timings = view.timings
    assert timings is not None
    for each in (timings.queued_s, timings.running_s, timings.total_s):
        assert each is not None
        assert 0 <= each < 120
    moments = [moment for each in view.attempts for moment in (each.started_at, each.ended_at)]
    assert moments == sorted(moments)
