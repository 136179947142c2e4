import sys
from pathlib import Path

import pytest

from aicp.agent import load_agent
from aicp.errors import SettingsError

EYES = """
from aicp.agent import Agent
agent = Agent("eyes-1")
class Box:
    inner = Agent("eyes-2")
thing = 7
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("sdk_eyes", "sdk_broken", "sdk_needy"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "sdk_eyes.py").write_text(EYES)
    return tmp_path


def test_agent_is_found_in_the_current_directory(here: Path) -> None:
    assert load_agent("sdk_eyes:agent").agent_id == "eyes-1"
    assert load_agent("sdk_eyes:Box.inner").agent_id == "eyes-2"


@pytest.mark.parametrize("target", ["sdk_eyes", "sdk_eyes:", ":agent", ""])
def test_target_without_module_or_attribute_is_told(here: Path, target: str) -> None:
    with pytest.raises(SettingsError, match="module:attribute"):
        load_agent(target)


@pytest.mark.parametrize("target", ["sdk_nowhere:agent", "sdk_eyes.nowhere:agent"])
def test_missing_module_is_told(here: Path, target: str) -> None:
    with pytest.raises(SettingsError, match="There is no module"):
        load_agent(target)


def test_missing_attribute_is_told_with_the_agents_there_are(here: Path) -> None:
    with pytest.raises(SettingsError, match=r"has no 'agnt'; its agents are agent\."):
        load_agent("sdk_eyes:agnt")


def test_attribute_that_is_no_agent_is_told(here: Path) -> None:
    with pytest.raises(SettingsError, match="is no Agent but int"):
        load_agent("sdk_eyes:thing")


def test_module_that_fails_is_told_with_its_line(here: Path) -> None:
    (here / "sdk_broken.py").write_text("x = 1\ny = x / 0\n")
    with pytest.raises(SettingsError, match=r"ZeroDivisionError: division by zero .*sdk_broken\.py, line 2"):
        load_agent("sdk_broken:agent")


def test_module_with_wrong_syntax_is_told_with_its_line(here: Path) -> None:
    (here / "sdk_broken.py").write_text("x = 1\ny = = 2\n")
    with pytest.raises(SettingsError, match=r"SyntaxError: invalid syntax \(sdk_broken\.py, line 2\)\.$"):
        load_agent("sdk_broken:agent")


def test_module_that_needs_another_is_told_apart_from_a_missing_one(here: Path) -> None:
    (here / "sdk_needy.py").write_text("import sdk_missing\n")
    with pytest.raises(SettingsError, match="'sdk_needy' needs 'sdk_missing'"):
        load_agent("sdk_needy:agent")
