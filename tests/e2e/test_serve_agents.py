"""`aicp serve --agents FILE`: a real server that follows its file."""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.e2e.agent_process import agent_processes
from tests.e2e.cli_kit import BOUND_S, Shell, assert_one_sentence, line_of


def until(condition: Callable[[], bool]) -> None:
    ends_at = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < ends_at


def test_server_follows_its_agents_file(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    file = tmp_path / "fleet.toml"

    def known() -> dict[str, str]:
        return {agent["agent_id"]: agent["state"] for agent in shell.call("agent", "list", "-o", "json").data}

    with agent_processes(one="work", other="work") as agents:
        lists = {name: f"[[agents]]\nendpoint = '{agent.endpoint}'\n" for name, agent in agents.items()}
        file.write_text(lists["one"])
        with shell.started("serve", "--port", "0", "--agents", "fleet.toml") as server:
            assert line_of(server.stderr) == "fleet.toml lists 1 agents: 1 added, 0 changed, 0 removed.\n"
            found = re.search(r"http://\S+:\d+", line_of(server.stderr))
            assert found is not None
            shell.environment["AICP_URL"] = found[0]
            assert list(known()) == ["one"]
            done = shell.call("task", "run", "work", "--wait", "-o", "json").data
            assert (done["status"], done["agent_id"]) == ("COMPLETED", "one")
            file.write_text(lists["other"])
            until(lambda: list(known()) == ["other"])
            assert line_of(server.stderr) == "fleet.toml lists 1 agents: 1 added, 0 changed, 1 removed.\n"
            file.write_text("agents = [")
            told = line_of(server.stderr)
            assert "fleet.toml is not TOML" in told
            assert told.endswith("Its agents stay as they were.\n")
            assert list(known()) == ["other"]
            server.send_signal(signal.SIGTERM)
            assert server.wait(BOUND_S) == 0


def test_server_does_not_start_with_a_file_that_it_cannot_use(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    (tmp_path / "fleet.yaml").write_text("agents:\n  - {endpoint: 'http://127.0.0.1:9', slots: 3}\n")
    assert_one_sentence(shell.run("serve", "--port", "0", "--agents", "fleet.yaml"), 2, "fleet.yaml:2", "slots")
    assert_one_sentence(shell.run("serve", "--port", "0", "--agents", "nowhere.yaml"), 2, "nowhere.yaml cannot be read")
