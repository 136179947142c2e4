"""The command line as people use it: real processes, a real server, real agents."""

import json
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.cli_kit import BOUND_S, Shell, assert_one_sentence, line_of, running_fleet

pytestmark = pytest.mark.xdist_group("cli")  # one server and one agent for all of them

FULL, EMPTY = "\N{FULL BLOCK}", "\N{MIDDLE DOT}"


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A server and an agent that is registered with it."""
    with running_fleet(tmp_path_factory.mktemp("fleet")) as shell:
        yield shell


# -- a chain in this process


def test_chain_runs_with_the_agents_of_a_file(shell: Shell) -> None:
    ran = shell.run("chain", "run", "chain.yaml", "--agents", "agents.yaml")
    assert ran.code == 0
    assert [line.split()[:5] for line in ran.out.splitlines()[2:]] == [
        ["once", "text.echo", "COMPLETED", "eyes-1", "1"],
        ["twice", "text.upper", "COMPLETED", "eyes-1", "1"],
    ]
    assert re.fullmatch(r"Chain \w+ is COMPLETED after \d+\.\d+ s, 2 of 2 tasks\.\n", ran.err)


def test_chain_is_told_as_json_and_as_lines(shell: Shell) -> None:
    whole = shell.run("chain", "run", "chain.yaml", "--agents", "agents.yaml", "-o", "json").data
    assert (whole["status"], whole["tasks"]["twice"]["result"]) == ("COMPLETED", {"text": "HELLO"})
    lines = shell.run("chain", "run", "chain.yaml", "--agents", "agents.yaml", "-o", "jsonl").out.splitlines()
    assert [json.loads(line)["result"] for line in lines] == [{"text": "hello"}, {"text": "HELLO"}]


def test_chain_that_fails_says_so_by_its_exit_code(shell: Shell) -> None:
    ran = shell.run("chain", "run", "no.yaml", "--agents", "agents.yaml")
    assert ran.code == 1
    assert "FAILED" in ran.out
    assert "this one cannot be done" in ran.err


def test_agents_that_do_not_answer_are_told_and_the_others_work(shell: Shell) -> None:
    ran = shell.run("chain", "run", "chain.yaml", "--agents", "some.yaml")
    assert ran.code == 0
    assert "http://127.0.0.1:9" in ran.err.splitlines()[0]
    assert "refused" in ran.err.splitlines()[0]


@pytest.mark.parametrize("agents", ["dead.yaml", "dead.toml"])
def test_no_agent_alive_is_one_sentence_at_once(shell: Shell, agents: str) -> None:
    ran = shell.run("chain", "run", "chain.yaml", "--agents", agents)
    assert_one_sentence(ran, 3, agents, "'text.echo'", "http://127.0.0.1:9", "refused", "start one")


@pytest.mark.parametrize(
    ("chain", "agents", "told"),
    [
        ("missing.yaml", "agents.yaml", "missing.yaml:2 /tasks/0/depends_on/0: there is no task 'b'"),
        ("circle.yaml", "agents.yaml", "a -> b -> a"),
        ("wrong.yaml", "agents.yaml", "wrong.yaml is not YAML"),
        ("nothing.yaml", "agents.yaml", "nothing.yaml cannot be read: no such file"),
        ("chain.yaml", "nothing.yaml", "nothing.yaml cannot be read: no such file"),
        ("chain.yaml", "chain.yaml", "must hold a list under 'agents'"),
    ],
)
def test_bad_input_is_one_sentence(shell: Shell, chain: str, agents: str, told: str) -> None:
    assert_one_sentence(shell.call("chain", "run", chain, "--agents", agents), 2, told)


@pytest.mark.parametrize(
    ("chain", "agents", "told"),
    [
        ("unknown.yaml", "agents.yaml", "No agent of agents.yaml offers 'text.ecko': they offer"),
        ("chain.yaml", "twins.yaml", "two agents with the id 'eyes-1'"),
        ("chain.yaml", "nobody.yaml", "Module 'eyes' has no 'nobody'; its agents are agent."),
        ("wrong.yaml", "agents.yaml", "wrong.yaml is not YAML"),
    ],
)
def test_bad_input_is_one_sentence_of_a_process_too(shell: Shell, chain: str, agents: str, told: str) -> None:
    assert_one_sentence(shell.run("chain", "run", chain, "--agents", agents), 2, told)


def test_interrupted_chain_ends_at_once_without_a_traceback(shell: Shell) -> None:
    with shell.started("chain", "run", "slow.json", "--agents", "agents.yaml") as process:
        assert line_of(process.stdout) == "started\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=BOUND_S)
        assert (process.returncode, out, err) == (130, "", "")


def test_data_that_nobody_reads_any_more_is_no_failure(shell: Shell) -> None:
    with shell.started("version") as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(BOUND_S) in {0, 141}
        process.stdout = None


def test_progress_is_shown_to_a_terminal_and_data_stays_clean(shell: Shell) -> None:
    arguments = ("chain", "run", "chain.yaml", "--agents", "agents.yaml", "-o", "json")
    out, screen = shell.run_in_terminal(*arguments)
    assert "2/2" in screen
    assert json.loads(out)["status"] == "COMPLETED"


# -- without a server


@pytest.mark.parametrize(
    "arguments",
    [
        ["agent", "list"], ["agent", "show", "x"], ["breaker", "list"], ["breaker", "reset", "x"],
        ["breaker", "open", "x"], ["key", "list"], ["key", "create", "x", "--scope", "admin"], ["key", "audit"],
        ["scheduler", "status"], ["task", "run", "x"], ["task", "show", "x.y"], ["task", "cancel", "x.y"],
        ["chain", "run", "chain.yaml"], ["chain", "show", "x"], ["chain", "cancel", "x"], ["chain", "list"],
        ["chain", "graph", "x"], ["chain", "retry", "x"], ["chain", "show", "x", "--wait"], ["task", "list"],
        ["task", "show", "x.y", "--wait"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_server_that_is_not_there_is_one_sentence(shell: Shell, arguments: list[str]) -> None:
    ran = shell.call(*arguments)
    assert_one_sentence(ran, 3, "http://127.0.0.1:9 cannot be reached: connection refused.", "`aicp serve`", "AICP_URL")


@contextmanager
def accepting_and_gone() -> Iterator[str]:
    """What accepts a submit, and hangs up on everybody who asks how it goes; gives its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            body = json.dumps({"task_id": "c.task", "chain_id": "c", "status": "PENDING"}).encode()
            self.send_response(202)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            """Nothing."""

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            serving.join(BOUND_S)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["task", "run", "text.echo", "--wait"], "Task c.task may go on there; see `aicp task show c.task --wait`."),
        (["chain", "run", "chain.yaml"], "Chain c may go on there; see `aicp chain show c --wait`."),
        (["chain", "retry", "b", "--wait"], "Chain c may go on there; see `aicp chain show c --wait`."),
    ],
)
def test_wait_that_loses_its_server_says_how_to_look_again(shell: Shell, arguments: list[str], told: str) -> None:
    with accepting_and_gone() as url:
        ran = shell.call(*arguments, AICP_URL=url, AICP_API_KEY="k")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.splitlines()[-1].startswith(f"{url} cannot be reached: it hung up")
    assert ran.err.splitlines()[-1].endswith(told)


def test_url_that_cannot_be_used_is_one_sentence(shell: Shell) -> None:
    assert_one_sentence(shell.call("agent", "list", AICP_URL="nonsense"), 2, "AICP_URL", "nonsense")


def test_port_in_use_is_one_sentence_for_an_agent_too(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_one_sentence(shell.run("agent", "run", "eyes:agent", "--port", port), 2, port, "in use")


def test_agent_ends_with_its_standard_input(shell: Shell) -> None:
    with shell.started("agent", "run", "eyes:agent", "--until-stdin-closes") as process:
        assert "eyes-1 serves" in line_of(process.stderr)
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        assert process.wait(BOUND_S) == 0


# -- with a server


def test_agents_are_listed_and_shown(fleet: Shell) -> None:
    assert "eyes-1" in fleet.call("agent", "list", "--capability", "text.upper").out
    assert fleet.call("agent", "list", "--capability", "text.other", "-o", "json").data == []
    (agent,) = fleet.call("agent", "list", "-o", "json").data
    assert fleet.call("agent", "show", "eyes-1", "-o", "json").data.keys() == agent.keys()
    assert agent["labels"] == {"zone": "a"}
    assert "zone=a" in fleet.call("agent", "show", "eyes-1").out


def test_task_runs_and_shows_its_result(fleet: Shell) -> None:
    ran = fleet.run("task", "run", "text.upper", "--params", '{"text": "hello"}', "--wait", "-o", "json")
    assert (ran.code, ran.data["status"], ran.data["result"]) == (0, "COMPLETED", {"text": "HELLO"})
    shown = fleet.call("task", "show", ran.data["task_id"])
    assert (shown.code, "HELLO" in shown.out) == (0, True)


def test_submit_that_will_probably_be_late_is_warned_of_on_stderr(fleet: Shell) -> None:
    fleet.run("task", "run", "text.echo", "{}", "--wait")
    late = fleet.run("task", "run", "text.echo", "{}", "--deadline-s", "0.000001", "-o", "json")
    assert late.code == 0
    assert late.data["expected_s"] > 1e-6
    assert late.err == f"Warning: {late.data['warning']}\n"
    (fleet.where / "late.json").write_text('{"tasks": [{"id": "a", "capability": "text.echo", "deadline_s": 1e-6}]}')
    chain = fleet.run("chain", "run", "late.json")
    assert "\nWarning: At the present rate this takes about" in chain.err
    (newest,) = fleet.call("chain", "list", "--limit", "1", "-o", "json").data
    retried = fleet.run("chain", "retry", newest["chain_id"], "-o", "json")
    assert retried.err == f"Warning: {retried.data['warning']}\n"
    assert retried.data["expected_s"] > 1e-6


def test_task_explains_where_it_went(fleet: Shell) -> None:
    ran = fleet.run("task", "run", "text.upper", "--params", '{"text": "hello"}', "--wait", "-o", "json")
    told = fleet.call("task", "explain", ran.data["task_id"])
    assert (told.code, "attempt 1" in told.out, "eyes-1" in told.out, "of 1 agents" in told.out) == (
        0,
        True,
        True,
        True,
    )
    found = fleet.call("task", "explain", ran.data["task_id"], "-o", "json").data
    assert found["outlook"]["candidates"][0]["standing"] == "free"


def test_wait_is_shown_to_a_terminal(fleet: Shell) -> None:
    out, screen = fleet.run_in_terminal("task", "run", "text.echo", "--wait", "-o", "json")
    assert f"task {json.loads(out)['task_id']}" in screen


def test_params_may_stand_alone(fleet: Shell) -> None:
    ran = fleet.call("task", "run", "text.upper", '{"text": "hello"}', "--wait", "-o", "json")
    assert ran.data["result"] == {"text": "HELLO"}


def test_params_come_from_a_file_too(fleet: Shell) -> None:
    (fleet.where / "params.yaml").write_text("text: hello")
    ran = fleet.call("task", "run", "text.upper", "--params", "@params.yaml", "--wait", "-o", "json")
    assert ran.data["result"] == {"text": "HELLO"}


def test_task_that_fails_says_so_by_its_exit_code(fleet: Shell) -> None:
    ran = fleet.call("task", "run", "text.no", "--wait", "-o", "json")
    assert (ran.code, ran.data["error"]) == (1, {"code": "not_me", "message": "this one cannot be done"})


def test_task_is_cancelled(fleet: Shell) -> None:
    task_id = fleet.call("task", "run", "text.slow", "-o", "json").data["task_id"]
    assert fleet.call("task", "show", task_id, "-o", "json").data["status"] in {"PENDING", "RUNNING"}
    assert fleet.call("task", "cancel", task_id, "-o", "json").data == {"task_id": task_id, "status": "CANCELLED"}


def test_chain_runs_at_the_server_and_is_shown(fleet: Shell) -> None:
    ran = fleet.run("chain", "run", "chain.yaml", "-o", "json")
    assert (ran.code, ran.data["status"]) == (0, "COMPLETED")
    assert fleet.call("chain", "show", ran.data["chain_id"], "-o", "json").data == ran.data
    cancelled = fleet.call("chain", "cancel", ran.data["chain_id"], "-o", "json").data
    assert cancelled == {"chain_id": ran.data["chain_id"], "status": "COMPLETED"}


def test_chain_is_shown_with_its_timeline(fleet: Shell) -> None:
    chain_id = fleet.call("chain", "run", "chain.yaml", "-o", "json").data["chain_id"]
    steps, times = fleet.run("chain", "show", chain_id, PYTHONIOENCODING="utf-8").out.split("\n\n")
    assert [line.split()[0] for line in steps.splitlines()[2:]] == ["once", "twice"]
    title, _, *rows = times.splitlines()
    assert title.split() == ["from", "took", "task", "attempt", "agent", "outcome"]
    assert [row.split()[4:8] for row in rows] == [
        ["once", "1", "eyes-1", "SUCCESS"], ["twice", "1", "eyes-1", "SUCCESS"],
    ]  # fmt: skip
    bars = [row.split()[8] for row in rows]
    assert {len(bar) for bar in bars} == {40}
    assert set("".join(bars)) == {FULL, EMPTY}
    assert (bars[1][0], bars[1][-1]) == (EMPTY, FULL)


def test_chains_and_tasks_are_listed_the_newest_first(fleet: Shell) -> None:
    chains = [fleet.call("chain", "run", name, "-o", "json").data["chain_id"] for name in ("chain.yaml", "no.yaml")]
    listed = fleet.call("chain", "list", "--limit", "2", "-o", "json")
    assert [(chain["chain_id"], chain["status"]) for chain in listed.data] == [
        (chains[1], "FAILED"), (chains[0], "COMPLETED"),
    ]  # fmt: skip
    assert "two steps" in fleet.call("chain", "list").out
    assert "two steps" in fleet.call("chain", "list", "--name", "two", "--from", "2026-01-01", "--to", "2999-01-01").out
    assert fleet.call("chain", "list", "--name", "wo", "-o", "jsonl").out == ""
    assert fleet.call("chain", "list", "--to", "2026-01-01T00:00:00+0100", "-o", "jsonl").out == ""
    failed = fleet.call("chain", "list", "--status", "failed", "--limit", "1", "-o", "jsonl")
    assert json.loads(failed.out)["chain_id"] == chains[1]
    tasks = fleet.call("task", "list", "--limit", "3", "-o", "json")
    names = [f"{chains[1]}.no", f"{chains[0]}.once", f"{chains[0]}.twice"]
    assert [task["task_id"] for task in tasks.data] == names
    assert (tasks.code, "There may be more tasks" in fleet.call("task", "list", "--limit", "2").err) == (0, True)
    row = fleet.call("task", "list", "--capability", "text.no", "--status", "FAILED", "--limit", "1").out.splitlines()[
        2
    ]
    assert row.split()[:5] == [names[0], "text.no", "FAILED", "eyes-1", "1"]
    assert "not_me: this one cannot be done" in row


def test_lists_of_nothing_are_empty(fleet: Shell) -> None:
    assert fleet.call("task", "list", "--capability", "text.nobody", "-o", "json").data == []
    assert fleet.call("chain", "list", "--status", "SKIPPED", "-o", "jsonl").out == ""


def test_chain_is_drawn_for_mermaid(fleet: Shell) -> None:
    chain_id = fleet.call("chain", "run", "chain.yaml", "-o", "json").data["chain_id"]
    drawn = fleet.run("chain", "graph", chain_id)
    assert (drawn.code, drawn.err) == (0, "")
    assert drawn.out.startswith('flowchart LR\n  t0["once<br/>text.echo<br/>COMPLETED in ')
    assert "  t0 --> t1\n" in drawn.out
    assert fleet.call("chain", "graph", chain_id, "-o", "json").data == {"chain_id": chain_id, "mermaid": drawn.out}


def test_chain_and_task_are_waited_for_and_the_exit_code_tells(fleet: Shell) -> None:
    for name, code in (("chain.yaml", 0), ("no.yaml", 1)):
        chain_id = fleet.call("chain", "run", name, "-o", "json").data["chain_id"]
        assert fleet.call("chain", "show", chain_id).code == 0
        assert fleet.call("chain", "show", chain_id, "--wait").code == code
        retried = fleet.call("chain", "retry", chain_id, "--wait", "-o", "json")
        assert (retried.code, retried.data["retry_of"]) == (code, chain_id)
    assert fleet.call("task", "show", f"{chain_id}.no").code == 0
    assert fleet.call("task", "show", f"{chain_id}.no", "--wait").code == 1


def test_wait_for_a_chain_ends_with_it(fleet: Shell) -> None:
    chain_id = start_of_slow_chain(fleet)
    with fleet.started("chain", "show", chain_id, "--wait", "-o", "json") as waiting:
        assert fleet.call("chain", "cancel", chain_id).code == 0
        out, _ = waiting.communicate(timeout=BOUND_S)
        assert (waiting.returncode, json.loads(out)["status"]) == (1, "CANCELLED")


def start_of_slow_chain(fleet: Shell) -> str:
    """The id of a chain that hangs at the server."""
    with fleet.started("chain", "run", "slow.json") as process:
        found = re.search(r"Chain (\w+) is accepted", line_of(process.stderr))
        assert found is not None
        return found[1]


def test_interrupted_chain_goes_on_at_the_server(fleet: Shell) -> None:
    with fleet.started("chain", "run", "slow.json") as process:
        found = re.search(r"Chain (\w+) is accepted", line_of(process.stderr))
        assert found is not None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=BOUND_S)
        assert process.returncode == 130
        assert re.fullmatch(rf"(Chain {found[1]} goes on; see .*\n)?", err)
    assert fleet.call("chain", "cancel", found[1], "-o", "json").data["status"] == "CANCELLED"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["chain", "run", "unknown.yaml"], "No agent has ever offered 'text.ecko'"),
        (["task", "run", "text.ecko"], "No agent has ever offered 'text.ecko'"),
        (["task", "run", "no name"], "/capability"),
        (["task", "run", "text.echo", "--timeout-s", "-1"], "/timeout_s"),
        (["task", "show", "no.pe"], "There is no task 'no.pe'"),
        (["task", "show", "nope"], "a task id looks like"),
        (["chain", "show", "nope"], "There is no chain 'nope'"),
        (["chain", "cancel", "nope"], "There is no chain 'nope'"),
        (["chain", "graph", "nope"], "There is no chain 'nope'"),
        (["chain", "retry", "nope"], "There is no chain 'nope'"),
        (["chain", "show", "nope", "--wait"], "There is no chain 'nope'"),
        (["task", "list", "--capability", "no name"], "?capability"),
        (["agent", "show", "nobody"], "There is no agent 'nobody'"),
        (["breaker", "reset", "nobody"], "There is no agent 'nobody'"),
        (["agent", "list", "--capability", "no name"], "?capability"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusal_of_the_server_is_one_sentence(fleet: Shell, arguments: list[str], told: str) -> None:
    assert_one_sentence(fleet.call(*arguments), 2, told)


def test_wrong_key_is_one_sentence(fleet: Shell) -> None:
    assert_one_sentence(fleet.call("agent", "list", AICP_API_KEY="wrong"), 3, "AICP_API_KEY", "AICP_DATA_DIR")


def test_breakers_and_scheduler_are_shown(fleet: Shell) -> None:
    rows = [line.split() for line in fleet.call("breaker", "list").out.splitlines()[2:]]
    assert {tuple(row[:2]) for row in rows} == {("eyes-1", f"text.{name}") for name in ("echo", "no", "slow", "upper")}
    assert fleet.call("breaker", "reset", "eyes-1", "-o", "json").data == {"agent_id": "eyes-1", "state": "CLOSED"}
    assert fleet.call("scheduler", "status", "-o", "json").data["total_capacity"] == 4
    assert "text.echo" in fleet.call("scheduler", "status").out
