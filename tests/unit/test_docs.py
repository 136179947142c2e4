"""The documentation tells the truth: code runs, files are sound, links lead somewhere, lists are whole."""

import asyncio
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer
from markdown_it import MarkdownIt
from markdown_it.token import Token
from prometheus_client.parser import text_string_to_metric_families

from aicp.cli import exits
from aicp.cli.main import make_app as make_command_line
from aicp.model import views
from aicp.model.access import ApiKey, AuditRecord, KeyRequest
from aicp.model.agent import Capability, Registration
from aicp.model.chain import ChainSpec
from aicp.model.history import History
from aicp.model.live import TOLD_KINDS, TOLD_LATER, LiveEvent
from aicp.model.outcome import Outcome
from aicp.model.task import Attempt, Task
from aicp.model.wire import AgentDescription, Invocation
from aicp.runtime.agents_file import FileAgent, PythonAgent, read_agents
from aicp.runtime.files import read_chain
from aicp.runtime.node import Node
from aicp.runtime.onlookers import Onlookers
from aicp.server import Keys
from aicp.server import make_app as make_server
from aicp.server.auth import declared_routes
from aicp.server.openapi import reference
from aicp.server.problems import STATUS_OF_CODE, Problem
from tests.e2e.cli_kit import running_fleet
from tests.unit.onlooker_kit import busy_page

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("**/*.md")])
OUTPUT_OF = re.compile(r"<!-- output of (\S+) -->")
OUTPUT_OF_BLOCK = "<!-- output of the block before -->"
VARIABLE = re.compile(r"\bAICP_[A-Z_]+\b")
AT_A_SERVER = "python run at a server"
MARKDOWN = MarkdownIt("commonmark").enable("table")

# A table under a heading of a page lists the fields of a value: all of them and no others.
FIELDS = [
    ("reference/chain-files.md", "The chain", ChainSpec),
    ("reference/chain-files.md", "A task", Task),
    ("reference/chain-files.md", "An agent of a file", FileAgent),
    ("reference/chain-files.md", "An agent of this Python", PythonAgent),
    ("reference/agent-protocol.md", "The body of a call", Invocation),
    ("reference/agent-protocol.md", "What an agent says of itself", AgentDescription),
    ("reference/agent-protocol.md", "A capability", Capability),
    ("reference/agent-protocol.md", "What may be said of an agent", Registration),
    ("reference/http-api.md", "A problem", Problem),
    ("reference/http-api.md", "A task", views.TaskView),
    ("reference/http-api.md", "An attempt", Attempt),
    ("reference/http-api.md", "A chain", views.ChainView),
    ("reference/http-api.md", "A listed task", views.ListedTask),
    ("reference/http-api.md", "A listed chain", views.ListedChain),
    ("reference/http-api.md", "An agent", views.AgentView),
    ("reference/http-api.md", "Health of the fleet", views.FleetHealth),
    ("reference/http-api.md", "Health of an agent", views.AgentHealth),
    ("reference/http-api.md", "Health of a capability", views.CapabilityHealth),
    ("reference/http-api.md", "A failure", views.Failure),
    ("reference/http-api.md", "An explanation", views.Explanation),
    ("reference/http-api.md", "Outlook", views.Outlook),
    ("reference/http-api.md", "A candidate", views.Candidate),
    ("reference/http-api.md", "Status of the scheduler", views.SchedulerStatus),
    ("reference/http-api.md", "Status of a capability", views.CapabilityStatus),
    ("reference/http-api.md", "History", History),
    ("reference/http-api.md", "The server itself", views.Info),
    ("reference/http-api.md", "A request for a key", KeyRequest),
    ("reference/http-api.md", "A key", ApiKey),
    ("reference/http-api.md", "An audit record", AuditRecord),
    ("reference/events.md", "Fields", LiveEvent),
]
PUBLIC_MODULES = ["aicp", "aicp.agent", "aicp.client", "aicp.client.blocking", "aicp.testing"]


class Fence(msgspec.Struct, frozen=True):
    """A fenced block: what its info string says, what it holds, and where it begins."""

    info: str
    content: str
    place: str


def tokens_of(page: Path) -> list[Token]:
    return MARKDOWN.parse(page.read_text(encoding="utf-8"))


def fence_of(token: Token, page: Path) -> Fence:
    line = token.map[0] + 1 if token.map else 0
    return Fence(token.info.strip(), token.content, f"{page.relative_to(ROOT)}:{line}")


def all_fences() -> list[Fence]:
    return [fence_of(token, page) for page in PAGES for token in tokens_of(page) if token.type == "fence"]


def fences(*infos: str) -> list[Fence]:
    return [fence for fence in all_fences() if fence.info in infos]


def links_of(page: Path) -> Iterator[str]:
    for token in tokens_of(page):
        for child in token.children or ():
            target = child.attrs.get("href") or child.attrs.get("src")
            if isinstance(target, str) and not re.match(r"[a-z]+:", target):
                yield target


def anchors_of(page: Path) -> set[str]:
    """The names that a hosting site gives to the headings of a page."""
    tokens = tokens_of(page)
    titles = [text.content for head, text in pairwise(tokens) if head.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def leads_somewhere(page: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.is_relative_to(ROOT) and target.exists() and (not anchor or anchor in anchors_of(target))


def example_outputs() -> list[tuple[str, str, str]]:
    """Each `<!-- output of FILE -->` of the README: the block before it, the file, the block after it."""
    readme = [token for token in tokens_of(ROOT / "README.md") if token.type in {"fence", "html_block"}]
    windows = zip(readme, readme[1:], readme[2:], strict=False)
    marked = ((code, OUTPUT_OF.match(marker.content), output) for code, marker, output in windows)
    return [(code.content, marker[1], output.content) for code, marker, output in marked if marker]


def blocks_with_output() -> list[tuple[Fence, str]]:
    """Each block that is followed by what it prints, and that."""
    found: list[tuple[Fence, str]] = []
    for page in PAGES:
        blocks = [token for token in tokens_of(page) if token.type in {"fence", "html_block"}]
        windows = zip(blocks, blocks[1:], blocks[2:], strict=False)
        found += [(fence_of(code, page), out.content) for code, mark, out in windows if OUTPUT_OF_BLOCK in mark.content]
    return found


def blocks_at_a_server() -> list[tuple[Fence, Fence, str]]:
    """Each block that asks a server: the block with the agent there, which stands before it, itself, what it prints."""
    blocks = fences("python run", AT_A_SERVER)
    outputs = {block.place: output for block, output in blocks_with_output()}
    return [(agent, block, outputs[block.place]) for agent, block in pairwise(blocks) if block.info == AT_A_SERVER]


def shown_commands() -> list[tuple[str, str]]:
    """Each `aicp …` that begins a line of a block for the shell, and its page."""
    return [
        (line.strip().partition(" #")[0], str(page.relative_to(ROOT)))
        for page in PAGES
        for token in tokens_of(page)
        if token.type == "code_block"
        for line in token.content.replace("\\\n", " ").splitlines()
        if line.startswith("aicp ")
    ]


def names_of_tests() -> set[str]:
    files = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("src/aicp/testing/*.py")]
    return {name for file in files for name in re.findall(r"def (test_\w+)", file.read_text(encoding="utf-8"))}


def tables_of(page: Path) -> Iterator[tuple[str, list[Token]]]:
    """Every row of every table of a page: the heading it stands under, and its cells."""
    heading, cells = "", list[Token]()
    for opened, token in pairwise(tokens_of(page)):
        if opened.type == "heading_open":
            heading = token.content
        elif opened.type == "tr_open":
            cells = []
        elif opened.type == "td_open":
            cells.append(token)
        elif opened.type == "tr_close" and cells:
            yield heading, cells


def names_in(cell: Token) -> list[str]:
    return [child.content for child in cell.children or () if child.type == "code_inline"]


def names_under(page: Path, heading: str) -> list[str]:
    """What stands in code in the first column of the tables under a heading."""
    return [name for found, cells in tables_of(page) if found == heading for name in names_in(cells[0])]


def fields_of(kind: type[msgspec.Struct]) -> list[str]:
    """The names that its fields have in JSON."""
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def metrics_of_a_busy_node() -> dict[str, tuple[str, list[str]]]:
    """Every metric of a node with one of everything: its kind, and its labels."""
    page = asyncio.run(busy_page())
    found: dict[str, tuple[str, list[str]]] = {}
    for family in text_string_to_metric_families(page):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        found[name] = (family.type, sorted(labels))
    return found


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command that does something, with the words that call it."""
    groups = getattr(command, "commands", None)
    if groups is None:
        yield path, command
        return
    for name, inner in groups.items():
        yield from commands(inner, f"{path} {name}")


def command_line() -> list[tuple[str, Any]]:
    return list(commands(typer.main.get_command(make_command_line()), "aicp"))


def section_of(path: str, command: Any) -> str:
    """What `--help` says of a command, as its section of the reference: heading, sentences, arguments and options."""
    arguments = [option for option in command.params if option.param_type_name == "argument"]
    heading = " ".join([path, *(option.metavar or option.name.upper() for option in arguments)])
    told = "\n".join(line.strip() for line in command.help.splitlines())
    rows = "".join(row_of(option) for option in command.params)
    return f"## `{heading}`\n\n{told}\n" + (f"\n| | means | if left out |\n|---|---|---|\n{rows}" if rows else "")


def row_of(option: Any) -> str:
    is_argument = option.param_type_name == "argument"
    names = [option.metavar or option.name.upper()] if is_argument else option.opts
    default = "" if option.default is None or option.default is False else f"`{option.default}`"
    left_out = "required" if option.required else default
    return f"| {', '.join(f'`{name}`' for name in names)} | {option.help} | {left_out} |\n"


@pytest.mark.parametrize("block", fences("python run"), ids=lambda block: block.place)
def test_code_marked_as_runnable_runs(block: Fence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block.content, block.place, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize(
    ("block", "output"),
    [(block, output) for block, output in blocks_with_output() if block.info != AT_A_SERVER],
    ids=lambda value: getattr(value, "place", ""),
)
def test_block_prints_what_the_page_shows(
    block: Fence, output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    test_code_marked_as_runnable_runs(block, tmp_path, monkeypatch)
    assert capsys.readouterr().out == output


@pytest.mark.parametrize(
    ("agent", "block", "output"), blocks_at_a_server(), ids=lambda value: getattr(value, "place", "")
)
def test_block_that_asks_a_server_prints_what_the_page_shows(
    agent: Fence,
    block: Fence,
    output: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "shout.py").write_text(agent.content, encoding="utf-8")
    with running_fleet(tmp_path, target="shout:agent", agent_id="shouter") as shell:
        monkeypatch.setenv("AICP_URL", shell.environment["AICP_URL"])
        monkeypatch.setenv("AICP_API_KEY", (tmp_path / "data" / "admin.key").read_text(encoding="ascii").strip())
        test_code_marked_as_runnable_runs(block, tmp_path, monkeypatch)
    assert capsys.readouterr().out == output


def test_every_block_of_the_page_that_says_so_is_run() -> None:
    blocks = [fence for fence in all_fences() if "/put-aicp-into-your-system.md:" in fence.place]
    assert {fence.info for fence in blocks} == {"python run", AT_A_SERVER, ""}


@pytest.mark.parametrize(("line", "page"), shown_commands())
def test_command_that_is_shown_exists_with_its_options(line: str, page: str) -> None:
    words = shlex.split(line)
    path, command = max(
        ((path, command) for path, command in command_line() if f"{line} ".startswith(f"{path} ")),
        key=lambda found: len(found[0]),
        default=("", None),
    )
    assert command is not None, f"{page}: there is no such command"
    known = {name for option in command.params for name in option.opts}
    assert {word for word in words[len(path.split()) :] if word.startswith("-")} <= known


def test_tests_that_are_named_as_evidence_exist() -> None:
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8"))}
    assert named
    assert named <= names_of_tests()


def test_reference_of_settings_lists_every_variable() -> None:
    told = {name for _, cells in tables_of(DOCS / "reference/settings.md") for name in names_in(cells[0])}
    sources = ROOT.glob("src/aicp/**/*.py")
    assert told == {name for file in sources for name in VARIABLE.findall(file.read_text(encoding="utf-8"))}


@pytest.mark.parametrize("block", fences("yaml chain", "json chain", "toml chain"), ids=lambda block: block.place)
def test_chain_in_the_docs_is_sound(block: Fence, tmp_path: Path) -> None:
    file = tmp_path / f"chain.{block.info.split()[0]}"
    file.write_text(block.content, encoding="utf-8")
    assert read_chain(file).tasks


@pytest.mark.parametrize("block", fences("yaml agents", "json agents", "toml agents"), ids=lambda block: block.place)
def test_agents_file_in_the_docs_is_sound(block: Fence, tmp_path: Path) -> None:
    file = tmp_path / f"agents.{block.info.split()[0]}"
    file.write_text(block.content, encoding="utf-8")
    assert read_agents(file)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    lost = [link for link in links_of(page) if not leads_somewhere(page, link)]
    assert not lost


def test_readme_shows_its_example_and_what_it_really_prints() -> None:
    examples = example_outputs()
    assert examples
    for code, file, output in examples:
        assert code in (ROOT / file).read_text(encoding="utf-8")
        ran = subprocess.run([sys.executable, file], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
        assert ran.stdout == output


def test_every_page_is_reached_from_the_readme() -> None:
    reached, todo = set[Path](), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        reached.add(page)
        linked = {(page.parent / link.partition("#")[0]).resolve() for link in links_of(page)}
        todo.extend(target for target in linked - reached if target.suffix == ".md" and target.is_file())
    assert set(PAGES) <= reached


@pytest.mark.parametrize(("path", "command"), command_line(), ids=lambda value: value if isinstance(value, str) else "")
def test_reference_of_the_command_line_says_what_help_says(path: str, command: Any) -> None:
    assert section_of(path, command) in (DOCS / "reference/cli.md").read_text(encoding="utf-8")


def test_every_decision_is_listed_with_its_number() -> None:
    listed = re.findall(r"^(\d+)\. \[.+\]\((adr/.+)\)$", (DOCS / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    decisions = sorted(page.relative_to(DOCS).as_posix() for page in DOCS.glob("adr/*.md"))
    assert listed == [(str(int(page.removeprefix("adr/")[:4])), page) for page in decisions]


def test_reference_of_the_command_line_has_no_command_that_is_gone() -> None:
    told = re.findall(r"^## `(aicp[a-z ]+)", (DOCS / "reference/cli.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(map(str.strip, told)) == sorted(path for path, _ in command_line())


def test_reference_of_the_command_line_tells_every_exit_code() -> None:
    told = {cells[0].content for heading, cells in tables_of(DOCS / "reference/cli.md") if heading == "Exit codes"}
    codes = {str(value) for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert codes <= told


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_reference_of_python_lists_the_public_names(module: str) -> None:
    public = getattr(importlib.import_module(module), "__all__", ["BlockingClient"])
    told = names_under(DOCS / "reference/python-api.md", f"`{module}`")
    assert sorted(told) == sorted(public)


def test_reference_of_http_lists_the_routes() -> None:
    app = make_server(Node(), Keys("a key"))
    routes = {
        f"{method} {path.replace(':str', '').replace(':path', '')}"
        for path, handler in declared_routes(app)
        for method in getattr(handler, "http_methods", ())
    }
    told = names_under(DOCS / "reference/http-api.md", "Routes")
    assert sorted(told) == sorted(routes)


def test_reference_of_errors_lists_every_code_with_its_status() -> None:
    rows = [cells for heading, cells in tables_of(DOCS / "reference/errors.md") if heading == "Codes"]
    told = {names_in(cells[0])[0]: int(cells[1].content) for cells in rows}
    # What a defect ends with is in no table of ours.
    assert told == {**STATUS_OF_CODE, "internal_error": 500}


@pytest.mark.parametrize(("name", "text"), reference.pages().items(), ids=lambda value: value[:20])
def test_page_that_is_made_from_code_is_not_stale(name: str, text: str) -> None:
    assert (DOCS / "reference" / name).read_text(encoding="utf-8") == text, (
        "run make reference, or python -m aicp.server.openapi.reference docs/reference"
    )


@pytest.mark.parametrize(("page", "heading", "kind"), FIELDS, ids=lambda value: getattr(value, "__name__", None))
def test_table_of_fields_is_whole(page: str, heading: str, kind: type[msgspec.Struct]) -> None:
    assert sorted(names_under(DOCS / page, heading)) == sorted(fields_of(kind))


def test_every_outcome_is_explained() -> None:
    assert names_under(DOCS / "explanation/outcomes.md", "Outcomes") == list(Outcome)


def test_every_kind_of_live_event_is_told_with_its_fields() -> None:
    rows = [cells for heading, cells in tables_of(DOCS / "reference/events.md") if heading == "Kinds"]
    assert [names_in(cells[0])[0] for cells in rows] == list(TOLD_KINDS)
    assert {name for cells in rows for name in names_in(cells[2])} <= set(fields_of(LiveEvent))
    later = [cells for heading, cells in tables_of(DOCS / "reference/events.md") if heading == "Kinds to come"]
    assert [name for cells in later for name in names_in(cells[1])] == list(TOLD_LATER)


def test_every_metric_is_told_with_its_kind_and_labels() -> None:
    rows = [cells for heading, cells in tables_of(DOCS / "reference/metrics.md") if heading == "Names"]
    told = {names_in(cells[0])[0]: (cells[1].content, sorted(names_in(cells[2]))) for cells in rows}
    assert told == metrics_of_a_busy_node()


def test_every_reason_of_a_rejection_is_told() -> None:
    page = asyncio.run(Onlookers(Node()).metrics()).decode()
    assert names_under(DOCS / "reference/metrics.md", "Reasons") == re.findall(r'reason="(\w+)"', page)
