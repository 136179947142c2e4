from pathlib import Path
from typing import Any

import pytest

from aicp.agent.keys import data_dir, find_api_key
from aicp.agent.options import AgentOptions, checked
from aicp.errors import SettingsError
from aicp.runtime.settings import api_key

LOCAL = "http://127.0.0.1:8420"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert checked(AgentOptions(host=host)).token is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_other_address_without_a_token_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match="token"):
        checked(AgentOptions(host=host))
    assert checked(AgentOptions(host=host, token="secret")).token == "secret"


def test_wildcard_that_registers_must_say_its_endpoint() -> None:
    wildcard = {"host": "0.0.0.0", "token": "secret", "register": "http://10.0.0.1:8420/"}
    with pytest.raises(SettingsError, match="--endpoint"):
        checked(AgentOptions(**wildcard))  # type: ignore[arg-type] # one dict of strings for two calls
    options = checked(AgentOptions(**wildcard, endpoint="http://10.0.0.9:9001/"))  # type: ignore[arg-type] # as above
    assert (options.register, options.endpoint) == ("http://10.0.0.1:8420", "http://10.0.0.9:9001")


@pytest.mark.parametrize(
    "given",
    [
        {"register": "127.0.0.1:8420"},
        {"register": "ftp://127.0.0.1"},
        {"register": "http://"},
        {"register": "http://a:99999"},
        {"register": "http://a/?b=c"},
        {"endpoint": "nowhere"},
        {"port": 65_536},
        {"port": -1},
        {"drain_s": -1.0},
        {"drain_s": float("nan")},
        {"token": ""},
        {"token": "two\nlines"},
        {"token": "ключ"},
        {"token": "a", "token_file": Path("b")},
        {"token_file": Path("/nowhere/token")},
    ],
)
def test_unusable_option_is_told_in_one_sentence(given: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as refused:
        checked(AgentOptions(**given))
    assert "\n" not in refused.value.message.replace("two\nlines", "")


def test_token_is_read_from_its_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    assert checked(AgentOptions(token_file=tmp_path / "token")).token == "secret"
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(SettingsError, match="not empty"):
        checked(AgentOptions(token_file=tmp_path / "empty"))


def test_options_do_not_show_secrets() -> None:
    assert "secret" not in repr(AgentOptions(token="secret", api_key="secret"))


def test_key_comes_from_the_argument_then_the_variable_then_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AICP_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("AICP_API_KEY", raising=False)
    assert find_api_key(None, LOCAL) is None
    (tmp_path / "admin.key").write_text("from-file\n")
    assert find_api_key(None, LOCAL) == "from-file"
    monkeypatch.setenv("AICP_API_KEY", "from-variable")
    assert find_api_key(None, LOCAL) == "from-variable"
    assert find_api_key("given", LOCAL) == "given"


def test_admin_key_of_this_machine_is_never_shown_to_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AICP_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("AICP_API_KEY", raising=False)
    (tmp_path / "admin.key").write_text("from-file\n")
    assert find_api_key(None, "http://aicp.example:8420") is None
    assert find_api_key(None, "http://127.0.0.1.example:8420") is None
    assert api_key("http://aicp.example:8420") is None
    assert api_key(LOCAL) == "from-file"


def test_data_directory_is_chosen_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("AICP_DATA_DIR", raising=False)
    assert data_dir() == Path("/home/ada/.local/share/aicp")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert data_dir() == Path("/data/aicp")
    monkeypatch.setenv("AICP_DATA_DIR", "/aicp")
    assert data_dir() == Path("/aicp")
