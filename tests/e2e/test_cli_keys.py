"""Keys and circuits on the command line, at a real server."""

import json
from collections.abc import Iterator

import pytest

from tests.e2e.cli_kit import Shell, assert_one_sentence, line_of, running_fleet

pytestmark = pytest.mark.xdist_group("cli keys")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A server and an agent that is registered with it."""
    with running_fleet(tmp_path_factory.mktemp("keys")) as shell:
        yield shell


def test_key_is_made_used_listed_and_revoked(fleet: Shell) -> None:
    made = fleet.call(
        "key", "create", "billing", "--scope", "tasks:submit", "--scope", "tasks:read", "--expires-in", "90d",
        "--capability", "text.echo", "--rate", "50", "--concurrency", "5", "--queue", "100", "-o", "json",
    )  # fmt: skip
    assert made.code == 0
    assert "never shown again" in made.err
    key, secret = made.data["key"], made.data["secret"]
    assert key["limits"] == {"rate_per_s": 50.0, "concurrency": 5, "queue": 100}
    assert secret not in made.err
    used = fleet.call("task", "run", "text.echo", "--wait", "-o", "json", AICP_API_KEY=secret)
    assert (used.code, used.data["status"]) == (0, "COMPLETED")
    refused = fleet.call("task", "run", "text.upper", AICP_API_KEY=secret)
    assert_one_sentence(refused, 3, "This key may not submit tasks for 'text.upper'.")
    assert_one_sentence(fleet.call("agent", "list", AICP_API_KEY=secret), 3, "'agents:read'")
    listed = fleet.call("key", "list", "-o", "jsonl")
    assert key in [json.loads(line) for line in listed.out.splitlines()]
    assert secret not in fleet.call("key", "list").out
    revoked = fleet.call("key", "revoke", key["key_id"], "-o", "json")
    assert revoked.data["revoked_at"] is not None
    assert_one_sentence(fleet.call("task", "list", AICP_API_KEY=secret), 3, "does not accept the key", "AICP_API_KEY")
    shown = fleet.call("key", "audit", "--limit", "100", "-o", "json").data
    done = [each for each in shown if each["status"] < 400 and key["key_id"] in {each["key_id"], each["object_id"]}]
    assert [(each["key_id"], each["action"]) for each in done] == [
        ("admin", "revoke_key"), (key["key_id"], "submit_task"), ("admin", "create_key"),
    ]  # fmt: skip
    assert {(each["action"], each["status"]) for each in shown} >= {("submit_task", 403), ("list_tasks", 401)}


def test_table_shows_the_secret_with_what_was_made(fleet: Shell) -> None:
    made = fleet.call("key", "create", "watcher", "--scope", "tasks:read", "--tenant", "acme")
    assert made.code == 0
    assert "aicp_" in made.out
    rows = fleet.call("key", "list").out.splitlines()
    assert [row.split()[1:5] for row in rows if "watcher" in row] == [["key", "watcher", "acme", "tasks:read"]]
    assert fleet.call("key", "audit").out.splitlines()[0].split() == [
        "at", "key", "tenant", "action", "object", "status", "times",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["create", "x"], "Missing option '--scope'"),
        (["create", "x", "--scope", "root"], "/scopes/0: 'root' is none: choose from tasks:submit"),
        (["create", "x", "--scope", "admin", "--tenant", "a b"], "/tenant"),
        (["create", "x", "--scope", "metrics:read"], "ask for the tenant '*'"),
        (["create", "x", "--scope", "admin", "--expires-in", "soon"], "'soon' is no time: say 90d, 12h, 30m or 60s"),
        (["create", "x", "--scope", "admin", "--expires-in", "0d"], "/expires_in_s"),
        (["create", "x", "--scope", "admin", "--rate", "-1"], "/limits/rate_per_s"),
        (["revoke", "nobody"], "There is no key 'nobody'."),
    ],
    ids=str,
)
def test_what_cannot_be_is_one_sentence(fleet: Shell, arguments: list[str], told: str) -> None:
    ran = fleet.call("key", *arguments)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err


def test_circuits_are_opened_disabled_and_reset(fleet: Shell) -> None:
    for command, state in (("open", "FORCED_OPEN"), ("disable", "DISABLED"), ("reset", "CLOSED")):
        ran = fleet.call("breaker", command, "eyes-1", "-o", "json")
        assert (ran.code, ran.data) == (0, {"agent_id": "eyes-1", "state": state})
        health = fleet.call("breaker", "list", "-o", "json").data
        assert health["agents"]["eyes-1"]["state"] == state
    assert_one_sentence(fleet.call("breaker", "open", "nobody"), 2, "There is no agent 'nobody'")


def test_agent_with_another_key_says_why_it_is_not_registered(fleet: Shell) -> None:
    made = fleet.call("key", "create", "agents", "--scope", "agents:write", "-o", "json").data
    assert fleet.call("agent", "show", "eyes-1", "-o", "json").data["owner"] == "admin"
    fleet.environment["AICP_API_KEY"] = made["secret"]
    try:
        with fleet.started("agent", "run", "eyes:agent", "--register", fleet.environment["AICP_URL"]) as process:
            told = ""
            while "registered with another key" not in told:
                told = line_of(process.stderr)
                assert told, "it ended"
    finally:
        del fleet.environment["AICP_API_KEY"]
