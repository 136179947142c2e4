"""Live events over HTTP: read with the client, gone on with after a break, and harmless when nobody reads them."""

import asyncio
import gc
import resource
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import pytest

from aicp.client import Client
from aicp.errors import AicpError, InvalidInput
from aicp.model.event import CapabilityChanged, ChainSubmitted
from aicp.model.live import LiveEvent
from aicp.model.task import Task
from aicp.observability.feed import Batch, Reader
from aicp.runtime.node import Node
from aicp.runtime.onlookers import Onlookers
from aicp.runtime.settings import Settings
from aicp.server import running, running_server
from aicp.server.auth import Scope
from aicp.testing import LoopHoldMeter
from tests.integration.server_kit import BOUND_S, Api, break_down, echo, feeds_of, readers_of, run, until, with_api

SILENT_READERS = 300
TASKS = 3_000
HOLD_MS_MAX = 250.0
ROUNDS_MAX = 3
"""What the server does by itself takes as long every time; what a busy machine adds, does not."""
MEMORY_MIB_MAX = 150


def client_of(api: Api, key: str | None = None) -> Client:
    return Client(api.url, key or api.key)


async def until_kind(events: AsyncGenerator[LiveEvent, None], kind: str) -> list[LiveEvent]:
    """What comes up to the first event of a kind."""
    seen: list[LiveEvent] = []
    async for event in events:
        seen.append(event)
        if event.kind == kind:
            return seen
    raise AssertionError("events have no end")


def test_client_sees_a_task_from_its_submit_to_its_end() -> None:
    async def test(api: Api) -> None:
        async with client_of(api) as client, aclosing(client.events()) as events:
            following = asyncio.create_task(until_kind(events, "chain_ended"))
            await until(lambda: readers_of(api) == 1)
            task_id = await client.submit_task(Task("text.echo", {"a": 1}))
            seen = await following
        assert [event.kind for event in seen] == [
            "chain_submitted",
            "attempt_started",
            "attempt_ended",
            "task_ended",
            "chain_ended",
        ]
        assert {event.chain_id for event in seen} == {task_id.partition(".")[0]}
        numbers = [int(event.id.partition("-")[2]) for event in seen]
        assert numbers == list(range(numbers[0], numbers[0] + 5))

    with_api(test)


def test_a_submit_that_will_probably_be_late_is_told_behind_it() -> None:
    async def test(api: Api) -> None:
        async with client_of(api) as client:
            await client.run_task(Task("text.echo"))
            async with aclosing(client.events(kinds=["chain_submitted", "chain_warned"])) as events:
                following = asyncio.create_task(until_kind(events, "chain_warned"))
                await until(lambda: readers_of(api) == 1)
                accepted = await client.accept_task(Task("text.echo", deadline_s=1e-6))
                submitted, warned = await following
        assert submitted.kind == "chain_submitted"
        assert warned.chain_id == submitted.chain_id == accepted.task_id.partition(".")[0]
        assert (warned.expected_s, warned.warning) == (accepted.expected_s, accepted.warning)

    with_api(test)


def test_client_goes_on_behind_the_id_it_names() -> None:
    async def test(api: Api) -> None:
        async with client_of(api) as client:
            async with aclosing(client.events()) as events:
                following = asyncio.create_task(until_kind(events, "chain_submitted"))
                await until(lambda: readers_of(api) == 1)
                await client.wait_task(await client.submit_task(Task("text.echo")))
                (first,) = await following
            async with aclosing(client.events(after=first.id)) as events:
                missed = await until_kind(events, "chain_ended")
        assert [event.kind for event in missed] == ["attempt_started", "attempt_ended", "task_ended", "chain_ended"]

    with_api(test)


def test_filter_tells_only_what_was_asked_for() -> None:
    async def test(api: Api) -> None:
        await api.node.add_agent("broken", {"text.broken": break_down})
        async with client_of(api) as client:
            first = await client.submit_task(Task("text.echo"))
            wanted = client.events(kinds=["attempt_ended", "chain_ended"], agent_id="broken")
            async with aclosing(wanted) as events:
                following = asyncio.create_task(until_kind(events, "attempt_ended"))
                await until(lambda: readers_of(api) == 1)
                await client.submit_task(Task("text.echo"))
                await client.submit_task(Task("text.broken", deadline_s=5.0))
                (event,) = await following
        assert (event.agent_id, event.outcome) == ("broken", "AGENT_FAULT")
        assert event.chain_id != first.partition(".")[0]

    with_api(test)


def test_what_can_be_no_kind_is_refused() -> None:
    async def test(api: Api) -> None:
        refused = await api.get("/api/events?kind=task_ended,Nonsense")
        assert (refused.status, refused.code) == (422, "invalid_input")
        assert "'Nonsense'" in refused.faults["?kind"]
        async with client_of(api) as client:
            with pytest.raises(InvalidInput):
                await anext(client.events(kinds=["Nonsense"]))

    with_api(test)


def test_kind_that_only_a_later_version_tells_may_be_asked_for() -> None:
    async def test(api: Api) -> None:
        async with client_of(api) as client, aclosing(client.events(kinds=["moon_risen", "chain_ended"])) as events:
            following = asyncio.create_task(until_kind(events, "chain_ended"))
            await until(lambda: readers_of(api) == 1)
            await client.submit_task(Task("text.echo"))
            assert [event.kind for event in await following] == ["chain_ended"]

    with_api(test)


def test_reader_is_told_as_often_as_it_asks_for_that_it_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet: list[float] = []
    next_batch = Reader.next_batch

    async def at_once(self: Reader, quiet_s: float) -> Batch | None:
        quiet.append(quiet_s)
        return await next_batch(self, 0.01)

    monkeypatch.setattr(Reader, "next_batch", at_once)

    async def test(api: Api) -> None:
        headers = {"Authorization": f"Bearer {api.key}"}
        for query, told in (("?keepalive_s=2", 2.0), ("?keepalive_s=7.5", 7.5), ("", 15.0)):
            quiet.clear()
            async with api.session.get(f"{api.url}/api/events{query}", headers=headers) as answer:
                ids = [await answer.content.readuntil(b"\n\n") for _ in range(3)]
            assert len(set(ids)) == 1
            assert ids[0].startswith(b"id: ")
            assert set(quiet) == {told}

    with_api(test)


@pytest.mark.parametrize("told", ["1", "15.1", "-2", "nan", "often", "2&keepalive_s=3"])
def test_keepalive_out_of_bounds_is_refused(told: str) -> None:
    async def test(api: Api) -> None:
        refused = await api.get(f"/api/events?keepalive_s={told}")
        assert (refused.status, refused.code) == (422, "invalid_input")
        assert "?keepalive_s" in refused.faults

    with_api(test)


def test_client_says_so_when_its_key_is_wrong() -> None:
    async def test(api: Api) -> None:
        async with client_of(api, "wrong") as client:
            with pytest.raises(AicpError, match="key"):
                await anext(client.events())

    with_api(test)


def test_events_are_not_stored_on_the_way_and_say_what_they_are() -> None:
    async def test(api: Api) -> None:
        headers = {"Authorization": f"Bearer {api.key}", "Last-Event-ID": "0123456789ab-7"}
        async with api.session.get(f"{api.url}/api/events", headers=headers) as response:
            assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
            assert response.headers["Cache-Control"] == "no-store"
            lines = [(await response.content.readline()).decode() for _ in range(4)]
        assert lines[0].startswith("id: ")
        assert lines[1] == "\n"
        gap = msgspec.json.decode(lines[3].removeprefix("data: "))
        assert (gap["kind"], gap.get("lost")) == ("gap", None)

    with_api(test)


def test_reader_that_left_is_forgotten() -> None:
    async def test(api: Api) -> None:
        headers = {"Authorization": f"Bearer {api.key}"}
        async with aiohttp.ClientSession() as session, session.get(f"{api.url}/api/events", headers=headers) as answer:
            await answer.content.readline()
            assert readers_of(api) == 1
        await until(lambda: readers_of(api) == 0)

    with_api(test)


def test_client_goes_on_when_the_server_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "GRACE_S", 10 * BOUND_S)
    monkeypatch.setattr(running, "STOP_S_MAX", 10 * BOUND_S)

    async def main() -> None:
        async with Node() as node, AsyncExitStack() as stack:
            await node.add_agent("echo-1", {"text.echo": echo})
            async with running_server(Settings(port=0, data_dir=tmp_path), node) as server:
                port, key = int(server.url.rpartition(":")[2]), server.admin_key
                client = await stack.enter_async_context(Client(server.url, key))
                events = await stack.enter_async_context(aclosing(client.events()))
                following = asyncio.create_task(until_kind(events, "chain_ended"))
                await until(lambda: feeds_of(node)[0]._readers == 1)
                stopping = await stack.enter_async_context(asyncio.timeout(None))
                # Far below what is granted here to requests that go on, and far above what a busy machine needs.
                stopping.reschedule(asyncio.get_running_loop().time() + BOUND_S)
            stopping.reschedule(None)
            async with running_server(Settings(port=port, data_dir=tmp_path), node):
                await until(lambda: feeds_of(node)[0]._readers == 1)
                await client.submit_task(Task("text.echo"))
                seen = await following
        assert [event.kind for event in seen][:2] == ["gap", "chain_submitted"]

    run(main)


def test_tenants_do_not_hear_each_other() -> None:
    async def test(api: Api) -> None:
        async with (
            client_of(api, await api.new_key("a", Scope.TASKS_READ)) as a,
            client_of(api, await api.new_key("b", Scope.TASKS_READ)) as b,
            aclosing(a.events()) as of_a,
            aclosing(b.events()) as of_b,
        ):
            hearing = [asyncio.create_task(until_kind(each, "capability_changed")) for each in (of_a, of_b)]
            await until(lambda: readers_of(api) == 2)
            await api.node.coordinator.wait_result(await submit(api.node, "b"))
            api.node._observers.notify(CapabilityChanged("x", is_out=False, at=datetime.now(UTC)))
            heard_a, heard_b = [await each for each in hearing]
        assert [event.kind for event in heard_a] == ["capability_changed"]
        assert [event.kind for event in heard_b][:3] == ["agent_changed", "chain_submitted", "attempt_started"]
        assert [event.id.partition("-")[2] for event in heard_a] == ["1"]

    async def submit(node: Node, tenant: str) -> str:
        await node.add_agent("shared", {"text.echo": echo})
        profile = msgspec.structs.replace(node.ains.get("shared"), tenant=tenant, shared=False)
        node.ains.put(profile)
        return (await node.coordinator.submit_task(Task("text.echo"), tenant=tenant)).partition(".")[0]

    with_api(test)


def test_chain_is_known_to_onlookers_when_its_submit_is_told() -> None:
    known: list[bool] = []

    async def test(api: Api) -> None:
        class Asks:
            def notify(self, event: Any) -> None:
                if isinstance(event, ChainSubmitted):
                    known.append(api.node.coordinator.running(event.chain_id) is not None)

        api.node.observe(Asks())
        await api.post("/api/tasks", {"capability": "text.echo"})
        assert known == [True]

    with_api(test)


def test_three_hundred_who_connect_and_never_read_harm_nobody() -> None:
    async def test(api: Api) -> None:
        silent = [await asking_silently(api) for _ in range(SILENT_READERS)]
        try:
            await until(lambda: readers_of(api) == SILENT_READERS)
            before_mib = memory_mib()
            # What other tests left in this process is not the server's to look at.
            gc.collect()
            gc.freeze()
            for _ in range(ROUNDS_MAX):
                meter = await measured_at_work(api)
                if meter.longest.held_ms <= HOLD_MS_MAX:
                    break
            meter.check(HOLD_MS_MAX)
            assert memory_mib() - before_mib < MEMORY_MIB_MAX
        finally:
            gc.unfreeze()
            for each in silent:
                each.close()
        await until(lambda: readers_of(api) == 0)

    with_api(test)


async def asking_silently(api: Api) -> socket.socket:
    """Ask for live events, and read nothing."""
    parts = urlsplit(api.url)
    asking = socket.socket()
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    asking.settimeout(0)
    await asyncio.get_running_loop().sock_connect(asking, (parts.hostname, parts.port))
    request = f"GET /api/events HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {api.key}\r\n\r\n"
    await asyncio.get_running_loop().sock_sendall(asking, request.encode())
    return asking


async def measured_at_work(api: Api) -> LoopHoldMeter:
    """The holds of the loop while tasks are done; the meter leaves out what the loop waits for a core."""
    with LoopHoldMeter() as meter:
        working = asyncio.create_task(work_hard(api.node))
        while not working.done():
            assert (await api.get("/livez")).status == 200
            assert (await api.get("/api/circuit-breaker/health")).status == 200
            await asyncio.sleep(0.02)
        await working
    return meter


async def work_hard(node: Node) -> None:
    """Many events: five for each task."""
    for _ in range(TASKS // 100):
        results = await node.coordinator.execute_parallel_tasks([Task("text.echo") for _ in range(100)])
        assert {result.status for result in results} == {"COMPLETED"}


def memory_mib() -> float:
    """What the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def test_metrics_of_a_node_on_a_disk_tell_of_its_commits(tmp_path: Path) -> None:
    async def main() -> None:
        async with Node(database=f"sqlite:///{tmp_path / 'aicp.db'}", data_dir=tmp_path) as node:
            onlookers = Onlookers(node)
            onlookers.begin()
            await node.add_agent("echo-1", {"text.echo": echo})
            await node.coordinator.execute_parallel_tasks([Task("text.echo")])
            page = (await onlookers.metrics()).decode()
            onlookers.end()
        commits = next(line for line in page.splitlines() if line.startswith("aicp_journal_commit_seconds_count"))
        assert float(commits.split()[1]) >= 2

    run(main)


def test_metrics_are_served_as_prometheus_reads_them() -> None:
    async def test(api: Api) -> None:
        await api.get(
            f"/api/tasks/{(await api.post('/api/tasks', {'capability': 'text.echo'})).body['task_id']}?wait_s=5"
        )
        page = await api.get("/metrics")
        assert page.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert 'aicp_tasks_total{capability="text.echo",status="COMPLETED"} 1.0' in page.body.splitlines()

    with_api(test)
