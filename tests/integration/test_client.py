"""The client against a real server: every method, its answers, and problems as the errors they are."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest

from aicp.client import Client, ServerRefused
from aicp.client.exchange import Exchange
from aicp.errors import (
    AccessDenied,
    AgentNotFound,
    AgentReplaced,
    ChainNotFound,
    Conflict,
    IdempotencyConflict,
    InvalidAgent,
    InvalidChain,
    InvalidInput,
    InvalidTask,
    KeyNotFound,
    NoCapableAgent,
    NotFound,
    QueueFull,
    SettingsError,
    TaskNotFound,
)
from aicp.model.access import KeyLimits, KeyRequest
from aicp.model.agent import Registration
from aicp.model.chain import ChainSpec, TaskChain
from aicp.model.task import Task, TaskStatus
from aicp.runtime.node import Node
from aicp.server import Keys, make_app
from aicp.server.auth import declared_routes
from aicp.server.routes import agents
from tests.integration.server_kit import Api, Gate, break_down, echoing_agent, with_api

ECHO = Task("text.echo", {"text": "hello"})


def with_client(test: Callable[[Client, Api], Coroutine[Any, Any, None]]) -> None:
    async def main(api: Api) -> None:
        async with Client(api.url, api.key, retries_max=0) as client:
            await test(client, api)

    with_api(main)


def test_task_is_submitted_waited_for_and_shown() -> None:
    async def test(client: Client, api: Api) -> None:
        task_id = await client.submit_task(ECHO)
        ended = await client.wait_task(task_id)
        assert (ended.status, ended.result) == (TaskStatus.COMPLETED, {"text": "hello"})
        assert await client.get_task(task_id) == ended

    with_client(test)


def test_whole_answer_to_a_submit_has_the_warning_that_it_will_probably_be_late() -> None:
    async def test(client: Client, api: Api) -> None:
        await client.run_task(ECHO)
        late = Task("text.echo", {"text": "hello"}, deadline_s=1e-6)
        answers = (
            await client.accept_task(late),
            await client.accept_chain(ChainSpec((msgspec.structs.replace(late, id="one"),))),
            await client.submit_parallel([late]),
            await client.run_task(late),
            await client.run_chain(ChainSpec((msgspec.structs.replace(late, id="one"),))),
        )
        for answer in answers:
            assert (answer.expected_s or 0.0) > 1e-6
            assert "longer than its deadline" in (answer.warning or "")
        ended = await client.wait_chain(answers[1].chain_id)
        again = await client.accept_retry(ended.chain_id)
        assert again.chain_id != ended.chain_id
        assert "longer than its deadline" in (again.warning or "")
        for fine in (await client.accept_task(ECHO), await client.run_task(ECHO)):
            assert not fine.expected_s
            assert not fine.warning

    with_client(test)


def test_chain_is_submitted_waited_for_and_shown() -> None:
    async def test(client: Client, api: Api) -> None:
        chain = TaskChain("two steps")
        once = chain.add_task("text.echo", {"text": "hello"})
        chain.add_task("text.echo", {"text": once.output["text"]}, id="twice")
        ended = await client.wait_chain(await client.submit_chain(chain))
        assert (ended.status, ended.completed_tasks) == (TaskStatus.COMPLETED, 2)
        assert ended.tasks["twice"].result == {"text": "hello"}
        assert ended.edges == [("echo", "twice")]

    with_client(test)


def test_parallel_tasks_are_submitted_together() -> None:
    async def test(client: Client, api: Api) -> None:
        accepted = await client.submit_parallel([ECHO, ECHO])
        assert (await client.wait_chain(accepted.chain_id)).completed_tasks == 2
        assert (await client.get_task(accepted.task_ids[1])).result == {"text": "hello"}

    with_client(test)


def test_task_parallel_tasks_and_chain_are_run_in_one_request_each() -> None:
    async def test(client: Client, api: Api) -> None:
        ended = await client.run_task(ECHO)
        assert (ended.status, ended.result) == (TaskStatus.COMPLETED, {"text": "hello"})
        assert (await client.run_parallel([ECHO, ECHO])).completed_tasks == 2
        chain = TaskChain("one step")
        chain.add_task("text.echo", {"text": "hello"})
        assert (await client.run_chain(chain)).tasks["echo"].result == {"text": "hello"}
        assert await client.run_chain(chain, key="same") == await client.run_chain(chain, key="same")

    with_client(test)


def test_run_goes_on_waiting_over_several_requests_and_gives_up_after_its_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("aicp.client.client.POLL_S", 0.05)

    async def test(client: Client, api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate}, max_concurrent_tasks=4)
        assert (await client.run_task(Task("text.gate"), timeout_s=0.12)).status is TaskStatus.RUNNING
        assert (await client.run_task(Task("text.gate"), timeout_s=0.0)).status is not TaskStatus.COMPLETED
        running = asyncio.create_task(client.run_task(Task("text.gate")))
        side_by_side = asyncio.create_task(client.run_parallel([Task("text.gate")]))
        for _ in range(3):
            await client.get_task((await client.submit_task(Task("text.gate"))), wait_s=0.05)
        assert not running.done()
        assert not side_by_side.done()
        gate.let_go.set()
        assert (await running).status is TaskStatus.COMPLETED
        assert (await side_by_side).status is TaskStatus.COMPLETED

    with_client(test)


def test_run_tells_what_is_refused_as_a_submit_does() -> None:
    async def test(client: Client, api: Api) -> None:
        with pytest.raises(InvalidTask):
            await client.run_task(Task("Not A Name"))
        with pytest.raises(NoCapableAgent):
            await client.run_parallel([Task("nobody.offers")])
        with pytest.raises(InvalidChain):
            await client.run_chain(ChainSpec(()))

    with_client(test)


def test_wait_gives_up_after_its_timeout() -> None:
    async def test(client: Client, api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate})
        task_id = await client.submit_task(Task("text.gate"))
        await gate.started.wait()
        assert (await client.wait_task(task_id, timeout_s=0.05)).status is TaskStatus.RUNNING
        assert (await client.wait_chain(task_id.partition(".")[0], timeout_s=0.05)).status is TaskStatus.RUNNING
        gate.let_go.set()

    with_client(test)


def test_wait_goes_on_over_several_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aicp.client.client.POLL_S", 0.05)

    async def test(client: Client, api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate})
        task_id = await client.submit_task(Task("text.gate"))
        waiting = asyncio.create_task(client.wait_task(task_id))
        for _ in range(3):
            await client.get_task(task_id, wait_s=0.05)
        assert not waiting.done()
        gate.let_go.set()
        assert (await waiting).status is TaskStatus.COMPLETED

    with_client(test)


def test_tasks_and_chains_are_cancelled() -> None:
    async def test(client: Client, api: Api) -> None:
        gate = Gate()
        await api.node.add_agent("gate-1", {"text.gate": gate}, max_concurrent_tasks=4)
        task_id = await client.submit_task(Task("text.gate"))
        chain_id = await client.submit_chain(ChainSpec((Task("text.gate", id="a"), Task("text.gate", id="b"))))
        await gate.started.wait()
        assert (await client.cancel_task(task_id)).status is TaskStatus.CANCELLED
        with pytest.raises(Conflict):
            await client.cancel_task(f"{chain_id}.a")
        assert (await client.cancel_chain(chain_id)).status is TaskStatus.CANCELLED
        assert await client.retry_chain(chain_id) != chain_id

    with_client(test)


def test_tasks_and_chains_are_listed_page_by_page_and_drawn() -> None:
    async def test(client: Client, api: Api) -> None:
        chains = [await client.submit_chain(ChainSpec((Task("text.echo", id="a"),), "named")) for _ in range(3)]
        for chain_id in chains:
            await client.wait_chain(chain_id)
        first = await client.list_chains(limit=2)
        assert [chain.chain_id for chain in first.chains] == [chains[2], chains[1]]
        last = await client.list_chains(limit=2, cursor=first.next_cursor)
        assert ([chain.chain_id for chain in last.chains], last.next_cursor) == ([chains[0]], None)
        assert (await client.list_chains(status=TaskStatus.FAILED)).chains == []
        tasks = await client.list_tasks(status=TaskStatus.COMPLETED, capability="text.echo", limit=1)
        assert [(task.task_id, task.status) for task in tasks.tasks] == [(f"{chains[2]}.a", TaskStatus.COMPLETED)]
        more = await client.list_tasks(cursor=tasks.next_cursor)
        assert [task.chain_id for task in more.tasks] == [chains[1], chains[0]]
        assert (await client.draw_chain(chains[0])).startswith("flowchart LR\n")
        with pytest.raises(InvalidInput, match="begin again"):
            await client.list_tasks(cursor="gone.a")
        with pytest.raises(InvalidInput, match="capability"):
            await client.list_tasks(capability="no name")
        with pytest.raises(ChainNotFound):
            await client.draw_chain("nope")

    with_client(test)


def test_agents_are_registered_found_drained_and_removed() -> None:
    async def test(client: Client, api: Api) -> None:
        async with echoing_agent().serving() as served:
            registered = await client.register_agent(Registration(served.endpoint))
            assert registered.lease is not None
            assert (await client.agent("eyes-1")).endpoint == served.endpoint
            assert [agent.agent_id for agent in await client.agents()] == ["echo-1", "eyes-1"]
            assert [agent.agent_id for agent in await client.agents("image.label")] == ["eyes-1"]
            assert (await client.heartbeat("eyes-1", served.instance_id)).lease == registered.lease
            with pytest.raises(AgentReplaced):
                await client.heartbeat("eyes-1", "another")
            assert (await client.drain_agent("eyes-1")).draining
            await client.remove_agent("eyes-1")
            with pytest.raises(AgentNotFound):
                await client.agent("eyes-1")

    with_client(test)


def test_agents_are_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "PAGE_MAX", 2)

    async def test(client: Client, api: Api) -> None:
        for number in range(1_001):
            await api.node.add_agent(f"a-{number:04}", {"text.many": break_down})
        found = await client.agents("text.many")
        assert [agent.agent_id for agent in found] == [f"a-{number:04}" for number in range(1_001)]

    with_client(test)


def test_health_failures_reset_status_and_info_are_typed() -> None:
    async def test(client: Client, api: Api) -> None:
        await api.node.add_agent("broken-1", {"text.break": break_down})
        await client.wait_task(await client.submit_task(Task("text.break", idempotent=False)))
        assert (await client.health()).agents["broken-1"].failure_count == 1
        failures = await client.failures(limit=5)
        assert (failures[0].agent_id, failures[0].timestamp.utcoffset() is not None) == ("broken-1", True)
        assert (await client.reset("broken-1")).state == "CLOSED"
        assert (await client.scheduler_status()).by_capability["text.break"].agents == 1
        assert not (await client.info()).durable

    with_client(test)


def test_same_key_gives_the_same_task_and_no_key_another() -> None:
    async def test(client: Client, api: Api) -> None:
        first = await client.submit_task(ECHO, key="k-1")
        assert await client.submit_task(ECHO, key="k-1") == first
        assert await client.submit_task(ECHO) != first
        with pytest.raises(IdempotencyConflict):
            await client.submit_task(Task("text.echo", {"text": "other"}), key="k-1")

    with_client(test)


def test_problems_come_back_as_the_errors_they_are() -> None:
    async def test(client: Client, api: Api) -> None:
        with pytest.raises(InvalidTask) as invalid:
            await client.submit_task(Task("no name", timeout_s=-1))
        assert [fault.place for fault in invalid.value.faults] == ["/capability", "/timeout_s"]
        with pytest.raises(InvalidChain):
            await client.submit_chain(ChainSpec(()))
        with pytest.raises(NoCapableAgent) as unknown:
            await client.submit_task(Task("text.ecko"))
        assert unknown.value.capability == "text.ecko"
        with pytest.raises(InvalidAgent):
            await client.register_agent(Registration("http://127.0.0.1:9"))
        with pytest.raises(InvalidInput):
            await client.get_task("a.b", wait_s=61)
        with pytest.raises(TaskNotFound):
            await client.get_task("a.b?c=d#e")
        with pytest.raises(NotFound):
            await client.get_task("a.b/../c")
        with pytest.raises(ChainNotFound):
            await client.get_chain("nope")
        with pytest.raises(AgentNotFound):
            await client.reset("nobody")
        api.node.coordinator._accepted._tasks_max = 0
        with pytest.raises(QueueFull) as full:
            await client.submit_task(ECHO)
        assert full.value.retry_after_s == 1.0

    with_client(test)


def test_wrong_key_is_told_as_such() -> None:
    async def main(api: Api) -> None:
        for key in (None, "wrong"):
            async with Client(api.url, key) as client:
                with pytest.raises(AccessDenied):
                    await client.info()

    with_api(main)


def test_params_that_are_not_json_are_refused_before_anything_is_sent() -> None:
    async def test(client: Client, api: Api) -> None:
        with pytest.raises(InvalidInput, match="not JSON"):
            await client.submit_task(Task("text.echo", {"thing": object()}))

    with_client(test)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_does_not_become_null_on_the_way(number: float) -> None:
    async def test(client: Client, api: Api) -> None:
        with pytest.raises(InvalidInput, match="NaN"):
            await client.submit_task(Task("text.echo", {"deep": [{"thing": number, "nothing": None}]}))
        with pytest.raises(InvalidInput, match="NaN"):
            await client.create_key(KeyRequest("unlimited", ("tasks:read",), limits=KeyLimits(rate_per_s=number)))
        assert not await client.list_keys()

    with_client(test)


ASKING_BY_ID: dict[type[NotFound], tuple[str, ...]] = {
    TaskNotFound: ("get_task", "explain_task", "cancel_task", "wait_task"),
    ChainNotFound: ("get_chain", "draw_chain", "cancel_chain", "retry_chain", "wait_chain"),
    AgentNotFound: ("agent", "drain_agent", "remove_agent", "reset", "open_agent", "disable_agent", "heartbeat"),
    KeyNotFound: ("revoke_key",),
}


@pytest.mark.parametrize("odd", ["", ".", "..", "\udcff"])
@pytest.mark.parametrize(("missing", "name"), [(kind, name) for kind, names in ASKING_BY_ID.items() for name in names])
def test_id_that_cannot_be_one_is_not_found_without_asking(missing: type[NotFound], name: str, odd: str) -> None:
    async def main() -> None:
        async with Client("http://127.0.0.1:9", "k") as client:
            with pytest.raises(missing, match=r"looks like|cannot be an id"):
                await getattr(client, name)(odd, *(["i"] if name == "heartbeat" else []))

    asyncio.run(main())


@pytest.mark.parametrize("task_id", ["chain", "parallel", ".task", "chain."])
def test_task_id_without_its_two_parts_is_not_found_without_asking(task_id: str) -> None:
    async def main() -> None:
        async with Client("http://127.0.0.1:9", "k") as client:
            with pytest.raises(TaskNotFound, match=rf"'{task_id}'; a task id looks like <chain>\.<task>\."):
                await client.get_task(task_id)

    asyncio.run(main())


def test_every_route_of_the_api_has_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()

    class Recorded(Exception):
        """A request was recorded in place of being sent."""

    async def record(_exchange: Exchange, method: str, path: str, **_: Any) -> bytes:
        asked.add(f"{method} {path}")
        raise Recorded

    async def record_stream(_exchange: Exchange, path: str, *_: Any) -> AsyncIterator[str]:
        yield f"id: {await record(_exchange, 'GET', path)!r}"

    monkeypatch.setattr(Exchange, "send", record)
    monkeypatch.setattr(Exchange, "lines", record_stream)
    values: dict[str, Any] = {
        "task": ECHO, "tasks": [ECHO], "chain": ChainSpec((ECHO,)), "registration": Registration("http://127.0.0.1:9"),
        "request": KeyRequest("k", ("admin",)), "task_id": "{task_id}.t", "chain_id": "{chain_id}",
        "agent_id": "{agent_id}", "key_id": "{key_id}", "instance_id": "i", "code": "c",
    }  # fmt: skip

    async def call_everything() -> None:
        client = Client("http://127.0.0.1:9", "k")
        calls = [method for name, method in inspect.getmembers(client, inspect.iscoroutinefunction) if name[0] != "_"]
        for method in calls:
            needed = [each.name for each in inspect.signature(method).parameters.values() if each.default is each.empty]
            with suppress(Recorded):
                await method(*(values[name] for name in needed))
        for call in (client.agents("text.echo"), anext(client.events())):
            with suppress(Recorded):
                await call

    asyncio.run(call_everything())
    routes = declared_routes(make_app(Node(), Keys("k")))
    declared = {
        f"{method} {path.replace(':str', '')}"
        for path, handler in routes
        for method in getattr(handler, "http_methods", ())
        if path.startswith(("/api", "/ains"))
    }
    assert {unquote(path).replace("{task_id}.t", "{task_id}") for path in asked} == declared


def test_answer_of_something_else_is_told_as_such() -> None:
    async def test(client: Client, api: Api) -> None:
        async with echoing_agent().serving() as served, Client(served.endpoint, "k", retries_max=0) as wrong:
            with pytest.raises(ServerRefused, match="404"):
                await wrong._exchange.send("POST", "/api/tasks", body={})

    with_client(test)


@pytest.mark.parametrize(
    "url",
    [
        "", "127.0.0.1:8420", "ftp://127.0.0.1", "http://", "http://h:0", "http://h:x", "http://u:p@h", "http://h?x=1",
        f"http://{'a' * 64}.example", "http://a..b", 5, None, b"http://127.0.0.1:8420",
    ],
)  # fmt: skip
def test_url_that_cannot_be_used_is_refused(url: Any) -> None:
    with pytest.raises(SettingsError, match="AICP_URL"):
        Client(url)


def test_url_with_a_password_is_refused_and_not_shown() -> None:
    with pytest.raises(SettingsError, match="AICP_URL") as raised:
        Client("http://me:hunter2@127.0.0.1:8420")
    assert "hunter2" not in raised.value.message


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", "\N{SNOWMAN}", 5, b"secret"])
def test_key_that_cannot_be_sent_is_refused_and_not_shown(key: Any) -> None:
    with pytest.raises(SettingsError, match="AICP_API_KEY"):
        Client("http://127.0.0.1:8420", key)
