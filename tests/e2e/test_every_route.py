"""A real server process, driven through every route with the client, and through every command that asks a server."""

import asyncio
import json
import re
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import typer.main

from aicp.cli.main import make_app
from aicp.client import Client
from aicp.client.exchange import Exchange
from aicp.model.access import KeyRequest, Scope
from aicp.model.agent import Capability, Registration
from aicp.model.chain import ChainSpec
from aicp.model.history import HistoryMetric
from aicp.model.task import Task, TaskStatus
from tests.e2e.cli_kit import Shell, line_of, running_fleet

ECHO = Task("text.echo", {"text": "hello"})
OFFER = (Capability("text.gone"),)
TWO = ChainSpec((Task("text.echo", {"text": "a"}, id="a"), Task("text.echo", id="b", depends_on=("a",))), "two")
# Asked by load balancers, browsers, Prometheus and generators of clients, and not by ours.
NOT_OF_THE_CLIENT = {"livez", "readyz", "metrics", "document", "docs", "docs_style"}
# They start something themselves, or look at files: others test them.
ASK_NO_SERVER = {"demo", "serve", "version", "agent run", "db upgrade", "db check", "db backup", "db restore"}
ASK_NO_SERVER |= {"db salvage"}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with running_fleet(tmp_path_factory.mktemp("fleet")) as shell:
        yield shell


def key_of(fleet: Shell) -> str:
    return Path(fleet.environment["AICP_DATA_DIR"], "admin.key").read_text().strip()


def asked(fleet: Shell, path: str) -> tuple[int, bytes]:
    request = urllib.request.Request(
        fleet.environment["AICP_URL"] + path, headers={"Authorization": f"Bearer {key_of(fleet)}"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status, answer.read()


def operations(fleet: Shell) -> dict[str, tuple[str, re.Pattern[str]]]:
    """Every route of the running server by its name, as it tells them itself."""
    document = json.loads(asked(fleet, "/openapi.json")[1])
    return {
        operation["operationId"]: (method.upper(), re.compile(re.sub(r"\{\w+\}", r"[^/]+", path)))
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def name_of(routes: dict[str, tuple[str, re.Pattern[str]]], method: str, path: str) -> str:
    fitting = [name for name, (takes, form) in routes.items() if takes == method and form.fullmatch(path)]
    # A fixed path comes before one with an id in it: /api/tasks/chain is no task.
    return min(fitting, key=lambda name: routes[name][1].pattern.count("[^/]+"))


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Each request that a client of this process sends: method and path."""
    seen: list[tuple[str, str]] = []
    send, lines = Exchange.send, Exchange.lines

    async def noting_send(self: Exchange, method: str, path: str, **options: Any) -> bytes:
        seen.append((method, path))
        return await send(self, method, path, **options)

    def noting_lines(self: Exchange, path: str, *options: Any) -> Any:
        seen.append(("GET", path))
        return lines(self, path, *options)

    monkeypatch.setattr(Exchange, "send", noting_send)
    monkeypatch.setattr(Exchange, "lines", noting_lines)
    return seen


def test_client_reaches_every_route(fleet: Shell, noted: list[tuple[str, str]]) -> None:
    async def drive() -> None:
        async with asyncio.timeout(60), Client(fleet.environment["AICP_URL"], key_of(fleet)) as client:
            await drive_tasks(client)
            await drive_agents(client)
            await drive_the_rest(client)

    asyncio.run(drive())
    routes = operations(fleet)
    reached = {name_of(routes, method, path) for method, path in noted}
    assert reached == routes.keys() - NOT_OF_THE_CLIENT


async def drive_tasks(client: Client) -> None:
    ended = await client.run_task(ECHO)
    assert (ended.status, ended.result) == (TaskStatus.COMPLETED, {"text": "hello"})
    assert (await client.wait_task(await client.submit_task(ECHO))).status is TaskStatus.COMPLETED
    assert (await client.explain_task(ended.task_id)).choices[0].agent_id == "eyes-1"
    assert ended.task_id in {task.task_id for task in (await client.list_tasks()).tasks}
    assert (await client.run_parallel([ECHO, ECHO])).completed_tasks == 2
    chain = await client.run_chain(TWO)
    assert (await client.get_chain(chain.chain_id)).status is TaskStatus.COMPLETED
    assert (
        await client.follow_chain(chain.chain_id, since=(await client.follow_chain(chain.chain_id)).seq)
    ).tasks == {}
    assert chain.chain_id in {listed.chain_id for listed in (await client.list_chains()).chains}
    since = chain.started_at
    named = await client.list_chains(name="tw", submitted_from=since, submitted_to=since + timedelta(days=1))
    assert chain.chain_id in {listed.chain_id for listed in named.chains}
    assert (await client.list_chains(submitted_to=since.replace(year=2000))).chains == []
    assert "a" in await client.draw_chain(chain.chain_id)
    assert (await client.wait_chain(await client.retry_chain(chain.chain_id))).status is TaskStatus.COMPLETED
    slow = await client.submit_task(Task("text.slow"))
    assert (await client.cancel_task(slow)).status is TaskStatus.CANCELLED
    slow_chain = await client.submit_chain(ChainSpec((Task("text.slow", id="a"), Task("text.slow", id="b"))))
    assert (await client.cancel_chain(slow_chain)).status is TaskStatus.CANCELLED


async def drive_agents(client: Client) -> None:
    registered = await client.register_agent(
        Registration("http://127.0.0.1:9", "gone-1", "i1", capabilities=OFFER, max_concurrent_tasks=1)
    )
    assert registered.lease is not None
    assert (await client.heartbeat("gone-1", "i1")).lease.ttl_s > 0
    assert {agent.agent_id for agent in await client.agents()} >= {"eyes-1", "gone-1"}
    assert [agent.agent_id for agent in await client.agents("text.upper")] == ["eyes-1"]
    assert (await client.open_agent("gone-1")).state == "FORCED_OPEN"
    assert (await client.disable_agent("gone-1")).state == "DISABLED"
    assert (await client.reset("gone-1")).state == "CLOSED"
    assert (await client.drain_agent("gone-1")).draining
    assert (await client.agent("gone-1")).draining
    await client.remove_agent("gone-1")
    assert "gone-1" not in {agent.agent_id for agent in await client.agents()}


async def drive_the_rest(client: Client) -> None:
    assert (await client.health()).agents["eyes-1"].state == "CLOSED"
    assert isinstance(await client.failures(), list)
    assert (await client.scheduler_status()).agents_count >= 1
    history = await client.history(capability="text.echo", metric=HistoryMetric.COMPLETED)
    assert [series.capability for series in history.series] == ["text.echo"]
    assert (await client.info()).durable
    made = await client.create_key(KeyRequest("test", (Scope.TASKS_READ,)))
    assert made.key.key_id in {key.key_id for key in await client.list_keys()}
    assert (await client.revoke_key(made.key.key_id)).revoked_at is not None
    assert (await client.current_key()).tenant == "*"
    opened = await client.open_session((await client.create_session_code()).code)
    async with Client(client.url, opened.key) as page:
        assert (await page.info()).name == "aicp"
        await page.close_session()
    await client.list_audit()
    events = client.events()
    following = asyncio.ensure_future(anext(events))
    while not following.done():
        await client.run_task(ECHO)
    assert following.result().id
    await events.aclose()


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs", "/docs/page.css"])
def test_what_the_client_does_not_ask_for_is_answered(fleet: Shell, path: str) -> None:
    status, body = asked(fleet, path)
    assert status == 200
    assert body


def leaves(command: Any, place: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command that is no group of others."""
    if not hasattr(command, "commands"):
        yield " ".join(place)
        return
    for name, inner in command.commands.items():
        yield from leaves(inner, (*place, name))


def test_every_command_that_asks_a_server_does_so(fleet: Shell) -> None:
    used: set[str] = set()

    def ran(command: str, *arguments: str) -> Any:
        used.add(command)
        done = fleet.call(*command.split(), *arguments, "-o", "json")
        assert done.code == 0, done.err
        return json.loads(done.out)

    drive_commands_for_tasks(ran)
    drive_commands_for_agents(ran)
    drive_commands_for_keys(ran)
    assert ran("doctor")
    assert "/dashboard/#code=" in ran("dashboard")["url"]
    with fleet.started("top", "-o", "jsonl") as top:
        used.add("top")
        assert json.loads(line_of(top.stdout))
    assert used == set(leaves(typer.main.get_command(make_app()))) - ASK_NO_SERVER


Command = Callable[..., Any]


def drive_commands_for_tasks(ran: Command) -> None:
    task = ran("task run", "text.echo", "--params", '{"text": "hello"}', "--wait")
    assert (task["status"], task["result"]) == ("COMPLETED", {"text": "hello"})
    assert ran("task show", task["task_id"])["result"] == {"text": "hello"}
    assert task["task_id"] in {listed["task_id"] for listed in ran("task list")}
    assert ran("task explain", task["task_id"])["choices"][0]["agent_id"] == "eyes-1"
    slow = ran("task run", "text.slow")["task_id"]
    assert ran("task cancel", slow)["status"] == "CANCELLED"
    chain = ran("chain run", "chain.yaml")
    assert chain["tasks"]["twice"]["result"] == {"text": "HELLO"}
    chain_id = chain["chain_id"]
    assert ran("chain show", chain_id)["status"] == "COMPLETED"
    assert chain_id in {listed["chain_id"] for listed in ran("chain list")}
    assert "once" in json.dumps(ran("chain graph", chain_id))
    assert ran("chain cancel", chain_id)["status"] == "COMPLETED"
    assert ran("chain retry", chain_id)["chain_id"] != chain_id


def drive_commands_for_agents(ran: Command) -> None:
    eyes = ran("agent show", "eyes-1")
    assert ran("agent add", eyes["endpoint"], "--id", "twin-1")["agent_id"] == "twin-1"
    assert {agent["agent_id"] for agent in ran("agent list")} >= {"eyes-1", "twin-1"}
    assert ran("breaker open", "twin-1")["state"] == "FORCED_OPEN"
    assert ran("breaker disable", "twin-1")["state"] == "DISABLED"
    assert ran("breaker reset", "twin-1")["state"] == "CLOSED"
    assert ran("breaker list")
    assert ran("agent drain", "twin-1")["draining"]
    ran("agent remove", "twin-1")
    assert ran("scheduler status")["agents_count"] >= 1


def drive_commands_for_keys(ran: Command) -> None:
    made = ran("key create", "test", "--scope", "tasks:read")
    assert made["key"]["key_id"] in json.dumps(ran("key list"))
    assert ran("key revoke", made["key"]["key_id"])["revoked_at"] is not None
    ran("key audit")
