"""Chain files and agents files: what they hold, checked, with every fault told by file and line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from aicp.errors import Fault, InvalidAgent, InvalidChain, InvalidInput, SettingsError
from aicp.model.agent import Registration
from aicp.model.chain import ChainSpec
from aicp.model.endpoint import Endpoint
from aicp.model.validation import check_chain, parse_chain, type_fault
from aicp.runtime.documents import Document, read_document

AGENTS_MAX = 10_000


class PythonAgent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An agent of an agents file that is an `aicp.agent.Agent` of this Python.

    Attributes:
        python: Where it is, `module:attribute`.
        max_concurrent_tasks: Its slots; None for what it says itself.
        labels: Added to those it has.
    """

    python: str
    max_concurrent_tasks: int | None = None
    labels: dict[str, str] = {}


AgentEntry = Registration | PythonAgent


def read_chain(path: Path) -> ChainSpec:
    """The chain in a JSON, YAML or TOML file, checked whole.

    Raises:
        SettingsError: The file cannot be read.
        InvalidChain: It holds no usable chain; every fault has its file and line.
    """
    document = read_document(path)
    try:
        return check_chain(parse_chain(document.value)).spec
    except InvalidChain as error:
        raise InvalidChain(_placed(error.faults, document)) from None


def read_agents(path: Path) -> list[AgentEntry]:
    """The agents in a JSON, YAML or TOML file, a list under `agents`; each is a registration or a `PythonAgent`.

    Raises:
        SettingsError: The file cannot be read, or has no list of agents.
        InvalidAgent: An entry cannot be used; every fault has its file and line.
    """
    document = read_document(path)
    entries = _entries(document)
    faults: list[Fault] = []
    agents: list[AgentEntry] = []
    for index, entry in enumerate(entries):
        try:
            agents.append(_agent(entry, f"/agents/{index}"))
        except InvalidInput as error:
            faults.extend(error.faults)
    if faults:
        raise InvalidAgent(_placed(faults, document))
    return agents


def _entries(document: Document) -> list[Any]:
    value = document.value
    if not isinstance(value, dict) or not isinstance(value.get("agents"), list):
        raise SettingsError(f"{document.path} must hold a list under 'agents'.")
    if unknown := sorted(map(str, value.keys() - {"agents"})):
        raise SettingsError(f"{document.path} has '{unknown[0][:80]}' beside 'agents', which means nothing there.")
    entries: list[Any] = value["agents"]
    if not 1 <= len(entries) <= AGENTS_MAX:
        raise SettingsError(f"{document.path} must list 1 to {AGENTS_MAX} agents, not {len(entries)}.")
    return entries


def _agent(entry: Any, place: str) -> AgentEntry:
    try:
        if isinstance(entry, dict) and "python" in entry:
            return msgspec.convert(entry, PythonAgent)
        registration = msgspec.convert(entry, Registration)
    except msgspec.ValidationError as error:
        raise InvalidAgent([type_fault(error, place)]) from None
    endpoint = Endpoint.parse(registration.endpoint, f"{place}/endpoint")
    return msgspec.structs.replace(registration, endpoint=endpoint.url)


def _placed(faults: Sequence[Fault], document: Document) -> list[Fault]:
    """The same faults, told as a compiler would: `chain.yaml:12 /tasks/2/params`."""
    lines = document.lines()
    return [Fault(_place(fault.place, document.path, lines), fault.message) for fault in faults]


def _place(pointer: str, path: Path, lines: Mapping[str, int]) -> str:
    around = pointer
    while around and around not in lines:
        around = around.rpartition("/")[0]
    line = f":{lines[around]}" if around in lines else ""
    return f"{path}{line} {pointer}".rstrip()
