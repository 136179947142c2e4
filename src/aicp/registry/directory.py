"""Who is registered: look-up by id, name and capability."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from aicp.errors import AgentNotFound, Fault, InvalidAgent
from aicp.model.agent import (
    AGENT_ID_PATTERN,
    ATTEMPT_TIMEOUT_S_MAX,
    CAPABILITIES_MAX,
    CAPABILITY_CHARS_MAX,
    CAPABILITY_PATTERN,
    NAME_CHARS_MAX,
    SCHEMAS_BYTES_MAX,
    SLOTS_MAX,
    AgentProfile,
    Capability,
    Schema,
)
from aicp.model.labels import label_faults
from aicp.model.text import why_not_plain
from aicp.registry.naming import VERSION_PATTERN, offered_key, wanted_key
from aicp.registry.schemas import Schemas, UnusableSchema

AGENTS_MAX = 1_000_000
NOT_CHECKED_MAX = 100
SCHEMA_FIELDS = ("input_schema", "output_schema")


class Directory:
    """The agents, each under its id. Look-ups cost O(1) and the size of the answer.

    Args:
        schemas: Compiles what agents declare.
    """

    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas
        self._agents: dict[str, AgentProfile] = {}
        self._by_key: dict[str, dict[str, None]] = {}

    def put(self, profile: AgentProfile) -> AgentProfile | None:
        """Register an agent, or replace the one with its id, which is returned.

        Raises:
            InvalidAgent: With every fault and its place; nothing was changed.
        """
        if faults := list(self._faults(profile)):
            raise InvalidAgent(faults)
        old = self._agents.get(profile.agent_id)
        if old is not None:
            self._forget_keys(old)
        self._agents[profile.agent_id] = profile
        for key in map(offered_key, profile.capabilities):
            self._by_key.setdefault(key, {})[profile.agent_id] = None
        return old

    def compile_next(self, profile: AgentProfile) -> Iterator[None]:
        """Compile the schemas of an agent ahead of `put`, one a step; `put` reports those that cannot be used."""
        for schema in _schemas_of(profile):
            with suppress(UnusableSchema):
                self._schemas.compile(schema)
            yield

    def not_checked(self, profile: AgentProfile) -> list[Fault]:
        """Keywords of its schemas that are not checked, each with its place and the reason."""
        return [
            Fault(f"/capabilities/{index}/{field}{each.place}", each.message)
            for index, capability in enumerate(profile.capabilities)
            for field in SCHEMA_FIELDS
            if (schema := getattr(capability, field)) is not None
            for each in self._schemas.compile(schema).left_out
        ][:NOT_CHECKED_MAX]

    def remove(self, agent_id: str) -> AgentProfile:
        """Forget an agent.

        Raises:
            AgentNotFound: Nobody has this id.
        """
        profile = self.get(agent_id)
        del self._agents[agent_id]
        self._forget_keys(profile)
        return profile

    def get(self, agent_id: str) -> AgentProfile:
        """The agent with this id.

        Raises:
            AgentNotFound: Nobody has it.
        """
        profile = self._agents.get(agent_id)
        if profile is None:
            raise no_agent(agent_id)
        return profile

    def find(self, agent_id: str) -> AgentProfile | None:
        """The agent with this id, or None."""
        return self._agents.get(agent_id)

    def search(self, capability: str) -> list[AgentProfile]:
        """Everybody who offers `name` or `name@major`, in the order they registered."""
        return [self._agents[agent_id] for agent_id in self._by_key.get(wanted_key(capability), ())]

    def offered(self) -> list[str]:
        """The keys of every capability on offer now."""
        return sorted(self._by_key)

    def __iter__(self) -> Iterator[AgentProfile]:
        return iter(self._agents.values())

    def __len__(self) -> int:
        return len(self._agents)

    def __contains__(self, agent_id: str) -> bool:
        return agent_id in self._agents

    def _forget_keys(self, profile: AgentProfile) -> None:
        for key in map(offered_key, profile.capabilities):
            del self._by_key[key][profile.agent_id]
            if not self._by_key[key]:
                del self._by_key[key]

    def _faults(self, profile: AgentProfile) -> Iterator[Fault]:
        if not AGENT_ID_PATTERN.fullmatch(profile.agent_id):
            yield Fault("/agent_id", "must be 1 to 128 of A-Z a-z 0-9 . _ - and begin with a letter or digit")
        elif profile.agent_id not in self._agents and len(self._agents) >= AGENTS_MAX:
            yield Fault("/agent_id", f"{AGENTS_MAX} agents are registered; remove some first")
        if not 1 <= profile.max_concurrent_tasks <= SLOTS_MAX:
            yield Fault("/max_concurrent_tasks", f"must be 1 to {SLOTS_MAX}, not {profile.max_concurrent_tasks}")
        if not 1 <= len(profile.capabilities) <= CAPABILITIES_MAX:
            yield Fault("/capabilities", f"must be 1 to {CAPABILITIES_MAX}, not {len(profile.capabilities)}")
        for field, text in (("name", profile.name), ("instance_id", profile.instance_id)):
            if told := why_no_name(text):
                yield Fault(f"/{field}", told)
        yield from label_faults(profile.labels, "/labels")
        for index, capability in enumerate(profile.capabilities[: CAPABILITIES_MAX + 1]):
            yield from self._capability_faults(capability, f"/capabilities/{index}")
        yield from _repetition_faults(profile.capabilities)
        yield from self._size_faults(profile)

    def _size_faults(self, profile: AgentProfile) -> Iterator[Fault]:
        size = 0
        for schema in _schemas_of(profile):
            with suppress(UnusableSchema):
                size += self._schemas.compile(schema).size
        if size > SCHEMAS_BYTES_MAX:
            told = f"have schemas of {size} bytes together; at most {SCHEMAS_BYTES_MAX} are allowed"
            yield Fault("/capabilities", told)

    def _capability_faults(self, capability: Capability, place: str) -> Iterator[Fault]:
        if len(capability.name) > CAPABILITY_CHARS_MAX or not CAPABILITY_PATTERN.fullmatch(capability.name):
            yield Fault(f"{place}/name", f"'{capability.name[:80]}' must be a dotted name like image.label")
        if not VERSION_PATTERN.fullmatch(capability.version):
            yield Fault(f"{place}/version", f"'{capability.version[:80]}' must be a version like 1.0")
        timeout_s = capability.timeout_s
        if timeout_s is not None and not (math.isfinite(timeout_s) and 0 < timeout_s <= ATTEMPT_TIMEOUT_S_MAX):
            yield Fault(f"{place}/timeout_s", f"must be more than 0 and at most {ATTEMPT_TIMEOUT_S_MAX:.0f} seconds")
        for field in SCHEMA_FIELDS:
            schema = getattr(capability, field)
            try:
                if schema is not None:
                    self._schemas.compile(schema)
            except UnusableSchema as error:
                yield Fault(f"{place}/{field}", str(error))


def is_wanted(profile: AgentProfile, name: str = "", labels: Mapping[str, str] | None = None) -> bool:
    """True when an agent is called `name`, if one is said, and carries all of `labels`; without a name its id is it."""
    has_name = not name or (profile.name or profile.agent_id) == name
    return has_name and (not labels or labels.items() <= profile.labels.items())


def no_agent(agent_id: str) -> AgentNotFound:
    """What to raise for an agent that is not there, or not for whoever asks."""
    return AgentNotFound(f"There is no agent '{agent_id[:128]}'.")


def why_no_name(text: str) -> str:
    """What is wrong with the name of an agent, or the id of an instance of it; empty when nothing is."""
    return f"is longer than {NAME_CHARS_MAX} characters" if len(text) > NAME_CHARS_MAX else why_not_plain(text)


def _repetition_faults(capabilities: Sequence[Capability]) -> Iterator[Fault]:
    seen: set[str] = set()
    for index, capability in enumerate(capabilities[: CAPABILITIES_MAX + 1]):
        if VERSION_PATTERN.fullmatch(capability.version):
            key = offered_key(capability)
            if key in seen:
                yield Fault(f"/capabilities/{index}", f"'{capability.name[:80]}' of this major is offered twice")
            seen.add(key)


def _schemas_of(profile: AgentProfile) -> Iterator[Schema]:
    for capability in profile.capabilities[: CAPABILITIES_MAX + 1]:
        for field in SCHEMA_FIELDS:
            if (schema := getattr(capability, field)) is not None:
                yield schema
