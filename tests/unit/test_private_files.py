"""Files with secrets that others can reach: found, and said at the start and by `aicp doctor`."""

import asyncio
import json
import logging
from pathlib import Path

import pytest

from aicp.agent.options import AgentOptions, checked
from aicp.private_files import PrivateFile, Reach, find_exposures, warn_of_exposures
from aicp.runtime.checkup import Verdict, check_machine
from aicp.runtime.node import Node
from aicp.runtime.secrets_on_disk import files_of_server
from aicp.runtime.settings import Settings, Tls


def made(path: Path, mode: int, text: str = "") -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("mode", "reach", "told"),
    [
        (0o600, Reach.SECRET, None),
        (0o700, Reach.SECRET, None),
        (0o640, Reach.SECRET, "read"),
        (0o604, Reach.SECRET, "read"),
        (0o620, Reach.SECRET, "written"),
        (0o666, Reach.SECRET, "read and written"),
        (0o642, Reach.SECRET, "read and written"),
        (0o611, Reach.SECRET, None),
        (0o644, Reach.TRUSTED, None),
        (0o664, Reach.TRUSTED, "written"),
        (0o666, Reach.TRUSTED, "written"),
    ],
)
def test_what_others_can_do_is_named(tmp_path: Path, mode: int, reach: Reach, told: str | None) -> None:
    path = made(tmp_path / "a.key", mode)
    found = [(each.message, each.advice) for each in find_exposures([PrivateFile("key", path, reach)])]
    message = f"the key {path} can be {told} by other users (mode {mode:04o})"
    assert found == ([] if told is None else [(message, f"chmod 600 {path}")])


def test_directory_that_everybody_can_write_to_is_found(tmp_path: Path) -> None:
    for mode, is_found in ((0o755, False), (0o775, False), (0o777, True), (0o1777, True)):
        tmp_path.chmod(mode)
        found = list(find_exposures([PrivateFile("data directory", tmp_path, Reach.DIRECTORY)]))
        assert [each.advice for each in found] == ([f"chmod 700 {tmp_path}"] if is_found else [])
    tmp_path.chmod(0o700)


def test_what_is_not_there_is_left_out_and_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(made(tmp_path / "file", 0o644))
    names = ("link", "missing", "a\0b")
    found = find_exposures([PrivateFile("key", tmp_path / name) for name in names])
    assert [each.file.path.name for each in found] == ["link"]


def test_every_secret_of_a_server_is_looked_at(tmp_path: Path) -> None:
    entry = {"agent_id": "a", "endpoint": "http://127.0.0.1:1", "auth": {"bearer_file": "token"}}
    agents = {"agents": [entry]}
    settings = Settings(
        data_dir=tmp_path,
        agents_file=made(tmp_path / "agents.json", 0o666, json.dumps(agents)),
        tls=Tls(made(tmp_path / "cert.pem", 0o666), made(tmp_path / "key.pem", 0o644)),
    )
    for name in ("admin.key", "secret.key", "token"):
        made(tmp_path / name, 0o644)
    tmp_path.chmod(0o777)
    found = [each.file.path.name for each in find_exposures(files_of_server(settings))]
    tmp_path.chmod(0o700)
    assert found == [tmp_path.name, "admin.key", "secret.key", "key.pem", "cert.pem", "agents.json", "token"]


def test_node_warns_of_its_database_and_the_files_beside_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "aicp.db"

    async def started() -> None:
        async with Node(database=f"sqlite:///{path}"):
            pass

    asyncio.run(started())
    assert "chmod" not in caplog.text
    path.chmod(0o666)
    tmp_path.chmod(0o777)
    asyncio.run(started())
    tmp_path.chmod(0o700)
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert (
        f"the directory of the database {tmp_path} can be written by other users (mode 0777); run: chmod 700 {tmp_path}"
        in warned
    )
    for name in ("aicp.db", "aicp.db-wal", "aicp.db-shm"):
        told = f"the database {tmp_path / name} can be read and written by other users (mode 0666); run: chmod 600"
        assert [each for each in warned if each.startswith(told)]


def test_agent_warns_of_its_token_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checked(AgentOptions(token_file=made(tmp_path / "token", 0o644, "t" * 40)))
    assert f"the token file {tmp_path / 'token'} can be read by other users (mode 0644)" in caplog.text


def test_nothing_is_logged_when_all_is_private(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_exposures(logging.getLogger(), [PrivateFile("key", made(tmp_path / "a.key", 0o600))])
    assert caplog.text == ""


def test_doctor_lists_what_others_can_reach(tmp_path: Path) -> None:
    path, agents = made(tmp_path / "aicp.db", 0o644), made(tmp_path / "agents.json", 0o666, "{}")
    tmp_path.chmod(0o777)
    found = [each for each in check_machine({"AICP_DATA_DIR": str(tmp_path)}, agents) if "chmod" in each.advice]
    tmp_path.chmod(0o700)
    told = (
        f"{tmp_path} can be written by anybody",
        f"the database {path} can be read by other users (mode 0644)",
        f"the agents file {agents} can be written by other users (mode 0666)",
    )
    assert [each.told for each in found] == list(told)
    assert [each.verdict for each in found] == [Verdict.FAIL, Verdict.WARN, Verdict.FAIL]
    assert [each.advice for each in found] == [f"chmod 700 {tmp_path}", f"chmod 600 {path}", f"chmod 600 {agents}"]
