"""What the command line writes: data on stdout, one sentence on stderr, an exit code that tells."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from aicp.cli import main as cli_main
from aicp.cli.exits import BAD_INPUT, DEFECT, INTERRUPTED, SERVER, UNWRITTEN, WORK_FAILED, code_of, say
from aicp.cli.main import main
from aicp.cli.output import Format, Sheet, facts, seconds, write
from aicp.client import ServerRefused, ServerUnreachable
from aicp.errors import (
    AccessDenied,
    AicpError,
    AllAgentsFailed,
    ChainNotFound,
    IdempotencyConflict,
    InvalidChain,
    NoCapableAgent,
    QueueFull,
    SettingsError,
)

GROUPS: tuple[list[str], ...] = ([], ["chain"], ["task"], ["agent"], ["breaker"], ["scheduler"])
COMMANDS = (
    ["serve"], ["version"], ["chain", "run"], ["chain", "show"], ["chain", "cancel"], ["task", "run"],
    ["task", "show"], ["task", "cancel"], ["task", "list"], ["chain", "list"], ["chain", "graph"], ["chain", "retry"],
    ["agent", "run"], ["agent", "list"], ["agent", "show"], ["breaker", "list"], ["breaker", "reset"],
    ["scheduler", "status"],
)  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidChain("x"), BAD_INPUT),
        (SettingsError("x"), BAD_INPUT),
        (NoCapableAgent("x"), BAD_INPUT),
        (ChainNotFound("x"), BAD_INPUT),
        (IdempotencyConflict(), BAD_INPUT),
        (ServerUnreachable("x"), SERVER),
        (ServerRefused("x", 500), SERVER),
        (AccessDenied(), SERVER),
        (QueueFull("x", 1.0), SERVER),
        (AllAgentsFailed("x", []), WORK_FAILED),
        (AicpError("x"), WORK_FAILED),
    ],
)
def test_exit_code_tells_whose_matter_it_is(error: AicpError, code: int) -> None:
    assert code_of(error) == code


def test_sentence_is_one_line_and_cannot_steer_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say("two\nlines \x1b[31mred\x07 \N{SNOWMAN}")
    assert (
        capsys.readouterr().err == "two lines \N{REPLACEMENT CHARACTER}[31mred\N{REPLACEMENT CHARACTER} \N{SNOWMAN}\n"
    )


def test_table_shows_every_cell_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    row = ("a-1", None, True, 1.5, {"b": [1]}, "[bold]x\x1b[0m", "y" * 100, datetime(2026, 1, 31, tzinfo=UTC))
    write([], Format.TABLE, Sheet([f"c{number}" for number in range(8)], [row]))
    shown = capsys.readouterr().out
    for text in (
        "c0",
        "a-1",
        " - ",
        "yes",
        "1.5",
        '{"b":[1]}',
        "[bold]x\N{REPLACEMENT CHARACTER}[0m",
        "y" * 100,
        "2026-01-31",
    ):
        assert text in shown
    assert "\x1b" not in shown


def test_json_is_one_document_and_jsonl_one_each_line(capsys: pytest.CaptureFixture[str]) -> None:
    values = [{"a": 1}, {"a": "\N{SNOWMAN}"}]
    write(values, Format.JSON, Sheet((), ()))
    assert json.loads(capsys.readouterr().out) == values
    write(values, Format.JSONL, Sheet((), ()))
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == values
    write(values[0], Format.JSONL, Sheet((), ()))
    assert json.loads(capsys.readouterr().out) == values[0]


def test_facts_are_rows_with_readable_names(capsys: pytest.CaptureFixture[str]) -> None:
    write({}, Format.TABLE, facts(last_seen="now", nothing=None))
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["last", "seen", "now"],
        ["nothing", "-"],
    ]


def test_durations_are_told_in_seconds() -> None:
    assert (seconds(1.23456), seconds(None)) == ("1.235 s", None)


@pytest.mark.parametrize("command", [*GROUPS, *COMMANDS], ids=" ".join)
def test_help_is_shown_with_the_exit_codes(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    told = capsys.readouterr()
    assert "Usage: aicp" in told.out
    assert command in COMMANDS or "Exit codes" in told.out
    assert told.err == ""


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: " ".join(group) or "aicp")
def test_group_without_a_command_shows_its_help(group: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(group) == BAD_INPUT
    assert "Usage: aicp" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nonsense"], "No such command 'nonsense'. See `aicp --help`."),
        (["chain", "run"], "Missing argument 'file'. See `aicp chain run --help`."),
        (["version", "--colour"], "No such option: --colour. See `aicp version --help`."),
        (["version", "-o", "xml"], "xml"),
        (["serve", "--port", "many"], "--port"),
        (["task", "run", "text.echo", "--params", "{"], "--params: is not JSON"),
        (["task", "run", "text.echo", "--params", "[]"], "--params: must be a JSON object, not []"),
        (["task", "run", "text.echo", "--params", "@/nowhere.json"], "/nowhere.json cannot be read"),
        (["task", "run", "text.echo", "--params", "@/nowhere"], "/nowhere cannot be read: no such file"),
        (["task", "run", "text.echo", "{"], "PARAMS: is not JSON"),
        (["task", "run", "text.echo", "[]"], "PARAMS: must be a JSON object, not []"),
        (["task", "run", "text.echo", "@/nowhere"], "/nowhere cannot be read: no such file"),
        (["task", "run", "text.echo", "{}", "--params", "{}"], "said twice"),
        (["task", "run", "text.echo", "--priority", "urgent"], "Invalid value for '--priority': 'urgent' is not one"),
        (["task", "show", ""], "There is no task ''; a task id looks like <chain>.<task>."),
        (["task", "show", "chain"], "There is no task 'chain'; a task id looks like <chain>.<task>."),
        (["task", "cancel", ""], "There is no task ''"),
        (["agent", "show", ""], "There is no such agent: '' cannot be an id."),
        (["agent", "remove", ""], "There is no such agent: '' cannot be an id."),
        (["agent", "remove", "\udcff"], "There is no such agent"),
        (["breaker", "reset", ""], "There is no such agent: '' cannot be an id."),
        (["chain", "show", ""], "There is no such chain: '' cannot be an id."),
        (["chain", "show", "", "--wait"], "There is no such chain: '' cannot be an id."),
        (["chain", "cancel", ".."], "There is no such chain: '..' cannot be an id."),
        (["key", "revoke", ""], "There is no such API key: '' cannot be an id."),
        (["chain", "run", "/nowhere.yaml"], "/nowhere.yaml cannot be read: no such file or directory."),
        (["task", "list", "--limit", "0"], "--limit"),
        (["task", "list", "--status", "odd"], "odd"),
        (["chain", "list", "--limit", "many"], "--limit"),
        (["chain", "list", "--from", "yesterday"], "--from"),
        (["chain", "list", "--capability", "x"], "--capability"),
        (["chain", "graph"], "Missing argument 'chain_id'"),
        (["agent", "run", "nonsense"], "'nonsense' names no agent"),
        (["agent", "run", "no_such_module:agent"], "no module 'no_such_module'"),
    ],
)
def test_bad_usage_is_one_sentence(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == BAD_INPUT
    captured = capsys.readouterr()
    assert told in captured.err
    assert (captured.out, len(captured.err.splitlines())) == ("", 1)


def test_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"aicp", "python", "platform"}
    assert main(["version"]) == 0
    told = capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == told


@pytest.mark.parametrize("arguments", [["version"], ["version", "-o", "jsonl"], ["--help"], ["--version"], []])
def test_output_that_finds_no_room_is_no_defect(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "aicp", *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (ran.returncode, ran.stderr) == (UNWRITTEN, "The output cannot be written: no space left on device.\n")


def test_exit_code_tells_where_no_sentence_can_be_written() -> None:
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run([sys.executable, "-m", "aicp", "nonsense"], stderr=full, timeout=60, check=False)
    assert ran.returncode == BAD_INPUT


@pytest.mark.parametrize(
    ("raised", "code"),
    [(KeyboardInterrupt(), INTERRUPTED), (RuntimeError("two\nlines"), DEFECT), (QueueFull("Full.", 1.0), SERVER)],
)
def test_whatever_ends_a_command_is_a_code_and_no_traceback(
    raised: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise raised

    monkeypatch.setattr(cli_main, "make_app", lambda: lambda **_: fail())
    assert main([]) == code
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    assert len(captured.err.splitlines()) <= 1


def test_command_line_is_light_until_it_works(capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys; from aicp.cli.main import main; main(['version']); "
        "sys.exit(bool({'aiohttp', 'litestar', 'uvicorn', 'yaml'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False).returncode == 0
