"""Agents files: lists of agents, for a chain that runs here (`aicp chain run`) and for a server (`aicp serve`)."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from aicp.errors import Fault, InvalidAgent, InvalidInput, SettingsError
from aicp.model.access import TENANT_PATTERN
from aicp.model.agent import DEFAULT_TENANT, AgentAuth, AgentProfile, Capability, Registration
from aicp.model.endpoint import Endpoint
from aicp.model.validation import FAULTS_MAX, type_fault
from aicp.private_files import is_no_file
from aicp.registry.directory import Directory
from aicp.registry.schemas import Schemas
from aicp.runtime.bearers import bearer_in_file, bearer_in_variable, sound_bearer
from aicp.runtime.documents import Document, read_document
from aicp.runtime.files import placed

AGENTS_MAX = 10_000
READABLE_BY_OTHERS = 0o077
T = TypeVar("T")


class Bearer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the bearer is that AICP shows to an agent; one of the three.

    Attributes:
        bearer: It stands in the file itself; for a server that file must be its owner's alone (mode 0600).
        bearer_file: In this file, alone; relative to the agents file.
        bearer_env: In this variable of the environment.
    """

    bearer: str | None = None
    bearer_file: str | None = None
    bearer_env: str | None = None

    def __repr__(self) -> str:
        return "Bearer('***')"


class FileAgent(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An agent of an agents file that runs in its own process; what is left out comes from its `/describe`.

    Attributes:
        endpoint: Its base URL.
        agent_id: See `AgentProfile`; likewise those without a word here.
        instance_id: Changes with every start of its process.
        name: What people call it.
        auth: Where the bearer is that AICP shows it.
        capabilities: What it can do.
        max_concurrent_tasks: Its slots.
        labels: Free key-value pairs.
        shared: True when it serves every tenant.
        tenant: Whose tasks it serves.
        lease: Ignored: agents of a file send no heartbeats.
    """

    endpoint: str
    agent_id: str | None = None
    instance_id: str | None = None
    name: str = ""
    auth: Bearer | None = None
    capabilities: tuple[Capability, ...] | None = None
    max_concurrent_tasks: int | None = None
    labels: dict[str, str] = {}
    shared: bool = False
    tenant: str = DEFAULT_TENANT
    lease: bool = False


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


class StaticAgent(msgspec.Struct, frozen=True):
    """An agent that a file says is there.

    Attributes:
        registration: What the file says of it, with its bearer.
        tenant: Whose tasks it serves.
    """

    registration: Registration
    tenant: str

    @property
    def key(self) -> str:
        """What tells it from the others of the file, and from itself after a change: its id, else its URL."""
        return self.registration.agent_id or self.registration.endpoint


def read_agents(path: Path) -> list[AgentEntry]:
    """The agents in a JSON, YAML or TOML file, a list under `agents`; each is a registration or a `PythonAgent`.

    Raises:
        SettingsError: The file cannot be read, or has no list of agents.
        InvalidAgent: An entry cannot be used; every fault has its file and line.
    """
    document = read_document(path)
    return _each(document, _entries(document, 1), lambda entry, place: _agent(entry, place, path))


def read_static_agents(path: Path) -> dict[str, StaticAgent]:
    """The agents in a JSON, YAML or TOML file for a server, by key: a list under `agents`; it may be empty.

    Raises:
        SettingsError: The file cannot be read, or has no list of agents.
        InvalidAgent: An entry cannot be used, or two are the same; every fault has its file and line.
    """
    if is_no_file(path):
        raise SettingsError(f"{path} is no file that can be read again and again.")
    document = read_document(path)

    def static_agent(entry: Any, place: str) -> StaticAgent:
        agent = _file_agent(entry, place)
        _refuse_open_secret(agent, place, path)
        registration = _registration(agent, place, path)
        _check_what_is_said(registration, place)
        return StaticAgent(registration, agent.tenant)

    agents = _each(document, _entries(document, 0), static_agent)
    if faults := list(islice(_repetitions(agents), FAULTS_MAX)):
        raise InvalidAgent(placed(faults, document))
    return {agent.key: agent for agent in agents}


def named_bearer_files(path: Path) -> list[Path]:
    """The token files that an agents file names, whether it can be used or not; none when it cannot even be read."""
    try:
        entries = _entries(read_document(path), 0)
    except SettingsError:
        return []
    told = (entry["auth"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("auth"), dict))
    return [path.parent / name for auth in told if isinstance(name := auth.get("bearer_file"), str)]


def _each(document: Document, entries: Sequence[Any], read: Callable[[Any, str], T]) -> list[T]:
    """What `read` makes of each entry and its place; every fault at once, at most 1,000."""
    faults: list[Fault] = []
    agents: list[T] = []
    for index, entry in enumerate(entries):
        if len(faults) >= FAULTS_MAX:
            break
        try:
            agents.append(read(entry, f"/agents/{index}"))
        except InvalidInput as error:
            faults.extend(error.faults)
    if faults:
        raise InvalidAgent(placed(faults[:FAULTS_MAX], document))
    return agents


def _entries(document: Document, at_least: int) -> list[Any]:
    value = document.value
    if not isinstance(value, dict) or not isinstance(value.get("agents"), list):
        raise SettingsError(f"{document.path} must hold a list under 'agents'.")
    if unknown := sorted(map(str, value.keys() - {"agents"})):
        raise SettingsError(f"{document.path} has '{unknown[0][:80]}' beside 'agents', which means nothing there.")
    entries: list[Any] = value["agents"]
    if not at_least <= len(entries) <= AGENTS_MAX:
        raise SettingsError(f"{document.path} must list {at_least} to {AGENTS_MAX} agents, not {len(entries)}.")
    return entries


def _agent(entry: Any, place: str, file: Path) -> AgentEntry:
    if isinstance(entry, dict) and "python" in entry:
        return _converted(entry, place, PythonAgent)
    return _registration(_file_agent(entry, place), place, file)


def _file_agent(entry: Any, place: str) -> FileAgent:
    if isinstance(entry, dict) and "python" in entry:
        told = "a server runs no agents of Python: start it with `aicp agent run`, and give its endpoint"
        raise InvalidAgent([Fault(f"{place}/python", told)])
    agent = _converted(entry, place, FileAgent)
    if not TENANT_PATTERN.fullmatch(agent.tenant):
        raise InvalidAgent(
            [Fault(f"{place}/tenant", "must be 1 to 64 of A-Z a-z 0-9 . _ - and begin with a letter or digit")]
        )
    return agent


def _converted(entry: Any, place: str, kind: type[T]) -> T:
    try:
        return msgspec.convert(entry, kind)
    except msgspec.ValidationError as error:
        raise InvalidAgent([type_fault(error, place)]) from None


def _registration(agent: FileAgent, place: str, file: Path) -> Registration:
    return Registration(
        Endpoint.parse(agent.endpoint, f"{place}/endpoint").url,
        agent.agent_id,
        agent.instance_id,
        agent.name,
        None if agent.auth is None else _auth(agent.auth, f"{place}/auth", file),
        agent.capabilities,
        agent.max_concurrent_tasks,
        agent.labels,
        agent.shared,
        lease=False,
    )


def _auth(told: Bearer, place: str, file: Path) -> AgentAuth:
    sources = [source for source in (told.bearer, told.bearer_file, told.bearer_env) if source is not None]
    if len(sources) != 1:
        raise InvalidAgent([Fault(place, "must have one of `bearer_file`, `bearer_env` and `bearer`")])
    try:
        if told.bearer_file is not None:
            return bearer_in_file(file.parent / told.bearer_file)
        if told.bearer_env is not None:
            return bearer_in_variable(told.bearer_env)
        return sound_bearer(sources[0], "The value of `bearer`")
    except SettingsError as error:
        raise InvalidAgent([Fault(place, error.message.rstrip("."))]) from None


def _refuse_open_secret(agent: FileAgent, place: str, file: Path) -> None:
    if agent.auth is not None and agent.auth.bearer is not None and file.stat().st_mode & READABLE_BY_OTHERS:
        told = f"is a secret in a file that others can read: use `bearer_file`, or run: chmod 600 {file}"
        raise InvalidAgent([Fault(f"{place}/auth/bearer", told)])


def _check_what_is_said(said: Registration, place: str) -> None:
    """Refuse what no directory takes, whatever the agent itself adds to it."""
    profile = AgentProfile(
        said.agent_id or "unknown",
        said.capabilities or (Capability("unknown"),),
        1 if said.max_concurrent_tasks is None else said.max_concurrent_tasks,
        instance_id=said.instance_id or "",
        name=said.name,
        labels=said.labels,
    )
    try:
        Directory(Schemas()).put(profile)
    except InvalidAgent as error:
        raise InvalidAgent([Fault(f"{place}{fault.place}", fault.message) for fault in error.faults]) from None


def _repetitions(agents: Sequence[StaticAgent]) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for index, agent in enumerate(agents):
        first = seen.setdefault(agent.key, index)
        if first != index:
            what = "id" if agent.registration.agent_id else "endpoint"
            yield Fault(f"/agents/{index}", f"has the {what} of /agents/{first}; give one another")
