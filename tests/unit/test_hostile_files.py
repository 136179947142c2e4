"""Files, variables and rows are a value or the parser's own refusal, whatever their bytes say."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, seed
from hypothesis import strategies as st

from aicp.agent.options import AgentOptions
from aicp.model.chain import ChainSpec
from aicp.runtime import settings
from aicp.runtime.agents_file import named_bearer_files, read_agents, read_static_agents
from aicp.runtime.documents import SUFFIXES, read_document
from aicp.runtime.files import read_chain
from tests.unit.hostile_kit import (
    ANY_TEXT,
    NUMBERS,
    SEED,
    TIMES,
    bounded,
    found_or_refused,
    hostile_json,
    values_in_place,
)

CHAIN = {
    "name": "n",
    "deadline_s": 5,
    "failure_policy": "continue",
    "tasks": [
        {
            "id": "a", "capability": "text.echo@1", "params": {"x": [1]}, "timeout_s": 1.5, "deadline_s": 2,
            "priority": "high", "idempotent": True, "labels": {"zone": "a"}, "agent": "eyes",
            "exclude_agents": ["b"], "on_failure": {"continue": {"y": 0}},
        },
        {"id": "b", "capability": "c", "depends_on": ["a"], "params": {"in": {"$result": "a", "path": "/x/0"}}},
    ],
}  # fmt: skip
AGENTS = {
    "agents": [
        {
            "endpoint": "http://127.0.0.1:9", "agent_id": "x", "instance_id": "i", "name": "n", "tenant": "t",
            "auth": {"bearer_file": "token"}, "max_concurrent_tasks": 2, "labels": {"a": "b"}, "shared": True,
            "lease": False,
            "capabilities": [
                {
                    "name": "a.b", "version": "1.2", "input_schema": {"type": "object"}, "output_schema": {},
                    "timeout_s": 3, "idempotent": True,
                }
            ],
        }
    ]
}  # fmt: skip
PYTHON_AGENTS = {"agents": [{"python": "a.b:c", "max_concurrent_tasks": 1, "labels": {"a": "b"}}]}
READERS: tuple[Callable[[Path], Any], ...] = (
    read_chain, read_agents, read_static_agents, named_bearer_files, read_document,
)  # fmt: skip
VARIABLES = (
    settings.RETENTION_VARIABLE, settings.DRAIN_VARIABLE, settings.AUDIT_VARIABLE, settings.LOG_FORMAT_VARIABLE,
    settings.NETWORKS_VARIABLE, settings.SECRET_KEY_VARIABLE, settings.TLS_KEY_VARIABLE,
    settings.TLS_CERTIFICATE_VARIABLE, "AICP_DATABASE_URL", "AICP_DATA_DIR",
)  # fmt: skip


def assert_read_or_refused(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    for read in READERS:
        found = found_or_refused(read, path)
        if isinstance(found, ChainSpec):
            # What was accepted can be sent and recorded.
            assert msgspec.json.decode(msgspec.json.encode(found), type=ChainSpec)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@seed(SEED)
@bounded
@given(
    content=st.one_of(*(hostile_json(document, *TIMES) for document in (CHAIN, AGENTS, PYTHON_AGENTS))),
    suffix=st.sampled_from((".json", ".yaml")),
)
def test_json_and_yaml_files(directory: Path, content: bytes, suffix: str) -> None:
    assert_read_or_refused(content, directory / f"file{suffix}")


YAML = (
    "!!int 0x", "!!float .", "!!bool maybe", "!!timestamp 2026-99-99", "!!binary '*'", "!!python/name:os.system x",
    "0x" + "f" * 9_000, "0o8", "-.inf", ".nan", "? a", "*a", "&a b", "1e999", "- -", "%YAML 9.9", "--- a\n--- b", "|9",
    "'\\ud800'", '"\\ud800"', '"\\U00110000"', '"\\U0000D800"', "\ufeff", "{? {a: b} : c}", "<<: {a: b}", "? ''", "=",
    "!!null x", "!!str", "!!map [a]", "!!seq {}", "1_000", "+" + "1" * 5_000, "9" * 5_000 + ".", "\x85", "\u2028",
    "[" * 100, "{a: " * 100, "- " * 200, "? " * 200,
)  # fmt: skip
TOML = (
    "inf", "nan", "-0x1", "9" * 5_000, "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+23:59", "2026-02-30",
    "24:00:00", "23:59:60", "1e999", '"\\ud800"', '"\\U0010FFFF"', '"\\U00110000"', "'''", "[" * 500, "{a=" * 500,
    "[" * 5_000, "0x" + "f" * 9_000, "1__0", "{a.b=1,a.b=2}", "\x00", '"""', "[{}, 1]", "00:00:00.99999999999",
    "1979-05-27 07:32:00Z", "+nan",
)  # fmt: skip


@seed(SEED)
@bounded
@given(
    put=st.sampled_from([put for document in (CHAIN, AGENTS) for put in values_in_place(document)]),
    raw=st.one_of(st.sampled_from(YAML), ANY_TEXT),
)
def test_yaml_files(directory: Path, put: Callable[[str], str], raw: str) -> None:
    assert_read_or_refused(put(raw).encode("utf-8", "surrogatepass"), directory / "file.yml")
    assert_read_or_refused(f"tasks: {raw}\nagents:\n- {raw}".encode("utf-8", "surrogatepass"), directory / "file.yml")


@seed(SEED)
@bounded
@given(
    field=st.sampled_from(
        ("id", "capability", "params", "timeout_s", "deadline_s", "labels", "depends_on", "priority")
    ),
    agents_field=st.sampled_from(("endpoint", "capabilities", "max_concurrent_tasks", "labels", "auth", "name")),
    raw=st.one_of(st.sampled_from((*TOML, *NUMBERS)), ANY_TEXT),
)
def test_toml_files(directory: Path, field: str, agents_field: str, raw: str) -> None:
    text = f'name = "n"\n[[tasks]]\nid = "a"\ncapability = "b"\n[tasks.more]\n[[tasks]]\n{field} = {raw}\n'
    assert_read_or_refused(text.encode("utf-8", "surrogatepass"), directory / "file.toml")
    text = f'[[agents]]\nagent_id = "a"\nendpoint = "http://127.0.0.1:9"\n{agents_field} = {raw}\n'
    assert_read_or_refused(text.encode("utf-8", "surrogatepass"), directory / "file.toml")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"[" * 200_000, b"{" * 200_000, b"- " * 200_000, b"a: " * 200_000, b"\xff\xfe"])
def test_files_that_are_nested_without_end(directory: Path, content: bytes, suffix: str) -> None:
    assert_read_or_refused(content, directory / f"deep{suffix}")


@pytest.mark.parametrize("name", ["a\x00b", "\udcff", "a" * 5_000, ".", "/"])
def test_bearer_files_with_names_that_no_file_has(directory: Path, name: str) -> None:
    agent = {"agent_id": "a", "endpoint": "http://127.0.0.1:9", "auth": {"bearer_file": name}}
    assert_read_or_refused(json.dumps({"agents": [agent]}).encode(), directory / "file.json")


TEXTS = st.one_of(
    st.sampled_from((*NUMBERS, "1" + "0" * 400, "0" * 20 + "9" * 5_000, "1_0", "٣", "²",
        " 5 ", "0x10", "1e3", "/dev/null")),
    ANY_TEXT.filter(lambda text: "\x00" not in text),
    st.from_regex(r"[0-9a-f:./]{1,60}", fullmatch=True),
)  # fmt: skip


@seed(SEED)
@bounded
@given(variable=st.sampled_from(VARIABLES), text=TEXTS, port=st.integers(-(10**30), 10**30), host=TEXTS)
def test_settings_from_the_environment(variable: str, text: str, port: int, host: str) -> None:
    several: tuple[dict[str, Any], ...] = ({}, {"port": port}, {"host": host}, {"allow_networks": [text]})
    for arguments in several:
        found_or_refused(partial(settings.server_settings, environ={variable: text, "HOME": "/nowhere"}, **arguments))


@seed(SEED)
@bounded
@given(text=TEXTS)
def test_keys_and_urls_of_the_environment(directory: Path, text: str) -> None:
    readers: tuple[Callable[[], Any], ...] = (
        lambda: settings.shared_secret_key({settings.SECRET_KEY_VARIABLE: text}),
        lambda: settings.secret_key(directory, {settings.SECRET_KEY_VARIABLE: text}),
        lambda: settings.api_key(text, {"AICP_DATA_DIR": str(directory / "none")}),
        lambda: settings.api_key("http://127.0.0.1", {"AICP_DATA_DIR": text}),
        lambda: AgentOptions(port=0, token=text),
        lambda: AgentOptions(host=text, endpoint=text, register=text, api_key=text),
    )
    for read in readers:
        found_or_refused(read)


@pytest.mark.parametrize("content", [b"", b"\xff" * 44, b"\x00" * 44, b"a" * 10**6, "ä".encode() * 44])
@pytest.mark.parametrize("name", [settings.ADMIN_KEY_FILE, settings.SECRET_KEY_FILE])
def test_key_files(tmp_path: Path, name: str, content: bytes) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    file.chmod(0o600)
    for read in (
        lambda: settings.find_or_make_admin_key(tmp_path),
        lambda: settings.secret_key(tmp_path, {}),
        lambda: settings.api_key("http://127.0.0.1", {"AICP_DATA_DIR": str(tmp_path)}),
    ):
        found_or_refused(read)
