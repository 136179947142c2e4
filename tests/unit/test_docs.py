"""The documentation tells the truth: its code runs, its chains are sound, its links lead somewhere."""

import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from aicp.model.validation import check_chain, parse_chain

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
OUTPUT_OF = re.compile(r"<!-- output of (\S+) -->")
MARKDOWN = MarkdownIt("commonmark").enable("table")


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


def fences(info: str) -> list[Fence]:
    found = (fence_of(token, page) for page in PAGES for token in tokens_of(page) if token.type == "fence")
    return [fence for fence in found if fence.info == info]


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


@pytest.mark.parametrize("block", fences("python run"), ids=lambda block: block.place)
def test_code_marked_as_runnable_runs(block: Fence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block.content, block.place, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", fences("yaml chain"), ids=lambda block: block.place)
def test_chain_in_the_docs_is_sound(block: Fence) -> None:
    graph = check_chain(parse_chain(yaml.safe_load(block.content)))
    assert graph.tasks


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
