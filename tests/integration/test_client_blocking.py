"""The blocking client: the same methods without asyncio."""

import gc
import inspect
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from aicp.client import Client, ClientClosed
from aicp.client.blocking import BlockingClient
from aicp.errors import SettingsError, TaskNotFound
from aicp.model.task import Task, TaskStatus
from tests.integration.server_kit import BOUND_S, Api, Test, shared_server

METHODS = [
    name for name, method in vars(Client).items() if inspect.iscoroutinefunction(method) and not name.startswith("_")
]


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    async def look(api: Api) -> None:
        found.append((api.url, api.key))

    with shared_server() as run_on_it:
        ask: Callable[[Test], None] = run_on_it
        ask(look)
        yield found[0]


def test_task_runs_without_asyncio(server: tuple[str, str]) -> None:
    with BlockingClient(*server) as client:
        task_id = client.submit_task(Task("text.echo", {"text": "hello"}))
        view = client.wait_task(task_id, timeout_s=10.0)
        assert (view.status, view.result) == (TaskStatus.COMPLETED, {"text": "hello"})
        assert client.call(Client.get_task, task_id) == view
        assert client.url == server[0]


def test_errors_are_the_same(server: tuple[str, str]) -> None:
    with BlockingClient(*server) as client, pytest.raises(TaskNotFound):
        client.get_task("no.pe")


def test_threads_share_one(server: tuple[str, str]) -> None:
    with BlockingClient(*server) as client, ThreadPoolExecutor(8) as threads:
        ids = list(threads.map(lambda number: client.submit_task(Task("text.echo", {"n": number})), range(32)))
        views = list(threads.map(client.wait_task, ids))
        assert [view.result["n"] for view in views] == list(range(32))


def test_events_come_without_asyncio(server: tuple[str, str]) -> None:
    # An id of another boot is answered with a gap at once: then the reader is there, and misses nothing.
    after = "0123456789ab-1"
    with BlockingClient(*server) as client, closing(client.events(kinds=["task_ended"], after=after)) as events:
        assert next(events).kind == "gap"
        task_id = client.submit_task(Task("text.echo"))
        assert next(event.status for event in events if event.task_id == task_id) == TaskStatus.COMPLETED


@pytest.mark.parametrize("name", METHODS)
def test_every_method_of_the_client_is_there(name: str) -> None:
    client = BlockingClient("http://127.0.0.1:9", "k")
    assert name in dir(client)
    assert name == "close" or callable(getattr(client, name))
    client.close()


def test_what_is_no_method_is_not_there() -> None:
    with BlockingClient("http://127.0.0.1:9", "k") as client:
        for name in ("nothing", "_ask", "_exchange"):
            with pytest.raises(AttributeError, match=name):
                getattr(client, name)


def test_close_ends_the_thread_and_may_come_twice() -> None:
    client = BlockingClient("http://127.0.0.1:9", "k")
    client.close()
    client.close()
    assert "aicp client" not in {thread.name for thread in threading.enumerate()}


def test_closed_client_says_so(server: tuple[str, str]) -> None:
    with BlockingClient(*server) as client:
        client.info()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for ask in (client.info, lambda: client.call(Client.info), lambda: next(client.events())):
            with pytest.raises(ClientClosed, match=r"^The client is closed; make another one\.$"):
                ask()


def test_events_that_were_not_read_to_their_end_end_with_the_client(
    server: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with BlockingClient(*server) as client:
        events = client.events(after="0123456789ab-1")
        assert next(events).kind == "gap"
    with pytest.raises(ClientClosed):
        next(events)
    del events
    gc.collect()
    assert not ignored


def test_close_ends_what_other_threads_wait_for(server: tuple[str, str]) -> None:
    with BlockingClient(*server) as client, ThreadPoolExecutor(1) as thread:
        events = client.events(after="0123456789ab-1")
        assert next(events).kind == "gap"
        # Another thread waits for what does not come, or comes too late: both end with the client.
        waiting = thread.submit(lambda: [event.kind for event in events if event.kind == "never"])
        client.close()
        with pytest.raises(ClientClosed):
            waiting.result(BOUND_S)


def test_client_that_nobody_has_any_more_gives_its_thread_back(server: tuple[str, str]) -> None:
    client = BlockingClient(*server)
    client.info()
    del client
    gc.collect()
    assert "aicp client" not in {thread.name for thread in threading.enumerate()}


def test_program_ends_that_closed_nothing(server: tuple[str, str]) -> None:
    program = """
import sys
from aicp.client.blocking import BlockingClient
client = BlockingClient(*sys.argv[1:])
events = client.events(after="0123456789ab-1")
print(next(events).kind)
"""
    ran = subprocess.run(
        [sys.executable, "-c", program, *server], capture_output=True, text=True, timeout=BOUND_S, check=True
    )
    assert (ran.stdout, ran.stderr) == ("gap\n", "")


def test_url_that_cannot_be_used_leaves_no_thread_behind() -> None:
    with pytest.raises(SettingsError):
        BlockingClient("nonsense")
    assert "aicp client" not in {thread.name for thread in threading.enumerate()}
