"""`aicp agent …` against a server and agents in their own processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.agent_process import AgentProcess, agent_processes
from tests.e2e.cli_kit import Shell, assert_one_sentence, line_of, running_fleet

pytestmark = pytest.mark.xdist_group("cli-agent")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with running_fleet(tmp_path_factory.mktemp("fleet")) as shell:
        yield shell


@pytest.fixture(scope="module")
def stranger() -> Iterator[AgentProcess]:
    """An agent that runs, and that nobody knows."""
    with agent_processes(stranger="work") as agents:
        yield agents["stranger"]


@pytest.fixture
def added(fleet: Shell, stranger: AgentProcess) -> Iterator[Shell]:
    """The fleet with the stranger, which is forgotten afterwards."""
    assert fleet.call("agent", "add", stranger.endpoint, "--label", "zone=b", "--label", "gpu=yes").code == 0
    yield fleet
    fleet.call("agent", "remove", "stranger")


def test_agent_that_runs_is_added_by_its_url_and_says_itself_what_it_is(fleet: Shell, stranger: AgentProcess) -> None:
    ran = fleet.run("agent", "add", stranger.endpoint, "-o", "json")
    assert ran.code == 0, ran.err
    assert ran.data["agent_id"] == "stranger"
    assert (ran.data["endpoint"], ran.data["max_concurrent_tasks"]) == (stranger.endpoint, 4)
    assert [capability["name"] for capability in ran.data["capabilities"]] == ["work"]
    assert (ran.data["lease"], ran.data["liveness"], ran.data["silent_s"]) == (False, "HEARD", None)
    done = fleet.call("task", "run", "work", "--params", '{"a": 1}', "--wait", "-o", "json").data
    assert (done["agent_id"], done["result"]) == ("stranger", {"a": 1})
    after = fleet.call("agent", "show", "stranger", "-o", "json").data
    assert after["success_rate"] == 1.0
    assert after["latency_ms"] > 0
    assert fleet.call("agent", "remove", "stranger", "-o", "json").data == {"agent_id": "stranger", "removed": True}
    assert_one_sentence(fleet.call("agent", "show", "stranger"), 2, "There is no agent 'stranger'")


def test_what_is_said_of_an_agent_wins(fleet: Shell, stranger: AgentProcess) -> None:
    (fleet.where / "token").write_text("s3cret\n")
    ran = fleet.call(
        "agent", "add", stranger.endpoint, "--id", "other", "--name", "the other", "--slots", "2", "--shared",
        "--capability", "text.odd@3.1", "--capability", "text.plain", "--label", "zone=c", "--token-file", "token",
        "-o", "json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    agent = ran.data
    assert (agent["agent_id"], agent["name"], agent["max_concurrent_tasks"]) == ("other", "the other", 2)
    assert [(each["name"], each["version"]) for each in agent["capabilities"]] == [
        ("text.odd", "3.1"), ("text.plain", "1.0"),
    ]  # fmt: skip
    assert (agent["shared"], agent["labels"]) == (True, {"zone": "c"})
    assert "s3cret" not in ran.out
    found = fleet.call("agent", "list", "--capability", "text.odd@3", "--name", "the other", "-o", "json").data
    assert [each["agent_id"] for each in found] == ["other"]
    assert fleet.call("agent", "list", "--capability", "text.odd", "-o", "json").data == []
    assert "text.odd@3, text.plain" in fleet.call("agent", "list").out
    fleet.call("agent", "remove", "other")


def test_agents_are_found_by_label_and_name(added: Shell) -> None:
    def found(*options: str) -> list[str]:
        return [agent["agent_id"] for agent in added.call("agent", "list", *options, "-o", "json").data]

    assert found() == ["eyes-1", "stranger"]
    assert found("--label", "zone=a") == ["eyes-1"]
    assert found("--label", "zone=b", "--label", "gpu=yes") == ["stranger"]
    assert found("--label", "zone=a", "--label", "gpu=yes") == []
    assert found("--name", "stranger") == ["stranger"]
    assert found("--capability", "text.echo", "--label", "zone=b") == []


def test_drained_agent_is_shown_as_such_until_it_is_added_again(added: Shell, stranger: AgentProcess) -> None:
    drained = added.call("agent", "drain", "stranger")
    assert ["draining", "yes"] in [line.split() for line in drained.out.splitlines()]
    row = next(line for line in added.call("agent", "list").out.splitlines() if line.startswith("stranger"))
    assert row.rstrip().endswith("draining")
    again = added.call("agent", "add", stranger.endpoint, "-o", "json").data
    assert (again["draining"], again["why_out"]) == (False, {})


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["http://169.254.169.254"], "is a cloud's metadata address"),
        (["http://10.0.0.1", "--capability", "x", "--id", "x", "--slots", "1"], "--allow-network"),
        (["http://127.0.0.1:9"], "gave no description: connection refused"),
        (["nonsense"], "must start with http:// or https://"),
        (["http://127.0.0.1:9", "--capability", "no name", "--id", "x", "--slots", "1"], "must be a dotted name"),
        (["http://127.0.0.1:9", "--label", "zone"], "--label 'zone' must be KEY=VALUE"),
        (["http://127.0.0.1:9", "--label", "a=1", "--label", "a=2"], "--label says 'a' twice"),
        (["http://127.0.0.1:9", "--token-file", "nowhere"], "nowhere cannot be read: no such file"),
        (["http://127.0.0.1:9", "--slots", "0"], "--slots"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_agent_that_cannot_be_added_is_one_sentence(fleet: Shell, arguments: list[str], told: str) -> None:
    assert_one_sentence(fleet.call("agent", "add", *arguments), 2, told)


@pytest.mark.parametrize("command", ["drain", "remove", "show"])
def test_agent_that_is_not_there_is_one_sentence(fleet: Shell, command: str) -> None:
    assert_one_sentence(fleet.call("agent", command, "nobody"), 2, "There is no agent 'nobody'")


def test_agent_that_needs_a_token_is_added_with_it(fleet: Shell, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("s3cret-token\n")
    token.chmod(0o600)
    with fleet.started("agent", "run", "eyes:agent", "--token-file", str(token)) as agent:
        endpoint = line_of(agent.stderr).split()[-1]
        closed = fleet.call("agent", "add", endpoint, "--id", "guarded")
        assert_one_sentence(closed, 2, "gave no description: answered 401")
        named = ["--id", "guarded", "--capability", "text.guarded"]
        assert fleet.call("agent", "add", endpoint, *named, "--token-file", str(token)).code == 0
        assert fleet.call("agent", "show", "guarded", "-o", "json").data["instance_id"]
        fleet.call("agent", "remove", "guarded")
