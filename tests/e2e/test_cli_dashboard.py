"""`aicp dashboard` with a real server: a link that signs in once, printed or opened."""

import asyncio
import json
import signal
import stat
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from aicp.cli.browsing import has_screen, open_in_browser
from aicp.cli.dashboard import _link
from aicp.cli.exits import OK, SERVER
from aicp.client import Client
from tests.e2e.cli_kit import Shell, running_fleet
from tests.e2e.demo_kit import DemoProcess

SCREENS = ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with running_fleet(tmp_path_factory.mktemp("fleet")) as shell:
        for name in SCREENS:
            shell.environment.pop(name, None)
        yield shell


@pytest.fixture(autouse=True)
def no_screen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SCREENS:
        monkeypatch.delenv(name, raising=False)


def session_of(link: str) -> str:
    """The key that the page gets for the code in a link."""
    base, _, told = link.partition("/dashboard/#code=")
    body = json.dumps({"code": told.partition("&")[0]}).encode()
    request = urllib.request.Request(f"{base}/api/sessions", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return str(json.load(answer)["key"])


def test_link_is_printed_where_there_is_no_browser_and_signs_in(fleet: Shell) -> None:
    for arguments in ((), ("--no-open",)):
        printed = fleet.call("dashboard", *arguments)
        assert printed.code == OK, printed.err
        link = printed.out.strip()
        assert link.startswith(f"{fleet.environment['AICP_URL']}/dashboard/#code=")
        assert session_of(link).startswith("aicp_")


def test_browser_is_opened_with_the_link_which_is_not_printed(fleet: Shell, tmp_path: Path) -> None:
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f"#!/bin/sh\nprintf %s \"$1\" > '{opened}'\n")
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)
    ran = fleet.run("dashboard", BROWSER=f"{browser} %s")
    assert ran.code == OK, ran.err
    assert ran.out == ""
    assert "#code=" not in ran.err
    assert session_of(opened.read_text()).startswith("aicp_")


def test_wrong_key_is_told(fleet: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fleet.environment, "AICP_API_KEY", "aicp_wrong")
    refused = fleet.call("dashboard")
    assert (refused.code, refused.out) == (SERVER, "")
    assert "does not accept the key" in refused.err


def test_no_code_is_made_for_a_link_over_a_network_that_others_can_read() -> None:
    class Recorder(Client):
        asked = ""

        async def info(self) -> None:  # type: ignore[override]
            self.asked = "info"

    async def main() -> None:
        async with Recorder("http://aicp.example:8420", "k") as client:
            link = await _link(client)
            assert (link.url, link.expires_at, client.asked) == ("http://aicp.example:8420/dashboard/", None, "info")

    asyncio.run(main())


def test_demo_is_watched_until_it_is_interrupted(tmp_path: Path) -> None:
    with DemoProcess(tmp_path, "--watch") as demo:
        link = demo.read_until("Open this in a browser").split()[-1]
        key = session_of(link)
        again = demo.read_until("The dashboard goes on until Ctrl-C").split()[-1]
        base, _, place = link.partition("/dashboard/")
        chain_id = place.partition("runs/")[2]
        request = urllib.request.Request(
            f"{base}/api/tasks/chain/{chain_id}", headers={"Authorization": f"Bearer {key}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert json.load(answer)["status"] == "COMPLETED"
        assert again != link
        assert session_of(again) != key
        assert len(demo.agents()) >= 6
        demo.popen.send_signal(signal.SIGINT)
        code, out, errors = demo.ended()

    assert code == OK, errors
    assert "failover" in out
    assert "Traceback" not in errors
    assert demo.agents() == []


def test_browser_for_terminals_is_never_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    assert not has_screen()
    assert not open_in_browser("http://127.0.0.1:9/")
