"""Chain and agents files: read strictly, and whatever is wrong is told with its line."""

from pathlib import Path

import pytest

from aicp.errors import InvalidAgent, InvalidChain, SettingsError
from aicp.model.agent import AgentAuth, Registration
from aicp.runtime import documents
from aicp.runtime.agents_file import PythonAgent, read_agents
from aicp.runtime.documents import read_document
from aicp.runtime.files import read_chain

CHAIN = """\
name: image analysis
tasks:
  - id: fetch
    capability: image.fetch
    params: {url: "https://example.org/page.png"}
  - id: text
    capability: text.extract
    params:
      image: {$result: fetch, path: /image}
"""
CHAIN_JSON = """\
{"name": "image analysis", "tasks": [
  {"id": "fetch", "capability": "image.fetch", "params": {"url": "https://example.org/page.png"}},
  {"id": "text", "capability": "text.extract",
   "params": {"image": {"$result": "fetch", "path": "/image"}}}]}
"""
CHAIN_TOML = """\
name = "image analysis"
[[tasks]]
id = "fetch"
capability = "image.fetch"
params.url = "https://example.org/page.png"
[[tasks]]
id = "text"
capability = "text.extract"
params.image = {"$result" = "fetch", path = "/image"}
"""

NO_TAGS = "a tag is not taken: put text that begins with ! in quotes (line 1)"
NO_ALIASES = "an alias is not taken: write the value out, or put text that begins with * in quotes (line 2)"


def written(directory: Path, name: str, content: str | bytes) -> Path:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_one_chain_is_the_same_in_every_notation(tmp_path: Path) -> None:
    notations = [("c.yaml", CHAIN), ("c.yml", CHAIN), ("c.json", CHAIN_JSON), ("c.toml", CHAIN_TOML)]
    specs = [read_chain(written(tmp_path, name, content)) for name, content in notations]
    assert all(spec == specs[0] for spec in specs)
    assert [task.id for task in specs[0].tasks] == ["fetch", "text"]


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("a: 1\nb: [1.5, x, ~, true, '1']", {"a": 1, "b": [1.5, "x", None, True, "1"]}),
        ("[1e3, -5, +7, .5, 0x1F, 0o17, 010]", [1000.0, -5, 7, 0.5, 31, 15, 10]),
        (
            "[yes, no, on, off, y, 1:30, 1_000, 1.2.3, '', '~']",
            ["yes", "no", "on", "off", "y", "1:30", "1_000", "1.2.3", "", "~"],
        ),
        ("on: 1\nno: 2", {"on": 1, "no": 2}),
        ("a:\nb: null", {"a": None, "b": None}),
        ("day: 2026-01-31", {"day": "2026-01-31"}),
        ("a: !!str 5\nb: !!int '5'", {"a": "5", "b": 5}),
        ("&anchor a: &other b", {"a": "b"}),
        ("a: |\n  two\n  lines\n", {"a": "two\nlines\n"}),
        ("{}", {}),
        ("", None),
        ("- - 1\n  - {a: {b: []}}", [[1, {"a": {"b": []}}]]),
        ("\N{BYTE ORDER MARK}a: b", {"a": "b"}),
    ],
)
def test_yaml_becomes_json_values(tmp_path: Path, content: str, value: object) -> None:
    assert read_document(written(tmp_path, "a.yaml", content)).value == value


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.yaml", "a: 1\nb: [1\nc: 2", "is not YAML: did not find expected ',' or ']' (line 3)"),
        ("a.yaml", "a:\n\t- b", "is not YAML: found character that cannot start any token (line 2)"),
        ("a.yaml", b"a: \x00", "is not YAML: control characters are not allowed"),
        ("a.yaml", "a: &x {b: 1}\nc: *x", NO_ALIASES),
        ("a.yaml", "a: 1\nb: 2\na: 3", "the key 'a' stands twice in one object (line 3)"),
        ("a.yaml", "a: 1\n2: b", "a key must be text; put it in quotes (line 2)"),
        ("a.yaml", "a: 1\ntrue: b", "a key must be text; put it in quotes (line 2)"),
        ("a.yaml", "a: !!bool yes", "'yes' is no bool; put text in quotes (line 1)"),
        ("a.yaml", "? [a]\n: b", "a key must be text; put it in quotes (line 1)"),
        ("a.yaml", "a: .nan", ".nan is no JSON number (line 1)"),
        ("a.yaml", "a: -.inf", "-.inf is no JSON number (line 1)"),
        ("a.yaml", "a: !!python/object:os.system x", NO_TAGS),
        ("a.yaml", "a: !!binary aGk=", NO_TAGS),
        ("a.yaml", "a: !mine {}", NO_TAGS),
        ("a.yaml", "a: !!int x", "'x' is no int; put text in quotes (line 1)"),
        ("a.yaml", "a: " + "9" * 5_000, "is no int"),
        ("a.yaml", "a: 1\n---\nb: 2", "a second document begins; one file holds one (line 2)"),
        ("a.yaml", "[" * 65, "nested deeper than 64 (line 1)"),
        ("a.yaml", "[" * 1_000_000, "nested deeper than 64 (line 1)"),
        ("a.json", '{"a": 1,\n "b" 2}', "is not JSON: expecting ':' delimiter (line 2)"),
        ("a.json", "", "is not JSON"),
        ("a.json", '{"a": 1, "a": 2}', "the key 'a' stands twice in one object"),
        ("a.json", '{"a": NaN}', "NaN is no JSON number"),
        ("a.json", '{"a": -Infinity}', "-Infinity is no JSON number"),
        ("a.json", '{"a": 1e999}', "is no JSON number"),
        ("a.json", '{"a": ' + "9" * 5_000 + "}", "cannot be used"),
        ("a.json", "[" * 65 + "]" * 65, "nested deeper than 64"),
        ("a.json", "[" * 1_000_000, "nested deeper than 64"),
        ("a.toml", "a = ", "is not TOML: invalid value (at end of document)"),
        ("a.toml", "a = 1\na = 2", "is not TOML: cannot overwrite a value"),
        ("a.toml", "a = 2026-01-31", "2026-01-31 has no form in JSON; write it in quotes"),
        ("a.toml", "a = nan", "nan is no JSON number"),
        ("a.yaml", b"\xff\xfe", "is not UTF-8 text (byte 0)"),
        ("a.txt", "a: 1", "must end in one of .json, .yaml, .yml, .toml"),
    ],
)
def test_file_that_cannot_be_used_is_told_in_one_sentence(
    tmp_path: Path, name: str, content: str | bytes, told: str
) -> None:
    path = written(tmp_path, name, content)
    with pytest.raises(SettingsError) as refused:
        read_document(path)
    assert refused.value.message.startswith(str(path))
    assert told in refused.value.message
    assert "\n" not in refused.value.message


def test_file_that_is_not_there_or_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no such file"):
        read_document(tmp_path / "nothing.yaml")
    (tmp_path / "directory.yaml").mkdir()
    with pytest.raises(SettingsError, match="is a directory"):
        read_document(tmp_path / "directory.yaml")


def test_file_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "FILE_BYTES_MAX", 100)
    assert read_document(written(tmp_path, "a.json", '"' + "x" * 98 + '"')).value
    with pytest.raises(SettingsError, match="larger"):
        read_document(written(tmp_path, "b.json", '"' + "x" * 99 + '"'))


@pytest.mark.parametrize(("name", "line"), [("c.yaml", 9), ("c.json", 4)])
def test_fault_in_a_chain_is_told_with_its_line(tmp_path: Path, name: str, line: int) -> None:
    content = (CHAIN if name == "c.yaml" else CHAIN_JSON).replace("esult: fetch", "esult: fecth")
    path = written(tmp_path, name, content.replace('esult": "fetch"', 'esult": "fecth"'))
    with pytest.raises(InvalidChain) as refused:
        read_chain(path)
    (fault,) = refused.value.faults
    assert fault.place.startswith(f"{path}:{line} /tasks/1/params/image")
    assert fault.message == "there is no task 'fecth'; did you mean 'fetch'?"


def test_fault_in_toml_is_told_by_its_place_alone(tmp_path: Path) -> None:
    path = written(tmp_path, "c.toml", CHAIN_TOML.replace('"text.extract"', '"no name"'))
    with pytest.raises(InvalidChain) as refused:
        read_chain(path)
    assert refused.value.faults[0].place == f"{path} /tasks/1/capability"


def test_every_fault_of_a_chain_is_told_at_once(tmp_path: Path) -> None:
    content = "tasks:\n  - {id: a, capability: 5}\n  - {id: b, capability: x, colour: red}\ncolour: red\n"
    with pytest.raises(InvalidChain) as refused:
        read_chain(written(tmp_path, "c.yaml", content))
    places = [fault.place.rpartition(":")[2] for fault in refused.value.faults]
    assert places == ["4 /colour", "2 /tasks/0/capability", "3 /tasks/1/colour"]


def test_circle_is_told_with_its_path(tmp_path: Path) -> None:
    content = "tasks:\n  - {id: a, capability: x, depends_on: [b]}\n  - {id: b, capability: x, depends_on: [a]}\n"
    with pytest.raises(InvalidChain, match=r"a -> b -> a"):
        read_chain(written(tmp_path, "c.yaml", content))


def test_agents_are_registrations_or_python_objects(tmp_path: Path) -> None:
    content = """\
agents:
  - endpoint: http://127.0.0.1:9001/
    auth: {bearer: s3cret}
    labels: {gpu: "yes"}
  - python: eyes:agent
    max_concurrent_tasks: 2
"""
    assert read_agents(written(tmp_path, "a.yaml", content)) == [
        Registration("http://127.0.0.1:9001", auth=AgentAuth("s3cret"), labels={"gpu": "yes"}, lease=False),
        PythonAgent("eyes:agent", 2),
    ]


def test_every_fault_of_agents_is_told_with_its_line(tmp_path: Path) -> None:
    content = """\
agents:
  - endpoint: http://127.0.0.1:9001
  - endpoint: ftp://127.0.0.1
  - {python: "eyes:agent", port: 3}
  - {endpoint: "http://127.0.0.1", max_concurrent_tasks: many}
  - 5
"""
    path = written(tmp_path, "a.yaml", content)
    with pytest.raises(InvalidAgent) as refused:
        read_agents(path)
    assert [fault.place for fault in refused.value.faults] == [
        f"{path}:3 /agents/1/endpoint",
        f"{path}:4 /agents/2/port",
        f"{path}:5 /agents/3/max_concurrent_tasks",
        f"{path}:6 /agents/4",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("- endpoint: http://127.0.0.1:9001", "must hold a list under 'agents'"),
        ("agents: {}", "must hold a list under 'agents'"),
        ("agents: []", "must list 1 to"),
        ("agents: [{endpoint: 'http://127.0.0.1'}]\ncolour: red", "has 'colour' beside 'agents'"),
    ],
)
def test_agents_file_without_its_list_is_refused(tmp_path: Path, content: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        read_agents(written(tmp_path, "a.yaml", content))


def test_file_that_is_not_there_is_told_so_whatever_its_ending(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nope cannot be read: no such file or directory"):
        read_document(tmp_path / "nope")
