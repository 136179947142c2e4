"""What an operator ordered for agents, over a server that is killed: it was on disk before it was confirmed."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.cli_kit import Shell, line_of

LISTED = (
    "agents: [{endpoint: 'http://127.0.0.1:9', agent_id: listed, capabilities: [{name: text.a}], "
    "max_concurrent_tasks: 1}]"
)


@contextmanager
def killed_server(shell: Shell) -> Iterator[None]:
    """A server that follows a file; the end of the block kills it with -9."""
    with shell.started("serve", "--port", "0", "--agents", "listed.yaml") as server:
        for _ in range(2):
            found = re.search(r"http://\S+:\d+", line_of(server.stderr))
        assert found is not None
        shell.environment["AICP_URL"] = found[0]
        yield


def standing(shell: Shell) -> dict[str, tuple[str, bool]]:
    agents = shell.call("agent", "list", "-o", "json").data
    return {agent["agent_id"]: (agent["state"], agent["draining"]) for agent in agents}


def do(shell: Shell, *arguments: str) -> None:
    ran = shell.call(*arguments)
    assert ran.code == 0, ran.err


def add(shell: Shell, agent_id: str) -> None:
    where = ("http://127.0.0.1:9", "--id", agent_id, "--slots", "1", "--capability", "text.a")
    do(shell, "agent", "add", *where)


def test_what_an_operator_ordered_holds_over_kill_nine_until_it_is_taken_back(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "listed.yaml").write_text(LISTED)
    with killed_server(shell):
        for agent_id in ("opened", "disabled", "drained", "reset", "added"):
            add(shell, agent_id)
        for agent_id in ("opened", "reset", "listed"):
            do(shell, "breaker", "open", agent_id)
        do(shell, "breaker", "disable", "disabled")
        do(shell, "breaker", "reset", "reset")
        for agent_id in ("added", "listed", "drained"):
            do(shell, "agent", "drain", agent_id)
        add(shell, "added")
        do(shell, "agent", "drain", "drained")
    for _ in range(2):
        with killed_server(shell):
            known = standing(shell)
            assert known["opened"] == ("FORCED_OPEN", False)
            assert known["disabled"] == ("DISABLED", False)
            assert known["drained"][1]
            assert (known["reset"][0] != "FORCED_OPEN", known["reset"][1]) == (True, False)
            assert not known["added"][1]
            assert known["listed"] == ("FORCED_OPEN", False)
    with killed_server(shell):
        for agent_id in ("opened", "disabled", "listed"):
            do(shell, "breaker", "reset", agent_id)
        add(shell, "drained")
    with killed_server(shell):
        assert not {state for state, _ in standing(shell).values()} & {"FORCED_OPEN", "DISABLED"}
        assert not any(draining for _, draining in standing(shell).values())
