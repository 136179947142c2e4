"""Agents of a file: what the file says is so soon after, and what it no longer says is gone."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from aicp import InvalidAgent, Node, SettingsError, Task, TaskStatus
from aicp.agent import Agent
from aicp.model.event import AgentChanged, Event
from aicp.resilience.circuit_breaker import CircuitState
from aicp.runtime import health_watch, static_agents
from aicp.runtime.agents_file import read_static_agents
from aicp.testing.faulty_servers import FaultyServer, http
from tests.integration.server_kit import Gate, echoing_agent, run, until

WHOLE = "agent_id: {id}, capabilities: [{{name: {capability}}}], max_concurrent_tasks: 2"


class Changes:
    """What the registry told of agents."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def notify(self, event: Event) -> None:
        if isinstance(event, AgentChanged):
            self.seen.append((event.agent_id, event.change))


class Kept:
    """A node, and a file whose agents are kept registered with it."""

    def __init__(self, node: Node, file: Path) -> None:
        self.node = node
        self.file = file
        self.said: list[str] = []
        self.changes = Changes()
        node.observe(self.changes)

    @property
    def agents(self) -> list[str]:
        return sorted(profile.agent_id for profile in self.node.ains.agents())

    def write(self, content: str) -> None:
        """In place of what was there, in one step."""
        new = self.file.with_suffix(".new")
        new.write_text(content)
        new.chmod(0o600)
        new.replace(self.file)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_agents, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(static_agents, "SETTLED_S", 0.01)
    monkeypatch.setattr(static_agents, "TRY_AGAIN_EVERY_S", 0.05)


@asynccontextmanager
async def kept(file: Path, content: str, database: str | None = None) -> AsyncIterator[Kept]:
    async with Node(database=database, data_dir=file.parent) as node:
        keeping = Kept(node, file)
        keeping.write(content)
        async with static_agents.static_agents(file, node.ains, keeping.said.append):
            yield keeping


def entry(agent_id: str, port: int = 9, capability: str = "text.far", more: str = "") -> str:
    whole = WHOLE.format(id=agent_id, capability=capability)
    return f"  - {{endpoint: 'http://127.0.0.1:{port}', {whole}{more}}}\n"


def listing(*entries: str) -> str:
    return "agents:\n" + "".join(entries) if entries else "agents: []\n"


def test_agents_of_a_file_are_used_as_it_says(tmp_path: Path) -> None:
    async def main() -> None:
        async with echoing_agent().serving() as served:
            content = f"""
agents:
  - endpoint: {served.endpoint}/
    labels: {{zone: a}}
  - endpoint: http://127.0.0.1:9
    agent_id: far
    name: the far one
    capabilities: [{{name: text.far, version: "2.1"}}]
    max_concurrent_tasks: 3
    shared: true
    tenant: theirs
"""
            async with kept(tmp_path / "agents.yaml", content) as keeping:
                ains, router = keeping.node.ains, keeping.node.router
                near, far = ains.get("eyes-1"), ains.get("far")
                assert (near.labels, near.lease, near.max_concurrent_tasks) == ({"zone": "a"}, False, 4)
                assert (far.name, far.shared, far.tenant, far.max_concurrent_tasks) == (
                    "the far one",
                    True,
                    "theirs",
                    3,
                )
                assert [each.agent_id for each in ains.search("text.far@2")] == ["far"]
                assert (await router.route_task(Task("image.label", {"a": 1}))).result == {"seen": {"a": 1}}
                assert keeping.said == [f"{keeping.file} lists 2 agents: 2 added, 0 changed, 0 removed."]

    run(main)


def test_additions_changes_and_removals_hold_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path / "agents.yaml", listing(entry("a"), entry("b"))) as keeping:
            assert keeping.agents == ["a", "b"]
            keeping.write(listing(entry("b", more=", labels: {zone: x}"), entry("c", port=10)))
            await until(lambda: len(keeping.said) == 2)
            assert keeping.agents == ["b", "c"]
            assert keeping.node.ains.get("b").labels == {"zone": "x"}
            assert keeping.changes.seen[2:] == [("a", "removed"), ("b", "updated"), ("c", "registered")]
            assert keeping.said[1].endswith("lists 2 agents: 1 added, 1 changed, 1 removed.")
            keeping.write(listing())
            await until(lambda: keeping.agents == [])

    run(main)


def test_file_that_is_touched_and_says_the_same_changes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with kept(tmp_path / "agents.yaml", listing(entry("a"))) as keeping:
            keeping.write("# the same\n" + listing(entry("a")))
            keeping.write(listing(entry("a")) + "# as before\n")
            keeping.write(listing(entry("a"), entry("b")))
            await until(lambda: keeping.agents == ["a", "b"])
            assert keeping.changes.seen == [("a", "registered"), ("b", "registered")]

    run(main)


def test_agent_taken_out_of_the_file_ends_the_task_it_has(tmp_path: Path) -> None:
    async def main() -> None:
        gate = Gate()
        agent = Agent("slow-1")
        agent.capability("text.gate")(gate)
        async with agent.serving() as served:
            file = tmp_path / "agents.yaml"
            async with kept(file, f"agents: [{{endpoint: '{served.endpoint}'}}]") as keeping:
                routing = asyncio.create_task(keeping.node.router.route_task(Task("text.gate")))
                await gate.started.wait()
                keeping.write(listing())
                await until(lambda: keeping.agents == [])
                gate.let_go.set()
                assert (await routing).status is TaskStatus.COMPLETED

    run(main)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("agents: [", "is not YAML"),
        ("", "must hold a list under 'agents'"),
        (listing(entry("a"), entry("b"), entry("a")), ":4 /agents/2: has the id of /agents/0"),
        (listing(entry("b"), "  - {endpoint: 'http://127.0.0.1:9', colour: red}\n"), "colour"),
        (listing(entry("b"), "  - {endpoint: 'ftp://x'}\n"), ":3 /agents/1/endpoint: must start with http"),
        (listing(entry("b"), entry("not a name!")), ":3 /agents/1/agent_id: must be 1 to 128"),
        (listing(entry("b", capability="no name")), "/agents/0/capabilities/0/name"),
        (listing(entry("b", more=", tenant: ''")), "/agents/0/tenant"),
        (listing("  - {python: 'eyes:agent'}\n"), "a server runs no agents of Python"),
        (listing(entry("b", more=", auth: {bearer_file: nowhere}")), "nowhere cannot be read"),
        (listing(entry("b", more=", auth: {bearer_env: AICP_TEST_NOWHERE}")), "AICP_TEST_NOWHERE is not set"),
        (listing(entry("b", more=", auth: {bearer: x, bearer_env: HOME}")), "must have one of"),
        (listing(entry("b", more=", auth: {}")), "must have one of"),
        (listing(entry("b", more=", auth: {bearer: 'two words'}")), "printable ASCII characters, without spaces"),
        (listing(entry("b", more=", auth: {bearer_file: .}")), "it is no file"),
        (listing(entry("b", more=', auth: {bearer_file: "a\\0b"}')), "embedded null byte"),
        (listing(entry("b", more=", auth: none")), "/agents/0/auth"),
    ],
)
def test_broken_file_is_told_in_a_sentence_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str, told: str
) -> None:
    file = tmp_path / "agents.yaml"

    async def main() -> None:
        async with kept(file, listing(entry("a"))) as keeping:
            keeping.write(content)
            await until(lambda: bool(caplog.messages))
            assert keeping.agents == ["a"]
            keeping.write(listing(entry("a"), entry("c")))
            await until(lambda: keeping.agents == ["a", "c"])
            assert keeping.changes.seen == [("a", "registered"), ("c", "registered")]

    with caplog.at_level(logging.WARNING, logger=static_agents.__name__):
        run(main)
    (message,) = caplog.messages
    assert str(file) in message
    assert told in message
    assert message.endswith(". Its agents stay as they were.")
    assert len(message.splitlines()) == 1


def test_file_that_is_gone_changes_nothing_until_it_is_back(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with kept(tmp_path / "agents.yaml", listing(entry("a"))) as keeping:
            keeping.file.unlink()
            await until(lambda: "cannot be read" in caplog.text)
            assert keeping.agents == ["a"]
            keeping.write(listing(entry("b")))
            await until(lambda: keeping.agents == ["b"])

    run(main)


def test_file_is_taken_over_only_once_nobody_writes_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a list is a list, too."""
    looks = [static_agents.Seen(digest, 0, ()) for digest in (b"old", b"old", b"half", b"more", b"whole", b"whole")]
    seen: list[static_agents.Seen] = []

    def look(*_: object) -> static_agents.Seen:
        seen.append(looks[min(len(seen), len(looks) - 1)])
        return seen[-1]

    async def main() -> None:
        async with kept(tmp_path / "agents.yaml", listing(entry("a"))) as keeping:
            keeping.write(listing(entry("b")))
            await until(lambda: keeping.agents == ["b"])
            assert seen[:6] == looks

    monkeypatch.setattr(static_agents, "_look_at", look)
    run(main)


def test_pipe_in_place_of_the_file_is_not_waited_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with kept(tmp_path / "agents.yaml", listing(entry("a"))) as keeping:
            keeping.file.unlink()
            os.mkfifo(keeping.file)
            await until(lambda: "is no file that can be read again" in caplog.text or "cannot be read" in caplog.text)
            assert keeping.agents == ["a"]
            keeping.file.unlink()
            keeping.write(listing(entry("b")))
            await until(lambda: keeping.agents == ["b"])

    run(main)


def test_start_with_a_broken_file_is_refused(tmp_path: Path) -> None:
    async def main(content: str) -> None:
        async with kept(tmp_path / "agents.yaml", content):
            raise AssertionError("it began")

    with pytest.raises(SettingsError, match="is not YAML"):
        asyncio.run(main("agents: ["))
    with pytest.raises(InvalidAgent, match="/agents/0/endpoint"):
        asyncio.run(main("agents: [{endpoint: 'ftp://x'}]"))


def test_agent_that_is_dead_at_the_start_is_used_once_it_lives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with echoing_agent().serving() as served:
            endpoint = served.endpoint
        async with kept(tmp_path / "agents.yaml", listing(f"  - endpoint: {endpoint}\n", entry("a"))) as keeping:
            assert keeping.agents == ["a"]
            assert keeping.said[0].endswith("2 added, 0 changed, 0 removed; 1 not in use yet.")
            async with echoing_agent().serving(port=int(endpoint.rpartition(":")[2])):
                await until(lambda: keeping.agents == ["a", "eyes-1"])

    run(main)
    (told,) = [message for message in caplog.messages if "is not used as it says" in message]
    assert "gave no description: connection refused; it is tried again" in told


def test_trouble_with_a_listed_agent_is_logged_with_its_id(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        nameless, named = "http://127.0.0.1:9", "{endpoint: 'http://127.0.0.1:10', agent_id: b}"
        async with kept(tmp_path / "agents.yaml", f"agents: [{{endpoint: '{nameless}'}}, {named}]"):
            pass

    run(main)
    told = [record for record in caplog.records if "is not used as it says" in record.getMessage()]
    assert {getattr(record, "agent_id", None) for record in told} == {None, "b"}


def test_two_that_call_themselves_alike_are_told_and_the_first_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with echoing_agent().serving() as one, echoing_agent().serving() as other:
            content = listing(entry("a"), f"  - endpoint: {one.endpoint}\n")
            async with kept(tmp_path / "agents.yaml", content) as keeping:
                keeping.write(content + f"  - endpoint: {other.endpoint}\n")
                await until(lambda: "give one another id" in caplog.text)
                assert keeping.node.ains.get("eyes-1").endpoint == one.endpoint

    run(main)


def test_agent_that_calls_itself_otherwise_by_now_is_known_by_its_new_id_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with echoing_agent("eyes-1").serving() as served:
            content = f"agents: [{{endpoint: '{served.endpoint}'}}]"
            port = int(served.endpoint.rpartition(":")[2])
            keeping = await stack.enter_async_context(kept(tmp_path / "agents.yaml", content))
            assert keeping.agents == ["eyes-1"]
        async with echoing_agent("eyes-2").serving(port=port):
            keeping.write(content.replace("}", ", labels: {zone: a}}"))
            await until(lambda: keeping.agents == ["eyes-2"])

    stack = AsyncExitStack()

    async def closing() -> None:
        async with stack:
            await main()

    run(closing)


def test_agents_of_a_file_are_not_remembered_without_it(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/aicp.db"

    async def main() -> None:
        async with kept(tmp_path / "agents.yaml", listing(entry("a")), database) as keeping:
            assert keeping.agents == ["a"]
        async with Node(database=database, data_dir=tmp_path) as node:
            assert node.ains.agents() == []

    run(main)


def test_agent_that_was_registered_belongs_to_the_file_once_that_lists_it(tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path}/aicp.db"

    async def main() -> None:
        async with Node(database=database, data_dir=tmp_path) as node, echoing_agent("a").serving() as served:
            await node.add_agent(endpoint=served.endpoint)
        async with kept(tmp_path / "agents.yaml", listing(entry("a")), database) as keeping:
            assert keeping.node.ains.get("a").endpoint == "http://127.0.0.1:9"
            keeping.write(listing())
            await until(lambda: keeping.agents == [])
            await keeping.node.ains.forget_removed()
        async with Node(database=database, data_dir=tmp_path) as node:
            assert node.ains.agents() == []

    run(main)


def test_agent_that_registered_itself_meanwhile_is_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        file = tmp_path / "agents.yaml"
        async with kept(file, listing(entry("eyes-1"))) as keeping, echoing_agent().serving() as served:
            await keeping.node.add_agent(endpoint=served.endpoint)
            keeping.write(listing())
            await until(lambda: len(keeping.said) == 2)
            assert keeping.node.ains.get("eyes-1").endpoint == served.endpoint

    run(main)


# -- secrets


@pytest.mark.parametrize("how", ["bearer: s3cret", "bearer_file: token", "bearer_env: AICP_TEST_TOKEN"])
def test_bearer_comes_from_where_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setenv("AICP_TEST_TOKEN", "s3cret")
    (tmp_path / "token").write_text("s3cret\n")

    async def main() -> None:
        async with echoing_agent().serving(token="s3cret") as served:
            content = f"agents: [{{endpoint: '{served.endpoint}', auth: {{{how}}}}}]"
            async with kept(tmp_path / "agents.yaml", content) as keeping:
                result = await keeping.node.router.route_task(Task("image.label", {}))
                assert result.status is TaskStatus.COMPLETED

    run(main)


def test_bearer_that_changes_in_its_file_is_taken_over(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")

    async def main() -> None:
        content = listing(entry("a", more=", auth: {bearer_file: token}"))
        async with kept(tmp_path / "agents.yaml", content) as keeping:
            assert _bearer_of(keeping, "a") == "old"
            token.write_text("a new one\n".replace(" ", "-"))
            await until(lambda: _bearer_of(keeping, "a") == "a-new-one")
            assert keeping.changes.seen == [("a", "registered"), ("a", "updated")]

    run(main)


def test_list_whose_token_file_is_missing_is_taken_over_once_the_file_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with kept(tmp_path / "agents.yaml", listing(entry("a"))) as keeping:
            keeping.write(listing(entry("b", more=", auth: {bearer_file: token}")))
            await until(lambda: "token cannot be read" in caplog.text)
            assert keeping.agents == ["a"]
            (tmp_path / "token").write_text("two words\n")
            await until(lambda: "token holds no token" in caplog.text)
            (tmp_path / "token").write_text("s3cret\n")
            await until(lambda: keeping.agents == ["b"])
            assert _bearer_of(keeping, "b") == "s3cret"

    run(main)


def test_list_whose_token_file_vanished_is_taken_over_once_it_is_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")

    async def main() -> None:
        async with kept(tmp_path / "agents.yaml", listing(entry("a", more=", auth: {bearer_file: token}"))) as keeping:
            token.unlink()
            await until(lambda: "token cannot be read" in caplog.text)
            assert _bearer_of(keeping, "a") == "old"
            token.write_text("new\n")
            await until(lambda: _bearer_of(keeping, "a") == "new")

    run(main)


def test_secret_in_a_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "agents.yaml"
    file.write_text(listing(entry("a", more=", auth: {bearer: s3cret}")))
    file.chmod(0o644)
    with pytest.raises(InvalidAgent, match="chmod 600") as refused:
        read_static_agents(file)
    assert "s3cret" not in str(refused.value)
    file.chmod(0o600)
    assert "s3cret" not in repr(read_static_agents(file))


def _bearer_of(keeping: Kept, agent_id: str) -> str:
    auth = keeping.node.ains.get(agent_id).auth
    return "" if auth is None else auth.bearer


# -- asked how they are


def test_agent_without_heartbeats_is_asked_how_it_is_over_and_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_watch, "ASK_EVERY_S", 0.02)

    async def main() -> None:
        async with FaultyServer(_well) as server:
            port = int(server.url.rpartition(":")[2])
            async with kept(tmp_path / "agents.yaml", listing(entry("a", port))) as keeping:
                await until(lambda: len(server.requests) >= 5)
                assert {request.path for request in server.requests} == {"/healthz"}
                board = keeping.node.board
                assert board.get_state("a") is CircuitState.CLOSED

    run(main)


def test_agent_without_heartbeats_that_dies_is_found_out_before_any_task_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_watch, "ASK_EVERY_S", 0.02)

    async def main() -> None:
        async with kept(tmp_path / "agents.yaml", listing(entry("a", 9))) as keeping:
            await until(lambda: keeping.node.board.get_state("a", "text.far") is CircuitState.OPEN)
            assert keeping.node.scheduler.capabilities_out() == ["text.far"]

    run(main)


async def _well(exchange: Any) -> None:
    await exchange.send(http(200))


def test_example_of_the_repository_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEXT_TOKEN", "s3cret")
    example = Path(__file__).parents[2] / "examples" / "agents.yaml"
    assert list(read_static_agents(example)) == ["http://127.0.0.1:9001", "text-1"]
